//! Parquet files of a table: how batches become files, and what is known of a file without opening it.
//!
//! A file's statistics only prune: a reader skips a file, row group or page whose bounds exclude a predicate. So a
//! column whose bounds could lie has none. Those are floats (Parquet's bounds leave NaN out, but `NaN > 5` is true in
//! SQL here) and binary states (nobody compares them).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Utc};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use object_store::path::Path;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Type, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};
use watershed_shared::position::{OffsetRange, PartitionId};

use crate::checksum::{FileChecksum, block_checksums};
use crate::error::Result;

/// A Parquet file of a table; never changed once it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// Where it is in the object store.
    pub path: Path,
    /// Its size in bytes.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u64,
    /// Bounds of its columns.
    pub statistics: FileStatistics,
    /// In a history: every partition with events in the file, and the offsets between which they all are. `None` in
    /// other tables, and for files that another tool has rewritten: such a file may hold any event.
    pub offsets: Option<Vec<(PartitionId, OffsetRange)>>,
    /// What proves its bytes; `None` for files that were written before there were checksums.
    pub checksum: Option<FileChecksum>,
}

/// How batches are written to Parquet.
#[derive(Debug, Clone)]
pub struct EncodeOptions {
    /// Compression of pages.
    pub compression: Compression,
    /// Rows of a row group; readers prune and divide work by row groups.
    pub row_group_rows: usize,
    /// A file ends after the batch that brings it to this many rows.
    pub file_rows_max: u64,
    /// A file ends after the batch that brings it to about this many bytes. It is encoded in memory.
    pub file_bytes_max: usize,
    /// Columns with a Bloom filter in each row group, for point lookups.
    pub bloom_filter_columns: Vec<String>,
}

impl EncodeOptions {
    /// For the history: read in bulk, so row groups are large.
    pub fn history() -> EncodeOptions {
        EncodeOptions {
            compression: Compression::ZSTD(ZstdLevel::default()),
            row_group_rows: 256 << 10,
            file_rows_max: 1 << 20,
            file_bytes_max: 128 << 20,
            bloom_filter_columns: Vec::new(),
        }
    }

    /// For states of batch views: looked up by key too, so row groups are smaller.
    pub fn states() -> EncodeOptions {
        EncodeOptions { row_group_rows: 128 << 10, file_rows_max: u64::MAX, ..EncodeOptions::history() }
    }

    fn properties(&self, schema: &Schema) -> Result<WriterProperties> {
        let mut properties = WriterProperties::builder()
            .set_compression(self.compression)
            .set_max_row_group_row_count(Some(self.row_group_rows));
        for leaf in ArrowSchemaConverter::new().convert(schema)?.columns() {
            let binary = leaf.physical_type() == Type::BYTE_ARRAY && leaf.logical_type_ref().is_none();
            if binary {
                properties = properties.set_column_dictionary_enabled(leaf.path().clone(), false);
            }
            if binary || matches!(leaf.physical_type(), Type::FLOAT | Type::DOUBLE) {
                properties = properties.set_column_statistics_enabled(leaf.path().clone(), EnabledStatistics::None);
            }
        }
        for column in &self.bloom_filter_columns {
            let path = ColumnPath::from(column.clone());
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_max_ndv(path, self.row_group_rows as u64);
        }
        Ok(properties.build())
    }
}

/// A file that is complete but not stored yet.
#[derive(Debug)]
pub(crate) struct EncodedFile {
    pub(crate) bytes: Bytes,
    pub(crate) rows: u64,
    pub(crate) statistics: FileStatistics,
    pub(crate) checksum: FileChecksum,
}

/// Encodes batches, in their order, into one or more files. Pure CPU work.
#[derive(Debug)]
pub(crate) struct FileEncoder {
    schema: SchemaRef,
    properties: WriterProperties,
    rows_max: u64,
    bytes_max: usize,
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: u64,
}

impl FileEncoder {
    pub(crate) fn new(schema: SchemaRef, options: &EncodeOptions) -> Result<FileEncoder> {
        let properties = options.properties(&schema)?;
        let (rows_max, bytes_max) = (options.file_rows_max, options.file_bytes_max);
        Ok(FileEncoder { schema, properties, rows_max, bytes_max, writer: None, rows: 0 })
    }

