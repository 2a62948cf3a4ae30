//! Receipts: what a log remembers of requests, so that one that is repeated appends nothing and gets its old answer.
//!
//! A receipt names a request by a key that the client chose, or by its number in a producer's stream. The log stores it
//! together with the request's events, and forgets it after a window. Whether a request is new is decided in [`recall`]
//! alone; where appends are serialized, so that of two equal ones only the first can be new.
//!
//! Numbers of a producer begin at 0 and leave no gap. A producer that the log does not know, because it is new or was
//! forgotten, can begin with nothing else. So a request that is repeated after the window is refused rather than
//! appended again, unless it is a producer's first.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use twox_hash::XxHash64;

use crate::error::Result;
use crate::format::EventFormat;
use crate::position::Position;

/// How long receipts are remembered unless a log is told otherwise.
pub const RECEIPT_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Shorter windows would forget requests that are under way, and cost a range delete for every few appends.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// Names a request among those of its source. Texts hold no zero byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReceiptKey {
    /// By a name that is the client's own for this one request.
    Request(String),
    /// By its place in a producer's stream of requests.
    Sequence {
        /// Name of the producer.
        producer: String,
        /// Number of the request, from 0, without gaps.
        sequence: u64,
    },
}

/// What an append is to be remembered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which request it is.
    pub key: ReceiptKey,
    /// Hash of what was sent; tells a repeated request from another one with the same key.
    pub content: u64,
    /// What the caller needs to give the same answer again, besides the position; opaque to the log.
    pub answer: Bytes,
}

/// What became of an append with a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It was new; events and receipt are durable. The next offset of each partition written to.
    Now(Position),
    /// The same request was appended before; nothing was appended now.
    Before {
        /// What its receipt says.
        answer: Bytes,
        /// The position that it was answered with.
        position: Position,
    },
    /// A request with this key but other content was appended before; nothing was appended now.
    OtherContent,
    /// The producer's next request is another one; nothing was appended.
    OutOfOrder {
        /// Number of the request that the log expects of the producer.
        expected: u64,
    },
}

impl fmt::Display for ReceiptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReceiptKey::Request(key) => write!(f, "request \"{key}\""),
            ReceiptKey::Sequence { producer, sequence } => write!(f, "request {sequence} of producer \"{producer}\""),
        }
    }
}

impl Receipt {
    /// The hash of a request's content, as [`Receipt::content`] holds it.
    pub fn content_of(source: &str, format: EventFormat, body: &[u8]) -> u64 {
        let format = match format {
            EventFormat::NdJson => 0,
            EventFormat::JsonArray => 1,
            EventFormat::Csv => 2,
            EventFormat::ArrowStream => 3,
        };
        let seed = XxHash64::oneshot(format, source.as_bytes());
        XxHash64::oneshot(seed, body)
    }
}

/// A receipt as a log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) content: u64,
    pub(super) ingested_at_us: i64,
    pub(super) position: Position,
    pub(super) answer: Bytes,
}

/// The last request of a producer, as a log holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastSequence {
    pub(super) sequence: u64,
    pub(super) ingested_at_us: i64,
}

/// Where a log keeps its receipts. It may answer what it should have forgotten; [`recall`] looks at the time.
pub(super) trait Memory {
    /// The receipt of a request.
    fn receipt(&self, key: &ReceiptKey) -> Result<Option<Remembered>>;

    /// The last request of a producer.
    fn last_sequence(&self, producer: &str) -> Result<Option<LastSequence>>;
}

