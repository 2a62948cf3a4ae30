//! From records to the events of a source and to dead letters.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, ListBuilder, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
    StructBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::Timestamp;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::error::Result;
use crate::event::LogBatch;
use crate::format::{DecodedEvents, RecordDecoder, TIMESTAMP_RANGE};
use crate::position::{OffsetRange, PartitionId};
use crate::source::{MetadataColumn, RecordMetadata};

/// What a range of a partition's offsets holds; both stand for the same range.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) events: LogBatch,
    pub(super) dead_letters: LogBatch,
}

/// Decodes the records of one source's topic.
#[derive(Debug)]
pub(super) struct TopicDecoder {
    /// The source's declared columns.
    pub(super) columns: SchemaRef,
    /// The columns of dead letters, as `dead_letters_of` defines them.
    pub(super) dead_letter_columns: SchemaRef,
    pub(super) metadata: Vec<MetadataColumn>,
    /// Decodes values into the other columns.
    pub(super) values: RecordDecoder,
}

/// Why a record is no event.
struct Refused {
    column: Option<String>,
    reason: String,
}

impl TopicDecoder {
    /// Decodes records of one partition, in offset order, that are all there are in a range.
    ///
    /// # Errors
    /// `Retryable` when a schema cannot be fetched now; nothing is known of the records then.
    pub(super) fn decode(
        &self,
        partition: PartitionId,
        range: OffsetRange,
        records: &[BorrowedMessage<'_>],
    ) -> Result<Decoded> {
        let mut refused = BTreeMap::new();
        let mut values = Vec::with_capacity(records.len());
        let mut record_of_value = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            match self.value(record) {
                Ok(value) => {
                    values.push(value);
                    record_of_value.push(index);
                }
                Err(reason) => drop(refused.insert(index, reason)),
            }
        }
        let DecodedEvents { events, rejected } = self.values.decode(&values)?;
        refused.extend(rejected.into_iter().filter_map(|row| {
            Some((*record_of_value.get(row.row)?, Refused { column: row.column, reason: row.reason }))
        }));
        let good = |(index, record)| (!refused.contains_key(&index)).then_some(record);
        let good: Vec<&BorrowedMessage<'_>> = records.iter().enumerate().filter_map(good).collect();
        let events = self.with_metadata(partition, &good, &events)?;
        let bad: Vec<(&BorrowedMessage<'_>, Refused)> =
            refused.into_iter().filter_map(|(index, refused)| Some((records.get(index)?, refused))).collect();
        let dead_letters = self.dead_letters(&bad)?;
        let bad: Vec<&BorrowedMessage<'_>> = bad.into_iter().map(|(record, _)| record).collect();
        Ok(Decoded {
            events: LogBatch::listed(partition, range, offsets(&good), times_us(&good), events)?,
            dead_letters: LogBatch::listed(partition, range, offsets(&bad), times_us(&bad), dead_letters)?,
        })
    }

    /// The record's value, if the rest of the record fits its columns.
    fn value<'a>(&self, record: &'a BorrowedMessage<'_>) -> Result<&'a [u8], Refused> {
        for column in &self.metadata {
            let bytes = match &column.holds {
                RecordMetadata::Key => record.key(),
                RecordMetadata::Header(name) => last_header(record, name),
                _ => continue,
            };
            let nullable = self.columns.field_with_name(&column.name).is_ok_and(Field::is_nullable);
            let reason = match bytes {
                None if !nullable => "the record has none, but the column is NOT NULL",
                Some(bytes) if std::str::from_utf8(bytes).is_err() => "it is not UTF-8",
                _ => continue,
            };
            return Err(Refused { column: Some(column.name.clone()), reason: reason.to_owned() });
        }
        record.payload().ok_or_else(|| Refused {
            column: None,
            reason: "the record has no value; in a compacted topic it would delete its key".to_owned(),
        })
    }

    /// The source's columns from those of the values and from the records.
    fn with_metadata(
        &self,
        partition: PartitionId,
        records: &[&BorrowedMessage<'_>],
        values: &RecordBatch,
    ) -> Result<RecordBatch> {
        let mut rest = values.columns().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.fields().len());
        for field in self.columns.fields() {
            let metadata = self.metadata.iter().find(|column| column.name == *field.name());
            match metadata {
                Some(metadata) => columns.push(metadata_column(partition, records, &metadata.holds, field)),
                None => columns.extend(rest.next().cloned()),
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.columns), columns, &options)?)
    }

