//! From a view's SQL to its plans.
//!
//! The *analysed* aggregate is taken, not the optimized one: the optimizer rewrites DISTINCT, sums of constants and
//! percentiles in ways that change states between plans. The plan below the aggregate is optimized where it is bound to
//! events, the plan above it where a query reads the view.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, SortExpr, TableSource,
    Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;

use super::changes::WindowKey;
use super::float_extreme::{FloatExtreme, is_float};
use super::key_columns::{bare_column, key_only_columns, origins};
use super::rows::{MemoryRows, RowSource, RowTable};
use super::session::plan_session;
use super::stages::{Aggregation, ViewKind, ViewPlan};
use super::stored::stored_type;
use crate::definition::{TUMBLE, ViewStatement};
use crate::error::{Error, Result};
use crate::event::{OFFSET_COLUMN, PARTITION_COLUMN};
use crate::panics::catch_panic_of;
use crate::source::SourceDefinition;

/// Name of the table in a finish plan that each query replaces by a snapshot's rows.
const FINISHED_TABLE: &str = "__finished";

/// Compiles a view over its source.
///
/// # Errors
/// `InvalidDefinition` at the statement's place when the view cannot be kept current by both layers; the reason says
/// what to write instead.
pub async fn compile(view: &ViewStatement, source: Arc<SourceDefinition>) -> Result<ViewPlan> {
    // Constants are computed while planning, and the plans are tried out: a function that panics must not end the process.
    catch_panic_of(compile_trusting(view, source)).await.unwrap_or_else(|words| {
        Err(refuse(
            view,
            Refusal::new(
                format!("planning it panicked: {words}"),
                "this is a bug, please report it with the definition; another spelling may avoid it",
            ),
        ))
    })
}

fn refuse(view: &ViewStatement, refusal: Refusal) -> Error {
    let reason = format!("view \"{}\": {}", view.name, refusal.reason);
    Error::InvalidDefinition { line: view.line, column: 1, reason, hint: refusal.hint }
}

async fn compile_trusting(view: &ViewStatement, source: Arc<SourceDefinition>) -> Result<ViewPlan> {
    let refuse = |refusal: Refusal| refuse(view, refusal);
    let session = plan_session(1, Arc::new(RuntimeEnv::default()));
    let query = view.bind(&source)?;
    let analyzed = analyze(query, &source, &session).await.map_err(|error| refuse(error.into()))?;
    check(&analyzed).map_err(refuse)?;
    let pieces = match find_aggregate(&analyzed) {
        Some(aggregate) => aggregate_pieces(&analyzed, aggregate, &session).await,
        None => row_pieces(&analyzed),
    };
    let pieces = pieces.map_err(refuse)?;
    let window = window_key(view, &source, &analyzed);
    let stored_schema = stored_schema(&pieces.state_schema).map_err(refuse)?;
    let plan = ViewPlan {
        name: view.name.clone(),
        sql: view.sql.clone(),
        id: view.definition_id(&source),
        source,
        output_schema: Arc::new(pieces.finish.schema().as_arrow().clone()),
        input: pieces.input,
        kind: pieces.kind,
        finish: pieces.finish,
        key_count: pieces.key_count,
        window,
        state_schema: pieces.state_schema,
        stored_schema,
        finished_schema: pieces.finished_schema,
        notes: pieces.notes,
    };
    try_out(&plan, &session).await.map_err(refuse)?;
    Ok(plan)
}

/// Runs all three plans over one event of default values (0, the empty string, ...): what DataFusion cannot plan, or plans but
/// cannot run, is refused here and not at the first event. Errors that come from the values are none of the definition's.
async fn try_out(plan: &ViewPlan, session: &SessionState) -> Result<(), Refusal> {
    let schema = &plan.source.event_schema;
    let values = schema.fields().iter().map(|field| ScalarValue::new_default(field.data_type())?.to_array());
    let event = RecordBatch::try_new(Arc::clone(schema), values.collect::<Result<Vec<_>, _>>()?)?;
    let rows = MemoryRows::new(Arc::clone(schema), vec![event]);
    // Constants are computed here, so that a wrong one (`TIMESTAMP '2023-13-01'`) shows whatever the events are.
    let states = plan.merge(plan.partial(Arc::new(rows), session).await?)?;
    let finished = plan.finish_all(plan.from_stored(plan.to_stored(states)?)?, 1)?;
    match datafusion::physical_plan::collect(finished, session.task_ctx()).await {
        Err(error @ (DataFusionError::Internal(_) | DataFusionError::NotImplemented(_))) => Err(error.into()),
        Err(DataFusionError::Context(_, error)) if matches!(error.as_ref(), DataFusionError::NotImplemented(_)) => {
            Err((*error).into())
        }
        _ => Ok(()),
    }
}

