//! Rows as records of a topic: key and value are JSON objects, their values spelled as in answers, or Avro records.

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use arrow_avro::writer::EncodedRows;
use watershed_shared::sink::Records;

use super::avro::AvroForm;
use super::json::{value_encoders, value_options};

/// Spells rows of one schema as records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWriter {
    key: Vec<usize>,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Json,
    /// Key and value with the ids of their schemas.
    Avro {
        key: Option<(AvroForm, u32)>,
        value: (AvroForm, u32),
    },
}

impl RecordWriter {
    /// JSON objects: the value has all columns, the key those at the places `key`; no key without any.
    pub fn json(key: Vec<usize>) -> RecordWriter {
        RecordWriter { key, form: Form::Json }
    }

    /// The same as Avro records; each schema comes with the id that the registry has given it.
    pub fn avro(key: Vec<usize>, key_form: Option<(AvroForm, u32)>, value_form: (AvroForm, u32)) -> RecordWriter {
        RecordWriter { key, form: Form::Avro { key: key_form, value: value_form } }
    }

    /// The ids of the schemas of values and keys, in that order; none in JSON.
    pub fn schema_ids(&self) -> Vec<u32> {
        match &self.form {
            Form::Json => Vec::new(),
            Form::Avro { key, value: (_, value_id) } => {
                std::iter::once(*value_id).chain(key.as_ref().map(|(_, key_id)| *key_id)).collect()
            }
        }
    }

    /// A record for each row of `rows`.
    ///
    /// # Errors
    /// A column's type has no JSON form, or a value none in Avro.
    pub fn records(&self, rows: &RecordBatch) -> Result<Records, ArrowError> {
        let keys = rows.project(&self.key)?;
        match &self.form {
            Form::Json => {
                let options = value_options();
                let (mut key, mut value) = (Members::of(&keys, &options)?, Members::of(rows, &options)?);
                let has_key = !self.key.is_empty();
                let key = |row, out: &mut Vec<u8>| key.write(row, out);
                Ok(push_all(
                    rows.num_rows(),
                    has_key.then_some(key),
                    Some(|row, out: &mut Vec<u8>| value.write(row, out)),
                ))
            }
            Form::Avro { key, value: (value, id) } => {
                let key = key.as_ref().map(|(key, id)| key.encode(&keys, *id)).transpose()?;
                let value = value.encode(rows, *id)?;
                Ok(push_all(rows.num_rows(), key.as_ref().map(row_of), Some(row_of(&value))))
            }
        }
    }

    /// A record without value for each of `keys`: there is no such row any more.
    ///
    /// # Errors
    /// As [`RecordWriter::records`].
    pub fn tombstones(&self, keys: &RecordBatch) -> Result<Records, ArrowError> {
        let no_value = None::<fn(usize, &mut Vec<u8>)>;
        match &self.form {
            Form::Json => {
                let options = value_options();
                let mut key = Members::of(keys, &options)?;
                Ok(push_all(keys.num_rows(), Some(|row, out: &mut Vec<u8>| key.write(row, out)), no_value))
            }
            Form::Avro { key, .. } => {
                let key = key.as_ref().map(|(key, id)| key.encode(keys, *id)).transpose()?;
                Ok(push_all(keys.num_rows(), key.as_ref().map(row_of), no_value))
            }
        }
    }
}

/// One record a row, of what `key` and `value` append for it.
fn push_all(
    rows: usize,
    mut key: Option<impl FnMut(usize, &mut Vec<u8>)>,
    mut value: Option<impl FnMut(usize, &mut Vec<u8>)>,
) -> Records {
    let mut records = Records::default();
    for row in 0..rows {
        let key = key.as_mut().map(|key| |out: &mut Vec<u8>| key(row, out));
        let value = value.as_mut().map(|value| |out: &mut Vec<u8>| value(row, out));
        records.push(key, value);
    }
    records
}

/// Appends rows as they were encoded.
fn row_of(encoded: &EncodedRows) -> impl FnMut(usize, &mut Vec<u8>) {
    let (bytes, offsets) = (encoded.bytes(), encoded.offsets());
    move |row, out| out.extend_from_slice(&bytes[offsets[row]..offsets[row + 1]])
}

/// A record for each row of `rows`, a JSON object, with the key that `keys` has for it as it stands.
///
/// # Errors
/// A column's type has no JSON form.
pub fn objects_of(rows: &RecordBatch, keys: Option<&StringArray>) -> Result<Records, ArrowError> {
    let options = value_options();
    let mut members = Members::of(rows, &options)?;
    let mut records = Records::default();
    for row in 0..rows.num_rows() {
        let key = keys.filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row));
        let key = key.map(|key| |out: &mut Vec<u8>| out.extend_from_slice(key.as_bytes()));
        records.push(key, Some(|out: &mut Vec<u8>| members.write(row, out)));
    }
    Ok(records)
}

/// The members of a row's JSON object.
struct Members<'a>(Vec<(Vec<u8>, NullableEncoder<'a>)>);

impl<'a> Members<'a> {
    fn of(rows: &'a RecordBatch, options: &'a arrow::json::EncoderOptions) -> Result<Members<'a>, ArrowError> {
        let schema = rows.schema_ref();
        let names = schema
            .fields()
            .iter()
            .map(|field| serde_json::to_vec(field.name()).map_err(|error| ArrowError::JsonError(error.to_string())));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        Ok(Members(names.into_iter().zip(value_encoders(rows, options)?).collect()))
    }

    fn write(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (name, value)) in self.0.iter_mut().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name);
            out.push(b':');
            if value.is_null(row) {
                out.extend_from_slice(b"null");
            } else {
                value.encode(row, out);
            }
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn rows_become_objects_under_the_names_of_their_columns() -> Result<(), ArrowError> {
        let page: ArrayRef = Arc::new(StringArray::from(vec![Some("a \"b\""), None]));
        let edits: ArrayRef = Arc::new(Int64Array::from(vec![2, 3]));
        let rows = RecordBatch::try_from_iter([("page", page), ("edits", edits)])?;
        let text = |part: Option<&[u8]>| part.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let records = RecordWriter::json(vec![0]).records(&rows)?;
        let all: Vec<_> = records.iter().map(|(key, value)| (text(key), text(value))).collect();
        let first = (Some(r#"{"page":"a \"b\""}"#.into()), Some(r#"{"page":"a \"b\"","edits":2}"#.into()));
        let second = (Some(r#"{"page":null}"#.into()), Some(r#"{"page":null,"edits":3}"#.into()));
        assert_eq!(all, [first, second]);
        assert!(RecordWriter::json(vec![]).records(&rows)?.iter().all(|(key, value)| key.is_none() && value.is_some()));
        let gone = RecordWriter::json(vec![1]).tombstones(&rows.project(&[1])?)?;
        let gone: Vec<_> = gone.iter().map(|(key, value)| (text(key), text(value))).collect();
        assert_eq!(gone, [(Some(r#"{"edits":2}"#.into()), None), (Some(r#"{"edits":3}"#.into()), None)]);
        Ok(())
    }
}