    fn dead_letters(&self, records: &[(&BorrowedMessage<'_>, Refused)]) -> Result<RecordBatch> {
        let (mut keys, mut values) = (Bytes::default(), Bytes::default());
        for (record, _) in records {
            keys.push(record.key());
            values.push(record.payload());
        }
        let reasons = StringArray::from_iter_values(records.iter().map(|(_, refused)| &refused.reason));
        let columns = records.iter().map(|(_, refused)| refused.column.as_deref()).collect::<StringArray>();
        let headers = headers_column(records.iter().map(|(record, _)| *record));
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(reasons),
            Arc::new(columns),
            Arc::new(keys.text.finish()),
            Arc::new(values.text.finish()),
            Arc::new(keys.base64.finish()),
            Arc::new(values.base64.finish()),
            headers,
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.dead_letter_columns), arrays)?)
    }
}

/// Bytes as text, where they are UTF-8, and in base64 where they are not.
#[derive(Default)]
struct Bytes {
    text: StringBuilder,
    base64: StringBuilder,
}

impl Bytes {
    fn push(&mut self, bytes: Option<&[u8]>) {
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        self.text.append_option(text);
        self.base64.append_option(bytes.filter(|_| text.is_none()).map(|bytes| BASE64.encode(bytes)));
    }
}

fn metadata_column(
    partition: PartitionId,
    records: &[&BorrowedMessage<'_>],
    holds: &RecordMetadata,
    field: &Field,
) -> ArrayRef {
    match holds {
        RecordMetadata::Key => Arc::new(records.iter().map(|record| text(record.key())).collect::<StringArray>()),
        RecordMetadata::Header(name) => {
            Arc::new(records.iter().map(|record| text(last_header(record, name))).collect::<StringArray>())
        }
        RecordMetadata::Topic => {
            Arc::new(StringArray::from_iter_values(records.iter().map(|record| record.topic().to_owned())))
        }
        RecordMetadata::Partition => Arc::new(Int32Array::from_value(partition.0 as i32, records.len())),
        RecordMetadata::Offset => Arc::new(Int64Array::from(offsets(records))),
        RecordMetadata::Timestamp => {
            Arc::new(TimestampMicrosecondArray::from(times_us(records)).with_data_type(field.data_type().clone()))
        }
        RecordMetadata::Headers => headers_column(records.iter().copied()),
    }
}

/// All headers of records; what of them is not UTF-8 is replaced, because headers are annotations.
fn headers_column<'a>(records: impl Iterator<Item = &'a BorrowedMessage<'a>>) -> ArrayRef {
    let fields = ["key", "value"].map(|name| Field::new(name, DataType::Utf8, true));
    let text = || Box::new(StringBuilder::new()) as Box<dyn arrow::array::ArrayBuilder>;
    let mut lists = ListBuilder::new(StructBuilder::new(fields.to_vec(), vec![text(), text()]));
    for record in records {
        for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
            let item = lists.values();
            let value = header.value.map(String::from_utf8_lossy);
            for (index, text) in [Some(Cow::Borrowed(header.key)), value].into_iter().enumerate() {
                if let Some(builder) = item.field_builder::<StringBuilder>(index) {
                    builder.append_option(text);
                }
            }
            item.append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

fn last_header<'a>(record: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    let headers = record.headers()?;
    (0..headers.count()).rev().map(|index| headers.get(index)).find(|header| header.key == name)?.value
}

/// Bytes that have been found to be UTF-8.
fn text(bytes: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(bytes?).ok()
}

fn offsets(records: &[&BorrowedMessage<'_>]) -> Vec<i64> {
    records.iter().map(|record| record.offset()).collect()
}

/// The records' timestamps in microseconds, within the range of TIMESTAMP: any client can write any number.
fn times_us(records: &[&BorrowedMessage<'_>]) -> Vec<i64> {
    let time_us = |record: &&BorrowedMessage<'_>| match record.timestamp() {
        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => {
            ms.saturating_mul(1000).clamp(*TIMESTAMP_RANGE.start(), *TIMESTAMP_RANGE.end())
        }
        Timestamp::NotAvailable => 0,
    };
    records.iter().map(time_us).collect()
}
