//! What must hold after every crash, while no client is sending.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use watershed_shared::position::Position;
use watershed_shared::source::SourceDefinition;

use super::client::{Answer, Client};
use super::ledger::Ledger;
use super::process::{PATIENCE, Process};
use super::project::{ALL_EVENTS, views};
use super::{events, truth};

/// A platform to be checked, and what is known of it.
pub(super) struct Check<'a> {
    pub(super) client: &'a Client,
    pub(super) ledger: &'a Ledger,
    pub(super) source: &'a Arc<SourceDefinition>,
    /// Which definition the view that changes has.
    pub(super) variant: u64,
}

impl Check<'_> {
    /// Checks events, views and audits; returns how many answers were compared.
    pub(super) async fn all(&self) -> Result<u64> {
        self.wait_for_builds().await?;
        let position = self.client.end().await?.expected()?;
        let ids = self.accepted_ids(&position).await?;
        self.ledger.judge(ids.clone())?;
        let batch = events::to_batch(self.source, ids.into_iter())?;
        let mut compared = 0;
        for view in views(self.variant) {
            let answer = self.ask(&format!("SELECT * FROM {}", view.name), &position).await?;
            let truth = truth::one_pass(&view.definition(), self.source, &batch).await?;
            ensure_equal(to_rows(&answer.batches)?, to_rows(&truth)?)
                .with_context(|| format!("{} is not one pass over the accepted events", view.definition()))?;
            compared += 1;
        }
        self.audits().await?;
        Ok(compared)
    }

    /// Runs a batch run of every view by hand; each must be audited as equal.
    pub(super) async fn batch_run_of_every_view(&self) -> Result<()> {
        for view in views(self.variant) {
            self.client.batch_run(view.name).await?.expected()?;
        }
        for view in self.client.views().await?.expected()? {
            let outcome = view.last_audit.map(|audit| audit.outcome);
            ensure!(outcome.as_deref() == Some("equal"), "{}: the last audit says {outcome:?}", view.name);
        }
        Ok(())
    }

    /// A view whose definition has changed is built by itself; nobody has to do anything.
    async fn wait_for_builds(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let waiting = self.client.views().await?.expected()?;
            let stopped = waiting.iter().find(|view| view.state == "stopped");
            ensure!(stopped.is_none(), "view {} has stopped", stopped.map_or("", |view| &view.name));
            if waiting.iter().all(|view| view.state == "active" && view.building.is_none()) {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "a view is still being built after {PATIENCE:?}");
            self.audits().await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn accepted_ids(&self, position: &Position) -> Result<Vec<u64>> {
        let answer = self.ask(&format!("SELECT id FROM {ALL_EVENTS}"), position).await?;
        let ids = answer.batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        let ids: Vec<u64> = ids.map(|id| id as u64).collect();
        let offsets = position.events_since(&Position::default());
        if ids.len() as u64 != offsets {
            // The better message, where it has one.
            self.ledger.judge(ids.clone())?;
            bail!("the log gave {offsets} offsets, but {} events are there", ids.len());
        }
        Ok(ids)
    }

    async fn ask(&self, sql: &str, position: &Position) -> Result<Answer> {
        let answer = self.client.ask(sql, position).await.and_then(|outcome| outcome.expected());
        let answer = answer.with_context(|| sql.to_owned())?;
        let offsets: Vec<u64> = position.offsets().iter().map(|offset| offset.0).collect();
        ensure!(answer.offsets == offsets, "{sql} answers as of {:?}, not {offsets:?}", answer.offsets);
        Ok(answer)
    }

    /// No handoff has drifted and no batch run has failed.
    async fn audits(&self) -> Result<()> {
        for view in self.client.views().await?.expected()? {
            let Some(audit) = view.last_audit.filter(|audit| audit.outcome == "drift") else { continue };
            bail!("view {} has drifted: {:?}", view.name, audit.detail);
        }
        let runs = self.client.batch_runs().await?.expected()?;
        let failed = runs.iter().find(|run| !run["error"].is_null());
        ensure!(failed.is_none(), "a batch run has failed: {failed:?}");
        Ok(())
    }
}

/// What a crash may not leave for ever: objects half written, older than the process that has started since.
///
/// The folders of definitions that nobody uses any more are left alone by the platform too.
pub(super) fn ensure_tidy(home: &Path, process: &Process) -> Result<()> {
    let store = home.join("data/store");
    let mut left = Vec::new();
    for folder in ["history", "catalog"] {
        staged_before(&store.join(folder), process.started, &mut left)?;
    }
    ensure!(left.is_empty(), "a crash has left files that the start did not delete: {left:?}");
    Ok(())
}

fn staged_before(folder: &Path, time: SystemTime, left: &mut Vec<PathBuf>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if kind.is_dir() {
            staged_before(&path, time, left)?;
        } else if name.contains(".staged-") || name.contains('#') {
            // It may be gone by now: then it was of the process that runs.
            let old = path.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|written| written < time);
            left.extend(old.then_some(path));
        }
    }
    Ok(())
}

type Rows = Vec<Vec<String>>;

fn to_rows(batches: &[RecordBatch]) -> Result<Rows> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        rows.extend(
            (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()),
        );
    }
    rows.sort_unstable();
    Ok(rows)
}

fn ensure_equal(answer: Rows, truth: Rows) -> Result<()> {
    let missing = truth.iter().find(|row| answer.binary_search(row).is_err());
    let extra = answer.iter().find(|row| truth.binary_search(row).is_err());
    ensure!(
        answer == truth,
        "{} rows instead of {}; the first that is missing is {missing:?}, the first that should not be there {extra:?}",
        answer.len(),
        truth.len()
    );
    Ok(())
}
