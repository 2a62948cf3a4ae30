//! The one thread that writes a store's events: takes all appends that wait, and makes them durable with one fsync.
//!
//! Offsets are given here and nowhere else, so they follow the order in which appends were taken. When a write fails,
//! no end moves, and the next group is given the same offsets.
//!
//! Here too it is decided whether an append's receipt is new: against those on disk and those of the group that is being
//! made, so that of two equal appends that wait together only the first gets offsets. Receipts are in the same write as
//! the events.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use rocksdb::{DB, WriteBatch};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::super::block::BlockEncoder;
use super::super::receipt::{Appended, MemoryReceipts, Receipt, recall};
use super::acknowledged::Acknowledged;
use super::receipts::{SourceReceipts, StoredReceipts};
use super::state::LogState;
use super::{LogStoreOptions, durable, lock, log_error};
use crate::disk::{free_bytes, says_full};
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::fault;
use crate::position::{Offset, PartitionId, Position};

/// Small batches of one partition and time are joined to blocks of up to this many rows. More would copy much for
/// little: at this size a block's header and IPC message are a few percent of it.
const JOINED_ROWS_MAX: usize = 8192;
/// And of up to this many bytes, far below the 2 GiB that Arrow's 32-bit text offsets reach.
const JOINED_BYTES_MAX: usize = 4 << 20;
/// Unit of the queue's bound; every append counts as at least one.
const PERMIT_BYTES: usize = 1024;

/// Handle of the writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    /// Bounds the bytes of the appends that wait or are being written; closed when appends are refused.
    pub(super) budget: Arc<Semaphore>,
    permits_max: u32,
    queue: UnboundedSender<Message>,
    group_commits: Arc<AtomicU64>,
    /// Its sender lives as long as the thread.
    finished: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One call of `append`: batches with the log's columns, none empty.
#[derive(Debug)]
pub(super) struct Append {
    log: Arc<LogState>,
    ingested_at_us: i64,
    batches: Vec<(PartitionId, RecordBatch, usize)>,
    receipt: Option<Receipt>,
    bytes: usize,
}

/// Where the answer to an append goes.
type Reply = oneshot::Sender<Result<Appended>>;

#[derive(Debug)]
enum Message {
    Append(Append, Reply, OwnedSemaphorePermit),
    Close,
}

