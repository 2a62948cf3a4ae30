//! Reads Arrow IPC streams: columns are matched by name and converted to the source's types without loss.
//!
//! Conversion is done by column. Values that cannot be converted refuse their rows; those are filtered out and the
//! rest is converted again, so that nothing of a refused row is left anywhere. A column whose type can never become
//! the declared one (numbers for a TEXT column) makes the whole body unreadable: the producer's program is wrong, not
//! a row.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, NullArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;

use super::arrow_convert::convert;
use super::plan::ObjectPlan;
use super::row::{Refusal, quoted, too_many_events};
use super::{DecodedEvents, EVENTS_MAX, EventFormat};
use crate::error::Result;
use crate::panics::catch_panic;

pub(super) fn decode(body: &[u8], plan: &ObjectPlan, columns: &SchemaRef) -> Result<DecodedEvents> {
    let unreadable = |reason: String| EventFormat::ArrowStream.unreadable(reason);
    let (schema, batches) = read_batches(body).map_err(unreadable)?;
    if batches.iter().map(RecordBatch::num_rows).try_fold(0_usize, usize::checked_add).is_none_or(|n| n > EVENTS_MAX) {
        return Err(unreadable(too_many_events()));
    }
    let matching = Matching::new(&schema, plan).map_err(unreadable)?;
    let mut rejected = Vec::new();
    let mut accepted = Vec::with_capacity(batches.len());
    let mut first_row = 0;
    for batch in batches {
        let rows = batch.num_rows();
        let (arrays, refused) = matching.convert(batch).map_err(unreadable)?;
        rejected.extend(refused.into_iter().map(|(row, refusal)| refusal.of_row(first_row + row)));
        accepted.push(RecordBatch::try_new(Arc::clone(columns), arrays)?);
        first_row += rows;
    }
    let events = match accepted.as_slice() {
        [batch] => batch.clone(),
        batches => concat_batches(columns, batches)?,
    };
    Ok(DecodedEvents { events, rejected })
}

/// The stream's schema and batches. arrow-ipc asserts some of what it reads instead of checking it, so that a damaged
/// body can make it panic; that stays here.
fn read_batches(body: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>), String> {
    let read = || -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
        let mut buffer = Buffer::from(body);
        let mut decoder = StreamDecoder::new();
        let mut batches = Vec::new();
        while let Some(batch) = decoder.decode(&mut buffer)? {
            batches.push(batch);
        }
        decoder.finish()?;
        let schema = decoder.schema().ok_or_else(|| ArrowError::IpcError("there is no schema".to_owned()))?;
        Ok((schema, batches))
    };
    match catch_panic(read) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("a message of it is damaged".to_owned()),
    }
}

/// Which of a batch's columns holds each of the source's.
pub(super) struct Matching<'a> {
    plan: &'a ObjectPlan,
    field_of_column: Vec<Option<usize>>,
}

impl<'a> Matching<'a> {
    /// Matches by name.
    ///
    /// # Errors
    /// A name is there twice, or none of the source's is.
    pub(super) fn new(schema: &Schema, plan: &'a ObjectPlan) -> Result<Matching<'a>, String> {
        let mut field_of_column = vec![None; plan.columns.len()];
        for (index, field) in schema.fields().iter().enumerate() {
            let Some(column) = plan.index_of(field.name()) else { continue };
            if field_of_column[column].replace(index).is_some() {
                return Err(format!("it has the column {} twice", quoted(field.name())));
            }
        }
        if field_of_column.iter().all(Option::is_none) {
            return Err(format!("it has none of the source's columns; they are: {}", plan.names()));
        }
        Ok(Matching { plan, field_of_column })
    }

    /// The source's columns of the rows that can be converted, and the other rows.
    ///
    /// # Errors
    /// No value of a column's type can ever become one of the source's column.
    pub(super) fn convert(&self, batch: RecordBatch) -> Result<(Vec<ArrayRef>, BTreeMap<usize, Refusal>), String> {
        let (arrays, refused) = self.convert_columns(&batch)?;
        if refused.is_empty() {
            return Ok((arrays, refused));
        }
        let keep: BooleanArray = (0..batch.num_rows()).map(|row| Some(!refused.contains_key(&row))).collect();
        let kept = filter_record_batch(&batch, &keep).map_err(|error| error.to_string())?;
        let (arrays, _) = self.convert_columns(&kept)?;
        Ok((arrays, refused))
    }

    /// The columns that can be converted as they are, and the rows for which the others can't be. Without such rows,
    /// those are all columns.
    fn convert_columns(&self, batch: &RecordBatch) -> Result<(Vec<ArrayRef>, BTreeMap<usize, Refusal>), String> {
        let mut arrays = Vec::with_capacity(self.plan.columns.len());
        let mut refused = BTreeMap::new();
        for (plan, field) in self.plan.columns.iter().zip(&self.field_of_column) {
            let source: ArrayRef = match field {
                Some(index) => Arc::clone(batch.column(*index)),
                None => Arc::new(NullArray::new(batch.num_rows())),
            };
            match convert(&source, plan, None).map_err(|reason| format!("column {}: {reason}", quoted(plan.name())))? {
                Ok(array) => arrays.push(array),
                Err(values) => {
                    for (row, refusal) in values {
                        refused.entry(row).or_insert_with(|| refusal.within(plan.name()));
                    }
                }
            }
        }
        Ok((arrays, refused))
    }
}
