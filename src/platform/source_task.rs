//! The one task that moves a source's views: dispatch, cuts, and the switch to a new batch version.
//!
//! It owns everything that changes, so nothing needs a lock, and it publishes immutable snapshots. In a loop it
//!
//! 1. reads what the log holds beyond the views, in offset order, and applies it to every view of the source;
//! 2. publishes the snapshot in which all views have it;
//! 3. when it is time, cuts: every realtime view closes its segment, and the events since the last cut go to the history
//!    in one commit. So a version of the history always ends where segments end, and a batch run's boundary never lies
//!    inside a segment;
//! 4. carries out what batch runs ask for: a history version that covers everything accepted, or the switch.
//!
//! It never waits for a commit, a compaction or a batch run: those are tasks whose ends are events here. While the store
//! fails, cuts wait for their commits in `unarchived`, and the views go on.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use watershed_batch_layer::{History, HistorySnapshot};
use watershed_shared::config::Config;
use watershed_shared::cpu::CpuPool;
use watershed_shared::fault::{self, has_defect};
use watershed_shared::log::Log;
use watershed_shared::plan::StateParts;
use watershed_shared::position::{Boundary, Gap, Position};
use watershed_shared::snapshot::{BatchPart, SnapshotReceiver, SourceSnapshot};
use watershed_shared::source::{Connector, SourceDefinition};
use watershed_shared::telemetry::{Metrics, SourceLabel};
use watershed_shared::time::{instant, now_us, sleep, sleep_until};
use watershed_speed_layer::{CheckpointStore, Compacted, RealtimeView};

use super::checkpoints::{Save, save_all};
use super::failure::Failure;
use super::live_view::{LiveId, LiveView};
use super::sinks::Changes;
use super::unarchived::{Committer, Unarchived};
use super::watermark::Watermark;
use crate::error::{Error, Result, with_causes};

/// No further partition is read in a step that has this much; a partition gives about 16 MiB at most.
const MICRO_BATCH_BYTES_TARGET: usize = 32 << 20;

/// What other tasks ask of a source's task.
#[derive(Debug)]
pub(super) enum Command {
    /// Bring everything below `target` into the history; the answer is a version with it. With a view, its
    /// segments keep their ends at the version's end until `Publish` or `Abandon`.
    Archive { target: Position, pin: Option<LiveId>, reply: oneshot::Sender<HistorySnapshot> },
    /// The states that a batch view up to the boundary will supersede; `None` for a definition that has no answers yet.
    PartsBelow { id: LiveId, boundary: Boundary, reply: oneshot::Sender<Option<StateParts>> },
    /// Switch a definition to a new batch view; a definition that was being built takes over its name. The answer is the
    /// batch views that nobody will ask any more; `None` if there was no switch, because the definition is gone, has
    /// stopped, or starts behind the boundary.
    Publish { id: LiveId, batch: BatchPart, boundary: Boundary, reply: oneshot::Sender<Option<Vec<BatchPart>>> },
    /// Forget the definition that is being built under a name.
    CancelBuild { name: String, reply: oneshot::Sender<()> },
    /// A batch run has failed.
    Abandon { id: LiveId, boundary: Boundary },
    /// Start keeping a definition from here on, without answers until its first batch view is published.
    Build { realtime: Box<RealtimeView>, reply: oneshot::Sender<()> },
    /// Merge all runs of every segment, whatever their sizes.
    Compact { reply: oneshot::Sender<()> },
    /// Publish nothing more and end.
    Stop { reply: oneshot::Sender<()> },
}

/// The definitions that go by one name.
#[derive(Debug, Default)]
pub(super) struct NamedView {
    /// The definition that answers.
    pub(super) active: Option<LiveView>,
    /// The definition that will take over.
    pub(super) building: Option<LiveView>,
}

impl NamedView {
    fn live(&mut self) -> impl Iterator<Item = &mut LiveView> {
        self.active.iter_mut().chain(&mut self.building)
    }
}

/// Everything that a source's task starts with.
#[derive(Debug)]
pub(super) struct SourceStart {
    pub(super) source: Arc<SourceDefinition>,
    pub(super) log: Arc<dyn Log>,
    pub(super) history: History,
    pub(super) views: BTreeMap<String, NamedView>,
    pub(super) watermark: Watermark,
    /// Where changes of views are collected for their sinks.
    pub(super) changes: BTreeMap<String, Vec<Arc<Changes>>>,
}