/// The key that is the view's window.
fn window_key(view: &ViewStatement, source: &SourceDefinition, analyzed: &LogicalPlan) -> Option<WindowKey> {
    let (definition, aggregate) = (view.window.as_ref()?, find_aggregate(analyzed)?);
    let call = |key: &Expr| match unalias(key) {
        Expr::ScalarFunction(call) if call.name() == TUMBLE => Some(call.clone()),
        _ => None,
    };
    let (key, call) = aggregate.group_expr.iter().enumerate().find_map(|(index, key)| Some((index, call(key)?)))?;
    // The column of the source that it is, through whatever subqueries call it.
    let origins = origins(&aggregate.input, &mut BTreeSet::new(), &bare_column).ok();
    let column = |time: &Expr| {
        let place = aggregate.input.schema().index_of_column(bare_column(time)?).ok()?;
        let origin = (*origins.as_ref()?.get(place)?)?;
        Some(source.event_schema.fields().get(origin)?.name().clone())
    };
    Some(WindowKey { key, window: definition.window, time: call.args.first().and_then(column) })
}

/// Why a view cannot be kept, and what to write instead.
struct Refusal {
    reason: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), hint: Some(hint.into()) }
    }
}

impl From<arrow::error::ArrowError> for Refusal {
    fn from(error: arrow::error::ArrowError) -> Refusal {
        DataFusionError::from(error).into()
    }
}

impl From<DataFusionError> for Refusal {
    fn from(error: DataFusionError) -> Refusal {
        Refusal { reason: error.strip_backtrace(), hint: None }
    }
}

/// What compilation finds out about either kind of view.
struct Pieces {
    input: LogicalPlan,
    kind: ViewKind,
    finish: LogicalPlan,
    key_count: usize,
    state_schema: SchemaRef,
    finished_schema: SchemaRef,
    notes: Vec<String>,
}

async fn analyze(
    query: ast::Query,
    source: &SourceDefinition,
    session: &SessionState,
) -> Result<LogicalPlan, DataFusionError> {
    let context = SessionContext::new_with_state(session.clone());
    let rows = RowTable(Arc::new(MemoryRows::new(Arc::clone(&source.event_schema), Vec::new())));
    context.register_table(TableReference::bare(source.name.as_str()), Arc::new(rows))?;
    let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    let plan = context.state().statement_to_plan(statement).await?;
    session.analyzer().execute_and_check(plan, session.config_options(), |_, _| {})
}

/// Refuses plans that are more than filters, projections and one aggregate over the source.
fn check(plan: &LogicalPlan) -> Result<(), Refusal> {
    let mut aggregates = 0;
    let mut node = Some(plan);
    while let Some(plan) = node {
        match plan {
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {}
            LogicalPlan::TableScan(_) => {}
            LogicalPlan::Aggregate(_) => aggregates += 1,
            other => {
                return Err(Refusal::new(
                    format!("a view cannot contain {}", name_of(other)),
                    "keep filters, projections and one GROUP BY in the view and put the rest into queries over it",
                ));
            }
        }
        for expr in plan.expressions() {
            check_expr(&expr)?;
        }
        node = plan.inputs().first().copied();
    }
    if aggregates > 1 {
        return Err(Refusal::new(
            "an aggregate of an aggregate cannot be kept current by merging",
            "keep the inner aggregate as the view and put the outer one into queries over it",
        ));
    }
    Ok(())
}

fn name_of(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ']).next().unwrap_or("this").to_owned()
}

