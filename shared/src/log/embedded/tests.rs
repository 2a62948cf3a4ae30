//! The rules of the port, and what only the embedded log promises.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod damage;

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Waker};

use futures::future::{join_all, try_join_all};

use super::super::block::BlockSchema;
use super::super::conformance::{self, LogFactory, events, source};
use super::super::key::schema_key;
use super::*;
use crate::error::ErrorKind;

pub(super) const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);

/// Each source in a store of its own.
struct EmbeddedLogs {
    folder: TestFolder,
    options: LogStoreOptions,
}

#[async_trait]
impl LogFactory for EmbeddedLogs {
    async fn create(&self, source: &SourceDefinition) -> Result<Arc<dyn AppendLog>> {
        Ok(LogStore::open_with(self.folder.0.join(&source.name), self.options)?.log(source)?)
    }

    async fn reopen(&self, source: &SourceDefinition, log: Arc<dyn AppendLog>) -> Result<Option<Arc<dyn AppendLog>>> {
        drop(log);
        self.create(source).await.map(Some)
    }
}

#[tokio::test]
async fn embedded_log_keeps_the_rules_of_the_port() -> Result<()> {
    let factory = EmbeddedLogs { folder: TestFolder::new("conformance"), options: LogStoreOptions::default() };
    conformance::check_all(&factory).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_log_keeps_the_rules_of_the_port_without_a_tail_and_a_queue() -> Result<()> {
    let options =
        LogStoreOptions { tail_bytes_max: 0, queue_bytes_max: 1, group_bytes_target: 1, ..LogStoreOptions::default() };
    conformance::check_all(&EmbeddedLogs { folder: TestFolder::new("conformance-disk"), options }).await
}

#[tokio::test]
async fn appends_that_wait_share_one_fsync_and_one_block() -> Result<()> {
    let folder = TestFolder::new("group");
    let store = LogStore::open(&folder.0)?;
    let (log, other) = (store.log(&source("group", 2))?, store.log(&source("other", 1))?);

    // The writer publishes the first group only when it gets the lock, so the rest waits together.
    let locked = log.log.readable();
    let mut first = log.append(7, vec![(P0, events(0..1))]);
    assert!(is_pending(&mut first));
    while store.group_commits() == 0 {
        std::thread::yield_now();
    }
    let mut appends: Vec<_> =
        (1..100).map(|value| log.append(7, vec![(P0, events(value..value + 1)), (P1, events(0..1))])).collect();
    appends.push(other.append(7, vec![(P0, events(0..1))]));
    for append in &mut appends {
        assert!(is_pending(append));
    }
    drop(locked);

    assert_eq!(first.await?, position([1, 0]));
    let answers = try_join_all(appends).await?;
    assert_eq!(answers[..2], [position([2, 1]), position([3, 2])]);
    assert_eq!(answers[99], position([1]));
    assert_eq!(store.group_commits(), 2);
    let ranges: Vec<_> = log.read(P0, Offset(0), 100).await?.iter().map(|batch| batch.range.len()).collect();
    assert_eq!(ranges, [1, 99], "small batches of one time are one block");
    Ok(())
}

#[tokio::test]
async fn batches_of_different_times_or_too_many_rows_are_not_joined() -> Result<()> {
    let folder = TestFolder::new("joined");
    let log = LogStore::open(&folder.0)?.log(&source("joined", 1))?;
    log.append(1, [0..5000, 5000..8192, 8192..8193].map(|values| (P0, events(values))).to_vec()).await?;
    log.append(2, vec![(P0, events(8193..8194))]).await?;
    let batches = log.read(P0, Offset(0), usize::MAX).await?;
    let found: Vec<_> = batches.iter().map(|batch| (batch.ingested_at_us(), batch.range.len())).collect();
    assert_eq!(found, [(Some(1), 8192), (Some(1), 1), (Some(2), 1)]);
    Ok(())
}

#[tokio::test]
async fn files_hold_every_acknowledged_event_while_the_store_is_open() -> Result<()> {
    let (folder, copy) = (TestFolder::new("power"), TestFolder::new("power-copy"));
    let store = LogStore::open(&folder.0)?;
    let log = store.log(&source("power", 1))?;
    for first in [0, 10, 20] {
        log.append(first, vec![(P0, events(first..first + 10))]).await?;
    }
    log.trim(&position([12])).await?;
    std::fs::create_dir(&copy.0).unwrap();
    for file in std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(file.path(), copy.0.join(file.file_name())).unwrap();
    }
    let log = LogStore::open(&copy.0)?.log(&source("power", 1))?;
    assert_eq!((log.start(), log.end().borrow().clone()), (position([12]), position([30])));
    assert_eq!(values(&log, 12).await?, Vec::from_iter(12..30));
    Ok(())
}

