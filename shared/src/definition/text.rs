//! From a definitions text to its statements' tokens, and from places in the text to errors.
//!
//! Unquoted words become lower case here, once, as DataFusion would fold them when planning: everything after this
//! module compares names as they are. Lines and columns always refer to the text that the caller gave.

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError, ParserOptions};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use super::dialect::DefinitionDialect;
use crate::error::{Error, Result};

/// How deep brackets and the parser's own recursion may nest; sqlparser's default.
const NESTING_MAX: usize = 50;

/// How many tokens may stand in a row without a comma or a branch of CASE, over all open brackets together.
///
/// `a + a + ...` becomes a tree one level deeper for each operator, which sqlparser and DataFusion walk and free by
/// recursion, at up to 1 KiB a level: 500 levels are a quarter of a thread's usual 2 MiB.
const CHAIN_TOKENS_MAX: usize = 1_000;

/// Longest part of an offending text that an error repeats.
const QUOTED_CHARS_MAX: usize = 200;

/// One statement of a definitions text, without its semicolon.
#[derive(Debug)]
pub(super) struct StatementText {
    /// The statement as written, from its first to its last token.
    pub(super) sql: String,
    /// Where its first token starts.
    pub(super) start: Location,
    tokens: Vec<TokenWithSpan>,
    end: Location,
}

/// The statements of `text` in order; empty ones are left out.
///
/// # Errors
/// Text that has no tokens (an open quote), or a statement nested too deeply to be read.
pub(super) fn split_statements(text: &str) -> Result<Vec<StatementText>> {
    let mut tokens = Tokenizer::new(&DefinitionDialect::new(0), text)
        .tokenize_with_location()
        .map_err(|error| refuse(error.location, sentence(&error.message), None))?;
    for token in &mut tokens {
        if let Token::Word(word) = &mut token.token
            && word.quote_style.is_none()
        {
            word.value.make_ascii_lowercase();
        }
    }
    let lines = LineStarts::new(text);
    let statements = tokens.split(|token| token.token == Token::SemiColon);
    let mut result = Vec::new();
    for tokens in statements {
        let mut words = tokens.iter().filter(|token| !is_space(token));
        let Some(first) = words.next() else { continue };
        let last = words.next_back().unwrap_or(first);
        check_depth(tokens)?;
        result.push(StatementText {
            sql: text.get(lines.byte(first.span.start)..lines.byte(last.span.end)).unwrap_or_default().to_owned(),
            start: first.span.start,
            end: last.span.end,
            tokens: tokens.to_vec(),
        });
    }
    Ok(result)
}

impl StatementText {
    /// Number of tokens, spaces and comments included: what `DefinitionDialect::new` wants to know.
    pub(super) fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// A parser at the statement's first token.
    pub(super) fn parser<'a>(&self, dialect: &'a DefinitionDialect) -> Parser<'a> {
        Parser::new(dialect)
            .with_recursion_limit(NESTING_MAX)
            .with_options(ParserOptions::new())
            .with_tokens_with_locations(self.tokens.clone())
    }

    /// The parser's complaint as an error with a place.
    pub(super) fn syntax_error(&self, parser: &Parser<'_>, error: ParserError) -> Error {
        let here = self.place(parser.get_current_token().span);
        match error {
            ParserError::RecursionLimitExceeded => nested_too_deeply(here),
            ParserError::TokenizerError(message) => refuse(here, sentence(&message), None),
            ParserError::ParserError(message) => {
                let (message, place) = split_place(&message);
                let place = place.unwrap_or(if message.ends_with("found: EOF") { self.end } else { here });
                refuse(place, sentence(message), None)
            }
        }
    }

    /// The error for the parser's next token when the grammar wants `expected` there.
    pub(super) fn expected(&self, parser: &Parser<'_>, expected: &str, hint: Option<&str>) -> Error {
        let next = parser.peek_token_ref();
        let (found, place) = match &next.token {
            Token::EOF => ("the end of the statement".to_owned(), self.end),
            token => (token.to_string(), next.span.start),
        };
        refuse(place, format!("expected {expected}, found {}", shorten(&found)), hint)
    }

    /// Where `span` starts; the statement's start if the parser left the span out.
    pub(super) fn place(&self, span: Span) -> Location {
        if span.start.line == 0 { self.start } else { span.start }
    }

    /// Where the first of `keywords` stands at or after `from`; `from` if none does.
    pub(super) fn keyword_after(&self, keywords: &[Keyword], from: Location) -> Location {
        self.keyword_places(keywords).find(|place| *place >= from).unwrap_or(from)
    }

    /// Where the keyword `keyword` last stands before `until`; `until` if it does not.
    pub(super) fn keyword_before(&self, keyword: Keyword, until: Location) -> Location {
        let places = self.keyword_places(std::slice::from_ref(&keyword));
        places.take_while(|place| *place < until).last().unwrap_or(until)
    }

    fn keyword_places(&self, keywords: &[Keyword]) -> impl Iterator<Item = Location> {
        let is_keyword =
            |token: &&TokenWithSpan| matches!(&token.token, Token::Word(word) if keywords.contains(&word.keyword));
        self.tokens.iter().filter(is_keyword).map(|token| token.span.start)
    }
}

/// A refusal at a place of the definitions text: why, and what to write instead.
pub(super) fn refuse<'a>(at: Location, reason: impl Into<String>, hint: impl Into<Option<&'a str>>) -> Error {
    let hint = hint.into().map(str::to_owned);
    Error::InvalidDefinition { line: at.line.max(1), column: at.column.max(1), reason: reason.into(), hint }
}