impl Append {
    /// The call with the bytes of its rows.
    pub(super) fn new(
        log: Arc<LogState>,
        ingested_at_us: i64,
        batches: Vec<(PartitionId, RecordBatch)>,
        receipt: Option<Receipt>,
    ) -> Append {
        let with_bytes = |(partition, batch): (PartitionId, RecordBatch)| {
            let bytes = row_bytes(&batch);
            (partition, batch, bytes)
        };
        let batches: Vec<_> = batches.into_iter().map(with_bytes).collect();
        let bytes: usize = batches.iter().map(|(_, _, bytes)| bytes).sum();
        let bytes = bytes + receipt.as_ref().map_or(0, |receipt| receipt.answer.len());
        Append { log, ingested_at_us, batches, receipt, bytes }
    }
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        db: Arc<DB>,
        receipts: StoredReceipts,
        folder: &Path,
        options: &LogStoreOptions,
        acknowledged: Acknowledged,
    ) -> std::io::Result<Writer> {
        let permits_max = u32::try_from(options.queue_bytes_max / PERMIT_BYTES).unwrap_or(u32::MAX).max(1);
        let (queue, messages) = mpsc::unbounded_channel();
        let (alive, finished) = watch::channel(());
        let group_commits = Arc::new(AtomicU64::new(0));
        let disk = Disk { folder: folder.to_owned(), free_bytes_min: options.disk_free_bytes_min };
        let mut group_writer = GroupWriter {
            db,
            encoder: BlockEncoder::default(),
            receipts,
            commits: Arc::clone(&group_commits),
            acknowledged,
            disk,
        };
        let group_bytes_target = options.group_bytes_target;
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            let _alive = alive;
            group_writer.run(messages, group_bytes_target);
        })?;
        let budget = Arc::new(Semaphore::new(permits_max as usize));
        Ok(Writer { budget, permits_max, queue, group_commits, finished, thread: Mutex::new(Some(thread)) })
    }

    /// What `Log::append` and `Log::append_once` promise.
    pub(super) async fn append(&self, append: Append) -> Result<Appended> {
        let log = Arc::clone(&append.log);
        let closed = || Error::LogClosed { name: log.source.clone() };
        let permits = u32::try_from(append.bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.permits_max);
        let permit = Arc::clone(&self.budget).acquire_many_owned(permits).await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Append(append, reply, permit)).map_err(|_| closed())?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) if self.budget.is_closed() => Err(closed()),
            Err(_) => {
                let reason =
                    "the writer has stopped by a fault; the events may be durable or not; start the platform anew";
                Err(log_error("append to", &log.source, reason))
            }
        }
    }

    /// Number of groups written since the start.
    pub(super) fn group_commits(&self) -> u64 {
        self.group_commits.load(Ordering::Relaxed)
    }

    /// Refuses further appends; returns when the thread has written those that wait.
    pub(super) async fn close(&self) {
        self.refuse_appends();
        let mut finished = self.finished.clone();
        while finished.changed().await.is_ok() {}
    }

    fn refuse_appends(&self) {
        self.budget.close();
        // Fails only when the thread has ended already.
        let _ = self.queue.send(Message::Close);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.refuse_appends();
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's writer had stopped by a fault");
        }
    }
}

/// The thread's own state.
struct GroupWriter {
    db: Arc<DB>,
    encoder: BlockEncoder,
    receipts: StoredReceipts,
    commits: Arc<AtomicU64>,
    acknowledged: Acknowledged,
    disk: Disk,
}

impl GroupWriter {
    fn run(&mut self, mut messages: UnboundedReceiver<Message>, group_bytes_target: usize) {
        let mut is_open = true;
        while is_open && let Some(first) = messages.blocking_recv() {
            let mut group = Group::default();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Append(append, reply, permit) => group.add(append, reply, permit, &self.receipts),
                    Message::Close => is_open = false,
                }
                next = if is_open && group.bytes < group_bytes_target { messages.try_recv().ok() } else { None };
            }
            self.commit(group);
        }
    }

    /// Writes the group, publishes its events, then answers its callers.
    fn commit(&mut self, group: Group) {
        let Group { logs, mut waiting, newest_us, .. } = group;
        if fault::has_defect("log.acknowledge_before_write") {
            answer(std::mem::take(&mut waiting), None);
            std::thread::sleep(Duration::from_millis(20));
        }
        let failure = match self.write(logs, newest_us) {
            Ok(written) => {
                written.into_iter().for_each(|(log, batches, end)| log.publish(batches, end));
                None
            }
            Err(error) => Some((error.is_full(), error.to_string())),
        };
        fault::point("log.before_answer");
        answer(waiting, failure);
    }

    fn write(&mut self, logs: Vec<JoinedAppends>, newest_us: i64) -> Result<Vec<Written>, WriteFailure> {
        let mut writes = WriteBatch::new();
        let has_receipts = logs.iter().any(|log| !log.receipts.is_empty());
        let next_generation = self.receipts.next_generation(newest_us, has_receipts);
        for JoinedAppends { log, receipts, .. } in &logs {
            self.receipts.put(&mut writes, next_generation, &log.source, receipts);
        }
        let logs = logs.into_iter().map(JoinedAppends::join).collect::<Result<Vec<_>>>()?;
        for (log, batches, _) in &logs {
            for batch in batches {
                // No block is empty, so there is a time.
                let ingested_at_us = batch.ingested_at_us().unwrap_or_default();
                let block = self.encoder.encode(&log.schema, ingested_at_us, &batch.events)?;
                writes.put(log.key(batch.partition, batch.range.start()).to_bytes(), block);
            }
        }
        if !writes.is_empty() {
            self.disk.check()?;
            if let Some(next) = next_generation {
                self.receipts.put_generation(&mut writes, next);
            }
            fault::point("log.before_write");
            self.db.write_opt(writes, &durable())?;
            fault::point("log.after_write");
            self.acknowledged.note(self.db.latest_sequence_number());
            if let Some(next) = next_generation {
                self.receipts.begin(next);
            }
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(logs)
    }
}

