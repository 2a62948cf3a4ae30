//! Events that clients send over HTTP to a source that reads a topic: they are written to the topic, and come back from it.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use watershed_serving_layer::objects_of;
use watershed_shared::error::Error as SharedError;
use watershed_shared::format::EventDecoder;
use watershed_shared::log::TopicProducer;
use watershed_shared::position::Position;
use watershed_shared::source::{KafkaOptions, RecordMetadata, SourceDefinition};

use crate::error::Result;

/// The way into a source's topic.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    producer: TopicProducer,
    /// Places of the columns that are in records' values, among those that clients send.
    values: Vec<usize>,
    /// Place of the column that is the records' key.
    key: Option<usize>,
}

impl Gateway {
    /// The gateway of a source, and a decoder of what clients send: the columns that a record can have.
    pub(super) fn open(source: &SourceDefinition, options: &KafkaOptions) -> Result<(Gateway, EventDecoder)> {
        let held = |name: &str| options.metadata.iter().find(|column| column.name == name).map(|column| &column.holds);
        let is_sent = |name: &str| held(name).is_none_or(|holds| *holds == RecordMetadata::Key);
        let sent = source.columns.fields().iter().enumerate().filter(|(_, field)| is_sent(field.name()));
        let columns = source.columns.project(&sent.map(|(index, _)| index).collect::<Vec<_>>());
        let columns = Arc::new(columns.map_err(SharedError::from)?);
        let (values, keys): (Vec<usize>, Vec<usize>) =
            (0..columns.fields().len()).partition(|column| held(columns.field(*column).name()).is_none());
        let decoder = EventDecoder::new(&SourceDefinition::new(&source.name, &source.sql, columns))?;
        let producer = TopicProducer::open(&source.name, options)?;
        Ok((Gateway { producer, values, key: keys.first().copied() }, decoder))
    }

    /// Writes events to the topic; the next offset of each partition that has some of them.
    pub(super) async fn write(&self, events: &RecordBatch) -> Result<Position> {
        let values = events.project(&self.values).map_err(SharedError::from)?;
        let keys = self.key.map(|key| events.column(key).as_string::<i32>());
        Ok(self.producer.write(objects_of(&values, keys).map_err(SharedError::from)?).await?)
    }
}
