//! Dead letters that are written to their topic again, after a fix: each once.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use watershed_serving_layer::Replayed;
use watershed_shared::cpu::blocking;
use watershed_shared::error::Error as SharedError;
use watershed_shared::log::send_again;
use watershed_shared::plan::plan_session;
use watershed_shared::position::{Offset, PartitionId, Position, PositionToken};
use watershed_shared::sink::{TransactionalTarget, TransactionalTopic};
use watershed_shared::source::{Connector, DEAD_LETTERS_SUFFIX};

use super::Platform;
use crate::error::{Error, Result};

impl Platform {
    /// Writes a source's dead letters to its topic again that were not before, in one transaction that notes how far it came.
    pub(super) async fn replay(&self, source: &str, dry_run: bool) -> Result<Replayed> {
        let inner = &self.inner;
        let definition = Arc::clone(&inner.source(source)?.handle.source);
        let Connector::Kafka(options) = &definition.connector else {
            return Err(SharedError::NoTopic { name: source.to_owned() }.into());
        };
        let letters_name = format!("{source}{DEAD_LETTERS_SUFFIX}");
        let letters = inner.source(&letters_name)?;
        let _turn = inner.replays.lock().await;
        let target = TransactionalTarget {
            what: format!("the dead letters of source \"{source}\""),
            // No sink can be called so.
            name: format!("replay.{source}"),
            topic: options.topic.clone(),
            brokers: options.brokers.clone(),
            properties: Arc::new(options.properties.clone()),
        };
        let interrupted = |_| Error::Panicked { what: "writing dead letters" };
        let opened = blocking(move || match dry_run {
            true => TransactionalTopic::progress_of(&target).map(|progress| (None, progress)),
            false => TransactionalTopic::open(&target).map(|(topic, progress)| (Some(topic), progress)),
        });
        let (mut topic, progress) = opened.await.map_err(interrupted)??;
        let from = progress.map(|progress| progress.parse::<PositionToken>()).transpose()?;
        let from = from.map(|token| token.position).unwrap_or_default();

        let end = letters.accepted().await;
        let mut snapshots = letters.handle.snapshots.clone();
        let snapshot = match snapshots.wait_for(|snapshot| snapshot.applied.covers(&end)).await {
            Ok(snapshot) => Arc::clone(&snapshot),
            Err(_) => return Err(Error::Stopping),
        };
        let Some(view) = snapshot.views.get(&letters_name) else {
            let reason = format!("view \"{letters_name}\" cannot be asked now; see /readyz");
            return Err(watershed_serving_layer::Error::Unavailable { reason }.into());
        };
        let session = plan_session(1, Arc::clone(&inner.query_runtime));
        let plan = view.plan.query(view.parts()).map_err(SharedError::from)?;
        let plan = session.create_physical_plan(&plan).await.map_err(SharedError::from)?;
        let mut rows = execute_stream(plan, session.task_ctx()).map_err(SharedError::from)?;
        let mut replayed = 0;
        while let Some(rows) = rows.next().await {
            let rows = since(&rows.map_err(SharedError::from)?, &from)?;
            if rows.num_rows() == 0 {
                continue;
            }
            let is_first = replayed == 0;
            replayed += rows.num_rows() as u64;
            let Some(writer) = topic.take() else { continue };
            let sent = blocking(move || {
                if is_first {
                    writer.begin()?;
                }
                send_again(&writer, &rows)?;
                Ok::<_, SharedError>(writer)
            });
            topic = Some(sent.await.map_err(interrupted)??);
        }
        if let Some(topic) = topic.filter(|_| replayed > 0) {
            let progress = PositionToken { source: letters_name, position: snapshot.applied.clone() }.to_string();
            blocking(move || topic.commit(&progress)).await.map_err(interrupted)??;
            tracing::info!(source, replayed, "wrote dead letters to their topic again");
        }
        Ok(Replayed { replayed, dry_run })
    }
}

/// The letters at or after a position.
fn since(letters: &RecordBatch, from: &Position) -> Result<RecordBatch> {
    let column = |name: &str| letters.column_by_name(name).ok_or(Error::Panicked { what: "reading dead letters" });
    let (partitions, offsets) = (column("partition")?, column("offset")?);
    let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
    let places = partitions.values().iter().zip(offsets.values());
    let is_new = |(partition, offset): (&i32, &i64)| {
        Offset(offset.unsigned_abs()) >= from.get(PartitionId(partition.unsigned_abs()))
    };
    let wanted: BooleanArray = places.map(is_new).map(Some).collect();
    Ok(filter_record_batch(letters, &wanted).map_err(SharedError::from)?)
}