/// The way to a source's task.
#[derive(Debug)]
pub(super) struct SourceHandle {
    pub(super) source: Arc<SourceDefinition>,
    pub(super) log: Arc<dyn Log>,
    pub(super) history: History,
    pub(super) snapshots: SnapshotReceiver,
    pub(super) commands: mpsc::Sender<Command>,
    /// Why commits to the history fail, while they do.
    pub(super) commit_failure: Failure,
}

/// Shared means of all source tasks.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) config: Arc<Config>,
    pub(super) metrics: Metrics,
    pub(super) pool: CpuPool,
    pub(super) runtime: Arc<datafusion::execution::runtime_env::RuntimeEnv>,
    pub(super) checkpoints: CheckpointStore,
}

/// Starts the task of a source, which continues where the history ends.
pub(super) fn start(start: SourceStart, means: Means, tasks: &mut JoinSet<()>) -> SourceHandle {
    let applied = start.history.known().end().clone();
    let (commands, inbox) = mpsc::channel(64);
    let commit_failure = Failure::default();
    let config = &means.config.history;
    let mut task = SourceTask {
        log_end: start.log.end(),
        committer: Committer {
            source: Arc::clone(&start.source),
            log: Arc::clone(&start.log),
            writer: Arc::new(start.history.writer(watershed_batch_layer::EncodeOptions::history())),
            metrics: means.metrics.clone(),
            failure: commit_failure.clone(),
        },
        unarchived: Unarchived::new(config.commit_rows, config.unarchived_bytes_max),
        archived: start.history.known(),
        commit: None,
        waiters: Vec::new(),
        cut: applied.clone(),
        commit_due: instant() + means.config.history.commit_interval,
        applied,
        gaps: start.history.known().gaps().to_vec(),
        new_gaps: Vec::new(),
        first_partition: 0,
        snapshots: watch::Sender::new(Arc::new(SourceSnapshot {
            source: Arc::clone(&start.source),
            applied: Position::default(),
            watermark_us: None,
            timeless: Vec::new(),
            gaps: Vec::new(),
            views: BTreeMap::new(),
            failures: BTreeMap::new(),
        })),
        compactions: JoinSet::new(),
        saves: JoinSet::new(),
        save_due: false,
        chores: JoinSet::new(),
        label: SourceLabel { source: start.source.name.clone() },
        source: Arc::clone(&start.source),
        log: Arc::clone(&start.log),
        history: start.history.clone(),
        views: start.views,
        watermark: start.watermark,
        changes: start.changes,
        means,
    };
    task.publish();
    let handle = SourceHandle {
        source: start.source,
        log: start.log,
        history: start.history,
        snapshots: task.snapshots.subscribe(),
        commands,
        commit_failure,
    };
    let name = handle.source.name.clone();
    tasks.spawn(async move {
        // Without its task a source takes no events and is not ready; its last snapshot goes on answering, as of then.
        if AssertUnwindSafe(task.run(inbox)).catch_unwind().await.is_err() {
            tracing::error!(
                source = name,
                "the source's task panicked; restart the process, and please report this bug"
            );
        }
    });
    handle
}

struct SourceTask {
    source: Arc<SourceDefinition>,
    log: Arc<dyn Log>,
    log_end: watch::Receiver<Position>,
    history: History,
    committer: Committer,
    /// The newest version of the history.
    archived: HistorySnapshot,
    /// The commit of the oldest cut in `unarchived`.
    commit: Option<tokio::task::JoinHandle<()>>,
    waiters: Vec<Waiter>,
    unarchived: Unarchived,
    /// The last cut: where the open segments start, and where the newest commit, waiting, under way or done, ends.
    cut: Position,
    commit_due: Instant,
    /// Up to where the views have the log.
    applied: Position,
    /// Offsets below `applied` that the log lost, and those of them that no cut has yet.
    gaps: Vec<Gap>,
    new_gaps: Vec<Gap>,
    /// The partition that is read first.
    first_partition: usize,
    watermark: Watermark,
    views: BTreeMap<String, NamedView>,
    changes: BTreeMap<String, Vec<Arc<Changes>>>,
    snapshots: watch::Sender<Arc<SourceSnapshot>>,
    compactions: JoinSet<(LiveId, Result<Compacted>)>,
    /// The checkpoints being saved, at most once at a time.
    saves: JoinSet<()>,
    /// Whether the history has grown since that began.
    save_due: bool,
    /// Tidying after commits.
    chores: JoinSet<()>,
    label: SourceLabel,
    means: Means,
}

