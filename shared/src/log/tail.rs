//! The newest batches of a log in memory, so that dispatch normally reads what was just appended without decoding it.

use std::collections::VecDeque;

use super::READ_BYTES_TARGET;
use crate::event::LogBatch;
use crate::position::{Offset, PartitionId};

/// The newest batches of each partition, without gaps up to its end. The oldest of all partitions leave first when
/// their memory exceeds the bound.
#[derive(Debug)]
pub(super) struct Tail {
    partitions: Vec<VecDeque<Entry>>,
    bytes: usize,
    bytes_max: usize,
    /// Number of batches pushed so far; orders the partitions' batches by age.
    pushed: u64,
}

#[derive(Debug)]
struct Entry {
    batch: LogBatch,
    /// Memory that the batch keeps from being freed; more than its rows need when it is a slice.
    bytes: usize,
    pushed: u64,
}

impl Tail {
    /// An empty tail that holds at most `bytes_max` bytes of Arrow memory. Further partitions are added by their batches.
    pub(super) fn new(partitions: u32, bytes_max: usize) -> Tail {
        let partitions = std::iter::repeat_with(VecDeque::new).take(partitions as usize).collect();
        Tail { partitions, bytes: 0, bytes_max, pushed: 0 }
    }

    /// Takes the batch that follows its partition's last one.
    pub(super) fn push(&mut self, batch: LogBatch) {
        let bytes = batch.events.get_array_memory_size();
        self.bytes += bytes;
        self.pushed += 1;
        let partition = batch.partition.index();
        if self.partitions.len() <= partition {
            self.partitions.resize_with(partition + 1, VecDeque::new);
        }
        self.partitions[partition].push_back(Entry { batch, bytes, pushed: self.pushed });
        while self.bytes > self.bytes_max {
            self.drop_oldest();
        }
    }

    /// What `Log::read` answers; `None` when the tail does not reach back to `from`.
    pub(super) fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Option<Vec<LogBatch>> {
        let entries = self.partitions.get(partition.index())?;
        let first = entries.partition_point(|entry| entry.batch.range.end() <= from);
        if entries.get(first)?.batch.range.start() > from {
            return None;
        }
        let mut batches = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        for entry in entries.range(first..) {
            let batch = entry.batch.between(from, entry.batch.range.end());
            rows += batch.events.num_rows();
            bytes += entry.bytes;
            batches.push(batch);
            if rows >= rows_max || bytes >= READ_BYTES_TARGET {
                break;
            }
        }
        Some(batches)
    }

    /// Frees the batches that lie wholly below `before`.
    pub(super) fn trim(&mut self, partition: PartitionId, before: Offset) {
        let Some(entries) = self.partitions.get_mut(partition.index()) else { return };
        while let Some(entry) = entries.pop_front_if(|entry| entry.batch.range.end() <= before) {
            self.bytes -= entry.bytes;
        }
    }

    fn drop_oldest(&mut self) {
        let age = |entries: &&mut VecDeque<Entry>| entries.front().map_or(u64::MAX, |entry| entry.pushed);
        if let Some(entry) = self.partitions.iter_mut().min_by_key(age).and_then(VecDeque::pop_front) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};

    use super::*;

    fn batch(partition: u32, start: u64, rows: usize) -> LogBatch {
        let values = Int64Array::from_iter_values(0..rows as i64);
        #[expect(clippy::unwrap_used, reason = "a test may panic")]
        let events = RecordBatch::try_from_iter([("value", Arc::new(values) as _)]).unwrap();
        LogBatch::consecutive(PartitionId(partition), Offset(start), 0, events)
    }

    fn starts(tail: &Tail, partition: u32, from: u64, rows_max: usize) -> Option<Vec<u64>> {
        let batches = tail.read(PartitionId(partition), Offset(from), rows_max)?;
        Some(batches.iter().map(|batch| batch.range.start().0).collect())
    }

    #[test]
    fn oldest_batches_of_all_partitions_leave_first() {
        let bytes = batch(0, 0, 100).events.get_array_memory_size();
        let mut tail = Tail::new(2, 3 * bytes);
        for (partition, start) in [(0, 0), (1, 0), (0, 100), (0, 200)] {
            tail.push(batch(partition, start, 100));
        }
        assert_eq!(starts(&tail, 0, 0, 1000), None, "the oldest batch has left");
        assert_eq!(starts(&tail, 0, 100, 1000), Some(vec![100, 200]));
        assert_eq!(starts(&tail, 1, 0, 1000), Some(vec![0]));

        tail.push(batch(0, 300, 1000));
        assert_eq!(starts(&tail, 0, 300, 1000), None, "a batch above the bound is not kept");
        assert_eq!(tail.bytes, 0);
    }

    #[test]
    fn reads_cut_the_first_batch_and_stop_at_the_wanted_rows() {
        let mut tail = Tail::new(1, usize::MAX);
        (0..3).for_each(|index| tail.push(batch(0, 10 * index, 10)));
        assert_eq!(starts(&tail, 0, 5, 5), Some(vec![5]));
        assert_eq!(starts(&tail, 0, 5, 6), Some(vec![5, 10]));
        assert_eq!(starts(&tail, 0, 10, 11), Some(vec![10, 20]));
        assert_eq!(starts(&tail, 0, 30, 1), None, "the end is not in the tail");
        tail.trim(PartitionId(0), Offset(19));
        assert_eq!(starts(&tail, 0, 10, 1), Some(vec![10]), "a batch that is partly below stays");
        tail.trim(PartitionId(0), Offset(20));
        assert_eq!(starts(&tail, 0, 10, 1), None);
    }
}
