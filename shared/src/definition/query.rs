//! What a view's query may be: one SELECT over one source, with filters, keys and aggregates.
//!
//! Refused here is what no view can do, or cannot do yet, by the shape of the query alone. Types, unknown columns and
//! functions, nested aggregates and aggregates without mergeable states are for the planner, which knows them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArguments, GroupByExpr, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr,
    SetOperator, Spanned, TableFactor, TableWithJoins, Value, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Location;

use super::text::{StatementText, refuse, shorten};
use crate::error::{Error, Result};

/// Functions whose value depends on when or where they run, with the names other databases have for them.
const VOLATILE: &[&str] = &[
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "today",
    "random",
    "rand",
    "uuid",
    "gen_random_uuid",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
];
/// Windows that are not `tumble`, and names that other systems have for its parts.
const OTHER_WINDOWS: &[&str] = &[
    "hop",
    "hopping",
    "slide",
    "sliding",
    "cumulate",
    "session",
    "tumble_start",
    "tumble_end",
    "hop_start",
    "hop_end",
    "session_start",
    "session_end",
];
const TUMBLE_HINT: &str = "write GROUP BY tumble(time, INTERVAL '1 hour') and select window_start and window_end";

/// The source that a view's query reads.
///
/// # Errors
/// The first part of the query that no view can have.
pub(super) fn check_query(statement: &StatementText, query: &Query) -> Result<Ident> {
    let check = QueryCheck { statement };
    let source = check.query(query)?;
    match query.visit(&mut ExpressionCheck { statement }) {
        ControlFlow::Continue(()) => Ok(source),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// The name of a function without schema, as it is looked up; `None` for anything else.
pub(super) fn function_name(function: &Function) -> Option<&str> {
    single_part(&function.name).map(|name| name.value.as_str())
}

/// The one SELECT that a checked query consists of, out of its parentheses.
pub(super) fn select_mut(query: &mut Query) -> Option<&mut Select> {
    match query.body.as_mut() {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => select_mut(query),
        _ => None,
    }
}

/// The one identifier that a name consists of.
pub(super) fn single_part(name: &ObjectName) -> Option<&Ident> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(identifier)] => Some(identifier),
        _ => None,
    }
}

/// Walks the query's clauses down to the source.
struct QueryCheck<'a> {
    statement: &'a StatementText,
}

