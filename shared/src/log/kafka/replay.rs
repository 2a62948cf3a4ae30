//! Dead letters on their way back into their topic.

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::message::{Header, OwnedHeaders};

use crate::error::{Error, Result};
use crate::sink::TransactionalTopic;

/// Adds the records that dead letters were to a transaction, as they were: key, value and headers. `letters` has the columns of
/// the view of dead letters.
///
/// # Errors
/// Those of [`TransactionalTopic::send`]; `Corrupt` for letters that no topic has had.
pub fn send_again(topic: &TransactionalTopic, letters: &RecordBatch) -> Result<()> {
    let damaged = |reason: String| Error::Corrupt { what: "a dead letter".to_owned(), reason };
    let text = |name: &str| -> Result<&StringArray> {
        let column = letters.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        column.ok_or_else(|| damaged(format!("there is no text column \"{name}\"")))
    };
    let (keys, values) =
        (Bytes::of(text("key")?, text("key_base64")?), Bytes::of(text("value")?, text("value_base64")?));
    let headers = letters.column_by_name("headers").and_then(|column| column.as_list_opt::<i32>());
    for row in 0..letters.num_rows() {
        let wrong = |error: base64::DecodeError| damaged(error.to_string());
        let (key, value) = (keys.get(row).map_err(wrong)?, values.get(row).map_err(wrong)?);
        let headers =
            headers.filter(|headers| headers.is_valid(row)).map(|headers| headers_of(headers.value(row).as_ref()));
        topic.send_one(key.as_deref(), value.as_deref(), headers.flatten())?;
    }
    Ok(())
}

/// Bytes that are in one column as text or in another in base64.
struct Bytes<'a> {
    text: &'a StringArray,
    base64: &'a StringArray,
}

impl<'a> Bytes<'a> {
    fn of(text: &'a StringArray, base64: &'a StringArray) -> Bytes<'a> {
        Bytes { text, base64 }
    }

    fn get(&self, row: usize) -> std::result::Result<Option<Vec<u8>>, base64::DecodeError> {
        if self.text.is_valid(row) {
            return Ok(Some(self.text.value(row).as_bytes().to_vec()));
        }
        let encoded = self.base64.is_valid(row).then(|| self.base64.value(row));
        encoded.map(|encoded| BASE64.decode(encoded)).transpose()
    }
}

fn headers_of(list: &dyn Array) -> Option<OwnedHeaders> {
    let fields = list.as_struct_opt()?;
    let (keys, values) = (fields.column(0).as_string_opt::<i32>()?, fields.column(1).as_string_opt::<i32>()?);
    let header = |headers: OwnedHeaders, row: usize| {
        let value = values.is_valid(row).then(|| values.value(row));
        headers.insert(Header { key: keys.value(row), value })
    };
    (fields.len() > 0).then(|| (0..fields.len()).fold(OwnedHeaders::new_with_capacity(fields.len()), header))
}
