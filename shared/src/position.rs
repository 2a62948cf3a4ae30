//! Places in a source's log: offsets, ranges, positions and boundaries.
//!
//! All offset arithmetic of the platform is here. Ranges are half-open everywhere: `[start, end)`.
//! A [`Position`] is a vector over the partitions of one source; it names the next offset of each, so the position
//! of an empty log is all zeros and two positions join by the larger offset of each partition.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Number of a partition of one source, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// Index into a vector that holds one element for each partition.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Place of one event in one partition of one source's log; the first event has offset 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every partition.
    pub const BEGINNING: Offset = Offset(0);

    /// The offset `count` events later.
    #[must_use]
    pub fn advance(self, count: usize) -> Offset {
        Offset(self.0 + count as u64)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Half-open range `[start, end)` of offsets in one partition; `start <= end` always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetRange {
    start: Offset,
    end: Offset,
}

impl OffsetRange {
    /// The range `[start, end)`.
    ///
    /// # Panics
    /// If `start > end`: offsets only grow, so this is a bug of the caller.
    pub fn new(start: Offset, end: Offset) -> OffsetRange {
        assert!(start <= end, "offset range [{start}, {end}) ends before it starts");
        OffsetRange { start, end }
    }

    /// First offset in the range.
    pub fn start(self) -> Offset {
        self.start
    }

    /// First offset after the range.
    pub fn end(self) -> Offset {
        self.end
    }

    /// Number of offsets in the range.
    pub fn len(self) -> usize {
        usize::try_from(self.end.0 - self.start.0).unwrap_or(usize::MAX)
    }

    /// Whether the offset lies in the range.
    pub fn contains(self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }

    /// Whether the range holds no offset.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// Offsets of a partition whose events, if there were any, can never be read: the log lost them before the platform had
/// them, and an operator has decided to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gap {
    /// Partition.
    pub partition: PartitionId,
    /// The lost offsets.
    pub range: OffsetRange,
}

/// The next offset of each partition of one source, after what a client wrote or an answer covers.
///
/// Partitions beyond the vector's end count as offset 0, so positions of different lengths compare and join.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Position(Vec<Offset>);

impl Position {
    /// The position before the first event of `partitions` partitions.
    pub fn beginning(partitions: u32) -> Position {
        Position(vec![Offset::BEGINNING; partitions as usize])
    }

    /// The position whose element `i` is the next offset of partition `i`.
    pub fn new(offsets: Vec<Offset>) -> Position {
        Position(offsets)
    }

    /// Next offset of one partition.
    pub fn get(&self, partition: PartitionId) -> Offset {
        self.0.get(partition.index()).copied().unwrap_or_default()
    }

    /// Next offset of each partition, in partition order.
    pub fn offsets(&self) -> &[Offset] {
        &self.0
    }

    /// Each partition with its next offset, in partition order.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Offset)> + Clone + '_ {
        self.0.iter().enumerate().map(|(index, offset)| (PartitionId(index as u32), *offset))
    }

    /// Raises one partition's next offset to `offset`; a lower offset changes nothing.
    pub fn raise(&mut self, partition: PartitionId, offset: Offset) {
        if self.0.len() <= partition.index() {
            self.0.resize(partition.index() + 1, Offset::BEGINNING);
        }
        let next = &mut self.0[partition.index()];
        *next = (*next).max(offset);
    }

    /// Raises every partition to at least `other`'s next offset.
    pub fn join(&mut self, other: &Position) {
        for (partition, offset) in other.iter() {
            self.raise(partition, offset);
        }
    }

    /// The lower offset of each partition: below it is what is below both.
    #[must_use]
    pub fn meet(&self, other: &Position) -> Position {
        Position(self.iter().map(|(partition, offset)| offset.min(other.get(partition))).collect())
    }

    /// Whether everything below `other` is below this position too.
    pub fn covers(&self, other: &Position) -> bool {
        other.iter().all(|(partition, offset)| self.get(partition) >= offset)
    }

    /// Number of events between `start` and this position; partitions where `start` is ahead count zero.
    pub fn events_since(&self, start: &Position) -> u64 {
        self.iter().map(|(partition, offset)| offset.0.saturating_sub(start.get(partition).0)).sum()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, offset) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{offset}")?;
        }
        Ok(())
    }
}