impl QueryCheck<'_> {
    fn query(&self, query: &Query) -> Result<Ident> {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        // Only for refusals: the span of a long query costs a deep walk.
        let start = || self.statement.place(query.span());
        if let Some(with) = with {
            let at = self.statement.place(with.with_token.0.span);
            return Err(refuse(at, "a view's query cannot have WITH yet", "write FROM (SELECT ...) AS name"));
        }
        let source = self.body(body, &start)?;
        if let Some(order_by) = order_by {
            let at = self.statement.keyword_before(Keyword::ORDER, self.statement.place(order_by.span()));
            return Err(refuse(at, "a view has no order", "put ORDER BY into the query over the view"));
        }
        let limit = limit_clause.is_some().then_some("LIMIT and OFFSET").or(fetch.is_some().then_some("FETCH"));
        if let Some(limit) = limit {
            let at = self.statement.keyword_after(&[Keyword::LIMIT, Keyword::OFFSET, Keyword::FETCH], start());
            let reason = format!("a view cannot have {limit}: which rows it keeps would change with every event");
            return Err(refuse(at, reason, "put it into the query over the view"));
        }
        let rest = [
            (!locks.is_empty(), "FOR UPDATE"),
            (for_clause.is_some(), "FOR"),
            (settings.is_some(), "SETTINGS"),
            (format_clause.is_some(), "FORMAT"),
            (!pipe_operators.is_empty(), "|>"),
        ];
        self.refuse_clauses(start(), &rest)?;
        Ok(source)
    }

    fn body(&self, body: &SetExpr, start: &dyn Fn() -> Location) -> Result<Ident> {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { op, right, .. } => {
                let (word, keyword) = match op {
                    SetOperator::Union => ("UNION", Keyword::UNION),
                    SetOperator::Except => ("EXCEPT", Keyword::EXCEPT),
                    SetOperator::Intersect => ("INTERSECT", Keyword::INTERSECT),
                    SetOperator::Minus => ("MINUS", Keyword::MINUS),
                };
                let at = self.statement.keyword_before(keyword, self.statement.place(right.span()));
                let hint = "make one view of each SELECT, and put the rest into the query over them";
                Err(refuse(at, format!("a view cannot have {word}"), hint))
            }
            _ => Err(refuse(start(), "a view's query is not a SELECT", "write SELECT ... FROM source")),
        }
    }

    fn select(&self, select: &Select) -> Result<Ident> {
        let Select {
            select_token,
            optimizer_hints: _,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection: _,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection: _,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having: _,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor: _,
        } = select;
        let start = self.statement.place(select_token.0.span);
        if distinct.is_some() {
            let at = self.statement.keyword_after(&[Keyword::DISTINCT], start);
            return Err(refuse(at, "a view cannot have SELECT DISTINCT", "write the columns into GROUP BY"));
        }
        if into.is_some() {
            let at = self.statement.keyword_after(&[Keyword::INTO], start);
            return Err(refuse(at, "a view cannot have SELECT INTO", "the view itself is what the query fills"));
        }
        let source = self.from(from, start)?;
        self.group_by(group_by, start)?;
        for (keyword, present) in [(Keyword::QUALIFY, qualify.is_some()), (Keyword::WINDOW, !named_window.is_empty())] {
            if present {
                return Err(window_function(self.statement.keyword_after(&[keyword], start)));
            }
        }
        let rest = [
            (top.is_some(), "TOP"),
            (select_modifiers.is_some() || value_table_mode.is_some(), "this form of SELECT"),
            (exclude.is_some(), "EXCLUDE"),
            (!lateral_views.is_empty(), "LATERAL VIEW"),
            (prewhere.is_some(), "PREWHERE"),
            (!connect_by.is_empty(), "CONNECT BY"),
            (!cluster_by.is_empty(), "CLUSTER BY"),
            (!distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!sort_by.is_empty(), "SORT BY"),
        ];
        self.refuse_clauses(start, &rest)?;
        Ok(source)
    }

    fn from(&self, from: &[TableWithJoins], start: Location) -> Result<Ident> {
        let hint = "joins come later; make one view of each source and join them in the query over the views";
        match from {
            [] => Err(refuse(start, "a view's query reads no source", "write FROM source")),
            [table] => match table.joins.first() {
                None => self.table(&table.relation),
                Some(join) => {
                    let at = self.statement.keyword_before(Keyword::JOIN, self.statement.place(join.relation.span()));
                    Err(refuse(at, "a view cannot join yet", hint))
                }
            },
            [_, second, ..] => {
                let at = self.statement.place(second.span());
                Err(refuse(at, "a view cannot read several tables yet", hint))
            }
        }
    }

    fn table(&self, table: &TableFactor) -> Result<Ident> {
        let at = self.statement.place(table.span());
        let alias = match table {
            TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } => alias.as_ref(),
            _ => None,
        };
        if let Some(alias) = alias.filter(|alias| !alias.columns.is_empty() || alias.at.is_some()) {
            let hint = "rename columns with AS in the SELECT list";
            return Err(refuse(
                self.statement.place(alias.name.span),
                "a table in FROM cannot rename its columns",
                hint,
            ));
        }
        match table {
            TableFactor::Table { name, args: Some(_), .. } => Err(table_function(at, name)),
            TableFactor::Table {
                name,
                alias: _,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => match single_part(name) {
                Some(name) => Ok(name.clone()),
                None => {
                    let reason = format!("there is no schema that could hold {}", shorten(&name.to_string()));
                    Err(refuse(at, reason, "write the source's plain name"))
                }
            },
            TableFactor::Derived { lateral: false, subquery, alias: _, sample: None } => self.query(subquery),
            TableFactor::NestedJoin { .. } => {
                Err(refuse(at, "a view cannot join yet", "write FROM source without parentheses"))
            }
            TableFactor::Function { name, .. } => Err(table_function(at, name)),
            _ => Err(refuse(
                at,
                "this is not a source that a view can read",
                "write FROM source or FROM (SELECT ...) AS name",
            )),
        }
    }

    fn group_by(&self, group_by: &GroupByExpr, start: Location) -> Result<()> {
        let (expressions, modifiers) = match group_by {
            GroupByExpr::All(modifiers) => (&[][..], modifiers),
            GroupByExpr::Expressions(expressions, modifiers) => (expressions.as_slice(), modifiers),
        };
        let is_grouping = |expr: &&Expr| matches!(expr, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_));
        if !modifiers.is_empty() || expressions.iter().any(|expr| is_grouping(&expr)) {
            let words = [Keyword::GROUPING, Keyword::CUBE, Keyword::ROLLUP, Keyword::TOTALS];
            let at = self.statement.keyword_after(&words, start);
            return Err(refuse(at, "a view has one grouping", "write one view for each grouping set"));
        }
        Ok(())
    }

    fn refuse_clauses(&self, at: Location, clauses: &[(bool, &str)]) -> Result<()> {
        match clauses.iter().find(|(present, _)| *present) {
            Some((_, clause)) => Err(refuse(at, format!("a view cannot have {clause}"), "leave it out")),
            None => Ok(()),
        }
    }
}

