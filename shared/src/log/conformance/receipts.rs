//! The rules of `append_once`: a repeated request appends nothing, also after a crash, until its receipt is forgotten.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::future::join_all;
use futures::poll;

use super::super::{AppendLog, Appended, RECEIPT_WINDOW, Receipt, ReceiptKey};
use super::{LogFactory, P0, P1, events, position, source, values};
use crate::error::{Error, ErrorKind, Result};
use crate::position::{PartitionId, Position};

/// When most requests of the suite arrive.
const NOON: i64 = 1_442_059_200_000_000;

/// Examines every rule of receipts.
pub(super) async fn check_all(factory: &impl LogFactory) -> Result<()> {
    repeated_request_gets_its_first_answer(factory).await?;
    other_content_under_the_same_key_is_refused(factory).await?;
    keys_belong_to_their_source(factory).await?;
    request_without_events_is_remembered(factory).await?;
    refused_batches_leave_no_receipt(factory).await?;
    producers_requests_are_taken_in_order(factory).await?;
    equal_requests_at_once_append_once(factory).await?;
    abandoned_requests_append_once_when_repeated(factory).await?;
    forgotten_producers_begin_anew(factory).await?;
    for crashes in [false, true] {
        receipts_are_forgotten_after_the_window(factory, crashes).await?;
        any_interleaving_of_retries_gives_each_event_once(factory, crashes).await?;
    }
    Ok(())
}

/// The answer is the first one's, whatever was appended since, and whether the log crashed in between.
async fn repeated_request_gets_its_first_answer(factory: &impl LogFactory) -> Result<()> {
    let source = source("repeated", 2);
    let mut log = factory.create(&source).await?;
    assert_eq!(append(&*log, 0..3, request("a", 1)).await?, Appended::Now(position([3, 0])));
    assert_eq!(append(&*log, 3..5, request("b", 2)).await?, Appended::Now(position([5, 0])));
    log.append(NOON, vec![(P1, events(0..9))]).await?;
    for _ in 0..2 {
        assert_eq!(append(&*log, 0..3, request("a", 1)).await?, before("a", [3, 0]));
        assert_eq!(append(&*log, 3..5, request("b", 2)).await?, before("b", [5, 0]));
        assert_eq!(*log.end().borrow(), position([5, 9]));
        let Some(reopened) = factory.reopen(&source, log).await? else { return Ok(()) };
        log = reopened;
    }
    assert_eq!(values(&*log, P0, 0).await?, [0, 1, 2, 3, 4]);
    Ok(())
}

/// What the key stood for first stays what it stands for.
async fn other_content_under_the_same_key_is_refused(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("content", 2)).await?;
    append(&*log, 0..3, request("a", 1)).await?;
    append(&*log, 3..4, sequence("mill", 0, 1)).await?;
    assert_eq!(append(&*log, 0..3, request("a", 2)).await?, Appended::OtherContent);
    assert_eq!(append(&*log, 0..3, sequence("mill", 0, 2)).await?, Appended::OtherContent);
    assert_eq!(append(&*log, 0..3, request("a", 1)).await?, before("a", [3, 0]));
    assert_eq!(*log.end().borrow(), position([4, 0]));
    Ok(())
}

/// The same key and the same producer are others in another source, also when one name begins with the other.
async fn keys_belong_to_their_source(factory: &impl LogFactory) -> Result<()> {
    for name in ["scoped", "scope"] {
        let log = factory.create(&source(name, 2)).await?;
        for receipt in [request("d0", 1), request("0", 1), sequence("0", 0, 1), sequence("d0", 0, 1)] {
            let appended = append(&*log, 0..1, receipt).await?;
            assert!(matches!(appended, Appended::Now(_)), "{appended:?}");
        }
    }
    Ok(())
}