/// Per partition, the first offset that a batch view does *not* cover: batch answers `[0, b)`, realtime from `b`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Boundary(pub Position);

impl Boundary {
    /// The boundary of a batch view that covers nothing.
    pub fn beginning(partitions: u32) -> Boundary {
        Boundary(Position::beginning(partitions))
    }

    /// Whether the batch view holds the event at this place. The one rule that divides the two layers.
    pub fn covers(&self, partition: PartitionId, offset: Offset) -> bool {
        offset < self.0.get(partition)
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of one published batch view of a view definition: 1, 2, 3, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchVersion(pub u64);

impl fmt::Display for BatchVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position of a named source as clients see it: `edits=12,40,7`, offsets in partition order.
///
/// A request's acknowledgement carries one; a query that names it waits until its answer covers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PositionToken {
    /// Name of the source.
    pub source: String,
    /// Next offsets of the source's partitions.
    pub position: Position,
}

impl fmt::Display for PositionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.source, self.position)
    }
}

impl From<PositionToken> for String {
    fn from(token: PositionToken) -> String {
        token.to_string()
    }
}

impl TryFrom<String> for PositionToken {
    type Error = Error;

    fn try_from(text: String) -> Result<PositionToken> {
        text.parse()
    }
}

impl std::str::FromStr for PositionToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<PositionToken> {
        let malformed = || Error::InvalidPosition { text: text.chars().take(200).collect() };
        let (source, offsets) = text.rsplit_once('=').ok_or_else(malformed)?;
        if source.is_empty() {
            return Err(malformed());
        }
        let offsets: Vec<Offset> = offsets
            .split(',')
            .map(|offset| offset.parse().map(Offset).map_err(|_| malformed()))
            .collect::<Result<_>>()?;
        Ok(PositionToken { source: source.to_owned(), position: Position(offsets) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offsets: &[u64]) -> Position {
        Position::new(offsets.iter().copied().map(Offset).collect())
    }

    #[test]
    fn event_at_the_boundary_is_not_covered_by_batch() {
        let boundary = Boundary(position(&[5, 0]));
        assert!(boundary.covers(PartitionId(0), Offset(4)));
        assert!(!boundary.covers(PartitionId(0), Offset(5)));
        assert!(!boundary.covers(PartitionId(1), Offset(0)));
        assert!(!boundary.covers(PartitionId(9), Offset(0)), "an unknown partition has no batch part");
    }

    #[test]
    fn positions_join_by_the_larger_offset_of_each_partition() {
        let mut joined = position(&[3, 9]);
        joined.join(&position(&[7, 1, 4]));
        assert_eq!(joined, position(&[7, 9, 4]));
        assert!(joined.covers(&position(&[7, 9])));
        assert!(!joined.covers(&position(&[8])));
        assert_eq!(joined.events_since(&position(&[3, 9])), 8);
        assert_eq!(joined.meet(&position(&[8, 2])), position(&[7, 2, 0]));
    }

    #[test]
    fn tokens_survive_a_round_trip_and_refuse_anything_else() {
        let token = PositionToken { source: "edits".into(), position: position(&[12, 40, 7]) };
        assert_eq!(token.to_string(), "edits=12,40,7");
        assert_eq!("edits=12,40,7".parse::<PositionToken>().ok(), Some(token));
        for bad in ["", "edits", "edits=", "=1", "edits=1,,2", "edits=-1", "edits=1,x", "edits=99999999999999999999"] {
            assert!(bad.parse::<PositionToken>().is_err(), "{bad:?} was accepted");
        }
    }
}
