//! What only the embedded log promises of receipts: one write with the events, bounded room, and damage by name.

use bytes::Bytes;
use futures::future::try_join_all;

use super::super::conformance::{events, source};
use super::super::key::{GENERATION_KEY, receipt_key};
use super::super::{Appended, Receipt, ReceiptKey};
use super::tests::{P0, TestFolder, check_corrupt, is_pending, position};
use super::*;

const NOON: i64 = 1_442_059_200_000_000;
const WINDOW: i64 = 1_000_000;

fn open(folder: &TestFolder) -> Result<LogStore> {
    let receipt_window = Duration::from_micros(WINDOW as u64);
    LogStore::open_with(&folder.0, LogStoreOptions { receipt_window, ..LogStoreOptions::default() })
}

fn request(key: &str) -> Receipt {
    Receipt { key: ReceiptKey::Request(key.to_owned()), content: 1, answer: Bytes::from(key.to_owned()) }
}

fn sequence(sequence: u64) -> Receipt {
    Receipt { key: ReceiptKey::Sequence { producer: "mill".to_owned(), sequence }, ..request("") }
}

async fn append(log: &EmbeddedLog, now: i64, receipt: Receipt) -> Result<Appended> {
    log.append_once(now, vec![(P0, events(0..1))], receipt).await
}

/// Number of receipts and of producers in the store.
fn stored(store: &LogStore) -> usize {
    let keys = store.store.db.iterator(rocksdb::IteratorMode::Start).map(|item| item.map(|(key, _)| key));
    keys.filter(|key| key.as_ref().is_ok_and(|key| key.starts_with(b"\0r"))).count()
}

#[tokio::test]
async fn events_and_receipts_are_one_write_also_of_equal_requests_that_wait_together() -> Result<()> {
    let folder = TestFolder::new("receipt-group");
    let store = open(&folder)?;
    let log = store.log(&source("group", 1))?;

    // The writer publishes the first group only when it gets the lock, so the rest waits together.
    let locked = log.log.readable();
    let mut first = log.append(NOON, vec![(P0, events(0..1))]);
    assert!(is_pending(&mut first));
    while store.group_commits() == 0 {
        std::thread::yield_now();
    }
    let send = |receipt| log.append_once(NOON, vec![(P0, events(0..1))], receipt);
    let receipts = [request("a"), sequence(0), request("a"), sequence(1), sequence(0), sequence(3), sequence(2)];
    let mut appends: Vec<_> = receipts.into_iter().map(send).collect();
    for append in &mut appends {
        assert!(is_pending(append));
    }
    drop(locked);

    first.await?;
    let before = |answer: &str, end| Appended::Before { answer: answer.to_owned().into(), position: position([end]) };
    let now = |end| Appended::Now(position([end]));
    let out_of_order = Appended::OutOfOrder { expected: 2 };
    let expected = [now(2), now(3), before("a", 2), now(4), before("", 3), out_of_order, now(5)];
    assert_eq!(try_join_all(appends).await?, expected);
    assert_eq!(store.group_commits(), 2);
    assert_eq!(append(&log, NOON, request("a")).await?, before("a", 2));
    assert_eq!(store.group_commits(), 2, "an old answer costs no write");
    Ok(())
}

#[tokio::test]
async fn sources_of_one_store_do_not_share_names() -> Result<()> {
    let folder = TestFolder::new("receipt-scope");
    let store = open(&folder)?;
    for _ in 0..2 {
        for name in ["scope", "scoped", "scopek", "scop"] {
            let log = store.log(&source(name, 1))?;
            let ends = [append(&log, NOON, request("da")).await?, append(&log, NOON, sequence(0)).await?];
            let [Appended::Now(first), Appended::Now(second)] = ends else {
                assert!(ends.iter().all(|end| matches!(end, Appended::Before { .. })), "{name}: {ends:?}");
                continue;
            };
            assert_eq!((first, second), (position([1]), position([2])), "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn store_holds_the_receipts_of_two_windows_at_most() -> Result<()> {
    const A_WINDOW: i64 = 10;
    let folder = TestFolder::new("receipt-bound");
    let mut store = open(&folder)?;
    for step in 0..7 * A_WINDOW {
        let log = store.log(&source("bound", 1))?;
        let now = NOON + step * WINDOW / A_WINDOW;
        append(&log, now, request(&step.to_string())).await?;
        append(&log, now, sequence(step as u64)).await?;
        // A producer takes one place more.
        let bound = 2 * (2 * A_WINDOW as usize + 1);
        assert!(stored(&store) <= bound, "{} after step {step}", stored(&store));
        for known in (step - A_WINDOW + 1).max(0)..=step {
            let again = append(&log, now, request(&known.to_string())).await?;
            assert!(matches!(again, Appended::Before { .. }), "request {known} at step {step}: {again:?}");
        }
        if step % 7 == 0 {
            drop((log, store));
            store = open(&folder)?;
        }
    }
    let log = store.log(&source("bound", 1))?;
    for later in [8, 9] {
        log.append(NOON + later * WINDOW, vec![(P0, events(0..1))]).await?;
    }
    assert_eq!(stored(&store), 0, "requests without names move the time too");
    Ok(())
}

#[tokio::test]
async fn clock_that_was_ahead_for_a_moment_keeps_no_receipt_forever() -> Result<()> {
    let folder = TestFolder::new("receipt-clock");
    let store = open(&folder)?;
    let log = store.log(&source("clock", 1))?;
    append(&log, NOON, request("a")).await?;
    append(&log, NOON + 1000 * WINDOW, request("ahead")).await?;
    assert!(matches!(append(&log, NOON + 1, request("a")).await?, Appended::Before { .. }), "it is still remembered");
    for step in 1..5 {
        append(&log, NOON + step * WINDOW, request("b")).await?;
    }
    assert_eq!(stored(&store), 2);
    Ok(())
}

#[tokio::test]
async fn store_of_before_receipts_opens_and_remembers_from_then_on() -> Result<()> {
    let folder = TestFolder::new("receipt-former");
    let store = open(&folder)?;
    store.log(&source("former", 1))?.append(NOON, vec![(P0, events(0..3))]).await?;
    assert_eq!((stored(&store), store.store.db.get(GENERATION_KEY)), (0, Ok(None)), "a former version's store");
    drop(store);
    for expected in [Appended::Now(position([4])), Appended::Before { answer: "a".into(), position: position([4]) }] {
        let log = open(&folder)?.log(&source("former", 1))?;
        assert_eq!(append(&log, NOON, request("a")).await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn damaged_receipt_is_refused_by_name_and_others_are_found() -> Result<()> {
    let folder = TestFolder::new("receipt-damage");
    let store = open(&folder)?;
    let log = store.log(&source("damage", 1))?;
    append(&log, NOON, request("a")).await?;
    append(&log, NOON, request("b")).await?;
    let key = receipt_key(0, "damage", &request("a").key);
    store.store.db.put(key, b"\x01not a receipt").map_err(|error| log_error("damage", "damage", error))?;
    check_corrupt(append(&log, NOON, request("a")).await, "request \"a\" of source \"damage\"");
    assert!(matches!(append(&log, NOON, request("b")).await?, Appended::Before { .. }));
    assert_eq!(append(&log, NOON, request("c")).await?, Appended::Now(position([3])));
    let report = store.verify(&mut |_| {});
    assert_eq!((report.damages.len(), report.damaged_receipts.len()), (0, 1));

    store.store.db.put(GENERATION_KEY, b"x").map_err(|error| log_error("damage", "damage", error))?;
    drop((log, store));
    check_corrupt(open(&folder), "the record of receipts");
    Ok(())
}