    /// Takes a batch of the schema, and gives the file that this batch completes, if it does.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<Option<EncodedFile>> {
        // Checks types, and that columns that must not be null are not.
        let batch = RecordBatch::try_new(SchemaRef::clone(&self.schema), batch.columns().to_vec())?;
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let schema = SchemaRef::clone(&self.schema);
                self.writer.insert(ArrowWriter::try_new(Vec::new(), schema, Some(self.properties.clone()))?)
            }
        };
        writer.write(&batch)?;
        self.rows += batch.num_rows() as u64;
        let full = self.rows >= self.rows_max || writer.bytes_written() + writer.in_progress_size() >= self.bytes_max;
        if full { self.finish() } else { Ok(None) }
    }

    /// Completes the open file, if there is one.
    pub(crate) fn finish(&mut self) -> Result<Option<EncodedFile>> {
        let Some(mut writer) = self.writer.take() else { return Ok(None) };
        writer.flush()?;
        writer.sync().map_err(ParquetError::from)?;
        let tail_start = writer.inner().len();
        writer.append_key_value_metadata(block_checksums(writer.inner()));
        let metadata = writer.finish()?;
        let statistics = FileStatistics::of(&self.schema, &metadata)?;
        let bytes = Bytes::from(std::mem::take(writer.inner_mut()));
        let checksum = FileChecksum::of(&bytes, tail_start);
        Ok(Some(EncodedFile { bytes, rows: std::mem::take(&mut self.rows), statistics, checksum }))
    }
}

/// What a file's columns can hold. Columns without an entry can hold anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileStatistics {
    columns: BTreeMap<String, ColumnBounds>,
}

/// Bounds of one column of a file: no value lies outside them, though strings may lie strictly inside.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnBounds {
    /// A value that no value is below.
    pub min: ScalarValue,
    /// A value that no value is above.
    pub max: ScalarValue,
    /// How many rows are null.
    pub null_count: u64,
}

impl FileStatistics {
    /// Bounds of one column; `None` if unknown or if all its rows are null.
    pub fn column(&self, name: &str) -> Option<&ColumnBounds> {
        self.columns.get(name)
    }

    fn of(schema: &Schema, metadata: &ParquetMetaData) -> Result<FileStatistics> {
        let parquet_schema = metadata.file_metadata().schema_descr();
        let groups = || metadata.row_groups().iter();
        let mut columns = BTreeMap::new();
        for field in schema.fields().iter().filter(|field| has_bounds(field.data_type())) {
            let converter = StatisticsConverter::try_new(field.name(), schema, parquet_schema)?;
            let min = extreme(&converter.row_group_mins(groups())?, Ordering::Less)?;
            let max = extreme(&converter.row_group_maxes(groups())?, Ordering::Greater)?;
            let null_count = converter.row_group_null_counts(groups())?.iter().flatten().sum();
            if let (Some(min), Some(max)) = (min, max) {
                columns.insert(field.name().clone(), ColumnBounds { min, max, null_count });
            }
        }
        Ok(FileStatistics { columns })
    }

    /// Delta's form of a file's statistics. Bounds that it has no notation for are left out.
    pub(crate) fn to_json(&self, rows: u64) -> String {
        let (mut min_values, mut max_values, mut null_count) = (Map::new(), Map::new(), Map::new());
        for (name, bounds) in &self.columns {
            if let (Some(min), Some(max)) = (bound_to_json(&bounds.min), bound_to_json(&bounds.max)) {
                min_values.insert(name.clone(), min);
                max_values.insert(name.clone(), max);
                null_count.insert(name.clone(), bounds.null_count.into());
            }
        }
        json!({"numRecords": rows, "minValues": min_values, "maxValues": max_values, "nullCount": null_count})
            .to_string()
    }

    /// Reads Delta's form; gives the number of rows and the bounds. `None` without a number of rows.
    pub(crate) fn from_json(text: &str, schema: &Schema) -> Option<(u64, FileStatistics)> {
        let json: Value = serde_json::from_str(text).ok()?;
        let bounds = |name: &str, data_type: &DataType| {
            Some(ColumnBounds {
                min: bound_from_json(json.get("minValues")?.get(name)?, data_type, Ordering::Less)?,
                max: bound_from_json(json.get("maxValues")?.get(name)?, data_type, Ordering::Greater)?,
                null_count: json.get("nullCount")?.get(name)?.as_u64()?,
            })
        };
        let fields = schema.fields().iter();
        let columns = fields.filter_map(|f| Some((f.name().clone(), bounds(f.name(), f.data_type())?))).collect();
        Some((json.get("numRecords")?.as_u64()?, FileStatistics { columns }))
    }

