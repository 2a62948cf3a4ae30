//! Events as Arrow batches on their way from the log to the layers.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};

use crate::error::Result;
use crate::position::{OffsetRange, PartitionId};

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

/// Consecutive events of one partition, as the log holds them.
#[derive(Debug, Clone)]
pub struct LogBatch {
    /// Partition that holds the events.
    pub partition: PartitionId,
    /// Offsets of the events; as long as `events` has rows.
    pub range: OffsetRange,
    /// When the platform first saw the events; microseconds since the epoch.
    pub ingested_at_us: i64,
    /// The events in offset order, in the source's declared columns.
    pub events: RecordBatch,
}

impl LogBatch {
    /// The events with their system columns, in `event_schema`'s order; shares the declared columns' memory.
    pub fn with_system_columns(&self, event_schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = self.events.num_rows();
        let partition = Int32Array::from_value(self.partition.0 as i32, rows);
        let start = self.range.start().0 as i64;
        let offset = Int64Array::from_iter_values(start..start + rows as i64);
        let ingested_at = TimestampMicrosecondArray::from_value(self.ingested_at_us, rows).with_timezone("UTC");
        let system: [ArrayRef; 3] = [Arc::new(partition), Arc::new(offset), Arc::new(ingested_at)];
        let columns = self.events.columns().iter().cloned().chain(system).collect();
        Ok(RecordBatch::try_new(Arc::clone(event_schema), columns)?)
    }
}
