#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::error::Error;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Schema;
use datafusion::physical_plan::collect;
use watershed_shared::plan::{RowScan, RowSource};
use watershed_shared::position::{Offset, Position};

use super::*;
use crate::segment::RealtimeStates;

type Outcome = std::result::Result<(), Box<dyn Error>>;

fn at(offset: u64) -> Position {
    Position::new(vec![Offset(offset), Offset(2 * offset)])
}

fn schema() -> SchemaRef {
    let columns: Vec<(&str, ArrayRef)> =
        vec![("k0", Arc::new(StringArray::from(vec!["a"]))), ("s0", Arc::new(Int64Array::from(vec![1])))];
    RecordBatch::try_from_iter(columns).map_or_else(|_| Arc::new(Schema::empty()), |batch| batch.schema())
}

fn run(first: i64, rows: i64) -> Run {
    let keys = StringArray::from_iter_values((first..first + rows).map(|key| format!("key {key}")));
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(Int64Array::from_iter_values(first..first + rows))];
    let batch = RecordBatch::try_new(schema(), columns).unwrap();
    Run::pack(&schema(), &[batch.slice(0, 1), batch.slice(1, rows as usize - 1)]).unwrap().unwrap()
}

fn segment(start: u64, end: u64, runs: Vec<Run>) -> Segment {
    Segment { start: at(start), end: at(end), runs }
}

fn rows(segments: &[Segment]) -> Vec<(Position, Position, Vec<RecordBatch>)> {
    let rows = segments.iter().map(|segment| {
        let all = segment.runs.iter().flat_map(|run| run.states().unwrap());
        let all = arrow::compute::concat_batches(&schema(), all).unwrap();
        (segment.start.clone(), segment.end.clone(), vec![all])
    });
    rows.collect()
}

/// The paths of all files.
async fn files(store: &CheckpointStore) -> Vec<String> {
    let mut files: Vec<String> =
        store.objects.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap();
    files.sort();
    files
}

