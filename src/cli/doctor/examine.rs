//! Checks a place: log, histories, batch views, catalog, and each against the others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use watershed::platform::with_dead_letters;
use watershed_batch_layer::inspect::{Finding, FormatVersion, HistoryReport, Inspection, Repair, Severity, repair};
use watershed_batch_layer::{Catalog, Store};
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::error::{Error as SharedError, ErrorKind};
use watershed_shared::log::{LogPartition, LogReport, LogStore};
use watershed_shared::plan::{STATE_FORMAT_VERSION, compile};
use watershed_shared::position::{Boundary, Offset, PartitionId};
use watershed_shared::source::SourceDefinition;
use watershed_speed_layer::{CheckpointReport, CheckpointStore};

use super::place::Place;

/// What was found in a place.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    pub(super) findings: Vec<Found>,
    pub(super) formats: Vec<FormatVersion>,
    pub(super) log: LogReport,
    pub(super) bytes: u64,
}

/// A finding, and how it can be repaired, if it can.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) finding: Finding,
    pub(super) fix: Option<Fix>,
}

/// A repair of the store, or of what lies beside it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fix {
    Store(Repair),
    /// Lets a log open that has lost its newest events.
    ForgetAcknowledgement(PathBuf),
    /// Makes the next start compute a realtime view anew.
    DropCheckpoint {
        folder: String,
    },
}

/// Checks everything.
///
/// # Errors
/// When a platform has the folder open, or the store does not answer: then nothing can be said.
pub(super) async fn examine(place: &Place) -> Result<Diagnosis> {
    let mut diagnosis = Diagnosis::default();
    let bar = progress_bar();
    // Held to the end: no platform can start meanwhile.
    let _log = diagnosis.examine_log(place, &bar).await?;
    match place.open_store()? {
        Some(store) => diagnosis.examine_store(place, &store, &bar).await?,
        None if diagnosis.log.partitions.is_empty() => {
            diagnosis.find(Severity::Note, "there is nothing stored yet", place.data.display(), "nothing", None);
        }
        None => {
            let (what, action) =
                ("there is a log but no store", "restore the folder \"store\" that belongs to the log");
            diagnosis.find(Severity::Error, what, &place.store, action, None);
        }
    }
    bar.finish_and_clear();
    diagnosis.findings.sort_by_key(|found| std::cmp::Reverse(found.finding.severity));
    Ok(diagnosis)
}

impl Diagnosis {
    fn find(
        &mut self,
        severity: Severity,
        what: impl Into<String>,
        at: impl ToString,
        action: impl Into<String>,
        fix: Option<Fix>,
    ) {
        let finding =
            Finding { severity, what: what.into(), place: at.to_string(), action: action.into(), repair: None };
        self.findings.push(Found { finding, fix });
    }

