//! What has been decoded of a topic for one of its two logs.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::super::move_end;
use super::super::tail::Tail;
use crate::event::LogBatch;
use crate::position::{Offset, PartitionId, Position};

/// One log's decoded batches. What is beyond the reader is kept; what it has read may leave when there is no room, since
/// the topic still has it.
#[derive(Debug)]
pub(super) struct Side {
    state: Mutex<State>,
    end: watch::Sender<Position>,
}

#[derive(Debug)]
struct State {
    tail: Tail,
    start: Position,
    /// Where reading began; `None` until the history's end is known.
    begin: Option<Position>,
    /// Batches of each partition that the reader has not asked beyond: their ends and bytes.
    ahead: Vec<VecDeque<(Offset, usize)>>,
    bytes_ahead: usize,
}

impl Side {
    /// Nothing, which keeps at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Side {
        let state = State {
            tail: Tail::new(0, bytes_max),
            start: Position::default(),
            begin: None,
            ahead: Vec::new(),
            bytes_ahead: 0,
        };
        Side { state: Mutex::new(state), end: watch::Sender::new(Position::default()) }
    }

    /// The log goes on from here.
    pub(super) fn begin_at(&self, begin: &Position) {
        let mut state = self.state();
        (state.start, state.begin) = (begin.clone(), Some(begin.clone()));
        drop(state);
        move_end(&self.end, begin);
    }

    /// Where reading began.
    pub(super) fn begin(&self) -> Option<Position> {
        self.state().begin.clone()
    }

    pub(super) fn start(&self) -> Position {
        self.state().start.clone()
    }

    pub(super) fn end(&self) -> &watch::Sender<Position> {
        &self.end
    }

    /// Takes the batch that follows its partition's last; what of it lies before the beginning has been judged before.
    pub(super) fn push(&self, batch: &LogBatch) {
        let mut state = self.state();
        let begin = state.begin.as_ref().map_or(Offset::BEGINNING, |begin| begin.get(batch.partition));
        if batch.range.end() <= begin {
            return;
        }
        let batch = batch.between(begin, batch.range.end());
        let (partition, end) = (batch.partition, batch.range.end());
        let bytes = batch.events.get_array_memory_size();
        if state.ahead.len() <= partition.index() {
            state.ahead.resize_with(partition.index() + 1, VecDeque::new);
        }
        state.ahead[partition.index()].push_back((end, bytes));
        state.bytes_ahead += bytes;
        state.tail.push(batch);
        drop(state);
        self.end.send_modify(|position| position.raise(partition, end));
    }

    /// Batches from `from` on, as `Log::read` gives them; `None` when they are not in memory any more. Whoever reads from
    /// here has everything before.
    pub(super) fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Option<Vec<LogBatch>> {
        let mut state = self.state();
        let state = &mut *state;
        let read = state.tail.read(partition, from, rows_max);
        // What is given counts as read at once: the reader comes back only when there is more, and there is more only when
        // there is room.
        let given = read.iter().flatten().next_back().map_or(from, |last| last.range.end());
        state.given(partition, given);
        read
    }

    /// The reader has everything below an offset, from elsewhere.
    pub(super) fn given(&self, partition: PartitionId, end: Offset) {
        self.state().given(partition, end);
    }

    /// Bytes that the reader has not read yet.
    pub(super) fn bytes_ahead(&self) -> usize {
        self.state().bytes_ahead
    }

    /// Forgets what lies below `before`.
    pub(super) fn trim(&self, before: &Position) {
        let end = self.end.borrow().clone();
        let mut state = self.state();
        for (partition, end) in end.iter() {
            let before = before.get(partition).min(end);
            state.start.raise(partition, before);
            state.tail.trim(partition, before);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn given(&mut self, partition: PartitionId, end: Offset) {
        let Some(ahead) = self.ahead.get_mut(partition.index()) else { return };
        while let Some((_, bytes)) = ahead.pop_front_if(|(batch_end, _)| *batch_end <= end) {
            self.bytes_ahead -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;

    #[test]
    fn a_reader_that_has_everything_leaves_nothing_ahead_of_it() -> crate::error::Result<()> {
        let side = Side::new(1 << 20);
        side.begin_at(&Position::beginning(1));
        for start in [0, 10, 20] {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
            let events = RecordBatch::try_from_iter([("n", numbers)])?;
            side.push(&LogBatch::consecutive(PartitionId(0), Offset(start), 0, events));
        }
        assert!(side.bytes_ahead() > 0);
        let read = side.read(PartitionId(0), Offset(0), usize::MAX).map(|batches| batches.len());
        assert_eq!((read, side.bytes_ahead()), (Some(3), 0), "it will not come back before there is more");
        Ok(())
    }
}
