//! A topic that is being read: one consumer, threads that drain its partitions, and what they have found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};

use super::bad_ratio::BadRatio;
use super::client::{Context, Reports, consumer_config, log_error};
use super::decode::{Decoded, TopicDecoder};
use super::identity::{self, KnownRecord};
use super::lane::Lane;
use super::reread::Rereader;
use super::side::Side;
use crate::error::{Error, Result, with_causes};
use crate::event::LogBatch;
use crate::position::{Offset, OffsetRange, PartitionId, Position};
use crate::source::{KafkaOptions, KafkaStart, PARTITIONS_MAX};

/// How long a question to the brokers may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a partition is looked at again of which nothing could be told.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often the topic is asked for its partitions.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);
/// Longest sleep of a thread that is told when there is something to do.
const NAP: Duration = Duration::from_millis(100);

/// Why a partition is not read any further.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Halt {
    /// The topic does not have the record that comes next.
    OffsetsLost { next: Offset },
    /// The topic has other records than those that were read before, or has lost its newest.
    Replaced { next: Offset, available: OffsetRange },
    /// The brokers do not give what comes next, or it cannot be decoded for another reason than the record itself.
    Unreadable { next: Offset, reason: String },
    /// Too many records were no events.
    BadRatio { bad: u64, records: u64, ratio_max: f64 },
}

/// A topic on behalf of one source.
pub(super) struct Topic {
    source: String,
    options: Arc<KafkaOptions>,
    decoder: TopicDecoder,
    consumer: Arc<BaseConsumer<Context>>,
    /// A client of its own for questions: on the consumer's connections they would wait behind fetches that wait for records.
    asker: BaseConsumer<Context>,
    reports: Arc<Reports>,
    pub(super) events: Side,
    pub(super) dead_letters: Side,
    bytes_ahead_max: usize,
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    partitions: u32,
    is_started: bool,
    is_stopped: bool,
    /// Counts what may give a lane something to do.
    wakes: u64,
    /// Offsets up to which somebody waits.
    wanted: Position,
    halts: BTreeMap<PartitionId, Halt>,
    resumptions: BTreeMap<PartitionId, Offset>,
    /// Offsets that the topic lost and an operator skipped.
    lost: Vec<(PartitionId, OffsetRange)>,
    decode_trouble: Option<String>,
    bad_ratios: BTreeMap<PartitionId, BadRatio>,
    /// The last record of each partition that was read, here or by a process before.
    known: BTreeMap<PartitionId, KnownRecord>,
    /// Whether the topic may have been made anew, so that nothing is read before that is known.
    is_suspect: bool,
    /// Whether a thread is gone, so that some partitions are not read any more.
    has_panicked: bool,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Topic { source, options, state, .. } = self;
        let mut debug = f.debug_struct("Topic");
        debug.field("source", source).field("topic", &options.topic).field("state", state).finish_non_exhaustive()
    }
}

