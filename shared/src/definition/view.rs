//! `CREATE MATERIALIZED VIEW [IF NOT EXISTS] name [WITH (batch = cron, full_recompute = cron)] AS SELECT ...`.

use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, Spanned, TableFactor, Visit, VisitMut,
    Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use super::id::DefinitionId;
use super::options::WithOptions;
use super::query::{check_query, single_part};
use super::text::{StatementText, refuse, shorten};
use super::tumble::{WindowDefinition, is_window_name, rewrite_tumble};
use super::{expect_end, parse_name};
use crate::error::{Error, Result};
use crate::source::SourceDefinition;

/// A `CREATE MATERIALIZED VIEW` whose query has the shape of a view; its columns and types are not checked yet.
#[derive(Debug, Clone)]
pub struct ViewStatement {
    /// Name, as in SQL; lower case unless it was quoted.
    pub name: String,
    /// The statement's text, without the semicolon; `parse_definitions` of it gives the same view.
    pub sql: String,
    /// Name of the one source that the query reads.
    pub source: String,
    /// What WITH says.
    pub options: ViewOptions,
    /// The query with the window's names replaced; wildcards are as written, see [`ViewStatement::bind`].
    pub query: Query,
    /// The window, if the view groups by `tumble`.
    pub window: Option<WindowDefinition>,
    /// Line in the definitions text where the statement starts, from 1.
    pub line: u64,
    start: Location,
    source_place: Location,
}

/// The options of a view; cron expressions as written, for the scheduler to parse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewOptions {
    /// When a batch run is due.
    pub batch: Option<String>,
    /// When a batch run that recomputes everything is due.
    pub full_recompute: Option<String>,
}

/// The words CREATE MATERIALIZED VIEW have been read; the rest of the statement follows.
pub(super) fn parse_view(statement: &StatementText, parser: &mut Parser<'_>) -> Result<ViewStatement> {
    let name = parse_name(statement, parser, "view")?;
    let options = if parser.parse_keyword(Keyword::WITH) {
        let options = WithOptions::parse(statement, parser, &["batch", "full_recompute"])?;
        ViewOptions { batch: options.text("batch")?, full_recompute: options.text("full_recompute")? }
    } else {
        ViewOptions::default()
    };
    if !parser.parse_keyword(Keyword::AS) {
        return Err(statement.expected(parser, "WITH (...) or AS SELECT", None));
    }
    let mut query = match parser.parse_query() {
        Ok(query) => *query,
        Err(error) => return Err(statement.syntax_error(parser, error)),
    };
    expect_end(statement, parser)?;
    let source = check_query(statement, &query)?;
    let window = rewrite_tumble(statement, &mut query)?;
    Ok(ViewStatement {
        name: name.value,
        sql: statement.sql.clone(),
        source_place: statement.place(source.span),
        source: source.value,
        options,
        query,
        window,
        line: statement.start.line,
        start: statement.start,
    })
}

impl ViewStatement {
    /// The query over `source`, which must be the one it names, for the planner: `*` becomes the declared columns,
    /// without the system columns (`_partition`, `_offset`, `_ingested_at`), which a query can still name one by one.
    /// The session that plans it needs [`tumble_function`](super::tumble_function).
    ///
    /// # Errors
    /// Another source than the view's; `window_start` and `window_end` where they mean nothing or two things.
    pub fn bind(&self, source: &SourceDefinition) -> Result<Query> {
        if source.name != self.source {
            return Err(self.unknown_source(std::slice::from_ref(&source.name)));
        }
        self.check_window_names(&source.columns)?;
        let mut query = self.query.clone();
        let mut expansion = WildcardExpansion { view: self, columns: &source.columns };
        match VisitMut::visit(&mut query, &mut expansion) {
            ControlFlow::Continue(()) => Ok(query),
            ControlFlow::Break(error) => Err(*error),
        }
    }

    /// Identity of the definition over `source`; equal ids compute equal states from equal events.
    pub fn definition_id(&self, source: &SourceDefinition) -> DefinitionId {
        DefinitionId::of(&source.columns, &self.query)
    }

    /// The refusal of this view when none of the sources that exist, `known`, is the one that it reads.
    pub fn unknown_source(&self, known: &[String]) -> Error {
        let reason = format!("there is no source \"{}\"", shorten(&self.source));
        let hint = match known {
            [] => "define it with CREATE SOURCE".to_owned(),
            known => format!("the sources are {}", shorten(&known.join(", "))),
        };
        refuse(self.source_place, reason, hint.as_str())
    }

    fn check_window_names(&self, columns: &Schema) -> Result<()> {
        if self.window.is_some() {
            let Some(column) = columns.fields().iter().find(|column| is_window_name(column.name())) else {
                return Ok(());
            };
            let reason = format!("{0} is a column of \"{1}\" and a name of the window", column.name(), self.source);
            return Err(refuse(
                self.start,
                reason,
                "rename the source's column, or group by date_bin instead of tumble",
            ));
        }
        let mut names = WindowNames::default();
        let _ = Visit::visit(&self.query, &mut names);
        match names.used.iter().find(|name| columns.field_with_name(&name.value).is_err()) {
            Some(name) if !names.defined => {
                let reason = format!("{} needs a window", name.value);
                Err(refuse(self.place(name.span), reason, "add tumble(time, INTERVAL '1 hour') to GROUP BY"))
            }
            _ => Ok(()),
        }
    }

    fn place(&self, span: Span) -> Location {
        if span.start.line == 0 { self.start } else { span.start }
    }
}

/// Where a query without a window uses a window's names, and whether it gives a column such a name itself.
#[derive(Default)]
struct WindowNames {
    used: Vec<Ident>,
    defined: bool,
}

impl Visitor for WindowNames {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && is_window_name(&name.value)
        {
            self.used.push(name.clone());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let defines =
            |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if is_window_name(&alias.value));
        self.defined |= select.projection.iter().any(defines);
        ControlFlow::Continue(())
    }
}

/// Replaces `*` in each SELECT that reads the source itself; over a subquery, `*` is what the subquery selects.
struct WildcardExpansion<'a> {
    view: &'a ViewStatement,
    columns: &'a Schema,
}

impl WildcardExpansion<'_> {
    fn expand(&self, select: &mut Select) -> Result<()> {
        let Some(TableFactor::Table { name, alias, .. }) = select.from.first().map(|table| &table.relation) else {
            return Ok(());
        };
        let table = alias.as_ref().map(|alias| &alias.name).or(single_part(name)).map(|name| name.value.clone());
        let column = |name: &String| SelectItem::UnnamedExpr(Expr::Identifier(Ident::with_quote('"', name)));
        let columns = || self.columns.fields().iter().map(|field| column(field.name()));
        let mut items = Vec::with_capacity(select.projection.len());
        for item in select.projection.drain(..) {
            match &item {
                SelectItem::Wildcard(_) => items.extend(columns()),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    if single_part(name).map(|name| &name.value) != table.as_ref() {
                        let reason = format!("there is no table \"{}\" in FROM", shorten(&name.to_string()));
                        return Err(refuse(self.view.place(name.span()), reason, "write * alone"));
                    }
                    items.extend(columns());
                }
                _ => items.push(item),
            }
        }
        select.projection = items;
        Ok(())
    }
}

impl VisitorMut for WildcardExpansion<'_> {
    type Break = Box<Error>;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Box<Error>> {
        match self.expand(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}
