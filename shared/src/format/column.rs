//! Columns under construction: values are appended row by row, and taken back when their row is refused.
//!
//! A `Column` is an Arrow array's buffers before they are frozen. Appending a value reads it straight from the text
//! into the buffer, so that a row costs no allocation of its own. Formats that have types of their own append through
//! `typed`.

mod typed;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, ListArray, NullBufferBuilder, StringArray, StructArray};
use arrow::buffer::{BooleanBuffer, Buffer, OffsetBuffer};

use super::json_cursor::JsonCursor;
use super::plan::{ColumnPlan, ObjectPlan, ValueType, plain_key};
use super::row::{Refusal, quoted};
use super::scalar::{Scalar, ScalarValues, expected, frozen};
use crate::error::Result;

/// The columns of rows, or the fields of structs.
#[derive(Debug)]
pub(super) struct Columns {
    plan: Arc<ObjectPlan>,
    columns: Vec<Column>,
    /// For each column, the number of the object that last had it; tells a repeated key from a new object's.
    last_object: Vec<u64>,
    objects: u64,
    keys: KeyOrder,
}

/// One column, struct field, or the items of lists.
#[derive(Debug)]
pub(super) struct Column {
    plan: Arc<ColumnPlan>,
    values: Values,
    nulls: NullBufferBuilder,
}

#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    Scalar(ScalarValues),
    /// Each text's end in all the texts, one after the other, with a 0 in front of the first.
    Text {
        ends: Vec<i32>,
        text: String,
    },
    /// Each list's end in the items of all of them, with a 0 in front of the first.
    List {
        ends: Vec<i32>,
        items: Box<Column>,
    },
    Struct(Columns),
}

impl Columns {
    pub(super) fn new(plan: &Arc<ObjectPlan>, capacity: usize) -> Columns {
        let count = plan.columns.len();
        Columns {
            plan: Arc::clone(plan),
            columns: plan.columns.iter().map(|column| Column::new(column, capacity)).collect(),
            last_object: vec![0; count],
            objects: 0,
            keys: KeyOrder::new(count),
        }
    }

    /// Appends the JSON object that comes next.
    pub(super) fn append_object(&mut self, cursor: &mut JsonCursor<'_>) -> Result<(), Refusal> {
        if !cursor.take(b'{') {
            return Err(Refusal::new(format!("expected an object, found {}", cursor.describe()?)));
        }
        self.objects += 1;
        let mut filled = 0;
        let mut previous = self.keys.start();
        let mut more = !cursor.take(b'}');
        while more {
            let key = self.keys.take(cursor, previous, &self.plan)?;
            if key < self.columns.len() {
                self.append_member(key, cursor)?;
                filled += 1;
            } else {
                cursor.skip_value()?;
            }
            previous = key;
            more = cursor.take_separator(b'}')?;
        }
        if filled < self.columns.len() { self.append_missing() } else { Ok(()) }
    }

    /// Appends CSV fields; `fields` gives each column's, in this order, or `None` for a column that the file does not
    /// have.
    pub(super) fn append_fields<'a>(
        &mut self,
        fields: impl Iterator<Item = Option<CsvField<'a>>>,
    ) -> Result<(), Refusal> {
        for (column, field) in self.columns.iter_mut().zip(fields) {
            let appended = match field {
                Some(field) => column.append_field(field),
                None => column.append_missing(),
            };
            appended.map_err(|refusal| refusal.within(column.plan.name()))?;
        }
        Ok(())
    }

    /// Takes back all but the first `rows` rows.
    pub(super) fn truncate(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.truncate(rows);
        }
    }

    pub(super) fn finish(self) -> Result<Vec<ArrayRef>> {
        self.columns.into_iter().map(Column::finish).collect()
    }

    fn append_member(&mut self, index: usize, cursor: &mut JsonCursor<'_>) -> Result<(), Refusal> {
        let column = &mut self.columns[index];
        if self.last_object[index] == self.objects {
            return Err(Refusal::new("the object has this key twice").within(column.plan.name()));
        }
        self.last_object[index] = self.objects;
        column.append_json(cursor).map_err(|refusal| refusal.within(column.plan.name()))
    }

    fn append_missing(&mut self) -> Result<(), Refusal> {
        for (column, last_object) in self.columns.iter_mut().zip(&self.last_object) {
            if *last_object != self.objects {
                column.append_missing().map_err(|refusal| refusal.within(column.plan.name()))?;
            }
        }
        Ok(())
    }

    /// Fields of a struct that is NULL: whatever they hold is never seen.
    fn append_placeholder(&mut self) {
        for column in &mut self.columns {
            column.append_placeholder();
        }
    }
}

/// Most names of columns that the source does not have that are remembered, and the longest of them.
const STRANGERS_MAX: usize = 64;

