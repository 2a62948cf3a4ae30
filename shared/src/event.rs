//! Events as Arrow batches on their way from the log to the layers.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use crate::error::Result;
use crate::position::{Offset, OffsetRange, PartitionId};

/// Name of the column that holds an event's partition; INT, not null.
pub const PARTITION_COLUMN: &str = "_partition";
/// Name of the column that holds an event's offset in its partition; BIGINT, not null.
pub const OFFSET_COLUMN: &str = "_offset";
/// Name of the column that holds when the platform first saw the event; TIMESTAMP, not null.
pub const INGESTED_AT_COLUMN: &str = "_ingested_at";

/// The one timestamp type of the platform: microseconds since the epoch, UTC.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The schema that views read and the history stores: the declared columns, then `_partition`, `_offset`, `_ingested_at`.
pub fn event_schema(columns: &Schema) -> SchemaRef {
    let system = [
        Field::new(PARTITION_COLUMN, DataType::Int32, false),
        Field::new(OFFSET_COLUMN, DataType::Int64, false),
        Field::new(INGESTED_AT_COLUMN, timestamp_type(), false),
    ];
    let fields: Vec<FieldRef> = columns.fields().iter().cloned().chain(system.into_iter().map(Arc::new)).collect();
    Arc::new(Schema::new(fields))
}

/// Events of one partition, in offset order, and the offsets that they stand for.
#[derive(Debug, Clone)]
pub struct LogBatch {
    /// Partition that holds the events.
    pub partition: PartitionId,
    /// The offsets that the batch stands for: every event of the log at one of them is in it.
    pub range: OffsetRange,
    /// The events in offset order, in the source's declared columns.
    pub events: RecordBatch,
    places: Places,
}

/// Where each event of a batch is, and when it came.
#[derive(Debug, Clone)]
enum Places {
    /// One event at each offset; all came at the same time, in microseconds since the epoch.
    Consecutive { ingested_at_us: i64 },
    /// Events at some of the offsets, in their order, each with its own time.
    Listed { offsets: Int64Array, ingested_at: TimestampMicrosecondArray },
    /// Nobody knows.
    Lost,
}

impl LogBatch {
    /// Events at consecutive offsets from `start` that the platform first saw at the same time.
    pub fn consecutive(partition: PartitionId, start: Offset, ingested_at_us: i64, events: RecordBatch) -> LogBatch {
        let range = OffsetRange::new(start, start.advance(events.num_rows()));
        LogBatch { partition, range, events, places: Places::Consecutive { ingested_at_us } }
    }

    /// Events at some offsets of a range, each with the time at which the log took it; offsets that are not listed hold
    /// no event of the source, as in a Kafka topic those of transaction markers and of compacted records.
    ///
    /// # Errors
    /// When the numbers of events, offsets and times differ, or an offset is outside of the range or does not rise.
    pub fn listed(
        partition: PartitionId,
        range: OffsetRange,
        offsets: Vec<i64>,
        ingested_at_us: Vec<i64>,
        events: RecordBatch,
    ) -> Result<LogBatch> {
        let rises = offsets.is_sorted_by(|earlier, later| earlier < later);
        let is_inside = |offset: &i64| u64::try_from(*offset).is_ok_and(|offset| range.contains(Offset(offset)));
        let rows = events.num_rows();
        if offsets.len() != rows || ingested_at_us.len() != rows || !rises || !offsets.iter().all(is_inside) {
            let reason =
                format!("{rows} events at {} rising offsets in {range} of partition {partition}", offsets.len());
            return Err(ArrowError::InvalidArgumentError(format!("these are not {reason}")).into());
        }
        let ingested_at = TimestampMicrosecondArray::from(ingested_at_us).with_timezone("UTC");
        Ok(LogBatch { partition, range, events, places: Places::Listed { offsets: offsets.into(), ingested_at } })
    }

    /// A range whose events nobody can read any more, although it may have held some; `none` are no events in the source's
    /// columns.
    pub fn lost(partition: PartitionId, range: OffsetRange, none: RecordBatch) -> LogBatch {
        LogBatch { partition, range, events: none.slice(0, 0), places: Places::Lost }
    }

    /// Whether the range's events cannot be read any more.
    pub fn is_lost(&self) -> bool {
        matches!(self.places, Places::Lost)
    }

    /// When the platform or the log first saw the first event; `None` without events. Microseconds since the epoch.
    pub fn ingested_at_us(&self) -> Option<i64> {
        match &self.places {
            _ if self.events.num_rows() == 0 => None,
            Places::Consecutive { ingested_at_us } => Some(*ingested_at_us),
            Places::Listed { ingested_at, .. } => Some(ingested_at.value(0)),
            Places::Lost => None,
        }
    }

    /// Offset of the last event; `None` without events.
    pub fn last_offset(&self) -> Option<Offset> {
        let last = self.events.num_rows().checked_sub(1)?;
        match &self.places {
            Places::Consecutive { .. } => Some(self.range.start().advance(last)),
            Places::Listed { offsets, .. } => Some(Offset(offsets.value(last) as u64)),
            Places::Lost => None,
        }
    }

    /// When the platform or the log first saw the last event; `None` without events. Microseconds since the epoch.
    pub fn last_time_us(&self) -> Option<i64> {
        let last = self.events.num_rows().checked_sub(1)?;
        match &self.places {
            Places::Consecutive { ingested_at_us } => Some(*ingested_at_us),
            Places::Listed { ingested_at, .. } => Some(ingested_at.value(last)),
            Places::Lost => None,
        }
    }

