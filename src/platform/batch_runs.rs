//! Which batch runs there are and were, and when the next is due.

use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::sync::oneshot;
use watershed_serving_layer::{BatchFailures, BatchRun, BatchRunKind, BatchRunState, BatchRunTrigger};
use watershed_shared::position::BatchVersion;
use watershed_shared::snapshot::ViewSnapshot;
use watershed_shared::telemetry::ViewLabel;
use watershed_shared::time::{instant, iso_timestamp, now, now_us, sleep};

use super::batch_run::PublishedRun;
use super::{Platform, Schedules, lock};
use crate::error::{Error, Result, with_causes};

/// Runs that the listing remembers.
const RUNS_MAX: usize = 200;
/// How often the schedules are looked at; cron's own resolution is a second.
const SCHEDULE_TICK: Duration = Duration::from_millis(250);

/// The runs of this process.
#[derive(Debug, Default)]
pub(super) struct BatchRuns {
    /// Newest first, and the number of the next.
    runs: Mutex<(VecDeque<BatchRun>, u64)>,
}

impl BatchRuns {
    pub(super) fn list(&self) -> Vec<BatchRun> {
        lock(&self.runs).0.iter().cloned().collect()
    }

    pub(super) fn get(&self, id: u64) -> Option<BatchRun> {
        lock(&self.runs).0.iter().find(|run| run.id == id).cloned()
    }

    /// How many runs of a view have failed since the last one that succeeded, and why the newest did.
    pub(super) fn failures(&self, view: &str) -> Option<BatchFailures> {
        let runs = lock(&self.runs);
        let ended = runs.0.iter().filter(|run| run.view == view && run.state != BatchRunState::Running);
        let mut failed = ended.take_while(|run| run.state == BatchRunState::Failed);
        let error = failed.next()?.error.clone().unwrap_or_default();
        Some(BatchFailures { count: 1 + failed.count(), error })
    }

    fn is_running(&self, view: &str) -> bool {
        lock(&self.runs).0.iter().any(|run| run.view == view && run.state == BatchRunState::Running)
    }

    fn begin(&self, view: &str, trigger: BatchRunTrigger) -> u64 {
        let mut runs = lock(&self.runs);
        runs.1 += 1;
        let id = runs.1;
        runs.0.push_front(BatchRun {
            id,
            view: view.to_owned(),
            kind: BatchRunKind::Full,
            state: BatchRunState::Running,
            trigger,
            started_at: now_text(),
            ended_at: None,
            batch_version: None,
            history_version: None,
            boundary: Vec::new(),
            events: 0,
            groups: 0,
            files: 0,
            error: None,
            audit: None,
        });
        runs.0.truncate(RUNS_MAX);
        id
    }

    fn update(&self, id: u64, change: impl FnOnce(&mut BatchRun)) {
        if let Some(run) = lock(&self.runs).0.iter_mut().find(|run| run.id == id) {
            change(run);
        }
    }
}

