//! Rows as records of a topic: key and value are JSON objects, their values spelled as in answers.

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use watershed_shared::sink::Records;

use super::json::{value_encoders, value_options};

/// A record for each row of `rows`: the value has all its columns, the key those at the places `key`; no key without any.
///
/// # Errors
/// A column's type has no JSON form.
pub fn records_of(rows: &RecordBatch, key: &[usize]) -> Result<Records, ArrowError> {
    let (keys, options) = (rows.project(key)?, value_options());
    let (mut key_members, mut members) = (Members::of(&keys, &options)?, Members::of(rows, &options)?);
    let mut records = Records::default();
    for row in 0..rows.num_rows() {
        let key = (!key.is_empty()).then_some(|out: &mut Vec<u8>| key_members.write(row, out));
        records.push(key, Some(|out: &mut Vec<u8>| members.write(row, out)));
    }
    Ok(records)
}

/// A record without value for each of `keys`: there is no such row any more.
///
/// # Errors
/// As [`records_of`].
pub fn tombstones_of(keys: &RecordBatch) -> Result<Records, ArrowError> {
    let options = value_options();
    let mut members = Members::of(keys, &options)?;
    let mut records = Records::default();
    for row in 0..keys.num_rows() {
        records.push(Some(|out: &mut Vec<u8>| members.write(row, out)), None::<fn(&mut Vec<u8>)>);
    }
    Ok(records)
}

/// A record for each row of `rows`, with the key that `keys` has for it as it stands.
///
/// # Errors
/// As [`records_of`].
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
        let records = records_of(&rows, &[0])?;
        let all: Vec<_> = records.iter().map(|(key, value)| (text(key), text(value))).collect();
        let first = (Some(r#"{"page":"a \"b\""}"#.into()), Some(r#"{"page":"a \"b\"","edits":2}"#.into()));
        let second = (Some(r#"{"page":null}"#.into()), Some(r#"{"page":null,"edits":3}"#.into()));
        assert_eq!(all, [first, second]);
        assert!(records_of(&rows, &[])?.iter().all(|(key, value)| key.is_none() && value.is_some()));
        let gone = tombstones_of(&rows.project(&[1])?)?;
        let gone: Vec<_> = gone.iter().map(|(key, value)| (text(key), text(value))).collect();
        assert_eq!(gone, [(Some(r#"{"edits":2}"#.into()), None), (Some(r#"{"edits":3}"#.into()), None)]);
        Ok(())
    }
}
