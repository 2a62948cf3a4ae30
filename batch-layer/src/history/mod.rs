//! The history of a source: its master dataset, all events in one Delta table.
//!
//! The writer appends events in offset order, and the commit that adds their files also says, as Delta application
//! transactions, where each partition continues. So a version of the history *is* a position: all events below it are
//! in the version's files, and no others. Events are never changed here.
//!
//! A Kafka source's offsets have gaps where the topic holds no event of the source. Its commits may move the position
//! without adding a row. Offsets that the topic lost before they were read are named in the commit that moves over them.
//!
//! The table is not divided into folders by date: files come in about the order of event time, so the bounds of each
//! file prune as well, without a small file for every late event's day.

mod reader;
mod writer;

use std::fmt;
use std::sync::Arc;

use watershed_shared::position::{Gap, Offset, OffsetRange, PartitionId, Position};
use watershed_shared::source::{PARTITIONS_MAX, SourceDefinition};

use crate::data_file::EncodeOptions;
use crate::error::{Error, Result};
use crate::layout;
use crate::store::Store;
use crate::table::{StoredTable, TableSnapshot};

pub use reader::HistorySnapshot;
pub use writer::{Append, Appended, HistoryWriter};

/// Delta application transaction that holds the next offset of a partition.
const OFFSET_TRANSACTION: &str = "watershed/";
/// Delta application transaction that holds the largest event time of a partition, in microseconds since the epoch.
const EVENT_TIME_TRANSACTION: &str = "watershed-watermark/";

/// Delta application transaction that holds the end of a gap; `partition/start` follows.
const GAP_TRANSACTION: &str = "watershed-gap/";
/// Delta application transaction of histories whose offsets are not consecutive.
const SPARSE_TRANSACTION: &str = "watershed-sparse";

/// Version of a history: the number of a commit to its Delta table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryVersion(pub u64);

impl fmt::Display for HistoryVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An open history. Clones share the table.
#[derive(Debug, Clone)]
pub struct History {
    table: Arc<StoredTable>,
    partitions: u32,
    /// Whether some offsets hold no event.
    is_sparse: bool,
}

impl History {
    /// Opens the history of `source` in `store`, creating it if there is none.
    ///
    /// # Errors
    /// `Invalid` when the source's columns are not those of the stored history, or Delta cannot hold them; `Corrupt`
    /// when the table cannot be read; `Retryable` when the store refuses.
    pub async fn open(store: &Store, source: &SourceDefinition) -> Result<History> {
        let folder = layout::history(&source.name)?;
        let table = StoredTable::open(store, folder, Arc::clone(&source.event_schema)).await?;
        check_position(&table)?;
        let is_sparse = source.connector.has_gaps();
        Ok(History { table: Arc::new(table), partitions: source.partitions, is_sparse })
    }

    /// The newest version that this process knows; the newest there is if no other process writes. Reads no storage.
    pub fn known(&self) -> HistorySnapshot {
        self.snapshot(&self.table.known())
    }

    /// The newest version in the store.
    pub async fn latest(&self) -> Result<HistorySnapshot> {
        let latest = self.table.latest().await?;
        Ok(self.snapshot(&latest))
    }

    /// A writer of this history; there should be one.
    pub fn writer(&self, options: EncodeOptions) -> HistoryWriter {
        HistoryWriter::new(self.clone(), options)
    }

    /// Writes a Delta checkpoint if enough commits came since the last, so that opening stays fast; returns whether it
    /// did. To be called now and then, off the path of commits; commits may go on meanwhile.
    ///
    /// # Errors
    /// `Retryable` when the store refuses; the history is unharmed then.
    pub async fn checkpoint_if_due(&self) -> Result<bool> {
        self.table.checkpoint_if_due().await
    }

    /// Writes a Delta checkpoint now.
    ///
    /// # Errors
    /// `Retryable` when the store refuses; the history is unharmed then.
    pub async fn checkpoint(&self) -> Result<()> {
        self.table.write_checkpoint().await
    }

    /// Deletes files that no commit names, as crashes leave them. Only for start-up: nobody may be writing.
    ///
    /// Returns how many were deleted.
    pub async fn delete_orphans(&self) -> Result<usize> {
        self.table.delete_orphans().await
    }

