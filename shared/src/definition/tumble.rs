//! Gives `GROUP BY tumble(time, size [, offset])` and the names `window_start` and `window_end` their meaning.
//!
//! The call stays the group key as it is: DataFusion plans it with [`tumble_function`](super::tumble_function), and it
//! is the only key that the window adds. `window_start` becomes the same call and `window_end` the call plus the size,
//! wherever the SELECT names them; the planner then recognizes the key in them. So the window's end is never stored.

use std::ops::ControlFlow;

use arrow::datatypes::IntervalMonthDayNano;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr,
    Ident, Query, Select, SelectItem, Spanned, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::interval::interval_literal;
use super::query::{function_name, select_mut};
use super::text::{StatementText, refuse};
use super::window::{TUMBLE, TumblingWindow};
use crate::error::{Error, Result};

/// Name of a window's start in SELECT, WHERE and HAVING.
pub(super) const WINDOW_START: &str = "window_start";
/// Name of a window's end in SELECT, WHERE and HAVING.
pub(super) const WINDOW_END: &str = "window_end";

const USAGE: &str = "write GROUP BY tumble(time, INTERVAL '1 hour'), or with an offset \
                     tumble(time, INTERVAL '1 day', INTERVAL '6 hours')";

/// The window of a view that groups by `tumble`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowDefinition {
    /// The event time as SQL: a column or an expression over columns.
    pub time: String,
    /// Size and offset.
    pub window: TumblingWindow,
}

/// Rewrites the checked query of a view for the planner; `None` if it has no window.
///
/// # Errors
/// More than one window, `tumble` elsewhere than in GROUP BY, or arguments that make no windows.
pub(super) fn rewrite_tumble(statement: &StatementText, query: &mut Query) -> Result<Option<WindowDefinition>> {
    let mut calls = TumbleCalls { statement, places: Vec::new() };
    let _ = Visit::visit(&*query, &mut calls);
    let Some(select) = select_mut(query) else { return Ok(None) };
    let mut keys = group_keys(select).iter().filter_map(as_tumble);
    let key = keys.next().cloned();
    if let Some(second) = keys.next() {
        let at = statement.place(second.name.span());
        return Err(refuse(at, "a view has one window", "keep one tumble and write another view for the other"));
    }
    let key_at = key.as_ref().map(|key| statement.place(key.name.span()));
    if let Some(other) = calls.places.into_iter().find(|place| Some(*place) != key_at) {
        let reason = "tumble stands elsewhere than among the keys of the outermost GROUP BY";
        let hint = format!("{USAGE}; elsewhere write {WINDOW_START} or {WINDOW_END}");
        return Err(refuse(other, reason, hint.as_str()));
    }
    let Some(key) = key else { return Ok(None) };
    let window = Window::parse(statement, key)?;
    refuse_hidden_names(statement, select)?;
    window.replace_names(select);
    Ok(Some(window.definition))
}

/// A checked call of `tumble` and what its names stand for.
struct Window {
    definition: WindowDefinition,
    start: Expr,
    end: Expr,
}

impl Window {
    fn parse(statement: &StatementText, call: Function) -> Result<Window> {
        let at = statement.place(call.name.span());
        let arguments = plain_arguments(&call)
            .ok_or_else(|| refuse(at, "tumble takes a time, a size and perhaps an offset, and nothing else", USAGE))?;
        let (time, size, offset) = match arguments.as_slice() {
            [time, size] => (*time, *size, None),
            [time, size, offset] => (*time, *size, Some(*offset)),
            other => {
                return Err(refuse(at, format!("tumble takes two or three arguments, not {}", other.len()), USAGE));
            }
        };
        let refused = |reason: String| refuse(at, reason, USAGE);
        let size_value = interval_literal(size).map_err(|reason| refused(format!("the window's size: {reason}")))?;
        let offset_value = match offset {
            Some(offset) => {
                interval_literal(offset).map_err(|reason| refused(format!("the window's offset: {reason}")))?
            }
            None => IntervalMonthDayNano::ZERO,
        };
        let window = TumblingWindow::new(size_value, offset_value).map_err(refused)?;
        let definition = WindowDefinition { time: time.to_string(), window };
        let size = Box::new(size.clone());
        let start = Expr::Function(call);
        let sum = Expr::BinaryOp { left: Box::new(start.clone()), op: BinaryOperator::Plus, right: size };
        Ok(Window { definition, start, end: Expr::Nested(Box::new(sum)) })
    }

