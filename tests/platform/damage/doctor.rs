//! `watershed doctor` on intact and damaged folders.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use serde_json::Value;
use watershed::platform::Ports;

use super::fixture::{self, Fixture, Rows};
use super::inflict::{Damage, FileKind, files};
use super::{Outcome, outcome};

fn doctor(folder: &Path, options: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_watershed")).arg("doctor").arg(folder).args(options).output()?)
}

/// A project around a copy of the fixture's data.
fn project(data: &Path) -> Result<tempfile::TempDir> {
    let project = tempfile::TempDir::new()?;
    std::fs::write(project.path().join("watershed.toml"), "")?;
    std::fs::write(project.path().join("events.sql"), fixture::DEFINITIONS)?;
    fixture::copy_folder(data, &project.path().join("data"))?;
    Ok(project)
}

#[tokio::test]
async fn doctor_finds_nothing_in_an_intact_folder_and_every_damage_in_another() -> Result<()> {
    let fixture = Fixture::create(Rows::FEW).await?;
    let clean = doctor(project(fixture.path())?.path(), &["--format", "json"])?;
    ensure!(clean.status.code() == Some(0), "{clean:?}");
    let report: Value = serde_json::from_slice(&clean.stdout)?;
    assert_eq!((&report["clean"], report["findings"].as_array().map(Vec::len)), (&Value::Bool(true), Some(0)));

    let kinds = files(fixture.path())?;
    // What the platform can do without is not looked for.
    let unneeded = [FileKind::LogAcknowledged, FileKind::CheckpointHint];
    for (kind, paths) in kinds.iter().filter(|(kind, _)| !unneeded.contains(kind)) {
        for damage in [Damage::FlipBit, Damage::Zero] {
            let project = project(fixture.path())?;
            let Some(done) = damage.inflict(&project.path().join("data"), paths, 7)? else { continue };
            let found = doctor(project.path(), &[])?;
            ensure!(found.status.code() == Some(1), "{kind:?}: {done}: {found:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_made_again_is_repaired() -> Result<()> {
    let fixture = Fixture::create(Rows::FEW).await?;
    let kinds = files(fixture.path())?;
    let made_again = [
        FileKind::ViewFile,
        FileKind::ViewCommit,
        FileKind::HistoryCheckpoint,
        FileKind::Catalog,
        FileKind::RealtimeManifest,
        FileKind::RealtimeRun,
    ];
    for kind in made_again {
        let project = project(fixture.path())?;
        let data = project.path().join("data");
        Damage::FlipBit.inflict(&data, &kinds[&kind], 3)?;
        std::fs::write(data.join("store/history/events/000000000009-000000-left.parquet"), "x")?;
        for (options, status) in
            [(&["--repair", "--dry-run"][..], 1), (&[][..], 1), (&["--repair", "--yes"], 0), (&[], 0)]
        {
            let output = doctor(project.path(), options)?;
            ensure!(output.status.code() == Some(status), "{kind:?}, {options:?}: {output:?}");
        }
        let answered = outcome(&fixture, &data).await?;
        ensure!(matches!(answered, Outcome::Right), "{kind:?}: not right after the repair");
    }
    Ok(())
}

#[tokio::test]
async fn doctor_refuses_a_folder_that_a_platform_has_open_and_one_that_is_none() -> Result<()> {
    let fixture = Fixture::create(Rows::FEW).await?;
    let ports = Ports::open(&fixture::config(), fixture.path())?;
    let refused = doctor(fixture.path(), &[])?;
    let words = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(2) && words.contains("stop it first"), "{refused:?}");
    drop(ports);
    assert_eq!(doctor(tempfile::TempDir::new()?.path(), &[])?.status.code(), Some(2));
    Ok(())
}
