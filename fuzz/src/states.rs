//! States: whatever the values, batch and realtime states together are the states of all events.
//!
//! The aggregates here are those that do not depend on the order of events even by a rounding, over the values on which
//! implementations differ: both zeros, all kinds of NaN, infinities, the ends of each type.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::plan::{ViewPlan, compile};
use watershed_shared::source::SourceDefinition;

use crate::{block_on, law};

const SOURCE: &str =
    "CREATE SOURCE events (x DOUBLE, f FLOAT, v BIGINT, k TEXT, t TIMESTAMP, d DECIMAL(38, 2), b BOOLEAN)";

const VIEWS: [&str; 5] = [
    "SELECT x, count(*) AS c, min(f) AS a0, max(f) AS a1, min(k) AS a2, max(t) AS a3 FROM events GROUP BY x",
    "SELECT f, k, count(x) AS c, sum(v) AS a0, bit_and(v) AS a1, bit_or(v) AS a2, bit_xor(v) AS a3, bool_and(b) AS a4, \
     bool_or(b) AS a5 FROM events GROUP BY f, k",
    "SELECT count(*) AS c, min(x) AS a0, max(x) AS a1, min(d) AS a2, max(d) AS a3, count(DISTINCT x) AS a4, \
     count(DISTINCT k) AS a5, approx_distinct(v) AS a6, approx_distinct(k) AS a7 FROM events",
    "SELECT b, first_value(x ORDER BY f, t) AS a0, last_value(k ORDER BY x DESC) AS a1, first_value(v ORDER BY k) AS a2, \
     count(DISTINCT f) FILTER (WHERE x > 0) AS a3 FROM events GROUP BY b",
    "SELECT d, date_trunc('day', t) AS day, x = 0 AS zero, count(*) AS c, max(v) - min(v) AS a0 FROM events \
     GROUP BY d, date_trunc('day', t), x = 0",
];

const FLOATS: [u64; 16] = [
    0,
    0x8000_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0xfff8_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0x7ff8_0000_dead_beef,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0xffef_ffff_ffff_ffff,
    0x0000_0000_0000_0001,
    0x8000_0000_0000_0001,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x4340_0000_0000_0000,
    0x3fb9_9999_9999_999a,
];

/// Years 0001 to 9999 and between.
const TIMES_US: [i64; 6] =
    [0, -1, 1_700_000_000_000_000, 32_503_680_000_000_000, -62_135_596_800_000_000, 253_402_300_799_999_999];
const TEXTS: [&str; 8] =
    ["", "a", "b", "A", "a\0", "ü", "\u{10ffff}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];

const EVENTS_MAX: usize = 64;
/// Bytes that an event is made of.
const EVENT_BYTES: usize = 8;

struct Fixture {
    source: Arc<SourceDefinition>,
    views: Vec<Arc<ViewPlan>>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let Some(Statement::Source(source)) = parse_definitions(SOURCE).unwrap().pop() else { panic!("no source") };
    let source = Arc::new(source);
    let views = VIEWS.map(|query| {
        let statement = parse_definitions(&format!("CREATE MATERIALIZED VIEW v AS {query}")).unwrap().pop();
        let Some(Statement::View(view)) = statement else { panic!("no view") };
        Arc::new(block_on(compile(&view, Arc::clone(&source))).unwrap())
    });
    Fixture { source, views: views.to_vec() }
});

pub(crate) fn states(data: &[u8]) {
    let [view, split, rest @ ..] = data else { return };
    let rows: Vec<&[u8]> = rest.chunks_exact(EVENT_BYTES).take(EVENTS_MAX).collect();
    let events = law::logged(&FIXTURE.source, events(&rows));
    let view = &FIXTURE.views[usize::from(*view) % VIEWS.len()];
    block_on(law::check(view, &events, usize::from(*split) % (rows.len() + 1)));
}

fn events(rows: &[&[u8]]) -> RecordBatch {
    let doubles: Float64Array = rows.iter().map(|row| double(row[0], row[1])).collect();
    let singles: Float32Array = rows.iter().map(|row| double(row[2], row[1]).map(single)).collect();
    let numbers: Int64Array = rows.iter().map(|row| number(row[3])).collect();
    let texts: StringArray = rows.iter().map(|row| pick(&TEXTS, row[4]).copied()).collect();
    let times: TimestampMicrosecondArray = rows.iter().map(|row| pick(&TIMES_US, row[5]).copied()).collect();
    let decimals: Decimal128Array = rows.iter().map(|row| number(row[6]).map(i128::from)).collect();
    let flags: BooleanArray = rows.iter().map(|row| (row[7] % 3 != 0).then_some(row[7] % 3 == 1)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(doubles),
        Arc::new(singles),
        Arc::new(numbers),
        Arc::new(texts),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(decimals.with_precision_and_scale(38, 2).unwrap()),
        Arc::new(flags),
    ];
    RecordBatch::try_new(Arc::clone(&FIXTURE.source.columns), columns).unwrap()
}

/// One of the values, or NULL.
fn pick<T>(values: &[T], byte: u8) -> Option<&T> {
    values.get(usize::from(byte) % (values.len() + 1))
}

fn double(byte: u8, low: u8) -> Option<f64> {
    match byte {
        0..64 => pick(&FLOATS, byte).map(|bits| f64::from_bits(*bits)),
        64..128 => Some(f64::from_bits(u64::from(byte) << 56 | u64::from(low))),
        _ => Some(f64::from(byte) / 8.0 - 20.0),
    }
}

/// The float of the same kind; a conversion would make all NaN one.
fn single(double: f64) -> f32 {
    match double.is_nan() {
        true => f32::from_bits(
            0x7f80_0000 | (double.to_bits() >> 32) as u32 & 0x8000_0000 | double.to_bits() as u32 & 0x3f_ffff | 1,
        ),
        false => double as f32,
    }
}

fn number(byte: u8) -> Option<i64> {
    match byte {
        0 => None,
        1 => Some(i64::MIN),
        2 => Some(i64::MAX),
        _ => Some(i64::from(byte) - 128),
    }
}
