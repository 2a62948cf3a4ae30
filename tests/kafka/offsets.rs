//! Offsets that hold no event, and offsets that are gone.

use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::producer::Producer as _;
use serde::Deserialize;
use serde_json::Value;
use watershed_shared::position::{Offset, Position};

use crate::broker::{Broker, TIMEOUT, produce};
use crate::harness::platform::Platform;

const SETTINGS: &str = "[history]\ncommit_interval = \"200ms\"\n";

/// A source of numbers over topic `t`, with a view of their count and sum.
fn numbers(address: &str, options: &str) -> String {
    format!(
        "CREATE SOURCE numbers (n BIGINT NOT NULL) WITH (connector = 'kafka', brokers = '{address}', topic = 't'{options});
         CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS events, sum(n) AS n FROM numbers;"
    )
}

fn records(numbers: std::ops::Range<i64>) -> impl Iterator<Item = String> {
    numbers.map(|n| format!("{{\"n\": {n}}}"))
}

/// `events,n` of the view, as of everything that was expected.
async fn totals(platform: &Platform) -> Result<String> {
    let answer = platform.ask("SELECT events, n FROM totals").await?;
    Ok(answer.rows.iter().flatten().map(Value::to_string).collect::<Vec<_>>().join(","))
}

#[derive(Deserialize)]
struct Sources {
    sources: Vec<Source>,
}

#[derive(Deserialize)]
struct Source {
    name: String,
    #[serde(default)]
    troubles: Vec<String>,
    #[serde(default)]
    gaps: Vec<Value>,
    applied: Vec<u64>,
}

async fn source(platform: &Platform) -> Result<Source> {
    let Sources { sources } = platform.get("/v1/sources").await?;
    sources.into_iter().find(|source| source.name == "numbers").ok_or_else(|| anyhow::anyhow!("no source"))
}

