//! A log in the simulated world: a disk that outlives every process, and what one process sees of it.

use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tokio::sync::watch;
use watershed::platform::OpenLog;
use watershed_shared::error::{Error, Result};
use watershed_shared::event::LogBatch;
use watershed_shared::fault::has_defect;
use watershed_shared::log::{AppendLog, Appended, Log, Receipt};
use watershed_shared::position::{Offset, PartitionId, Position};
use watershed_shared::source::SourceDefinition;

use super::world::{Side, World, lock};

/// What is durable. The simulation reads the truth here.
#[derive(Debug)]
pub(super) struct Disk {
    partitions: u32,
    /// All batches ever written, trimmed or not, in the order in which they became durable.
    batches: Vec<LogBatch>,
    end: Position,
    /// Below this a process finds nothing any more.
    start: Position,
    /// Whether the log of the running process has heard of a failure of a write that happened. As with RocksDB, that log
    /// takes nothing more until it is opened again, or offsets could be given twice.
    is_ahead: bool,
}

impl Disk {
    fn write(&mut self, ingested_at_us: i64, batches: &[(PartitionId, RecordBatch)]) -> Position {
        let mut written = Position::beginning(self.partitions);
        for (partition, events) in batches.iter().filter(|(_, events)| events.num_rows() > 0) {
            let start = self.end.get(*partition);
            let batch = LogBatch::consecutive(*partition, start, ingested_at_us, events.clone());
            self.end.raise(*partition, batch.range.end());
            written.raise(*partition, batch.range.end());
            self.batches.push(batch);
        }
        written
    }

    pub(super) fn end(&self) -> &Position {
        &self.end
    }

    /// Whether more is durable than the running process can know.
    pub(super) fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// All durable events below a position, in the order in which they became durable.
    pub(super) fn below(&self, end: &Position) -> Vec<LogBatch> {
        let cut = |batch: &LogBatch| batch.between(Offset::BEGINNING, end.get(batch.partition));
        self.batches.iter().map(cut).filter(|batch| !batch.range.is_empty()).collect()
    }

    /// The batch that ends at an offset.
    pub(super) fn ending_at(&self, partition: PartitionId, end: Offset) -> Option<&RecordBatch> {
        let ends = |batch: &&LogBatch| batch.partition == partition && batch.range.end() == end;
        self.batches.iter().find(ends).map(|batch| &batch.events)
    }
}

/// The disk of the one source, and the world around it.
#[derive(Debug, Clone)]
pub(super) struct SimulatedLogs {
    pub(super) world: Arc<World>,
    pub(super) disk: Arc<Mutex<Disk>>,
}

impl SimulatedLogs {
    pub(super) fn new(world: &Arc<World>, partitions: u32) -> SimulatedLogs {
        let nothing = Position::beginning(partitions);
        let disk = Disk { partitions, batches: Vec::new(), end: nothing.clone(), start: nothing, is_ahead: false };
        SimulatedLogs { world: Arc::clone(world), disk: Arc::new(Mutex::new(disk)) }
    }
}

impl OpenLog for SimulatedLogs {
    fn open_log(&self, source: &SourceDefinition) -> Result<Arc<dyn AppendLog>> {
        let mut disk = lock(&self.disk);
        disk.is_ahead = false;
        let end = disk.end.clone();
        Ok(Arc::new(SimulatedLog {
            source: source.name.clone(),
            logs: self.clone(),
            process: Arc::new(Process {
                writer: tokio::sync::Mutex::default(),
                end: watch::Sender::new(end),
                early: Mutex::default(),
            }),
        }))
    }
}

/// One process's log, with the promises of the port.
#[derive(Debug)]
struct SimulatedLog {
    source: String,
    logs: SimulatedLogs,
    process: Arc<Process>,
}

/// What a process knows of its log.
#[derive(Debug)]
struct Process {
    /// Held while something is written.
    writer: tokio::sync::Mutex<()>,
    /// What may be read.
    end: watch::Sender<Position>,
    /// Events that a defect shows before they are durable.
    early: Mutex<Vec<LogBatch>>,
}

/// Events to be written together.
type Batches = Vec<(PartitionId, RecordBatch)>;

impl SimulatedLog {
    fn error(&self, action: &'static str, reason: impl ToString) -> Error {
        Error::Log { action, name: self.source.clone(), reason: reason.to_string() }
    }
}

