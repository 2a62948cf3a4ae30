//! Sends inputs one after the other, chunk by chunk: read ahead, send, count, remember, and only then send the next.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use indicatif::HumanCount;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use watershed_shared::fault;
use watershed_shared::position::PositionToken;

use super::chunk::{Chunk, Limits, Mark};
use super::display::Display;
use super::input::{Format, Input, Reading, Resumed};
use super::ledger::{Key, Ledger, Pending, Record, Stamp};
use super::memory::{Memory, join};
use super::producer::Producer;
use super::{InDoubt, IngestArgs, parse_position};
use crate::cli::table::printable;
use crate::client::answer::Ingested;
use crate::client::{Client, ClientError, RequestName, Retry, raised};

/// Size of a request's body at which it is sent with however many rows it has.
const BODY_BYTES: usize = 8 * 1024 * 1024;
/// Chunks that are ready before their turn.
const CHUNKS_AHEAD: usize = 2;
/// Rejected rows that are described one by one.
const REJECTED_SHOWN_MAX: u64 = 20;

/// One call of the command.
pub(super) struct Job {
    pub(super) args: IngestArgs,
    pub(super) client: Client,
    /// `None` when nothing is to be remembered.
    pub(super) ledger: Option<Ledger>,
    pub(super) display: Display,
    /// How often Ctrl-C was pressed: once waits for the request in flight, twice does not.
    pub(super) interrupts: watch::Receiver<u32>,
    /// How far the source's log reached before this call.
    pub(super) end_of_log: PositionToken,
    pub(super) totals: Totals,
}

/// What one call has achieved so far.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// How many of the rejected rows have been described.
    pub(super) rejected_shown: u64,
    /// What the acknowledgements covered, joined.
    pub(super) position: Option<PositionToken>,
}

/// How far an input was sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sent {
    Whole,
    Interrupted,
}

/// Where to start with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    FromStart,
    /// Behind what is acknowledged, if the file still is what was acknowledged there.
    GoOn(Mark),
    Skip,
}

impl Job {
    /// Sends what is not yet acknowledged of one input.
    ///
    /// # Errors
    /// When the input cannot be read or the platform does not take it. What was acknowledged before is remembered.
    pub(super) async fn send_input(&mut self, input: &Arc<Input>) -> Result<Sent> {
        let mut memory = self.memory(input)?;
        let plan = match &memory {
            Some(memory) => self.plan(&input.name(), memory),
            None => Plan::FromStart,
        };
        let sent = match plan {
            Plan::Skip => Sent::Whole,
            Plan::FromStart => {
                memory.iter_mut().for_each(Memory::start_afresh);
                self.send_chunks(input, None, memory).await?
            }
            Plan::GoOn(mark) => self.send_chunks(input, (mark.rows > 0).then_some(mark), memory).await?,
        };
        if let Sent::Whole = sent {
            self.display.finished(input.size().unwrap_or(0));
        }
        Ok(sent)
    }

    /// What is remembered of an input; `None` where nothing can or shall be.
    fn memory(&self, input: &Input) -> Result<Option<Memory>> {
        let (Some(ledger), Input::File(file, metadata)) = (&self.ledger, input) else { return Ok(None) };
        let key = Key { url: self.client.url().to_owned(), source: self.args.source.clone(), file: file.clone() };
        let entry = if self.args.again { ledger.new_entry(key)? } else { ledger.entry(key)? };
        let stamp = Stamp::of(metadata);
        let record = entry.record.clone().unwrap_or_else(|| Record::nothing(stamp));
        Ok(Some(Memory { entry, record, stamp }))
    }

