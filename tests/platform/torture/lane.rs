//! One data folder after the other, and the lives and deaths of the platforms on them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use watershed_shared::source::SourceDefinition;

use super::check::{Check, ensure_tidy};
use super::client::Client;
use super::ledger::{Counts, Ledger};
use super::load::Load;
use super::points::{Needs, POINTS, Point};
use super::process::{PATIENCE, Process};
use super::project;
use super::random::Random;

/// A data folder is replaced when so many events were sent to it: a check reads all of them.
const EVENTS_MAX: u64 = 30_000;
/// How long load may run until a fault point must have been reached; a schedule needs a second, a checkpoint 64 commits.
const REACHED_WITHIN: Duration = PATIENCE;

/// Names of kills at no point, in tables.
pub(super) const UNDER_LOAD: &str = "SIGKILL under load";
pub(super) const WHILE_STARTING: &str = "SIGKILL while starting";

/// How a life ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kill {
    /// SIGKILL under load, some time after a check.
    Anywhere { after: Duration },
    /// SIGKILL some time after the start, which may not be over by then.
    WhileStarting { after: Duration },
    /// At a fault point, when it is reached for the given time.
    At { point: &'static Point, pass: u64 },
}

impl Kill {
    /// A kill at a moment of the generator's choice.
    pub(super) fn anywhere(random: &mut Random) -> Kill {
        Kill::Anywhere { after: Duration::from_micros(random.below(600_000)) }
    }

    /// A kill in the middle of the start, or soon after.
    pub(super) fn while_starting(random: &mut Random) -> Kill {
        Kill::WhileStarting { after: Duration::from_micros(random.below(400_000)) }
    }

    /// A kill at a fault point, at a pass of the generator's choice.
    pub(super) fn at(point: &'static Point, random: &mut Random) -> Kill {
        let pass = match point.needs {
            Needs::Load(most) | Needs::Start(most) | Needs::EmptyFolder(most) => 1 + random.below(most),
            _ => 1,
        };
        Kill::At { point, pass }
    }
}

/// What a lane has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The names of the kills, in order.
    pub(super) kills: Vec<&'static str>,
    pub(super) starts: u64,
    pub(super) checks: u64,
    pub(super) answers_compared: u64,
    pub(super) folders: u64,
    /// Events of the folders that are done with.
    pub(super) counts: Counts,
}

/// A sequence of lives.
pub(super) struct Lane {
    random: Random,
    source: Arc<SourceDefinition>,
    /// The defect in force in all its processes.
    defect: Option<&'static str>,
    home: TempDir,
    ledger: Arc<Ledger>,
    /// The definition of the view that changes, and the newest that it ever had.
    variant: u64,
    newest: u64,
    /// What happened to the folder so far, for whoever reads a failure.
    story: Vec<String>,
    pub(super) seen: Seen,
}

