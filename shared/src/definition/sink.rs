//! `CREATE SINK [IF NOT EXISTS] name FROM view INTO 'topic' WITH (brokers = '...', mode = 'update', ...)`.

use std::sync::Arc;
use std::time::Duration;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::interval::{day_time_micros, parse_interval};
use super::options::{WithOption, WithOptions, check_topic};
use super::text::{StatementText, refuse, shorten, take_identifier};
use super::{expect_end, parse_name};
use crate::error::Result;
use crate::sink::{SinkDefinition, SinkFormat, SinkMode};

const SINK_OPTIONS: [&str; 11] = [
    "brokers",
    "mode",
    "trigger",
    "key",
    "format",
    "schema_registry",
    "schema_registry.user",
    "schema_registry.password",
    "schema_registry.token",
    "schema_registry.ca_file",
    "kafka.*",
];

const MODES_HINT: &str = "the modes are 'update' (rows of changed groups), 'append' (rows that will not change any more) and \
                          'complete' (all rows each time)";

/// What of a producer decides whether each record comes once, which the platform does itself.
const OWN_PROPERTIES: [&str; 11] = [
    "delivery.report.only.error",
    "statistics.interval.ms",
    "bootstrap.servers",
    "metadata.broker.list",
    "transactional.id",
    "enable.idempotence",
    "acks",
    "request.required.acks",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "group.id",
];

/// The words CREATE SINK have been read; the rest of the statement follows.
pub(super) fn parse_sink(statement: &StatementText, parser: &mut Parser<'_>) -> Result<SinkDefinition> {
    let name = parse_name(statement, parser, "sink")?;
    if !parser.parse_keyword(Keyword::FROM) {
        return Err(statement.expected(parser, "FROM and the name of a view", None));
    }
    let Some(view) = take_identifier(parser) else {
        let hint = "a sink sends the rows of one view; put the query into a view";
        return Err(statement.expected(parser, "the name of a view", Some(hint)));
    };
    if !parser.parse_keyword(Keyword::INTO) {
        return Err(statement.expected(parser, "INTO and the name of a topic in single quotes", None));
    }
    let Token::SingleQuotedString(topic) = parser.peek_token_ref().token.clone() else {
        return Err(statement.expected(parser, "the name of a topic in single quotes", None));
    };
    check_topic(statement.place(parser.peek_token_ref().span), &topic)?;
    parser.advance_token();
    let with_at = statement.place(parser.peek_token_ref().span);
    let options = match parser.parse_keyword(Keyword::WITH) {
        true => WithOptions::parse(statement, parser, &SINK_OPTIONS)?,
        false => WithOptions::default(),
    };
    expect_end(statement, parser)?;
    let Some(brokers) = options.text("brokers")? else {
        let reason = "a sink needs the option \"brokers\"";
        return Err(refuse(with_at, reason, "write WITH (brokers = 'localhost:9092')"));
    };
    Ok(SinkDefinition {
        name: name.value,
        sql: statement.sql.clone(),
        view: view.value,
        topic,
        brokers,
        mode: options.get("mode").map(mode).transpose()?,
        trigger: options.get("trigger").map_or(Ok(Duration::from_secs(1)), trigger)?,
        format: format(&options)?,
        key: options.text("key")?.map(|key| key.split(',').map(|column| column.trim().to_owned()).collect()),
        properties: Arc::new(options.properties(
            &OWN_PROPERTIES,
            "decides whether each record comes once",
            "use the option brokers; the rest is the platform's",
        )?),
        line: statement.start.line,
    })
}

fn mode(option: &WithOption) -> Result<SinkMode> {
    match option.text()?.as_str() {
        "update" => Ok(SinkMode::Update),
        "append" => Ok(SinkMode::Append),
        "complete" => Ok(SinkMode::Complete),
        other => Err(refuse(option.at, format!("there is no mode '{}'", shorten(other)), MODES_HINT)),
    }
}

fn trigger(option: &WithOption) -> Result<Duration> {
    let text = option.text()?;
    let micros = parse_interval(&text).ok().and_then(day_time_micros).and_then(|micros| u64::try_from(micros).ok());
    micros.filter(|micros| *micros > 0).map(Duration::from_micros).ok_or_else(|| {
        let reason = format!("trigger = '{}' is not a time", shorten(&text));
        refuse(option.at, reason, "write how often changes are sent, such as '1 second' or '100 milliseconds'")
    })
}

fn format(options: &WithOptions) -> Result<SinkFormat> {
    let registry = options.registry()?;
    let Some(option) = options.get("format") else { return without_registry(options) };
    match (option.text()?.as_str(), registry) {
        ("json", _) => without_registry(options),
        ("avro", Some(registry)) => Ok(SinkFormat::Avro(registry)),
        ("avro", None) => {
            let reason = "the format 'avro' needs a schema registry, where readers find the schema of a record";
            Err(refuse(option.at, reason, "write schema_registry = 'http://localhost:8081'"))
        }
        (other, _) => {
            let reason = format!("a sink cannot write the format '{}'", shorten(other));
            Err(refuse(option.at, reason, "the formats of sinks are 'json' and 'avro'"))
        }
    }
}

fn without_registry(options: &WithOptions) -> Result<SinkFormat> {
    match options.get("schema_registry") {
        Some(option) => {
            let reason = "the format 'json' is written without a schema registry";
            Err(refuse(option.at, reason, "write format = 'avro', or leave the registry out"))
        }
        None => Ok(SinkFormat::Json),
    }
}