impl SimulatedLogs {
    /// What the log's writer does for one append.
    async fn write(self, process: Arc<Process>, ingested_at_us: i64, batches: Batches) -> Result<Position, String> {
        let _turn = process.writer.lock().await;
        if lock(&self.disk).is_ahead {
            return Err("the writer has stopped by a fault; start the platform anew".to_owned());
        }
        if has_defect("dispatch.before_fsync") {
            process.show_early(ingested_at_us, &batches);
        }
        let rows: usize = batches.iter().map(|(_, events)| events.num_rows()).sum();
        let disk = Arc::clone(&self.disk);
        let write = move || lock(&disk).write(ingested_at_us, &batches);
        let written = self.world.call(Side::Log, true, ("append", rows), write).await;
        let end = lock(&self.disk).end.clone();
        match &written {
            Ok(_) => {
                lock(&process.early).clear();
                process.end.send_if_modified(|published| {
                    let moves = !published.covers(&end);
                    published.join(&end);
                    moves
                });
            }
            Err(_) => lock(&self.disk).is_ahead = !process.end.borrow().covers(&end),
        }
        written.map_err(|failure| failure.to_string())
    }
}

impl Process {
    /// The defect `dispatch.before_fsync`: readers get events before the write that makes them durable.
    fn show_early(&self, ingested_at_us: i64, batches: &[(PartitionId, RecordBatch)]) {
        let end = self.end.borrow().clone();
        let partitions = end.offsets().len() as u32;
        let mut shown = Disk { partitions, batches: Vec::new(), end: end.clone(), start: end, is_ahead: false };
        shown.write(ingested_at_us, batches);
        lock(&self.early).append(&mut shown.batches);
        self.end.send_replace(shown.end);
    }
}

#[async_trait]
impl Log for SimulatedLog {
    fn partitions(&self) -> u32 {
        lock(&self.logs.disk).partitions
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.process.end.subscribe()
    }

    fn start(&self) -> Position {
        lock(&self.logs.disk).start.clone()
    }

    async fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Result<Vec<LogBatch>> {
        let (disk, visible) = (Arc::clone(&self.logs.disk), self.process.end.borrow().clone());
        let mut early = lock(&self.process.early).clone();
        let read = move || {
            let disk = lock(&disk);
            if from < disk.start.get(partition) {
                return Err(format!("offset {from} of partition {partition} was trimmed"));
            }
            let mut batches = disk.below(&visible);
            batches.append(&mut early);
            batches.retain(|batch| batch.partition == partition && batch.range.end() > from);
            Ok(batches)
        };
        let found = self.logs.world.call(Side::Log, false, ("read", partition, from), read).await;
        let found = found.map_err(|failure| self.error("read", failure))?;
        let mut rows = 0;
        let mut wanted = Vec::new();
        for batch in found.map_err(|reason| self.error("read", reason))? {
            if rows >= rows_max.max(1) {
                break;
            }
            let batch = batch.between(from, batch.range.end());
            rows += batch.events.num_rows();
            wanted.push(batch);
        }
        Ok(wanted)
    }

    async fn trim(&self, before: &Position) -> Result<()> {
        let (disk, before) = (Arc::clone(&self.logs.disk), before.clone());
        let trim = move || {
            let mut disk = lock(&disk);
            let end = disk.end.clone();
            before.iter().for_each(|(partition, offset)| disk.start.raise(partition, offset.min(end.get(partition))));
        };
        let trimmed = self.logs.world.call(Side::Log, true, "trim", trim).await;
        trimmed.map_err(|failure| self.error("trim", failure))
    }
}

#[async_trait]
impl AppendLog for SimulatedLog {
    async fn append(&self, ingested_at_us: i64, batches: Batches) -> Result<Position> {
        // A task of its own, as the real log has a thread: a caller who goes away changes nothing.
        let written = tokio::spawn(self.logs.clone().write(Arc::clone(&self.process), ingested_at_us, batches));
        let written = written.await.unwrap_or_else(|error| Err(error.to_string()));
        written.map_err(|reason| self.error("append to", reason))
    }

    async fn append_once(&self, _: i64, _: Batches, receipt: Receipt) -> Result<Appended> {
        unreachable!("the simulation's clients name no requests, but one has {receipt:?}")
    }
}
