//! Views: any choice of keys, aggregates, filters and windows.

use proptest::prelude::*;

/// A view's query, but for its name.
#[derive(Debug, Clone)]
pub(crate) struct ViewSpec {
    keys: Vec<&'static str>,
    aggregates: Vec<&'static str>,
    filter: Option<&'static str>,
    having: Option<&'static str>,
}

const KEYS: &[&str] = &[
    "k",
    "g",
    "b",
    "y",
    "upper(k)",
    "coalesce(k, 'none')",
    "tumble(t, INTERVAL '1 hour')",
    "tumble(t, INTERVAL '1 day', INTERVAL '6 hours')",
    "date_trunc('day', t)",
    "date_bin(INTERVAL '15 minutes', t, TIMESTAMP '1970-01-01T00:00:00Z')",
    "CASE WHEN v < 0 THEN 'negative' ELSE 'other' END",
];

const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(v)",
    "sum(v)",
    "sum(d)",
    "sum(x)",
    "avg(v)",
    "avg(d)",
    "avg(x)",
    "min(t)",
    "max(t)",
    "min(s)",
    "max(s)",
    "min(v)",
    "max(x)",
    "min(d)",
    "max(y)",
    "min(b)",
    "bool_and(b)",
    "bool_or(b)",
    "bit_and(v)",
    "bit_or(v)",
    "bit_xor(v)",
    "var_samp(x)",
    "var_pop(x)",
    "stddev(x)",
    "stddev_pop(x)",
    "covar_samp(x, v)",
    "covar_pop(x, v)",
    "corr(x, g)",
    "regr_count(x, g)",
    "regr_slope(x, g)",
    "regr_intercept(x, g)",
    "regr_r2(x, g)",
    "regr_avgx(x, g)",
    "regr_avgy(x, g)",
    "regr_sxx(x, g)",
    "regr_syy(x, g)",
    "regr_sxy(x, g)",
    "approx_distinct(s)",
    "approx_distinct(v)",
    "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY x)",
    "approx_median(v)",
    "count(DISTINCT v)",
    "count(DISTINCT s)",
    "first_value(v ORDER BY t)",
    "first_value(s ORDER BY t DESC)",
    "last_value(v ORDER BY g, t)",
    "sum(v) FILTER (WHERE b)",
    "count(*) FILTER (WHERE x > 0)",
    "count(DISTINCT g) FILTER (WHERE v > 0)",
    "sum(v + 1)",
    "sum(CASE WHEN b THEN 1 ELSE 0 END) * 2",
    "max(v) - min(v)",
    "sum(coalesce(v, 7))",
    "count(*) FILTER (WHERE coalesce(b, true))",
];

const FILTERS: &[&str] =
    &["v > 0", "b", "k <> 'key 0' OR k IS NULL", "t >= TIMESTAMP '2023-11-16T00:00:00Z'", "s LIKE '%1%'"];

const HAVINGS: &[&str] = &["count(*) > 2", "sum(v) >= 0", "min(t) IS NOT NULL"];

/// Columns of views without an aggregate.
const PROJECTED: &[&str] = &["k", "g", "v", "x", "upper(s)", "v * 2", "t", "d"];

pub(crate) fn views() -> impl Strategy<Value = ViewSpec> {
    let subset =
        |of: &'static [&'static str], size: std::ops::RangeInclusive<usize>| prop::sample::subsequence(of, size);
    let filter = || prop::option::of(prop::sample::select(FILTERS));
    let having = prop::option::weighted(0.2, prop::sample::select(HAVINGS));
    let aggregating = (subset(KEYS, 0..=3), subset(AGGREGATES, 1..=5), filter(), having)
        .prop_map(|(keys, aggregates, filter, having)| ViewSpec { keys: one_window(keys), aggregates, filter, having });
    let projecting = (subset(PROJECTED, 1..=4), filter()).prop_map(|(keys, filter)| ViewSpec {
        keys,
        aggregates: Vec::new(),
        filter,
        having: None,
    });
    prop_oneof![8 => aggregating, 1 => projecting]
}