/// The answer to a request of which nothing was accepted is remembered too, and a producer goes on behind it.
async fn request_without_events_is_remembered(factory: &impl LogFactory) -> Result<()> {
    let source = source("nothing", 2);
    let mut log = factory.create(&source).await?;
    assert_eq!(append(&*log, 0..0, request("a", 1)).await?, Appended::Now(position([0, 0])));
    for number in 0..2 {
        assert_eq!(append(&*log, 0..0, request("a", 1)).await?, before("a", [0, 0]));
        assert_eq!(append(&*log, 0..0, request("a", 2)).await?, Appended::OtherContent);
        let appended = log.append_once(NOON, vec![], sequence("mill", number, 1)).await?;
        assert_eq!(appended, Appended::Now(position([0, 0])));
        let Some(reopened) = factory.reopen(&source, log).await? else { return Ok(()) };
        log = reopened;
    }
    assert_eq!(append(&*log, 0..1, sequence("mill", 2, 1)).await?, Appended::Now(position([1, 0])));
    Ok(())
}

/// What was refused for its batches can be sent again, corrected, under the same key.
async fn refused_batches_leave_no_receipt(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("refused", 2)).await?;
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let wrong = RecordBatch::try_from_iter([("value", text)])?;
    let refused = log.append_once(NOON, vec![(P0, events(0..1)), (P1, wrong)], request("a", 1)).await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Internal));
    assert_eq!(append(&*log, 0..1, request("a", 2)).await?, Appended::Now(position([1, 0])));
    Ok(())
}

/// Numbers begin at 0 and leave no gap; old ones get their answers; producers don't know each other.
async fn producers_requests_are_taken_in_order(factory: &impl LogFactory) -> Result<()> {
    let source = source("order-of-producers", 2);
    let mut log = factory.create(&source).await?;
    let out_of_order = |expected| Appended::OutOfOrder { expected };
    assert_eq!(append(&*log, 0..1, sequence("mill", 1, 1)).await?, out_of_order(0));
    for number in 0..5 {
        let value = number as i64;
        let appended = append(&*log, value..value + 1, sequence("mill", number, number)).await?;
        assert_eq!(appended, Appended::Now(position([number + 1, 0])));
        assert_eq!(append(&*log, 0..1, sequence("mill", number + 2, 1)).await?, out_of_order(number + 1));
    }
    for _ in 0..2 {
        for number in [4, 0, 2] {
            let again = append(&*log, 0..1, sequence("mill", number, number)).await?;
            assert_eq!(again, before(&format!("mill {number}"), [number + 1, 0]));
        }
        assert_eq!(append(&*log, 0..1, sequence("mill", u64::MAX, 1)).await?, out_of_order(5));
        assert_eq!(append(&*log, 0..1, sequence("mil", 1, 1)).await?, out_of_order(0));
        assert_eq!(values(&*log, P0, 0).await?, [0, 1, 2, 3, 4]);
        let Some(reopened) = factory.reopen(&source, log).await? else { return Ok(()) };
        log = reopened;
    }
    assert_eq!(append(&*log, 5..6, sequence("mill", 5, 5)).await?, Appended::Now(position([6, 0])));
    Ok(())
}

/// Of equal requests that are under way together one is appended; all get its answer.
async fn equal_requests_at_once_append_once(factory: &impl LogFactory) -> Result<()> {
    const KEYS: i64 = 20;
    let log = factory.create(&source("at-once", 2)).await?;
    let send = |index: i64| {
        let log = Arc::clone(&log);
        let key = index % KEYS;
        let events = vec![(P0, events(3 * key..3 * key + 2)), (P1, events(3 * key + 2..3 * key + 3))];
        let receipt = request(&key.to_string(), 1);
        tokio::spawn(async move { log.append_once(NOON, events, receipt).await.map(|appended| (key, appended)) })
    };
    let mut answers: HashMap<i64, Position> = HashMap::new();
    let mut appended = 0;
    for outcome in join_all((0..5 * KEYS).map(send)).await {
        let (key, outcome) = outcome.unwrap_or_else(|error| panic!("a task of the suite: {error}"))?;
        let position = match outcome {
            Appended::Now(position) => {
                appended += 1;
                position
            }
            Appended::Before { answer, position } => {
                assert_eq!(answer, key.to_string());
                position
            }
            other => panic!("request {key}: {other:?}"),
        };
        assert_eq!(*answers.entry(key).or_insert_with(|| position.clone()), position, "request {key}");
    }
    assert_eq!(appended, KEYS);
    assert_eq!(*log.end().borrow(), position([2 * KEYS as u64, KEYS as u64]));
    Ok(())
}

