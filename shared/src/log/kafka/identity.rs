//! Whether a topic is still the one that was read before.
//!
//! Kafka gives a topic that was deleted and made again the same name and offsets from 0 on. The records of its partitions
//! at the offsets that the history ends with would be other records; nothing else tells.

use super::reread::Rereader;
use super::topic::{Halt, Topic};
use crate::error::Result;
use crate::position::{Offset, OffsetRange, PartitionId};

/// A record that was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRecord {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, as `_ingested_at` has it.
    pub time_us: i64,
}

/// Looks at what a partition has now at a record that was read before, of which `next` comes next. `None` if nothing speaks
/// against it: it may be gone, by retention or compaction. Blocks.
///
/// # Errors
/// When the brokers do not answer, or the record cannot be decoded now.
pub(super) fn check(
    topic: &Topic,
    rereader: &Rereader,
    known: Option<KnownRecord>,
    partition: PartitionId,
    next: Offset,
) -> Result<Option<Halt>> {
    let available = topic.watermarks(partition.0)?;
    let replaced = Halt::Replaced { next, available };
    if next > available.end() || known.is_some_and(|known| known.offset >= available.end()) {
        return Ok(Some(replaced));
    }
    let Some(known) = known.filter(|known| available.contains(known.offset)) else { return Ok(None) };
    let range = OffsetRange::new(known.offset, known.offset.advance(1));
    let found = rereader.read(topic, partition, range, 1)?;
    let time_us = found.events.ingested_at_us().or(found.dead_letters.ingested_at_us());
    Ok(time_us.filter(|time_us| *time_us != known.time_us).map(|_| replaced))
}
