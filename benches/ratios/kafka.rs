//! Events from a topic until they are in every view and committed to the history; against a bare loop that consumes the same
//! records with librdkafka and decodes them with arrow-json. Then a burst of ten times the usual rate: how far the platform
//! falls behind, for how long, and what memory that takes. Needs a real broker, which it starts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::json::ReaderBuilder;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use watershed_shared::definition::Statement;
use watershed_shared::source::SourceDefinition;

use self::broker::{Broker, TIMEOUT};
use crate::flights::{self, Body, Running, SOURCE, VIEWS};
use crate::memory::Memory;
use crate::process::Process;
use crate::{Measurement, Sides};

#[expect(dead_code, reason = "tests do more to a broker")]
#[path = "../../tests/kafka/broker.rs"]
mod broker;

const PARTITIONS: u32 = 8;
const EVENTS: usize = 1_000_000;
const TURNS: usize = 4;
/// Numbers of views, and the names of what is measured of them.
const SIDES: [(usize, &str, &str); 3] = [
    (3, "3 views, visible", "3 views, visible and archived"),
    (1, "1 view, visible", "1 view, visible and archived"),
    (0, "no view, read", "no view, read and archived"),
];
/// Events a second, usually and in the burst.
const RATE: usize = 20_000;
const BURST_FACTOR: usize = 10;
const BURST_SECONDS: u64 = 5;

pub(crate) async fn run() -> Result<()> {
    let source = flights::source()?;
    let events = flights::events(&source)?;
    let bodies = flights::bodies(&events, 1)?;
    let bodies: Vec<Body> = bodies.iter().cycle().take(EVENTS).cloned().collect();
    let broker = Broker::start()?;
    fill(&broker, "flights", &bodies)?;
    println!("\nkafka: events a second from a topic, visible and in the history; ratio to the bare loop");
    let mut sides = Sides::default();
    for _ in 0..TURNS {
        sides.note("bare loop: librdkafka, arrow-json", bare(&source, &broker).await?);
        for (views, visible_in, archived_in) in SIDES {
            let [visible, archived] = platform(&broker, &VIEWS[..views]).await?;
            sides.note(visible_in, visible);
            sides.note(archived_in, archived);
        }
    }
    sides.print_rates();
    burst(&broker, &bodies).await
}

async fn bare(source: &SourceDefinition, broker: &Broker) -> Result<Measurement> {
    let (columns, address) = (Arc::clone(&source.columns), broker.address.clone());
    Measurement::of(EVENTS, async {
        let consume = move || -> Result<()> {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", address).set("group.id", "bare").set("enable.auto.commit", "false");
            // As the platform has it: by default a full queue rests for a second, and the loop would wait for records.
            config.set("fetch.queue.backoff.ms", "5").set("queued.min.messages", "1000000");
            let consumer: BaseConsumer = config.create()?;
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition_range("flights", 0, PARTITIONS as i32 - 1);
            partitions.set_all_offsets(Offset::Beginning)?;
            consumer.assign(&partitions)?;
            let mut decoder = ReaderBuilder::new(columns).with_batch_size(8192).build_decoder()?;
            let (mut records, mut rows) = (0, 0);
            while records < EVENTS {
                let record = consumer.poll(TIMEOUT).context("no record comes")??;
                decoder.decode(record.payload().unwrap_or_default())?;
                records += 1;
                if records % 8192 == 0 || records == EVENTS {
                    rows += decoder.flush()?.map_or(0, |batch| batch.num_rows());
                }
            }
            ensure!(rows == EVENTS, "decoded {rows} of {EVENTS} events");
            Ok(())
        };
        tokio::task::spawn_blocking(consume).await?
    })
    .await
}