/// Tells the callers of a group that it is durable, or why it is not.
fn answer(waiting: Vec<Waiting>, failure: Option<(bool, String)>) {
    for Waiting { log, reply, answer, permit } in waiting {
        let answer = match &failure {
            None => Ok(answer),
            Some((true, reason)) => Err(Error::LogFull { name: log.source.clone(), reason: reason.clone() }),
            Some((false, reason)) => Err(log_error("append to", &log.source, reason)),
        };
        // Fails when the caller has gone away.
        let _ = reply.send(answer);
        drop(permit);
    }
}

/// The disk of the store, on which some room is to be left.
struct Disk {
    folder: PathBuf,
    free_bytes_min: u64,
}

/// The disk has less free than is to be left.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk of \"{}\" has {free} bytes free, fewer than ingest.disk_free_bytes_min = {free_min}", folder.display()
)]
struct NoRoom {
    folder: PathBuf,
    free: u64,
    free_min: u64,
}

impl Disk {
    fn check(&self) -> Result<(), NoRoom> {
        match free_bytes(&self.folder) {
            Ok(free) if free < self.free_bytes_min => {
                Err(NoRoom { folder: self.folder.clone(), free, free_min: self.free_bytes_min })
            }
            // The write itself finds out what a file system that does not tell has room for.
            _ => Ok(()),
        }
    }
}

/// A log's events as they are stored, and its end after them.
type Written = (Arc<LogState>, Vec<LogBatch>, Position);

