//! Decides which partition of a source's log an event goes to.
//!
//! Events with the same value of the `partition_by` column share a partition, so their order is kept. The partition is
//! the xxh64 of a canonical byte form of the value, modulo the number of partitions. Both are pinned by a golden test:
//! a change would move users' keys to other partitions and mix up their order.

use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use twox_hash::XxHash64;

use crate::error::{Error, Result};
use crate::position::PartitionId;
use crate::source::SourceDefinition;

/// Splits the decoded batches of one source among its partitions. Shared between tasks.
#[derive(Debug)]
pub struct Partitioner {
    partitions: u32,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    /// The hash of the value in this column decides.
    Column(usize),
    /// Each batch goes to the partition after the last one's.
    RoundRobin(AtomicU32),
}

/// Whether `partition_by` can name a column of this type: all but arrays and structs.
pub fn can_partition_by(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal128(_, _)
            | DataType::Utf8
            | DataType::Date32
            | DataType::Timestamp(TimeUnit::Microsecond, _)
    )
}

impl Partitioner {
    /// The partitioner that a source's definition asks for.
    ///
    /// # Errors
    /// `Invalid` when `partition_by` names no column, or one whose type `can_partition_by` refuses.
    pub fn new(source: &SourceDefinition) -> Result<Partitioner> {
        let rule = match &source.partition_by {
            Some(column) => Rule::Column(partition_column(source, column)?),
            None => Rule::RoundRobin(AtomicU32::new(0)),
        };
        Ok(Partitioner { partitions: source.partitions, rule })
    }

    /// The rows of each partition that gets any, by ascending partition; rows of one partition keep their order.
    pub fn split(&self, events: &RecordBatch) -> Result<Vec<(PartitionId, RecordBatch)>> {
        if events.num_rows() == 0 {
            return Ok(Vec::new());
        }
        match &self.rule {
            _ if self.partitions == 1 => Ok(vec![(PartitionId(0), events.clone())]),
            Rule::RoundRobin(next) => {
                let partition = next.fetch_add(1, Ordering::Relaxed) % self.partitions;
                Ok(vec![(PartitionId(partition), events.clone())])
            }
            Rule::Column(index) => {
                let rows = rows_by_partition(events.column(*index), self.partitions)?;
                take_partitions(events, rows)
            }
        }
    }
}

fn partition_column(source: &SourceDefinition, column: &str) -> Result<usize> {
    let invalid = |reason, hint| Error::InvalidDefinition { line: 1, column: 1, reason, hint: Some(hint) };
    let Some((index, field)) = source.columns.column_with_name(column) else {
        let names: Vec<_> = source.columns.fields().iter().map(|field| field.name().as_str()).collect();
        let reason = format!("source \"{}\" has no column \"{column}\" to partition by", source.name);
        return Err(invalid(reason, format!("name one of: {}", names.join(", "))));
    };
    if !can_partition_by(field.data_type()) {
        let reason = format!("source \"{}\" cannot be partitioned by \"{column}\", an array or struct", source.name);
        return Err(invalid(reason, "name a column of a scalar type".to_owned()));
    }
    Ok(index)
}

/// Indexes of the rows of each partition, ascending.
fn rows_by_partition(values: &dyn Array, partitions: u32) -> Result<Vec<Vec<u32>>> {
    let assigned = assign_partitions(values, partitions)?;
    let mut counts = vec![0; partitions as usize];
    for partition in &assigned {
        counts[*partition as usize] += 1;
    }
    let mut rows: Vec<Vec<u32>> = counts.into_iter().map(Vec::with_capacity).collect();
    for (row, partition) in assigned.into_iter().enumerate() {
        rows[partition as usize].push(row as u32);
    }
    Ok(rows)
}