/// Which key follows which. Producers keep to one order of keys, and then each key is recognized by comparing it with
/// the one that came at its place last time.
///
/// Keys are numbered: the source's columns, then the start of an object, then keys that are no columns. That start also
/// stands for keys that are not remembered.
#[derive(Debug)]
struct KeyOrder {
    columns: usize,
    /// Keys that are no columns, in quotes.
    strangers: Vec<String>,
    /// For each key, the one that came after it last time.
    next: Vec<usize>,
}

impl KeyOrder {
    fn new(columns: usize) -> KeyOrder {
        KeyOrder { columns, strangers: Vec::new(), next: (1..=columns).chain([0]).collect() }
    }

    fn start(&self) -> usize {
        self.columns
    }

    /// Goes past the next key, which comes after `previous`; its number.
    fn take(&mut self, cursor: &mut JsonCursor<'_>, previous: usize, plan: &ObjectPlan) -> Result<usize, Refusal> {
        let expected = self.next[previous];
        let spelling = match expected.checked_sub(self.columns + 1) {
            Some(stranger) => self.strangers.get(stranger).map(String::as_str),
            None => plan.columns.get(expected).and_then(|column| column.plain_key.as_deref()),
        };
        if let Some(spelling) = spelling
            && cursor.take_key(spelling)?
        {
            return Ok(expected);
        }
        let name = cursor.key()?;
        let key = plan.index_of(&name).unwrap_or_else(|| self.stranger(&name));
        self.next[previous] = key;
        Ok(key)
    }

    fn stranger(&mut self, name: &str) -> usize {
        let Some(spelling) = plain_key(name).filter(|_| name.len() <= STRANGERS_MAX) else { return self.start() };
        let known = self.strangers.iter().position(|stranger| *stranger == spelling);
        let stranger = known.unwrap_or(self.strangers.len());
        if stranger == STRANGERS_MAX {
            return self.start();
        }
        if known.is_none() {
            self.strangers.push(spelling);
            self.next.push(self.start());
        }
        self.start() + 1 + stranger
    }
}

/// A field of a CSV record.
#[derive(Debug, Clone, Copy)]
pub(super) struct CsvField<'a> {
    /// Its text without the quotes around it; a quote in it is still doubled.
    pub(super) text: &'a str,
    /// It was in quotes.
    pub(super) quoted: bool,
}

impl Column {
    pub(super) fn new(plan: &Arc<ColumnPlan>, capacity: usize) -> Column {
        let values = Values::new(&plan.value_type, capacity);
        Column { plan: Arc::clone(plan), values, nulls: NullBufferBuilder::new(capacity) }
    }

