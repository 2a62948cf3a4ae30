//! Drives a platform through a schedule and checks every view after every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use bytes::Bytes;
use tempfile::TempDir;
use watershed::platform::{ComputedRun, Platform, Ports, PreparedRun};
use watershed_serving_layer::{AuditOutcome, Backend, QueryEngine};
use watershed_shared::config::Config;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::event::LogBatch;
use watershed_shared::format::{EventDecoder, EventFormat};
use watershed_shared::log::Partitioner;
use watershed_shared::position::{Position, PositionToken};
use watershed_shared::source::SourceDefinition;

use super::schedule::{Schedule, Step};
use crate::model::events::{COLUMNS, Event, to_ndjson};
use crate::model::one_pass;
use crate::model::views::ViewSpec;

const VIEW_NAMES: [&str; 3] = ["v0", "v1", "v2"];

/// Runs a schedule; returns how many answers were compared, or how the law was broken.
pub(super) async fn drive(schedule: &Schedule) -> Result<u64> {
    let mut driver = Driver::start(schedule).await?;
    for (index, step) in schedule.steps.iter().enumerate() {
        let done = driver.take(step).await;
        done.with_context(|| format!("step {index}: {}", name_of(step)))?;
        driver.check_all().await.with_context(|| format!("after step {index}: {}", name_of(step)))?;
    }
    driver.runs.clear();
    driver.platform.stop().await;
    Ok(driver.checks)
}

fn name_of(step: &Step) -> String {
    let text = format!("{step:?}");
    text.split(['(', '{']).next().unwrap_or_default().to_owned()
}

struct Driver {
    source: Arc<SourceDefinition>,
    source_sql: String,
    ports: Ports,
    folder: Option<TempDir>,
    platform: Platform,
    engine: QueryEngine,
    decoder: EventDecoder,
    partitioner: Partitioner,
    views: BTreeMap<&'static str, Definitions>,
    runs: BTreeMap<&'static str, Run>,
    /// All accepted events, as the log must hold them.
    accepted: Vec<RecordBatch>,
    position: Position,
    checks: u64,
}

/// What the driver expects of a view.
#[derive(Default)]
struct Definitions {
    active: Option<ViewSpec>,
    building: Option<ViewSpec>,
}

enum Run {
    Prepared(PreparedRun),
    Computed(ComputedRun),
}

impl Driver {
    async fn start(schedule: &Schedule) -> Result<Driver> {
        let partition_by =
            schedule.partition_by.map(|column| format!(", partition_by = '{column}'")).unwrap_or_default();
        let source_sql = format!(
            "CREATE SOURCE events ({COLUMNS}, WATERMARK FOR t AS t - INTERVAL '5 minutes') \
             WITH (connector = 'http', partitions = {}{partition_by});",
            schedule.partitions
        );
        let Some(Statement::Source(source)) = parse_definitions(&source_sql)?.pop() else {
            anyhow::bail!("not a source: {source_sql}")
        };
        let folder = schedule.on_disk.then(TempDir::new).transpose()?;
        let ports = open_ports(folder.as_ref())?;
        let specs = VIEW_NAMES.into_iter().zip(&schedule.views);
        let views: BTreeMap<_, _> =
            specs.map(|(name, spec)| (name, Definitions { active: Some(spec.clone()), building: None })).collect();
        let platform = Platform::open(statements(&source_sql, &views)?, config(), ports.clone()).await?;
        Ok(Driver {
            engine: platform.query_engine(),
            decoder: EventDecoder::new(&source)?,
            partitioner: Partitioner::new(&source)?,
            position: Position::beginning(source.partitions),
            source: Arc::new(source),
            source_sql,
            ports,
            folder,
            platform,
            views,
            runs: BTreeMap::new(),
            accepted: Vec::new(),
            checks: 0,
        })
    }

