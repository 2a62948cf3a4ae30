//! A topic's logs on librdkafka's mock cluster; what that cannot do (transactions, retention, crashes) is shown on a real
//! broker in `tests/kafka`.

use std::sync::Mutex;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::super::conformance::{self, LogFactory};
use super::super::{AppendLog, Appended, Receipt};
use super::*;
use crate::definition::{Statement, parse_definitions};
use crate::event::timestamp_type;
use crate::sink::Records;
use crate::source::Connector;

const P0: PartitionId = PartitionId(0);
const TIMEOUT: Duration = Duration::from_secs(30);

/// A producer to a cluster without brokers' processes, which it owns.
struct Cluster {
    producer: BaseProducer,
}

impl Cluster {
    fn start() -> Cluster {
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1").set("linger.ms", "0");
        Cluster { producer: config.create().unwrap_or_else(|error| panic!("{error}")) }
    }

    fn mock(&self) -> MockCluster<'_, DefaultProducerContext> {
        self.producer.client().mock_cluster().unwrap_or_else(|| panic!("no mock cluster"))
    }

    fn create_topic(&self, name: &str, partitions: u32) {
        self.mock().create_topic(name, partitions as i32, 1).unwrap_or_else(|error| panic!("{error}"));
    }

    fn send(&self, topic: &str, partition: PartitionId, time_ms: i64, value: &[u8]) {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition.0 as i32).timestamp(time_ms);
        self.producer.send(record.payload(value)).unwrap_or_else(|(error, _)| panic!("{error}"));
    }

    fn flush(&self) {
        self.producer.flush(TIMEOUT).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The source of a definition, whose brokers are this cluster's.
    fn source(&self, sql: &str) -> Result<SourceDefinition> {
        let sql = sql.replace("BROKERS", &self.mock().bootstrap_servers());
        match parse_definitions(&sql)?.pop() {
            Some(Statement::Source(source)) => Ok(source),
            other => panic!("no source: {other:?}"),
        }
    }
}

fn options(source: &SourceDefinition) -> &Arc<KafkaOptions> {
    match &source.connector {
        Connector::Kafka(options) => options,
        other => panic!("no Kafka source: {other:?}"),
    }
}

fn open(source: &SourceDefinition) -> Result<KafkaTopic> {
    KafkaTopic::open(source, options(source), RecordSchemas::default(), 1 << 20)
}

/// Opens a topic and reads it from its beginning.
async fn begin(source: &SourceDefinition) -> Result<(KafkaLog, KafkaLog)> {
    let topic = open(source)?;
    let beginning = topic.beginning().await?;
    let (events, dead_letters) = (topic.events(), topic.dead_letters());
    events.begin_at(&beginning).await?;
    dead_letters.begin_at(&beginning).await?;
    Ok((events, dead_letters))
}

/// A log that is written as any producer would, for the suite.
#[derive(Debug)]
struct ProducedLog {
    log: KafkaLog,
    topic: String,
    cluster: Arc<Cluster>,
    end: Mutex<Position>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mock().bootstrap_servers())
    }
}

struct ProducedLogs {
    cluster: Arc<Cluster>,
}

#[async_trait]
impl LogFactory for ProducedLogs {
    async fn create(&self, source: &SourceDefinition) -> Result<Arc<dyn AppendLog>> {
        self.cluster.create_topic(&source.name, source.partitions);
        let sql = format!(
            "CREATE SOURCE \"{0}\" (value BIGINT) WITH (connector = 'kafka', brokers = 'BROKERS', topic = '{0}')",
            source.name
        );
        let (log, _) = begin(&self.cluster.source(&sql)?).await?;
        let (topic, end) = (source.name.clone(), Mutex::new(Position::beginning(source.partitions)));
        Ok(Arc::new(ProducedLog { log, topic, cluster: Arc::clone(&self.cluster), end }))
    }

    async fn reopen(&self, _: &SourceDefinition, _: Arc<dyn AppendLog>) -> Result<Option<Arc<dyn AppendLog>>> {
        // What a crash leaves is the broker's business.
        Ok(None)
    }
}

