//! The Wikipedia day through a topic of eight partitions: what an independent engine answered, in every situation and
//! through crashes of both sides.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use std::io::{BufRead, BufReader};

use crate::broker::{Broker, produce};
use crate::harness::data_set::{WIKITICKER, definitions, shared};
use crate::harness::platform::Platform;

const TOPIC: &str = "wikipedia-edits";
const PARTITIONS: u32 = 8;
const KILLS: usize = 50;

/// The data set's definitions, over a topic.
fn over_topic(address: &str) -> Result<String> {
    let sql = fs::read_to_string(definitions().join("wikiticker.sql"))?;
    let (columns, rest) = sql.split_once(") WITH (").context("the source has no options")?;
    let (_, views) = rest.split_once(";").context("the source has no end")?;
    Ok(format!("{columns}) WITH (connector = 'kafka', brokers = '{address}', topic = '{TOPIC}');{views}"))
}

fn events() -> Result<Vec<String>> {
    let file = fs::File::open(shared("data").join(WIKITICKER.file))?;
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines().collect::<Result<Vec<_>, _>>()?;
    ensure!(lines.len() == WIKITICKER.rows);
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_answered_right_in_all_situations() -> Result<()> {
    let Some(oracles) = WIKITICKER.oracles()? else { return Ok(()) };
    let broker = Broker::start()?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    let producer = broker.producer(None)?;
    let events = events()?;
    let (first, second) = events.split_at(WIKITICKER.first_rows);
    let mut platform = Platform::start_with(WIKITICKER.name, &over_topic(&broker.address)?, "")?;

    produce(&producer, TOPIC, PARTITIONS, first)?;
    platform.expect(&broker.end(TOPIC, PARTITIONS)?);
    ensure!(edits(&platform).await? == WIKITICKER.first_rows.to_string());
    platform.batch_run_of_every_view().await?;
    broker.kill()?;
    ensure!(edits(&platform).await? == WIKITICKER.first_rows.to_string(), "without a broker");
    broker.restart()?;
    produce(&producer, TOPIC, PARTITIONS, second)?;
    platform.expect(&broker.end(TOPIC, PARTITIONS)?);
    platform.check("batch run midway, the broker restarted", oracles.at_the_end()).await?;
    platform.restart()?;
    platform.check("batch run midway, after a restart", oracles.at_the_end()).await?;
    platform.kill_and_restart()?;
    platform.check("batch run midway, after a crash", oracles.at_the_end()).await?;
    platform.batch_run_of_every_view().await?;
    platform.check("all in batch views", oracles.at_the_end()).await?;
    platform.restart()?;
    platform.check("all in batch views, after a restart", oracles.at_the_end()).await?;
    platform.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_answered_right_all_realtime() -> Result<()> {
    let Some(oracles) = WIKITICKER.oracles()? else { return Ok(()) };
    let broker = Broker::start()?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    produce(&broker.producer(None)?, TOPIC, PARTITIONS, events()?)?;
    let mut platform = Platform::start_with(WIKITICKER.name, &over_topic(&broker.address)?, "")?;
    platform.expect(&broker.end(TOPIC, PARTITIONS)?);
    platform.check("all realtime, everything in the topic before the start", oracles.at_the_end()).await?;
    platform.stop()
}

/// Number of edits that answers show.
async fn edits(platform: &Platform) -> Result<String> {
    let answer = platform.ask("SELECT sum(n) AS n FROM edits_by_hour").await?;
    Ok(answer.rows[0][0].to_string())
}

/// The platform is killed while records come, and once the broker.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_lose_and_double_nothing() -> Result<()> {
    let Some(oracles) = WIKITICKER.oracles()? else { return Ok(()) };
    let broker = Broker::start()?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    let settings = "[history]\ncommit_interval = \"200ms\"\n";
    let mut platform = Platform::start_with(WIKITICKER.name, &over_topic(&broker.address)?, settings)?;
    let events = events()?;
    let killed = AtomicBool::new(false);
    let produced = std::thread::scope(|scope| -> Result<()> {
        let producing = scope.spawn(|| -> Result<()> {
            let producer = broker.producer(None)?;
            let chunk = events.len().div_ceil(4 * KILLS);
            for values in events.chunks(chunk) {
                produce(&producer, TOPIC, PARTITIONS, values)?;
                if !killed.load(Ordering::Relaxed) {
                    // The pace of the records: they must come during all of the kills.
                    std::thread::sleep(Duration::from_millis(400));
                }
            }
            Ok(())
        });
        for kill in 0..KILLS {
            // Each kill hits another moment after the start.
            std::thread::sleep(Duration::from_millis(17 * kill as u64 % 400));
            platform.kill_and_restart()?;
            if kill == KILLS / 2 {
                broker.kill()?;
                broker.restart()?;
            }
        }
        killed.store(true, Ordering::Relaxed);
        producing.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?
    });
    produced?;
    platform.expect(&broker.end(TOPIC, PARTITIONS)?);
    platform.check("after fifty crashes", oracles.at_the_end()).await?;
    platform.batch_run_of_every_view().await?;
    platform.check("after fifty crashes and a batch run", oracles.at_the_end()).await?;
    platform.stop()
}

/// A second platform on the same topic and the same store, as a mistake in a deployment makes one: both answer right, and
/// the history that they share has every event once.
#[tokio::test(flavor = "multi_thread")]
async fn two_platforms_on_one_topic_share_one_history() -> Result<()> {
    let Some(oracles) = WIKITICKER.oracles()? else { return Ok(()) };
    let broker = Broker::start()?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    let store = tempfile::tempdir()?;
    let settings =
        format!("store = {:?}\n[history]\ncommit_interval = \"200ms\"\n", store.path().display().to_string());
    let sql = over_topic(&broker.address)?;
    let mut first = Platform::start_with(WIKITICKER.name, &sql, &settings)?;
    let mut second = Platform::start_with(WIKITICKER.name, &sql, &settings)?;
    let producer = broker.producer(None)?;
    for values in events()?.chunks(4_000) {
        produce(&producer, TOPIC, PARTITIONS, values)?;
    }
    for platform in [&mut first, &mut second] {
        platform.expect(&broker.end(TOPIC, PARTITIONS)?);
        platform.check("one of two", oracles.at_the_end()).await?;
    }
    second.stop()?;
    first.batch_run_of_every_view().await?;
    first.check("the other has stopped", oracles.at_the_end()).await?;
    first.stop()
}
