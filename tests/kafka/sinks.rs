//! Sinks over a real broker: what a consumer with another client finds in the topics, after kills of the platform at any
//! moment and with a second platform on the same sinks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::broker::{Broker, produce};
use crate::harness::platform::Platform;
use crate::kcat::{Shown, consume, consume_at};

const KILLS: usize = 50;
const EVENTS: usize = 20_000;
const PARTITIONS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(120);
const SETTINGS: &str = "[history]\ncommit_interval = \"200ms\"\n";

/// Views of every kind with a sink each, and a second one over a view whose groups come and go.
fn definitions(address: &str) -> String {
    let mut sql = format!(
        "CREATE SOURCE edits (id BIGINT NOT NULL, at TIMESTAMP NOT NULL, page TEXT, delta BIGINT NOT NULL,
           WATERMARK FOR at AS at - INTERVAL '1 minute')
         WITH (connector = 'kafka', brokers = '{address}', topic = 'edits');
         CREATE MATERIALIZED VIEW pages AS SELECT page, count(*) AS edits, sum(delta) AS delta FROM edits GROUP BY page;
         CREATE MATERIALIZED VIEW growing AS
           SELECT page, sum(delta) AS delta FROM edits GROUP BY page HAVING sum(delta) > 0;
         CREATE MATERIALIZED VIEW minutes AS
           SELECT window_start, page, count(*) AS edits, max(id) AS last FROM edits
           GROUP BY tumble(at, INTERVAL '1 minute'), page;
         CREATE MATERIALIZED VIEW large AS SELECT id, page, delta FROM edits WHERE delta > 40;
         CREATE MATERIALIZED VIEW total AS SELECT count(*) AS edits, sum(delta) AS delta FROM edits;"
    );
    for (view, mode) in
        [("pages", "update"), ("growing", "update"), ("minutes", "append"), ("large", "append"), ("total", "complete")]
    {
        let _ = write!(
            sql,
            "CREATE SINK {view}_changes FROM {view} INTO '{view}'
             WITH (brokers = '{address}', mode = '{mode}', trigger = '50 milliseconds');"
        );
    }
    sql
}

/// Edits of a few pages, some of them without a name; a second of event time has ten.
fn edits(ids: std::ops::Range<usize>) -> Vec<String> {
    let edit = |id: usize| {
        let (minute, second) = (id / 600, id / 10 % 60);
        let page = match id * 7919 % 23 {
            0 => "null".to_owned(),
            page => format!("\"page \\\"{page}\\\"\""),
        };
        let delta = (id * 104_729 % 101) as i64 - 50;
        let at = format!("2026-11-21T{:02}:{:02}:{second:02}Z", minute / 60, minute % 60);
        format!("{{\"id\": {id}, \"at\": \"{at}\", \"page\": {page}, \"delta\": {delta}}}")
    };
    ids.map(edit).collect()
}

#[derive(Debug, Deserialize)]
struct Sinks {
    sinks: Vec<Sink>,
}

#[derive(Debug, Clone, Deserialize)]
struct Sink {
    name: String,
    sent: Option<Vec<u64>>,
    closed_before: Option<String>,
    trouble: Option<String>,
}

async fn sinks(platform: &Platform) -> Result<BTreeMap<String, Sink>> {
    let Sinks { sinks } = platform.get("/v1/sinks").await?;
    Ok(sinks.into_iter().map(|sink| (sink.name.clone(), sink)).collect())
}

