//! Users' SQL over the views.
//!
//! 1. Wait until the positions that the query names are applied.
//! 2. Take one snapshot of every source; it holds until the last row.
//! 3. Plan against a catalog that holds the named views and nothing else; refuse all but reading.
//! 4. Run on the CPU pool, in the memory of queries, until the deadline.
//!
//! Nothing here writes, and no SQL reaches files, other catalogs or settings: the session has no table but the views.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider,
};
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionState;
use datafusion::functions::{string, unicode};
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use futures::StreamExt;
use watershed_shared::config::{QueryConfig, parallelism};
use watershed_shared::cpu::CpuPool;
use watershed_shared::disk::is_full;
use watershed_shared::error::Error as SharedError;
use watershed_shared::panics::catch_panic_of;
use watershed_shared::plan::{LengthBound, bounded_length, plan_session};
use watershed_shared::position::PositionToken;
use watershed_shared::snapshot::{SourceSnapshot, ViewSnapshot};
use watershed_shared::telemetry::OutcomeLabel;
use watershed_shared::time::{self, iso_timestamp};

use crate::answer::{Answer, AsOf, SourceAsOf, ViewAsOf};
use crate::backend::{Backend, ViewState};
use crate::error::{Error, Result};

/// Longest query in tokens. Plans of long expressions are deep, and the planner's recursion must fit into a stack.
const TOKENS_MAX: usize = 10_000;

/// Most characters that one call of `lpad`, `repeat` or `rpad` may make for a batch of rows.
const LENGTH_MAX: i64 = 16 << 20;

/// Answers users' SQL. Shared by all connections.
#[derive(Debug)]
pub struct QueryEngine {
    planner: Arc<Planner>,
    pool: CpuPool,
}

/// What turns SQL into answers, on the CPU pool.
#[derive(Debug)]
struct Planner {
    backend: Arc<dyn Backend>,
    session: SessionState,
    options: QueryConfig,
}

/// Memory and spill space of all queries together; stores of batch views are registered with it.
///
/// # Errors
/// When the spill folder cannot be made.
pub fn query_runtime(options: &QueryConfig) -> Result<Arc<RuntimeEnv>> {
    let largest_consumers = std::num::NonZeroUsize::MIN.saturating_add(2);
    let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_bytes), largest_consumers);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc();
    runtime.map_err(|error| Error::Unavailable { reason: error.strip_backtrace() })
}

impl QueryEngine {
    /// An engine over the platform's snapshots that runs in `runtime`.
    pub fn new(
        backend: Arc<dyn Backend>,
        options: QueryConfig,
        runtime: Arc<RuntimeEnv>,
        pool: CpuPool,
    ) -> QueryEngine {
        let session = restricted(plan_session(parallelism(options.parallelism), runtime));
        QueryEngine { planner: Arc::new(Planner { backend, session, options }), pool }
    }

    /// Answers one SELECT over the views.
    ///
    /// The answer covers at least `positions`; `as_of` says what it covers exactly.
    ///
    /// # Errors
    /// `InvalidQuery` for anything but reading views, `PositionTimeout`, `QueryDeadline`, `QueryMemory`, `QueryFailed`; also
    /// when a function panics on the query's values.
    pub async fn query(&self, sql: &str, positions: &[PositionToken]) -> Result<Answer> {
        let started = time::instant();
        let answer = self.answer(sql, positions).await;
        let outcome = if answer.is_ok() { "ok" } else { "error" };
        let label = OutcomeLabel { outcome: outcome.to_owned() };
        self.planner
            .backend
            .metrics()
            .query_duration
            .get_or_create(&label)
            .observe((time::instant() - started).as_secs_f64());
        answer
    }

    async fn answer(&self, sql: &str, positions: &[PositionToken]) -> Result<Answer> {
        self.planner.wait_for(positions).await?;
        let (planner, sql) = (Arc::clone(&self.planner), sql.to_owned());
        let timeout = self.planner.options.timeout;
        let run = async move {
            let deadline = || Err(Error::QueryDeadline { seconds: timeout.as_secs() });
            time::timeout(timeout, planner.answer(&sql)).await.unwrap_or_else(deadline)
        };
        let panicked = |words| Error::QueryFailed {
            reason: format!("a function of it panicked: {words}; this is a bug, please report it with the query"),
        };
        catch_panic_of(self.pool.run(run)).await.unwrap_or_else(|words| Err(panicked(words)))
    }
}

impl Planner {
    async fn answer(&self, sql: &str) -> Result<Answer> {
        let statement = self.parse(sql)?;
        // Lives until the last row: what it refers to stays readable as long.
        let snapshot = Snapshot::take(self.backend.as_ref());
        let names = self.referenced_views(&statement)?;
        let views = names.iter().map(|name| self.view(&snapshot, name)).collect::<Result<Vec<_>>>()?;
        let session = self.session_over(&views)?;
        let as_of = as_of(&views);
        let (schema, batches) = collect(session, statement, self.options.answer_bytes_max).await?;
        let complete = as_of.sources.values().all(|source| source.gaps.is_empty());
        Ok(Answer { schema, batches, as_of, complete })
    }

