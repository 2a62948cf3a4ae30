//! Acceptance with real events: views over `../shared/data` answer what an independent engine answered.
//!
//! For each data set, `tests/oracles/<data set>.sql` defines the source and its views, and
//! `tests/oracles/<data set>/<oracle>.sql` is the query whose answer is compared with `../shared/oracles`. Two runs of
//! the real binary bring every data set through the situations in which an answer is made:
//!
//! 1. `realtime_then_batch`: everything ingested and no batch run; the same after a crash; after a batch run that
//!    covers everything; after another restart.
//! 2. `batch_midway`: a part ingested, a batch run, the rest ingested, so that answers join both layers; the same after
//!    a restart; after a second batch run.
//!
//! After every batch run each view's audit must say that the handoff was equal. Every answer must report exactly the
//! offsets that were ingested and the boundary of the situation, so a situation cannot pass as another one.

mod answer;
mod data_set;
mod platform;

use std::fs;

use anyhow::{Result, ensure};

use self::data_set::{AIRLINE_STATS, DataSet, FLIGHTS3M, GITHUB_EVENTS, NYCFLIGHTS13, WIKITICKER, definitions, shared};
use self::platform::Platform;

macro_rules! both_runs {
    ($($module:ident: $data_set:expr;)*) => {$(
        mod $module {
            #[tokio::test]
            async fn realtime_then_batch_equals_the_oracles() -> anyhow::Result<()> {
                super::realtime_then_batch(&$data_set).await
            }

            #[tokio::test]
            async fn batch_midway_equals_the_oracles() -> anyhow::Result<()> {
                super::batch_midway(&$data_set).await
            }
        }
    )*};
}

both_runs! {
    wikiticker: super::WIKITICKER;
    nycflights13: super::NYCFLIGHTS13;
    flights3m: super::FLIGHTS3M;
    airline_stats: super::AIRLINE_STATS;
    github_events: super::GITHUB_EVENTS;
}

async fn realtime_then_batch(data_set: &DataSet) -> Result<()> {
    let Some(oracles) = data_set.oracles()? else { return Ok(()) };
    let mut platform = Platform::start(data_set)?;
    platform.ingest(&shared("data").join(data_set.file), data_set.rows)?;
    platform.check("all realtime", oracles.at_the_end()).await?;
    platform.kill_and_restart()?;
    platform.check("all realtime, after a crash", oracles.at_the_end()).await?;
    platform.batch_run_of_every_view().await?;
    platform.check("a batch run at the end", oracles.at_the_end()).await?;
    platform.restart()?;
    platform.check("a batch run at the end, after a restart", oracles.at_the_end()).await?;
    platform.stop()
}

async fn batch_midway(data_set: &DataSet) -> Result<()> {
    let Some(oracles) = data_set.oracles()? else { return Ok(()) };
    let mut platform = Platform::start(data_set)?;
    let [first, second] = data_set.split(platform.folder.path())?;
    platform.ingest(&first, data_set.first_rows)?;
    platform.check("a part, all realtime", oracles.midway()).await?;
    platform.batch_run_of_every_view().await?;
    platform.check("a part, all in batch views", oracles.midway()).await?;
    platform.ingest(&second, data_set.rows)?;
    platform.check("batch run midway", oracles.at_the_end()).await?;
    platform.restart()?;
    platform.check("batch run midway, after a restart", oracles.at_the_end()).await?;
    platform.batch_run_of_every_view().await?;
    platform.check("a second batch run at the end", oracles.at_the_end()).await?;
    platform.stop()
}

#[test]
fn every_oracle_is_asked_or_its_absence_explained() -> Result<()> {
    let readme = fs::read_to_string(definitions().join("README.md"))?;
    for data_set in [WIKITICKER, NYCFLIGHTS13, FLIGHTS3M, AIRLINE_STATS, GITHUB_EVENTS] {
        let Some(oracles) = data_set.oracles()? else { return Ok(()) };
        for name in data_set.manifest()?.views.iter().map(|view| &view.name) {
            let asked = oracles.0.iter().any(|oracle| oracle.name == *name);
            ensure!(asked || readme.contains(name), "{name} has no query and tests/oracles/README.md does not say why");
        }
    }
    Ok(())
}