    /// Opens the log, which keeps platforms out, and reads all of it.
    async fn examine_log(&mut self, place: &Place, bar: &ProgressBar) -> Result<Option<LogStore>> {
        let folder = place.log();
        if !folder.is_dir() {
            self.find(Severity::Note, "there is no log yet", folder.display(), "nothing", None);
            return Ok(None);
        }
        bar.set_message("log");
        let (opened, bar) = (folder.clone(), bar.clone());
        let examined = tokio::task::spawn_blocking(move || {
            let store = LogStore::open(opened)?;
            let report = store.verify(&mut |bytes| bar.inc(bytes));
            Ok::<_, SharedError>((store, report))
        });
        match examined.await.context("the check of the log stopped")? {
            Ok((store, report)) => {
                self.formats
                    .push(FormatVersion { what: "log".to_owned(), version: LogStore::FORMAT_VERSION.to_string() });
                self.log = report;
                for damage in self.log.damages.clone() {
                    let to = damage.to.map_or_else(|| "the end".to_owned(), |to| to.to_string());
                    let what = format!("events from offset {} to {to} cannot be read: {}", damage.from, damage.reason);
                    let at = format!("log of source \"{}\", partition {}", damage.source, damage.partition);
                    let action =
                        "restore the folder \"log\" from a copy; events that the history has too are safe there";
                    self.find(Severity::Error, what, at, action, None);
                }
                if let Some(first) = self.log.damaged_receipts.first() {
                    let what = format!(
                        "{} receipts of requests are damaged, the first: {first}; a request that is repeated and needs one is \
                         refused",
                        self.log.damaged_receipts.len()
                    );
                    let action = "nothing, if no client repeats requests from before; receipts are forgotten with time";
                    self.find(Severity::Warning, what, folder.display(), action, None);
                }
                Ok(Some(store))
            }
            Err(SharedError::Corrupt { reason, .. }) => {
                let forget = LogStore::acknowledgement_file(&folder);
                let is_short = reason.contains("newest events are lost") && forget.exists();
                let (action, fix) = match is_short {
                    true => (
                        "restore the folder \"log\" from a copy; or repair it: the log then ends earlier, and what was \
                         acknowledged after its end and is not in the history is lost",
                        Some(Fix::ForgetAcknowledgement(forget)),
                    ),
                    false => (
                        "restore the folder \"log\" from a copy; what the history has is safe, later events are in the log only",
                        None,
                    ),
                };
                self.find(Severity::Error, reason, folder.display(), action, fix);
                Ok(None)
            }
            Err(error @ SharedError::Log { .. }) if error.to_string().contains("lock") => {
                bail!("a platform has \"{}\" open; stop it first ({error})", place.data.display())
            }
            Err(error) if error.kind() == ErrorKind::Retryable => Err(error.into()),
            Err(error) => {
                self.find(Severity::Error, error.to_string(), folder.display(), "see what is said of it", None);
                Ok(None)
            }
        }
    }

    async fn examine_store(&mut self, place: &Place, store: &Store, bar: &ProgressBar) -> Result<()> {
        let progress = bar.clone();
        let progress = move |bytes| progress.inc(bytes);
        let mut inspection = Inspection::start(store, &progress).await?;
        self.bytes = inspection.bytes();
        bar.set_length(self.bytes + bar.position());
        let catalog = inspection.catalog().await?;
        bar.set_message("histories");
        let histories = inspection.histories().await?;
        bar.set_message("batch views");
        let used = used_definitions(place, catalog.as_ref()).await;
        let boundaries = inspection.views(&used, &histories).await?;
        let (findings, formats) = inspection.finish();
        self.findings
            .extend(findings.into_iter().map(|finding| Found { fix: finding.repair.clone().map(Fix::Store), finding }));
        self.formats.extend(formats);
        self.formats.push(FormatVersion { what: "states".to_owned(), version: STATE_FORMAT_VERSION.to_owned() });
        self.compare_logs(&histories);
        self.compare_catalog(place, catalog.as_ref());
        bar.set_message("realtime");
        self.examine_checkpoints(place, &Layers { used, histories, boundaries }, bar).await
    }

    /// Checks the copies of realtime views: their bytes, and that their segments fit the batch views' boundaries.
    async fn examine_checkpoints(&mut self, place: &Place, layers: &Layers, bar: &ProgressBar) -> Result<()> {
        let folder = place.realtime();
        if !folder.is_dir() {
            return Ok(());
        }
        let progress = |bytes| {
            bar.inc_length(bytes);
            bar.inc(bytes);
        };
        let action = "repair it: it is deleted, and the next start computes the realtime view from history and log; or \
                      start, which does the same";
        for report in CheckpointStore::open(&folder)?.inspect(&progress).await? {
            let at = folder.join(&report.folder);
            for damage in &report.damages {
                let fix = Fix::DropCheckpoint { folder: report.folder.clone() };
                self.find(Severity::Warning, damage.to_string(), at.display(), action, Some(fix));
            }
            if let Some(what) = layers.checkpoint_fault(&report).filter(|_| report.damages.is_empty()) {
                let action = "nothing: the next start computes the realtime view from history and log";
                self.find(Severity::Note, what, at.display(), action, None);
            }
            if let (files @ 1.., bytes) = report.unnamed {
                let what = format!("{files} files of {} belong to nothing", HumanBytes(bytes));
                self.find(Severity::Note, what, at.display(), "nothing: the next start deletes them", None);
            }
        }
        Ok(())
    }

