//! A simulation that has never found anything proves nothing: each of these defects, put into the platform by name, must
//! be found within a few seeds.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Name of the defect, and what the code does then.
const DEFECTS: &[(&str, &str)] = &[
    ("boundary.off_by_one", "a restored boundary lies one event too far"),
    ("dispatch.before_fsync", "events are applied before they are durable"),
    ("acknowledge.before_fsync", "events are acknowledged although their write failed"),
    ("cut.one_side", "a cut closes the segments of the history and not of the views"),
    ("supersede.keeps_old", "segments answer on beside the batch view that supersedes them"),
    ("commit.retried_blindly", "a commit is made again without a look at whether it has happened"),
    ("trim.before_commit", "the log forgets events before the history has them"),
    ("orphans.unfenced", "files are deleted that a commit on its way to the store names"),
    ("sweep.while_read", "state files are deleted while the snapshot before reads them"),
];

/// Each is found in far fewer; a seed takes some hundredths of a second.
const SEEDS: &str = "400";

#[test]
fn every_defect_is_found() -> Result<()> {
    for (defect, meaning) in DEFECTS {
        let found = Command::new(std::env::current_exe()?)
            .args(["simulation::simulated_faults_and_crashes_keep_the_law", "--exact", "--nocapture"])
            .env("WATERSHED_DEFECT", defect)
            .env("WATERSHED_SIMULATION_SCHEDULES", SEEDS)
            .env("WATERSHED_SHRINKING_SECONDS", "0")
            .env_remove("WATERSHED_SIMULATION_SEED")
            .output()?;
        let printed = String::from_utf8_lossy(&found.stderr);
        ensure!(!found.status.success(), "{SEEDS} seeds did not find \"{defect}\": {meaning}");
        let broken = printed.lines().find(|line| line.contains("the law is broken"));
        let broken = broken.with_context(|| format!("\"{defect}\" ended the test otherwise: {printed}"))?;
        println!("{defect}: {broken}");
    }
    Ok(())
}
