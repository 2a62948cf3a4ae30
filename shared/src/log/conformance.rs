//! The suite that every implementation of the log port runs: one function a rule, `check_all` for all of them, and
//! `check_reading` for those that hold for a log that others write.
//!
//! Each function panics where its rule is broken and answers an error where an operation fails that must not.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use async_trait::async_trait;
use futures::future::join_all;
use futures::poll;

use super::AppendLog;
use crate::error::{Error, ErrorKind, Result};
use crate::event::timestamp_type;
use crate::position::{Offset, PartitionId, Position};
use crate::source::SourceDefinition;

mod receipts;

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);
const P2: PartitionId = PartitionId(2);

/// Makes the logs that the suite examines.
#[async_trait]
pub trait LogFactory: Send + Sync {
    /// The empty log of a source; each rule asks for a source of its own.
    async fn create(&self, source: &SourceDefinition) -> Result<Arc<dyn AppendLog>>;

    /// Abandons the log, the last user of its store, as a crash would, and opens what it left; `None` when it is not
    /// durable.
    async fn reopen(&self, source: &SourceDefinition, log: Arc<dyn AppendLog>) -> Result<Option<Arc<dyn AppendLog>>>;
}

/// Examines every rule.
pub async fn check_all(factory: &impl LogFactory) -> Result<()> {
    check_reading(factory).await?;
    all_column_types_survive(factory).await?;
    wrong_batches_are_refused_whole(factory).await?;
    end_moves_by_whole_appends(factory).await?;
    concurrent_appends_leave_no_gap(factory).await?;
    abandoned_appends_are_never_half_there(factory).await?;
    acknowledged_events_survive_a_crash(factory).await?;
    offsets_are_never_given_again_after_a_crash(factory).await?;
    receipts::check_all(factory).await
}

/// Examines what a reader relies on. The logs that the factory makes have a way to append, whoever uses it otherwise.
pub async fn check_reading(factory: &impl LogFactory) -> Result<()> {
    new_log_is_empty(factory).await?;
    append_answers_the_next_offsets_of_written_partitions(factory).await?;
    events_come_back_in_order_with_their_times(factory).await?;
    reads_start_and_stop_where_asked(factory).await?;
    reads_outside_the_log_are_refused(factory).await?;
    trim_forgets_nothing_more_than_asked(factory).await
}

/// A source for the suite: one BIGINT column `value`.
pub fn source(name: &str, partitions: u32) -> SourceDefinition {
    let columns = Arc::new(Schema::new(vec![Field::new("value", DataType::Int64, true)]));
    SourceDefinition { partitions, ..SourceDefinition::new(name, "", columns) }
}

/// Events of that source with these values.
pub fn events(values: Range<i64>) -> RecordBatch {
    let columns = source("", 1).columns;
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    RecordBatch::try_new(columns, vec![values]).unwrap_or_else(|error| panic!("events of the suite: {error}"))
}

/// A log that nothing was appended to starts and ends at offset 0.
pub async fn new_log_is_empty(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("new", 3)).await?;
    assert_eq!(log.partitions(), 3);
    assert_eq!(log.start(), Position::beginning(3));
    assert_eq!(*log.end().borrow(), Position::beginning(3));
    assert!(values(&*log, P2, 0).await?.is_empty());
    Ok(())
}

/// Offsets count events from 0 in each partition; the answer speaks only of partitions that were written to.
pub async fn append_answers_the_next_offsets_of_written_partitions(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("answers", 3)).await?;
    assert_eq!(log.append(1, vec![(P0, events(0..3)), (P2, events(0..1))]).await?, position([3, 0, 1]));
    assert_eq!(log.append(1, vec![(P0, events(3..5)), (P0, events(5..6))]).await?, position([6, 0, 0]));
    assert_eq!(log.append(1, vec![(P1, events(0..0))]).await?, position([0, 0, 0]));
    assert_eq!(log.append(1, vec![]).await?, position([0, 0, 0]));
    assert_eq!(*log.end().borrow(), position([6, 0, 1]));
    Ok(())
}

/// A partition's events are read as they were appended, each with the time its append named.
pub async fn events_come_back_in_order_with_their_times(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("order", 2)).await?;
    let mut expected = Vec::new();
    // Whole milliseconds: Kafka's records have no finer times.
    for (index, time) in [5_000, 5_000, 7_000, 6_000, 6_000].into_iter().enumerate() {
        let first = 10 * index as i64;
        log.append(time, vec![(P0, events(first..first + 4)), (P1, events(0..1)), (P0, events(first + 4..first + 10))])
            .await?;
        expected.extend((first..first + 10).map(|value| (value, time)));
    }
    let batches = log.read(P0, Offset(0), usize::MAX).await?;
    let mut read = Vec::new();
    for batch in &batches {
        assert_eq!((batch.partition, batch.range.start()), (P0, Offset(read.len() as u64)));
        assert_eq!(batch.range.len(), batch.events.num_rows());
        read.extend(
            values_of(&batch.events).into_iter().map(|value| (value, batch.ingested_at_us().unwrap_or_default())),
        );
    }
    assert_eq!(read, expected);
    Ok(())
}