/// From an empty folder until all events of the topic are in the views, and until they are in the history too.
async fn platform(broker: &Broker, views: &[&str]) -> Result<[Measurement; 2]> {
    let statements = over_topic(flights::definitions(views, "")?, broker, "flights")?;
    let (mut running, mut visible) = (None, None);
    let archived = Measurement::of(EVENTS, async {
        // It is open when its views have what the topic holds.
        let opened = async {
            running = Some(Running::open(statements).await?);
            Ok(())
        };
        visible = Some(Measurement::of(EVENTS, opened).await?);
        let running = running.as_ref().context("not open")?;
        running.archive().await?;
        let read = running.platform.archive(SOURCE).await?.events();
        ensure!(read == EVENTS as u64, "the history has {read} of {EVENTS} events");
        Ok(())
    });
    let archived = archived.await?;
    running.context("not open")?.platform.stop().await;
    Ok([visible.context("not open")?, archived])
}

/// The example's statements with its source over a topic.
fn over_topic(mut statements: Vec<Statement>, broker: &Broker, topic: &str) -> Result<Vec<Statement>> {
    for statement in &mut statements {
        if let Statement::Source(source) = statement {
            let sql = sql_over_topic(&source.sql, broker, topic)?;
            *statement = watershed_shared::definition::parse_definitions(&sql)?.pop().context("no source")?;
        }
    }
    Ok(statements)
}

fn sql_over_topic(sql: &str, broker: &Broker, topic: &str) -> Result<String> {
    let (columns, _) = sql.split_once(") WITH (").context("the example's source has no options")?;
    Ok(format!("{columns}) WITH (connector = 'kafka', brokers = '{}', topic = '{topic}');", broker.address))
}

/// The platform as a process of its own, at the usual rate, in a burst, and afterwards.
async fn burst(broker: &Broker, bodies: &[Body]) -> Result<()> {
    let folder = crate::folder()?;
    let statements = over_topic(flights::definitions(&VIEWS, "")?, broker, "burst")?;
    let sql = statements.iter().map(|statement| match statement {
        Statement::Source(source) => source.sql.as_str(),
        Statement::View(view) => view.sql.as_str(),
        Statement::Sink(sink) => sink.sql.as_str(),
    });
    std::fs::write(folder.path().join("watershed.toml"), "http = \"127.0.0.1:0\"\n")?;
    std::fs::write(folder.path().join("flights.sql"), sql.collect::<Vec<_>>().join(";\n"))?;
    broker.create_topic("burst", PARTITIONS)?;
    let mut process = Process::start(folder.path())?;
    let burst_rate = RATE * BURST_FACTOR;
    println!("  a burst of {burst_rate} events/s for {BURST_SECONDS} s after {RATE} events/s; the platform's process:");
    let producer = broker.producer(None)?;
    let mut next = bodies.iter().cycle();
    let (mut sent, mut peak_lag) = (0, 0);
    for (rate, seconds) in [(RATE, 5), (burst_rate, BURST_SECONDS)] {
        for _ in 0..seconds * 10 {
            let started = Instant::now();
            for body in next.by_ref().take(rate / 10) {
                send(&producer, "burst", body)?;
            }
            sent += rate as u64 / 10;
            peak_lag = peak_lag.max(sent - process.events_in("applied").await?);
            tokio::time::sleep(Duration::from_millis(100).saturating_sub(started.elapsed())).await;
        }
    }
    producer.flush(TIMEOUT)?;
    let ended = Instant::now();
    while process.events_in("applied").await? < sent {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let memory = Memory::of(&process.id().to_string())?;
    println!(
        "  at most {peak_lag} events behind, none {:.2} s after the last record; resident at most {:.0} MiB",
        ended.elapsed().as_secs_f64(),
        memory.peak
    );
    process.kill()
}

/// Queues an event's record for any partition.
fn send(producer: &BaseProducer, topic: &str, body: &Body) -> Result<()> {
    broker::send(producer, BaseRecord::<[u8], [u8]>::to(topic).payload(body.json.trim_ascii_end()))
}

fn fill(broker: &Broker, topic: &str, bodies: &[Body]) -> Result<()> {
    broker.create_topic(topic, PARTITIONS)?;
    let producer = broker.producer(None)?;
    for body in bodies {
        send(&producer, topic, body)?;
    }
    Ok(producer.flush(TIMEOUT)?)
}
