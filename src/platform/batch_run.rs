//! A batch run's steps. Between any two of them events go on arriving and queries go on being answered.
//!
//! 1. [`Platform::prepare_run`]: cut and commit, so that a history version covers everything accepted so far. Its end is
//!    the run's boundary; the realtime view keeps a segment's end there until the run is over.
//! 2. [`PreparedRun::compute`]: states of all events of that version, in files that nobody reads yet.
//! 3. [`ComputedRun::publish`]: audit (what the view says below the boundary against the new states), one commit with
//!    files and boundary, then the switch: one pointer swap in the source's task, after which the segments below the
//!    boundary are gone.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::OwnedMutexGuard;
use watershed_batch_layer::audit::{Comparison, compare};
use watershed_batch_layer::run::full_recompute;
use watershed_batch_layer::{
    BatchView, DataFile, Error as BatchError, HistorySnapshot, NewBatchVersion, PublishOutcome,
};
use watershed_serving_layer::{AuditOutcome, AuditReport};
use watershed_shared::fault;
use watershed_shared::plan::{STATE_FORMAT_VERSION, StateParts};
use watershed_shared::position::{BatchVersion, Boundary};
use watershed_shared::telemetry::ViewLabel;

use super::live_view::LiveId;
use super::open::{active_definition, batch_part};
use super::source_task::Command;
use super::{Definition, Platform, Retired, ask, lock};
use crate::error::{Result, with_causes};

/// A batch run that knows what it will cover.
#[derive(Debug)]
pub struct PreparedRun {
    run: RunInProgress,
}

/// A batch run whose states are written.
#[derive(Debug)]
pub struct ComputedRun {
    run: RunInProgress,
    files: Vec<DataFile>,
}

#[derive(Debug)]
struct RunInProgress {
    platform: Platform,
    definition: Definition,
    history: HistorySnapshot,
    boundary: Boundary,
    /// Whether the segments still keep their ends for this run.
    pinned: bool,
    /// The view's runs come one after the other.
    _turn: OwnedMutexGuard<()>,
}

/// What a published run has made.
#[derive(Debug, Clone)]
pub struct PublishedRun {
    /// The new batch view's number.
    pub batch_version: BatchVersion,
    /// State rows in it.
    pub groups: u64,
    /// State files in it.
    pub files: usize,
    /// How the handoff went.
    pub audit: AuditReport,
}

impl Platform {
    /// Starts a full batch run of a view (of its new definition, if one is being built), after the view's run before.
    pub async fn prepare_run(&self, view: &str) -> Result<PreparedRun> {
        let turn = self.inner.with_view(view, |entry| Arc::clone(&entry.turn))?.lock_owned().await;
        let (source, definition) = self
            .inner
            .with_view(view, |entry| (entry.source.clone(), entry.building.clone().or_else(|| entry.active.clone())))?;
        let source = self.inner.source(&source)?;
        let definition = definition.ok_or(crate::error::Error::Stopping)?;
        let pin = Some(LiveId::of(&definition.plan));
        let target = source.accepted().await;
        let history = ask(&source.handle, |reply| Command::Archive { target, pin, reply }).await?;
        let boundary = Boundary(history.end().clone());
        let run = RunInProgress { platform: self.clone(), definition, history, boundary, pinned: true, _turn: turn };
        Ok(PreparedRun { run })
    }
}

impl PreparedRun {
    /// The history version that the run reads; its end is the run's boundary.
    pub fn history(&self) -> &HistorySnapshot {
        &self.run.history
    }

    /// Computes and writes the states.
    pub async fn compute(self) -> Result<ComputedRun> {
        let Definition { plan, store } = self.run.definition.clone();
        let (history, session) = (self.run.history.clone(), self.run.platform.inner.batch_session.clone());
        let pool = self.run.platform.inner.pool.clone();
        fault::point("batch.before_states");
        let files = pool.run(async move { full_recompute(&plan, &history, &store, &session).await }).await?;
        Ok(ComputedRun { run: self.run, files })
    }
}

impl ComputedRun {
    /// Audits the handoff, commits the batch view and switches to it.
    pub async fn publish(mut self) -> Result<PublishedRun> {
        fault::point("batch.after_states");
        let groups = self.files.iter().map(|file| file.rows).sum();
        let expected = self.run.definition.store.current();
        let next = BatchVersion(expected.as_ref().map_or(1, |current| current.version.0 + 1));
        let audit = match self.audit(next, groups).await {
            Ok(audit) => audit,
            // The new states come from the history and are the truth; what cannot be compared must not keep them back.
            Err(error) => skipped(next, format!("the audit failed: {}", with_causes(&error))),
        };

        let record = json!({
            "kind": "full",
            "history_version": self.run.history.version().0,
            "state_format_version": STATE_FORMAT_VERSION,
            "events": self.run.history.events(),
            "audit": audit,
        });
        let files = std::mem::take(&mut self.files);
        let new = NewBatchVersion::new(files, true, self.run.boundary.clone(), record);
        let store = &self.run.definition.store;
        fault::point("batch.before_publish");
        let (view, superseded) = match store.publish(&new, expected.map(|current| current.version)).await? {
            PublishOutcome::Published { view, superseded } => (view, superseded),
            PublishOutcome::Conflict { current } => return Err(self.conflict(next, current).into()),
        };
        fault::point("batch.after_publish");
        let published =
            PublishedRun { batch_version: view.version, groups, files: view.files.len(), audit: audit.clone() };
        self.run.switch_to(&view, superseded).await?;
        self.run.note(audit);
        Ok(published)
    }

