//! Events: few and skewed keys, nulls, out of order and late times, values that collide.

use proptest::option::weighted;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// The columns of every generated source.
pub(crate) const COLUMNS: &str =
    "k TEXT, g INT, t TIMESTAMP, v BIGINT, d DECIMAL(12, 2), x DOUBLE, b BOOLEAN, s TEXT, y DATE";

/// One event; `None` is NULL.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    k: Option<u8>,
    g: Option<i32>,
    /// Minutes after the start of the generated time.
    t: Option<u32>,
    v: Option<i64>,
    /// Hundredths.
    d: Option<i64>,
    /// Quarters, so that sums are exact whatever their order.
    x: Option<i16>,
    b: Option<bool>,
    s: Option<u8>,
    y: Option<u8>,
}

/// Some events of one request.
pub(crate) fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 0..24)
}

fn event() -> impl Strategy<Value = Event> {
    // Half of all events share one key.
    let key = prop_oneof![2 => Just(0_u8), 1 => 1..4_u8, 1 => 4..40_u8];
    // Most events are close together, some are days late.
    let time = prop_oneof![4 => 3_000..3_120_u32, 1 => 0..6_000_u32];
    let value = prop_oneof![4 => -50..50_i64, 1 => any::<i32>().prop_map(i64::from)];
    (
        weighted(0.9, key),
        weighted(0.8, 0..3_i32),
        weighted(0.95, time),
        weighted(0.8, value),
        weighted(0.8, -100_000..100_000_i64),
        weighted(0.8, -400..400_i16),
        weighted(0.8, any::<bool>()),
        weighted(0.9, 0..60_u8),
        weighted(0.9, 0..5_u8),
    )
        .prop_map(|(k, g, t, v, d, x, b, s, y)| Event { k, g, t, v, d, x, b, s, y })
}

/// The events as a request's body.
pub(crate) fn to_ndjson(events: &[Event]) -> String {
    events.iter().map(|event| format!("{}\n", event.to_json())).collect()
}

impl Event {
    fn to_json(&self) -> Value {
        let mut row = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                row.insert(name.to_owned(), value);
            }
        };
        set("k", self.k.map(|k| json!(format!("key {k}"))));
        set("g", self.g.map(|g| json!(g)));
        set("t", self.t.map(|minutes| json!(1_700_000_000_000_i64 + i64::from(minutes) * 60_000)));
        set("v", self.v.map(|v| json!(v)));
        set(
            "d",
            self.d.map(|d| json!(format!("{}{}.{:02}", if d < 0 { "-" } else { "" }, d.abs() / 100, d.abs() % 100))),
        );
        set("x", self.x.map(|x| json!(f64::from(x) / 4.0)));
        set("b", self.b.map(|b| json!(b)));
        set("s", self.s.map(|s| json!(format!("a text that is longer than twelve bytes, number {s}"))));
        set("y", self.y.map(|y| json!(format!("2023-11-{:02}", 10 + y))));
        Value::Object(row)
    }
}