/// What is to be answered to a request without appending it; `None` when it is new and has to be appended.
pub(super) fn recall(memory: &impl Memory, receipt: &Receipt, window: Window, now_us: i64) -> Result<Option<Appended>> {
    let mut expected = None;
    if let ReceiptKey::Sequence { producer, sequence } = &receipt.key {
        let last = memory.last_sequence(producer)?.filter(|last| window.covers(last.ingested_at_us, now_us));
        let next = last.map_or(0, |last| last.sequence.saturating_add(1));
        let is_old = last.is_some_and(|last| *sequence <= last.sequence);
        match is_old {
            false if *sequence == next => return Ok(None),
            false => return Ok(Some(Appended::OutOfOrder { expected: next })),
            true => expected = Some(next),
        }
    }
    let remembered = memory.receipt(&receipt.key)?.filter(|known| window.covers(known.ingested_at_us, now_us));
    Ok(match remembered {
        Some(known) if known.content == receipt.content => {
            Some(Appended::Before { answer: known.answer, position: known.position })
        }
        Some(_) => Some(Appended::OtherContent),
        // Of a producer that is known, only the answer is forgotten.
        None => expected.map(|expected| Appended::OutOfOrder { expected }),
    })
}

/// How long receipts are remembered, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window(pub(super) i64);

impl From<Duration> for Window {
    fn from(window: Duration) -> Window {
        Window(i64::try_from(window.max(WINDOW_MIN).as_micros()).unwrap_or(i64::MAX))
    }
}

impl Window {
    /// Whether what happened then is remembered now. What a clock that went back calls the future, is.
    pub(super) fn covers(self, then_us: i64, now_us: i64) -> bool {
        now_us.saturating_sub(then_us) < self.0
    }
}

/// Receipts in memory, each with its time.
#[derive(Debug, Default)]
pub(super) struct MemoryReceipts {
    receipts: HashMap<ReceiptKey, Remembered>,
    last_sequences: HashMap<String, LastSequence>,
}

impl MemoryReceipts {
    /// Remembers a request that was appended at this position.
    pub(super) fn insert(&mut self, receipt: Receipt, ingested_at_us: i64, position: Position) {
        let Receipt { key, content, answer } = receipt;
        if let ReceiptKey::Sequence { producer, sequence } = &key {
            let last = LastSequence { sequence: *sequence, ingested_at_us };
            self.last_sequences.insert(producer.clone(), last);
        }
        self.receipts.insert(key, Remembered { content, ingested_at_us, position, answer });
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.receipts.is_empty()
    }

    /// The requests, in no order.
    pub(super) fn receipts(&self) -> impl Iterator<Item = (&ReceiptKey, &Remembered)> {
        self.receipts.iter()
    }

    /// The producers with their last requests, in no order.
    pub(super) fn last_sequences(&self) -> impl Iterator<Item = (&String, &LastSequence)> {
        self.last_sequences.iter()
    }

    /// Frees what the window does not cover.
    pub(super) fn forget(&mut self, window: Window, now_us: i64) {
        self.receipts.retain(|_, known| window.covers(known.ingested_at_us, now_us));
        self.last_sequences.retain(|_, last| window.covers(last.ingested_at_us, now_us));
    }
}

impl Memory for MemoryReceipts {
    fn receipt(&self, key: &ReceiptKey) -> Result<Option<Remembered>> {
        Ok(self.receipts.get(key).cloned())
    }

    fn last_sequence(&self, producer: &str) -> Result<Option<LastSequence>> {
        Ok(self.last_sequences.get(producer).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_differs_by_source_format_and_body_and_stays_the_same_in_every_version() {
        use EventFormat::{Csv, NdJson};
        let content = [("edits", NdJson, "{}"), ("edit", NdJson, "{}"), ("edits", Csv, "{}"), ("edits", NdJson, "{} ")]
            .map(|(source, format, body)| Receipt::content_of(source, format, body.as_bytes()));
        assert_eq!(content, CONTENT);
    }

    /// Computed by another implementation of xxHash.
    const CONTENT: [u64; 4] =
        [0xba65_2993_100f_4fdf, 0xa7e9_278d_b40e_6844, 0xd176_0fa6_ba8d_e206, 0x898e_5e52_3a11_5c77];
}