/// Somebody who waits for the history to cover a position.
struct Waiter {
    target: Position,
    pin: Option<LiveId>,
    reply: oneshot::Sender<HistorySnapshot>,
}

impl SourceTask {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        // What had to be computed anew is not computed once more after the next restart.
        self.save_checkpoints();
        loop {
            let behind = !self.applied.covers(&self.log_end.borrow_and_update());
            if behind && let Err(error) = self.dispatch().await {
                tracing::error!(
                    source = self.source.name,
                    error = with_causes(&error),
                    "cannot read the log; trying again"
                );
                sleep(Duration::from_secs(1)).await;
            }
            self.cut_if_due();
            self.start_compactions();
            tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(Command::Stop { reply }) => {
                        self.stop().await;
                        // Whoever asked opens the log and the store again after the answer.
                        drop(self);
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.carry_out(command).await,
                    None => return self.stop().await,
                },
                Some(compacted) = self.compactions.join_next() => self.install(compacted),
                Some(_) = self.chores.join_next() => {}
                Some(_) = self.saves.join_next() => {
                    self.release_memory();
                    if self.save_due {
                        self.save_checkpoints();
                    }
                }
                outcome = ended(&mut self.commit) => self.commit_ended(outcome),
                changed = self.log_end.changed() => if changed.is_err() { return self.stop().await },
                () = sleep_until(self.commit_due), if self.may_cut() => {}
                () = std::future::ready(()), if self.is_behind() => {}
            }
        }
    }

    fn is_behind(&self) -> bool {
        !self.applied.covers(&self.log_end.borrow())
    }

    /// Reads the next events of every partition and applies them to every view.
    async fn dispatch(&mut self) -> Result<()> {
        let log_end = self.log_end.borrow().clone();
        let rows_max = self.means.config.ingest.micro_batch_rows_max.max(1);
        let mut end = self.applied.clone();
        let mut events = Vec::new();
        let mut oldest_us = Vec::new();
        let mut lost = Vec::new();
        // As of `end`: what is read of one partition before the reading of another fails is read again.
        let mut watermark = self.watermark.clone();
        let (mut rows, mut bytes) = (0, 0);
        // Another partition is first each time, so that one with much to read does not hold up the others.
        let partitions = log_end.offsets().len();
        self.first_partition = (self.first_partition + 1) % partitions.max(1);
        for (partition, log_end) in log_end.iter().cycle().skip(self.first_partition).take(partitions) {
            let from = self.applied.get(partition);
            if from >= log_end || rows >= rows_max || bytes >= MICRO_BATCH_BYTES_TARGET {
                continue;
            }
            for batch in self.log.read(partition, from, rows_max - rows).await? {
                rows += batch.events.num_rows();
                bytes += batch.events.get_array_memory_size();
                oldest_us.extend(batch.ingested_at_us());
                end.raise(partition, batch.range.end());
                if batch.is_lost() {
                    lost.push(Gap { partition, range: batch.range });
                    continue;
                }
                watermark.observe(partition, &batch.events);
                events.push(batch.with_system_columns(&self.source.event_schema)?);
            }
        }
        let views = self.views.values_mut().flat_map(NamedView::live);
        apply(views.filter(|view| view.failure.is_none()).collect(), &events, &end, &self.changes).await;
        self.count(rows);
        self.unarchived.push(events);
        self.gaps.extend(&lost);
        self.new_gaps.extend(lost);
        (self.applied, self.watermark) = (end, watermark);
        fault::point("source.after_apply");
        self.publish();
        let now_us = now_us();
        let visible = self.means.metrics.event_to_visible.get_or_create(&self.label);
        for ingested_at_us in oldest_us {
            visible.observe((now_us - ingested_at_us).max(0) as f64 / 1e6);
        }
        Ok(())
    }

    /// Counts events that nobody has acknowledged to a client.
    fn count(&self, events: usize) {
        let (counter, source) = match &self.source.connector {
            Connector::Http => return,
            Connector::Kafka(_) => (&self.means.metrics.records_read, &self.source.name),
            Connector::DeadLetters { of } => (&self.means.metrics.dead_letters, of),
        };
        counter.get_or_create(&SourceLabel { source: source.clone() }).inc_by(events as u64);
    }

    fn publish(&mut self) {
        for view in self.views.values_mut().filter_map(|view| view.active.as_mut()) {
            view.check(&self.applied);
        }
        let mut views = BTreeMap::new();
        let mut failures = BTreeMap::new();
        for (name, view) in &self.views {
            match &view.active {
                Some(LiveView { failure: Some(failure), .. }) => drop(failures.insert(name.clone(), failure.clone())),
                Some(active) => drop(views.insert(name.clone(), active.snapshot())),
                None => {}
            }
        }
        self.snapshots.send_replace(Arc::new(SourceSnapshot {
            source: Arc::clone(&self.source),
            applied: self.applied.clone(),
            watermark_us: self.watermark.current_us(),
            timeless: self.watermark.timeless(self.log.partitions()),
            gaps: self.gaps.clone(),
            views,
            failures,
        }));
    }

    /// Whether a cut now would bring anything to the history, if only a position.
    fn may_cut(&self) -> bool {
        self.commit.is_none() && self.applied != self.cut
    }

    fn cut_if_due(&mut self) {
        let awaited = self.waiters.iter().any(|waiter| self.applied.covers(&waiter.target));
        // A large one does not wait for the commit under way: the next may have no more than fits in memory.
        if self.unarchived.is_large() || (self.may_cut() && (awaited || instant() >= self.commit_due)) {
            self.cut();
        }
    }

    /// Closes the segments and sends the events since the last cut to the history.
    fn cut(&mut self) {
        for view in self.views.values_mut().flat_map(NamedView::live) {
            if !has_defect("cut.one_side") {
                view.realtime.cut();
            }
            view.compaction_failed = false;
        }
        let start = std::mem::replace(&mut self.cut, self.applied.clone());
        let event_times = self.watermark.max_event_times_us().to_vec();
        self.unarchived.cut(start, self.applied.clone(), event_times, std::mem::take(&mut self.new_gaps));
        fault::point("source.after_cut");
        self.commit_oldest();
    }

    /// Starts the commit of the oldest cut, if none is under way.
    fn commit_oldest(&mut self) {
        if let (None, Some(cut)) = (&self.commit, self.unarchived.oldest()) {
            let (committer, cut) = (self.committer.clone(), Arc::clone(cut));
            self.commit = Some(tokio::spawn(async move { committer.commit_until_done(&cut).await }));
        }
    }

    /// The commit's task has ended.
    fn commit_ended(&mut self, outcome: Result<(), JoinError>) {
        self.commit = None;
        match outcome {
            Ok(()) => match self.unarchived.committed() {
                Some(end) if end == *self.history.known().end() => self.committed(),
                // Another process has brought the history further, to where no segment of ours ends. The next commit, after
                // a cut behind that, brings both together.
                _ => {
                    tracing::warn!(source = self.source.name, "another process writes to the source's history");
                    self.commit_due = instant() + Duration::from_millis(100);
                }
            },
            Err(error) => tracing::error!(
                source = self.source.name,
                error = with_causes(&error),
                "a history commit panicked; trying again"
            ),
        }
        self.commit_oldest();
    }

    fn committed(&mut self) {
        self.commit_due = instant() + self.means.config.history.commit_interval;
        self.archived = self.history.known();
        fault::point("source.after_commit");
        tracing::debug!(
            source = self.source.name,
            version = self.archived.version().0,
            end = %self.archived.end(),
            "committed events to the history"
        );
        self.answer_waiters();
        self.forget_cuts();
        self.save_checkpoints();
        let (log, mut end) = (Arc::clone(&self.log), self.archived.end().clone());
        if has_defect("trim.before_commit") {
            end = self.applied.clone();
        }
        let (history, name) = (self.history.clone(), self.source.name.clone());
        // The history holds these events now; this is on nobody's path.
        self.chores.spawn(async move {
            if let Err(error) = log.trim(&end).await {
                tracing::warn!(
                    source = name,
                    error = with_causes(&error),
                    "cannot trim the log; trying again after the next commit"
                );
            }
            if let Err(error) = history.checkpoint_if_due().await {
                tracing::warn!(
                    source = name,
                    error = with_causes(&error),
                    "cannot checkpoint the history; trying again later"
                );
            }
        });
    }

    /// Brings the checkpoints up to the history's end; after the saving that is under way, if there is one.
    fn save_checkpoints(&mut self) {
        self.save_due = !self.saves.is_empty();
        if self.save_due {
            return;
        }
        let active = self.views.values().filter_map(|view| view.active.as_ref());
        let saves = active.filter_map(|view| Save::of(view, self.archived.end())).collect::<Vec<_>>();
        let pool = self.means.pool.clone();
        self.saves.spawn(async move { pool.run(save_all(saves)).await });
    }

    /// Lets runs that checkpoints hold be read from there, as far as the source's views need more memory than they may have.
    fn release_memory(&mut self) {
        let mut views: Vec<&mut LiveView> =
            self.views.values_mut().filter_map(|view| view.active.as_mut()).filter(|v| v.failure.is_none()).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.realtime.size().bytes));
        let held: usize = views.iter().map(|view| view.realtime.size().bytes).sum();
        let mut excess = held.saturating_sub(self.means.config.realtime.memory_bytes);
        if excess == 0 {
            return;
        }
        for view in views {
            excess = excess.saturating_sub(view.realtime.release_memory(excess, &view.checkpoint));
        }
        self.publish();
    }

    fn answer_waiters(&mut self) {
        let end = self.archived.end().clone();
        let (done, waiting) = self.waiters.drain(..).partition(|waiter: &Waiter| end.covers(&waiter.target));
        self.waiters = waiting;
        for waiter in done {
            let heard = waiter.reply.send(self.archived.clone()).is_ok();
            if let Some(view) = waiter.pin.filter(|_| heard).and_then(|id| self.find(&id)) {
                view.pins.push(end.clone());
            }
        }
    }

    /// Joins segments at cuts where no batch view will begin any more: only the history's newest version and the runs
    /// under way can become a boundary.
    fn forget_cuts(&mut self) {
        let newest = self.archived.end().clone();
        for view in self.views.values_mut().flat_map(NamedView::live) {
            let pins = view.pins.clone();
            view.realtime.join_segments(|cut| *cut == newest || !newest.covers(cut) || pins.contains(cut));
        }
    }

    fn start_compactions(&mut self) {
        for view in self.views.values_mut().flat_map(NamedView::live) {
            if view.compacting || view.compaction_failed {
                continue;
            }
            let Some(compaction) = view.realtime.compaction() else { continue };
            view.compacting = true;
            let (plan, pool) = (Arc::clone(&view.plan), self.means.pool.clone());
            let context = super::task_context(&self.means.runtime);
            self.compactions.spawn(async move {
                let id = LiveId::of(&plan);
                let merged = pool.run(async move { compaction.run(&plan, context).await });
                let compacted = AssertUnwindSafe(merged).catch_unwind().await;
                (
                    id,
                    compacted
                        .map_or(Err(Error::Panicked { what: "merging runs" }), |merged| merged.map_err(Into::into)),
                )
            });
        }
    }

    fn install(&mut self, outcome: Result<(LiveId, Result<Compacted>), JoinError>) {
        let Ok((id, compacted)) = outcome else { return };
        let name = self.source.name.clone();
        let Some(view) = self.find(&id) else { return };
        view.compacting = false;
        match compacted {
            Ok(compacted) => {
                fault::point("source.before_install");
                view.realtime.install(compacted);
            }
            Err(error) => {
                view.compaction_failed = true;
                tracing::warn!(
                    source = name,
                    view = view.plan.name,
                    error = with_causes(&error),
                    "cannot merge runs; trying again after the next cut"
                );
            }
        }
        fault::point("source.after_install");
        self.publish();
    }

    async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Archive { target, pin, reply } => {
                self.waiters.push(Waiter { target, pin, reply });
                self.answer_waiters();
            }
            Command::PartsBelow { id, boundary, reply } => {
                let active = self.views.values().filter_map(|view| view.active.as_ref()).find(|view| id.is(&view.plan));
                let healthy = active.filter(|view| view.failure.is_none());
                let _ = reply.send(healthy.map(|view| view.parts_below(&boundary)));
            }
            Command::Publish { id, batch, boundary, reply } => {
                fault::point("source.before_supersede");
                let superseded = self.supersede(&id, batch, boundary);
                fault::point("source.after_supersede");
                self.publish();
                let _ = reply.send(superseded);
            }
            Command::Abandon { id, boundary } => {
                if let Some(view) = self.find(&id) {
                    view.unpin(&boundary.0);
                }
            }
            Command::CancelBuild { name, reply } => {
                if let Some(view) = self.views.get_mut(&name) {
                    view.building = None;
                }
                let _ = reply.send(());
            }
            Command::Build { realtime, reply } => {
                self.build(*realtime);
                let _ = reply.send(());
            }
            Command::Compact { reply } => {
                self.compact_everything().await;
                let _ = reply.send(());
            }
            Command::Stop { .. } => {}
        }
    }

    fn supersede(&mut self, id: &LiveId, batch: BatchPart, boundary: Boundary) -> Option<Vec<BatchPart>> {
        let is_it = |live: &LiveView| id.is(&live.plan) && boundary.0.covers(&live.boundary.0);
        for view in self.views.values_mut() {
            let ready = |building: &mut LiveView| is_it(building) && building.failure.is_none();
            if let Some(mut built) = view.building.take_if(ready) {
                built.supersede(batch, boundary);
                return Some(view.active.replace(built).and_then(|replaced| replaced.batch).into_iter().collect());
            }
            if let Some(active) = view.active.as_mut().filter(|active| is_it(active)) {
                return Some(active.supersede(batch, boundary).into_iter().collect());
            }
        }
        None
    }

    fn build(&mut self, mut realtime: RealtimeView) {
        // Any later version of the history ends at a cut of this view too, so its first boundary will be one.
        realtime.start_at(self.applied.clone());
        let name = realtime.plan().name.clone();
        let boundary = Boundary(self.applied.clone());
        let checkpoint = self.means.checkpoint_of(realtime.plan());
        self.views.entry(name).or_default().building = Some(LiveView::new(realtime, None, boundary, checkpoint));
        self.publish();
    }

    async fn compact_everything(&mut self) {
        for view in self.views.values_mut().flat_map(NamedView::live) {
            while let Some(compaction) = view.realtime.full_compaction() {
                match compaction.run(&view.plan, super::task_context(&self.means.runtime)).await {
                    Ok(compacted) => view.realtime.install(compacted),
                    Err(error) => {
                        tracing::warn!(view = view.plan.name, error = with_causes(&error), "cannot merge runs");
                        break;
                    }
                }
            }
        }
        self.publish();
    }

    fn find(&mut self, id: &LiveId) -> Option<&mut LiveView> {
        self.views.values_mut().flat_map(NamedView::live).find(|view| id.is(&view.plan))
    }

    /// Ends what is under way: the log holds whatever a commit does not bring into the history.
    async fn stop(&mut self) {
        if let Some(commit) = self.commit.take() {
            commit.abort();
            // Aborted, or done at the last moment: both are fine.
            let _ = commit.await;
        }
        self.compactions.shutdown().await;
        // Not cut short: it makes the next start quick.
        while self.saves.join_next().await.is_some() {
            if self.save_due {
                self.save_checkpoints();
            }
        }
        // Not cut short either: a trim under way keeps the log's files open until it is done.
        while self.chores.join_next().await.is_some() {}
    }
}

/// Applies events to views, which compute their states at the same time.
async fn apply(
    views: Vec<&mut LiveView>,
    events: &[RecordBatch],
    end: &Position,
    changes: &BTreeMap<String, Vec<Arc<Changes>>>,
) {
    let states = join_all(views.iter().map(|view| tokio::spawn(view.states_of(events.to_vec())))).await;
    for (view, states) in views.into_iter().zip(states) {
        let ended = |error: JoinError| format!("its task has ended: {error}; restart the process");
        let Some(states) = view.apply(states.map_err(ended).flatten(), end) else { continue };
        for changes in changes.get(&view.plan.name).into_iter().flatten() {
            changes.push(&view.plan, &states, end);
        }
    }
}

/// Waits for the end of a commit that may not be there.
async fn ended(commit: &mut Option<tokio::task::JoinHandle<()>>) -> Result<(), JoinError> {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}
