//! Every fault point of the platform: where it is, in words, and what a life needs to get there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// A named step at which the process can be told to die.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) name: &'static str,
    /// What was the last thing done when the process dies here.
    pub(super) meaning: &'static str,
    pub(super) needs: Needs,
}

/// What a life needs to be sure to reach a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Load; it may be reached so many times before it kills.
    Load(u64),
    /// A start; it may be reached so many times before it kills.
    Start(u64),
    /// A start on an empty data folder; it may be reached so many times before it kills.
    EmptyFolder(u64),
    /// A definition that has changed since the last life.
    ChangedView,
    /// Files that the last life wrote and never committed.
    Orphans,
}

use Needs::{ChangedView, EmptyFolder, Load, Orphans, Start};

pub(super) const POINTS: &[Point] = &[
    point("log.after_open", EmptyFolder(1), "the log's store exists, without a version"),
    point("log.after_register", EmptyFolder(1), "the source's log is registered"),
    point("log.before_write", Load(20), "a group of requests has its offsets"),
    point("log.after_write", Load(20), "the group is durable, and nobody knows"),
    point("log.before_answer", Load(20), "its events can be read; no request is answered"),
    point("log.before_trim", Load(3), "the history has the events; the log still does"),
    point("log.after_trim", Load(3), "both know that the log has them no more"),
    point("history.before_files", Load(4), "a commit starts"),
    point("history.after_files", Load(4), "Parquet files that no commit names"),
    point("history.after_commit", Load(4), "files and offsets are committed; the source task does not know"),
    point("table.after_create", EmptyFolder(8), "a table's first commit exists"),
    point("table.before_checkpoint", Load(1), "a Delta checkpoint is due"),
    point("table.after_checkpoint", Load(1), "the checkpoint is written; old commits are not deleted"),
    point("table.before_orphans", Orphans, "the start has found files that no commit names"),
    point("store.after_stage", Load(20), "an object is written under another name"),
    point("store.after_link", Load(20), "the object has its name too, which is not yet synced"),
    point("store.between_deletes", Load(3), "some superseded files are deleted"),
    point("source.after_apply", Load(20), "the views have events that no snapshot shows"),
    point("source.after_cut", Load(4), "the segments are closed; no commit has begun"),
    point("source.after_commit", Load(4), "the source task knows of the commit; the log is not trimmed"),
    point("source.before_install", Load(3), "runs are merged"),
    point("source.after_install", Load(3), "the merged run has replaced its inputs"),
    point("source.before_supersede", Load(3), "a batch view is published; realtime still answers"),
    point("source.after_supersede", Load(3), "the superseded segments are released"),
    point("batch.before_states", Load(3), "a run knows its history version"),
    point("batch.after_state_file", Load(3), "one state file is written"),
    point("batch.after_states", Load(3), "all state files are written; nothing is audited"),
    point("batch.before_publish", Load(3), "the handoff is audited"),
    point("batch.after_publish", Load(3), "files and boundary are committed; nobody has switched"),
    point("batch.after_activate", ChangedView, "the catalog names the new definition; the old one answers"),
    point("batch.after_switch", Load(3), "the new batch view answers; its predecessor's files are there"),
    point("batch.before_sweep", Load(3), "superseded files are about to be deleted"),
    point("catalog.before_write", ChangedView, "a new definition is published; the catalog names the old one"),
    point("catalog.after_write", ChangedView, "the catalog is replaced"),
    point("checkpoint.before_manifest", Load(3), "new runs of a realtime view are in files that no manifest names"),
    point("checkpoint.before_cleanup", Load(3), "the manifest names the new runs; the replaced ones are still there"),
    point("start.after_history", Start(1), "the history is open and its orphans are gone"),
    point("start.after_view", Start(7), "one view is rebuilt from the history"),
    point("start.after_sources", Start(1), "the source's task runs; builds have not started"),
    point("start.before_listening", Start(1), "everything runs; nobody can ask"),
];

const fn point(name: &'static str, needs: Needs, meaning: &'static str) -> Point {
    Point { name, meaning, needs }
}

#[test]
fn every_fault_point_of_the_source_tree_is_in_the_table() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut in_source = BTreeSet::new();
    for folder in ["src", "shared/src", "batch-layer/src", "speed-layer/src", "serving-layer/src"] {
        for file in rust_files(&root.join(folder))? {
            let text = fs::read_to_string(file)?;
            let names = text.split("fault::point(\"").skip(1).filter_map(|rest| rest.split('"').next());
            in_source.extend(names.map(str::to_owned));
        }
    }
    let in_table: BTreeSet<String> = POINTS.iter().map(|point| point.name.to_owned()).collect();
    ensure!(in_table.len() == POINTS.len(), "a point is in the table twice");
    // Those of the client are the business of the tests of `watershed ingest`.
    in_source.retain(|name| !name.starts_with("ingest."));
    ensure!(in_source == in_table, "only in one of both: {:?}", in_source.symmetric_difference(&in_table));
    Ok(())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
