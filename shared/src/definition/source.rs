//! `CREATE SOURCE [IF NOT EXISTS] name (column TYPE [NOT NULL], ..., WATERMARK FOR column AS column - INTERVAL '...')
//! [WITH (connector = 'http', partitions = 4, partition_by = 'column')]`, or a Kafka topic (see `kafka`).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Spanned};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

use super::interval::{day_time_micros, interval_literal};
use super::kafka::{SOURCE_OPTIONS, kafka_options, parse_metadata};
use super::options::{WithOption, WithOptions};
use super::text::{StatementText, refuse, shorten, take_identifier, take_word};
use super::types::{arrow_type, sql_type_name};
use super::{expect_end, parse_name};
use crate::error::Result;
use crate::event::timestamp_type;
use crate::source::{Connector, MetadataColumn, PARTITIONS_MAX, SourceDefinition, WatermarkDefinition};

const HTTP_OPTIONS: [&str; 3] = ["connector", "partitions", "partition_by"];

const WATERMARK_HINT: &str = "write WATERMARK FOR column AS column - INTERVAL '10 minutes', or AS column for no delay";

/// A statement up to and including the words CREATE SOURCE has been read; the rest of it follows.
pub(super) fn parse_source(statement: &StatementText, parser: &mut Parser<'_>) -> Result<SourceDefinition> {
    let name = parse_name(statement, parser, "source")?;
    let Elements { fields, metadata, watermark } = parse_elements(statement, parser)?;
    let schema = Arc::new(Schema::new(fields));
    let options = if parser.parse_keyword(Keyword::WITH) {
        WithOptions::parse(statement, parser, &SOURCE_OPTIONS)?
    } else {
        WithOptions::default()
    };
    expect_end(statement, parser)?;

    let mut source = SourceDefinition::new(name.value, &statement.sql, Arc::clone(&schema));
    source.watermark = watermark.map(|watermark| watermark.check(statement, &schema)).transpose()?;
    source.connector = connector(statement, &source.name, &options, metadata)?;
    source.partitions = partitions(&options)?;
    source.partition_by = partition_by(&options, &schema)?;
    Ok(source)
}

/// What the parentheses hold.
#[derive(Default)]
struct Elements {
    fields: Vec<Field>,
    metadata: Vec<MetadataColumn>,
    watermark: Option<Watermark>,
}

/// A WATERMARK clause whose column may be declared after it.
struct Watermark {
    column: Ident,
    expression: Expr,
}

/// The parenthesized columns and the watermark.
fn parse_elements(statement: &StatementText, parser: &mut Parser<'_>) -> Result<Elements> {
    if !parser.consume_token(&Token::LParen) {
        return Err(statement.expected(parser, "( and the source's columns", None));
    }
    let open = parser.get_current_token().span.start;
    let mut elements = Elements::default();
    loop {
        let at = statement.place(parser.peek_token_ref().span);
        if let Some(clause) = parse_watermark(statement, parser)? {
            if elements.watermark.replace(clause).is_some() {
                return Err(refuse(at, "the source has two watermarks", "keep one of them"));
            }
        } else {
            let (field, metadata) = parse_column(statement, parser)?;
            check_new_name(at, &elements.fields, field.name())?;
            elements.fields.push(field);
            elements.metadata.extend(metadata);
        }
        if parser.consume_token(&Token::RParen) {
            break;
        }
        if !parser.consume_token(&Token::Comma) {
            let hint = "a column is a name, a type and, if it always has a value, NOT NULL";
            return Err(statement.expected(parser, ", or )", Some(hint)));
        }
    }
    if elements.fields.is_empty() {
        return Err(refuse(open, "the source has no columns", "declare at least one, as (time TIMESTAMP NOT NULL)"));
    }
    Ok(elements)
}