impl Topic {
    /// A client of the topic; nothing is read yet, and no broker is asked. Of each side, `bytes_ahead_max` bytes may wait
    /// for their reader.
    pub(super) fn new(
        source: &str,
        options: &Arc<KafkaOptions>,
        decoder: TopicDecoder,
        partitions: u32,
        bytes_ahead_max: usize,
    ) -> Result<Topic> {
        let reports = Arc::new(Reports::default());
        let context =
            Context { source: source.to_owned(), topic: options.topic.clone(), reports: Arc::clone(&reports) };
        let mut config = consumer_config(source, options, partitions)?;
        let open = |config: &ClientConfig| {
            let consumer = BaseConsumer::from_config_and_context(config, context.clone());
            consumer.map_err(|error| log_error(source, "open", &error))
        };
        let consumer = open(&config)?;
        config.set("statistics.interval.ms", "0");
        let asker = open(&config)?;
        let side = || Side::new(2 * bytes_ahead_max);
        Ok(Topic {
            source: source.to_owned(),
            options: Arc::clone(options),
            decoder,
            consumer: Arc::new(consumer),
            asker,
            reports,
            events: side(),
            dead_letters: side(),
            bytes_ahead_max,
            state: Mutex::new(State { partitions, ..State::default() }),
            woken: Condvar::new(),
        })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The topic's own name.
    pub(super) fn name(&self) -> &str {
        &self.options.topic
    }

    pub(super) fn options(&self) -> &Arc<KafkaOptions> {
        &self.options
    }

    pub(super) fn consumer(&self) -> &BaseConsumer<Context> {
        &self.consumer
    }

    pub(super) fn reports(&self) -> &Reports {
        &self.reports
    }

    pub(super) fn partitions(&self) -> u32 {
        self.state().partitions
    }

    /// Makes events and dead letters of records.
    pub(super) fn decoder(&self) -> &TopicDecoder {
        &self.decoder
    }

    /// The lost offsets that `offset` is among.
    pub(super) fn lost_at(&self, partition: PartitionId, offset: Offset) -> Option<OffsetRange> {
        let state = self.state();
        let lost = state.lost.iter().find(|(lost, range)| *lost == partition && range.contains(offset));
        lost.map(|(_, range)| *range)
    }

    /// Where lost offsets begin next after `offset`.
    pub(super) fn next_loss(&self, partition: PartitionId, offset: Offset) -> Offset {
        let state = self.state();
        let starts = state.lost.iter().filter(|(lost, _)| *lost == partition).map(|(_, range)| range.start());
        starts.filter(|start| *start > offset).min().unwrap_or(Offset(u64::MAX))
    }

    /// Offsets are known to be lost from now on.
    pub(super) fn lose(&self, partition: PartitionId, range: OffsetRange) {
        self.state().lost.push((partition, range));
    }

    /// Whether something keeps all records from being read.
    pub(super) fn is_troubled(&self) -> bool {
        let state = self.state();
        self.reports.broker_trouble().is_some() || state.decode_trouble.is_some() || state.has_panicked
    }

    /// Hands what was decoded to both logs.
    pub(super) fn hand_on(&self, decoded: &Decoded) {
        let partition = decoded.events.partition;
        let (good, bad) = (decoded.events.events.num_rows(), decoded.dead_letters.events.num_rows());
        // Dead letters first: whoever sees an event can see what became of the records before it.
        self.dead_letters.push(&decoded.dead_letters);
        self.events.push(&decoded.events);
        let mut state = self.state();
        state.decode_trouble = None;
        let last = |batch: &LogBatch| {
            Some(KnownRecord { partition, offset: batch.last_offset()?, time_us: batch.last_time_us()? })
        };
        if let Some(known) =
            [&decoded.events, &decoded.dead_letters].into_iter().filter_map(last).max_by_key(|known| known.offset)
        {
            state.known.insert(partition, known);
        }
        let ratio = state.bad_ratios.entry(partition).or_default();
        if let Some(halt) = ratio.count(good as u64, bad as u64, self.options.max_bad_ratio) {
            drop(state);
            self.halt(partition, halt);
        }
    }

    /// Up to where both logs have been told.
    fn judged(&self) -> Position {
        let (events, dead_letters) = (self.events.end().borrow().clone(), self.dead_letters.end().borrow().clone());
        let judged = events.iter().map(|(partition, end)| end.min(dead_letters.get(partition)));
        Position::new(judged.collect())
    }

    /// Whether more may be decoded before readers catch up.
    pub(super) fn has_room(&self) -> bool {
        self.events.bytes_ahead().max(self.dead_letters.bytes_ahead()) < self.bytes_ahead_max
    }

    pub(super) fn set_decode_trouble(&self, trouble: Option<String>) {
        self.state().decode_trouble = trouble;
    }

    /// Stops reading a partition until an operator resumes it.
    pub(super) fn halt(&self, partition: PartitionId, halt: Halt) {
        let reason = self.describe(partition, &halt);
        tracing::error!(source = self.source, partition = partition.0, reason, "stopped reading a partition");
        let mut state = self.state();
        // What is known of the topic as a whole says more than what follows from it.
        if !matches!(state.halts.get(&partition), Some(Halt::Replaced { .. })) {
            state.halts.insert(partition, halt);
        }
    }

    /// The last record of a partition that was read.
    pub(super) fn known(&self, partition: PartitionId) -> Option<KnownRecord> {
        self.state().known.get(&partition).copied()
    }

    /// Whether a partition is not to be read now.
    pub(super) fn is_held(&self, partition: PartitionId) -> bool {
        let state = self.state();
        state.is_suspect || state.halts.contains_key(&partition)
    }

    /// The topic may have been made anew.
    pub(super) fn suspect(&self) {
        self.state().is_suspect = true;
    }

    /// Records that a process before has read, to know the topic again.
    pub(super) fn expect(&self, known: Vec<KnownRecord>) {
        self.state().known = known.into_iter().map(|known| (known.partition, known)).collect();
    }

    pub(super) fn is_halted(&self, partition: PartitionId) -> bool {
        self.state().halts.contains_key(&partition)
    }

    /// A partition is read again.
    pub(super) fn resumed(&self, partition: PartitionId) {
        let mut state = self.state();
        state.halts.remove(&partition);
        state.bad_ratios.remove(&partition);
    }

    /// Where a partition that has halted shall go on, once.
    pub(super) fn take_resumption(&self, partition: PartitionId) -> Option<Offset> {
        self.state().resumptions.remove(&partition)
    }

    /// The partitions that have halted.
    pub(super) fn halts(&self) -> BTreeMap<PartitionId, Halt> {
        self.state().halts.clone()
    }

    /// Lets a halted partition go on at `next`.
    pub(super) fn resume(&self, partition: PartitionId, next: Offset) {
        let mut state = self.state();
        state.resumptions.insert(partition, next);
        state.wakes += 1;
        self.woken.notify_all();
    }

    /// What keeps records from being read, a sentence each.
    pub(super) fn troubles(&self) -> Vec<String> {
        let (source, topic) = (&self.source, self.name());
        let mut troubles = Vec::new();
        if let Some(reason) = self.reports.broker_trouble() {
            let brokers = &self.options.brokers;
            troubles.push(format!(
                "source \"{source}\" cannot read topic \"{topic}\" at {brokers}: {reason}; trying again"
            ));
        }
        let (halts, decode_trouble) = {
            let state = self.state();
            (state.halts.clone(), state.decode_trouble.clone())
        };
        if self.state().has_panicked {
            troubles.push(format!(
                "source \"{source}\" has stopped reading partitions of topic \"{topic}\", because a thread panicked on a bug; \
                 restart the process, and please report it"
            ));
        }
        if let Some(reason) = decode_trouble {
            troubles.push(format!("source \"{source}\" cannot decode its records: {reason}; trying again"));
        }
        troubles.extend(halts.iter().map(|(partition, halt)| self.describe(*partition, halt)));
        troubles
    }

    /// A halt with what an operator can do about it.
    pub(super) fn describe(&self, partition: PartitionId, halt: &Halt) -> String {
        let (source, topic) = (&self.source, self.name());
        match halt {
            Halt::OffsetsLost { next } => format!(
                "source \"{source}\" has stopped reading partition {partition} of topic \"{topic}\": the topic does not have \
                 offset {next}, which comes next (deleted by its retention, or the topic was made anew); \
                 `watershed source resume {source} --skip` goes on with what the topic has and records the gap"
            ),
            Halt::Replaced { next, available } => format!(
                "source \"{source}\" has stopped reading partition {partition} of topic \"{topic}\": offset {next} comes \
                 next, but the topic, whose offsets are {available}, is not the one that was read before: it was made anew, \
                 or its newest records were lost; its history and views stay as they are; to read the new topic, define a \
                 source with another name over it"
            ),
            Halt::Unreadable { next, reason } => format!(
                "source \"{source}\" has stopped reading partition {partition} of topic \"{topic}\" at offset {next}: {reason}; \
                 `watershed source resume {source}` tries again"
            ),
            Halt::BadRatio { bad, records, ratio_max } => format!(
                "source \"{source}\" has stopped reading partition {partition} of topic \"{topic}\": {bad} of the last \
                 {records} records are no events, and max_bad_ratio is {ratio_max}; SELECT * FROM {source}__dead_letters \
                 says why; `watershed source resume {source}` goes on"
            ),
        }
    }

    /// Waits until `position` is judged, or is known to hold nothing more.
    pub(super) fn want(&self, position: &Position) {
        let mut state = self.state();
        state.wanted.join(position);
        state.wakes += 1;
        self.woken.notify_all();
    }

    /// Up to where somebody waits for a partition.
    pub(super) fn wanted(&self, partition: PartitionId) -> Option<Offset> {
        let state = self.state();
        state.wanted.offsets().get(partition.index()).copied()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    /// Lets threads look for work.
    pub(super) fn wake(&self) {
        self.state().wakes += 1;
        self.woken.notify_all();
    }

    /// Sleeps, but not beyond a stop.
    pub(super) fn pause(&self, time: Duration) {
        let state = self.state();
        drop(self.woken.wait_timeout_while(state, time, |state| !state.is_stopped));
    }

    /// Ends the threads.
    pub(super) fn stop(&self) {
        self.state().is_stopped = true;
        self.woken.notify_all();
    }

    /// Where a source without history begins: the same for every partition that there is now.
    pub(super) fn beginning(&self) -> Result<Position> {
        let partitions = self.discover()?;
        match self.options.start {
            KafkaStart::Earliest => self.offsets_at(partitions, rdkafka::Offset::Beginning),
            KafkaStart::Latest => self.offsets_at(partitions, rdkafka::Offset::End),
            KafkaStart::Timestamp(time_ms) => self.offsets_at(partitions, rdkafka::Offset::Offset(time_ms)),
        }
    }

    /// The ends of all partitions now, without what is not committed.
    pub(super) fn ends(&self) -> Result<Position> {
        self.offsets_at(self.discover()?, rdkafka::Offset::End)
    }

    /// The offsets that a partition has: from its oldest record to the end of what is committed.
    pub(super) fn watermarks(&self, partition: u32) -> Result<OffsetRange> {
        let fetched = self.asker.fetch_watermarks(self.name(), partition as i32, REQUEST_TIMEOUT);
        let (low, high) = self.answered(fetched)?;
        let offset = |offset: i64| Offset(offset.try_into().unwrap_or_default());
        Ok(OffsetRange::new(offset(low), offset(high.max(low))))
    }

    /// Where the first `partitions` have their beginning, their end, or their first record from a time on; one request to each
    /// broker. A time is given as an offset, and its numbers for the beginning and the end are those of ListOffsets in Kafka's
    /// protocol.
    fn offsets_at(&self, partitions: u32, place: rdkafka::Offset) -> Result<Position> {
        let wrong = |error| log_error(&self.source, "read", &error);
        let mut places = TopicPartitionList::new();
        for partition in 0..partitions {
            places.add_partition_offset(self.name(), partition as i32, place).map_err(wrong)?;
        }
        let found = self.answered(self.asker.offsets_for_times(places, REQUEST_TIMEOUT))?;
        let mut offsets = Position::default();
        for found in found.elements() {
            found.error().map_err(wrong)?;
            let partition = PartitionId(found.partition().unsigned_abs());
            let offset = match found.offset() {
                rdkafka::Offset::Offset(offset) => Offset(offset.try_into().unwrap_or_default()),
                // No record is as young as that.
                _ => self.watermarks(partition.0)?.end(),
            };
            offsets.raise(partition, offset);
        }
        Ok(offsets)
    }

    /// Number of partitions that the topic has now.
    fn discover(&self) -> Result<u32> {
        let metadata = self.answered(self.asker.fetch_metadata(Some(self.name()), REQUEST_TIMEOUT))?;
        let found = metadata.topics().first().filter(|found| found.error().is_none() && !found.partitions().is_empty());
        match found {
            Some(found) => {
                let partitions = found.partitions().len() as u32;
                if partitions > PARTITIONS_MAX {
                    let topic = self.name();
                    let reason =
                        format!("topic \"{topic}\" has {partitions} partitions; at most {PARTITIONS_MAX} can be read");
                    self.reports.set_broker_trouble(Some(reason.clone()));
                    return Err(Error::Log { action: "read", name: self.source.clone(), reason });
                }
                let mut state = self.state();
                state.partitions = state.partitions.max(partitions);
                Ok(partitions)
            }
            None => {
                let error = metadata.topics().first().and_then(|found| found.error());
                let reason = match error.map(RDKafkaErrorCode::from) {
                    None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                        format!("the topic \"{}\" does not exist; create it, or correct the option topic", self.name())
                    }
                    Some(error) => format!("topic \"{}\": {error}", self.name()),
                };
                self.reports.set_broker_trouble(Some(reason.clone()));
                Err(Error::Log { action: "read", name: self.source.clone(), reason })
            }
        }
    }

    /// The brokers' answer; whether they gave one is reported.
    fn answered<T>(&self, answer: KafkaResult<T>) -> Result<T> {
        match answer {
            Ok(answer) => {
                self.reports.set_broker_trouble(None);
                Ok(answer)
            }
            Err(error) => {
                // What the client has to report says more than that the question got no answer.
                drop(self.asker.poll(Duration::ZERO));
                let reported = self.reports.broker_trouble();
                let reason = reported.unwrap_or_else(|| error.to_string());
                self.reports.set_broker_trouble(Some(reason.clone()));
                Err(Error::Log { action: "read", name: self.source.clone(), reason })
            }
        }
    }

    /// Tells the brokers how far the history is, for tools that show lag.
    pub(super) fn commit_to_group(&self, position: &Position) {
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in position.iter() {
            let offset = rdkafka::Offset::Offset(offset.0 as i64);
            if offsets.add_partition_offset(self.name(), partition.0 as i32, offset).is_err() {
                return;
            }
        }
        if let Err(error) = self.consumer.commit(&offsets, CommitMode::Async) {
            tracing::debug!(source = self.source, %error, "cannot commit offsets to the group; they are for lag tools only");
        }
    }

    /// Up to where the history had the events when reading began.
    pub(super) fn events_begin(&self) -> Position {
        self.events.begin().unwrap_or_default()
    }

    /// Starts to read where both sides begin, once both are known.
    ///
    /// # Errors
    /// When the system gives no threads, or the client refuses the partitions.
    pub(super) fn start_if_ready(self: &Arc<Topic>) -> Result<()> {
        let (Some(events), Some(dead_letters)) = (self.events.begin(), self.dead_letters.begin()) else {
            return Ok(());
        };
        if std::mem::replace(&mut self.state().is_started, true) {
            return Ok(());
        }
        let partitions = events.offsets().len().max(dead_letters.offsets().len()) as u32;
        let partitions = {
            let mut state = self.state();
            state.partitions = state.partitions.max(partitions);
            state.partitions
        };
        let threads = crate::config::parallelism(0).min(partitions.max(1) as usize);
        let lanes = (0..threads).map(|index| self.spawn_lanes(index)).collect::<Result<Vec<_>>>()?;
        let begin = move |partition| events.get(partition).min(dead_letters.get(partition));
        let rereader = Rereader::default();
        let readers = Readers { topic: Arc::clone(self), lanes, rereader, assigned: BTreeSet::new() };
        self.spawn("kafka", move || readers.run(&begin))
    }

    fn spawn_lanes(self: &Arc<Topic>, index: usize) -> Result<mpsc::Sender<Lane>> {
        let (sender, new) = mpsc::channel::<Lane>();
        let topic = Arc::clone(self);
        self.spawn(&format!("kafka-{index}"), move || {
            let mut lanes: Vec<Lane> = Vec::new();
            while !topic.is_stopped() {
                lanes.extend(new.try_iter());
                let wakes = topic.state().wakes;
                let moved = lanes.iter_mut().filter_map(|lane| lane.step(&topic).then_some(())).count() > 0;
                if !moved {
                    let sleeps = |state: &mut State| state.wakes == wakes && !state.is_stopped;
                    drop(topic.woken.wait_timeout_while(topic.state(), NAP, sleeps));
                }
            }
        })?;
        Ok(sender)
    }

    fn spawn(self: &Arc<Self>, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(format!("watershed-{name}-{}", self.source));
        let topic = Arc::downgrade(self);
        let work = move || {
            if catch_unwind(AssertUnwindSafe(work)).is_err()
                && let Some(topic) = topic.upgrade()
            {
                topic.state().has_panicked = true;
                tracing::error!(
                    source = topic.source,
                    "a thread that reads the topic panicked; please report this bug"
                );
            }
        };
        let spawned = thread.spawn(work).map(drop);
        spawned.map_err(|error| Error::Log { action: "read", name: self.source.clone(), reason: error.to_string() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that serves the client and gives partitions to lanes.
struct Readers {
    topic: Arc<Topic>,
    lanes: Vec<mpsc::Sender<Lane>>,
    rereader: Rereader,
    assigned: BTreeSet<PartitionId>,
}

impl Readers {
    fn run(mut self, begin: &dyn Fn(PartitionId) -> Offset) {
        let mut discovered = std::time::Instant::now();
        while !self.topic.is_stopped() {
            if let Err(error) = self.assign(begin) {
                let error = with_causes(&error);
                tracing::error!(source = self.topic.source, error, "cannot read partitions; trying again");
            }
            // Records come to the partitions' own queues; this serves statistics, logs and errors.
            drop(self.topic.consumer.poll(NAP));
            drop(self.topic.asker.poll(Duration::ZERO));
            let is_suspect = self.topic.state().is_suspect;
            if is_suspect || discovered.elapsed() >= DISCOVERY_INTERVAL {
                // What is wrong is among the troubles.
                if self.topic.discover().is_ok() && is_suspect {
                    self.clear_suspicion();
                }
                discovered = std::time::Instant::now();
            }
        }
    }

    /// Looks whether the topic is still the one that was read.
    fn clear_suspicion(&self) {
        let ends = self.topic.judged();
        let halts = self.assigned.iter().map(|partition| self.identify(*partition, ends.get(*partition)));
        match halts.collect::<Result<Vec<_>>>() {
            Ok(_) => {
                let mut state = self.topic.state();
                (state.is_suspect, state.decode_trouble) = (false, None);
            }
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(
                    source = self.topic.source,
                    error,
                    "cannot tell whether the topic was made anew; trying again"
                );
            }
        }
    }

    /// Halts a partition if its topic was made anew.
    fn identify(&self, partition: PartitionId, next: Offset) -> Result<()> {
        let known = self.topic.state().known.get(&partition).copied();
        if let Some(halt) = identity::check(&self.topic, &self.rereader, known, partition, next)? {
            self.topic.halt(partition, halt);
        }
        Ok(())
    }

    /// Those partitions of which it could be told whether their topic is the one that was read before.
    fn identified(&self, partitions: Vec<PartitionId>, begin: &dyn Fn(PartitionId) -> Offset) -> Vec<PartitionId> {
        let is_identified = |partition: &PartitionId| {
            let next = begin(*partition);
            match if next > Offset::BEGINNING { self.identify(*partition, next) } else { Ok(()) } {
                Ok(()) => {
                    self.topic.set_decode_trouble(None);
                    true
                }
                Err(error) => {
                    self.topic.set_decode_trouble(Some(with_causes(&error)));
                    self.topic.pause(RETRY_PAUSE);
                    false
                }
            }
        };
        partitions.into_iter().filter(is_identified).collect()
    }

    /// Gives partitions that are new to lanes.
    fn assign(&mut self, begin: &dyn Fn(PartitionId) -> Offset) -> Result<()> {
        let all = (0..self.topic.partitions()).map(PartitionId);
        let new: Vec<PartitionId> = all.filter(|partition| !self.assigned.contains(partition)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let wrong = |error| log_error(&self.topic.source, "read", &error);
        let new = self.identified(new, begin);
        if new.is_empty() {
            return Ok(());
        }
        let mut offsets = TopicPartitionList::new();
        let mut lanes = Vec::with_capacity(new.len());
        for partition in &new {
            let (number, next) = (partition.0 as i32, begin(*partition));
            let offset = rdkafka::Offset::Offset(next.0 as i64);
            offsets.add_partition_offset(self.topic.name(), number, offset).map_err(wrong)?;
            // Before the assignment, so that no record goes to the common queue.
            let Some(mut queue) = self.topic.consumer.split_partition_queue(self.topic.name(), number) else {
                let reason = format!("partition {partition} has no queue");
                return Err(Error::Log { action: "read", name: self.topic.source.clone(), reason });
            };
            let waker = Arc::downgrade(&self.topic);
            queue.set_nonempty_callback(move || {
                if let Some(topic) = waker.upgrade() {
                    topic.wake();
                }
            });
            lanes.push(Lane::new(*partition, queue, next));
        }
        self.topic.consumer.incremental_assign(&offsets).map_err(wrong)?;
        for (lane, partition) in lanes.into_iter().zip(&new) {
            // Its thread ends with the topic only.
            let _ = self.lanes[partition.index() % self.lanes.len()].send(lane);
        }
        tracing::info!(source = self.topic.source, topic = self.topic.name(), partitions = %offsets_text(&new, begin), "reading");
        self.assigned.extend(new);
        self.topic.wake();
        Ok(())
    }
}

fn offsets_text(partitions: &[PartitionId], begin: &dyn Fn(PartitionId) -> Offset) -> String {
    let place = |partition: &PartitionId| format!("{partition} from {}", begin(*partition));
    partitions.iter().map(place).collect::<Vec<_>>().join(", ")
}