/// A view has one window at the most.
fn one_window(mut keys: Vec<&'static str>) -> Vec<&'static str> {
    let mut windows = 0;
    keys.retain(|key| {
        windows += usize::from(key.starts_with("tumble"));
        !key.starts_with("tumble") || windows == 1
    });
    keys
}

impl ViewSpec {
    /// A view with a row for each event, which says where it is.
    pub(crate) fn every_event() -> ViewSpec {
        ViewSpec { keys: vec!["_partition", "_offset", "k", "s"], aggregates: Vec::new(), filter: None, having: None }
    }

    /// The view's statement.
    pub(crate) fn definition(&self, name: &str) -> String {
        format!("CREATE MATERIALIZED VIEW {name} AS {}", self.query(|aggregate| aggregate.to_owned()))
    }

    /// The view's statement as one pass must read it: ties of an ORDER BY are broken by the event's place.
    pub(crate) fn definition_for_one_pass(&self) -> String {
        let break_ties =
            |aggregate: &str| match aggregate.starts_with("first_value") || aggregate.starts_with("last_value") {
                true => aggregate.replace(')', ", _partition, _offset)"),
                false => aggregate.to_owned(),
            };
        format!("CREATE MATERIALIZED VIEW v AS {}", self.query(break_ties))
    }

    /// Names of the answer's columns: the keys, the end of the window if there is one, the aggregates.
    pub(crate) fn column_names(&self) -> Vec<String> {
        let is_window = |key: &&str| key.starts_with("tumble");
        let key = |(index, key): (usize, &&str)| match is_window(key) {
            true => "window_start".to_owned(),
            false => format!("key{index}"),
        };
        let keys = self.keys.iter().enumerate().map(key);
        let window_end = self.keys.iter().filter(|key| is_window(key)).map(|_| "window_end".to_owned());
        keys.chain(window_end).chain((0..self.aggregates.len()).map(|index| format!("value{index}"))).collect()
    }

    fn query(&self, write: impl Fn(&str) -> String) -> String {
        let is_window = |key: &&&str| key.starts_with("tumble");
        let window = |name: &'static str| name.to_owned();
        let keys = self.keys.iter().map(|key| if is_window(&key) { window("window_start") } else { (*key).to_owned() });
        let window_end = self.keys.iter().filter(is_window).map(|_| window("window_end"));
        let expressions = keys.chain(window_end).chain(self.aggregates.iter().map(|aggregate| write(aggregate)));
        let named = |(expression, name): (String, String)| match expression == name {
            true => name,
            false => format!("{expression} AS {name}"),
        };
        let columns: Vec<String> = expressions.zip(self.column_names()).map(named).collect();
        let filter = self.filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
        let group_by = match self.keys.is_empty() || self.aggregates.is_empty() {
            true => String::new(),
            false => format!(" GROUP BY {}", self.keys.join(", ")),
        };
        let having = self.having.map(|having| format!(" HAVING {having}")).unwrap_or_default();
        format!("SELECT {} FROM events{filter}{group_by}{having}", columns.join(", "))
    }

    /// How far a column of the answer may be from that of one pass, as a part of its value.
    pub(crate) fn tolerance(&self, column: usize) -> f64 {
        let hidden = usize::from(self.keys.iter().any(|key| key.starts_with("tumble")));
        let aggregate = column.checked_sub(self.keys.len() + hidden).and_then(|index| self.aggregates.get(index));
        match aggregate {
            // A digest of other digests estimates within its own error.
            Some(aggregate) if aggregate.starts_with("approx_percentile") || aggregate.starts_with("approx_median") => {
                0.25
            }
            Some(aggregate) if aggregate.starts_with("corr") || aggregate.starts_with("regr") => 1e-6,
            _ => 1e-9,
        }
    }
}