/// Waits until every sink stands for all of the topic's `events`.
async fn wait_for_all(platform: &Platform, events: usize) -> Result<()> {
    let started = Instant::now();
    loop {
        let sources: Value = platform.get("/v1/sources").await?;
        let source =
            sources["sources"].as_array().context("no sources")?.iter().find(|source| source["name"] == "edits");
        let source = source.context("no source")?;
        let sinks = sinks(platform).await?;
        let applied: u64 = source["applied"].as_array().into_iter().flatten().filter_map(Value::as_u64).sum();
        // The watermark's own minute is open.
        let minute = source["watermark"].as_str().and_then(|watermark| watermark.get(..16)).unwrap_or("no watermark");
        let is_done = |sink: &Sink| match &sink.closed_before {
            Some(closed) => closed.starts_with(minute),
            None => sink.sent.as_ref().is_some_and(|sent| sent.iter().sum::<u64>() == events as u64),
        };
        if applied == events as u64 && sinks.values().all(is_done) {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "after {events} events: {sinks:?}, source {source}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The rows of a query, as objects, sorted by their text.
fn rows(platform: &Platform, sql: &str) -> Result<Vec<Value>> {
    let printed = platform.command(&["sql", "--format", "jsonl", sql])?;
    let rows = printed.lines().filter(|line| line.starts_with('{'));
    sorted(rows.map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?)
}

fn sorted(mut rows: Vec<Value>) -> Result<Vec<Value>> {
    rows.sort_by_key(Value::to_string);
    Ok(rows)
}

/// What a consumer that keeps the last record of each key has.
fn last_by_key(records: &[Shown]) -> Result<Vec<Value>> {
    let mut last = BTreeMap::new();
    for record in records {
        let key = record.key.as_ref().context("a record without key")?.to_string();
        match &record.value {
            Some(value) => last.insert(key, value.clone()),
            None => last.remove(&key),
        };
    }
    sorted(last.into_values().collect())
}

fn values(records: &[Shown]) -> Result<Vec<Value>> {
    sorted(records.iter().map(|record| record.value.clone().context("a record without value")).collect::<Result<_>>()?)
}

/// Compares what is in the topics with what the platform answers.
async fn check(platform: &Platform, broker: &Broker, situation: &str) -> Result<()> {
    let same = |what: &str, sent: &[Value], asked: &[Value]| {
        let difference = sent.iter().zip(asked).find(|(sent, asked)| sent != asked);
        ensure!(
            sent == asked,
            "{situation}: {what}: {} sent, {} asked; first difference {difference:?}",
            sent.len(),
            asked.len()
        );
        Ok(())
    };
    for view in ["pages", "growing"] {
        let sent = last_by_key(&consume(broker, view)?)?;
        same(view, &sent, &rows(platform, &format!("SELECT * FROM {view}"))?)?;
    }
    let closed_before = sinks(platform).await?["minutes_changes"].closed_before.clone().context("nothing is closed")?;
    let closed = format!("SELECT * FROM minutes WHERE window_start < TIMESTAMP '{closed_before}'");
    same("closed windows", &values(&consume(broker, "minutes")?)?, &rows(platform, &closed)?)?;
    same("rows of events", &values(&consume(broker, "large")?)?, &rows(platform, "SELECT * FROM large")?)?;
    let totals = consume(broker, "total")?;
    let last = totals.last().and_then(|record| record.value.clone()).context("no total was sent")?;
    same("the whole view", &[last], &rows(platform, "SELECT * FROM total")?)
}

fn create_topics(broker: &Broker) -> Result<()> {
    broker.create_topic("edits", PARTITIONS)?;
    for topic in ["pages", "growing", "minutes", "large"] {
        broker.create_topic(topic, 3)?;
    }
    broker.create_topic("total", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_have_each_change_once_through_kills() -> Result<()> {
    let broker = Broker::start()?;
    create_topics(&broker)?;
    let mut platform = Platform::start_with("edits", &definitions(&broker.address), SETTINGS)?;
    let killed = AtomicBool::new(false);
    let produced = std::thread::scope(|scope| -> Result<()> {
        let producing = scope.spawn(|| -> Result<()> {
            let producer = broker.producer(None)?;
            for values in edits(0..EVENTS).chunks(EVENTS / (6 * KILLS)) {
                produce(&producer, "edits", PARTITIONS, values)?;
                if !killed.load(Ordering::Relaxed) {
                    // The pace of the records: they must come during all of the kills.
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            Ok(())
        });
        for kill in 0..KILLS {
            // Each kill hits another moment after the start: opening topics, catching up, the middle of a transaction.
            std::thread::sleep(Duration::from_millis(37 * kill as u64 % 900));
            platform.kill_and_restart()?;
        }
        killed.store(true, Ordering::Relaxed);
        producing.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?
    });
    produced?;
    wait_for_all(&platform, EVENTS).await?;
    check(&platform, &broker, "after fifty kills").await?;

    let topics = ["pages", "growing", "minutes", "large", "total"];
    let lengths = || topics.map(|topic| consume(&broker, topic).map(|records| records.len()).unwrap_or_default());
    let before = lengths();
    platform.restart()?;
    for view in topics {
        platform.command(&["batch", "run", view])?;
    }
    platform.kill_and_restart()?;
    wait_for_all(&platform, EVENTS).await?;
    ensure!(lengths() == before, "{before:?} records were sent, {:?} after restarts without events", lengths());
    produce(&broker.producer(None)?, "edits", PARTITIONS, edits(EVENTS..EVENTS + 1_200))?;
    wait_for_all(&platform, EVENTS + 1_200).await?;
    check(&platform, &broker, "after a batch run").await?;
    platform.stop()
}

/// Two platforms send the same sinks, as a mistake in a deployment makes them: the one that came later goes on, the other
/// says so, and no record comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_platforms_with_one_sink_the_later_one_sends() -> Result<()> {
    let broker = Broker::start()?;
    create_topics(&broker)?;
    let producer = broker.producer(None)?;
    let sql = definitions(&broker.address);
    // Into an empty topic and a running platform, much at once: the partitions' first events are not seen together.
    let mut first = Platform::start_with("edits", &sql, SETTINGS)?;
    produce(&producer, "edits", PARTITIONS, edits(0..6_000))?;
    wait_for_all(&first, 6_000).await?;
    check(&first, &broker, "one platform").await?;
    let mut second = Platform::start_with("edits", &sql, SETTINGS)?;
    wait_for_all(&second, 6_000).await?;
    produce(&producer, "edits", PARTITIONS, edits(6_000..12_000))?;
    wait_for_all(&second, 12_000).await?;
    let started = Instant::now();
    loop {
        let sinks = sinks(&first).await?;
        if sinks.values().all(|sink| sink.trouble.as_ref().is_some_and(|trouble| trouble.contains("another process"))) {
            break;
        }
        if started.elapsed() > PATIENCE {
            bail!("the first one does not know that it is fenced: {sinks:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    check(&second, &broker, "two platforms").await?;
    first.stop()?;
    second.stop()
}

/// `examples/edits-kafka` from the first edit to its result topics.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_sends_every_edit_to_its_result_topics() -> Result<()> {
    const EDITS: u64 = 1_000;
    let folder = tempfile::tempdir()?;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let pipeline = Command::new(root.join("examples/edits-kafka/pipeline"))
        .args(["--port", "free", "--edits", &EDITS.to_string(), "--data"])
        .arg(folder.path())
        .env("WATERSHED", env!("CARGO_BIN_EXE_watershed"))
        .env("WATERSHED_HTTP", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipeline = Pipeline(pipeline);
    let mut printed = BufReader::new(pipeline.0.stdout.take().context("no output")?).lines();
    let address = printed.next().context("it says nothing")??;
    let address = address.strip_prefix("broker: ").with_context(|| format!("it says {address:?}"))?.to_owned();
    let started = Instant::now();
    let is_done = || -> Result<bool> {
        let pages = last_by_key(&consume_at(&address, "pages")?)?;
        let edits: u64 = pages.iter().filter_map(|page| page["edits"].as_u64()).sum();
        let letters = consume_at(&address, "edits-dead-letters")?.len() as u64;
        let windows = values(&consume_at(&address, "edits-by-ten-seconds")?)?;
        Ok(edits == EDITS - EDITS / 500 && letters == EDITS / 500 && !windows.is_empty())
    };
    while !is_done().unwrap_or_default() {
        ensure!(started.elapsed() < PATIENCE, "not everything is in the topics");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    pipeline.stop()
}

/// The example's script, which ends with the test.
struct Pipeline(Child);

impl Pipeline {
    fn stop(&mut self) -> Result<()> {
        let id = self.0.id().to_string();
        let stopped = Command::new("kill").args(["-TERM", &id]).status()?;
        ensure!(stopped.success(), "the pipeline has ended by itself");
        // The script waits for Watershed, which the signal reaches through its process group in a terminal, and here by hand.
        Command::new("pkill").args(["-TERM", "-P", &id, "watershed"]).status()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None))
            && let Err(error) = self.stop()
        {
            println!("the pipeline may still run: {error:#}");
        }
    }
}