fn check_expr(expr: &Expr) -> Result<(), Refusal> {
    let mut refusal = None;
    let walked = expr.apply(|expr| {
        refusal = match expr {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some(Refusal::new(
                    format!(
                        "{}() gives another value each time it is asked, so the layers would disagree",
                        call.name()
                    ),
                    "use a column of the event, for instance its event time or _ingested_at",
                ))
            }
            Expr::AggregateFunction(call) => check_aggregate(call).err(),
            Expr::WindowFunction(_) => Some(Refusal::new(
                "a window function ranks over all rows and cannot be kept current by merging",
                "put it into queries over the view",
            )),
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) => Some(Refusal::new(
                "a subquery inside an expression reads rows that the view does not keep",
                "put the condition into queries over the view",
            )),
            Expr::Placeholder(_) => Some(Refusal::new(
                "a view cannot have parameters",
                "write the value, or filter in queries over the view",
            )),
            _ => None,
        };
        Ok(if refusal.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    match (walked, refusal) {
        (Err(error), _) => Err(error.into()),
        (Ok(_), Some(refusal)) => Err(refusal),
        (Ok(_), None) => Ok(()),
    }
}

/// Aggregates whose states merge and stay bounded, under DataFusion's names.
const GOOD_AGGREGATES: &[&str] = &[
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "var",
    "var_pop",
    "stddev",
    "stddev_pop",
    "covar_samp",
    "covar_pop",
    "corr",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
    "approx_distinct",
    "approx_percentile_cont",
    "approx_median",
    "first_value",
    "last_value",
];

fn check_aggregate(call: &AggregateFunction) -> Result<(), Refusal> {
    let name = call.func.name();
    if !GOOD_AGGREGATES.contains(&name) {
        let hint = match name {
            "median" | "percentile_cont" => "use approx_percentile_cont, whose state stays small".to_owned(),
            "nth_value" => "use first_value or last_value with ORDER BY".to_owned(),
            _ => format!("a view can use: {}", GOOD_AGGREGATES.join(", ")),
        };
        return Err(Refusal::new(format!("the state of {name}() grows without bound or cannot be merged"), hint));
    }
    if call.params.distinct && name != "count" {
        return Err(Refusal::new(
            format!("{name}(DISTINCT ...) is not supported in a view"),
            "use count(DISTINCT ...), or approx_distinct",
        ));
    }
    let ordered = is_order_dependent(call);
    if ordered && call.params.order_by.is_empty() {
        return Err(Refusal::new(
            format!("{name}() without ORDER BY depends on the order in which events are read"),
            format!("write {name}(x ORDER BY t)"),
        ));
    }
    Ok(())
}

fn is_order_dependent(call: &AggregateFunction) -> bool {
    matches!(call.func.name(), "first_value" | "last_value")
}

fn find_aggregate(plan: &LogicalPlan) -> Option<&Aggregate> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => Some(aggregate),
        other => other.inputs().first().and_then(|input| find_aggregate(input)),
    }
}

async fn aggregate_pieces(
    analyzed: &LogicalPlan,
    aggregate: &Aggregate,
    session: &SessionState,
) -> Result<Pieces, Refusal> {
    let (below, calls) = break_ties(aggregate)?;
    let input = narrow(below, aggregate.group_expr.iter().chain(&calls))?;
    let input_schema = Arc::new(input.schema().as_arrow().clone());
    let simplifier = simplifier(&input, session);
    let keys =
        aggregate.group_expr.iter().map(|key| simplifier.simplify(key.clone())).collect::<Result<Vec<_>, _>>()?;
    let calls = calls.into_iter().map(|call| order_floats(simplify_call(call, &simplifier)?, input.schema()));
    let calls = calls.collect::<Result<Vec<_>, _>>()?;
    let key_only_columns = key_only_columns(&input, &keys, &calls)?;
    let group_by = group_by(&keys, input.schema(), session)?;
    let lowered = calls.iter().map(|call| {
        let context = PhysicalPlanningContext::default();
        LoweredAggregateBuilder::new(call, input.schema(), &input_schema, session.execution_props(), &context).build()
    });
    let lowered = lowered.collect::<Result<Vec<_>, _>>()?;
    let filters = lowered.iter().map(|lowered| lowered.filter.clone()).collect::<Vec<_>>();
    let aggregates = lowered.into_iter().map(|lowered| lowered.aggregate).collect::<Vec<_>>();

    let key_count = group_by.expr().len();
    let keys = key_fields(&group_by, &input_schema)?;
    let (state_schema, state_starts) = state_schema(&keys, &aggregates)?;
    let results = aggregates.iter().enumerate().map(|(index, aggregate)| {
        Arc::new(Field::new(format!("a{index}"), aggregate.field().data_type().clone(), true))
    });
    let finished_schema = Arc::new(Schema::new(keys.iter().cloned().chain(results).collect::<Vec<FieldRef>>()));

    let without_keys = aggregate.group_expr.is_empty();
    let hidden_keys = if without_keys { 1 } else { 0 };
    let finished = finished_rows(&finished_schema, hidden_keys, aggregate.schema.iter())?;
    let mut aggregation =
        Aggregation { group_by, aggregates, filters, input_schema, state_starts, key_only_columns, empty_state: None };
    if without_keys {
        aggregation.empty_state = Some(state_of_nothing(&aggregation, &state_schema, session).await?);
    }
    Ok(Pieces {
        input,
        finish: replace_aggregate(analyzed, &finished)?,
        key_count,
        state_schema,
        finished_schema,
        notes: calls.iter().filter_map(note).collect(),
        kind: ViewKind::Aggregate(Box::new(aggregation)),
    })
}

