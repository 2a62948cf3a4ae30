//! A realtime view: the states of the events that no batch view covers yet.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::runtime_env::RuntimeEnv;
use watershed_shared::error::Result;
use watershed_shared::plan::{PartialProgram, ViewPlan};
use watershed_shared::position::{Boundary, Position};
use watershed_shared::snapshot::RealtimeSize;

use crate::checkpoint::Checkpoint;
use crate::compact::{Compacted, Compaction};
use crate::segment::{RealtimeStates, Run, Segment};

/// States of events from a cut on, in segments between cuts. One writer owns it; readers get copies of the runs.
#[derive(Debug)]
pub struct RealtimeView {
    plan: Arc<ViewPlan>,
    program: Arc<PartialProgram>,
    /// Oldest first, each starting where the one before ends; the last one is open.
    segments: Vec<Segment>,
    open: Segment,
}

impl RealtimeView {
    /// An empty view of the events from `start` on.
    pub async fn new(plan: Arc<ViewPlan>, start: Position, runtime: Arc<RuntimeEnv>) -> Result<RealtimeView> {
        let program = Arc::new(PartialProgram::new(&plan, runtime).await?);
        Ok(RealtimeView { plan, program, segments: Vec::new(), open: Segment::open_at(start) })
    }

    /// Moves the start of a view that no event has reached.
    pub fn start_at(&mut self, start: Position) {
        debug_assert!(self.segments.is_empty() && self.open.is_empty(), "events would be lost");
        self.open = Segment::open_at(start);
    }

    /// Adds the states of the next events, which end at `end`; on an error the view is as before.
    pub fn load(&mut self, states: &[RecordBatch], end: &Position) -> Result<()> {
        self.open.runs.extend(Run::pack(self.plan.state_schema(), states)?);
        self.open.end.join(end);
        Ok(())
    }

    /// Takes over closed segments from a checkpoint; the first one starts where this view, which no event has reached,
    /// starts, and each other one where the one before ends.
    pub fn restore(&mut self, segments: Vec<Segment>) {
        debug_assert!(self.segments.is_empty() && self.open.is_empty(), "events would be there twice");
        if let Some(last) = segments.last() {
            self.open = Segment::open_at(last.end.clone());
            self.segments = segments;
        }
    }

    /// The closed segments from `boundary` up to `end`, which is a cut: what a checkpoint keeps.
    pub fn closed_segments(&self, boundary: &Boundary, end: &Position) -> Vec<Segment> {
        let closed = self.segments.iter().filter(|segment| !is_superseded(segment, boundary));
        closed.take_while(|segment| end.covers(&segment.end)).cloned().collect()
    }

    /// Whether the segments hold the events from `boundary` up to `end`, each once.
    pub fn spans(&self, boundary: &Boundary, end: &Position) -> bool {
        let mut next = &boundary.0;
        for segment in self.segments().filter(|segment| !is_superseded(segment, boundary)) {
            if !is_same(&segment.start, next) {
                return false;
            }
            next = &segment.end;
        }
        is_same(next, end)
    }

    /// Position after the last event.
    pub fn end(&self) -> &Position {
        &self.open.end
    }

    /// The view's plans.
    pub fn plan(&self) -> &Arc<ViewPlan> {
        &self.plan
    }

    /// Computes the states of events, for [`RealtimeView::load`]; other views may be at work at the same time.
    pub fn states_of(
        &self,
        events: Vec<RecordBatch>,
    ) -> impl Future<Output = Result<Vec<RecordBatch>>> + Send + 'static {
        let program = Arc::clone(&self.program);
        async move { Ok(program.run(events).await?) }
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
    pub fn states_from(&self, boundary: &Boundary) -> RealtimeStates {
        let after = self.segments().filter(|segment| !is_superseded(segment, boundary));
        states_of(after)
    }

    /// States of the events below `boundary`, for comparison with the batch view that covers them.
    pub fn states_below(&self, boundary: &Boundary) -> RealtimeStates {
        let below = self.segments().filter(|segment| is_superseded(segment, boundary));
        states_of(below)
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

    /// Frees about `bytes` of memory: of the runs that are in closed segments and in `checkpoint`, the largest ones are
    /// from now on read from there. Returns the bytes freed.
    pub fn release_memory(&mut self, bytes: usize, checkpoint: &Checkpoint) -> usize {
        let runs = self.segments.iter_mut().flat_map(|segment| &mut segment.runs);
        let mut candidates: Vec<&mut Run> = runs.filter(|run| run.is_in_memory()).collect();
        candidates.sort_by_key(|run| std::cmp::Reverse(run.bytes()));
        let mut freed = 0;
        for run in candidates {
            if freed >= bytes {
                break;
            }
            if let Some(file) = checkpoint.file(run.id) {
                freed += run.bytes();
                *run = Run::stored(file);
            }
        }
        freed
    }

    /// How much the view holds.
    pub fn size(&self) -> RealtimeSize {
        let runs = self.segments().flat_map(|segment| &segment.runs);
        let mut size = RealtimeSize { segments: self.segments.len() + 1, ..RealtimeSize::default() };
        for run in runs {
            size.runs += 1;
            size.rows += run.rows();
            match run.is_in_memory() {
                true => size.bytes += run.bytes(),
                false => size.stored_bytes += run.bytes(),
            }
        }
        size
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().chain([&self.open])
    }
}

fn states_of<'a>(segments: impl Iterator<Item = &'a Segment>) -> RealtimeStates {
    let mut states = RealtimeStates::default();
    segments.for_each(|segment| segment.add_states(&mut states));
    states
}

/// Partitions that one of them does not name are at 0 in it.
fn is_same(one: &Position, other: &Position) -> bool {
    one.covers(other) && other.covers(one)
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