    async fn wait_for(&self, positions: &[PositionToken]) -> Result<()> {
        let deadline = time::instant() + self.options.position_timeout;
        let snapshots: BTreeMap<_, _> = self.backend.snapshots().into_iter().collect();
        for token in positions {
            let mut receiver = snapshots.get(&token.source).cloned().ok_or_else(|| SharedError::NotFound {
                what: "source",
                name: token.source.clone(),
                known: snapshots.keys().cloned().collect(),
            })?;
            let covered = receiver.wait_for(|snapshot| snapshot.applied.covers(&token.position));
            let covered = time::timeout_at(deadline, covered).await.is_some_and(|outcome| outcome.is_ok());
            if !covered {
                return Err(self.position_timeout(token, &receiver.borrow()));
            }
        }
        Ok(())
    }

    fn position_timeout(&self, token: &PositionToken, snapshot: &SourceSnapshot) -> Error {
        let applied = PositionToken { source: token.source.clone(), position: snapshot.applied.clone() };
        Error::PositionTimeout {
            position: token.to_string(),
            applied: applied.to_string(),
            seconds: self.options.position_timeout.as_secs(),
        }
    }

    fn parse(&self, sql: &str) -> Result<Statement> {
        check_length(sql)?;
        let dialect = self.session.config_options().sql_parser.dialect;
        let statement = self.session.sql_to_statement(sql, &dialect).map_err(invalid)?;
        let reads = match &statement {
            Statement::Statement(statement) => {
                matches!(statement.as_ref(), ast::Statement::Query(query) if query_only(query))
            }
            Statement::Explain(explain) => {
                matches!(explain.statement.as_ref(), Statement::Statement(inner)
                    if matches!(inner.as_ref(), ast::Statement::Query(query) if query_only(query)))
            }
            _ => false,
        };
        if reads {
            return Ok(statement);
        }
        Err(Error::InvalidQuery {
            reason: "only SELECT and EXPLAIN of a SELECT are possible here; views are defined in the project's *.sql \
                     files and written by sending events"
                .to_owned(),
        })
    }

    fn referenced_views(&self, statement: &Statement) -> Result<Vec<String>> {
        let references = self.session.resolve_table_references(statement).map_err(invalid)?;
        let mut names = Vec::new();
        for reference in references {
            let name = match &reference {
                TableReference::Bare { table } => table.to_string(),
                TableReference::Partial { schema, table } if schema.as_ref() == "public" => table.to_string(),
                other => {
                    return Err(Error::InvalidQuery {
                        reason: format!(
                            "\"{other}\" cannot be read: there is one schema, \"public\", with the views in it"
                        ),
                    });
                }
            };
            names.push(name);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn view<'a>(&self, snapshot: &'a Snapshot, name: &str) -> Result<(&'a SourceSnapshot, &'a ViewSnapshot)> {
        for source in &snapshot.sources {
            if let Some(view) = source.views.get(name) {
                return Ok((source, view));
            }
            if let Some(reason) = source.failures.get(name) {
                return Err(Error::Unavailable { reason: format!("view \"{name}\" is stopped: {reason}") });
            }
        }
        let views = self.backend.views();
        if views.iter().any(|view| view.name == name && view.state == ViewState::Building) {
            let reason = format!(
                "view \"{name}\" is being built from the history and cannot be asked yet; see /v1/views/{name} and try again"
            );
            return Err(Error::Unavailable { reason });
        }
        let known = views.into_iter().map(|view| view.name).collect();
        Err(SharedError::NotFound { what: "view", name: name.to_owned(), known }.into())
    }

    /// A session whose catalog holds `views` and nothing else.
    fn session_over(&self, views: &[(&SourceSnapshot, &ViewSnapshot)]) -> Result<SessionContext> {
        let tables = MemorySchemaProvider::new();
        for (_, view) in views {
            let plan = view.plan.query(view.parts()).map_err(failed)?;
            let table = ViewTable::new(plan, Some(view.plan.sql.clone()));
            tables.register_table(view.plan.name.clone(), Arc::new(table)).map_err(failed)?;
        }
        let names = &self.session.config_options().catalog;
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(&names.default_schema, Arc::new(tables)).map_err(failed)?;
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(names.default_catalog.clone(), Arc::new(catalog));
        let state = SessionStateBuilder::new_from_existing(self.session.clone()).with_catalog_list(Arc::new(catalogs));
        Ok(SessionContext::new_with_state(state.build()))
    }
}

/// A session for users: without table functions, which are no views, and with bounds for queries on functions that make
/// long texts from a number.
fn restricted(session: SessionState) -> SessionState {
    let mut session = SessionStateBuilder::new_from_existing(session).with_table_functions(HashMap::new()).build();
    for function in [unicode::lpad(), unicode::rpad(), string::repeat()] {
        let bounded = bounded_length(function, LengthBound::EachBatch(LENGTH_MAX));
        // It replaces the one with the bound of views.
        let _ = session.register_udf(Arc::new(bounded));
    }
    session
}

fn check_length(sql: &str) -> Result<()> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize();
    let count = tokens.map_err(|error| Error::InvalidQuery { reason: error.to_string() })?.len();
    match count {
        0..=TOKENS_MAX => Ok(()),
        _ => Err(Error::InvalidQuery {
            reason: format!(
                "the query has {count} tokens; {TOKENS_MAX} are allowed; ask in several queries or join a VALUES list"
            ),
        }),
    }
}