/// Every type that a source can declare comes back equal, with its NULLs, NaNs and infinities.
pub async fn all_column_types_survive(factory: &impl LogFactory) -> Result<()> {
    let columns = all_types()?;
    let source = SourceDefinition::new("types", "", columns.schema());
    let log = factory.create(&source).await?;
    log.append(1, vec![(P0, columns.clone()), (P0, columns.slice(1, 2))]).await?;
    check_all_types(&*log, &columns).await?;
    if let Some(log) = factory.reopen(&source, log).await? {
        check_all_types(&*log, &columns).await?;
    }
    Ok(())
}

/// The first batch is cut to `from`; whole batches follow until there are enough rows.
pub async fn reads_start_and_stop_where_asked(factory: &impl LogFactory) -> Result<()> {
    let source = source("reads", 1);
    let log = factory.create(&source).await?;
    for first in [0, 10, 20] {
        log.append(first, vec![(P0, events(first..first + 10))]).await?;
    }
    check_reads(&*log).await?;
    match factory.reopen(&source, log).await? {
        Some(log) => check_reads(&*log).await,
        None => Ok(()),
    }
}

/// Nothing can be read below the start, beyond the end or in a partition that is not there; at the end there is nothing.
pub async fn reads_outside_the_log_are_refused(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("outside", 2)).await?;
    log.append(1, vec![(P0, events(0..3))]).await?;
    assert!(values(&*log, P0, 3).await?.is_empty());
    let refused = |result: Result<Vec<_>>| result.err().map(|error| error.kind());
    assert_eq!(refused(log.read(P0, Offset(4), 1).await), Some(ErrorKind::Retryable));
    assert_eq!(refused(log.read(P1, Offset(1), 1).await), Some(ErrorKind::Retryable));
    assert_eq!(refused(log.read(P2, Offset(0), 1).await), Some(ErrorKind::Internal));
    Ok(())
}

/// A call with one batch that cannot be appended appends nothing.
pub async fn wrong_batches_are_refused_whole(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("wrong", 2)).await?;
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let other = RecordBatch::try_from_iter([("value", text)])?;
    for wrong in [(P2, events(0..1)), (P1, other)] {
        let refused = log.append(1, vec![(P0, events(0..1)), wrong]).await;
        assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Internal));
    }
    assert_eq!(*log.end().borrow(), position([0, 0]));
    assert_eq!(log.append(1, vec![(P0, events(0..1))]).await?, position([1, 0]));
    Ok(())
}

/// Who watches the end sees all of an append or nothing of it, and can read all that it sees.
pub async fn end_moves_by_whole_appends(factory: &impl LogFactory) -> Result<()> {
    const APPENDS: u64 = 50;
    let log = factory.create(&source("end", 2)).await?;
    let mut end = log.end();
    let watch = async {
        let mut seen = position([0, 0]);
        while seen != position([3 * APPENDS, 2 * APPENDS]) {
            end.changed().await.unwrap_or_else(|error| panic!("the log is there, but its end is not: {error}"));
            let now = end.borrow_and_update().clone();
            assert!(now.covers(&seen) && now != seen, "the end went from {seen} to {now}");
            assert_eq!(now.get(P0).0 * 2, now.get(P1).0 * 3, "half an append shows in {now}");
            let read = values(&*log, P0, seen.get(P0).0).await?;
            assert!(read.len() as u64 >= now.get(P0).0 - seen.get(P0).0);
            seen = now;
        }
        Ok(())
    };
    let appends = async {
        for index in 0..APPENDS {
            let answer = log.append(index as i64, vec![(P0, events(0..3)), (P1, events(0..2))]).await?;
            assert!(log.end().borrow().covers(&answer), "the end is behind the acknowledgement {answer}");
        }
        Ok(())
    };
    futures::try_join!(watch, appends).map(|_| ())
}

