//! The SQL of a project: `CREATE SOURCE`, `CREATE MATERIALIZED VIEW` and `CREATE SINK`, parsed and checked.
//!
//! A text goes through four steps: it is split into statements of tokens (`text`), each is parsed by a small grammar on
//! top of sqlparser's (`source`, `view`, `sink`), a view's query is checked for what views cannot do (`query`), and
//! `tumble` in its GROUP BY is given its meaning (`tumble`, `window`). What needs the source's columns waits for
//! [`ViewStatement::bind`]; what needs types waits for the planner. Nothing here panics on any input.
//!
//! Every refusal is [`Error::InvalidDefinition`]: the place in the given text,
//! the reason, and what to write instead.

mod dialect;
mod id;
mod interval;
mod kafka;
mod options;
mod query;
mod sink;
mod source;
mod text;
mod tumble;
mod types;
mod view;
mod window;

#[cfg(test)]
mod tests;

pub use id::DefinitionId;
pub(crate) use kafka::{metadata_type, value_columns};
pub use tumble::WindowDefinition;
pub use types::sql_type_name;
pub use view::{ViewOptions, ViewStatement};
pub(crate) use window::TUMBLE;
pub use window::{TumblingWindow, WindowSize, tumble_function};

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Result};
use crate::sink::SinkDefinition;
use crate::source::SourceDefinition;
use dialect::DefinitionDialect;
use text::{StatementText, refuse, shorten, split_statements, take_identifier, take_word};

/// Longest name of a source or a view; Postgres' limit, and short enough for any path.
const NAME_BYTES_MAX: usize = 63;

/// One statement of a definitions text.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a project has few statements, each parsed once")]
pub enum Statement {
    /// `CREATE SOURCE`.
    Source(SourceDefinition),
    /// `CREATE MATERIALIZED VIEW`.
    View(ViewStatement),
    /// `CREATE SINK`.
    Sink(SinkDefinition),
}

/// The statements of a definitions text, in its order: any number, separated by semicolons, with comments.
///
/// Unquoted names are folded to lower case, quoted ones kept. The statements are checked each for itself: whether a
/// view's source exists is for the caller, who knows what else is defined.
///
/// # Errors
/// The first thing that cannot work, as `InvalidDefinition`; also two sources, two views or two sinks of one name.
pub fn parse_definitions(sql: &str) -> Result<Vec<Statement>> {
    let mut statements: Vec<Statement> = Vec::new();
    for text in split_statements(sql)? {
        let statement = parse_statement(&text)?;
        if statements.iter().any(|earlier| earlier.kind_and_name() == statement.kind_and_name()) {
            let (kind, name) = statement.kind_and_name();
            return Err(refuse(
                text.start,
                format!("{kind} \"{name}\" is defined twice"),
                "keep one of the definitions",
            ));
        }
        statements.push(statement);
    }
    Ok(statements)
}

impl Statement {
    fn kind_and_name(&self) -> (&'static str, &str) {
        match self {
            Statement::Source(source) => ("source", &source.name),
            Statement::View(view) => ("view", &view.name),
            Statement::Sink(sink) => ("sink", &sink.name),
        }
    }
}

fn parse_statement(statement: &StatementText) -> Result<Statement> {
    let dialect = DefinitionDialect::new(statement.token_count());
    let mut parser = statement.parser(&dialect);
    let (expected, hint) = if !parser.parse_keyword(Keyword::CREATE) {
        (
            "CREATE SOURCE, CREATE MATERIALIZED VIEW or CREATE SINK",
            "a definitions file holds nothing else; queries go to the SQL API",
        )
    } else if take_word(&mut parser, "source") {
        return source::parse_source(statement, &mut parser).map(Statement::Source);
    } else if parser.parse_keywords(&[Keyword::MATERIALIZED, Keyword::VIEW]) {
        return view::parse_view(statement, &mut parser).map(Statement::View);
    } else if take_word(&mut parser, "sink") {
        return sink::parse_sink(statement, &mut parser).map(Statement::Sink);
    } else {
        let hint = match &parser.peek_token_ref().token {
            Token::Word(word) if word.keyword == Keyword::VIEW => {
                "write CREATE MATERIALIZED VIEW; no other views exist"
            }
            Token::Word(word) if word.keyword == Keyword::OR => {
                "leave OR REPLACE out; a changed definition replaces the old one"
            }
            Token::Word(word) if word.keyword == Keyword::TABLE => "events come from a source; write CREATE SOURCE",
            _ => "nothing else can be created",
        };
        ("SOURCE, MATERIALIZED VIEW or SINK", hint)
    };
    Err(statement.expected(&parser, expected, Some(hint)))
}

/// `[IF NOT EXISTS] name`. The words before it change nothing: applying the same definition again is always allowed.
fn parse_name(statement: &StatementText, parser: &mut Parser<'_>, kind: &str) -> Result<Ident> {
    let _ = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let Some(name) = take_identifier(parser) else {
        return Err(statement.expected(parser, &format!("the {kind}'s name"), None));
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_plain = name.value.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts_plain || !name.value.bytes().all(is_plain) || name.value.len() > NAME_BYTES_MAX {
        let reason = format!("\"{}\" cannot be the name of a {kind}", shorten(&name.value));
        let hint = "names become parts of paths and addresses: a letter or _, then letters, digits and _, at most 63";
        return Err(refuse(statement.place(name.span), reason, hint));
    }
    if parser.peek_token_ref().token == Token::Period {
        return Err(statement.expected(
            parser,
            &format!("the {kind}'s definition"),
            Some("there are no schemas; use one plain name"),
        ));
    }
    Ok(name)
}

fn expect_end(statement: &StatementText, parser: &Parser<'_>) -> Result<(), Error> {
    match parser.peek_token_ref().token {
        Token::EOF => Ok(()),
        _ => Err(statement.expected(
            parser,
            "the end of the statement",
            Some("a word before it may be misspelt; statements are separated by ;"),
        )),
    }
}