    /// Decides where to start with a file, and says so unless it is the beginning of a new one.
    fn plan(&self, name: &str, memory: &Memory) -> Plan {
        let Some(record) = &memory.entry.record else { return Plan::FromStart };
        let rows = HumanCount(record.mark.rows);
        let is_lost = |acknowledged: &&PositionToken| !self.end_of_log.position.covers(&acknowledged.position);
        if let Some(acknowledged) = record.position.as_ref().filter(is_lost) {
            // As on a fresh data folder: what was acknowledged then is not in this log.
            self.display.say(&format!(
                "{name}: sending all of it: {rows} rows were acknowledged up to {acknowledged} before, but source \
                 \"{}\" reaches only {} and must be a new one",
                self.args.source, self.end_of_log
            ));
            return Plan::FromStart;
        }
        if record.complete && record.stamp == memory.stamp {
            self.display.say(&format!(
                "{name}: skipped, it was ingested before ({} accepted, {} rejected); --again sends it once more",
                HumanCount(record.accepted),
                HumanCount(record.rejected)
            ));
            return Plan::Skip;
        }
        if record.mark.rows > 0 {
            self.display.say(&format!("{name}: going on behind row {rows}, the last that was acknowledged before"));
        }
        Plan::GoOn(record.mark)
    }

    async fn send_chunks(
        &mut self,
        input: &Arc<Input>,
        mut from: Option<Mark>,
        mut memory: Option<Memory>,
    ) -> Result<Sent> {
        let name = input.name();
        let mut producer = None;
        if let Some(memory) = &mut memory
            && let Some(pending) = memory.record.pending.clone()
        {
            producer = self.settle(input, memory, pending).await?;
            from = Some(memory.record.mark).filter(|mark| mark.rows > 0);
        }
        let limits = Limits { rows: self.args.batch_rows, bytes: BODY_BYTES };
        let mut reader = ReadAhead::start(Arc::clone(input), self.args.format, limits, from);
        let mut last_row = from.map_or(0, |mark| mark.rows);
        loop {
            let next = tokio::select! {
                biased;
                () = raised(&mut self.interrupts, 1) => {
                    self.display.say(&format!("{name}: stopped after row {}", HumanCount(last_row)));
                    return Ok(Sent::Interrupted);
                }
                next = reader.chunks.recv() => next,
            };
            let Some(next) = next else { break };
            let (chunk, bytes_read) = next.with_context(|| name.clone())?;
            let (rows, end) = (chunk.rows(), chunk.end);
            let answer = self.send_next(chunk, &mut producer, memory.as_mut()).await;
            let answer = answer.map_err(|error| unsent(&error, &name, rows.clone(), memory.is_some()))?;
            fault::point("ingest.acknowledged");
            self.take(answer, memory.as_mut(), &name, rows, end, bytes_read)?;
            last_row = end.rows;
        }
        reader.task.await.with_context(|| format!("the reader of {name} crashed"))?;
        match memory {
            Some(mut memory) if last_row > 0 => memory.complete()?,
            _ => {}
        }
        Ok(Sent::Whole)
    }