    /// Compares what the view says below the boundary, before the handoff, with the new states.
    async fn audit(&self, batch_version: BatchVersion, groups: u64) -> Result<AuditReport> {
        let run = &self.run;
        let source = run.platform.inner.source(&run.definition.plan.source.name)?;
        let (id, boundary) = (LiveId::of(&run.definition.plan), run.boundary.clone());
        let before = ask(&source.handle, |reply| Command::PartsBelow { id, boundary, reply }).await?;
        let Some(before) = before else {
            return Ok(skipped(batch_version, "the definition had no answers before this batch view".to_owned()));
        };
        let files = run.definition.store.rows(self.files.clone());
        let after = StateParts { batch: Some((Arc::new(files), groups as usize)), ..StateParts::default() };
        let (plan, session) = (Arc::clone(&run.definition.plan), run.platform.inner.batch_session.clone());
        let pool = &run.platform.inner.pool;
        let comparison = pool.run(async move { compare(&plan, before, after, &session).await }).await?;
        Ok(report(batch_version, comparison))
    }

    fn conflict(&self, wanted: BatchVersion, current: Option<BatchView>) -> BatchError {
        BatchError::Conflict {
            action: "publish a batch version of",
            table: self.run.definition.plan.name.clone(),
            expected: format!("to publish version {wanted}"),
            found: current.map_or("no version".to_owned(), |current| format!("version {}", current.version)),
        }
    }
}

fn skipped(batch_version: BatchVersion, reason: String) -> AuditReport {
    AuditReport {
        batch_version: batch_version.0,
        outcome: AuditOutcome::Skipped,
        groups_compared: 0,
        groups_different: 0,
        detail: Some(reason),
    }
}

fn report(batch_version: BatchVersion, comparison: Comparison) -> AuditReport {
    AuditReport {
        batch_version: batch_version.0,
        outcome: if comparison.groups_different == 0 { AuditOutcome::Equal } else { AuditOutcome::Drift },
        groups_compared: comparison.groups_compared,
        groups_different: comparison.groups_different,
        detail: comparison.first_difference,
    }
}

impl RunInProgress {
    /// Makes the published batch view the one that answers.
    async fn switch_to(&mut self, view: &BatchView, superseded: Vec<object_store::path::Path>) -> Result<()> {
        let inner = &self.platform.inner;
        let plan = &self.definition.plan;
        let built = inner.with_view(&plan.name, |entry| {
            entry.building.as_ref().is_some_and(|building| building.plan.id == plan.id)
        })?;
        if built {
            // Before the switch: a restart in between finds the published batch view and answers by it.
            inner.catalog.lock().await.activate(&plan.name, active_definition(&self.definition)).await?;
            fault::point("batch.after_activate");
        }
        let source = inner.source(&plan.source.name)?;
        let (id, batch, boundary) = (LiveId::of(plan), batch_part(view), self.boundary.clone());
        let switched = ask(&source.handle, |reply| Command::Publish { id, batch, boundary, reply }).await?;
        let retired = switched.ok_or_else(|| crate::error::Error::Overtaken { view: plan.name.clone() })?;
        self.pinned = false;
        fault::point("batch.after_switch");
        if built {
            inner.with_view(&plan.name, |entry| entry.active = entry.building.take())?;
        }
        let store = self.definition.store.clone();
        // The batch view of a replaced definition has files of its own, which stay in its folder.
        let retired = retired.into_iter().filter(|_| !built).map(|part| Retired {
            part,
            files: superseded.clone(),
            store: store.clone(),
        });
        lock(&inner.retired).extend(retired);
        self.platform.sweep().await;
        if let Err(error) = self.definition.store.checkpoint_if_due().await {
            let error = crate::error::with_causes(&error);
            tracing::warn!(view = plan.name, error, "cannot checkpoint the batch views; trying again later");
        }
        Ok(())
    }

    fn note(&self, audit: AuditReport) {
        let name = &self.definition.plan.name;
        if audit.outcome == AuditOutcome::Drift {
            tracing::error!(
                view = name,
                batch_version = audit.batch_version,
                groups_different = audit.groups_different,
                detail = audit.detail,
                "batch and realtime disagreed at the handoff; the batch view answers now"
            );
            let label = ViewLabel { view: name.clone() };
            self.platform.inner.metrics.audit_drift_groups.get_or_create(&label).inc_by(audit.groups_different);
        }
        // A view that has been dropped meanwhile needs no note.
        let _ = self.platform.inner.with_view(name, |entry| entry.last_audit = Some(audit));
    }
}

impl Drop for RunInProgress {
    fn drop(&mut self) {
        if !self.pinned {
            return;
        }
        let Ok(source) = self.platform.inner.source(&self.definition.plan.source.name) else { return };
        let command = Command::Abandon { id: LiveId::of(&self.definition.plan), boundary: self.boundary.clone() };
        let commands = source.handle.commands.clone();
        // A full inbox is waited for elsewhere: a drop cannot wait, and segments must not stay divided for ever.
        if let Err(error) = commands.try_send(command)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { commands.send(error.into_inner()).await });
        }
    }
}
