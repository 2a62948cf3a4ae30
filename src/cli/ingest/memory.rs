//! What is remembered of one file while it is being sent: saved before each request and after each acknowledgement.

use anyhow::Result;
use watershed_shared::position::PositionToken;

use super::chunk::Mark;
use super::ledger::{Entry, Pending, Record, Stamp};
use crate::client::RequestName;
use crate::client::answer::Ingested;

/// What is remembered of one file while it is being sent.
pub(super) struct Memory {
    pub(super) entry: Entry,
    pub(super) record: Record,
    /// What the file looked like when this call began.
    pub(super) stamp: Stamp,
}

impl Memory {
    pub(super) fn start_afresh(&mut self) {
        self.record = Record::nothing(self.stamp);
    }

    /// Before a request is sent.
    pub(super) fn intend(&mut self, request: &RequestName, end: Mark) -> Result<()> {
        let RequestName { producer, sequence } = request.clone();
        self.record.pending = Some(Pending { producer, sequence, end });
        self.record.complete = false;
        self.entry.save(self.record.clone())
    }

    /// When the request has certainly changed nothing; the next call need not cut its rows as this one did.
    pub(super) fn withdraw(&mut self) -> Result<()> {
        self.record.pending = None;
        self.entry.save(self.record.clone())
    }

    pub(super) fn acknowledge(&mut self, end: Mark, answer: &Ingested, position: Option<&PositionToken>) -> Result<()> {
        let record = &mut self.record;
        record.stamp = self.stamp;
        record.mark = end;
        record.accepted += answer.accepted;
        record.rejected += answer.rejected;
        record.complete = false;
        record.pending = None;
        if let Some(position) = position {
            join(&mut record.position, position.clone());
        }
        self.entry.save(record.clone())
    }

    pub(super) fn complete(&mut self) -> Result<()> {
        self.record.stamp = self.stamp;
        self.record.complete = true;
        self.entry.save(self.record.clone())
    }
}

/// Raises a position to one that came later, or begins with it.
pub(super) fn join(joined: &mut Option<PositionToken>, other: PositionToken) {
    match joined {
        Some(joined) => joined.position.join(&other.position),
        None => *joined = Some(other),
    }
}