/// Takes the next token if it is the unquoted word `word`, which is lower case and need not be a keyword.
pub(super) fn take_word(parser: &mut Parser<'_>, word: &str) -> bool {
    let found = matches!(&parser.peek_token_ref().token, Token::Word(w) if w.quote_style.is_none() && w.value == word);
    if found {
        parser.advance_token();
    }
    found
}

/// Takes an identifier; `None` leaves the parser where it is. Unlike sqlparser's own, it takes no string literals.
pub(super) fn take_identifier(parser: &mut Parser<'_>) -> Option<Ident> {
    let next = parser.peek_token_ref();
    let Token::Word(word) = &next.token else { return None };
    let identifier = word.to_ident(next.span);
    parser.advance_token();
    Some(identifier)
}

/// A text as an error repeats it: the start of it, if it is long.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn nested_too_deeply(at: Location) -> Error {
    let reason = format!(
        "the statement is too deep: it nests more than {NESTING_MAX} levels or chains more than \
         {CHAIN_TOKENS_MAX} words"
    );
    refuse(at, reason, "write long conditions with IN (...), or split the query into a subquery in FROM")
}

/// What closes a bracket. Angle brackets are brackets where they hold types; CASE is closed by END.
#[derive(PartialEq)]
enum Closing {
    Parenthesis,
    Square,
    Brace,
    Angle,
    End,
}

/// Refuses what would exhaust the stack when parsed, walked or freed.
fn check_depth(tokens: &[TokenWithSpan]) -> Result<()> {
    // What closes each open bracket, and how long the chain was before it.
    let mut open: Vec<(Closing, usize)> = Vec::new();
    let mut chain = 0;
    let mut previous = Keyword::NoKeyword;
    for token in tokens.iter().filter(|token| !is_space(token)) {
        let keyword = match &token.token {
            Token::Word(word) => word.keyword,
            _ => Keyword::NoKeyword,
        };
        let holds_types = matches!(previous, Keyword::ARRAY | Keyword::STRUCT | Keyword::MAP);
        let mut close = |closing: Closing| {
            // A `<` that was a comparison after all, or a word `case` that was a name, is still open here.
            if let Some(index) = open.iter().rposition(|(open, _)| *open == closing) {
                chain = open[index].1;
                open.truncate(index);
            }
        };
        match (&token.token, keyword) {
            (Token::RParen, _) => close(Closing::Parenthesis),
            (Token::RBracket, _) => close(Closing::Square),
            (Token::RBrace, _) => close(Closing::Brace),
            (Token::Gt | Token::ShiftRight, _) => {
                let count = if token.token == Token::Gt { 1 } else { 2 };
                for _ in 0..count {
                    open.pop_if(|(closing, _)| *closing == Closing::Angle);
                }
            }
            (_, Keyword::END) => {
                if let Some((_, outer)) = open.pop_if(|(closing, _)| *closing == Closing::End) {
                    chain = outer;
                }
            }
            (Token::LParen, _) => open.push((Closing::Parenthesis, chain)),
            (Token::LBracket, _) => open.push((Closing::Square, chain)),
            (Token::LBrace, _) => open.push((Closing::Brace, chain)),
            (Token::Lt, _) if holds_types => open.push((Closing::Angle, chain)),
            (_, Keyword::CASE) => open.push((Closing::End, chain)),
            (Token::Comma, _) => chain = open.last().map_or(0, |(_, outer)| *outer),
            (_, Keyword::WHEN | Keyword::THEN | Keyword::ELSE) => {
                chain = open.last().filter(|(closing, _)| *closing == Closing::End).map_or(chain, |(_, outer)| *outer);
            }
            _ => {}
        }
        chain += 1;
        // The parser reads the operand of INTERVAL without counting the level.
        let interval_of_interval = keyword == Keyword::INTERVAL && previous == Keyword::INTERVAL;
        if open.len() > NESTING_MAX || chain > CHAIN_TOKENS_MAX || interval_of_interval {
            return Err(nested_too_deeply(token.span.start));
        }
        previous = keyword;
    }
    Ok(())
}

fn is_space(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

/// Splits the place off that sqlparser writes at the end of its messages: `... at Line: 3, Column: 14`.
fn split_place(message: &str) -> (&str, Option<Location>) {
    let parse = || {
        let (message, place) = message.rsplit_once(" at Line: ")?;
        let (line, column) = place.split_once(", Column: ")?;
        Some((message, Location::new(line.parse().ok()?, column.parse().ok()?)))
    };
    parse().map_or((message, None), |(message, place)| (message, Some(place)))
}

/// sqlparser's message in this project's form: lower case, without its prefixes, not longer than a reader wants.
fn sentence(message: &str) -> String {
    let message = message.trim().replacen("Expected: ", "expected ", 1).replacen(
        ", found: EOF",
        ", found the end of the statement",
        1,
    );
    let message = message.replacen(", found: ", ", found ", 1);
    let mut chars = shorten(&message).chars().collect::<Vec<_>>();
    if let Some(first) = chars.first_mut() {
        first.make_ascii_lowercase();
    }
    chars.into_iter().collect()
}

/// Where each line of a text starts, to find the byte of a line and a column (in characters, from 1).
struct LineStarts<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineStarts<'a> {
    fn new(text: &'a str) -> LineStarts<'a> {
        let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
        LineStarts { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    fn byte(&self, place: Location) -> usize {
        let index = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        let start = self.starts.get(index(place.line)).copied().unwrap_or(self.text.len());
        let rest = self.text.get(start..).unwrap_or_default();
        rest.char_indices().nth(index(place.column)).map_or(self.text.len(), |(byte, _)| start + byte)
    }
}
