//! Definitions: SQL of any kind is refused at a place of it or understood, and what is understood keeps the law.

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use watershed_shared::definition::{Statement, ViewStatement, parse_definitions};
use watershed_shared::error::Error;
use watershed_shared::format::{EventDecoder, EventFormat};
use watershed_shared::plan::compile;
use watershed_shared::sink::SinkDefinition;
use watershed_shared::source::SourceDefinition;

use crate::{block_on, law};

/// The source of views whose own source is not in the text.
const EVENTS: &str = "CREATE SOURCE events (t TIMESTAMP NOT NULL, k TEXT, g INT, v BIGINT, x DOUBLE, f FLOAT, \
     d DECIMAL(10, 2), y DATE, b BOOLEAN, a BIGINT[], s STRUCT<x DOUBLE, k TEXT>, \
     WATERMARK FOR t AS t - INTERVAL '1 minute')";

/// Numbers are such that sums of them are exact in any order.
const ROWS: &str = r#"
{"t":"2024-02-29T23:59:59Z","k":"a","g":1,"v":5,"x":0.5,"f":1.5,"d":"1.25","y":"2024-02-29","b":true,"a":[1,2],"s":{"x":1.5,"k":"q"}}
{"t":"1970-01-01T00:00:00Z","k":"a","g":1,"v":-5,"x":-2.25,"f":0,"d":"-1.25","y":"1970-01-01","b":false,"a":[],"s":{"x":null,"k":""}}
{"t":"2999-12-31T12:00:00.123456Z","k":"","g":-7,"v":12,"x":1024,"f":-3.5,"d":"0.01","y":"2999-12-31","b":true}
{"t":"2024-02-29T12:00:00Z"}
{"t":"2024-02-29T12:10:00Z","k":"ü","g":2,"v":7,"x":3,"f":2,"d":"99999999.99","y":"0001-01-01","b":null,"a":[null],"s":null}
{"t":"0001-01-01T00:00:00Z","k":"b","g":2,"v":0,"x":-0.75,"f":8,"d":"3.00","y":"9999-12-31","b":false,"a":[7],"s":{"x":2,"k":"z"}}
"#;

static SOURCE: LazyLock<Arc<SourceDefinition>> = LazyLock::new(|| match parse_definitions(EVENTS).unwrap().pop() {
    Some(Statement::Source(source)) => Arc::new(source),
    other => panic!("no source: {other:?}"),
});

static SAMPLE: LazyLock<RecordBatch> = LazyLock::new(|| {
    let decoded = EventDecoder::new(&SOURCE).unwrap().decode(EventFormat::NdJson, ROWS.as_bytes()).unwrap();
    assert_eq!(decoded.rejected, []);
    law::logged(&SOURCE, decoded.events)
});

pub(crate) fn definitions(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let statements = match parse_definitions(text) {
        Ok(statements) => statements,
        Err(error) => return assert_placed(text, &error),
    };
    let mut sources = vec![Arc::clone(&SOURCE)];
    for statement in &statements {
        assert_text_is_the_same_definition(statement);
        if let Statement::Source(source) = statement {
            sources.insert(0, Arc::new(source.clone()));
        }
    }
    for statement in &statements {
        let Statement::View(view) = statement else { continue };
        if let Some(source) = sources.iter().find(|source| source.name == view.source) {
            block_on(check_view(text, view, source));
        }
    }
}

/// A refusal says where, in the text that was given.
fn assert_placed(text: &str, error: &Error) {
    let Error::InvalidDefinition { line, column, reason, .. } = error else { panic!("no place: {error}") };
    let lines = text.split('\n').count() as u64;
    assert!((1..=lines).contains(line), "line {line} of {lines}: {error}");
    assert!(*column >= 1 && !reason.is_empty(), "{error}");
}

/// A statement's own text is the statement: batch views of an old definition are read by it after a restart.
fn assert_text_is_the_same_definition(statement: &Statement) {
    let text = match statement {
        Statement::Source(source) => &source.sql,
        Statement::View(view) => &view.sql,
        Statement::Sink(sink) => &sink.sql,
    };
    let again = parse_definitions(text).unwrap_or_else(|error| panic!("{text:?} is refused the second time: {error}"));
    match (statement, again.as_slice()) {
        (Statement::Source(first), [Statement::Source(again)]) => {
            assert_eq!(
                (&first.name, &first.columns, &first.watermark),
                (&again.name, &again.columns, &again.watermark)
            );
            assert_eq!((first.partitions, &first.partition_by), (again.partitions, &again.partition_by));
        }
        (Statement::View(first), [Statement::View(again)]) => {
            assert_eq!((&first.name, &first.source, &first.options), (&again.name, &again.source, &again.options));
            assert_eq!(first.definition_id(&SOURCE), again.definition_id(&SOURCE));
        }
        // Its line is that in the text that was given.
        (Statement::Sink(first), [Statement::Sink(again)]) => {
            assert_eq!(&SinkDefinition { line: again.line, ..first.clone() }, again);
        }
        (_, again) => panic!("{text:?} became {again:?}"),
    }
}

async fn check_view(text: &str, view: &ViewStatement, source: &Arc<SourceDefinition>) {
    let plan = match compile(view, Arc::clone(source)).await {
        Ok(plan) => Arc::new(plan),
        Err(error) => return assert_placed(text, &error),
    };
    // Estimates of percentiles depend on how the events are divided.
    let estimates = ["approx_percentile", "approx_median"].iter().any(|name| view.sql.to_lowercase().contains(name));
    if Arc::ptr_eq(source, &SOURCE) && !estimates {
        law::check(&plan, &SAMPLE, 3).await;
    }
}
