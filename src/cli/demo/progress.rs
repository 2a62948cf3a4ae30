//! What has happened so far: noted by those who play the demo, read by those who draw it.

use std::collections::BTreeMap;
use std::time::Duration;

use watershed_serving_layer::{AuditOutcome, AuditReport, BatchRun, BatchRunState};
use watershed_shared::position::Position;
use watershed_shared::snapshot::{SourceSnapshot, ViewSnapshot};

/// Problems that are kept in words; more are only counted.
const PROBLEMS_MAX: usize = 20;

/// Everything that the demo tells.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) stage: Stage,
    pub(super) events_total: u64,
    pub(super) events_sent: u64,
    /// How long the stream took for them.
    pub(super) streaming: Duration,
    pub(super) lateness: Lateness,
    pub(super) views: BTreeMap<String, ViewProgress>,
    pub(super) checks: Tally,
    pub(super) handoffs: Tally,
    /// Most realtime rows of all views together.
    pub(super) realtime_rows_max: usize,
    /// How long the last answer took.
    pub(super) answer_time: Duration,
    pub(super) problems: Vec<String>,
}

/// Where the demo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    /// Events are arriving.
    #[default]
    Streaming,
    /// All have arrived; the last batch runs bring everything into the batch views.
    Finishing,
    /// It has come to its end.
    Finished,
}

/// How many of something were right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) right: u64,
    pub(super) wrong: u64,
}

impl Tally {
    pub(super) fn total(self) -> u64 {
        self.right + self.wrong
    }

    fn count(&mut self, right: bool) {
        *(if right { &mut self.right } else { &mut self.wrong }) += 1;
    }
}

/// A view, and how its answer is put together right now.
#[derive(Debug, Clone, Default)]
pub(super) struct ViewProgress {
    pub(super) parts: Parts,
    pub(super) run_under_way: bool,
    pub(super) run_time: Option<Duration>,
    pub(super) audit: Option<AuditReport>,
}

/// What each layer holds of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Parts {
    pub(super) batch_version: Option<u64>,
    /// Events below the boundary.
    pub(super) batch_events: u64,
    pub(super) batch_rows: usize,
    /// Events from the boundary on.
    pub(super) realtime_events: u64,
    pub(super) realtime_rows: usize,
    pub(super) realtime_runs: usize,
    pub(super) realtime_segments: usize,
}

impl Parts {
    fn of(view: &ViewSnapshot, applied: &Position) -> Parts {
        Parts {
            batch_version: view.batch.as_ref().map(|batch| batch.version.0),
            batch_events: view.boundary.0.events_since(&Position::default()),
            batch_rows: view.batch.as_ref().map_or(0, |batch| batch.rows),
            realtime_events: applied.events_since(&view.boundary.0),
            realtime_rows: view.realtime.rows,
            realtime_runs: view.realtime.runs,
            realtime_segments: view.realtime.segments,
        }
    }
}

/// How event times follow each other in log order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lateness {
    /// Events that came after one with a later event time.
    pub(super) late_events: u64,
    /// The most that an event's time was behind the largest one so far.
    pub(super) longest_us: i64,
    /// The largest event time so far.
    pub(super) reached_us: Option<i64>,
}

impl Lateness {
    /// Notes the event times that come next.
    pub(super) fn observe(&mut self, times_us: &[i64]) {
        for time_us in times_us {
            let reached_us = self.reached_us.map_or(*time_us, |reached_us| reached_us.max(*time_us));
            self.reached_us = Some(reached_us);
            self.late_events += u64::from(*time_us < reached_us);
            self.longest_us = self.longest_us.max(reached_us - time_us);
        }
    }
}

impl Progress {
    /// Before the first of `events_total` events.
    pub(super) fn new(events_total: u64, views: impl IntoIterator<Item = String>) -> Progress {
        let views = views.into_iter().map(|name| (name, ViewProgress::default())).collect();
        Progress { events_total, views, ..Progress::default() }
    }

    /// Whether nothing has gone wrong so far.
    pub(super) fn all_right(&self) -> bool {
        self.problems.is_empty()
    }

    /// Events a second, from the beginning to the last one sent.
    pub(super) fn events_per_second(&self) -> u64 {
        (self.events_sent as f64 / self.streaming.as_secs_f64().max(0.001)) as u64
    }