/// Why a group was not written; its text goes to every caller.
#[derive(Debug, thiserror::Error)]
enum WriteFailure {
    #[error(transparent)]
    Encode(#[from] Error),
    #[error(transparent)]
    Store(#[from] rocksdb::Error),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl WriteFailure {
    fn is_full(&self) -> bool {
        match self {
            WriteFailure::Encode(_) => false,
            WriteFailure::Store(error) => says_full(error.as_ref()),
            WriteFailure::NoRoom(_) => true,
        }
    }
}

/// Appends that become durable together.
#[derive(Default)]
struct Group {
    logs: Vec<JoinedAppends>,
    waiting: Vec<Waiting>,
    bytes: usize,
    /// The newest time of its appends.
    newest_us: i64,
}

/// A caller, and what it is told when the group is durable.
struct Waiting {
    log: Arc<LogState>,
    reply: Reply,
    answer: Appended,
    permit: OwnedSemaphorePermit,
}

/// A group's events for one log, with their offsets.
struct JoinedAppends {
    log: Arc<LogState>,
    end: Position,
    blocks: Vec<JoinedBatches>,
    /// Index of each partition's newest block in `blocks`.
    newest: Vec<Option<usize>>,
    /// Of its appends that have some.
    receipts: MemoryReceipts,
}

/// Consecutive batches that become one block.
struct JoinedBatches {
    partition: PartitionId,
    start: Offset,
    ingested_at_us: i64,
    rows: usize,
    bytes: usize,
    batches: Vec<RecordBatch>,
}

impl Group {
    fn add(&mut self, append: Append, reply: Reply, permit: OwnedSemaphorePermit, stored: &StoredReceipts) {
        if reply.is_closed() {
            return;
        }
        let Append { log, ingested_at_us, batches, receipt, bytes } = append;
        let index = self.logs.iter().position(|joined| Arc::ptr_eq(&joined.log, &log)).unwrap_or_else(|| {
            self.logs.push(JoinedAppends::new(Arc::clone(&log)));
            self.logs.len() - 1
        });
        let joined = &mut self.logs[index];
        let recalled = receipt.as_ref().map(|receipt| {
            let receipts = SourceReceipts { source: &log.source, pending: &joined.receipts, stored };
            recall(&receipts, receipt, stored.window, ingested_at_us)
        });
        let answer = match recalled.transpose() {
            Ok(Some(Some(known))) => known,
            Ok(Some(None) | None) => {
                self.bytes += bytes;
                self.newest_us = self.newest_us.max(ingested_at_us);
                Appended::Now(joined.add_all(ingested_at_us, batches, receipt))
            }
            Err(error) => {
                // Fails when the caller has gone away.
                let _ = reply.send(Err(error));
                return;
            }
        };
        // What is recalled may be of this group, so it is not answered before the group is durable.
        self.waiting.push(Waiting { log, reply, answer, permit });
    }
}

impl JoinedAppends {
    fn new(log: Arc<LogState>) -> JoinedAppends {
        let end = log.end.borrow().clone();
        let newest = vec![None; log.partitions as usize];
        JoinedAppends { log, end, blocks: Vec::new(), newest, receipts: MemoryReceipts::default() }
    }

    /// Gives the batches of one append their offsets; answers the next ones.
    fn add_all(
        &mut self,
        ingested_at_us: i64,
        batches: Vec<(PartitionId, RecordBatch, usize)>,
        receipt: Option<Receipt>,
    ) -> Position {
        let mut position = Position::beginning(self.log.partitions);
        for (partition, batch, bytes) in batches {
            position.raise(partition, self.add(partition, ingested_at_us, batch, bytes));
        }
        if let Some(receipt) = receipt {
            self.receipts.insert(receipt, ingested_at_us, position.clone());
        }
        position
    }

    /// Gives the batch its offsets; answers the next one.
    fn add(&mut self, partition: PartitionId, ingested_at_us: i64, batch: RecordBatch, bytes: usize) -> Offset {
        let start = self.end.get(partition);
        let rows = batch.num_rows();
        let newest = self.newest[partition.index()].map(|index| &mut self.blocks[index]);
        match newest.filter(|block| block.takes(ingested_at_us, rows, bytes)) {
            Some(block) => {
                block.rows += rows;
                block.bytes += bytes;
                block.batches.push(batch);
            }
            None => {
                self.newest[partition.index()] = Some(self.blocks.len());
                self.blocks.push(JoinedBatches { partition, start, ingested_at_us, rows, bytes, batches: vec![batch] });
            }
        }
        self.end.raise(partition, start.advance(rows));
        self.end.get(partition)
    }

    fn join(self) -> Result<Written> {
        let batches = self.blocks.into_iter().map(JoinedBatches::join).collect::<Result<_>>()?;
        Ok((self.log, batches, self.end))
    }
}

impl JoinedBatches {
    fn takes(&self, ingested_at_us: i64, rows: usize, bytes: usize) -> bool {
        self.ingested_at_us == ingested_at_us
            && self.rows + rows <= JOINED_ROWS_MAX
            && self.bytes + bytes <= JOINED_BYTES_MAX
    }

    fn join(mut self) -> Result<LogBatch> {
        let events = match self.batches.len() {
            1 => self.batches.swap_remove(0),
            _ => concat_batches(&self.batches[0].schema(), &self.batches)?,
        };
        Ok(LogBatch::consecutive(self.partition, self.start, self.ingested_at_us, events))
    }
}

/// Bytes of the rows themselves, without what else a slice's buffers hold.
fn row_bytes(batch: &RecordBatch) -> usize {
    let bytes = |column: &Arc<dyn Array>| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(bytes).sum()
}
