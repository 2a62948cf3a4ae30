//! The input of all benchmarks: the example's events, as they are or year after year, and the platform on them.

use std::fs::{File, read_to_string};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;
use watershed::platform::{Platform, Ports};
use watershed_serving_layer::{Backend, IngestReport};
use watershed_shared::config::Config;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::event::timestamp_type;
use watershed_shared::format::EventFormat;
use watershed_shared::position::{Position, PositionToken};
use watershed_shared::source::SourceDefinition;

/// Name of the example's source.
pub(crate) const SOURCE: &str = "flights";
/// The example's views.
pub(crate) const VIEWS: [&str; 3] = ["flights_by_day_origin", "carrier_stats", "long_delays"];

const YEAR_US: i64 = 365 * 24 * 3_600 * 1_000_000;

/// The example's source and those of its views that are named, followed by `more` statements.
pub(crate) fn definitions(views: &[&str], more: &str) -> Result<Vec<Statement>> {
    let example = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.sql"))?;
    let mut statements = parse_definitions(&example)?;
    statements.retain(|statement| match statement {
        Statement::Source(_) => true,
        Statement::View(view) => views.contains(&view.name.as_str()),
        Statement::Sink(_) => false,
    });
    statements.extend(parse_definitions(more)?);
    Ok(statements)
}

/// The example's source.
pub(crate) fn source() -> Result<SourceDefinition> {
    let source = definitions(&[], "")?.into_iter().find_map(|statement| match statement {
        Statement::Source(source) => Some(source),
        Statement::View(_) | Statement::Sink(_) => None,
    });
    source.context("the example has no source")
}

/// The events of 2013, in log order.
pub(crate) fn events(source: &SourceDefinition) -> Result<RecordBatch> {
    let file = File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.parquet"))?;
    let batches = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?.collect::<Result<Vec<_>, _>>()?;
    let stored = concat_batches(&batches.first().context("the example has no events")?.schema(), &batches)?;
    let columns = source.columns.fields().iter().map(|field| {
        let column = stored.column_by_name(field.name()).with_context(|| format!("no column {}", field.name()))?;
        Ok(cast(column, field.data_type())?)
    });
    Ok(RecordBatch::try_new(Arc::clone(&source.columns), columns.collect::<Result<_>>()?)?)
}

/// `events` as if they had happened some years of 365 days later.
pub(crate) fn years_later(events: &RecordBatch, years: i64) -> Result<RecordBatch> {
    let later = |column: &ArrayRef| -> ArrayRef {
        match column.as_primitive_opt::<TimestampMicrosecondType>() {
            Some(times) if *column.data_type() == timestamp_type() => {
                Arc::new(times.unary::<_, TimestampMicrosecondType>(|us| us + years * YEAR_US).with_timezone("UTC"))
            }
            _ => Arc::clone(column),
        }
    };
    Ok(RecordBatch::try_new(events.schema(), events.columns().iter().map(later).collect())?)
}

/// Request bodies of `rows` events each, as NDJSON.
pub(crate) fn bodies(events: &RecordBatch, rows: usize) -> Result<Vec<Body>> {
    let starts = (0..events.num_rows()).step_by(rows);
    let body = |start: usize| {
        let events = events.slice(start, rows.min(events.num_rows() - start));
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(&events)?;
        writer.finish()?;
        Ok(Body { json: Bytes::from(writer.into_inner()), rows: events.num_rows() })
    };
    starts.map(body).collect()
}

/// A request's body.
#[derive(Clone)]
pub(crate) struct Body {
    pub(crate) json: Bytes,
    pub(crate) rows: usize,
}

/// A platform on an empty folder, with the default configuration on real ports.
pub(crate) struct Running {
    pub(crate) platform: Platform,
    _folder: TempDir,
}

impl Running {
    pub(crate) async fn open(statements: Vec<Statement>) -> Result<Running> {
        let folder = crate::folder()?;
        let config = Config::default();
        let ports = Ports::open(&config, folder.path())?;
        Ok(Running { platform: Platform::open(statements, config, ports).await?, _folder: folder })
    }

    /// Sends all bodies from several concurrent clients; returns when all are acknowledged.
    pub(crate) async fn accept(&self, bodies: &Arc<Vec<Body>>, clients: usize) -> Result<()> {
        let platform = self.platform.clone();
        let send = move |body: Body| {
            let platform = platform.clone();
            async move { check(&platform.accept(SOURCE, EventFormat::NdJson, body.json).await?, body.rows) }
        };
        in_turn(bodies, clients, send).await
    }

    /// Returns when everything acknowledged is in the views and committed to the history.
    pub(crate) async fn archive(&self) -> Result<()> {
        let history = self.platform.archive(SOURCE).await?;
        let applied = self.platform.snapshots().into_iter().map(|(_, snapshots)| snapshots.borrow().applied.clone());
        ensure!(applied.into_iter().all(|applied| applied.covers(history.end())), "the views are behind the history");
        Ok(())
    }

    /// Waits until the realtime runs have not been merged for a while.
    pub(crate) async fn settle(&self) {
        let runs = || self.platform.views().iter().map(|view| view.realtime.runs).collect::<Vec<_>>();
        let mut before = runs();
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            let after = runs();
            if after == before {
                return;
            }
            before = after;
        }
    }
}

/// Hands each body once to one of several concurrent clients.
pub(crate) async fn in_turn<F, S>(bodies: &Arc<Vec<Body>>, clients: usize, send: S) -> Result<()>
where
    S: Fn(Body) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (bodies, next, send) = (Arc::clone(bodies), Arc::clone(&next), send.clone());
            tokio::spawn(async move {
                while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                    send(body.clone()).await?;
                }
                Ok::<_, anyhow::Error>(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(())
}

/// Refuses a report that does not accept all `rows`.
pub(crate) fn check(report: &IngestReport, rows: usize) -> Result<()> {
    ensure!(report.accepted == rows, "{} of {rows} events accepted: {:?}", report.accepted, report.errors.first());
    Ok(())
}

/// The position that a report acknowledges.
pub(crate) fn position(report: &IngestReport) -> Result<Position> {
    Ok(report.position.parse::<PositionToken>()?.position)
}