    /// Appends the JSON value that comes next.
    fn append_json(&mut self, cursor: &mut JsonCursor<'_>) -> Result<(), Refusal> {
        let first = cursor.peek();
        if first == b'n' {
            cursor.null()?;
            return self.append_null("the value is null");
        }
        match &mut self.values {
            Values::Text { ends, text } if first == b'"' => {
                cursor.append_string(text)?;
                ends.push(text.len() as i32);
            }
            Values::Scalar(values) if first == b'-' || first.is_ascii_digit() => {
                values.push(Scalar::Number(cursor.number()?), &self.plan.value_type)?;
            }
            Values::Scalar(values) if first == b'"' => {
                values.push(Scalar::Text(&cursor.string()?), &self.plan.value_type)?;
            }
            Values::Boolean(values) if first == b't' || first == b'f' => values.push(cursor.boolean()?),
            Values::List { ends, items } if first == b'[' => {
                items.append_items(cursor)?;
                ends.push(items.len() as i32);
            }
            Values::Struct(fields) if first == b'{' => fields.append_object(cursor)?,
            _ => {
                let expected = expected(&self.plan.value_type);
                return Err(Refusal::new(format!("expected {expected}, found {}", cursor.describe()?)));
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends the JSON array that comes next to the items of a list.
    fn append_items(&mut self, cursor: &mut JsonCursor<'_>) -> Result<(), Refusal> {
        let start = self.len();
        cursor.expect(b'[')?;
        let mut more = !cursor.take(b']');
        while more {
            let index = self.len() - start;
            self.append_json(cursor).map_err(|refusal| refusal.within_item(index))?;
            more = cursor.take_separator(b']')?;
        }
        Ok(())
    }

    /// Appends a CSV field. Nothing between the commas is NULL; so are two quotes, except in a TEXT column. Lists and
    /// structs are written as JSON.
    fn append_field(&mut self, field: CsvField<'_>) -> Result<(), Refusal> {
        let is_text = matches!(self.values, Values::Text { .. });
        if field.text.is_empty() && !(field.quoted && is_text) {
            return self.append_null("the field is empty");
        }
        let text = field.unquoted();
        match &mut self.values {
            Values::Text { ends, text: all } => {
                all.push_str(&text);
                ends.push(all.len() as i32);
            }
            Values::Scalar(values) => values.push(Scalar::Text(text.trim()), &self.plan.value_type)?,
            Values::Boolean(values) => values.push(boolean_field(text.trim())?),
            Values::List { .. } | Values::Struct(_) => return self.append_json_text(&text),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends a text that is one JSON value.
    fn append_json_text(&mut self, text: &str) -> Result<(), Refusal> {
        let mut cursor = JsonCursor::default();
        cursor.start(text);
        self.append_json(&mut cursor)?;
        if cursor.at_end() { Ok(()) } else { Err(cursor.unexpected("the end of the field")) }
    }

    /// Appends a value of another format than JSON in a column of numbers or times.
    pub(super) fn append_scalar(&mut self, scalar: Scalar<'_>) -> Result<(), Refusal> {
        if let Values::Scalar(values) = &mut self.values {
            values.push(scalar, &self.plan.value_type)?;
            self.nulls.append_non_null();
            return Ok(());
        }
        Err(Refusal::new(format!("expected {}, found {}", expected(&self.plan.value_type), scalar.describe())))
    }

    pub(super) fn append_missing(&mut self) -> Result<(), Refusal> {
        self.append_null("there is no value")
    }

    pub(super) fn append_null(&mut self, found: &str) -> Result<(), Refusal> {
        if !self.plan.field.is_nullable() {
            return Err(Refusal::new(format!("{found}, but it is NOT NULL")));
        }
        self.append_placeholder();
        Ok(())
    }

    /// Appends NULL, whether the column may be NULL or not: what is inside of a NULL struct is never seen.
    pub(super) fn append_placeholder(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.push(false),
            Values::Scalar(values) => values.push_placeholder(),
            Values::Text { ends, text } => ends.push(text.len() as i32),
            Values::List { ends, items } => ends.push(items.len() as i32),
            Values::Struct(fields) => fields.append_placeholder(),
        }
        self.nulls.append_null();
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Takes back all but the first `rows` values, and what a value that was refused midway has left behind.
    pub(super) fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::Scalar(values) => values.truncate(rows),
            Values::Text { ends, text } => {
                ends.truncate(rows + 1);
                text.truncate(last_end(ends));
            }
            Values::List { ends, items } => {
                ends.truncate(rows + 1);
                items.truncate(last_end(ends));
            }
            Values::Struct(fields) => fields.truncate(rows),
        }
        self.nulls.truncate(rows);
    }

    pub(super) fn finish(self) -> Result<ArrayRef> {
        let rows = self.len();
        let nulls = self.nulls.build().filter(|nulls| nulls.null_count() > 0);
        Ok(match self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls)),
            Values::Scalar(values) => values.finish(nulls)?,
            Values::Text { ends, mut text } => {
                text.shrink_to_fit();
                Arc::new(StringArray::try_new(offsets(ends), Buffer::from_vec(text.into_bytes()), nulls)?)
            }
            Values::List { ends, items } => {
                let item = Arc::clone(&items.plan.field);
                Arc::new(ListArray::try_new(item, offsets(ends), items.finish()?, nulls)?)
            }
            Values::Struct(fields) => {
                let declared = fields.plan.fields.clone();
                Arc::new(StructArray::try_new_with_length(declared, fields.finish()?, nulls, rows)?)
            }
        })
    }
}

impl Values {
    fn new(value_type: &ValueType, capacity: usize) -> Values {
        if let Some(values) = ScalarValues::new(value_type, capacity) {
            return Values::Scalar(values);
        }
        let ends = || {
            let mut ends = Vec::with_capacity(capacity + 1);
            ends.push(0);
            ends
        };
        match value_type {
            ValueType::List(item) => Values::List { ends: ends(), items: Box::new(Column::new(item, capacity)) },
            ValueType::Struct(fields) => Values::Struct(Columns::new(fields, capacity)),
            ValueType::Boolean => Values::Boolean(Vec::with_capacity(capacity)),
            _ => Values::Text { ends: ends(), text: String::new() },
        }
    }
}

impl<'a> CsvField<'a> {
    /// The text that the field stands for.
    pub(super) fn unquoted(&self) -> Cow<'a, str> {
        if self.quoted && self.text.contains('"') {
            Cow::Owned(self.text.replace("\"\"", "\""))
        } else {
            Cow::Borrowed(self.text)
        }
    }
}

/// CSV has no type for booleans; these are the spellings that databases and languages write.
fn boolean_field(text: &str) -> Result<bool, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _ => Err(Refusal::new(format!("expected true or false, found the string {}", quoted(text)))),
    }
}

fn last_end(ends: &[i32]) -> usize {
    ends.last().map_or(0, |end| *end as usize)
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(frozen(ends))
}