    /// DataFusion's form, with which a scan skips whole files. It takes exact values for bounds, so they are called exact.
    pub(crate) fn to_datafusion(&self, rows: u64, bytes: u64, schema: &Schema) -> Statistics {
        let column = |field: &FieldRef| match self.columns.get(field.name()) {
            Some(bounds) if bounds.min.data_type() == *field.data_type() => ColumnStatistics {
                null_count: Precision::Exact(bounds.null_count as usize),
                min_value: Precision::Exact(bounds.min.clone()),
                max_value: Precision::Exact(bounds.max.clone()),
                ..ColumnStatistics::new_unknown()
            },
            _ => ColumnStatistics::new_unknown(),
        };
        Statistics {
            num_rows: Precision::Exact(rows as usize),
            total_byte_size: Precision::Inexact(bytes as usize),
            column_statistics: schema.fields().iter().map(column).collect(),
        }
    }
}

/// Types whose bounds Parquet and Delta's JSON both keep in full.
fn has_bounds(data_type: &DataType) -> bool {
    use DataType::{Date32, Int32, Int64, Timestamp, Utf8};
    matches!(data_type, Int32 | Int64 | Date32 | Timestamp(TimeUnit::Microsecond, _) | Utf8)
}

/// The value that compares as `wanted` with all others; row groups that hold only nulls have none.
fn extreme(values: &ArrayRef, wanted: Ordering) -> Result<Option<ScalarValue>> {
    let mut extreme: Option<ScalarValue> = None;
    for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
        let value = ScalarValue::try_from_array(values, row)?;
        if extreme.as_ref().is_none_or(|extreme| value.partial_cmp(extreme) == Some(wanted)) {
            extreme = Some(value);
        }
    }
    Ok(extreme)
}

fn bound_to_json(value: &ScalarValue) -> Option<Value> {
    Some(match value {
        ScalarValue::Int32(Some(value)) => json!(value),
        ScalarValue::Int64(Some(value)) => json!(value),
        ScalarValue::Utf8(Some(value)) => json!(value),
        ScalarValue::Date32(Some(days)) => {
            let date = epoch_day().checked_add_signed(chrono::TimeDelta::days((*days).into()))?;
            has_four_digits(date.year()).then(|| json!(date.to_string()))?
        }
        ScalarValue::TimestampMicrosecond(Some(micros), _) => {
            let time = DateTime::from_timestamp_micros(*micros)?;
            has_four_digits(time.year()).then(|| json!(time.to_rfc3339_opts(SecondsFormat::Micros, true)))?
        }
        _ => return None,
    })
}

