//! The bundled example: its definitions, and its events in log order. Embedded, so that the demo needs no files.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use watershed_shared::config::Config;
use watershed_shared::definition::{Statement, ViewStatement, parse_definitions};
use watershed_shared::format::{EventDecoder, EventFormat};
use watershed_shared::source::SourceDefinition;

const CONFIG: &str = include_str!("../../../examples/flights/watershed.toml");
const DEFINITIONS: &str = include_str!("../../../examples/flights/flights.sql");
const EVENTS: &[u8] = include_bytes!("../../../examples/flights/flights.parquet");

/// The example, ready to be played.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) config: Config,
    pub(super) source: Arc<SourceDefinition>,
    pub(super) views: Vec<ViewStatement>,
    /// All events in log order, in the source's declared columns.
    pub(super) events: RecordBatch,
}

impl Example {
    /// Parses the definitions and reads the events.
    ///
    /// # Errors
    /// When the files do not fit each other; tests see to it that they do.
    pub(super) fn read() -> Result<Example> {
        let config = toml::from_str(CONFIG).context("cannot read the example's configuration")?;
        let mut sources = Vec::new();
        let mut views = Vec::new();
        for statement in parse_definitions(DEFINITIONS).context("cannot read the example's definitions")? {
            match statement {
                Statement::Source(source) => sources.push(Arc::new(source)),
                Statement::View(mut view) => {
                    // The demo starts the runs itself, and accounts for each.
                    view.options.batch = None;
                    views.push(view);
                }
                Statement::Sink(sink) => bail!("the example has a sink, \"{}\"", sink.name),
            }
        }
        let source = sources.pop().context("the example defines no source")?;
        let events = read_events(&source).context("cannot read the example's events")?;
        Ok(Example { config, source, views, events })
    }

    /// The definitions, for the platform.
    pub(super) fn statements(&self) -> Vec<Statement> {
        let views = self.views.iter().cloned().map(Statement::View);
        std::iter::once(Statement::Source(self.source.as_ref().clone())).chain(views).collect()
    }

    /// Writes the definitions and the configuration into `folder`, so that `watershed run` can go on with it.
    pub(super) fn write_project(folder: &Path) -> std::io::Result<()> {
        std::fs::write(folder.join("watershed.toml"), CONFIG)?;
        std::fs::write(folder.join("flights.sql"), DEFINITIONS)
    }

    /// The event times of `events`, microseconds since the epoch.
    pub(super) fn event_times_us<'a>(&self, events: &'a RecordBatch) -> &'a [i64] {
        let column = self.source.watermark.as_ref().and_then(|watermark| events.column_by_name(&watermark.column));
        let times = column.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        times.map_or(&[], |times| times.values())
    }
}

/// The rows as the body of an ingest request.
pub(super) fn encode(events: &RecordBatch) -> Result<Bytes> {
    let mut writer = StreamWriter::try_new(Vec::new(), &events.schema()).context("cannot encode events as Arrow")?;
    writer.write(events).context("cannot encode events as Arrow")?;
    Ok(writer.into_inner().context("cannot encode events as Arrow")?.into())
}

/// Reads the file into the types that the source declares.
fn read_events(source: &SourceDefinition) -> Result<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from_static(EVENTS))?;
    let schema = Arc::clone(builder.schema());
    let batches = builder.build()?.collect::<Result<Vec<_>, _>>()?;
    let body = encode(&concat_batches(&schema, &batches)?)?;
    let decoded = EventDecoder::new(source)?.decode(EventFormat::ArrowStream, &body)?;
    let refused = decoded.rejected.first();
    ensure!(refused.is_none(), "the source refuses {} of them: {refused:?}", decoded.rejected.len());
    Ok(decoded.events)
}