fn parse_column(statement: &StatementText, parser: &mut Parser<'_>) -> Result<(Field, Option<MetadataColumn>)> {
    let at = statement.place(parser.peek_token_ref().span);
    if is_constraint(parser) {
        let hint = "its events are a log; NOT NULL after a column's type is the only check";
        return Err(refuse(at, "a source has no keys, checks or other constraints", hint));
    }
    let Some(name) = take_identifier(parser) else {
        return Err(statement.expected(parser, "a column or WATERMARK FOR", None));
    };
    check_column_name(at, &name.value)?;
    let type_at = statement.place(parser.peek_token_ref().span);
    let sql_type = match parser.parse_data_type() {
        Ok(sql_type) => sql_type,
        Err(error) => return Err(statement.syntax_error(parser, error)),
    };
    let data_type = arrow_type(&sql_type).map_err(|refusal| {
        refuse(type_at, format!("column \"{}\": {}", name.value, refusal.reason), refusal.hint.as_str())
    })?;
    let field = Field::new(name.value, data_type, true);
    let metadata = parse_metadata(statement, parser, &field)?;
    let nullable = !parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]);
    if nullable {
        // Columns are nullable anyway; saying so does no harm.
        let _ = parser.parse_keyword(Keyword::NULL);
    }
    Ok((field.with_nullable(nullable), metadata))
}

/// Delta tables, which hold the history, do not tell names apart that differ only in case.
fn check_new_name(at: Location, earlier: &[Field], name: &str) -> Result<()> {
    let lower = name.to_lowercase();
    match earlier.iter().find(|field| field.name().to_lowercase() == lower) {
        None => Ok(()),
        Some(field) if field.name() == name => {
            Err(refuse(at, format!("the source has two columns \"{name}\""), "rename one of them"))
        }
        Some(field) => {
            let reason = format!("the columns \"{}\" and \"{name}\" differ only in case", field.name());
            Err(refuse(at, reason, "rename one of them: other tools that read the history could not tell them apart"))
        }
    }
}

/// Whether PRIMARY KEY, FOREIGN KEY, UNIQUE (...) or CHECK (...) is next; the first words alone may name a column.
fn is_constraint(parser: &Parser<'_>) -> bool {
    let second = &parser.peek_nth_token_ref(1).token;
    match &parser.peek_token_ref().token {
        Token::Word(word) if matches!(word.keyword, Keyword::PRIMARY | Keyword::FOREIGN) => {
            matches!(second, Token::Word(word) if word.keyword == Keyword::KEY)
        }
        Token::Word(word) if matches!(word.keyword, Keyword::UNIQUE | Keyword::CHECK) => *second == Token::LParen,
        _ => false,
    }
}

fn check_column_name(at: Location, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(refuse(at, "a column has an empty name", "name it"));
    }
    if name.starts_with('_') {
        let reason = format!("column \"{}\": names that start with _ are reserved", shorten(name));
        let hint = "the platform adds _partition, _offset and _ingested_at itself; rename the column";
        return Err(refuse(at, reason, hint));
    }
    Ok(())
}

/// `WATERMARK FOR ...`, if it is next. A column may be called `watermark`; FOR is never a type.
fn parse_watermark(statement: &StatementText, parser: &mut Parser<'_>) -> Result<Option<Watermark>> {
    let for_follows = matches!(&parser.peek_nth_token_ref(1).token, Token::Word(word) if word.keyword == Keyword::FOR);
    if !for_follows || !take_word(parser, "watermark") {
        return Ok(None);
    }
    parser.advance_token();
    let Some(column) = take_identifier(parser) else {
        return Err(statement.expected(parser, "the watermark's column", Some(WATERMARK_HINT)));
    };
    if !parser.parse_keyword(Keyword::AS) {
        return Err(statement.expected(parser, "AS", Some(WATERMARK_HINT)));
    }
    let expression = match parser.parse_expr() {
        Ok(expression) => expression,
        Err(error) => return Err(statement.syntax_error(parser, error)),
    };
    Ok(Some(Watermark { column, expression }))
}

impl Watermark {
    fn check(self, statement: &StatementText, schema: &Schema) -> Result<WatermarkDefinition> {
        let at = statement.place(self.column.span);
        let column = self.column.value.clone();
        let field = find_column(schema, &column, at)?;
        if *field.data_type() != timestamp_type() {
            let reason = format!("the watermark's column \"{column}\" is {}", sql_type_name(field.data_type()));
            return Err(refuse(at, reason, "a watermark follows the event time, a TIMESTAMP"));
        }
        Ok(WatermarkDefinition { delay_us: self.delay_us(statement)?, column })
    }

