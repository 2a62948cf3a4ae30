//! Files that a crash has cut short, and files that something has damaged.

use std::fs;

use super::*;

/// A store's folder as it is now, under another name.
fn copy(from: &TestFolder, name: &str) -> TestFolder {
    let copy = TestFolder::new(name);
    fs::create_dir(&copy.0).unwrap();
    for file in fs::read_dir(&from.0).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(file.path(), copy.0.join(file.file_name())).unwrap();
    }
    copy
}

fn journal(folder: &TestFolder) -> PathBuf {
    let paths = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

async fn events_in(folder: &TestFolder) -> Result<Vec<i64>> {
    let log = LogStore::open(&folder.0)?.log(&source("journal", 1))?;
    values(&log, 0).await
}

#[tokio::test]
async fn a_journal_cut_short_by_a_crash_loses_nothing_acknowledged_and_other_damage_is_refused() -> Result<()> {
    let folder = TestFolder::new("journal");
    let store = LogStore::open(&folder.0)?;
    let log = store.log(&source("journal", 1))?;
    for first in [0, 10] {
        log.append(first, vec![(P0, events(first..first + 10))]).await?;
    }
    let acknowledged = copy(&folder, "journal-acknowledged");
    log.append(20, vec![(P0, events(20..30))]).await?;
    let written = fs::read(journal(&folder)).unwrap();
    let whole = fs::read(journal(&acknowledged)).unwrap();
    assert!(written.starts_with(&whole) && written.len() > whole.len());

    // The last record was never acknowledged, and may be there in part.
    for end in (whole.len()..written.len()).step_by(41).chain([written.len()]) {
        let torn = copy(&acknowledged, "journal-torn");
        fs::write(journal(&torn), &written[..end]).unwrap();
        let expected = if end == written.len() { 30 } else { 20 };
        assert_eq!(events_in(&torn).await?, Vec::from_iter(0..expected), "cut at {end}");
    }
    let mut extended = whole.clone();
    extended.resize(whole.len() + 5000, 0);
    let torn = copy(&acknowledged, "journal-torn");
    fs::write(journal(&torn), extended).unwrap();
    assert_eq!(events_in(&torn).await?, Vec::from_iter(0..20), "a file that had grown before it was written");

    // What was acknowledged must be there, or the store does not open.
    for place in (0..whole.len()).step_by(53) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        for (changed, how) in [(flipped, "flipped"), (whole[..place].to_vec(), "cut")] {
            let damaged = copy(&acknowledged, "journal-damaged");
            fs::write(journal(&damaged), changed).unwrap();
            match events_in(&damaged).await {
                Ok(events) => assert_eq!(events, Vec::from_iter(0..20), "{how} at {place}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{how} at {place}: {error}"),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_store_without_its_journal_or_its_head_is_refused_and_not_begun_anew() -> Result<()> {
    let folder = TestFolder::new("headless");
    LogStore::open(&folder.0)?.log(&source("journal", 1))?.append(0, vec![(P0, events(0..10))]).await?;
    // What is in the journal only.
    let lost = copy(&folder, "headless-journal");
    fs::remove_file(journal(&lost)).unwrap();
    check_corrupt(LogStore::open(&lost.0), "the log in");
    drop(LogStore::open(&folder.0)?);
    for name in ["CURRENT", "MANIFEST"] {
        let lost = copy(&folder, "headless-copy");
        for file in fs::read_dir(&lost.0).unwrap().map(|entry| entry.unwrap()) {
            if file.file_name().to_string_lossy().starts_with(name) {
                fs::remove_file(file.path()).unwrap();
            }
        }
        check_corrupt(LogStore::open(&lost.0), "the log in");
    }
    Ok(())
}

#[tokio::test]
async fn verification_names_the_events_that_cannot_be_read() -> Result<()> {
    let folder = TestFolder::new("verify");
    let store = LogStore::open(&folder.0)?;
    let log = store.log(&source("verify", 2))?;
    for first in [0, 10, 20, 30] {
        log.append(first, vec![(P0, events(first..first + 10)), (P1, events(first..first + 10))]).await?;
    }
    log.trim(&position([10, 0])).await?;
    let mut bytes = 0;
    let report = store.verify(&mut |read| bytes += read);
    assert_eq!((report.damages.len(), bytes > 1000), (0, true), "{report:?}");
    let places: Vec<_> = report.partitions.iter().map(|found| (found.start.0, found.end.0, found.blocks)).collect();
    assert_eq!(places, [(10, 40, 3), (0, 40, 4)]);

    let db = &store.store.db;
    let flipped = log.log.key(P0, Offset(20)).to_bytes();
    let mut block = db.get(&flipped).unwrap().unwrap();
    block[40] ^= 1;
    db.put(&flipped, block).unwrap();
    db.delete(log.log.key(P1, Offset(10)).to_bytes()).unwrap();
    let last = log.log.key(P1, Offset(30)).to_bytes();
    db.put(&last, b"nothing like a block").unwrap();
    let damages = store.verify(&mut |_| {}).damages;
    let places: Vec<_> =
        damages.iter().map(|damage| (damage.partition, damage.from.0, damage.to.map(|to| to.0))).collect();
    assert_eq!(places, [(P0, 20, Some(30)), (P1, 10, Some(20)), (P1, 30, None)], "{damages:?}");
    Ok(())
}

#[tokio::test]
async fn verification_goes_on_behind_a_table_that_cannot_be_read() -> Result<()> {
    let folder = TestFolder::new("table");
    let log = LogStore::open(&folder.0)?.log(&source("table", 2))?;
    for first in 0..100 {
        let batch = events(100 * first..100 * first + 100);
        log.append(first, vec![(P0, batch.clone()), (P1, batch)]).await?;
    }
    drop(log);
    // Opening brings the journal into a table.
    drop(LogStore::open(&folder.0)?);
    let tables = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).max().unwrap();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle] ^= 0x10;
    fs::write(&table, bytes).unwrap();
    let store = LogStore::open(&folder.0)?;
    let report = store.verify(&mut |_| {});
    assert_eq!(report.damages.len(), 1, "{report:?}");
    let ends: Vec<_> = report.partitions.iter().map(|found| found.end.0).collect();
    assert_eq!(ends, [10_000, 10_000], "{report:?}");
    assert!(report.damages[0].to > Some(report.damages[0].from), "{report:?}");
    Ok(())
}