    /// Sends the request that was under way when the last call ended, under its old name, so that its rows are there
    /// once. Answers the producer to go on with, if it is still known.
    async fn settle(&mut self, input: &Arc<Input>, memory: &mut Memory, pending: Pending) -> Result<Option<Producer>> {
        let (name, start, end) = (input.name(), memory.record.mark, pending.end);
        let rows = start.rows..end.rows;
        let between = format!("rows {} to {}", HumanCount(rows.start + 1), HumanCount(rows.end));
        let (again, format) = (Arc::clone(input), self.args.format);
        let chunk = tokio::task::spawn_blocking(move || Reading::chunk_between(&again, format, start, end)).await;
        let Some(chunk) = chunk.with_context(|| format!("the reader of {name} crashed"))?? else {
            bail!(
                "{name}: {between} were under way when the last call ended, and the file has changed up to there since, \
                 so nothing of it was sent; --again sends all of it"
            );
        };
        self.display.say(&format!("{name}: {between} were under way when the last call ended; making sure of them"));
        let request = RequestName { producer: pending.producer.clone(), sequence: pending.sequence };
        let known = Some(Producer::behind(&pending));
        let error = match self.send(chunk, &request).await {
            Ok(answer) => {
                self.take(answer, Some(memory), &name, rows, end, 0)?;
                return Ok(known);
            }
            Err(error) => error,
        };
        let refused = error.downcast_ref().and_then(|error: &ClientError| error.problem()?.kind());
        match (refused.as_deref(), self.args.in_doubt) {
            // The same rows were written differently then, for instance by another version of this command.
            (Some("idempotency-key-reused"), _) => {
                self.display
                    .say(&format!("{name}: {between} had arrived; rejected ones among them are not known any more"));
                self.take(Ingested::of_rows(rows.end - rows.start), Some(memory), &name, rows, end, 0)?;
                Ok(known)
            }
            (Some("sequence-out-of-order"), None) => bail!(
                "{name}: {between} were sent before, and the platform does not remember any more whether it accepted them; \
                 find out, and say --in-doubt skip if they are there, or --in-doubt send if not; nothing was sent now"
            ),
            (Some("sequence-out-of-order"), Some(InDoubt::Send)) => {
                memory.withdraw()?;
                Ok(None)
            }
            (Some("sequence-out-of-order"), Some(InDoubt::Skip)) => {
                memory.acknowledge(end, &Ingested::of_rows(0), None)?;
                Ok(None)
            }
            // Whether it was accepted the first time, this refusal does not say; so the record stays.
            _ => Err(anyhow!("{name}: cannot make sure of {between}: {error:#}; the same command tries again")),
        }
    }

    /// Sends the next chunk under the producer's next name, which is remembered before.
    async fn send_next(
        &self,
        chunk: Chunk,
        producer: &mut Option<Producer>,
        mut memory: Option<&mut Memory>,
    ) -> Result<Ingested> {
        let producer = match producer.take().filter(|producer| !producer.is_stale()) {
            Some(known) => producer.insert(known),
            None => producer.insert(self.introduce_producer().await?),
        };
        let request = producer.next_request();
        if let Some(memory) = &mut memory {
            memory.intend(&request, chunk.end)?;
        }
        fault::point("ingest.intended");
        let answer = self.send(chunk, &request).await;
        match (&answer, memory) {
            (Ok(_), _) => producer.answered(),
            (Err(error), Some(memory)) if changed_nothing(error) => memory.withdraw()?,
            _ => {}
        }
        answer
    }

    /// A producer that the platform knows from its first request, which carries no rows.
    async fn introduce_producer(&self) -> Result<Producer> {
        let mut producer = Producer::new();
        let nothing =
            Chunk { body: Vec::new(), content_type: "application/x-ndjson", first_row: 0, end: Mark::default() };
        self.send(nothing, &producer.next_request()).await?;
        Ok(producer)
    }

    /// Sends one chunk, patiently.
    async fn send(&self, chunk: Chunk, request: &RequestName) -> Result<Ingested> {
        let said = Mutex::new(String::new());
        let say_pause = |error: &ClientError, _: Duration| {
            let cause = error.cause();
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            // Once for each cause: an hour of restarts must not fill the screen.
            if *said != cause {
                self.display.say(&format!("waiting up to {} s and trying again: {cause}", self.args.retry_for));
                *said = cause;
            }
        };
        let retry = Retry {
            patience: Duration::from_secs(self.args.retry_for),
            reconnect: true,
            repeatable: true,
            on_pause: &say_pause,
            give_up: Some(self.interrupts.clone()),
        };
        let mut interrupts = self.interrupts.clone();
        let (source, content_type) = (&self.args.source, chunk.content_type);
        tokio::select! {
            answer = self.client.send_events(source, content_type, chunk.body, request, retry) => answer,
            () = raised(&mut interrupts, 2) => Err(anyhow!("stopped before the answer came")),
        }
    }

    /// Remembers an acknowledgement and shows it.
    fn take(
        &mut self,
        answer: Ingested,
        memory: Option<&mut Memory>,
        name: &str,
        rows: Range<u64>,
        end: Mark,
        bytes_read: u64,
    ) -> Result<()> {
        let position = answer.position.as_deref().map(parse_position).transpose()?;
        if let Some(memory) = memory {
            memory.acknowledge(end, &answer, position.as_ref())?;
        }
        self.count(&answer, position, name, rows.start, rows.end);
        self.display.acknowledged(name, answer.accepted, bytes_read);
        Ok(())
    }

