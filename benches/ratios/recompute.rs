//! A full batch run (states of all events, merged, sorted by key, written to state files) over three million events;
//! against the same GROUP BY in bare DataFusion over the same Parquet files, its rows collected in memory. Two more sides
//! show what the difference is made of: bare DataFusion told to read strings as the platform does, and bare DataFusion
//! that also sorts its rows and writes them to Parquet.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use watershed_batch_layer::run::full_recompute;
use watershed_batch_layer::{Append, EncodeOptions, History, HistorySnapshot, Store, ViewStore};
use watershed_shared::config::parallelism;
use watershed_shared::definition::Statement;
use watershed_shared::event::LogBatch;
use watershed_shared::plan::{ViewPlan, compile, plan_session};
use watershed_shared::position::{PartitionId, Position};
use watershed_shared::source::SourceDefinition;

use crate::flights::{self, SOURCE};
use crate::{Measurement, Sides};

const TURNS: usize = 8;
/// Nine years of 336,776 flights.
const YEARS: i64 = 9;
const AGGREGATES: &str =
    "count(*) AS flights, sum(dep_delay) AS total, avg(arr_delay) AS mean, max(dep_delay) AS worst";

/// A view's key as a view and a query spell it.
const KEYS: [(&str, &str); 2] = [
    ("origin, dest", "origin, dest"),
    (
        "tumble(scheduled_departure, INTERVAL '1 hour'), origin, carrier",
        "date_bin(INTERVAL '1 hour', scheduled_departure), origin, carrier",
    ),
];

pub(crate) async fn run() -> Result<()> {
    let folder = crate::folder()?;
    let store = Store::open(&folder.path().to_string_lossy())?;
    let source = Arc::new(flights::source()?);
    let history = write_history(&store, &source).await?;
    let bare = [
        ("bare DataFusion", bare_session(&history, true).await?),
        ("bare DataFusion without string views", bare_session(&history, false).await?),
    ];
    let events = history.end().events_since(&Position::default());
    println!("\nrecompute: full batch run over {events} events; ratio to the time of bare DataFusion, aim <= 1.15");
    for (view_key, query_key) in KEYS {
        let view = Arc::new(view(view_key, &source).await?);
        let views = ViewStore::open(&store, &view.name, view.id.as_str(), Arc::clone(view.stored_schema())).await?;
        let session = plan_session(parallelism(0), Arc::new(RuntimeEnv::default()));
        let query = format!("SELECT {query_key}, {AGGREGATES} FROM {SOURCE} GROUP BY {query_key}");
        let mut sides = Sides::default();
        let (mut groups, mut states) = (0, 0);
        for _ in 0..TURNS {
            for (name, bare) in &bare {
                let measured = Measurement::of(1, async {
                    let rows = bare.sql(&query).await?.collect().await?;
                    groups = rows.iter().map(RecordBatch::num_rows).sum();
                    Ok(())
                });
                sides.note(name, measured.await?);
            }
            let measured = Measurement::of(1, async {
                let rows = bare[0].1.sql(&format!("{query} ORDER BY {query_key}")).await?;
                let path = folder.path().join("rows.parquet");
                rows.write_parquet(&path.to_string_lossy(), DataFrameWriteOptions::new(), None).await?;
                Ok(())
            });
            sides.note("bare DataFusion, rows sorted and written", measured.await?);
            let measured = Measurement::of(1, async {
                let files = full_recompute(&view, &history, &views, &session).await?;
                states = files.iter().map(|file| file.rows as usize).sum();
                Ok(())
            });
            sides.note("full batch run", measured.await?);
            views.delete_orphans().await?;
        }
        ensure!(groups == states, "{states} states of {groups} groups");
        println!(" {groups} groups");
        sides.print_times();
    }
    Ok(())
}

async fn write_history(store: &Store, source: &SourceDefinition) -> Result<HistorySnapshot> {
    let history = History::open(store, source).await?;
    let writer = history.writer(EncodeOptions::history());
    let (partition, events) = (PartitionId(0), flights::events(source)?);
    for year in 0..YEARS {
        let start = history.known().end().clone();
        let events = flights::years_later(&events, year)?;
        let batch = LogBatch::consecutive(partition, start.get(partition), 0, events);
        let mut end = start.clone();
        end.raise(partition, batch.range.end());
        let batches = vec![batch.with_system_columns(&source.event_schema)?];
        writer.append(&Append { batches, start, end, max_event_times_us: Vec::new(), gaps: Vec::new() }).await?;
    }
    Ok(history.known())
}

/// A DataFusion of its own, with a table over the history's files.
async fn bare_session(history: &HistorySnapshot, string_views: bool) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(parallelism(0));
    config.options_mut().execution.parquet.schema_force_view_types = string_views;
    let session = SessionContext::new_with_config(config);
    let files: Vec<String> = history.files().iter().map(|file| format!("/{}", file.path)).collect();
    let table = session.read_parquet(files, ParquetReadOptions::default()).await?;
    session.register_table(SOURCE, table.into_view())?;
    Ok(session)
}

async fn view(key: &str, source: &Arc<SourceDefinition>) -> Result<ViewPlan> {
    let selected = key.replace("tumble(scheduled_departure, INTERVAL '1 hour')", "window_start");
    let sql = format!("CREATE MATERIALIZED VIEW v AS SELECT {selected}, {AGGREGATES} FROM {SOURCE} GROUP BY {key};");
    let views = flights::definitions(&[], &sql)?.into_iter().find_map(|statement| match statement {
        Statement::View(view) => Some(view),
        Statement::Source(_) | Statement::Sink(_) => None,
    });
    Ok(compile(&views.context("no view")?, Arc::clone(source)).await?)
}