/// Whether a query only reads: sqlparser also parses `WITH ... INSERT` and `SELECT INTO` as queries.
fn query_only(query: &ast::Query) -> bool {
    fn reads(body: &ast::SetExpr) -> bool {
        match body {
            ast::SetExpr::Select(select) => select.into.is_none(),
            ast::SetExpr::Query(query) => query_only(query),
            ast::SetExpr::SetOperation { left, right, .. } => reads(left) && reads(right),
            ast::SetExpr::Values(_) | ast::SetExpr::Table(_) => true,
            _ => false,
        }
    }
    let tables = query.with.iter().flat_map(|with| &with.cte_tables);
    reads(&query.body) && tables.into_iter().all(|table| query_only(&table.query))
}

/// One snapshot of every source.
struct Snapshot {
    sources: Vec<Arc<SourceSnapshot>>,
}

impl Snapshot {
    fn take(backend: &dyn Backend) -> Snapshot {
        let sources = backend.snapshots().into_iter().map(|(_, receiver)| Arc::clone(&receiver.borrow()));
        Snapshot { sources: sources.collect() }
    }
}

fn as_of(views: &[(&SourceSnapshot, &ViewSnapshot)]) -> AsOf {
    let mut as_of = AsOf::default();
    for (source, view) in views {
        let offsets = source.applied.offsets().iter().map(|offset| offset.0).collect();
        let watermark = source.watermark_us.and_then(iso_timestamp);
        let gaps = source.gaps.iter().map(Into::into).collect();
        as_of.sources.insert(source.source.name.clone(), SourceAsOf { offsets, watermark, gaps });
        let view_as_of = ViewAsOf {
            batch_version: view.batch.as_ref().map(|batch| batch.version.0),
            boundary: view.boundary.0.offsets().iter().map(|offset| offset.0).collect(),
        };
        as_of.views.insert(view.plan.name.clone(), view_as_of);
    }
    as_of
}

type Rows = (arrow::datatypes::SchemaRef, Vec<arrow::array::RecordBatch>);

async fn collect(session: SessionContext, statement: Statement, bytes_max: usize) -> Result<Rows> {
    let plan = session.state().statement_to_plan(statement).await.map_err(invalid)?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan).map_err(invalid)?;
    let frame = session.execute_logical_plan(plan).await.map_err(invalid)?;
    let context = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.map_err(not_planned)?;
    let mut stream = datafusion::physical_plan::execute_stream(plan, context).map_err(failed)?;
    let schema = stream.schema();
    let mut batches = Vec::new();
    let mut bytes = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        bytes += batch.get_array_memory_size();
        if bytes > bytes_max {
            return Err(Error::InvalidQuery {
                reason: format!(
                    "the answer is larger than {bytes_max} bytes; add a LIMIT or aggregate, or raise query.answer_bytes_max"
                ),
            });
        }
        batches.push(batch);
    }
    Ok((schema, batches))
}

/// An error of planning: the SQL is at fault.
fn invalid(error: DataFusionError) -> Error {
    Error::InvalidQuery { reason: error.strip_backtrace() }
}

/// An error of optimizing, which computes with the query's constants: a pattern that is no regular expression fails here.
fn not_planned(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(_) if shared_cause(&error).is_none() => invalid(error),
        _ => failed(error),
    }
}

/// Words of Arrow and of the regex crate for a pattern that is no regular expression. Only their text gets here: as a bug of
/// the engine or as somebody else's error, by the function and by whether the pattern is a constant.
const NO_REGULAR_EXPRESSION: [&str; 2] = ["Regular expression did not compile", "regex parse error"];

/// An error of running.
fn failed(error: DataFusionError) -> Error {
    if let Some(SharedError::Corrupt { what, reason }) = shared_cause(&error) {
        return SharedError::Corrupt { what: what.clone(), reason: reason.clone() }.into();
    }
    let full = is_full(&error);
    let reason = error.strip_backtrace();
    match error.find_root() {
        _ if full => Error::QueryDisk { reason },
        DataFusionError::ResourcesExhausted(_) => Error::QueryMemory { reason },
        // Division by zero, a cast that fails: the data does not fit what the SQL asks. An operator that only the parser
        // knows is found out when it is to be computed.
        DataFusionError::ArrowError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Execution(_)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..) => Error::InvalidQuery { reason },
        DataFusionError::Internal(_) | DataFusionError::External(_)
            if NO_REGULAR_EXPRESSION.iter().any(|words| reason.contains(words)) =>
        {
            Error::InvalidQuery { reason }
        }
        _ => Error::QueryFailed { reason },
    }
}

/// What a reader of stored data has said, under whatever the engine has wrapped around it.
fn shared_cause(error: &DataFusionError) -> Option<&SharedError> {
    let error: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref::<SharedError>())
}