/// Appends of many tasks get consecutive offsets, each event once, and each task's events stay in its order.
pub async fn concurrent_appends_leave_no_gap(factory: &impl LogFactory) -> Result<()> {
    const TASKS: i64 = 16;
    const APPENDS: i64 = 20;
    let log = factory.create(&source("concurrent", 2)).await?;
    let append = |task: i64| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for index in 0..APPENDS {
                let first = 1_000 * task + 3 * index;
                let batches = vec![(P0, events(first..first + 2)), (P1, events(first + 2..first + 3))];
                let end = log.append(index % 3, batches).await?.get(P0).0;
                assert_eq!(values(&*log, P0, end - 2).await?[..2], [first, first + 1], "offsets of another's events");
            }
            Ok::<_, Error>(())
        })
    };
    for appended in join_all((0..TASKS).map(append)).await {
        appended.unwrap_or_else(|error| panic!("a task of the suite: {error}"))?;
    }
    assert_eq!(*log.end().borrow(), position([2 * 16 * 20, 16 * 20]));
    let (p0, p1) = (values(&*log, P0, 0).await?, values(&*log, P1, 0).await?);
    for (read, of_append) in [(p0, 0..2), (p1, 2..3)] {
        for task in 0..TASKS {
            let of_task: Vec<i64> = read.iter().copied().filter(|value| value / 1_000 == task).collect();
            let appended =
                (0..APPENDS).flat_map(|index| of_append.clone().map(move |row| 1_000 * task + 3 * index + row));
            assert_eq!(of_task, Vec::from_iter(appended));
        }
    }
    Ok(())
}

/// When the caller goes away, its events are all there or none is, and later appends work.
pub async fn abandoned_appends_are_never_half_there(factory: &impl LogFactory) -> Result<()> {
    const APPENDS: i64 = 40;
    let log = factory.create(&source("abandoned", 2)).await?;
    for index in 0..APPENDS {
        let append = log.append(index, vec![(P0, events(2 * index..2 * index + 2)), (P1, events(index..index + 1))]);
        let mut append = std::pin::pin!(append);
        let _ = poll!(append.as_mut());
    }
    log.append(0, vec![(P0, events(2 * APPENDS..2 * APPENDS + 2)), (P1, events(APPENDS..APPENDS + 1))]).await?;
    let (p0, p1) = (values(&*log, P0, 0).await?, values(&*log, P1, 0).await?);
    assert_eq!(p0, Vec::from_iter(p1.iter().flat_map(|index| [2 * index, 2 * index + 1])));
    assert_eq!(p1.last(), Some(&APPENDS));
    Ok(())
}

/// After a trim everything from `before` on is there as it was; what is below the start is refused.
pub async fn trim_forgets_nothing_more_than_asked(factory: &impl LogFactory) -> Result<()> {
    let log = factory.create(&source("trim", 2)).await?;
    for first in [0, 10, 20] {
        log.append(first, vec![(P0, events(first..first + 10)), (P1, events(first..first + 10))]).await?;
    }
    let mut largest = position([0, 0]);
    for before in [[0, 0], [5, 0], [10, 0], [12, 30], [3, 3], [20, 30], [29, 99]] {
        largest.join(&position([before[0], before[1].min(30)]));
        log.trim(&position(before)).await?;
        assert!(largest.covers(&log.start()), "start {} after trim below {largest}", log.start());
        for (partition, from) in largest.iter() {
            assert_eq!(values(&*log, partition, from.0).await?, Vec::from_iter(from.0 as i64..30));
        }
        for (partition, start) in log.start().iter().filter(|(_, start)| start.0 > 0) {
            let refused = log.read(partition, Offset(start.0 - 1), 1).await;
            assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Retryable));
        }
    }
    assert_eq!(*log.end().borrow(), position([30, 30]), "a trim does not move the end");
    assert_eq!(log.append(1, vec![(P1, events(30..31))]).await?, position([0, 31]));
    assert_eq!(values(&*log, P1, 30).await?, [30]);
    Ok(())
}

/// A durable log holds after a crash what it acknowledged before, at the same offsets.
pub async fn acknowledged_events_survive_a_crash(factory: &impl LogFactory) -> Result<()> {
    let source = source("crash", 2);
    let mut log = factory.create(&source).await?;
    let mut expected = 0;
    for round in 0..3_i64 {
        let append = async |index: i64| log.append(round, vec![(P0, events(index..index + 1))]).await;
        join_all((expected..expected + 10).map(append)).await.into_iter().collect::<Result<Vec<_>>>()?;
        log.append(round, vec![(P1, events(round..round + 1))]).await?;
        expected += 10;
        let Some(reopened) = factory.reopen(&source, log).await? else {
            return Ok(());
        };
        log = reopened;
        assert_eq!(*log.end().borrow(), position([expected as u64, round as u64 + 1]));
        let mut read = values(&*log, P0, 0).await?;
        read.sort_unstable();
        assert_eq!(read, Vec::from_iter(0..expected));
        assert_eq!(values(&*log, P1, 0).await?, Vec::from_iter(0..=round));
    }
    Ok(())
}