/// Brings expressions into the form that can be executed: some functions (`coalesce`, `nvl`) are rewritten to others first.
fn simplifier(input: &LogicalPlan, session: &SessionState) -> ExprSimplifier {
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(input.schema()))
        .with_config_options(Arc::clone(session.config_options()));
    ExprSimplifier::new(context.build())
}

/// Simplifies what a call reads, and not the call itself, whose form decides its states.
fn simplify_call(call: Expr, simplifier: &ExprSimplifier) -> Result<Expr, DataFusionError> {
    match call {
        Expr::Alias(mut alias) => {
            alias.expr = Box::new(simplify_call(*alias.expr, simplifier)?);
            Ok(Expr::Alias(alias))
        }
        Expr::AggregateFunction(mut call) => {
            let params = &mut call.params;
            for argument in &mut params.args {
                *argument = simplifier.simplify(argument.clone())?;
            }
            if let Some(filter) = &mut params.filter {
                **filter = simplifier.simplify(filter.as_ref().clone())?;
            }
            for sort in &mut params.order_by {
                sort.expr = simplifier.simplify(sort.expr.clone())?;
            }
            Ok(Expr::AggregateFunction(call))
        }
        other => Ok(other),
    }
}

/// Gives `min` and `max` of floats an order in which every value has a place; see `float_extreme`.
fn order_floats(call: Expr, input: &DFSchema) -> Result<Expr, DataFusionError> {
    match call {
        Expr::Alias(mut alias) => {
            alias.expr = Box::new(order_floats(*alias.expr, input)?);
            Ok(Expr::Alias(alias))
        }
        Expr::AggregateFunction(mut call) => {
            if let ([argument], Some(extreme)) = (call.params.args.as_slice(), FloatExtreme::of_name(call.func.name()))
                && is_float(&argument.get_type(input)?)
            {
                call.func = Arc::new(AggregateUDF::from(extreme));
            }
            Ok(Expr::AggregateFunction(call))
        }
        other => Ok(other),
    }
}

/// The plan below the aggregate and its calls, with the event's place as the last sort key of order-dependent calls.
fn break_ties(aggregate: &Aggregate) -> Result<(LogicalPlan, Vec<Expr>), Refusal> {
    let needs_place = |expr: &Expr| matches!(unalias(expr), Expr::AggregateFunction(call) if is_order_dependent(call));
    if !aggregate.aggr_expr.iter().any(needs_place) {
        return Ok((aggregate.input.as_ref().clone(), aggregate.aggr_expr.clone()));
    }
    let below = carry_place(&aggregate.input)?;
    let place = place_columns(below.schema())?;
    let calls = aggregate.aggr_expr.iter().map(|expr| match unalias(expr) {
        Expr::AggregateFunction(call) if is_order_dependent(call) => {
            let mut call = call.clone();
            call.params.order_by.extend(place.iter().map(|column| SortExpr::new(column.clone(), true, true)));
            Expr::AggregateFunction(call)
        }
        _ => expr.clone(),
    });
    Ok((below, calls.collect()))
}

fn unalias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unalias(&alias.expr),
        other => other,
    }
}

/// `plan` with an event's partition and offset among its columns.
fn carry_place(plan: &LogicalPlan) -> Result<LogicalPlan, Refusal> {
    if matches!(plan, LogicalPlan::TableScan(_)) {
        return Ok(plan.clone());
    }
    let input = carry_place(plan.inputs()[0])?;
    let LogicalPlan::Projection(projection) = plan else {
        return Ok(plan.with_new_exprs(plan.expressions(), vec![input])?);
    };
    let mut exprs = projection.expr.clone();
    for (name, column) in [PARTITION_COLUMN, OFFSET_COLUMN].into_iter().zip(place_columns(input.schema())?) {
        let same_name = exprs.iter().find(|expr| expr.schema_name().to_string().rsplit('.').next() == Some(name));
        match same_name {
            None => exprs.push(column),
            Some(Expr::Column(_)) => {}
            Some(_) => {
                return Err(Refusal::new(
                    format!("the name \"{name}\" is taken by the event's place"),
                    "give the expression another alias",
                ));
            }
        }
    }
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
}