#[tokio::test]
async fn segments_come_back_from_their_boundary_on() -> Outcome {
    let folder = tempfile::tempdir()?;
    let store = CheckpointStore::open(&folder.path().join("realtime"))?;
    let segments = vec![
        segment(0, 10, vec![run(0, 100_000), run(5, 7)]),
        segment(10, 20, vec![run(10, 3)]),
        segment(20, 30, Vec::new()),
    ];
    store.of("v/1", "d", &schema()).save(&segments).await?;
    for (boundary, expected) in [(0, &segments[..]), (10, &segments[1..]), (20, &segments[2..]), (30, &[])] {
        let loaded = store.of("v/1", "d", &schema()).load(&Boundary(at(boundary)), usize::MAX).await?;
        assert_eq!(rows(&loaded), rows(expected), "from {boundary}");
    }
    assert_eq!(files(&store).await, ["v%2F1/d/manifest"], "files of superseded segments are deleted");
    assert!(store.of("other", "d", &schema()).load(&Boundary(at(0)), usize::MAX).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_boundary_that_is_no_cut_of_the_checkpoint_finds_nothing() -> Outcome {
    let store = CheckpointStore::in_memory();
    store.of("v", "d", &schema()).save(&[segment(5, 10, vec![run(0, 3)]), segment(10, 20, vec![run(3, 3)])]).await?;
    for boundary in [0, 7, 15] {
        let copy = store.of("v", "d", &schema());
        assert!(copy.load(&Boundary(at(boundary)), usize::MAX).await?.is_empty(), "from {boundary}");
        assert_eq!(files(&store).await, ["v/d/manifest"]);
        copy.save(&[segment(5, 10, vec![run(0, 3)]), segment(10, 20, vec![run(3, 3)])]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_run_is_written_once_and_deleted_with_its_last_segment() -> Outcome {
    let store = CheckpointStore::in_memory();
    let copy = store.of("v", "d", &schema());
    let (first, second, merged) = (run(0, 3), run(3, 3), run(0, 6));
    copy.save(&[segment(0, 10, vec![first.clone()])]).await?;
    let written = store.objects.head(&copy.run_path(first.id)).await?.e_tag;
    copy.save(&[segment(0, 10, vec![first.clone()]), segment(10, 20, vec![second])]).await?;
    assert_eq!(store.objects.head(&copy.run_path(first.id)).await?.e_tag, written);
    copy.save(&[segment(0, 20, vec![merged.clone()])]).await?;
    assert_eq!(files(&store).await, [format!("v/d/{}.arrow", merged.id), "v/d/manifest".to_owned()]);
    store.retain(&[("v".to_owned(), "d".to_owned())]).await?;
    assert_eq!(files(&store).await.len(), 2);
    store.retain(&[]).await?;
    assert!(files(&store).await.is_empty());
    Ok(())
}

#[tokio::test]
async fn damage_is_named_and_the_checkpoint_can_be_written_anew() -> Outcome {
    let store = CheckpointStore::in_memory();
    let segments = [segment(0, 10, vec![run(0, 1000)])];
    let run_path = Path::from(format!("v/d/{}.arrow", segments[0].runs[0].id));
    for path in [run_path, Path::from("v/d/manifest")] {
        store.of("v", "d", &schema()).save(&segments).await?;
        let whole = store.objects.get(&path).await?.bytes().await?;
        for place in (0..whole.len()).step_by(whole.len().div_ceil(50)) {
            let mut flipped = whole.to_vec();
            flipped[place] ^= 1;
            for content in [flipped, whole[..place].to_vec()] {
                store.objects.put(&path, PutPayload::from(content)).await?;
                let error = store.of("v", "d", &schema()).load(&Boundary(at(0)), usize::MAX).await.unwrap_err();
                assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
                assert!(error.to_string().contains(path.as_ref()), "{error}");
            }
        }
        store.of("v", "d", &schema()).save(&segments).await?;
        assert_eq!(rows(&store.of("v", "d", &schema()).load(&Boundary(at(0)), usize::MAX).await?), rows(&segments));
    }
    Ok(())
}

#[tokio::test]
async fn an_inspection_tells_damage_gaps_and_files_without_a_name() -> Outcome {
    let store = CheckpointStore::in_memory();
    let inspect = async || store.inspect(&|_| {}).await.map(|mut reports| reports.pop().unwrap());
    let segments = [segment(5, 10, vec![run(0, 30)]), segment(10, 20, vec![run(30, 30)])];
    store.of("v/1", "d", &schema()).save(&segments).await?;
    let report = inspect().await?;
    assert!(report.is_of("v/1", "d") && report.damages.is_empty() && report.unnamed == (0, 0));
    assert_eq!(report.end(), Some(&at(20)));
    let fits = [0, 5, 7, 10, 15, 20, 30].map(|boundary| report.fits(&Boundary(at(boundary))));
    assert_eq!(fits, [false, true, false, true, false, true, true]);

    let folder = folder("v/1", "d");
    store.objects.put(&folder.clone().join("99.arrow"), PutPayload::from_static(b"left")).await?;
    store.objects.put(&run_path(&folder, segments[0].runs[0].id), PutPayload::from_static(b"torn")).await?;
    let report = inspect().await?;
    assert_eq!((report.damages.len(), report.unnamed), (1, (1, 4)));
    store.objects.put(&manifest_path(&folder), PutPayload::from_static(b"torn")).await?;
    assert!(inspect().await?.damages[0].to_string().contains("manifest"));

    store.remove(&report.folder).await?;
    assert!(files(&store).await.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_missing_run_is_damage() -> Outcome {
    let store = CheckpointStore::in_memory();
    let segments = [segment(0, 10, vec![run(0, 10)])];
    store.of("v", "d", &schema()).save(&segments).await?;
    store.objects.delete(&Path::from(format!("v/d/{}.arrow", segments[0].runs[0].id))).await?;
    let error = store.of("v", "d", &schema()).load(&Boundary(at(0)), usize::MAX).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    Ok(())
}

#[tokio::test]
async fn runs_that_do_not_fit_into_memory_are_read_from_disk_and_stay_until_nobody_reads_them() -> Outcome {
    let store = CheckpointStore::in_memory();
    let (small, large) = (run(0, 10), run(10, 200_000));
    let segments = [segment(0, 10, vec![large.clone(), small.clone()])];
    store.of("v", "d", &schema()).save(&segments).await?;
    let copy = store.of("v", "d", &schema());
    let loaded = copy.load(&Boundary(at(0)), 100_000).await?;
    let in_memory: Vec<bool> = loaded[0].runs.iter().map(Run::is_in_memory).collect();
    assert_eq!(in_memory, [false, true]);

    let mut states = RealtimeStates::default();
    loaded[0].add_states(&mut states);
    let (file, rows) = states.files[0].clone();
    assert_eq!(rows, 200_000);
    let scan = RowScan { projection: Some(vec![1, 0]), predicate: None, target_partitions: 1, runtime: Arc::default() };
    for _ in 0..2 {
        let read = collect(file.scan(scan.clone())?, Arc::default()).await?;
        let read = arrow::compute::concat_batches(&read[0].schema(), &read)?;
        assert_eq!(read, large.states().unwrap()[0].project(&[1, 0])?);
    }

    // Merged with others it is not needed any more, except by whoever still has it.
    copy.save(&[segment(0, 10, vec![small.clone()])]).await?;
    assert_eq!(files(&store).await.len(), 3);
    drop((file, states, loaded));
    copy.save(&[segment(0, 10, vec![small])]).await?;
    assert_eq!(files(&store).await.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_damaged_run_on_disk_is_an_error_and_no_answer() -> Outcome {
    let store = CheckpointStore::in_memory();
    let copy = store.of("v", "d", &schema());
    let large = run(0, 1000);
    copy.save(&[segment(0, 10, vec![large.clone()])]).await?;
    let file = copy.file(large.id).ok_or("not there")?;
    let whole = store.objects.get(file.path()).await?.bytes().await?;
    let scan = RowScan { projection: None, predicate: None, target_partitions: 1, runtime: Arc::default() };
    for place in (0..whole.len()).step_by(whole.len().div_ceil(50)) {
        let mut flipped = whole.to_vec();
        flipped[place] ^= 16;
        for content in [flipped, whole[..place].to_vec()] {
            store.objects.put(file.path(), PutPayload::from(content)).await?;
            let error = collect(file.scan(scan.clone())?, Arc::default()).await.unwrap_err();
            assert!(error.to_string().contains("is damaged"), "{error}");
        }
    }
    Ok(())
}