#[tokio::test]
async fn closing_writes_what_waits_and_refuses_the_rest() -> Result<()> {
    let folder = TestFolder::new("close");
    let store = LogStore::open(&folder.0)?;
    let log = store.log(&source("close", 1))?;
    let mut appends: Vec<_> = (0..10).map(|value| log.append(value, vec![(P0, events(value..value + 1))])).collect();
    for append in &mut appends {
        is_pending(append);
    }
    store.close().await;
    assert!(join_all(appends).await.into_iter().all(|answer| answer.is_ok()), "appends before the close");
    let refused = log.append(10, vec![(P0, events(10..11))]).await;
    assert!(matches!(refused, Err(Error::LogClosed { .. })), "{refused:?}");
    assert_eq!(values(&log, 0).await?, Vec::from_iter(0..10), "reads go on");
    log.trim(&position([5])).await?;
    store.close().await;
    drop((log, store));
    let log = LogStore::open(&folder.0)?.log(&source("close", 1))?;
    assert_eq!(values(&log, 5).await?, Vec::from_iter(5..10));
    Ok(())
}

#[tokio::test]
async fn appends_beyond_the_queue_wait_and_none_is_lost() -> Result<()> {
    let folder = TestFolder::new("queue");
    let options = LogStoreOptions { queue_bytes_max: 4096, ..LogStoreOptions::default() };
    let store = LogStore::open_with(&folder.0, options)?;
    let log = store.log(&source("queue", 1))?;
    let locked = log.log.readable();
    let mut appends: Vec<_> = (0..50).map(|value| log.append(1, vec![(P0, events(value..value + 1))])).collect();
    for append in &mut appends {
        assert!(is_pending(append));
    }
    assert_eq!(store.store.writer.budget.available_permits(), 0);
    drop(locked);
    try_join_all(appends).await?;
    assert_eq!(values(&log, 0).await?, Vec::from_iter(0..50), "in the order of the calls");
    Ok(())
}

#[tokio::test]
async fn damaged_block_is_refused_by_name() -> Result<()> {
    let folder = TestFolder::new("damage");
    let open = || LogStore::open_with(&folder.0, LogStoreOptions { tail_bytes_max: 0, ..LogStoreOptions::default() });
    let store = open()?;
    let log = store.log(&source("damage", 2))?;
    for first in [0, 10, 20] {
        log.append(first, vec![(P1, events(first..first + 10))]).await?;
    }
    let key = log.log.key(P1, Offset(10)).to_bytes();
    let block = store.store.db.get(&key).unwrap().unwrap();
    for byte in 0..block.len() {
        let mut damaged = block.clone();
        damaged[byte] ^= 0x10;
        store.store.db.put(&key, damaged).unwrap();
        check_corrupt(log.read(P1, Offset(0), 100).await, "partition 1, offset 10");
    }
    for shorter in 0..block.len() {
        store.store.db.put(&key, &block[..shorter]).unwrap();
        check_corrupt(log.read(P1, Offset(15), 1).await, "partition 1, offset 10");
    }
    assert_eq!(log.read(P1, Offset(0), 10).await?.len(), 1, "blocks before it are served");
    assert_eq!(log.read(P1, Offset(20), 10).await?.len(), 1, "blocks after it are served");
    store.store.db.delete(&key).unwrap();
    check_corrupt(log.read(P1, Offset(0), 100).await, "offset 10");
    check_corrupt(log.read(P1, Offset(12), 1).await, "offset 12");

    store.store.db.put(log.log.key(P1, Offset(20)).to_bytes(), b"\x01not a block").unwrap();
    drop((log, store));
    check_corrupt(open()?.log(&source("damage", 2)), "partition 1, offset 20");
    Ok(())
}

#[tokio::test]
async fn blocks_of_former_columns_keep_their_schema() -> Result<()> {
    let folder = TestFolder::new("former");
    let former = source("former", 1);
    LogStore::open(&folder.0)?.log(&former)?.append(1, vec![(P0, events(0..3))]).await?;
    let mut changed = former.clone();
    let fields =
        [former.columns.field(0).clone(), arrow::datatypes::Field::new("more", arrow::datatypes::DataType::Utf8, true)];
    changed.columns = Arc::new(arrow::datatypes::Schema::new(fields.to_vec()));
    let store = LogStore::open(&folder.0)?;
    let log = store.log(&changed)?;
    assert_eq!(log.read(P0, Offset(0), 3).await?[0].events, events(0..3));
    let schema = BlockSchema::of(&former.columns)?.fingerprint;
    store.store.db.put(schema_key(schema), b"damaged").unwrap();
    check_corrupt(log.read(P0, Offset(0), 3).await, "offset 0");
    Ok(())
}