impl Lane {
    pub(super) fn new(seed: u64, defect: Option<&'static str>) -> Result<Lane> {
        let lane = Lane {
            random: Random::new(seed),
            source: Arc::new(project::source()?),
            defect,
            home: TempDir::new()?,
            ledger: Arc::default(),
            variant: 0,
            newest: 0,
            story: Vec::new(),
            seen: Seen::default(),
        };
        lane.write_project()?;
        Ok(lane)
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// One life that ends as told; an error says what was wrong, and what led to it.
    pub(super) async fn live(&mut self, kill: Kill) -> Result<()> {
        let lived = match kill {
            Kill::Anywhere { after } => self.killed_under_load(after).await,
            Kill::WhileStarting { after } => self.killed_while_starting(after).await,
            Kill::At { point, pass } => self.killed_at(point, pass).await,
        };
        self.story.push(format!("{kill:?}"));
        let lived = self.explained(lived);
        if lived.is_ok() && self.ledger.sent() > EVENTS_MAX {
            return self.finish().await;
        }
        lived
    }

    /// Checks the folder a last time, also with everything in batch views and after clean stops; then takes a new one.
    pub(super) async fn finish(&mut self) -> Result<()> {
        if self.ledger.sent() > 0 {
            let finished = self.check_and_stop().await;
            self.explained(finished)?;
        }
        self.new_folder()
    }

    async fn check_and_stop(&mut self) -> Result<()> {
        for runs_batches in [true, false] {
            let mut process = self.start(&[])?;
            let client = self.client(&mut process).await?;
            let checked = async {
                self.check(&client, &process).await?;
                if runs_batches {
                    self.check_on(&client).batch_run_of_every_view().await?;
                    self.check(&client, &process).await?;
                }
                process.stop().await
            };
            let checked = checked.await;
            no_alarms(&process, checked)?;
        }
        Ok(())
    }

    async fn killed_under_load(&mut self, after: Duration) -> Result<()> {
        self.maybe_change_view()?;
        let mut process = self.start(&[])?;
        let client = self.client(&mut process).await?;
        let checked = self.check(&client, &process).await;
        no_alarms(&process, checked)?;
        let mut load = Load::start(&client, &self.ledger, &mut self.random);
        tokio::time::sleep(after).await;
        let running = load.ensure_running();
        process.kill().await?;
        self.seen.kills.push(UNDER_LOAD);
        let ended = load.ended().await;
        no_alarms(&process, running.and(ended))
    }

    async fn killed_while_starting(&mut self, after: Duration) -> Result<()> {
        self.maybe_change_view()?;
        let mut process = self.start(&[])?;
        tokio::time::sleep(after).await;
        process.kill().await?;
        self.seen.kills.push(WHILE_STARTING);
        no_alarms(&process, Ok(()))
    }

    async fn killed_at(&mut self, point: &'static Point, pass: u64) -> Result<()> {
        match point.needs {
            Needs::EmptyFolder(_) => Box::pin(self.finish()).await?,
            Needs::ChangedView => {
                // Without a history there is nothing to build: a new definition answers at once.
                self.killed_before("history.after_commit").await?;
                self.newest += 1;
                self.change_view(self.newest)?;
            }
            Needs::Orphans => self.killed_before("history.after_files").await?,
            Needs::Load(_) | Needs::Start(_) => {}
        }
        let mut process = self.start(&[("WATERSHED_FAULT_POINT", format!("{}:{pass}", point.name))])?;
        let load = match process.url().await? {
            Some(url) => Some(Load::start(&Client::new(url)?, &self.ledger, &mut self.random)),
            None => None,
        };
        let ended = process.ended(REACHED_WITHIN).await;
        if ended.is_err() {
            process.kill().await?;
        }
        if let Some(load) = load {
            no_alarms(&process, load.ended().await)?;
        }
        let status = ended.with_context(|| format!("{} was never reached for time {pass}", point.name))?;
        let stopped = process.stopped_at(point.name);
        ensure!(stopped, "the process ended with {status}, but not at {}:\n{}", point.name, process.output());
        self.seen.kills.push(point.name);
        Ok(())
    }

    /// A life that ends at a point so that the next one finds what that leaves.
    async fn killed_before(&mut self, point: &str) -> Result<()> {
        let point = POINTS.iter().find(|known| known.name == point).with_context(|| format!("no point {point}"))?;
        Box::pin(self.killed_at(point, 1)).await
    }

    fn start(&mut self, environment: &[(&str, String)]) -> Result<Process> {
        self.seen.starts += 1;
        let defect = self.defect.map(|defect| ("WATERSHED_DEFECT", defect.to_owned()));
        let environment: Vec<_> = environment.iter().cloned().chain(defect).collect();
        Process::start(self.home.path(), &environment)
    }

    async fn client(&self, process: &mut Process) -> Result<Client> {
        let url = process.url().await?;
        Client::new(url.with_context(|| format!("the platform did NOT START AGAIN:\n{}", process.output()))?)
    }

    async fn check(&mut self, client: &Client, process: &Process) -> Result<()> {
        ensure_tidy(self.home.path(), process)?;
        let compared = self.check_on(client).all().await?;
        self.seen.checks += 1;
        self.seen.answers_compared += compared;
        Ok(())
    }

    fn check_on<'a>(&'a self, client: &'a Client) -> Check<'a> {
        Check { client, ledger: &self.ledger, source: &self.source, variant: self.variant }
    }

    /// Now and then gives the view that changes a new definition, or one that it had before.
    fn maybe_change_view(&mut self) -> Result<()> {
        match self.random.below(8) {
            0 | 1 => {
                self.newest += 1;
                self.change_view(self.newest)
            }
            2 => {
                let earlier = self.random.below(self.newest + 1);
                self.change_view(earlier)
            }
            _ => Ok(()),
        }
    }

    fn change_view(&mut self, variant: u64) -> Result<()> {
        self.variant = variant;
        self.story.push(format!("variant {}", self.variant));
        self.write_project()
    }

    fn write_project(&self) -> Result<()> {
        project::write(&self.home.path().join("project"), self.variant)
    }

    fn new_folder(&mut self) -> Result<()> {
        self.seen.folders += 1;
        self.seen.counts.add(self.ledger.counts());
        (self.home, self.ledger) = (TempDir::new()?, Arc::default());
        self.story.clear();
        self.write_project()
    }

    /// Keeps the folder of a failure, and says what led to it.
    fn explained(&mut self, lived: Result<()>) -> Result<()> {
        lived.with_context(|| {
            self.home.disable_cleanup(true);
            let last = &self.story[self.story.len().saturating_sub(12)..];
            let folder: &Path = self.home.path();
            format!("after {}; the folder is kept in {}", last.join(", "), folder.display())
        })
    }
}

/// Adds the process's output to a failure; what the process itself calls an error is a failure too.
fn no_alarms(process: &Process, outcome: Result<()>) -> Result<()> {
    if let Err(error) = outcome {
        bail!("{error:#}\n\nthe platform's output:\n{}", process.output());
    }
    let alarms = process.alarms();
    ensure!(alarms.is_empty(), "the platform calls for a human: {alarms:#?}");
    Ok(())
}
