//! Arrow columns of any type a producer may send, made of bytes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, LargeStringArray, ListArray, NullArray, RecordBatch,
    StringArray, StringViewArray, StructArray, make_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, TimeUnit};

/// Names that columns get; most are columns of the source.
const NAMES: [&str; 14] =
    ["id", "flag", "small", "single", "real", "price", "wide", "name", "day", "at", "tags", "place", "other", ""];

/// Most rows of a batch.
const ROWS_MAX: usize = 16;

/// Reads numbers from bytes; zeros when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        let mut taken = taken.to_vec();
        taken.resize(count, 0);
        taken
    }

    fn text(&mut self) -> String {
        let length = usize::from(self.byte() % 24);
        String::from_utf8_lossy(&self.take(length)).into_owned()
    }
}

/// A batch with an `id` and some more columns; `None` when a column cannot be made.
pub(crate) fn batch(data: &[u8]) -> Option<RecordBatch> {
    let mut bytes = Bytes(data);
    let rows = 1 + usize::from(bytes.byte()) % ROWS_MAX;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let mut columns = vec![("id", ids, true)];
    for _ in 0..1 + bytes.byte() % 4 {
        let name = NAMES[usize::from(bytes.byte()) % NAMES.len()];
        if columns.iter().all(|(known, ..)| *known != name) {
            columns.push((name, array(&mut bytes, rows, 2)?, true));
        }
    }
    RecordBatch::try_from_iter_with_nullable(columns).ok()
}

fn array(bytes: &mut Bytes<'_>, rows: usize, depth: usize) -> Option<ArrayRef> {
    let zone = || Some(Arc::from("+05:30"));
    let data_type = match bytes.byte() % 40 {
        0 => DataType::Int8,
        1 => DataType::Int16,
        2 => DataType::Int32,
        3 | 4 => DataType::Int64,
        5 => DataType::UInt8,
        6 => DataType::UInt16,
        7 => DataType::UInt32,
        8 => DataType::UInt64,
        9 => DataType::Float16,
        10 | 11 => DataType::Float32,
        12 | 13 => DataType::Float64,
        14 => DataType::Date32,
        15 => DataType::Date64,
        16 => DataType::Timestamp(TimeUnit::Second, None),
        17 => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        18 => DataType::Timestamp(TimeUnit::Microsecond, zone()),
        19 => DataType::Timestamp(TimeUnit::Nanosecond, zone()),
        20 => DataType::Time32(TimeUnit::Second),
        21 => DataType::Time64(TimeUnit::Nanosecond),
        22 => DataType::Duration(TimeUnit::Second),
        23 => DataType::Decimal128(1 + bytes.byte() % 38, (bytes.byte() % 77) as i8 - 38),
        24 => DataType::Decimal256(1 + bytes.byte() % 76, (bytes.byte() % 153) as i8),
        25 => DataType::Decimal32(1 + bytes.byte() % 9, (bytes.byte() % 10) as i8),
        26 => DataType::Decimal64(1 + bytes.byte() % 18, (bytes.byte() % 19) as i8),
        27 => return Some(Arc::new((0..rows).map(|_| Some(bytes.byte() & 1 == 0)).collect::<BooleanArray>())),
        28 => return Some(Arc::new(NullArray::new(rows))),
        29 => return Some(Arc::new(LargeStringArray::from_iter_values((0..rows).map(|_| bytes.text())))),
        30 => return Some(Arc::new(StringViewArray::from_iter_values((0..rows).map(|_| bytes.text())))),
        31 => return Some(Arc::new(BinaryArray::from_iter_values((0..rows).map(|_| bytes.text())))),
        32 | 33 => return Some(Arc::new(StringArray::from_iter((0..rows).map(|_| optional_text(bytes))))),
        34 => {
            let texts: ArrayRef = Arc::new(StringArray::from_iter((0..rows).map(|_| optional_text(bytes))));
            return cast(&texts, &DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8))).ok();
        }
        35..=37 if depth > 0 => return list(bytes, rows, depth - 1),
        38 | 39 if depth > 0 => return structs(bytes, rows, depth - 1),
        _ => DataType::Int64,
    };
    primitive(bytes, rows, data_type)
}

fn optional_text(bytes: &mut Bytes<'_>) -> Option<String> {
    (bytes.byte() != 0).then(|| bytes.text())
}

/// Values straight from the bytes, nulls included; Arrow refuses what is no value of the type.
fn primitive(bytes: &mut Bytes<'_>, rows: usize, data_type: DataType) -> Option<ArrayRef> {
    let width = data_type.primitive_width()?;
    let nulls: NullBuffer = (0..rows).map(|_| bytes.byte() != 0).collect::<Vec<bool>>().into();
    let values = Buffer::from(bytes.take(rows * width));
    let data = arrow::array::ArrayData::builder(data_type).len(rows).add_buffer(values).nulls(Some(nulls));
    let data = data.align_buffers(true).build().ok()?;
    Some(make_array(data))
}

fn list(bytes: &mut Bytes<'_>, rows: usize, depth: usize) -> Option<ArrayRef> {
    let lengths: Vec<usize> = (0..rows).map(|_| usize::from(bytes.byte() % 3)).collect();
    let items = array(bytes, lengths.iter().sum(), depth)?;
    let item = Arc::new(Field::new("item", items.data_type().clone(), true));
    Some(Arc::new(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), items, None).ok()?))
}

fn structs(bytes: &mut Bytes<'_>, rows: usize, depth: usize) -> Option<ArrayRef> {
    let names = [["x", "y"], ["y", "z"]][usize::from(bytes.byte()) % 2];
    let fields = names.map(|name| Some((name, array(bytes, rows, depth)?)));
    let fields = fields.into_iter().collect::<Option<Vec<_>>>()?;
    let fields =
        fields.into_iter().map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array));
    Some(Arc::new(StructArray::from(fields.collect::<Vec<_>>())))
}