#[tokio::test]
async fn trim_deletes_whole_blocks_below_it() -> Result<()> {
    let folder = TestFolder::new("trim");
    let store = LogStore::open(&folder.0)?;
    let log = store.log(&source("trim", 1))?;
    for first in [0, 10, 20] {
        log.append(first, vec![(P0, events(first..first + 10))]).await?;
    }
    let stored = || {
        let is_block = |key: &[u8]| log.log.key(P0, Offset(0)).parse(key).map(|key| key.base.0);
        store.store.db.iterator(rocksdb::IteratorMode::Start).filter_map(|item| is_block(&item.unwrap().0)).collect()
    };
    let checks: [(u64, Vec<u64>); 5] =
        [(9, vec![0, 10, 20]), (10, vec![10, 20]), (25, vec![20]), (25, vec![20]), (30, vec![])];
    for (before, expected) in checks {
        log.trim(&position([before])).await?;
        assert_eq!((log.start(), stored()), (position([before]), expected));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_appends_and_trims_run_side_by_side() -> Result<()> {
    const EVENTS: i64 = 3000;
    let folder = TestFolder::new("side");
    let options = LogStoreOptions { tail_bytes_max: 4096, ..LogStoreOptions::default() };
    let log = LogStore::open_with(&folder.0, options)?.log(&source("side", 2))?;
    let follow = |partition: PartitionId| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut end = log.end();
            let mut next = Offset::BEGINNING;
            while next.0 < EVENTS as u64 {
                end.wait_for(|end| end.get(partition) > next).await.unwrap();
                for batch in log.read(partition, next, 100).await? {
                    assert_eq!(batch.range.start(), next);
                    assert_eq!(batch.events, events(next.0 as i64..batch.range.end().0 as i64));
                    next = batch.range.end();
                }
                let mut before = log.start();
                before.raise(partition, Offset(next.0 / 2));
                log.trim(&before).await?;
            }
            Ok::<_, Error>(())
        })
    };
    let readers = [follow(P0), follow(P1)];
    for value in 0..EVENTS / 10 {
        let batch = events(10 * value..10 * value + 10);
        log.append(value, vec![(P0, batch.slice(0, 5)), (P1, batch.clone()), (P0, batch.slice(5, 5))]).await?;
    }
    for reader in readers {
        reader.await.unwrap()?;
    }
    assert_eq!(log.start(), position([EVENTS as u64 / 2, EVENTS as u64 / 2]));
    Ok(())
}

#[tokio::test]
async fn store_refuses_what_would_hide_or_mix_events() -> Result<()> {
    let folder = TestFolder::new("refuse");
    let store = LogStore::open(&folder.0)?;
    let log = store.log(&source("refuse", 3))?;
    assert!(Arc::ptr_eq(&log.log, &store.log(&source("refuse", 3))?.log), "all callers share one log");
    check_refused(LogStore::open(&folder.0), "lock");
    check_refused(store.log(&source("refuse", 2)), "open for other");
    check_refused(store.log(&source("", 1)), "name");
    drop((log, store));
    check_refused(LogStore::open(&folder.0)?.log(&source("refuse", 2)), "3 partitions on disk");
    assert_eq!(LogStore::open(&folder.0)?.log(&source("refuse", 4))?.partitions(), 4);

    let db = open_db(&folder.0).unwrap();
    db.put(FORMAT_KEY, [STORE_VERSION + 1]).unwrap();
    drop(db);
    let newer = LogStore::open(&folder.0);
    assert!(matches!(&newer, Err(Error::NewerFormat { found: 2, known: 1, .. })), "{newer:?}");
    Ok(())
}

/// Polls once: an append takes its place in the queue.
pub(super) fn is_pending<T>(append: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>) -> bool {
    append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

pub(super) fn check_corrupt<T: std::fmt::Debug>(result: Result<T>, place: &str) {
    match result {
        Err(Error::Corrupt { what, .. }) if what.contains(place) => {}
        other => panic!("not the damage at {place}: {other:?}"),
    }
}

fn check_refused<T: std::fmt::Debug>(result: Result<T>, reason: &str) {
    match result {
        Err(error) if error.kind() == ErrorKind::Retryable && error.to_string().contains(reason) => {}
        other => panic!("not refused for {reason}: {other:?}"),
    }
}

pub(super) fn position<const N: usize>(offsets: [u64; N]) -> Position {
    Position::new(offsets.map(Offset).to_vec())
}

async fn values(log: &EmbeddedLog, from: u64) -> Result<Vec<i64>> {
    use arrow::array::AsArray;
    let batches = log.read(P0, Offset(from), usize::MAX).await?;
    let values =
        |batch: &LogBatch| batch.events.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
    Ok(batches.iter().flat_map(values).collect())
}

/// A folder that goes with the test.
pub(super) struct TestFolder(pub(super) PathBuf);

impl TestFolder {
    pub(super) fn new(name: &str) -> TestFolder {
        let path = std::env::temp_dir().join(format!("watershed-log-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        TestFolder(path)
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
