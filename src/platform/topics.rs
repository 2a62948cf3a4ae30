//! Sources whose log is a Kafka topic: where they begin, and how an operator lets them go on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use watershed_batch_layer::{Append, EncodeOptions, History, Store};
use watershed_shared::definition::Statement;
use watershed_shared::error::Error as SharedError;
use watershed_shared::format::RecordSchemas;
use watershed_shared::log::{KafkaTopic, KnownRecord, Log};
use watershed_shared::position::{PartitionId, Position};
use watershed_shared::source::{Connector, KafkaOptions, SourceDefinition, dead_letters_of};
use watershed_shared::time::sleep;

use super::registry::schema_registry;
use crate::error::{Error, Result, with_causes};

/// Pause before brokers are asked again where a source begins.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The topics of all Kafka sources, by source.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: BTreeMap<String, KafkaTopic>,
}

impl Topics {
    /// The log of a source that reads a topic, as its events or as the dead letters of another; `None` for others. Of the
    /// two, the source of the events is opened first.
    ///
    /// On the first start it waits for the brokers, and writes where the source begins into both histories: what comes
    /// later must not depend on when it was asked.
    pub(super) async fn log(
        &mut self,
        source: &mut SourceDefinition,
        store: &Store,
        bytes_ahead_max: usize,
        progress: &watch::Sender<String>,
    ) -> Result<Option<Arc<dyn Log>>> {
        let log: Arc<dyn Log> = match source.connector.clone() {
            Connector::Http => return Ok(None),
            Connector::Kafka(options) => {
                // As many as the history knows; the topic says if there are more.
                let known = History::open(store, source).await?.known();
                source.partitions = known.end().offsets().len().max(1) as u32;
                let schemas = schemas(&options)?;
                let mut topic = KafkaTopic::open(source, &options, schemas.clone(), bytes_ahead_max)?;
                begin(source, &options, &topic, store, progress).await?;
                if topic.events().partitions() > source.partitions {
                    // What may be fetched ahead is divided among the partitions.
                    source.partitions = topic.events().partitions();
                    topic = KafkaTopic::open(source, &options, schemas, bytes_ahead_max)?;
                }
                topic.expect(known_records(source, store).await?);
                let log = topic.events();
                self.topics.insert(source.name.clone(), topic);
                Arc::new(log)
            }
            Connector::DeadLetters { of } => {
                let topic = self.topics.get(&of);
                let log = topic.ok_or(Error::Stopping)?.dead_letters();
                source.partitions = log.partitions();
                Arc::new(log)
            }
        };
        Ok(Some(log))
    }

    /// The topic of a source.
    pub(super) fn get(&self, source: &str) -> Option<&KafkaTopic> {
        self.topics.get(source)
    }
}

/// The sources and views that come with those of the project: dead letters of each topic.
///
/// # Errors
/// `Invalid` when a name is too long, or taken.
pub fn with_dead_letters(statements: Vec<Statement>) -> Result<Vec<Statement>> {
    let mut all = Vec::with_capacity(statements.len());
    for statement in &statements {
        let Statement::Source(source) = statement else { continue };
        if !matches!(source.connector, Connector::Kafka(_)) {
            continue;
        }
        let (dead_letters, view) = dead_letters_of(source)?;
        let is_taken = |statement: &Statement| match statement {
            Statement::Source(source) => source.name == dead_letters.name,
            Statement::View(view) => view.name == dead_letters.name,
            Statement::Sink(_) => false,
        };
        if statements.iter().any(is_taken) {
            let reason = format!(
                "the name \"{}\" is that of the dead letters of source \"{}\"; use another name",
                dead_letters.name, source.name
            );
            return Err(Error::Project { reason });
        }
        all.extend([Statement::Source(dead_letters), view]);
    }
    all.extend(statements);
    Ok(all)
}

/// Writes where a source begins into its history and into that of its dead letters, unless they know.
async fn begin(
    source: &SourceDefinition,
    options: &KafkaOptions,
    topic: &KafkaTopic,
    store: &Store,
    progress: &watch::Sender<String>,
) -> Result<()> {
    let (dead_letters, _) = dead_letters_of(source)?;
    let mut beginning: Option<Position> = None;
    // The dead letters first: if this ends in between, the other begins later, and no record is judged by nobody.
    for source in [&dead_letters, source] {
        let history = History::open(store, source).await?;
        if history.known().has_position() {
            continue;
        }
        let end = match &beginning {
            Some(beginning) => beginning.clone(),
            None => beginning.insert(beginning_of(topic, options, progress).await?).clone(),
        };
        tracing::info!(source = source.name, topic = options.topic, offsets = %end, "begins to read a topic");
        let append =
            Append { batches: Vec::new(), start: Position::default(), end, max_event_times_us: vec![], gaps: vec![] };
        history.writer(EncodeOptions::history()).append(&append).await?;
    }
    Ok(())
}

/// The last records that the histories of a source and of its dead letters have.
async fn known_records(source: &SourceDefinition, store: &Store) -> Result<Vec<KnownRecord>> {
    let (dead_letters, _) = dead_letters_of(source)?;
    let mut known: BTreeMap<PartitionId, KnownRecord> = BTreeMap::new();
    for source in [&dead_letters, source] {
        for (partition, offset, time_us) in History::open(store, source).await?.known().last_events().await? {
            let record = KnownRecord { partition, offset, time_us };
            let newest = known.entry(partition).or_insert(record);
            if newest.offset < offset {
                *newest = record;
            }
        }
    }
    Ok(known.into_values().collect())
}

/// Waits for the brokers: nobody can know where the source begins without them.
async fn beginning_of(
    topic: &KafkaTopic,
    options: &KafkaOptions,
    progress: &watch::Sender<String>,
) -> Result<Position> {
    loop {
        match topic.beginning().await {
            Ok(beginning) => return Ok(beginning),
            Err(error @ SharedError::Log { .. }) => {
                let error = with_causes(&error);
                tracing::warn!(topic = options.topic, brokers = options.brokers, error, "waiting for the topic");
                progress.send_replace(format!("waiting for topic \"{}\": {error}", options.topic));
                sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn schemas(options: &KafkaOptions) -> Result<RecordSchemas> {
    let schema_text = options.schema_file.as_ref().map(|path| read_file(path)).transpose()?;
    let registry = options.registry.as_ref().map(schema_registry).transpose()?.map(Arc::new);
    Ok(RecordSchemas { registry, schema_text, message: options.message.clone() })
}

pub(super) fn read_file(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Unreadable { path: path.to_owned(), reason: error.to_string() })
}