#[async_trait]
impl Log for ProducedLog {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.log.end()
    }

    fn start(&self) -> Position {
        self.log.start()
    }

    async fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Result<Vec<LogBatch>> {
        self.log.read(partition, from, rows_max).await
    }

    async fn trim(&self, before: &Position) -> Result<()> {
        self.log.trim(before).await
    }
}

#[async_trait]
impl AppendLog for ProducedLog {
    async fn append(&self, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Result<Position> {
        let mut written = Position::beginning(self.partitions());
        for (partition, batch) in batches {
            for value in batch.column(0).as_primitive::<Int64Type>().values() {
                let json = format!("{{\"value\": {value}}}");
                self.cluster.send(&self.topic, partition, ingested_at_us / 1000, json.as_bytes());
                let mut end = self.end.lock().unwrap_or_else(|error| error.into_inner());
                let next = end.get(partition).advance(1);
                end.raise(partition, next);
                written.raise(partition, next);
            }
        }
        self.cluster.flush();
        let mut end = self.end();
        let reached = end.wait_for(|end| end.covers(&written)).await.map(|_| ());
        reached.unwrap_or_else(|_| panic!("the log has ended"));
        Ok(written)
    }

    async fn append_once(&self, _: i64, _: Vec<(PartitionId, RecordBatch)>, _: Receipt) -> Result<Appended> {
        panic!("receipts are no part of reading")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_keeps_the_rules_of_reading() -> Result<()> {
    conformance::check_reading(&ProducedLogs { cluster: Arc::new(Cluster::start()) }).await
}

/// All events of a partition as they come, up to an offset.
async fn read_to(log: &KafkaLog, partition: PartitionId, end: u64) -> Result<Vec<LogBatch>> {
    let mut ends = log.end();
    assert!(ends.wait_for(|position| position.get(partition) >= Offset(end)).await.is_ok());
    let mut batches = Vec::new();
    let mut from = log.start().get(partition);
    while from < Offset(end) {
        let read = log.read(partition, from, 1000).await?;
        from = read.last().map_or(Offset(end), |batch| batch.range.end());
        batches.extend(read);
    }
    Ok(batches)
}

fn texts(batches: &[LogBatch], column: &str) -> Vec<Option<String>> {
    let texts = |batch: &LogBatch| {
        let array = batch.events.column_by_name(column).cloned();
        let array = array.unwrap_or_else(|| panic!("no column {column}"));
        let texts = array.as_string::<i32>();
        (0..texts.len()).map(|row| texts.is_valid(row).then(|| texts.value(row).to_owned())).collect::<Vec<_>>()
    };
    batches.iter().flat_map(texts).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_records_become_dead_letters_and_their_neighbours_events() -> Result<()> {
    let cluster = Cluster::start();
    cluster.create_topic("mixed", 1);
    for value in [b"{\"n\": 1}".as_slice(), b"{\"n\": ", b"{\"n\": 3}", b"\xff\xfe", b"{\"n\": \"x\"}", b"{\"n\": 6}"] {
        cluster.send("mixed", P0, 1_000, value);
    }
    let no_value = BaseRecord::<[u8], [u8]>::to("mixed").partition(0).key(b"gone".as_slice());
    cluster.producer.send(no_value).unwrap_or_else(|(error, _)| panic!("{error}"));
    cluster.flush();
    let source = cluster.source(
        "CREATE SOURCE mixed (n BIGINT NOT NULL) WITH (connector = 'kafka', brokers = 'BROKERS', topic = 'mixed')",
    )?;
    let (events, dead_letters) = begin(&source).await?;
    let good = read_to(&events, P0, 7).await?;
    let schema = &source.event_schema;
    let rows = good.iter().map(|batch| batch.with_system_columns(schema)).collect::<Result<Vec<_>>>()?;
    let rows = arrow::compute::concat_batches(schema, &rows)?;
    let column = |name: &str| rows[name].as_primitive::<Int64Type>().values().to_vec();
    assert_eq!((column("n"), column("_offset")), (vec![1, 3, 6], vec![0, 2, 5]));

    let bad = read_to(&dead_letters, P0, 7).await?;
    let reasons = texts(&bad, "reason");
    assert_eq!(reasons.len(), 4);
    assert!(reasons[3].as_deref().is_some_and(|reason| reason.contains("no value")), "{reasons:?}");
    assert_eq!(texts(&bad, "column")[2].as_deref(), Some("n"));
    assert_eq!(texts(&bad, "value"), [Some("{\"n\": ".into()), None, Some("{\"n\": \"x\"}".into()), None]);
    assert_eq!(texts(&bad, "value_base64"), [None, Some("//4=".into()), None, None]);
    assert_eq!(texts(&bad, "key")[3].as_deref(), Some("gone"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_record_has_besides_its_value_can_be_columns() -> Result<()> {
    let cluster = Cluster::start();
    cluster.create_topic("annotated", 2);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("first") })
        .insert(Header { key: "trace", value: Some("last") })
        .insert(Header { key: "empty", value: None::<&str> });
    let record =
        BaseRecord::to("annotated").partition(1).timestamp(1_234).key("k").payload("{\"n\": 5}").headers(headers);
    cluster.producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
    let not_text = BaseRecord::to("annotated").partition(1).key(b"\xff".as_slice()).payload(b"{\"n\": 6}".as_slice());
    cluster.producer.send(not_text).unwrap_or_else(|(error, _)| panic!("{error}"));
    cluster.flush();
    let source = cluster.source(
        "CREATE SOURCE annotated (part INT METADATA FROM 'partition', n BIGINT, \"key\" TEXT METADATA, at BIGINT METADATA FROM 'offset',
         time TIMESTAMP METADATA FROM 'timestamp', trace TEXT METADATA FROM 'header.trace', topic TEXT METADATA,
         headers STRUCT<key TEXT, value TEXT>[] METADATA)
         WITH (connector = 'kafka', brokers = 'BROKERS', topic = 'annotated')",
    )?;
    let (events, dead_letters) = begin(&source).await?;
    let read = read_to(&events, PartitionId(1), 2).await?;
    let rows: usize = read.iter().map(|batch| batch.events.num_rows()).sum();
    assert_eq!(rows, 1);
    let row = arrow::util::pretty::pretty_format_batches(&read.iter().map(|b| b.events.clone()).collect::<Vec<_>>())?;
    let row = row.to_string();
    let headers = "[{key: trace, value: first}, {key: trace, value: last}, {key: empty, value: }]";
    for value in ["| 1    | 5 | k   | 0  | 1970-01-01T00:00:01.234Z | last  | annotated |", headers] {
        assert!(row.contains(value), "{row}");
    }
    assert_eq!(texts(&read_to(&dead_letters, PartitionId(1), 2).await?, "column"), [Some("key".to_owned())]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_left_memory_are_read_again() -> Result<()> {
    let cluster = Cluster::start();
    cluster.create_topic("long", 1);
    let text = "x".repeat(1000);
    for n in 0..5_000 {
        cluster.send("long", P0, n, format!("{{\"n\": {n}, \"text\": \"{text}\"}}").as_bytes());
    }
    cluster.flush();
    let source = cluster.source(
        "CREATE SOURCE long (n BIGINT, text TEXT) WITH (connector = 'kafka', brokers = 'BROKERS', topic = 'long')",
    )?;
    let (events, dead_letters) = begin(&source).await?;
    let numbers = |batches: &[LogBatch]| -> Vec<i64> {
        batches.iter().flat_map(|batch| batch.events.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    };
    // Reading on makes room for the rest; nothing is read further ahead than may be in memory.
    let mut all = Vec::new();
    while all.len() < 5_000 {
        let from = Offset(all.len() as u64);
        let mut end = events.end();
        assert!(end.wait_for(|end| end.get(P0) > from).await.is_ok());
        assert!(events.side().bytes_ahead() <= (1 << 20) + (8 << 20), "one batch more than its share at most");
        all.extend(numbers(&events.read(P0, from, 100).await?));
        // The other log has a reader too, without whom it would fill up with offsets that are not its own.
        dead_letters.side().given(P0, Offset(5_000));
    }
    assert_eq!(all, Vec::from_iter(0..5_000));
    assert!(events.side().read(P0, Offset(0), 1).is_none(), "the first have left memory");
    let again = events.read(P0, Offset(17), 100).await?;
    assert_eq!(numbers(&again), Vec::from_iter(17..117));
    assert_eq!(again[0].range, OffsetRange::new(Offset(17), Offset(117)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_bad_records_stop_a_partition_until_it_is_resumed() -> Result<()> {
    let cluster = Cluster::start();
    cluster.create_topic("poisoned", 1);
    let source = cluster.source(
        "CREATE SOURCE poisoned (n BIGINT)
         WITH (connector = 'kafka', brokers = 'BROKERS', topic = 'poisoned', max_bad_ratio = 0.01)",
    )?;
    let topic = open(&source)?;
    let (events, dead_letters) = (topic.events(), topic.dead_letters());
    events.begin_at(&Position::beginning(1)).await?;
    dead_letters.begin_at(&Position::beginning(1)).await?;
    for n in 0..20 {
        cluster.send("poisoned", P0, n, b"no json");
    }
    cluster.flush();
    read_to(&dead_letters, P0, 11).await?;
    while events.troubles().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(events.troubles()[0].contains("max_bad_ratio is 0.01"), "{:?}", events.troubles());
    for n in 0..3 {
        cluster.send("poisoned", P0, n, b"{\"n\": 1}");
    }
    cluster.flush();
    assert_eq!(topic.resume(Without::Nothing).await?, [(P0, None)]);
    let all = read_to(&events, P0, 23).await?;
    assert_eq!(all.iter().map(|batch| batch.events.num_rows()).sum::<usize>(), 3);
    Ok(())
}

#[test]
fn metadata_columns_have_the_types_of_what_they_hold() -> Result<()> {
    let cluster_free = |columns: &str| {
        let sql = format!("CREATE SOURCE s ({columns}) WITH (connector = 'kafka', brokers = 'b', topic = 't')");
        parse_definitions(&sql).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(cluster_free("k TEXT METADATA FROM 'key' NOT NULL, n BIGINT"), Ok(()));
    let refused = cluster_free("k BIGINT METADATA FROM 'key'");
    assert!(refused.is_err_and(|reason| reason.contains("column \"k\" is BIGINT, but what it holds is TEXT")));
    let refused = cluster_free("k BIGINT METADATA FROM 'size'");
    assert!(refused.is_err_and(|reason| reason.contains("a record has no 'size'")));
    let declared = Field::new("t", timestamp_type(), true);
    assert_eq!(declared.data_type(), &crate::definition::metadata_type(&crate::source::RecordMetadata::Timestamp));
    assert_eq!(crate::definition::metadata_type(&crate::source::RecordMetadata::Offset), DataType::Int64);
    Ok(())
}

/// What brokers refuse for good today, they may allow tomorrow.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_failed_for_good_is_replaced() -> Result<()> {
    let cluster = Cluster::start();
    cluster.create_topic("t", 1);
    let source = cluster.source(
        "CREATE SOURCE t (n BIGINT) WITH (connector = 'kafka', brokers = 'BROKERS', topic = 't', http_ingest = true)",
    )?;
    cluster.mock().request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let producer = TopicProducer::open(&source.name, options(&source))?;
    let write = async || {
        let mut records = Records::default();
        records.push(None::<fn(&mut Vec<u8>)>, Some(|out: &mut Vec<u8>| out.extend_from_slice(b"{}")));
        producer.write(records).await
    };
    let refused = write().await;
    let reason = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(
        reason.contains("authorization failed") && reason.contains("the next request has a new client"),
        "{reason}"
    );
    assert_eq!(write().await?.get(P0), Offset(1));
    Ok(())
}