fn place_columns(schema: &DFSchema) -> Result<[Expr; 2], DataFusionError> {
    let column =
        |name| schema.qualified_field_with_unqualified_name(name).map(|field| Expr::Column(Column::from(field)));
    Ok([column(PARTITION_COLUMN)?, column(OFFSET_COLUMN)?])
}

/// `plan` with only the columns that `exprs` read, so that files are read no wider than needed.
fn narrow<'a>(plan: LogicalPlan, exprs: impl Iterator<Item = &'a Expr>) -> Result<LogicalPlan, DataFusionError> {
    let mut indices = BTreeSet::new();
    for column in exprs.flat_map(|expr| expr.column_refs()) {
        indices.insert(plan.schema().index_of_column(column)?);
    }
    if indices.is_empty() {
        // Counting needs rows, and rows need a column.
        indices.insert(plan.schema().fields().len() - 1);
    }
    let columns = indices.into_iter().map(|index| Expr::Column(Column::from(plan.schema().qualified_field(index))));
    LogicalPlanBuilder::from(plan.clone()).project(columns)?.build()
}

/// The group expressions named `k0..`; a constant key for views without keys, because DataFusion's accumulators without
/// groups cannot merge the states of those with groups.
fn group_by(exprs: &[Expr], schema: &DFSchema, session: &SessionState) -> Result<PhysicalGroupBy, DataFusionError> {
    let context = PhysicalPlanningContext::default();
    let physical = exprs.iter().map(|expr| create_physical_expr(expr, schema, session.execution_props(), &context));
    let mut physical = physical.collect::<Result<Vec<_>, _>>()?;
    if physical.is_empty() {
        physical.push(lit(ScalarValue::Int32(Some(0))));
    }
    let named = physical.into_iter().enumerate().map(|(index, expr)| (expr, format!("k{index}")));
    Ok(PhysicalGroupBy::new_single(named.collect()))
}

fn key_fields(group_by: &PhysicalGroupBy, input_schema: &Schema) -> Result<Vec<FieldRef>, DataFusionError> {
    let fields = group_by.expr().iter().map(|(expr, name)| {
        let data_type = expr.data_type(input_schema)?;
        Ok(Arc::new(Field::new(name, data_type, true)))
    });
    fields.collect()
}

fn state_schema(
    keys: &[FieldRef],
    aggregates: &[Arc<AggregateFunctionExpr>],
) -> Result<(SchemaRef, Vec<usize>), DataFusionError> {
    let mut fields = keys.to_vec();
    let mut starts = vec![0];
    for aggregate in aggregates {
        for state in aggregate.state_fields()? {
            let name = format!("s{}", fields.len() - keys.len());
            fields.push(Arc::new(Field::new(name, state.data_type().clone(), true)));
        }
        starts.push(fields.len() - keys.len());
    }
    Ok((Arc::new(Schema::new(fields)), starts))
}

fn stored_schema(native: &SchemaRef) -> Result<SchemaRef, Refusal> {
    let stored = |field: &FieldRef| {
        let stored = stored_type(field.data_type()).ok_or_else(|| {
            Refusal::new(
                format!("values of type {} cannot be stored in a batch view", field.data_type()),
                "cast the column to a type that a source can have, for instance CAST(x AS DOUBLE)",
            )
        })?;
        Ok::<_, Refusal>(Field::new(field.name(), stored, true))
    };
    Ok(Arc::new(Schema::new(native.fields().iter().map(stored).collect::<Result<Vec<_>, _>>()?)))
}

/// A plan that names the columns of finished rows as `fields` does, skipping the first `hidden` key columns.
fn finished_rows<'a>(
    finished_schema: &SchemaRef,
    hidden: usize,
    fields: impl Iterator<Item = (Option<&'a TableReference>, &'a FieldRef)>,
) -> Result<LogicalPlan, DataFusionError> {
    let rows: Arc<dyn RowSource> = Arc::new(MemoryRows::new(Arc::clone(finished_schema), Vec::new()));
    let table: Arc<dyn TableSource> = provider_as_source(Arc::new(RowTable(rows)));
    let scan = LogicalPlanBuilder::scan(FINISHED_TABLE, table, None)?;
    let columns = finished_schema.fields().iter().skip(hidden).zip(fields).map(|(column, (qualifier, field))| {
        let column = Expr::Column(Column::new(Some(FINISHED_TABLE), column.name()));
        column.alias_qualified(qualifier.cloned(), field.name())
    });
    scan.project(columns.collect::<Vec<_>>())?.build()
}

