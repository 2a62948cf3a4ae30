//! `WITH (name = value, ...)` of sources, views and sinks. A name may have several words with dots between them, as properties
//! of Kafka's clients have.

use std::collections::BTreeMap;
use std::path::PathBuf;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

use super::text::{StatementText, refuse, shorten, take_identifier};
use crate::error::Result;
use crate::registry::RegistryOptions;
use crate::source::is_secret;

/// Longest name of a topic; Kafka's limit.
const TOPIC_BYTES_MAX: usize = 249;

/// The options of one statement, each known and given at most once.
#[derive(Debug, Default)]
pub(super) struct WithOptions {
    options: Vec<WithOption>,
}

/// One option; what its value means is for the statement to say.
#[derive(Debug)]
pub(super) struct WithOption {
    /// The value: a string's contents, a number's digits, `true` or `false`.
    pub(super) value: String,
    /// Where the value stands.
    pub(super) at: Location,
    /// The option's name, with its dots.
    pub(super) name: String,
    is_text: bool,
}

impl WithOptions {
    /// Parses `(name = value, ...)` after the word WITH; names must be among `known`, where `prefix.*` stands for all that
    /// begin so.
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

    /// All options, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &WithOption> {
        self.options.iter()
    }

    /// The properties of librdkafka among the options, `kafka.name = value`.
    ///
    /// # Errors
    /// One of `own`, which the platform sets itself; `because` says what of it, and `hint` what to do.
    pub(super) fn properties(&self, own: &[&str], because: &str, hint: &str) -> Result<BTreeMap<String, String>> {
        let mut properties = BTreeMap::new();
        for option in self.iter() {
            let Some(property) = option.name.strip_prefix("kafka.") else { continue };
            if own.contains(&property) {
                let reason = format!("the property {property} {because}, which the platform does itself");
                return Err(refuse(option.at, reason, hint));
            }
            // Only quoted values are hidden where definitions are shown.
            properties
                .insert(property.to_owned(), if is_secret(property) { option.text()? } else { option.value.clone() });
        }
        Ok(properties)
    }

    /// The schema registry that is given, with what it takes to ask it.
    ///
    /// # Errors
    /// Something of it without its address; a password without a user, or a user and a token.
    pub(super) fn registry(&self) -> Result<Option<RegistryOptions>> {
        let (user, password) = (self.text("schema_registry.user")?, self.text("schema_registry.password")?);
        let token = self.text("schema_registry.token")?;
        let ca_file = self.text("schema_registry.ca_file")?.map(PathBuf::from);
        if let Some(option) = self.get("schema_registry.password").filter(|_| user.is_none()) {
            let reason = "a password for the schema registry is given without a user";
            return Err(refuse(option.at, reason, "write schema_registry.user = '...' beside it"));
        }
        if let Some(option) = self.get("schema_registry.token").filter(|_| user.is_some()) {
            let reason = "both a user and a token for the schema registry are given";
            return Err(refuse(option.at, reason, "leave one of them out"));
        }
        if let Some(url) = self.text("schema_registry")? {
            let login = user.map(|user| (user, password.unwrap_or_default()));
            return Ok(Some(RegistryOptions { url, login, token, ca_file }));
        }
        match self.iter().find(|option| option.name.starts_with("schema_registry.")) {
            Some(option) => {
                let reason = format!("option \"{}\" is given without a registry", option.name);
                Err(refuse(option.at, reason, "write schema_registry = 'http://localhost:8081'"))
            }
            None => Ok(None),
        }
    }

    /// Whether the option of this name is given and `true`.
    ///
    /// # Errors
    /// A value that is neither `true` nor `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        let Some(option) = self.get(name) else { return Ok(false) };
        option.value.parse().map_err(|_| {
            let reason = format!("{name} = {} is neither true nor false", shorten(&option.value));
            refuse(option.at, reason, format!("write {name} = true, or leave it out").as_str())
        })
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

    /// The value as the name of a topic.
    ///
    /// # Errors
    /// What no topic can be called.
    pub(super) fn topic(&self) -> Result<String> {
        let name = self.text()?;
        check_topic(self.at, &name)?;
        Ok(name)
    }

    fn parse(statement: &StatementText, parser: &mut Parser<'_>, known: &[&str]) -> Result<WithOption> {
        let hint = format!("the options are {}; write them as name = value, the name without quotes", known.join(", "));
        let at = parser.peek_token_ref().span.start;
        let Some(name) = take_name(parser) else {
            return Err(statement.expected(parser, "the name of an option", Some(&hint)));
        };
        let is_name = |known: &&str| match known.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => **known == name,
        };
        if !known.iter().any(is_name) {
            return Err(refuse(at, format!("there is no option \"{}\"", shorten(&name)), hint.as_str()));
        }
        if !parser.consume_token(&Token::Eq) {
            return Err(statement.expected(parser, "= after the name of an option", None));
        }
        let (value, is_text) = match &parser.peek_token_ref().token {
            Token::SingleQuotedString(text) => (text.clone(), true),
            Token::Number(digits, _) => (digits.clone(), false),
            Token::Word(word) if matches!(word.keyword, Keyword::TRUE | Keyword::FALSE) => (word.value.clone(), false),
            _ => return Err(statement.expected(parser, "a text in single quotes, a number, true or false", None)),
        };
        let at = parser.peek_token_ref().span.start;
        parser.advance_token();
        Ok(WithOption { name, value, at, is_text })
    }
}

/// Refuses what no topic of Kafka can be called.
pub(super) fn check_topic(at: Location, name: &str) -> Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.bytes().all(is_allowed) && (1..=TOPIC_BYTES_MAX).contains(&name.len()) && name != "." && name != ".." {
        return Ok(());
    }
    let reason = format!("no topic can be called '{}'", shorten(name));
    Err(refuse(at, reason, "names of topics are letters, digits, ., _ and -, at most 249"))
}

/// The words of a name with the dots between them.
fn take_name(parser: &mut Parser<'_>) -> Option<String> {
    let mut name = take_identifier(parser)?.value;
    while parser.consume_token(&Token::Period) {
        name.push('.');
        // A dot without a word after it makes a name that is not known.
        name.extend(take_identifier(parser).map(|word| word.value));
    }
    Some(name)
}