    fn snapshot(&self, snapshot: &TableSnapshot) -> HistorySnapshot {
        HistorySnapshot::new(self, snapshot)
    }
}

/// Where each partition continues after a table's version.
pub(crate) fn position(snapshot: &TableSnapshot, partitions: u32) -> Position {
    let mut position = Position::beginning(partitions);
    for (partition, offset) in partition_transactions(snapshot, OFFSET_TRANSACTION) {
        position.raise(partition, Offset(offset.try_into().unwrap_or_default()));
    }
    position
}

/// Refuses a table whose offsets cannot be any: a damaged log must not become a position, nor ask for memory for four
/// billion partitions.
pub(crate) fn check_position(table: &StoredTable) -> Result<()> {
    for (partition, offset) in partition_transactions(&table.known(), OFFSET_TRANSACTION) {
        if partition.0 >= PARTITIONS_MAX || offset < 0 {
            return Err(Error::Corrupt {
                what: format!("table {}", table.folder()),
                reason: format!("its log says that partition {partition} continues at offset {offset}"),
            });
        }
    }
    Ok(())
}

/// Whether a version says where its partitions continue, as every one but that of a new table does.
fn has_position(snapshot: &TableSnapshot) -> bool {
    partition_transactions(snapshot, OFFSET_TRANSACTION).next().is_some()
}

/// Whether the offsets of a table's events are not consecutive.
pub(crate) fn is_sparse(snapshot: &TableSnapshot) -> bool {
    snapshot.transactions.contains_key(SPARSE_TRANSACTION)
}

/// The gaps of a version, by partition and offset.
pub(crate) fn gaps(snapshot: &TableSnapshot) -> Vec<Gap> {
    let gap = |(id, end): (&String, &i64)| {
        let (partition, start) = id.strip_prefix(GAP_TRANSACTION)?.split_once('/')?;
        let (start, end) = (start.parse().ok()?, u64::try_from(*end).ok()?);
        let range = (start <= end).then(|| OffsetRange::new(Offset(start), Offset(end)))?;
        Some(Gap { partition: PartitionId(partition.parse().ok()?), range })
    };
    let mut gaps: Vec<Gap> = snapshot.transactions.iter().filter_map(gap).collect();
    gaps.sort_by_key(|gap| (gap.partition, gap.range.start()));
    gaps
}

/// The transactions that make a version end at `position`.
pub(crate) fn position_transactions(position: &Position) -> impl Iterator<Item = (String, i64)> {
    position.iter().map(|(partition, offset)| (format!("{OFFSET_TRANSACTION}{partition}"), offset.0 as i64))
}