/// `plan` with its aggregate, and all below it, replaced by `finished`.
fn replace_aggregate(plan: &LogicalPlan, finished: &LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    match plan {
        LogicalPlan::Aggregate(_) => Ok(finished.clone()),
        other => {
            let input = replace_aggregate(other.inputs()[0], finished)?;
            other.with_new_exprs(other.expressions(), vec![input])
        }
    }
}

/// The state row of a group that no event has reached: one row passes the partial plan, and no aggregate takes it.
async fn state_of_nothing(
    aggregation: &Aggregation,
    state_schema: &SchemaRef,
    session: &SessionState,
) -> Result<RecordBatch, DataFusionError> {
    let nullable = aggregation.input_schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let nulls = nullable.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::clone(&nullable), nulls, &options)?;
    let input = MemoryRows::new(nullable, vec![row]).plan(None)?;
    let never: Arc<dyn PhysicalExpr> = lit(false);
    let plan = AggregateExec::try_new(
        AggregateMode::Partial,
        aggregation.group_by.clone(),
        aggregation.aggregates.clone(),
        vec![Some(never); aggregation.aggregates.len()],
        input,
        Arc::clone(&aggregation.input_schema),
    )?;
    let states = datafusion::physical_plan::collect(Arc::new(plan), session.task_ctx()).await?;
    match states.as_slice() {
        [state] if state.num_rows() == 1 => {
            Ok(RecordBatch::try_new(Arc::clone(state_schema), state.columns().to_vec())?)
        }
        _ => Err(DataFusionError::Internal("the state of no events is not one row".to_owned())),
    }
}

fn row_pieces(analyzed: &LogicalPlan) -> Result<Pieces, Refusal> {
    let carried = carry_place(analyzed)?;
    let place = place_columns(carried.schema())?;
    let outputs = analyzed.schema().columns();
    let keys = place.into_iter().enumerate().map(|(index, column)| column.alias(format!("k{index}")));
    let values =
        outputs.iter().enumerate().map(|(index, column)| Expr::Column(column.clone()).alias(format!("s{index}")));
    let input = LogicalPlanBuilder::from(carried).project(keys.chain(values).collect::<Vec<_>>())?.build()?;

    let field = |name: String, data_type: &DataType| Arc::new(Field::new(name, data_type.clone(), true));
    let keys = [field("k0".to_owned(), &DataType::Int32), field("k1".to_owned(), &DataType::Int64)];
    let types = analyzed.schema().fields().iter().map(|field| field.data_type()).enumerate();
    let states = types.clone().map(|(index, data_type)| field(format!("s{index}"), data_type));
    let results = types.map(|(index, data_type)| field(format!("a{index}"), data_type));
    let state_schema = Arc::new(Schema::new(keys.iter().cloned().chain(states).collect::<Vec<_>>()));
    let finished_schema = Arc::new(Schema::new(keys.iter().cloned().chain(results).collect::<Vec<_>>()));
    let finish = finished_rows(&finished_schema, keys.len(), analyzed.schema().iter())?;
    Ok(Pieces {
        input,
        kind: ViewKind::Rows,
        finish,
        key_count: keys.len(),
        state_schema,
        finished_schema,
        notes: vec!["no GROUP BY: the view keeps a row for each event that passes the filter".to_owned()],
    })
}

fn note(call: &Expr) -> Option<String> {
    let Expr::AggregateFunction(call) = unalias(call) else { return None };
    match call.func.name() {
        "count" if call.params.distinct => Some(
            "count(DISTINCT ...) is exact: each group keeps a list of its distinct values, in both layers; \
             approx_distinct keeps at most 16 KiB a group and is within about 1%"
                .to_owned(),
        ),
        "approx_distinct" => Some(
            "approx_distinct is a HyperLogLog sketch (at most 16 KiB a group, about 1% error); its merge is exact: the \
             layers together give the sketch of one pass"
                .to_owned(),
        ),
        "approx_percentile_cont" | "approx_median" => Some(format!(
            "{} is a t-digest (about 100 centroids a group); merging digests changes its estimate within its error",
            call.func.name()
        )),
        _ => None,
    }
}
