//! `WITH (name = value, ...)` of sources and views.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

use super::text::{StatementText, refuse, shorten, take_identifier};
use crate::error::Result;

/// The options of one statement, each known and given at most once.
#[derive(Debug, Default)]
pub(super) struct WithOptions {
    options: Vec<WithOption>,
}

/// One option; what its value means is for the statement to say.
#[derive(Debug)]
pub(super) struct WithOption {
    /// The value: a string's contents, or a number's digits.
    pub(super) value: String,
    /// Where the value stands.
    pub(super) at: Location,
    is_text: bool,
    name: String,
}

impl WithOptions {
    /// Parses `(name = value, ...)` after the word WITH; names must be among `known`.
    pub(super) fn parse(statement: &StatementText, parser: &mut Parser<'_>, known: &[&str]) -> Result<WithOptions> {
        if !parser.consume_token(&Token::LParen) {
            return Err(statement.expected(parser, "( after WITH", None));
        }
        let mut options: Vec<WithOption> = Vec::new();
        loop {
            let at = parser.peek_token_ref().span.start;
            let option = WithOption::parse(statement, parser, known)?;
            if options.iter().any(|earlier| earlier.name == option.name) {
                return Err(refuse(at, format!("option \"{}\" is given twice", option.name), "keep one of them"));
            }
            options.push(option);
            if parser.consume_token(&Token::RParen) {
                return Ok(WithOptions { options });
            }
            if !parser.consume_token(&Token::Comma) {
                return Err(statement.expected(parser, ", or ) after an option", None));
            }
        }
    }

    /// The option of this name, if given.
    pub(super) fn get(&self, name: &str) -> Option<&WithOption> {
        self.options.iter().find(|option| option.name == name)
    }

    /// The text of the option of this name, if given.
    ///
    /// # Errors
    /// A value that is a number, or an empty text.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        self.get(name).map(WithOption::text).transpose()
    }
}

impl WithOption {
    /// The value as a text.
    ///
    /// # Errors
    /// A value that is a number, or an empty text.
    pub(super) fn text(&self) -> Result<String> {
        if !self.is_text || self.value.trim().is_empty() {
            let reason = format!("option \"{}\" needs a text", self.name);
            return Err(refuse(self.at, reason, format!("write it in quotes, as {} = '...'", self.name).as_str()));
        }
        Ok(self.value.clone())
    }

    fn parse(statement: &StatementText, parser: &mut Parser<'_>, known: &[&str]) -> Result<WithOption> {
        let hint = format!("the options are {}; write them as name = value, the name without quotes", known.join(", "));
        let at = parser.peek_token_ref().span.start;
        let Some(name) = take_identifier(parser) else {
            return Err(statement.expected(parser, "the name of an option", Some(&hint)));
        };
        if !known.contains(&name.value.as_str()) {
            return Err(refuse(at, format!("there is no option \"{}\"", shorten(&name.value)), hint.as_str()));
        }
        if !parser.consume_token(&Token::Eq) {
            return Err(statement.expected(parser, "= after the name of an option", None));
        }
        let (value, is_text) = match &parser.peek_token_ref().token {
            Token::SingleQuotedString(text) => (text.clone(), true),
            Token::Number(digits, _) => (digits.clone(), false),
            _ => return Err(statement.expected(parser, "a text in single quotes or a number", None)),
        };
        let at = parser.peek_token_ref().span.start;
        parser.advance_token();
        Ok(WithOption { name: name.value, value, at, is_text })
    }
}
