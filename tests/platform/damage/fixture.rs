//! A small data folder with one of everything: a log in its journal and in a table, a history with a checkpoint and
//! commits after it, a batch view, a catalog.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;
use watershed::platform::{Platform, Ports};
use watershed_batch_layer::{History, Store};
use watershed_shared::config::Config;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::format::EventFormat;
use watershed_shared::position::{Position, PositionToken};

pub(super) const VIEW: &str = "per_key";
/// Reads every column and every group of the view.
pub(super) const QUESTION: &str =
    "SELECT count(*) AS groups, sum(events) AS events, sum(total) AS total, sum(length(newest)) AS length FROM per_key";
pub(super) const DEFINITIONS: &str = "\
CREATE SOURCE events (time TIMESTAMP NOT NULL, key BIGINT, value BIGINT, note TEXT)
WITH (connector = 'http', partitions = 2);
CREATE MATERIALIZED VIEW per_key AS
SELECT key, count(*) AS events, sum(value) AS total, max(note) AS newest FROM events GROUP BY key;
";

/// How many events are sent in each of the fixture's five steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows(pub(super) [usize; 5]);

impl Rows {
    /// So many that files have several blocks.
    pub(super) const MANY: Rows = Rows([12_000, 6_000, 6_000, 4_000, 1_000]);
    /// For samples that are kept.
    pub(super) const FEW: Rows = Rows([200, 100, 100, 60, 40]);
}

/// A data folder, and what a platform on it must answer.
pub(super) struct Fixture {
    folder: TempDir,
    position: PositionToken,
    answer: [i64; 4],
}

impl Fixture {
    pub(super) async fn create(rows: Rows) -> Result<Fixture> {
        let mut fixture = Fixture {
            folder: TempDir::new()?,
            position: PositionToken { source: "events".to_owned(), position: Position::beginning(2) },
            answer: [0; 4],
        };
        let [first, second, third, logged, in_journal] = rows.0;
        let platform = fixture.open().await?;
        fixture.send(&platform, first).await?;
        platform.archive("events").await?;
        platform.prepare_run(VIEW).await?.compute().await?.publish().await?;
        fixture.send(&platform, second).await?;
        platform.archive("events").await?;
        platform.stop().await;
        drop(platform);
        fixture.checkpoint().await?;
        let platform = fixture.open().await?;
        fixture.send(&platform, third).await?;
        platform.archive("events").await?;
        fixture.send(&platform, logged).await?;
        platform.stop().await;
        drop(platform);
        // Opening brings what is in RocksDB's journal into a table.
        let platform = fixture.open().await?;
        fixture.send(&platform, in_journal).await?;
        platform.stop().await;
        Ok(fixture)
    }

    /// A copy of a folder that is kept, with what was noted beside it.
    pub(super) fn kept(data: &Path, expected: &Value) -> Result<Fixture> {
        let folder = TempDir::new()?;
        copy_folder(data, folder.path())?;
        let position = expected["position"].as_str().context("no position")?.parse()?;
        Ok(Fixture { folder, position, answer: serde_json::from_value(expected["answer"].clone())? })
    }

    async fn open(&self) -> Result<Platform> {
        Ok(Platform::open(definitions()?, config(), Ports::open(&config(), self.path())?).await?)
    }

    async fn send(&mut self, platform: &Platform, rows: usize) -> Result<()> {
        let sent = self.answer[1];
        let mut random = StdRng::seed_from_u64(sent as u64);
        let mut body = String::new();
        for event in sent..sent + rows as i64 {
            let (value, note) = (random.random_range(0..1_000_000_000_000_i64), random.random_range(10_000..100_000));
            // Every key has one event.
            body.push_str(&format!(
                "{{\"time\": \"2026-11-20T10:00:00Z\", \"key\": {event}, \"value\": {value}, \"note\": \"n{note}\"}}\n"
            ));
            self.answer[2] += value;
        }
        self.answer[0] += rows as i64;
        self.answer[1] += rows as i64;
        self.answer[3] += 6 * rows as i64;
        let report = platform.accept("events", EventFormat::NdJson, Bytes::from(body)).await?;
        let token: PositionToken = report.position.parse()?;
        self.position.position.join(&token.position);
        // What is not applied is not archived by the next step.
        platform.query_engine().query(QUESTION, std::slice::from_ref(&self.position)).await?;
        Ok(())
    }

    async fn checkpoint(&self) -> Result<()> {
        let store = Store::open(&self.path().join("store").to_string_lossy())?;
        let Some(Statement::Source(source)) = definitions()?.into_iter().next() else { bail!("not a source") };
        Ok(History::open(&store, &source).await?.checkpoint().await?)
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder once more, to be damaged.
    pub(super) fn copy(&self) -> Result<TempDir> {
        let copy = TempDir::new()?;
        copy_folder(self.path(), copy.path())?;
        Ok(copy)
    }

    pub(super) fn position(&self) -> String {
        self.position.to_string()
    }

    pub(super) fn end(&self) -> Vec<u64> {
        self.position.position.offsets().iter().map(|offset| offset.0).collect()
    }

    pub(super) fn answer(&self) -> [i64; 4] {
        self.answer
    }
}

pub(super) fn definitions() -> Result<Vec<Statement>> {
    Ok(parse_definitions(DEFINITIONS)?)
}

/// Nothing happens but what a test does.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.history.commit_interval = Duration::from_secs(3600);
    config.query.position_timeout = Duration::from_secs(10);
    config.query.parallelism = 2;
    config.batch.parallelism = 2;
    config
}

/// The one row of an answer to [`QUESTION`].
pub(super) fn numbers(batches: &[RecordBatch]) -> Result<[i64; 4]> {
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).context("no row")?;
    let mut numbers = [0; 4];
    for (number, column) in numbers.iter_mut().zip(batch.columns()) {
        *number = cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().value(0);
    }
    Ok(numbers)
}

pub(super) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}
