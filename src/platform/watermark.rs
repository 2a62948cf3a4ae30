//! How far event time has come in each partition of a source.

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::TimestampMicrosecondType;
use watershed_shared::position::PartitionId;
use watershed_shared::source::{SourceDefinition, WatermarkDefinition};

/// The largest event time of each partition, and the watermark that follows from them.
#[derive(Debug, Clone)]
pub(super) struct Watermark {
    definition: Option<WatermarkDefinition>,
    max_event_times_us: Vec<Option<i64>>,
}

impl Watermark {
    /// Continues from what the history knows.
    pub(super) fn new(source: &SourceDefinition, max_event_times_us: &[Option<i64>]) -> Watermark {
        let mut times = max_event_times_us.to_vec();
        times.resize(times.len().max(source.partitions as usize), None);
        Watermark { definition: source.watermark.clone(), max_event_times_us: times }
    }

    /// Notes the event times of a partition's next events.
    pub(super) fn observe(&mut self, partition: PartitionId, events: &RecordBatch) {
        let Some(definition) = &self.definition else { return };
        let times =
            events.column_by_name(&definition.column).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let largest = times.and_then(max);
        if self.max_event_times_us.len() <= partition.index() {
            // A topic may get more partitions.
            self.max_event_times_us.resize(partition.index() + 1, None);
        }
        let known = &mut self.max_event_times_us[partition.index()];
        *known = (*known).max(largest);
    }

    /// Largest event time of each partition; microseconds since the epoch.
    pub(super) fn max_event_times_us(&self) -> &[Option<i64>] {
        &self.max_event_times_us
    }

    /// Those of the first `partitions` of which no event time is known.
    pub(super) fn timeless(&self, partitions: u32) -> Vec<PartitionId> {
        let is_unknown =
            |partition: &PartitionId| self.max_event_times_us.get(partition.index()).is_none_or(Option::is_none);
        (0..partitions).map(PartitionId).filter(is_unknown).collect()
    }

    /// The slowest partition's largest event time less the delay; partitions without events do not hold it back.
    pub(super) fn current_us(&self) -> Option<i64> {
        let delay_us = self.definition.as_ref()?.delay_us;
        self.max_event_times_us.iter().flatten().min().map(|time| time.saturating_sub(delay_us))
    }
}