/// Waits until the source is as `is` wants.
async fn wait_for(platform: &Platform, what: &str, is: impl Fn(&Source) -> bool) -> Result<Source> {
    let started = std::time::Instant::now();
    loop {
        let found = source(platform).await?;
        if is(&found) {
            return Ok(found);
        }
        let (troubles, applied) = (found.troubles, found.applied);
        ensure!(started.elapsed() < TIMEOUT, "{what}: {troubles:?}, applied {applied:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_are_not_seen_and_markers_do_not_hold_up_batch_runs() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("t", 2)?;
    let mut platform = Platform::start_with("numbers", &numbers(&broker.address, ""), SETTINGS)?;
    let producer = broker.producer(Some("tests"))?;
    for (values, commits) in [(0..10, true), (100..200, false), (10..20, true), (200..300, false)] {
        producer.begin_transaction()?;
        produce(&producer, "t", 2, records(values))?;
        match commits {
            true => producer.commit_transaction(TIMEOUT)?,
            false => producer.abort_transaction(TIMEOUT)?,
        }
    }
    // Ten records of two transactions, fifty of two others, and four markers in each partition.
    let end = broker.end("t", 2)?;
    ensure!(end == Position::new(vec![Offset(10 + 100 + 4); 2]), "{end}");
    platform.expect(&end);
    // A batch run covers all of the topic, although nothing comes after the last marker to say so.
    platform.batch_run_of_every_view().await?;
    ensure!(totals(&platform).await? == "20,190");
    // The group has the history's offsets, for tools that show lag; nothing reads them.
    let started = std::time::Instant::now();
    loop {
        let group = broker.command("groups", &["--describe", "--group", "watershed-numbers"])?;
        let lags = group.lines().filter(|line| line.contains(" t ")).filter(|line| line.contains(" 114 "));
        if lags.count() == 2 {
            break;
        }
        ensure!(started.elapsed() < TIMEOUT, "{group}");
    }
    platform.kill_and_restart()?;
    ensure!(totals(&platform).await? == "20,190", "after a crash");
    platform.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_later_are_read_from_their_start() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("t", 1)?;
    let mut platform = Platform::start_with("numbers", &numbers(&broker.address, ", start = 'latest'"), SETTINGS)?;
    produce(&broker.producer(None)?, "t", 1, records(0..10))?;
    broker.command("topics", &["--alter", "--topic", "t", "--partitions", "3"])?;
    produce(&broker.producer(None)?, "t", 3, records(10..40))?;
    platform.expect(&broker.end("t", 3)?);
    wait_for(&platform, "three partitions", |source| source.applied.len() == 3).await?;
    ensure!(totals(&platform).await? == "40,780");
    platform.batch_run_of_every_view().await?;
    platform.kill_and_restart()?;
    produce(&broker.producer(None)?, "t", 3, records(40..46))?;
    platform.expect(&broker.end("t", 3)?);
    ensure!(totals(&platform).await? == "46,1035");
    platform.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_begins_where_it_is_told() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("t", 2)?;
    produce(&broker.producer(None)?, "t", 2, records(0..10))?;
    let mut platform = Platform::start_with("numbers", &numbers(&broker.address, ", start = 'latest'"), SETTINGS)?;
    // Nothing is read before the restart, which must not forget where the source began.
    platform.kill_and_restart()?;
    produce(&broker.producer(None)?, "t", 2, records(10..20))?;
    platform.expect(&broker.end("t", 2)?);
    ensure!(totals(&platform).await? == "10,145");
    platform.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_offsets_stop_a_partition_until_an_operator_skips_them() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("t", 2)?;
    let producer = broker.producer(None)?;
    produce(&producer, "t", 2, records(0..20))?;
    let mut platform = Platform::start_with("numbers", &numbers(&broker.address, ""), SETTINGS)?;
    platform.expect(&broker.end("t", 2)?);
    platform.batch_run_of_every_view().await?;
    platform.stop()?;
    // Retention takes five records of partition 0 that nobody has read.
    produce(&producer, "t", 2, records(20..40))?;
    broker.delete_records("t", 0, 15)?;
    platform.start_again()?;
    let stopped = wait_for(&platform, "a trouble", |source| !source.troubles.is_empty()).await?;
    let trouble = &stopped.troubles[0];
    ensure!(trouble.contains("partition 0 of topic \"t\"") && trouble.contains("offset 10"), "{trouble}");
    ensure!(trouble.contains("watershed source resume numbers --skip"), "{trouble}");
    let ready: Value = platform.get("/readyz").await?;
    ensure!(ready.to_string().contains("offset 10"), "{ready}");
    // The other partition goes on.
    wait_for(&platform, "partition 1", |source| source.applied == [10, 20]).await?;

    let refused = platform.command(&["source", "resume", "numbers"]).map_err(|error| error.to_string());
    ensure!(refused.as_ref().is_err_and(|reason| reason.contains("--skip")), "{refused:?}");
    let resumed = platform.command(&["source", "resume", "numbers", "--skip"])?;
    ensure!(resumed.contains("partition 0: resumed without offsets 10 to 14"), "{resumed}");
    platform.expect(&broker.end("t", 2)?);
    let expected: i64 = (0..40).sum::<i64>() - [20, 22, 24, 26, 28].iter().sum::<i64>();
    for situation in ["skipped", "after a batch run", "after a crash"] {
        let answer = platform.ask("SELECT events, n FROM totals").await?;
        ensure!(
            answer.rows[0].iter().map(Value::to_string).collect::<Vec<_>>() == ["35".to_owned(), expected.to_string()]
        );
        ensure!(!answer.complete, "{situation}: an answer that lacks events does not say so");
        let gap = serde_json::json!({"partition": 0, "start": 10, "end": 15});
        ensure!(source(&platform).await?.gaps == [gap], "{situation}");
        match situation {
            "skipped" => {
                let run = platform.command(&["batch", "run", "totals"])?;
                ensure!(!run.contains("drift"), "{run}");
            }
            _ => platform.kill_and_restart()?,
        }
    }
    platform.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_not_taken_for_the_old_one() -> Result<()> {
    for records_of_the_new_one in [5, 200] {
        let broker = Broker::start()?;
        broker.create_topic("t", 1)?;
        produce(&broker.producer(None)?, "t", 1, records(0..100))?;
        let mut platform = Platform::start_with("numbers", &numbers(&broker.address, ""), SETTINGS)?;
        platform.expect(&broker.end("t", 1)?);
        platform.batch_run_of_every_view().await?;
        platform.stop()?;
        broker.command("topics", &["--delete", "--topic", "t"])?;
        broker.create_topic("t", 1)?;
        produce(&broker.producer(None)?, "t", 1, records(1000..1000 + records_of_the_new_one))?;
        platform.start_again()?;
        let stopped = wait_for(&platform, "a trouble", |source| !source.troubles.is_empty()).await?;
        ensure!(stopped.troubles[0].contains("made anew"), "{:?}", stopped.troubles);
        ensure!(totals(&platform).await? == "100,4950", "{records_of_the_new_one}");
        let refused = platform.command(&["source", "resume", "numbers", "--skip"]).map_err(|error| error.to_string());
        ensure!(refused.as_ref().is_err_and(|reason| reason.contains("another name")), "{refused:?}");
        platform.stop()?;
    }
    Ok(())
}

/// The dead letters are behind the events when the topic loses what comes next for them: the history has the events, so nothing
/// of them is lost.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_whose_events_are_in_the_history_are_no_gap_in_it() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("t", 1)?;
    let mut platform = Platform::start_with("numbers", &numbers(&broker.address, ""), SETTINGS)?;
    let producer = broker.producer(None)?;
    let log = platform.folder.path().join("data/store/history/numbers__dead_letters/_delta_log");
    let commits = || -> Result<Vec<std::path::PathBuf>> {
        let mut files = std::fs::read_dir(&log)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        Ok(files)
    };
    for values in [0..10, 10..20] {
        let before = commits()?.len();
        produce(&producer, "t", 1, records(values))?;
        platform.expect(&broker.end("t", 1)?);
        let started = std::time::Instant::now();
        while commits()?.len() == before {
            ensure!(started.elapsed() < TIMEOUT, "the dead letters' history has not moved");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        platform.command(&["batch", "run", "totals"])?;
    }
    platform.stop()?;
    // As if their last commit had not come.
    std::fs::remove_file(commits()?.last().ok_or_else(|| anyhow::anyhow!("no commit"))?)?;
    broker.delete_records("t", 0, 20)?;
    platform.start_again()?;
    wait_for(&platform, "a halt", |source| !source.troubles.is_empty()).await?;
    ensure!(platform.command(&["source", "resume", "numbers"]).is_err(), "resumed unasked");
    let resumed = platform.command(&["source", "resume", "numbers", "--from-history"])?;
    ensure!(resumed.contains("resumed without offsets 10 to 19"), "{resumed}");
    produce(&producer, "t", 1, records(20..25))?;
    platform.expect(&broker.end("t", 1)?);
    let answer = platform.ask("SELECT events, n FROM totals").await?;
    ensure!(answer.complete, "the events' history has a gap");
    ensure!(totals(&platform).await? == "25,300");
    let letters = platform.ask("SELECT count(*) FROM numbers__dead_letters").await?;
    ensure!(!letters.complete, "nobody knows which of the lost records were dead letters");

    // What the history does not have is not gone on without like this.
    platform.stop()?;
    produce(&producer, "t", 1, records(25..40))?;
    broker.delete_records("t", 0, 35)?;
    platform.start_again()?;
    wait_for(&platform, "a second halt", |source| !source.troubles.is_empty()).await?;
    let refused = platform.command(&["source", "resume", "numbers", "--from-history"]);
    let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("history ends at offset 25") && refused.contains("--skip"), "{refused}");
    platform.stop()
}