    /// What of the batch lies between two offsets; shares the events' memory.
    #[must_use]
    pub fn between(&self, start: Offset, end: Offset) -> LogBatch {
        let start = start.clamp(self.range.start(), self.range.end());
        let range = OffsetRange::new(start, end.clamp(start, self.range.end()));
        let rows_below = |offset: Offset| match &self.places {
            Places::Consecutive { .. } => (offset.0 - self.range.start().0) as usize,
            Places::Listed { offsets, .. } => offsets.values().partition_point(|event| (*event as u64) < offset.0),
            Places::Lost => 0,
        };
        let first = rows_below(range.start());
        let rows = rows_below(range.end()) - first;
        let places = match &self.places {
            Places::Consecutive { ingested_at_us } => Places::Consecutive { ingested_at_us: *ingested_at_us },
            Places::Listed { offsets, ingested_at } => {
                Places::Listed { offsets: offsets.slice(first, rows), ingested_at: ingested_at.slice(first, rows) }
            }
            Places::Lost => Places::Lost,
        };
        LogBatch { partition: self.partition, range, events: self.events.slice(first, rows), places }
    }

    /// The events with their system columns, in `event_schema`'s order; shares the declared columns' memory.
    pub fn with_system_columns(&self, event_schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = self.events.num_rows();
        let partition = Int32Array::from_value(self.partition.0 as i32, rows);
        let (offset, ingested_at) = match &self.places {
            Places::Consecutive { ingested_at_us } => {
                let start = self.range.start().0 as i64;
                let ingested_at = TimestampMicrosecondArray::from_value(*ingested_at_us, rows).with_timezone("UTC");
                (Int64Array::from_iter_values(start..start + rows as i64), ingested_at)
            }
            Places::Listed { offsets, ingested_at } => (offsets.clone(), ingested_at.clone()),
            Places::Lost => (Int64Array::new_null(0), TimestampMicrosecondArray::new_null(0).with_timezone("UTC")),
        };
        let system: [ArrayRef; 3] = [Arc::new(partition), Arc::new(offset), Arc::new(ingested_at)];
        let columns = self.events.columns().iter().cloned().chain(system).collect();
        Ok(RecordBatch::try_new(Arc::clone(event_schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::compute::cast;
    use arrow::datatypes::Int64Type;

    use super::*;

    fn numbers(numbers: impl IntoIterator<Item = i64>) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap_or_else(|error| panic!("{error}"))
    }

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end))
    }

    /// Offsets, times and events of what `between` leaves.
    fn cut(batch: &LogBatch, start: u64, end: u64) -> Result<(OffsetRange, Vec<[i64; 3]>)> {
        let cut = batch.between(Offset(start), Offset(end));
        let rows = cut.with_system_columns(&event_schema(&batch.events.schema()))?;
        let column = |name: &str| cast(&rows[name], &DataType::Int64);
        let (n, offset, time) = (column("n")?, column(OFFSET_COLUMN)?, column(INGESTED_AT_COLUMN)?);
        let (n, offset, time) = (n.as_primitive::<Int64Type>(), offset.as_primitive(), time.as_primitive());
        let rows = n.values().iter().zip(Int64Array::values(offset)).zip(Int64Array::values(time));
        Ok((cut.range, rows.map(|((n, offset), time)| [*n, *offset, *time]).collect()))
    }

    #[test]
    fn consecutive_events_are_cut_by_their_offsets() -> Result<()> {
        let batch = LogBatch::consecutive(PartitionId(0), Offset(10), 7, numbers(0..4));
        assert_eq!(batch.ingested_at_us(), Some(7));
        assert_eq!(cut(&batch, 0, 99)?.0, range(10, 14));
        assert_eq!(cut(&batch, 11, 13)?, (range(11, 13), vec![[1, 11, 7], [2, 12, 7]]));
        assert_eq!(cut(&batch, 14, 99)?, (range(14, 14), vec![]));
        Ok(())
    }

    #[test]
    fn listed_events_keep_their_places_and_the_gaps_between_them() -> Result<()> {
        let batch = LogBatch::listed(PartitionId(0), range(5, 20), vec![6, 9, 15], vec![1, 2, 3], numbers(0..3))?;
        assert_eq!(batch.ingested_at_us(), Some(1));
        assert_eq!(cut(&batch, 0, 99)?, (range(5, 20), vec![[0, 6, 1], [1, 9, 2], [2, 15, 3]]));
        assert_eq!(cut(&batch, 7, 15)?, (range(7, 15), vec![[1, 9, 2]]));
        assert_eq!(cut(&batch, 10, 15)?, (range(10, 15), vec![]), "a range without events is a range");
        assert_eq!(batch.between(Offset(16), Offset(20)).ingested_at_us(), None);
        for (offsets, times) in [
            (vec![6, 6, 7], vec![0; 3]),
            (vec![4, 6, 7], vec![0; 3]),
            (vec![6, 7, 20], vec![0; 3]),
            (vec![6, 7], vec![0; 2]),
        ] {
            assert!(LogBatch::listed(PartitionId(0), range(5, 20), offsets, times, numbers(0..3)).is_err());
        }
        Ok(())
    }
}