    /// Notes how the views' answers are put together in a snapshot.
    pub(super) fn sample(&mut self, snapshot: &SourceSnapshot) {
        for (name, view) in &snapshot.views {
            self.views.entry(name.clone()).or_default().parts = Parts::of(view, &snapshot.applied);
        }
        let realtime_rows = self.views.values().map(|view| view.parts.realtime_rows).sum();
        self.realtime_rows_max = self.realtime_rows_max.max(realtime_rows);
    }

    /// A batch run of a view begins.
    pub(super) fn run_begins(&mut self, view: &str) {
        self.views.entry(view.to_owned()).or_default().run_under_way = true;
    }

    /// The batch run of a view has ended.
    pub(super) fn run_ended(&mut self, run: &BatchRun, time: Duration) {
        let view = self.views.entry(run.view.clone()).or_default();
        view.run_under_way = false;
        view.run_time = Some(time);
        view.audit = run.audit.clone();
        if run.state != BatchRunState::Succeeded {
            let reason = run.error.as_deref().unwrap_or("for no reason that it told");
            return self.problem(format!("batch run {} of {} failed: {reason}", run.id, run.view));
        }
        let Some(audit) = &run.audit else { return };
        self.handoffs.count(audit.outcome != AuditOutcome::Drift);
        if audit.outcome == AuditOutcome::Drift {
            let different = format!("{} of {} groups differ", audit.groups_different, audit.groups_compared);
            let detail = audit.detail.as_deref().unwrap_or_default();
            self.problem(format!("handoff {} of {}: {different}; {detail}", audit.batch_version, run.view));
        }
    }

    /// An answer of a view, which took `time`, has been compared with the truth.
    pub(super) fn checked(&mut self, view: &str, difference: Option<String>, time: Duration) {
        self.answer_time = time;
        self.checks.count(difference.is_none());
        if let Some(difference) = difference {
            self.problem(format!("answer of {view}: {difference}"));
        }
    }

    fn problem(&mut self, problem: String) {
        tracing::error!(problem, "the demo found something wrong");
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: BatchRunState, outcome: Option<AuditOutcome>) -> BatchRun {
        let audit = |outcome| AuditReport {
            batch_version: 3,
            outcome,
            groups_compared: 16,
            groups_different: u64::from(outcome == AuditOutcome::Drift),
            detail: None,
        };
        BatchRun {
            id: 7,
            view: "carriers".to_owned(),
            kind: watershed_serving_layer::BatchRunKind::Full,
            state,
            trigger: watershed_serving_layer::BatchRunTrigger::Manual,
            started_at: String::new(),
            ended_at: None,
            batch_version: Some(3),
            history_version: None,
            boundary: Vec::new(),
            events: 0,
            groups: 0,
            files: 0,
            error: (state == BatchRunState::Failed).then(|| "no space".to_owned()),
            audit: outcome.map(audit),
        }
    }

    #[test]
    fn failed_runs_drift_and_different_answers_are_problems_and_nothing_else_is() {
        let mut progress = Progress::new(10, ["carriers".to_owned()]);
        progress.run_begins("carriers");
        progress.run_ended(&run(BatchRunState::Succeeded, Some(AuditOutcome::Equal)), Duration::ZERO);
        progress.checked("carriers", None, Duration::ZERO);
        assert!(progress.all_right());
        assert!(!progress.views["carriers"].run_under_way);

        progress.run_ended(&run(BatchRunState::Succeeded, Some(AuditOutcome::Drift)), Duration::ZERO);
        progress.run_ended(&run(BatchRunState::Failed, None), Duration::ZERO);
        progress.checked("carriers", Some("row 1".to_owned()), Duration::ZERO);
        assert_eq!(progress.handoffs, Tally { right: 1, wrong: 1 });
        assert_eq!(progress.checks, Tally { right: 1, wrong: 1 });
        assert_eq!(progress.problems.len(), 3, "{:?}", progress.problems);
    }

    #[test]
    fn an_event_is_late_when_an_earlier_one_had_a_later_time() {
        let mut lateness = Lateness::default();
        lateness.observe(&[5, 5, 3]);
        lateness.observe(&[9, 2]);
        assert_eq!(lateness, Lateness { late_events: 2, longest_us: 7, reached_us: Some(9) });
    }
}