fn take_partitions(events: &RecordBatch, rows: Vec<Vec<u32>>) -> Result<Vec<(PartitionId, RecordBatch)>> {
    let mut taken = Vec::new();
    for (partition, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let whole = rows.len() == events.num_rows();
        let batch = if whole { events.clone() } else { take_record_batch(events, &UInt32Array::from(rows))? };
        taken.push((PartitionId(partition as u32), batch));
    }
    Ok(taken)
}

/// The partition of each value. The byte forms, little endian: a boolean is one byte; INT, BIGINT, DATE (days) and
/// TIMESTAMP (microseconds) are 8; FLOAT and DOUBLE are the 8 of the double, with one zero and one NaN; a decimal is
/// the 16 of its unscaled value; TEXT is its UTF-8. NULL has none and goes to partition 0.
fn assign_partitions(values: &dyn Array, partitions: u32) -> Result<Vec<u32>> {
    let long = |value: i64| partition_of(&value.to_le_bytes(), partitions);
    let double = |value: f64| partition_of(&canonical_bits(value).to_le_bytes(), partitions);
    let assigned = match values.data_type() {
        DataType::Boolean => assign(values.as_boolean().iter(), |value| partition_of(&[value.into()], partitions)),
        DataType::Int32 => assign(values.as_primitive::<Int32Type>().iter(), |value| long(value.into())),
        DataType::Int64 => assign(values.as_primitive::<Int64Type>().iter(), long),
        DataType::Date32 => assign(values.as_primitive::<Date32Type>().iter(), |days| long(days.into())),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            assign(values.as_primitive::<TimestampMicrosecondType>().iter(), long)
        }
        DataType::Float32 => assign(values.as_primitive::<Float32Type>().iter(), |value| double(value.into())),
        DataType::Float64 => assign(values.as_primitive::<Float64Type>().iter(), double),
        DataType::Decimal128(_, _) => assign(values.as_primitive::<Decimal128Type>().iter(), |unscaled| {
            partition_of(&unscaled.to_le_bytes(), partitions)
        }),
        DataType::Utf8 => assign(values.as_string::<i32>().iter(), |text| partition_of(text.as_bytes(), partitions)),
        other => return Err(ArrowError::InvalidArgumentError(format!("{other} values have no partition")).into()),
    };
    Ok(assigned)
}

fn assign<T>(values: impl Iterator<Item = Option<T>>, partition_of: impl Fn(T) -> u32) -> Vec<u32> {
    values.map(|value| value.map_or(0, &partition_of)).collect()
}

fn partition_of(value: &[u8], partitions: u32) -> u32 {
    (XxHash64::oneshot(0, value) % u64::from(partitions)) as u32
}

