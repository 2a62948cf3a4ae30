//! The project: a source of three partitions, and views of every kind, one of which changes between lives.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::source::SourceDefinition;

use super::events::COLUMNS;

/// Everything happens often: commits after 25 ms or 400 events, micro-batches small enough that runs need merging.
const CONFIG: &str = "log_filter = 'info,buoyant_kernel=warn,delta_kernel=warn'
[ingest]
micro_batch_rows_max = 300
[history]
commit_interval = '25ms'
commit_rows = 400
[batch]
parallelism = 2
[query]
parallelism = 2
";

/// The view of all events, from which a check learns which were accepted.
pub(super) const ALL_EVENTS: &str = "all_events";

/// A view: its name, its options and its query.
pub(super) struct View {
    pub(super) name: &'static str,
    options: &'static str,
    query: String,
}

const EVERY_SECOND: &str = "WITH (batch = '* * * * * *') ";
const EVERY_TWO_SECONDS: &str = "WITH (batch = '*/2 * * * * *') ";

/// The views that stay as they are.
const VIEWS: &[(&str, &str, &str)] = &[
    (ALL_EVENTS, EVERY_TWO_SECONDS, "SELECT id, k, v, x, s, t FROM events"),
    ("counted", "", "SELECT count(*) AS events, sum(v) AS total, avg(x) AS mean FROM events"),
    (
        "by_key",
        EVERY_SECOND,
        "SELECT k, count(*) AS events, sum(v) AS total, min(t) AS first, max(x) AS largest, avg(x) AS mean, \
         bit_xor(id) AS ids FROM events GROUP BY k",
    ),
    (
        "by_window",
        EVERY_TWO_SECONDS,
        "SELECT window_start, k, count(*) AS events, sum(x) AS total FROM events \
         GROUP BY tumble(t, INTERVAL '10 minutes'), k",
    ),
    (
        "users",
        "",
        "SELECT k, approx_distinct(s) AS about, count(DISTINCT s) AS users, last_value(v ORDER BY id) AS latest \
         FROM events GROUP BY k",
    ),
    (
        "filtered",
        EVERY_SECOND,
        "SELECT upper(s) AS who, count(*) FILTER (WHERE v > 0) AS positive, min(v) AS least FROM events \
         WHERE x >= 0 GROUP BY upper(s) HAVING count(*) > 2",
    ),
];

/// The view that changes between lives: each variant is another definition.
fn changing(variant: u64) -> View {
    let (options, query) = match variant % 3 {
        0 => ("", format!("SELECT k, count(*) AS events, sum(id) AS ids FROM events WHERE id <> {variant} GROUP BY k")),
        1 => (
            EVERY_SECOND,
            format!(
                "SELECT window_start, max(v) AS most, bit_xor(id + {variant}) AS ids FROM events \
                 GROUP BY tumble(t, INTERVAL '1 day')"
            ),
        ),
        _ => ("", format!("SELECT id, upper(k) AS key FROM events WHERE v < {variant}")),
    };
    View { name: "changing", options, query }
}

/// All views, with a variant of the one that changes.
pub(super) fn views(variant: u64) -> impl Iterator<Item = View> {
    let fixed = VIEWS.iter().map(|(name, options, query)| View { name, options, query: (*query).to_owned() });
    fixed.chain([changing(variant)])
}

impl View {
    /// The view's statement.
    pub(super) fn definition(&self) -> String {
        format!("CREATE MATERIALIZED VIEW {} {}AS {}", self.name, self.options, self.query)
    }
}

/// The source's definition.
pub(super) fn source() -> Result<SourceDefinition> {
    match parse_definitions(&source_sql())?.pop() {
        Some(Statement::Source(source)) => Ok(source),
        _ => anyhow::bail!("not a source"),
    }
}

fn source_sql() -> String {
    format!(
        "CREATE SOURCE events ({COLUMNS}, WATERMARK FOR t AS t - INTERVAL '5 minutes') \
         WITH (connector = 'http', partitions = 3, partition_by = 'k')"
    )
}

/// Writes the project into a folder, in place of the one there.
pub(super) fn write(folder: &Path, variant: u64) -> Result<()> {
    let statements: Vec<String> = std::iter::once(source_sql())
        .chain(views(variant).map(|view| view.definition()))
        .map(|sql| sql + ";\n")
        .collect();
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("watershed.toml"), CONFIG))
        .and_then(|()| fs::write(folder.join("project.sql"), statements.concat()));
    written.with_context(|| format!("cannot write the project to {}", folder.display()))
}