    /// Takes an acknowledgement into the totals and describes rejected rows.
    fn count(&mut self, answer: &Ingested, position: Option<PositionToken>, name: &str, first_row: u64, last_row: u64) {
        let totals = &mut self.totals;
        totals.accepted += answer.accepted;
        totals.rejected += answer.rejected;
        if let Some(position) = position {
            join(&mut totals.position, position);
        }
        for error in answer.errors.iter().take((REJECTED_SHOWN_MAX - totals.rejected_shown) as usize) {
            totals.rejected_shown += 1;
            let column = error.column.as_ref().map(|column| format!(", column \"{column}\"")).unwrap_or_default();
            let row = HumanCount(first_row + error.row + 1);
            self.display.say(&printable(&format!("rejected: {name} row {row}{column}: {}", error.reason)));
        }
        let (sent, counted) = (last_row - first_row, answer.accepted + answer.rejected);
        if sent != counted {
            self.display.say(&format!(
                "warning: {name}: the platform counted {counted} rows where {sent} were sent (rows {} to {last_row}); \
                 a line that holds more than one JSON value, or a part of one, does that",
                first_row + 1
            ));
        }
    }
}

/// Reads an input on a thread of its own, a few chunks ahead of what is being sent.
struct ReadAhead {
    /// Each chunk with the bytes of the input that had been read when it was ready. Ends after the first failure.
    chunks: mpsc::Receiver<Result<(Chunk, u64)>>,
    task: JoinHandle<()>,
}

impl ReadAhead {
    fn start(input: Arc<Input>, format: Option<Format>, limits: Limits, from: Option<Mark>) -> ReadAhead {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let task = tokio::task::spawn_blocking(move || {
            let mut reading = match open(&input, format, limits, from) {
                Ok(reading) => reading,
                Err(error) => {
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            };
            while let Some(chunk) = reading.next_chunk().transpose() {
                let is_last = chunk.is_err();
                let message = chunk.map(|chunk| (chunk, reading.bytes_read()));
                // Nobody listens any more when sending has stopped.
                if sender.blocking_send(message).is_err() || is_last {
                    return;
                }
            }
        });
        ReadAhead { chunks, task }
    }
}

fn open(input: &Input, format: Option<Format>, limits: Limits, from: Option<Mark>) -> Result<Reading> {
    let Some(mark) = from else { return Reading::start(input, format, limits) };
    match Reading::resume(input, format, limits, mark)? {
        Resumed::Ready(reading) => Ok(reading),
        Resumed::Changed => bail!(
            "it has changed in its first {} rows since they were acknowledged, so nothing of it was sent; \
             --again sends all of it",
            HumanCount(mark.rows)
        ),
    }
}

/// Says of a chunk without acknowledgement what is known of it and what to do.
fn unsent(error: &Error, name: &str, chunk_rows: Range<u64>, remembered: bool) -> Error {
    let (first, last) = (HumanCount(chunk_rows.start + 1), HumanCount(chunk_rows.end));
    let fate = match (changed_nothing(error), remembered) {
        (true, _) => "none of them was accepted",
        (false, true) => {
            "whether they were accepted is unknown; the same command sends them again, and each counts once"
        }
        (false, false) => "whether they were accepted is unknown",
    };
    let before = match (chunk_rows.start, remembered) {
        (0, _) => "",
        (_, true) => "; all rows before them are acknowledged, and the same command goes on behind those",
        (_, false) => "; all rows before them are acknowledged",
    };
    anyhow!("{name}: cannot send rows {first} to {last}: {error:#}; {fate}{before}")
}

fn changed_nothing(error: &Error) -> bool {
    error.downcast_ref().is_some_and(ClientError::changed_nothing)
}