/// Reads a bound. Other tools cut timestamps to milliseconds, so one that could be cut is rounded outwards.
fn bound_from_json(json: &Value, data_type: &DataType, side: Ordering) -> Option<ScalarValue> {
    Some(match data_type {
        DataType::Int32 => ScalarValue::Int32(Some(json.as_i64()?.try_into().ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(json.as_i64()?)),
        DataType::Utf8 => ScalarValue::Utf8(Some(json.as_str()?.to_owned())),
        DataType::Date32 => {
            let days = json.as_str()?.parse::<NaiveDate>().ok()?.signed_duration_since(epoch_day()).num_days();
            ScalarValue::Date32(Some(days.try_into().ok()?))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let text = json.as_str()?;
            let micros = text.parse::<DateTime<Utc>>().ok()?.timestamp_micros();
            let fraction = text.rsplit_once('.').map_or("", |(_, fraction)| fraction.trim_end_matches('Z'));
            let cut = side == Ordering::Greater && fraction.len() < 6;
            ScalarValue::TimestampMicrosecond(Some(micros.checked_add(if cut { 999 } else { 0 })?), zone.clone())
        }
        _ => return None,
    })
}

/// Years that every reader of Delta's JSON agrees on.
fn has_four_digits(year: i32) -> bool {
    (1..=9999).contains(&year)
}

fn epoch_day() -> NaiveDate {
    DateTime::UNIX_EPOCH.date_naive()
}

impl EncodedFile {
    /// The file as it is once stored at `path`.
    pub(crate) fn at(&self, path: Path) -> DataFile {
        let bytes = self.bytes.len() as u64;
        DataFile {
            path,
            bytes,
            rows: self.rows,
            statistics: self.statistics.clone(),
            offsets: None,
            checksum: Some(self.checksum),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::Field;
    use watershed_shared::event::timestamp_type;

    use super::*;

    fn encode(options: &EncodeOptions, columns: Vec<(&str, ArrayRef)>) -> Result<EncodedFile> {
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        let mut encoder = FileEncoder::new(Arc::clone(&schema), options)?;
        let written = encoder.write(&RecordBatch::try_new(schema, arrays)?)?;
        Ok(written.map_or_else(|| encoder.finish(), |file| Ok(Some(file)))?.unwrap_or_else(|| unreachable!()))
    }

    #[test]
    fn no_bound_excludes_a_value_of_the_file() -> Result<()> {
        let long = "é".repeat(100);
        let strings = StringArray::from(vec![Some("b"), None, Some(long.as_str()), Some("a")]);
        let times =
            TimestampMicrosecondArray::from(vec![Some(-1), Some(1_234_567), None, Some(3)]).with_timezone("UTC");
        let floats = Float64Array::from(vec![1.0, f64::NAN, 3.0, f64::INFINITY]);
        let options = EncodeOptions { row_group_rows: 2, ..EncodeOptions::history() };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("int", Arc::new(Int32Array::from(vec![None, Some(5), Some(-7), Some(2)]))),
            ("text", Arc::new(strings)),
            ("time", Arc::new(times)),
            ("float", Arc::new(floats)),
            ("none", Arc::new(Int32Array::from(vec![None; 4]))),
        ];
        let schema = Schema::new(
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect::<Vec<_>>(),
        );
        let file = encode(&options, columns)?;

        for statistics in [
            file.statistics.clone(),
            FileStatistics::from_json(&file.statistics.to_json(4), &schema).unwrap_or_default().1,
        ] {
            let int = statistics.column("int").map(|int| (int.min.clone(), int.max.clone(), int.null_count));
            assert_eq!(int, Some((ScalarValue::Int32(Some(-7)), ScalarValue::Int32(Some(5)), 1)));
            let text = statistics.column("text").map(|text| (text.min.clone(), text.max.clone()));
            let Some((ScalarValue::Utf8(Some(min)), ScalarValue::Utf8(Some(max)))) = text else { unreachable!() };
            assert!(min == "a" && max >= long && max.len() < 100, "{min:?} {max:?}");
            let time = statistics.column("time").map(|time| (time.min.clone(), time.max.clone()));
            let zone: Option<Arc<str>> = Some("UTC".into());
            let micros = |value| ScalarValue::TimestampMicrosecond(Some(value), zone.clone());
            assert_eq!(time, Some((micros(-1), micros(1_234_567))));
            assert!(statistics.column("float").is_none() && statistics.column("none").is_none());
        }
        Ok(())
    }

    #[test]
    fn bounds_cut_to_milliseconds_by_other_tools_are_rounded_outwards() {
        let schema = Schema::new(vec![Field::new("t", timestamp_type(), true)]);
        let json = r#"{"numRecords":1,"minValues":{"t":"1970-01-01T00:00:00.001Z"},
            "maxValues":{"t":"1970-01-01T00:00:00.001Z"},"nullCount":{"t":0}}"#;
        let read = FileStatistics::from_json(json, &schema).map(|(_, statistics)| statistics);
        let bounds = read.and_then(|statistics| statistics.column("t").cloned());
        let micros = |value| ScalarValue::TimestampMicrosecond(Some(value), Some("UTC".into()));
        assert_eq!(bounds.map(|bounds| (bounds.min, bounds.max)), Some((micros(1000), micros(1999))));
    }

    #[test]
    fn years_without_four_digits_have_no_bounds_in_json() {
        for micros in [i64::MIN, i64::MAX, -70_000_000_000_000_000] {
            assert_eq!(bound_to_json(&ScalarValue::TimestampMicrosecond(Some(micros), None)), None);
        }
        assert_eq!(bound_to_json(&ScalarValue::Date32(Some(i32::MAX))), None);
    }
}