fn table_function(at: Location, name: &ObjectName) -> Error {
    let is_window = single_part(name)
        .is_some_and(|name| name.value == super::window::TUMBLE || OTHER_WINDOWS.contains(&name.value.as_str()));
    let hint = if is_window { TUMBLE_HINT } else { "write FROM source" };
    refuse(at, format!("{} in FROM is a table function, which a view cannot read", shorten(&name.to_string())), hint)
}

fn window_function(at: Location) -> Error {
    let reason = "a view cannot have window functions: one event could change any number of its rows";
    refuse(at, reason, "put the ranking into the query over the view")
}

/// Looks at every expression, wherever it stands.
struct ExpressionCheck<'a> {
    statement: &'a StatementText,
}

impl ExpressionCheck<'_> {
    fn expression(&self, expr: &Expr) -> Result<()> {
        match expr {
            Expr::Exists { .. } | Expr::InSubquery { .. } | Expr::Subquery(_) => {
                Err(self.subquery(self.statement.place(expr.span())))
            }
            Expr::Function(function) => self.function(function),
            _ => Ok(()),
        }
    }

    fn function(&self, function: &Function) -> Result<()> {
        let at = self.statement.place(function.name.span());
        if function.over.is_some() {
            return Err(window_function(at));
        }
        if matches!(function.args, FunctionArguments::Subquery(_)) {
            return Err(self.subquery(at));
        }
        let Some(name) = function_name(function) else { return Ok(()) };
        if VOLATILE.contains(&name) {
            let reason =
                format!("{name} has another value each time it runs: the batch and the speed layer would disagree");
            return Err(refuse(at, reason, "use a column of the event, or put it into the query over the view"));
        }
        if OTHER_WINDOWS.contains(&name) {
            return Err(refuse(at, format!("{name} is not supported yet; use tumble"), TUMBLE_HINT));
        }
        Ok(())
    }

    fn subquery(&self, at: Location) -> Error {
        refuse(
            at,
            "a view cannot have subqueries in expressions",
            "make the subquery a view and join in the query over both",
        )
    }
}

impl Visitor for ExpressionCheck<'_> {
    type Break = Box<Error>;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Box<Error>> {
        match self.expression(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Box<Error>> {
        let Value::Placeholder(name) = &value.value else { return ControlFlow::Continue(()) };
        let reason = format!("parameter {} has no value in a view", shorten(name));
        ControlFlow::Break(Box::new(refuse(self.statement.place(value.span), reason, "write the value itself")))
    }
}
