//! A full batch run (states of all events, merged, sorted by key, written to state files) over three million events;
//! against the same GROUP BY in bare DataFusion over the same Parquet files, its rows collected in memory.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use watershed_batch_layer::run::full_recompute;
use watershed_batch_layer::{Append, EncodeOptions, History, HistorySnapshot, Store, ViewStore};
use watershed_shared::config::parallelism;
use watershed_shared::definition::Statement;
use watershed_shared::event::LogBatch;
use watershed_shared::plan::{ViewPlan, compile, plan_session};
use watershed_shared::position::{OffsetRange, PartitionId, Position};
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
    let bare = bare_session(&history).await?;
    let events = history.end().events_since(&Position::default());
    println!("\nrecompute: full batch run over {events} events; ratio to the time of bare DataFusion, aim <= 1.15");
    for (view_key, query_key) in KEYS {
        let view = Arc::new(view(view_key, &source).await?);
        let views = ViewStore::open(&store, &view.name, view.id.as_str(), Arc::clone(view.stored_schema())).await?;
        let session = plan_session(parallelism(0), Arc::new(RuntimeEnv::default()));
        let query = format!("SELECT {query_key}, {AGGREGATES} FROM {SOURCE} GROUP BY {query_key}");
        if std::env::var("ENC").is_ok() {
            use parquet::file::properties::*; use parquet::basic::*; use parquet::arrow::ArrowWriter; use parquet::schema::types::ColumnPath;
            let events = Arc::new(history.rows(history.files().to_vec()));
            let p = view.partial(events, &session).await?;
            let p = view.to_stored(view.sort_by_key(view.merge(view.by_key(p, 2)?)?)?)?;
            let batches = datafusion::physical_plan::collect(p, session.task_ctx()).await?;
            let rows: usize = batches.iter().map(|b| b.num_rows()).sum();
            let schema = batches[0].schema();
            let base = || WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).set_max_row_group_row_count(Some(128 << 10))
                .set_column_statistics_enabled(ColumnPath::from("s3"), EnabledStatistics::None);
            let nodict = |mut b: WriterPropertiesBuilder, also_keys: bool| { for (i, f) in schema.fields().iter().enumerate() { if also_keys || i >= view.key_count() { b = b.set_column_dictionary_enabled(ColumnPath::from(f.name().clone()), false); } } b };
            let variants: Vec<(&str, WriterProperties)> = vec![
                ("now", base().build()),
                ("no dictionary for states", nodict(base(), false).build()),
                ("no dictionary at all", nodict(base(), true).build()),
                ("statistics by chunk", base().set_statistics_enabled(EnabledStatistics::Chunk).build()),
                ("lz4", base().set_compression(Compression::SNAPPY).build()),
                ("uncompressed", base().set_compression(Compression::UNCOMPRESSED).build()),
                ("no dictionary for states, chunk", nodict(base(), false).set_statistics_enabled(EnabledStatistics::Chunk).build()),
                ("no dict states, chunk, snappy", nodict(base(), false).set_statistics_enabled(EnabledStatistics::Chunk).set_compression(Compression::SNAPPY).build()),
            ];
            for _ in 0..4 { for (n, v) in &variants {
                let mut bytes = 0;
                let m = Measurement::of(rows, async { let mut w = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(v.clone()))?; for b in &batches { w.write(b)?; } bytes = w.into_inner()?.len(); Ok(()) }).await?;
                println!("{n:<40} {:.0} ms, cpu {:.0} ms, {} KiB", m.wall.as_secs_f64() * 1e3, m.cpu.as_secs_f64() * 1e3, bytes >> 10);
            } }
            continue;
        }
        let mut sides = Sides::default();
        let mut groups = [0; 2];
        for _ in 0..TURNS {
            let measured = Measurement::of(1, async {
                let rows = bare.sql(&query).await?.collect().await?;
                groups[0] = rows.iter().map(RecordBatch::num_rows).sum();
                Ok(())
            });
            sides.note("bare DataFusion", measured.await?);
            let measured = Measurement::of(1, async {
                let files = full_recompute(&view, &history, &views, &session).await?;
                groups[1] = files.iter().map(|file| file.rows as usize).sum();
                Ok(())
            });
            sides.note("full batch run", measured.await?);
            views.delete_orphans().await?;
        }
        ensure!(groups[0] == groups[1], "{groups:?} groups");
        println!(" {} groups", groups[0]);
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
        let mut end = start.clone();
        end.raise(partition, start.get(partition).advance(events.num_rows()));
        let range = OffsetRange::new(start.get(partition), end.get(partition));
        let batch = LogBatch { partition, range, ingested_at_us: 0, events: flights::years_later(&events, year)? };
        let batches = vec![batch.with_system_columns(&source.event_schema)?];
        writer.append(&Append { batches, start, end, max_event_times_us: Vec::new() }).await?;
    }
    Ok(history.known())
}

/// DataFusion as it comes, with a table over the history's files.
async fn bare_session(history: &HistorySnapshot) -> Result<SessionContext> {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(parallelism(0)));
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
        Statement::Source(_) => None,
    });
    Ok(compile(&views.context("no view")?, Arc::clone(source)).await?)
}