/// Start and end of a durable log survive a crash, also when everything was trimmed.
pub async fn offsets_are_never_given_again_after_a_crash(factory: &impl LogFactory) -> Result<()> {
    let source = source("trimmed-crash", 3);
    let log = factory.create(&source).await?;
    log.append(1, vec![(P0, events(0..5)), (P1, events(0..5)), (P1, events(5..10))]).await?;
    log.trim(&position([5, 3, 0])).await?;
    let start = log.start();
    let Some(log) = factory.reopen(&source, log).await? else {
        return Ok(());
    };
    assert_eq!(log.start(), start);
    assert_eq!(*log.end().borrow(), position([5, 10, 0]));
    assert_eq!(values(&*log, P1, 3).await?, Vec::from_iter(3..10));
    assert_eq!(log.append(2, vec![(P0, events(5..6)), (P2, events(0..1))]).await?, position([6, 0, 1]));
    assert_eq!(values(&*log, P0, 5).await?, [5]);
    Ok(())
}

fn position<const N: usize>(offsets: [u64; N]) -> Position {
    Position::new(offsets.map(Offset).to_vec())
}

/// The values of a partition from an offset to the end, read in small steps.
async fn values(log: &dyn AppendLog, partition: PartitionId, from: u64) -> Result<Vec<i64>> {
    let mut values = Vec::new();
    loop {
        let next = Offset(from).advance(values.len());
        let batches = log.read(partition, next, 7).await?;
        if batches.is_empty() {
            return Ok(values);
        }
        assert_eq!(batches[0].range.start(), next);
        values.extend(batches.iter().flat_map(|batch| values_of(&batch.events)));
    }
}

fn values_of(events: &RecordBatch) -> Vec<i64> {
    events.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Reads a log with the values 0 to 30 from every offset.
async fn check_reads(log: &dyn AppendLog) -> Result<()> {
    for from in 0..=30_usize {
        for rows_max in [0, 1, 5, 11, 100] {
            let batches = log.read(P0, Offset(from as u64), rows_max).await?;
            let read: Vec<i64> = batches.iter().flat_map(|batch| values_of(&batch.events)).collect();
            assert_eq!(read, Vec::from_iter(from as i64..(from + read.len()) as i64));
            let wanted = rows_max.max(1).min(30 - from);
            assert!(read.len() >= wanted, "{} rows from {from}, not {wanted}", read.len());
            let before_last: usize = batches.iter().rev().skip(1).map(|batch| batch.range.len()).sum();
            assert!(before_last < wanted.max(1), "more batches than {wanted} rows need");
        }
    }
    Ok(())
}

async fn check_all_types(log: &dyn AppendLog, columns: &RecordBatch) -> Result<()> {
    let batches = log.read(P0, Offset(0), usize::MAX).await?;
    let read = concat_batches(&columns.schema(), batches.iter().map(|batch| &batch.events))?;
    assert_eq!(read, concat_batches(&columns.schema(), [columns, &columns.slice(1, 2)])?);
    Ok(())
}

/// Four rows with a column of every type that a source can declare.
fn all_types() -> Result<RecordBatch> {
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let words = StringArray::from(vec![Some("a"), None, Some("Zürich"), Some("")]);
    let list = ListArray::new(item, OffsetBuffer::from_lengths([2, 0, 1, 1]), Arc::new(words), None);
    let inner = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3), None])) as ArrayRef,
        ),
        (Arc::new(Field::new("list", list.data_type().clone(), true)), Arc::new(list.clone()) as ArrayRef),
    ]);
    let columns: [(&str, ArrayRef); 11] = [
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]))),
        ("int", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(0), Some(i32::MAX)]))),
        ("bigint", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(0), None, Some(i64::MAX)]))),
        ("float", Arc::new(Float32Array::from(vec![Some(-0.0), None, Some(f32::NAN), Some(f32::INFINITY)]))),
        ("double", Arc::new(Float64Array::from(vec![Some(f64::MIN_POSITIVE), Some(f64::NAN), None, Some(0.1)]))),
        (
            "decimal",
            Arc::new(
                Decimal128Array::from(vec![Some(-1), None, Some(i128::from(i64::MAX)), Some(7)])
                    .with_precision_and_scale(38, 4)?,
            ),
        ),
        ("text", Arc::new(StringArray::from(vec![Some(""), Some("Zürich"), None, Some("日本")]))),
        ("date", Arc::new(Date32Array::from(vec![Some(-719_162), None, Some(0), Some(20_000)]))),
        (
            "timestamp",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(-1), Some(0), None, Some(1)])
                    .with_data_type(timestamp_type()),
            ),
        ),
        ("array", Arc::new(list)),
        ("struct", Arc::new(inner)),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?)
}