/// When the caller goes away, the request may be appended or not; repeated, it is there once.
async fn abandoned_requests_append_once_when_repeated(factory: &impl LogFactory) -> Result<()> {
    const REQUESTS: i64 = 40;
    let source = source("abandoned-requests", 2);
    let mut log = factory.create(&source).await?;
    for value in 0..REQUESTS {
        let mut abandoned = std::pin::pin!(append(&*log, value..value + 1, request(&value.to_string(), 1)));
        let _ = poll!(abandoned.as_mut());
    }
    for round in 0..2 {
        for value in 0..REQUESTS {
            let appended = append(&*log, value..value + 1, request(&value.to_string(), 1)).await?;
            let is_first = round == 0 && matches!(appended, Appended::Now(_));
            assert!(is_first || matches!(appended, Appended::Before { .. }), "{appended:?}");
        }
        let mut read = values(&*log, P0, 0).await?;
        read.sort_unstable();
        assert_eq!(read, Vec::from_iter(0..REQUESTS));
        let Some(reopened) = factory.reopen(&source, log).await? else { return Ok(()) };
        log = reopened;
    }
    Ok(())
}

/// A receipt is remembered for the window and not a microsecond longer, however much is written meanwhile.
async fn receipts_are_forgotten_after_the_window(factory: &impl LogFactory, crashes: bool) -> Result<()> {
    let source = source(&format!("window-{crashes}"), 2);
    let mut log = factory.create(&source).await?;
    let window = RECEIPT_WINDOW.as_micros() as i64;
    let send = async |log: &dyn AppendLog, now: i64| {
        let appended = log.append_once(now, vec![(P0, events(0..1))], request("a", 1)).await?;
        // Others move the log's time too.
        log.append_once(now, vec![], request(&now.to_string(), 1)).await?;
        Ok::<_, Error>(appended)
    };
    // The log's own periods begin elsewhere than this receipt.
    log.append_once(NOON - window / 3, vec![], request("first", 1)).await?;
    for (round, start) in [NOON, NOON + window, NOON + 2 * window, NOON + 9 * window].into_iter().enumerate() {
        let end = round as u64 + 1;
        assert_eq!(send(&*log, start).await?, Appended::Now(position([end, 0])));
        for later in [1, window / 3, window - 1] {
            assert_eq!(send(&*log, start + later).await?, before("a", [end, 0]));
        }
        assert_eq!(send(&*log, start - window / 2).await?, before("a", [end, 0]), "a clock that went back");
        if crashes {
            let Some(reopened) = factory.reopen(&source, log).await? else { return Ok(()) };
            log = reopened;
        }
    }
    Ok(())
}

/// Every request of a producer renews its memory. Forgotten, it can begin with nothing but 0, so that a late retry is
/// refused and not appended again.
async fn forgotten_producers_begin_anew(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("forgotten", 2)).await?;
    let window = RECEIPT_WINDOW.as_micros() as i64;
    let send = async |now: i64, number: u64| log.append_once(now, vec![], sequence("mill", number, number)).await;
    let now = Appended::Now(position([0, 0]));
    for number in 0..5 {
        assert_eq!(send(NOON + number as i64 * (window - 1), number).await?, now);
    }
    let last = NOON + 4 * (window - 1);
    assert_eq!(send(last + 1, 0).await?, Appended::OutOfOrder { expected: 5 }, "only its answer is forgotten");
    assert_eq!(send(last + window, 4).await?, Appended::OutOfOrder { expected: 0 });
    assert_eq!(send(last + window, 5).await?, Appended::OutOfOrder { expected: 0 });
    assert_eq!(send(last + window, 0).await?, now);
    Ok(())
}

