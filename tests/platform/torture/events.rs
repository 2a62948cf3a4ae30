//! Events whose contents follow from their id, so that whoever knows the ids knows everything.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use chrono::{DateTime, SecondsFormat};
use serde_json::json;
use watershed_shared::event::LogBatch;
use watershed_shared::position::{Offset, PartitionId};
use watershed_shared::source::SourceDefinition;

use super::random::Random;

/// The columns of the source.
pub(super) const COLUMNS: &str = "id BIGINT NOT NULL, k TEXT, v BIGINT, x DOUBLE, s TEXT, t TIMESTAMP NOT NULL";

/// 2024-01-01T00:00:00Z.
const FIRST_TIME_US: i64 = 1_704_067_200_000_000;

struct Event {
    id: u64,
    k: Option<String>,
    v: Option<i64>,
    /// Quarters, so that sums are exact whatever their order.
    x: Option<f64>,
    s: Option<String>,
    t_us: i64,
}

impl Event {
    fn of(id: u64) -> Event {
        let mut random = Random::new(id);
        let skewed = random.below(30) * random.below(30) / 30;
        Event {
            id,
            k: (!random.once_in(20)).then(|| format!("k{skewed}")),
            v: (!random.once_in(10)).then(|| random.below(2_000) as i64 - 1_000),
            x: (!random.once_in(10)).then(|| random.below(4_000) as f64 / 4.0 - 300.0),
            s: (!random.once_in(10)).then(|| format!("user {}", random.below(300))),
            // In about the order of the ids, out of order by minutes, and one in fifty late by weeks.
            t_us: FIRST_TIME_US
                + (id as i64 * 20_000)
                + random.below(300_000_000) as i64
                + if random.once_in(50) { -(random.below(40) as i64) * 86_400_000_000 } else { 0 },
        }
    }
}

/// The events as lines of JSON.
pub(super) fn to_ndjson(ids: std::ops::Range<u64>) -> String {
    let mut text = String::new();
    for Event { id, k, v, x, s, t_us } in ids.map(Event::of) {
        let t = DateTime::from_timestamp_micros(t_us).map(|t| t.to_rfc3339_opts(SecondsFormat::Micros, true));
        text.push_str(&json!({"id": id, "k": k, "v": v, "x": x, "s": s, "t": t}).to_string());
        text.push('\n');
    }
    text
}

/// The events under the source's event schema; their places are made up, as no view may depend on them.
pub(super) fn to_batch(source: &SourceDefinition, ids: impl Iterator<Item = u64>) -> Result<RecordBatch> {
    let events: Vec<Event> = ids.map(Event::of).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.id as i64))),
        Arc::new(StringArray::from_iter(events.iter().map(|event| event.k.as_deref()))),
        Arc::new(Int64Array::from_iter(events.iter().map(|event| event.v))),
        Arc::new(Float64Array::from_iter(events.iter().map(|event| event.x))),
        Arc::new(StringArray::from_iter(events.iter().map(|event| event.s.as_deref()))),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| event.t_us)).with_timezone("UTC"),
        ),
    ];
    let events = RecordBatch::try_new(Arc::clone(&source.columns), columns)?;
    let batch = LogBatch::consecutive(PartitionId(0), Offset::BEGINNING, 0, events);
    Ok(batch.with_system_columns(&source.event_schema)?)
}
