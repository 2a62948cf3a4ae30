//! A realtime view: the states of the events that no batch view covers yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use datafusion::execution::runtime_env::RuntimeEnv;
use watershed_shared::error::Result;
use watershed_shared::plan::{PartialProgram, ViewPlan};
use watershed_shared::position::{Boundary, Position};
use watershed_shared::snapshot::RealtimeSize;

use crate::compact::{Compacted, Compaction};
use crate::segment::{Run, Segment};

/// States of events from a cut on, in segments between cuts. One writer owns it; readers get copies of the runs.
#[derive(Debug)]
pub struct RealtimeView {
    plan: Arc<ViewPlan>,
    program: PartialProgram,
    /// Oldest first, each starting where the one before ends; the last one is open.
    segments: Vec<Segment>,
    open: Segment,
}

/// Numbers of runs are never used again in a process, so a compaction cannot mistake another view's runs for its own.
static NEXT_RUN_ID: AtomicU64 = AtomicU64::new(0);

impl RealtimeView {
    /// An empty view of the events from `start` on.
    pub async fn new(plan: Arc<ViewPlan>, start: Position, runtime: Arc<RuntimeEnv>) -> Result<RealtimeView> {
        let program = PartialProgram::new(&plan, runtime).await?;
        Ok(RealtimeView { plan, program, segments: Vec::new(), open: Segment::open_at(start) })
    }

    /// Moves the start of a view that no event has reached.
    pub fn start_at(&mut self, start: Position) {
        debug_assert!(self.segments.is_empty() && self.open.is_empty(), "events would be lost");
        self.open = Segment::open_at(start);
    }

    /// Adds the states of the next events, which end at `end`, as another plan has made them.
    pub fn load(&mut self, states: &[RecordBatch], end: &Position) -> Result<()> {
        let id = NEXT_RUN_ID.fetch_add(1, Ordering::Relaxed);
        let run = Run::pack(id, self.plan.state_schema(), states)?;
        self.open.runs.extend(run);
        self.open.end.join(end);
        Ok(())
    }

    /// The view's plans.
    pub fn plan(&self) -> &Arc<ViewPlan> {
        &self.plan
    }

    /// Adds the next events, which end at `end`; on an error the view is as before.
    pub async fn apply(&mut self, events: Vec<RecordBatch>, end: &Position) -> Result<()> {
        let states = self.program.run(events).await?;
        self.load(&states, end)
    }

    /// Closes the open segment where it ends and opens the next one there.
    pub fn cut(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let next = Segment::open_at(self.open.end.clone());
        self.segments.push(std::mem::replace(&mut self.open, next));
    }

    /// Forgets the cuts for which `keep` is false: the segments on both sides become one.
    pub fn join_segments(&mut self, keep: impl Fn(&Position) -> bool) {
        let mut joined: Vec<Segment> = Vec::with_capacity(self.segments.len());
        for segment in self.segments.drain(..) {
            match joined.last_mut() {
                Some(last) if !keep(&segment.start) => {
                    last.end = segment.end;
                    last.runs.extend(segment.runs);
                }
                _ => joined.push(segment),
            }
        }
        self.segments = joined;
    }

    /// States of the events from `boundary` on.
    ///
    /// # Panics
    /// If the boundary lies inside a segment: a batch view covers whole segments, or the answer would be wrong.
    pub fn states_from(&self, boundary: &Boundary) -> Vec<RecordBatch> {
        let after = self.segments().filter(|segment| !is_superseded(segment, boundary));
        after.flat_map(|segment| segment.runs.iter().map(|run| run.states().clone())).collect()
    }

    /// States of the events below `boundary`, for comparison with the batch view that covers them.
    pub fn states_below(&self, boundary: &Boundary) -> Vec<RecordBatch> {
        let below = self.segments().filter(|segment| is_superseded(segment, boundary));
        below.flat_map(|segment| segment.runs.iter().map(|run| run.states().clone())).collect()
    }

    /// Drops the segments below `boundary`.
    pub fn release(&mut self, boundary: &Boundary) {
        self.segments.retain(|segment| !is_superseded(segment, boundary));
    }

    /// Runs that are worth merging now, if any.
    pub fn compaction(&self) -> Option<Compaction> {
        self.segments().find_map(|segment| Compaction::choose(&segment.runs))
    }

    /// The runs of the first segment that has several, if any: compaction regardless of sizes.
    pub fn full_compaction(&self) -> Option<Compaction> {
        self.segments().find_map(|segment| Compaction::everything(&segment.runs))
    }

    /// Swaps a finished compaction's result for its inputs. Does nothing when the inputs are no longer there side by side.
    pub fn install(&mut self, compacted: Compacted) {
        let ids = &compacted.input_ids;
        let Some(first) = ids.first() else { return };
        for segment in self.segments.iter_mut().chain([&mut self.open]) {
            let Some(start) = segment.runs.iter().position(|run| run.id == *first) else { continue };
            let end = start + ids.len();
            let same =
                segment.runs.get(start..end).is_some_and(|runs| runs.iter().map(|run| run.id).eq(ids.iter().copied()));
            if same {
                segment.runs.splice(start..end, compacted.merged);
            }
            return;
        }
    }

    /// How much the view holds.
    pub fn size(&self) -> RealtimeSize {
        let runs = self.segments().flat_map(|segment| &segment.runs);
        let mut size = RealtimeSize { segments: self.segments.len() + 1, ..RealtimeSize::default() };
        for run in runs {
            size.runs += 1;
            size.rows += run.rows();
            size.bytes += run.bytes();
        }
        size
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().chain([&self.open])
    }
}

fn is_superseded(segment: &Segment, boundary: &Boundary) -> bool {
    let below = boundary.0.covers(&segment.end) && !segment.is_empty();
    assert!(
        below || segment.start.covers(&boundary.0),
        "boundary {boundary} lies inside the segment from {} to {}",
        segment.start,
        segment.end
    );
    below
}