/// Whatever clients repeat, in whatever order, alone or at once, with crashes in between: each event is there once.
async fn any_interleaving_of_retries_gives_each_event_once(factory: &impl LogFactory, crashes: bool) -> Result<()> {
    for seed in 0..12 {
        let source = source(&format!("interleaved-{crashes}-{seed}"), 2);
        let mut clients = Clients { random: Random(seed), answers: HashMap::new() };
        let mut log = factory.create(&source).await?;
        let mut bursts = 0;
        while clients.answers.len() < REQUESTS as usize || bursts < 30 {
            clients.send_burst(&*log).await?;
            bursts += 1;
            if crashes && clients.random.below(8) == 0 {
                let Some(reopened) = factory.reopen(&source, log).await? else { return Ok(()) };
                log = reopened;
            }
        }
        let mut read = [values(&*log, P0, 0).await?, values(&*log, P1, 0).await?].concat();
        read.sort_unstable();
        assert_eq!(read, Vec::from_iter(0..2 * REQUESTS as i64), "seed {seed}");
    }
    Ok(())
}

/// Requests of two events each; the first half have keys, the others are one producer's.
const REQUESTS: u64 = 16;

/// Clients that send requests again and again, and what they were answered.
struct Clients {
    random: Random,
    answers: HashMap<u64, Position>,
}

impl Clients {
    /// Sends up to four requests at once. Now and then nobody waits for the answers.
    async fn send_burst(&mut self, log: &dyn AppendLog) -> Result<()> {
        let burst: Vec<u64> = (0..=self.random.below(4)).map(|_| self.random.below(REQUESTS)).collect();
        let send = |number: &u64| {
            let first = 2 * *number as i64;
            let partition = PartitionId((number % 2) as u32);
            let receipt = match number.checked_sub(REQUESTS / 2) {
                None => request(&number.to_string(), *number),
                Some(place) => sequence("mill", place, *number),
            };
            log.append_once(NOON, vec![(partition, events(first..first + 2))], receipt)
        };
        let mut sent: Vec<_> = burst.iter().map(send).collect();
        if self.random.below(4) == 0 {
            for abandoned in &mut sent {
                let _ = poll!(abandoned);
            }
            return Ok(());
        }
        for (number, outcome) in burst.iter().zip(join_all(sent).await) {
            match outcome? {
                Appended::Now(position) | Appended::Before { position, .. } => {
                    let answer = self.answers.entry(*number).or_insert_with(|| position.clone());
                    assert_eq!(*answer, position, "request {number}");
                }
                Appended::OutOfOrder { .. } if *number >= REQUESTS / 2 => {}
                other => panic!("request {number}: {other:?}"),
            }
        }
        Ok(())
    }
}

/// Appends to the first partition at noon.
async fn append(log: &dyn AppendLog, values: Range<i64>, receipt: Receipt) -> Result<Appended> {
    log.append_once(NOON, vec![(P0, events(values))], receipt).await
}

fn request(key: &str, content: u64) -> Receipt {
    Receipt { key: ReceiptKey::Request(key.to_owned()), content, answer: Bytes::from(key.to_owned()) }
}

fn sequence(producer: &str, sequence: u64, content: u64) -> Receipt {
    let answer = Bytes::from(format!("{producer} {sequence}"));
    Receipt { key: ReceiptKey::Sequence { producer: producer.to_owned(), sequence }, content, answer }
}

fn before<const N: usize>(answer: &str, offsets: [u64; N]) -> Appended {
    Appended::Before { answer: Bytes::from(answer.to_owned()), position: position(offsets) }
}

/// A seeded generator (splitmix64): the same cases in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