impl Platform {
    /// Starts a full batch run in a task of its own; gives its number, and word when it has ended.
    pub(super) fn spawn_run(&self, view: &str, trigger: BatchRunTrigger) -> Result<(u64, oneshot::Receiver<()>)> {
        self.inner.with_view(view, |_| ())?;
        let id = self.inner.runs.begin(view, trigger);
        let (platform, view) = (self.clone(), view.to_owned());
        let (ended, end) = oneshot::channel();
        let mut tasks = lock(&self.inner.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            platform.run_to_its_end(id, &view).await;
            // Nobody may be waiting.
            let _ = ended.send(());
        });
        Ok((id, end))
    }

    async fn run_to_its_end(&self, id: u64, view: &str) {
        let started = instant();
        let label = ViewLabel { view: view.to_owned() };
        let outcome = AssertUnwindSafe(self.run(id, view)).catch_unwind().await;
        let outcome = outcome.unwrap_or(Err(Error::Panicked { what: "the batch run" }));
        self.inner.runs.update(id, |run| {
            run.ended_at = Some(now_text());
            match &outcome {
                Ok(published) => {
                    run.state = BatchRunState::Succeeded;
                    run.batch_version = Some(published.batch_version.0);
                    run.groups = published.groups;
                    run.files = published.files;
                    run.audit = Some(published.audit.clone());
                }
                Err(error) => {
                    run.state = BatchRunState::Failed;
                    run.error = Some(with_causes(error));
                }
            }
        });
        match outcome {
            Ok(published) => {
                self.inner
                    .metrics
                    .batch_run_duration
                    .get_or_create(&label)
                    .observe((instant() - started).as_secs_f64());
                tracing::info!(
                    view,
                    batch_version = published.batch_version.0,
                    groups = published.groups,
                    "published batch view"
                );
            }
            Err(Error::Stopping) => tracing::info!(view, "batch run left off, as the platform stops"),
            Err(error) => {
                self.inner.metrics.batch_run_failures.get_or_create(&label).inc();
                tracing::error!(view, error = with_causes(&error), "batch run failed; the view answers as before");
            }
        }
    }

    async fn run(&self, id: u64, view: &str) -> Result<PublishedRun> {
        let prepared = self.prepare_run(view).await?;
        let history = prepared.history();
        self.inner.runs.update(id, |run| {
            run.history_version = Some(history.version().0);
            run.boundary = history.end().offsets().iter().map(|offset| offset.0).collect();
            run.events = history.events();
        });
        prepared.compute().await?.publish().await
    }

    /// Starts the runs that are due, until the platform stops. A run that is due while the view's last one still runs is
    /// left out: the next one will cover what it would have. A batch view in which a query has met damage is replaced.
    pub(super) async fn run_schedules(self) {
        let mut looked_at = now();
        let mut replaced = HashSet::new();
        loop {
            sleep(SCHEDULE_TICK).await;
            let now = now();
            let due: Vec<String> = {
                let views = self.inner.views();
                let is_due = |schedules: &Schedules| schedules.next_after(looked_at).is_some_and(|next| next <= now);
                views.iter().filter(|(_, entry)| is_due(&entry.schedules)).map(|(name, _)| name.clone()).collect()
            };
            looked_at = now;
            for damaged in self.damaged_batch_views() {
                // Once each: a run that fails, or that finds the history damaged too, would fail again.
                if !self.inner.runs.is_running(&damaged.0) && replaced.insert(damaged.clone()) {
                    tracing::error!(view = damaged.0, "its batch view is damaged; computing it again from the history");
                    // The view is there, so this cannot fail.
                    let _ = self.spawn_run(&damaged.0, BatchRunTrigger::Repair);
                }
            }
            for view in due {
                if self.inner.runs.is_running(&view) {
                    tracing::warn!(view, "batch run is due but the last one still runs; leaving it out");
                } else if let Err(error) = self.spawn_run(&view, BatchRunTrigger::Schedule) {
                    tracing::error!(view, error = with_causes(&error), "cannot start the batch run that is due");
                }
            }
        }
    }
}

impl Platform {
    /// The batch views that answer now and in which a query has met damage.
    fn damaged_batch_views(&self) -> Vec<(String, BatchVersion)> {
        let snapshots = self.inner.latest_snapshots();
        let views = snapshots.values().flat_map(|snapshot| &snapshot.views);
        let damaged = |(name, view): (&String, &ViewSnapshot)| {
            view.damage().and(view.batch.as_ref()).map(|batch| (name.clone(), batch.version))
        };
        views.filter_map(damaged).collect()
    }
}

impl Schedules {
    /// When the next run starts after `time`.
    pub(super) fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.batch.iter().chain(&self.full_recompute).filter_map(|schedule| schedule.next_after(time)).min()
    }
}

fn now_text() -> String {
    iso_timestamp(now_us()).unwrap_or_default()
}