fn partition_transactions(snapshot: &TableSnapshot, prefix: &str) -> impl Iterator<Item = (PartitionId, i64)> {
    snapshot.transactions.iter().filter_map(move |(id, value)| {
        let partition = id.strip_prefix(prefix)?.parse().ok()?;
        Some((PartitionId(partition), *value))
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
        Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, col, lit};
    use object_store::ObjectStoreExt;
    use serde_json::json;
    use watershed_shared::event::{LogBatch, timestamp_type};
    use watershed_shared::position::OffsetRange;
    use watershed_shared::source::Connector;

    use super::*;
    use crate::table::seal;
    use crate::test_support::{Fault, TempFolder, faulty_store, read};

    fn number_source() -> SourceDefinition {
        let columns = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
        SourceDefinition { partitions: 2, ..SourceDefinition::new("Ed/its", "", Arc::new(columns)) }
    }

    fn events(source: &SourceDefinition, partition: u32, start: u64, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        let events = RecordBatch::try_new(Arc::clone(&source.columns), columns)?;
        let batch = LogBatch::consecutive(PartitionId(partition), Offset(start), 7, events);
        Ok(batch.with_system_columns(&source.event_schema)?)
    }

    fn numbers(source: &SourceDefinition, partition: u32, offsets: std::ops::Range<i64>) -> Result<RecordBatch> {
        let numbers = Int64Array::from_iter_values(offsets.clone());
        events(source, partition, offsets.start as u64, vec![Arc::new(numbers)])
    }

    fn at(offsets: [u64; 2]) -> Position {
        Position::new(offsets.map(Offset).to_vec())
    }

    fn append(start: [u64; 2], end: [u64; 2]) -> Result<Append> {
        let source = number_source();
        let batches = (0..2).map(|p| numbers(&source, p as u32, start[p] as i64..end[p] as i64));
        let max_event_times_us = vec![Some(end[0] as i64), None];
        Ok(Append {
            batches: batches.collect::<Result<_>>()?,
            start: at(start),
            end: at(end),
            max_event_times_us,
            gaps: vec![],
        })
    }

    async fn count(snapshot: &HistorySnapshot) -> Result<usize> {
        Ok(read(&snapshot.rows(snapshot.files().to_vec()), 2, None).await?.num_rows())
    }

    #[tokio::test]
    async fn a_log_that_says_what_cannot_be_is_corrupt() -> Result<()> {
        let offset = |partition: &str, offset: i64| {
            json!({"txn": {"appId": format!("watershed/{partition}"), "version": offset, "lastUpdated": 1}}).to_string()
        };
        let file = |rows: u64, bytes: i64| {
            let stats = json!({"numRecords": rows}).to_string();
            json!({"add": {"path": "a.parquet", "partitionValues": {}, "size": bytes, "modificationTime": 1,
                "dataChange": true, "stats": stats}})
            .to_string()
        };
        for (commit, expected) in [
            (offset("4294967295", 1), "partition 4294967295 continues at offset 1"),
            (offset("0", -1), "partition 0 continues at offset -1"),
            (file(u64::MAX, 1), "18446744073709551615 rows and 1 bytes"),
            (file(1, -1), "1 rows and -1 bytes"),
        ] {
            let store = Store::in_memory()?;
            History::open(&store, &number_source()).await?;
            let folder = layout::history("Ed/its")?;
            let path = folder.clone().join("_delta_log").join("00000000000000000001.json");
            let info = json!({"commitInfo": {"watershed": {"checksum": seal::PLACEHOLDER}}});
            let sealed = seal::seal(format!("{info}\n{commit}\n").as_bytes(), folder.as_ref(), 1);
            let put = store.objects().put(&path, sealed.into()).await;
            put.map_err(|source| Error::Store { action: "write", path: path.to_string(), source })?;
            let opened = History::open(&store, &number_source()).await;
            let reason = opened.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(reason.contains(expected), "{commit}: {reason}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn every_type_comes_back_as_it_was() -> Result<()> {
        let inner = Fields::from(vec![
            Field::new("x", DataType::Float64, true),
            Field::new("tags", DataType::new_list(DataType::Utf8, true), true),
        ]);
        let text = StringArray::from(vec![Some("ä\u{0}\"',"), Some(""), None]);
        let tags = ListArray::new_null(Arc::new(Field::new_list_field(DataType::Utf8, true)), 3);
        let floats: [f64; 3] = [f64::NAN, f64::NEG_INFINITY, -0.0];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("a bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("int", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)]))),
            ("bigint", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
            ("float", Arc::new(Float32Array::from_iter_values(floats.map(|float| float as f32)))),
            ("double", Arc::new(Float64Array::from_iter_values(floats))),
            (
                "decimal",
                Arc::new(
                    Decimal128Array::from(vec![Some(-1), None, Some(i128::from(u64::MAX))])
                        .with_precision_and_scale(38, 4)?,
                ),
            ),
            ("te.xt,{}", Arc::new(text)),
            ("date", Arc::new(Date32Array::from(vec![Some(-800_000), None, Some(8_000_000)]))),
            (
                "timestamp",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![Some(i64::MIN), None, Some(i64::MAX)]).with_timezone("UTC"),
                ),
            ),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
                    Some(vec![Some(1), None]),
                    None,
                    Some(vec![]),
                ])),
            ),
            (
                "struct",
                Arc::new(StructArray::new(
                    inner,
                    vec![Arc::new(Float64Array::from_iter_values(floats)), Arc::new(tags)],
                    Some(vec![true, false, true].into()),
                )),
            ),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let arrays: Vec<ArrayRef> = columns.into_iter().map(|(_, array)| array).collect();
        let source = SourceDefinition::new("all types", "", Arc::new(Schema::new(fields)));
        let batch = events(&source, 0, 0, arrays)?;

        let folder = TempFolder::new();
        for store in [Store::open(folder.path())?, Store::in_memory()?] {
            let history = History::open(&store, &source).await?;
            let (start, end) = (Position::beginning(1), Position::new(vec![Offset(3)]));
            let append = Append { batches: vec![batch.clone()], start, end, max_event_times_us: vec![], gaps: vec![] };
            history.writer(EncodeOptions::history()).append(&append).await?;
            for checkpoint in [false, true] {
                if checkpoint {
                    history.table.write_checkpoint().await?;
                }
                let reopened = History::open(&store, &source).await?.known();
                assert_eq!(reopened.files(), history.known().files());
                assert_eq!(read(&reopened.rows(reopened.files().to_vec()), 1, None).await?, batch);
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_version_says_where_it_ends_and_which_files_go_on_from_a_position() -> Result<()> {
        let store = Store::in_memory()?;
        let history = History::open(&store, &number_source()).await?;
        let options = EncodeOptions { file_rows_max: 3, ..EncodeOptions::history() };
        let writer = history.writer(options);
        let first = writer.append(&append([0, 0], [4, 2])?).await?;
        let old = history.known();
        let second = writer.append(&append([4, 2], [4, 5])?).await?;
        assert!(first.version < second.version && second.bytes > 0);

        for snapshot in [history.known(), History::open(&store, &number_source()).await?.latest().await?] {
            assert_eq!(*snapshot.end(), at([4, 5]));
            assert_eq!(snapshot.version(), second.version);
            assert_eq!(snapshot.max_event_times_us(), [Some(4), None]);
            assert_eq!(count(&snapshot).await?, 9);
            assert_eq!(snapshot.files_from(&at([0, 0])).len(), 3);
            let tail = snapshot.files_from(&at([4, 2]));
            let range = OffsetRange::new(Offset(2), Offset(5));
            assert_eq!(
                tail.iter().map(|file| file.offsets.clone()).collect::<Vec<_>>(),
                [Some(vec![(PartitionId(1), range)])]
            );
            assert!(snapshot.files_from(&at([4, 5])).is_empty());
        }
        assert_eq!((count(&old).await?, old.end()), (6, &at([4, 2])), "a snapshot does not move");
        Ok(())
    }

    #[tokio::test]
    async fn a_lost_response_does_not_double_events() -> Result<()> {
        for fault in [Fault::Before, Fault::After, Fault::AfterAndReads] {
            let (store, faults) = faulty_store()?;
            let history = History::open(&store, &number_source()).await?;
            let writer = history.writer(EncodeOptions::history());
            faults.arm(fault);
            let append = append([0, 0], [3, 1])?;
            let first = writer.append(&append).await;
            assert_eq!(first.is_ok(), fault == Fault::After, "{fault:?}: {first:?}");
            if let Err(error) = first {
                assert_eq!(error.kind(), watershed_shared::error::ErrorKind::Retryable, "{error}");
            }
            let again = writer.append(&append).await?;
            assert_eq!((again.version, &again.end), (HistoryVersion(1), &append.end), "{fault:?}");
            assert_eq!(count(&history.latest().await?).await?, 4, "{fault:?}");
            assert_eq!(writer.append(&append).await?.bytes, 0);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_store_that_is_away_while_a_plan_reads_is_an_error_to_retry() -> Result<()> {
        let (store, faults) = faulty_store()?;
        let history = History::open(&store, &number_source()).await?;
        history.writer(EncodeOptions::history()).append(&append([0, 0], [3, 1])?).await?;
        faults.arm(Fault::AfterAndReads);
        let failed = count(&history.known()).await;
        let kind = failed.as_ref().err().map(Error::kind);
        assert_eq!(kind, Some(watershed_shared::error::ErrorKind::Retryable), "{failed:?}");
        assert_eq!(count(&history.known()).await?, 4);
        Ok(())
    }

    #[tokio::test]
    async fn a_second_writer_is_refused_and_changes_nothing() -> Result<()> {
        let store = Store::in_memory()?;
        let histories =
            [History::open(&store, &number_source()).await?, History::open(&store, &number_source()).await?];
        histories[0].writer(EncodeOptions::history()).append(&append([0, 0], [3, 1])?).await?;
        let other = histories[1].writer(EncodeOptions::history());
        let refused = other.append(&append([0, 0], [2, 2])?).await;
        assert!(matches!(&refused, Err(Error::Conflict { .. })), "{refused:?}");
        assert_eq!(*histories[1].latest().await?.end(), at([3, 1]));
        other.append(&append([3, 1], [3, 4])?).await?;
        assert_eq!(count(&histories[0].latest().await?).await?, 7);
        Ok(())
    }

    #[tokio::test]
    async fn a_commit_that_comes_through_late_is_continued_and_never_doubled() -> Result<()> {
        for (late, starts_at) in [([3, 1], [0, 0]), ([5, 2], [0, 0]), ([4, 2], [1, 0])] {
            let store = Store::in_memory()?;
            let [before, after] =
                [History::open(&store, &number_source()).await?, History::open(&store, &number_source()).await?];
            let writer = after.writer(EncodeOptions::history());
            writer.append(&append([0, 0], starts_at)?).await?;
            before.writer(EncodeOptions::history()).append(&append(starts_at, late)?).await?;
            let appended = writer.append(&append(starts_at, [5, 2])?).await?;
            assert_eq!(appended.end, at([5, 2]));
            let latest = after.latest().await?;
            assert_eq!((latest.end(), count(&latest).await?), (&at([5, 2]), 7), "late {late:?}");
            assert_eq!(latest.files_from(&at(late)).len(), usize::from(late != [5, 2]));
        }
        Ok(())
    }

    #[tokio::test]
    async fn events_of_another_log_at_the_same_offsets_are_not_taken_for_ours() -> Result<()> {
        let (store, source) = (Store::in_memory()?, number_source());
        let [ours, other] = [History::open(&store, &source).await?, History::open(&store, &source).await?];
        let foreign = events(&source, 0, 0, vec![Arc::new(Int64Array::from(vec![7, 8]))])?;
        let foreign = Append {
            batches: vec![foreign],
            start: at([0, 0]),
            end: at([2, 0]),
            max_event_times_us: vec![],
            gaps: vec![],
        };
        other.writer(EncodeOptions::history()).append(&foreign).await?;
        for end in [[2, 0], [3, 1]] {
            let refused = ours.writer(EncodeOptions::history()).append(&append([0, 0], end)?).await;
            assert!(matches!(&refused, Err(Error::Conflict { .. })), "{refused:?}");
        }
        assert_eq!(*ours.latest().await?.end(), at([2, 0]));
        Ok(())
    }

    #[tokio::test]
    async fn batches_that_are_not_the_events_are_refused() -> Result<()> {
        let source = number_source();
        let history = History::open(&Store::in_memory()?, &source).await?;
        let writer = history.writer(EncodeOptions::history());
        for batches in [
            vec![numbers(&source, 0, 0..2)?],
            vec![numbers(&source, 0, 0..4)?],
            vec![numbers(&source, 0, 0..2)?, numbers(&source, 0, 1..3)?],
            vec![numbers(&source, 0, 1..3)?],
            vec![numbers(&source, 1, 0..3)?],
        ] {
            let append =
                Append { batches, start: at([0, 0]), end: at([3, 0]), max_event_times_us: vec![], gaps: vec![] };
            let refused = writer.append(&append).await;
            assert!(matches!(&refused, Err(Error::InvalidBatches { .. })), "{refused:?}");
        }
        assert!(history.latest().await?.files().is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn another_schema_is_refused_with_the_column() -> Result<()> {
        let store = Store::in_memory()?;
        History::open(&store, &number_source()).await?;
        let columns = Schema::new(vec![Field::new("n", timestamp_type(), true)]);
        let changed = SourceDefinition::new("Ed/its", "", Arc::new(columns));
        let refused = History::open(&store, &changed).await.map(|_| ());
        let message = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("column \"n\" timestamp") && message.contains("column \"n\" long"), "{message}");
        Ok(())
    }

    #[tokio::test]
    async fn checkpoints_keep_everything_and_orphans_go() -> Result<()> {
        let folder = TempFolder::new();
        for store in [Store::open(folder.path())?, Store::in_memory()?] {
            let history = History::open(&store, &number_source()).await?;
            let writer = history.writer(EncodeOptions::history());
            let mut checkpoints = 0;
            for end in 1..=140 {
                writer.append(&append([end - 1, 0], [end, 0])?).await?;
                checkpoints += usize::from(history.checkpoint_if_due().await?);
            }
            assert_eq!(checkpoints, 2);
            let known = history.known();
            let reopened = History::open(&store, &number_source()).await?;
            let loaded = reopened.known();
            assert_eq!(loaded.files(), known.files());
            assert_eq!((loaded.version(), loaded.end()), (known.version(), known.end()));
            assert_eq!(loaded.max_event_times_us(), known.max_event_times_us());

            let table = store.path(&layout::history("Ed/its")?);
            for orphan in ["0-a.parquet", "0-b.parquet.staged-1", "_delta_log/00000000000000000141.json.staged-2"] {
                let path = table.parts().chain(object_store::path::Path::from(orphan).parts()).collect();
                store.put(&path, bytes::Bytes::from_static(b"torn")).await?;
            }
            let reopened = History::open(&store, &number_source()).await?;
            assert_eq!(reopened.delete_orphans().await?, 3);
            assert_eq!(reopened.delete_orphans().await?, 0);
            reopened.writer(EncodeOptions::history()).append(&append([140, 0], [141, 0])?).await?;
            assert_eq!(count(&reopened.known()).await?, 141);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_predicate_prunes_files_but_never_a_row_that_meets_it() -> Result<()> {
        let columns =
            Schema::new(vec![Field::new("x", DataType::Float64, true), Field::new("n", DataType::Int64, true)]);
        let source = SourceDefinition::new("floats", "", Arc::new(columns));
        let history = History::open(&Store::in_memory()?, &source).await?;
        let writer = history.writer(EncodeOptions::history());
        for (start, x) in [(0_u64, [1.0, f64::NAN]), (2, [2.0, 9.0])] {
            let n = Int64Array::from_iter_values([start as i64; 2]);
            let batches =
                vec![events(&source, 0, start, vec![Arc::new(Float64Array::from_iter_values(x)), Arc::new(n)])?];
            let (start, end) = (Position::new(vec![Offset(start)]), Position::new(vec![Offset(start + 2)]));
            writer.append(&Append { batches, start, end, max_event_times_us: vec![], gaps: vec![] }).await?;
        }
        let snapshot = history.known();
        let rows = snapshot.rows(snapshot.files().to_vec());
        let greater = |name, value| -> Result<_> {
            let column = col(name, snapshot.schema())?;
            Ok(Some(Arc::new(BinaryExpr::new(column, Operator::Gt, value)) as _))
        };
        let nan = read(&rows, 1, greater("x", lit(5.0_f64))?).await?;
        assert_eq!(nan.num_rows(), 4, "NaN > 5, so the first file must be read");
        let pruned = read(&rows, 1, greater("n", lit(1_i64))?).await?;
        assert_eq!(pruned.num_rows(), 2, "the first file cannot have n > 1");
        Ok(())
    }

    #[tokio::test]
    async fn two_readers_of_one_topic_bring_each_event_once_wherever_they_cut() -> Result<()> {
        let store = Store::in_memory()?;
        let source = SourceDefinition { connector: Connector::DeadLetters { of: "t".into() }, ..number_source() };
        let (first, second) = (History::open(&store, &source).await?, History::open(&store, &source).await?);
        let options = EncodeOptions::history();
        first.writer(options.clone()).append(&append([0, 0], [4, 2])?).await?;
        // The other has cut later in one partition and earlier in the other.
        let appended = second.writer(options).append(&append([0, 0], [3, 5])?).await?;
        assert_eq!(appended.end, at([4, 5]));
        let latest = first.latest().await?;
        assert_eq!((latest.end(), count(&latest).await?), (&at([4, 5]), 9));
        Ok(())
    }

    #[tokio::test]
    async fn divided_files_give_every_row_once() -> Result<()> {
        let source = number_source();
        let history = History::open(&Store::in_memory()?, &source).await?;
        let options = EncodeOptions {
            compression: parquet::basic::Compression::UNCOMPRESSED,
            row_group_rows: 100_000,
            ..EncodeOptions::history()
        };
        let rows = 900_000_u64;
        history.writer(options).append(&append([0, 0], [rows, 0])?).await?;
        let snapshot = history.known();
        for partitions in [1, 2, 5] {
            let read = read(&snapshot.rows(snapshot.files().to_vec()), partitions, None).await?;
            let sum = arrow::compute::sum(read.column(0).as_primitive::<Int64Type>());
            assert_eq!((read.num_rows() as u64, sum), (rows, Some((rows * (rows - 1) / 2) as i64)), "{partitions}");
        }
        Ok(())
    }
}