    /// Every log must begin at or before its history's end, and end at or after it.
    fn compare_logs(&mut self, histories: &BTreeMap<String, HistoryReport>) {
        let unknown = HistoryReport::default();
        for log in self.log.partitions.clone() {
            let history = histories.get(&log.source).unwrap_or(&unknown);
            // A history that cannot be read has been reported.
            let Some(end) = history
                .end
                .as_ref()
                .map(|end| end.get(log.partition))
                .or_else(|| (!histories.contains_key(&log.source)).then_some(Offset::BEGINNING))
            else {
                continue;
            };
            let at = format!("log of source \"{}\", partition {}", log.source, log.partition);
            let action = "restore the folders \"log\" and \"store\" that belong together from a copy";
            if log.start > end {
                let what =
                    format!("events from offset {end} to {} are neither in the log nor in the history", log.start);
                self.find(Severity::Error, what, at, action, None);
            } else if log.end < end {
                let what = format!(
                    "the log ends at offset {}, but the history at {end}: offsets would be given twice",
                    log.end
                );
                self.find(Severity::Error, what, at, action, None);
            }
        }
        for (source, history) in histories {
            let has_log = self.log.partitions.iter().any(|log| log.source == *source);
            let is_empty = history.end.as_ref().is_none_or(|end| end.offsets().iter().all(|offset| offset.0 == 0));
            if !has_log
                && !is_empty
                && !history.is_sparse
                && self.findings.iter().all(|found| !found.finding.place.ends_with("/log"))
            {
                let action =
                    "restore the folder \"log\" that belongs to this store: without it offsets would be given twice";
                self.find(Severity::Error, "the history has no log", format!("source \"{source}\""), action, None);
            }
            for (partition, range) in &history.damaged {
                if let Some(log) = self.log.partitions.iter().find(|log| holds(log, source, *partition, range.start()))
                {
                    let what = format!(
                        "the log still holds the events of a damaged file from offset {}",
                        log.start.max(range.start())
                    );
                    let at = format!("log of source \"{source}\", partition {partition}");
                    self.find(Severity::Note, what, at, "keep the folder \"log\" until the history is restored", None);
                }
            }
        }
    }

    fn compare_catalog(&mut self, place: &Place, catalog: Option<&Catalog>) {
        let (Some(project), Some(catalog)) = (&place.project, catalog) else { return };
        // Without a definition that a start would refuse, there is nothing to compare.
        let Ok(statements) = with_dead_letters(project.statements.clone()) else { return };
        let is_defined = |name: &str| {
            statements.iter().any(|statement| matches!(statement, Statement::View(view) if view.name == name))
        };
        for name in catalog.definitions().keys().filter(|name| !is_defined(name)) {
            let what = format!("view \"{name}\" is in the catalog but not in the project");
            self.find(
                Severity::Note,
                what,
                "catalog",
                "nothing: the next start forgets it; its batch views stay",
                None,
            );
        }
    }
}

fn holds(log: &LogPartition, source: &str, partition: PartitionId, offset: Offset) -> bool {
    log.source == source && log.partition == partition && log.end > offset.max(log.start)
}

/// What histories and batch views say of the places where realtime views must begin and end.
struct Layers {
    used: BTreeMap<(String, String), String>,
    histories: BTreeMap<String, HistoryReport>,
    boundaries: BTreeMap<(String, String), Option<Boundary>>,
}