    fn delay_us(&self, statement: &StatementText) -> Result<i64> {
        let is_column = |expr: &Expr| matches!(expr, Expr::Identifier(name) if name.value == self.column.value);
        let interval = match &self.expression {
            expression if is_column(expression) => return Ok(0),
            Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(left) => right,
            other => {
                let reason = format!("{} is not the watermark's column minus an interval", shorten(&other.to_string()));
                return Err(refuse(statement.place(other.span()), reason, WATERMARK_HINT));
            }
        };
        // The literal's own span does not say where the word INTERVAL stands.
        let at = statement.keyword_after(&[Keyword::INTERVAL], statement.place(self.expression.span()));
        let refused = |reason: String| refuse(at, reason, WATERMARK_HINT);
        let delay = interval_literal(interval).map_err(refused)?;
        if delay.months != 0 {
            let reason = "the watermark's delay has months or years, which are not of one length";
            return Err(refuse(at, reason, "write it in days or less"));
        }
        day_time_micros(delay)
            .filter(|delay_us| *delay_us >= 0)
            .ok_or_else(|| refused("the watermark's delay is not a number of microseconds from zero".to_owned()))
    }
}

fn find_column<'a>(schema: &'a Schema, name: &str, at: Location) -> Result<&'a Field> {
    schema.field_with_name(name).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let hint = format!("the columns are {}", shorten(&names.join(", ")));
        refuse(at, format!("the source has no column \"{}\"", shorten(name)), hint.as_str())
    })
}

fn connector(
    statement: &StatementText,
    source: &str,
    options: &WithOptions,
    metadata: Vec<MetadataColumn>,
) -> Result<Connector> {
    let option = options.get("connector");
    let connector = option.map_or_else(|| Ok("http".to_owned()), WithOption::text)?;
    match (connector.as_str(), option) {
        ("kafka", Some(option)) => Ok(Connector::Kafka(kafka_options(source, option, options, metadata)?)),
        ("http", _) => {
            if let Some(column) = metadata.first() {
                let reason =
                    format!("column \"{}\" is METADATA, which only records of a Kafka topic have", column.name);
                return Err(refuse(statement.start, reason, "leave METADATA out, or write connector = 'kafka'"));
            }
            match options.iter().find(|option| !HTTP_OPTIONS.contains(&option.name.as_str())) {
                Some(option) => {
                    let reason = format!("option \"{}\" is one of Kafka sources", option.name);
                    Err(refuse(option.at, reason, "write connector = 'kafka' before it, or leave it out"))
                }
                None => Ok(Connector::Http),
            }
        }
        (other, _) => Err(refuse(
            option.map_or(statement.start, |option| option.at),
            format!("there is no connector '{}'", shorten(other)),
            "the connectors are 'http' and 'kafka'",
        )),
    }
}

fn partitions(options: &WithOptions) -> Result<u32> {
    let Some(option) = options.get("partitions") else { return Ok(1) };
    let partitions = option.value.parse().ok().filter(|partitions| (1..=PARTITIONS_MAX).contains(partitions));
    partitions.ok_or_else(|| {
        let reason = format!("partitions = {} is not a number from 1 to {PARTITIONS_MAX}", shorten(&option.value));
        refuse(option.at, reason, "partitions let several threads accept and apply events; start with 4")
    })
}

fn partition_by(options: &WithOptions, schema: &Schema) -> Result<Option<String>> {
    let Some(option) = options.get("partition_by") else { return Ok(None) };
    let name = option.text()?;
    let field = find_column(schema, &name, option.at)?;
    if matches!(field.data_type(), DataType::List(_) | DataType::Struct(_)) {
        let reason = format!("partition_by column \"{name}\" is {}", shorten(&sql_type_name(field.data_type())));
        return Err(refuse(option.at, reason, "choose a column with one value, not an array or a struct"));
    }
    Ok(Some(name))
}