    fn replace_names(&self, select: &mut Select) {
        for item in &mut select.projection {
            // The planner would name the column after the whole call.
            if let SelectItem::UnnamedExpr(Expr::Identifier(name)) = item
                && let Some(expr) = self.meaning(name)
            {
                *item = SelectItem::ExprWithAlias { expr, alias: Ident::new(&name.value) };
            }
        }
        let mut names = NameReplacement { window: self };
        let _ = VisitMut::visit(&mut select.projection, &mut names);
        let _ = VisitMut::visit(&mut select.selection, &mut names);
        let _ = VisitMut::visit(&mut select.having, &mut names);
        let _ = VisitMut::visit(&mut select.group_by, &mut names);
    }

    fn meaning(&self, name: &Ident) -> Option<Expr> {
        match name.value.as_str() {
            WINDOW_START => Some(self.start.clone()),
            WINDOW_END => Some(self.end.clone()),
            _ => None,
        }
    }
}

fn group_keys(select: &Select) -> &[Expr] {
    match &select.group_by {
        GroupByExpr::Expressions(keys, _) => keys,
        GroupByExpr::All(_) => &[],
    }
}

fn as_tumble(expr: &Expr) -> Option<&Function> {
    match expr {
        Expr::Nested(inner) => as_tumble(inner),
        Expr::Function(function) if function_name(function) == Some(TUMBLE) => Some(function),
        _ => None,
    }
}

/// The arguments of a call that has nothing but plain arguments.
fn plain_arguments(call: &Function) -> Option<Vec<&Expr>> {
    let FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }) = &call.args else {
        return None;
    };
    let is_plain = clauses.is_empty()
        && call.filter.is_none()
        && call.null_treatment.is_none()
        && call.within_group.is_empty()
        && matches!(call.parameters, FunctionArguments::None);
    let argument = |argument| match argument {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expr)) => Some(expr),
        _ => None,
    };
    if is_plain { args.iter().map(argument).collect() } else { None }
}

/// Names that would no longer mean what they say once the window's names are replaced.
fn refuse_hidden_names(statement: &StatementText, select: &Select) -> Result<()> {
    for key in group_keys(select) {
        if let Expr::Identifier(name) = key
            && is_window_name(&name.value)
        {
            let reason = format!("{} is not a key of its own: tumble is the key", name.value);
            return Err(refuse(statement.place(name.span), reason, "leave it out of GROUP BY"));
        }
    }
    match Visit::visit(&select.from, &mut AliasCheck { statement }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

pub(super) fn is_window_name(name: &str) -> bool {
    name == WINDOW_START || name == WINDOW_END
}

/// Where `tumble` is called, anywhere in a query.
struct TumbleCalls<'a> {
    statement: &'a StatementText,
    places: Vec<Location>,
}

impl Visitor for TumbleCalls<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && function_name(function) == Some(TUMBLE)
        {
            self.places.push(self.statement.place(function.name.span()));
        }
        ControlFlow::Continue(())
    }
}

/// Refuses subqueries that have a column of a window's name.
struct AliasCheck<'a> {
    statement: &'a StatementText,
}

impl Visitor for AliasCheck<'_> {
    type Break = Box<Error>;

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Box<Error>> {
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item
                && is_window_name(&alias.value)
            {
                let reason = format!("the subquery's column {} has the name of the window's", alias.value);
                let at = self.statement.place(alias.span);
                return ControlFlow::Break(Box::new(refuse(at, reason, "give the subquery's column another name")));
            }
        }
        ControlFlow::Continue(())
    }
}

struct NameReplacement<'a> {
    window: &'a Window,
}

impl VisitorMut for NameReplacement<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && let Some(meaning) = self.window.meaning(name)
        {
            *expr = meaning;
        }
        ControlFlow::Continue(())
    }
}