    async fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Ingest(events) => self.ingest(events).await,
            Step::Archive => {
                let history = self.platform.archive("events").await?;
                ensure!(*history.end() == self.position, "history ends at {}, not {}", history.end(), self.position);
                Ok(())
            }
            Step::Compact => Ok(self.platform.compact("events").await?),
            Step::AdvanceRun(view) => self.advance_run(VIEW_NAMES[view % VIEW_NAMES.len()]).await,
            Step::DropRun(view) => {
                self.runs.remove(VIEW_NAMES[view % VIEW_NAMES.len()]);
                Ok(())
            }
            Step::Define(view, spec) => self.define(VIEW_NAMES[view % VIEW_NAMES.len()], spec).await,
            Step::Restart => self.restart().await,
        }
    }

    async fn ingest(&mut self, events: &[Event]) -> Result<()> {
        let body = to_ndjson(events);
        let report = self.platform.accept("events", EventFormat::NdJson, Bytes::from(body.clone())).await?;
        ensure!(report.accepted == events.len() && report.rejected == 0, "not all accepted: {report:?}");
        let decoded = self.decoder.decode(EventFormat::NdJson, body.as_bytes())?;
        if decoded.events.num_rows() == 0 {
            return Ok(());
        }
        for (partition, events) in self.partitioner.split(&decoded.events)? {
            let batch = LogBatch::consecutive(partition, self.position.get(partition), 0, events);
            self.accepted.push(batch.with_system_columns(&self.source.event_schema)?);
            self.position.raise(partition, batch.range.end());
        }
        let token: PositionToken = report.position.parse()?;
        ensure!(self.position.covers(&token.position), "acknowledged {token}, but only {} was sent", self.position);
        Ok(())
    }

    async fn advance_run(&mut self, name: &'static str) -> Result<()> {
        match self.runs.remove(name) {
            None if self.views.contains_key(name) => {
                let prepared = self.platform.prepare_run(name).await?;
                self.runs.insert(name, Run::Prepared(prepared));
            }
            None => {}
            Some(Run::Prepared(prepared)) => {
                let computed = prepared.compute().await?;
                self.runs.insert(name, Run::Computed(computed));
            }
            Some(Run::Computed(computed)) => {
                let published = computed.publish().await?;
                let fine = match published.audit.outcome {
                    AuditOutcome::Equal => true,
                    AuditOutcome::Skipped => self.views.get(name).is_some_and(|view| view.building.is_some()),
                    AuditOutcome::Drift => false,
                };
                ensure!(fine, "the audit says {:?}", published.audit);
                if let Some(definitions) = self.views.get_mut(name)
                    && let Some(built) = definitions.building.take()
                {
                    definitions.active = Some(built);
                }
            }
        }
        Ok(())
    }

    async fn define(&mut self, name: &'static str, spec: &ViewSpec) -> Result<()> {
        // A run under way is for the definition before.
        self.runs.remove(name);
        let definitions = self.views.entry(name).or_default();
        let same = |other: &ViewSpec| other.definition(name) == spec.definition(name);
        let is_active = definitions.active.as_ref().is_some_and(same);
        let new = self.platform.define_view(&one_pass::statement(&spec.definition(name))?).await?;
        ensure!(!(new && is_active), "a definition that answers was built again");
        definitions.building = if is_active { None } else { Some(spec.clone()) };
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.runs.clear();
        self.platform.stop().await;
        if self.folder.is_some() {
            // The store's lock goes with its last user.
            self.ports = Ports::in_memory()?;
            let placeholder =
                Platform::open(statements(&self.source_sql, &BTreeMap::new())?, config(), self.ports.clone());
            self.platform = placeholder.await?;
            self.engine = self.platform.query_engine();
            self.ports = open_ports(self.folder.as_ref())?;
        }
        let statements = statements(&self.source_sql, &self.views)?;
        self.platform = Platform::open(statements, config(), self.ports.clone()).await?;
        self.engine = self.platform.query_engine();
        self.partitioner = Partitioner::new(&self.source)?;
        self.wait_for_builds().await
    }

    /// The new process builds what was being built, by itself.
    async fn wait_for_builds(&mut self) -> Result<()> {
        while self
            .platform
            .views()
            .iter()
            .any(|view| view.state != watershed_serving_layer::ViewState::Active || view.building.is_some())
        {
            let failed = self.platform.batch_runs().into_iter().find_map(|run| run.error);
            ensure!(failed.is_none(), "building a view failed: {failed:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for definitions in self.views.values_mut() {
            definitions.active = definitions.building.take().or(definitions.active.take());
        }
        Ok(())
    }

    async fn check_all(&mut self) -> Result<()> {
        let token = PositionToken { source: "events".to_owned(), position: self.position.clone() };
        for (name, definitions) in &self.views {
            let Some(spec) = &definitions.active else { continue };
            let sql = format!("SELECT * FROM {name}");
            let answer = self.engine.query(&sql, std::slice::from_ref(&token)).await;
            let answer = answer.with_context(|| spec.definition(name))?;
            let as_of: Vec<u64> = self.position.offsets().iter().map(|offset| offset.0).collect();
            ensure!(answer.as_of.sources["events"].offsets == as_of, "as of {:?}, not {as_of:?}", answer.as_of);
            let truth =
                one_pass::rows(spec, &self.source, &self.accepted).await.with_context(|| spec.definition(name))?;
            let equal =
                one_pass::ensure_equal(&|column| spec.tolerance(column), one_pass::to_rows(&answer.batches)?, truth);
            equal.with_context(|| format!("{} answers as of {:?}", spec.definition(name), answer.as_of))?;
            self.checks += 1;
        }
        Ok(())
    }
}

fn open_ports(folder: Option<&TempDir>) -> Result<Ports> {
    match folder {
        Some(folder) => Ok(Ports::open(&config(), folder.path())?),
        None => Ok(Ports::in_memory()?),
    }
}

/// Commits happen when the schedule says so.
fn config() -> Config {
    let mut config = Config::default();
    config.history.commit_interval = Duration::from_secs(3600);
    config.query.parallelism = 2;
    config.batch.parallelism = 2;
    config
}

fn statements(source_sql: &str, views: &BTreeMap<&'static str, Definitions>) -> Result<Vec<Statement>> {
    let mut sql = source_sql.to_owned();
    for (name, definitions) in views {
        if let Some(spec) = definitions.building.as_ref().or(definitions.active.as_ref()) {
            sql.push_str(&format!("\n{};", spec.definition(name)));
        }
    }
    parse_definitions(&sql).with_context(|| sql)
}
