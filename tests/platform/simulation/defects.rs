//! A simulation that has never found anything proves nothing: each of these defects, put into the platform by name, must
//! be found within a few seeds.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Name of the defect, what the code does then, and the first seed that is tried: seeds that find the rare ones are some
/// hundreds to thousands apart.
const DEFECTS: &[(&str, &str, &str)] = &[
    ("boundary.off_by_one", "a restored boundary lies one event too far", "0"),
    ("dispatch.before_fsync", "events are applied before they are durable", "0"),
    ("acknowledge.before_fsync", "events are acknowledged although their write failed", "0"),
    ("cut.one_side", "a cut closes the segments of the history and not of the views", "0"),
    ("supersede.keeps_old", "segments answer on beside the batch view that supersedes them", "0"),
    ("commit.retried_blindly", "a commit is made again without a look at whether it has happened", "0"),
    ("trim.before_commit", "the log forgets events before the history has them", "0"),
    ("orphans.unfenced", "files are deleted that a commit on its way to the store names", "560"),
    ("sweep.while_read", "state files are deleted while the snapshot before reads them", "2640"),
];

/// So many seeds are tried; most defects are found by one of the first ten.
const SEEDS: &str = "5000";

#[test]
fn every_defect_is_found() -> Result<()> {
    for (defect, meaning, first_seed) in DEFECTS {
        let found = Command::new(std::env::current_exe()?)
            .args(["simulation::simulated_faults_and_crashes_keep_the_law", "--exact", "--nocapture"])
            .env("WATERSHED_DEFECT", defect)
            .env("WATERSHED_SIMULATION_FIRST_SEED", first_seed)
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