/// Equal numbers have equal bits: minus zero is zero and every NaN is the same.
fn canonical_bits(value: f64) -> u64 {
    const NAN: u64 = 0x7ff8_0000_0000_0000;
    if value.is_nan() { NAN } else { (value + 0.0).to_bits() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
        StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn source(data_type: DataType, partitions: u32, partition_by: Option<&str>) -> SourceDefinition {
        let columns = [Field::new("key", data_type, true), Field::new("row", DataType::Int64, false)];
        let mut source = SourceDefinition::new("keyed", "", Arc::new(Schema::new(columns.to_vec())));
        source.partitions = partitions;
        source.partition_by = partition_by.map(str::to_owned);
        source
    }

    /// The rows that `split` sends to each partition.
    fn split(keys: ArrayRef, partitioner: &Partitioner) -> Vec<(u32, Vec<i64>)> {
        let rows: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys.len() as i64));
        let events = RecordBatch::try_from_iter_with_nullable([("key", keys, true), ("row", rows, false)]).unwrap();
        let split = partitioner.split(&events).unwrap();
        let rows = |batch: &RecordBatch| batch.column(1).as_primitive::<Int64Type>().values().to_vec();
        split.iter().map(|(partition, batch)| (partition.0, rows(batch))).collect()
    }

    #[test]
    fn values_keep_their_partition_forever() {
        let timestamps = TimestampMicrosecondArray::from(vec![0, 1_700_000_000_000_000]).with_timezone("UTC");
        let decimals = Decimal128Array::from(vec![-1, 12345]).with_precision_and_scale(20, 2).unwrap();
        let assigned = |values: &dyn Array| assign_partitions(values, 1000).unwrap();
        let text = StringArray::from(vec![Some(""), Some("page"), Some("Zürich"), None]);
        assert_eq!(assigned(&text), TEXT);
        assert_eq!(assigned(&BooleanArray::from(vec![Some(false), Some(true), None])), BOOLEANS);
        assert_eq!(assigned(&Int64Array::from(vec![Some(0), Some(-1), Some(42), None])), INTEGERS);
        assert_eq!(assigned(&Int32Array::from(vec![Some(0), Some(-1), Some(42), None])), INTEGERS);
        assert_eq!(assigned(&Date32Array::from(vec![Some(0), Some(-1), Some(42), None])), INTEGERS);
        assert_eq!(assigned(&timestamps), TIMESTAMPS);
        assert_eq!(assigned(&Float64Array::from(vec![0.0, -0.0, 1.5, f64::NAN, -f64::NAN])), FLOATS);
        assert_eq!(assigned(&Float32Array::from(vec![0.0, -0.0, 1.5, f32::NAN, -f32::NAN])), FLOATS);
        assert_eq!(assigned(&decimals), DECIMALS);
    }

    /// Computed by the reference implementation of xxHash.
    const TEXT: [u32; 4] = [921, 543, 233, 0];
    const BOOLEANS: [u32; 3] = [544, 960, 0];
    const INTEGERS: [u32; 4] = [579, 761, 587, 0];
    const TIMESTAMPS: [u32; 2] = [579, 85];
    const FLOATS: [u32; 5] = [579, 579, 977, 196, 196];
    const DECIMALS: [u32; 2] = [28, 13];

    #[test]
    fn equal_values_share_a_partition_and_keep_their_order() {
        let partitioner = Partitioner::new(&source(DataType::Utf8, 4, Some("key"))).unwrap();
        let keys: Vec<_> = (0..1000).map(|row| (row % 7 != 0).then(|| format!("key {}", row % 13))).collect();
        let split = split(Arc::new(StringArray::from(keys.clone())), &partitioner);
        assert!(split.len() > 1 && split.is_sorted_by_key(|(partition, _)| *partition));
        let mut seen = vec![None; keys.len()];
        for (partition, rows) in split {
            assert!(rows.is_sorted(), "partition {partition} has its rows in another order");
            rows.into_iter().for_each(|row| assert_eq!(seen[row as usize].replace(partition), None));
        }
        for (row, partition) in seen.iter().enumerate() {
            let same_key = keys.iter().position(|key| *key == keys[row]).unwrap();
            assert_eq!(*partition, seen[same_key], "row {row}");
            assert!(keys[row].is_some() || *partition == Some(0), "NULL goes to partition 0");
        }
    }

    #[test]
    fn batches_go_round_robin_without_a_column() {
        let partitioner = Partitioner::new(&source(DataType::Utf8, 3, None)).unwrap();
        let one = || -> ArrayRef { Arc::new(StringArray::from(vec!["a", "b"])) };
        let partitions: Vec<_> = (0..4).map(|_| split(one(), &partitioner)).collect();
        assert_eq!(partitions, [0, 1, 2, 0].map(|partition| vec![(partition, vec![0, 1])]));
        let empty = split(Arc::new(StringArray::new_null(0)), &partitioner);
        assert_eq!(empty, [], "an empty batch takes no turn");
        assert_eq!(split(one(), &partitioner)[0].0, 1);
    }

    #[test]
    fn columns_without_a_partition_are_refused() {
        let list = DataType::new_list(DataType::Int32, true);
        for refused in [source(list, 2, Some("key")), source(DataType::Utf8, 2, Some("absent"))] {
            assert!(matches!(Partitioner::new(&refused), Err(Error::InvalidDefinition { .. })));
        }
    }
}