impl Layers {
    /// Why a start cannot use a checkpoint whose bytes are right; what cannot be told is no fault.
    fn checkpoint_fault(&self, report: &CheckpointReport) -> Option<String> {
        let (key, source) = self.used.iter().find(|((view, definition), _)| report.is_of(view, definition))?;
        // A view that has had no batch run begins with the first event.
        let boundary = self.boundaries.get(key).map_or_else(|| Some(Boundary::default()), Clone::clone)?;
        if !report.fits(&boundary) {
            return Some(format!("its segments do not begin at the batch view's boundary {boundary}"));
        }
        let history = self.histories.get(source)?.end.as_ref()?;
        let end = report.end().filter(|end| !history.covers(end))?;
        Some(format!("it ends at {end}, beyond the history's end {history}"))
    }
}

/// Which source each definition reads that is active or in the project, by view and name of the definition's folder.
async fn used_definitions(place: &Place, catalog: Option<&Catalog>) -> BTreeMap<(String, String), String> {
    let mut used = BTreeMap::new();
    let folder = |id: &str| format!("{id}_{STATE_FORMAT_VERSION}");
    for (name, active) in catalog.iter().flat_map(|catalog| catalog.definitions()) {
        if let Ok(statements) = parse_definitions(&active.sql)
            && let Some(Statement::View(view)) = statements.into_iter().next()
        {
            used.insert((name.clone(), folder(&active.definition_id)), view.source);
        }
    }
    let statements = place.project.iter().flat_map(|project| &project.statements);
    let sources: BTreeMap<&str, &SourceDefinition> = statements
        .clone()
        .filter_map(|statement| match statement {
            Statement::Source(source) => Some((source.name.as_str(), source)),
            Statement::View(_) | Statement::Sink(_) => None,
        })
        .collect();
    for statement in statements {
        // What does not compile is for `watershed check` to say.
        if let Statement::View(view) = statement
            && let Some(source) = sources.get(view.source.as_str())
            && let Ok(plan) = compile(view, Arc::new((*source).clone())).await
        {
            used.insert((view.name.clone(), folder(plan.id.as_str())), view.source.clone());
        }
    }
    used
}

impl Fix {
    /// What it does, in words that a person can agree to.
    pub(super) fn describe(&self) -> String {
        match self {
            Fix::Store(repair) => repair.describe(),
            Fix::DropCheckpoint { folder } => {
                format!("delete the realtime checkpoint {folder}; the next start computes it from history and log")
            }
            Fix::ForgetAcknowledgement(file) => {
                format!("delete {}, so that the log opens without its newest events, which stay lost", file.display())
            }
        }
    }

    /// Whether it makes way for a new catalog.
    pub(super) fn is_catalog(&self) -> bool {
        matches!(self, Fix::Store(Repair::Delete(paths)) if paths.iter().any(|path| path.as_ref().ends_with("catalog/views.json")))
    }

    pub(super) async fn carry_out(&self, place: &Place) -> Result<()> {
        match self {
            Fix::Store(fix) => {
                let store = place.open_store()?.context("the store is gone")?;
                Ok(repair(&store, fix).await?)
            }
            Fix::ForgetAcknowledgement(file) => Ok(std::fs::remove_file(file)?),
            Fix::DropCheckpoint { folder } => Ok(CheckpointStore::open(&place.realtime())?.remove(folder).await?),
        }
    }
}

/// A bar on standard error; invisible when that is no terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("checking {msg:12} {bar:30} {bytes}/{total_bytes}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

impl Diagnosis {
    /// What was looked at, in a sentence.
    pub(super) fn describe(&self) -> String {
        let count = |severity| self.findings.iter().filter(|found| found.finding.severity == severity).count();
        let events: u64 = self.log.partitions.iter().map(|log| log.end.0.saturating_sub(log.start.0)).sum();
        format!(
            "checked {} in the store and {events} events in the log: {} errors, {} warnings, {} notes",
            HumanBytes(self.bytes),
            count(Severity::Error),
            count(Severity::Warning),
            count(Severity::Note),
        )
    }
}
