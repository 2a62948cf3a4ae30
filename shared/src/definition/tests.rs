//! What definitions are accepted as, and the exact words in which they are refused.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as QueryStatement;
use datafusion::sql::sqlparser::ast;

use super::*;
use crate::event::timestamp_type;
use crate::source::{Connector, WatermarkDefinition};

const DESIGN_EXAMPLE: &str = r#"
CREATE SOURCE edits (
  time    TIMESTAMP NOT NULL,
  page    TEXT, channel TEXT, "user" TEXT, added BIGINT, deleted BIGINT, is_robot BOOLEAN,
  WATERMARK FOR time AS time - INTERVAL '10 minutes'
) WITH (connector = 'http', partitions = 4, partition_by = 'page');

CREATE MATERIALIZED VIEW edits_by_channel
WITH (batch = '0 */5 * * * *', full_recompute = '0 0 3 * * *')
AS SELECT window_start, channel, count(*) AS edits, sum(added) AS added,
          approx_distinct("user") AS users, avg(deleted) AS mean_deleted
   FROM edits WHERE NOT is_robot
   GROUP BY tumble(time, INTERVAL '1 hour'), channel;
"#;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn source(sql: &str) -> Result<SourceDefinition, String> {
    match parse_definitions(sql).map_err(|error| error.to_string())?.pop() {
        Some(Statement::Source(source)) => Ok(source),
        other => Err(format!("{other:?} is not a source")),
    }
}

fn view(sql: &str) -> Result<ViewStatement, String> {
    match parse_definitions(sql).map_err(|error| error.to_string())?.pop() {
        Some(Statement::View(view)) => Ok(view),
        other => Err(format!("{other:?} is not a view")),
    }
}

/// The view `v` with this query.
fn view_of(query: &str) -> Result<ViewStatement, String> {
    view(&format!("CREATE MATERIALIZED VIEW v AS {query}"))
}

fn edits() -> Result<SourceDefinition, String> {
    source(DESIGN_EXAMPLE.split(';').next().unwrap_or_default())
}

#[test]
fn the_example_of_the_design_is_read_as_it_is_meant() -> TestResult {
    let statements = parse_definitions(DESIGN_EXAMPLE)?;
    let [Statement::Source(edits), Statement::View(view)] = statements.as_slice() else {
        panic!("{statements:?}");
    };
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let columns = Schema::new(vec![
        Field::new("time", timestamp_type(), false),
        text("page"),
        text("channel"),
        text("user"),
        Field::new("added", DataType::Int64, true),
        Field::new("deleted", DataType::Int64, true),
        Field::new("is_robot", DataType::Boolean, true),
    ]);
    assert_eq!(*edits.columns, columns);
    assert_eq!(edits.event_schema.fields().len(), 10);
    assert_eq!(edits.watermark, Some(WatermarkDefinition { column: "time".into(), delay_us: 600_000_000 }));
    assert_eq!((edits.partitions, edits.partition_by.as_deref()), (4, Some("page")));
    assert_eq!(edits.connector, Connector::Http);
    assert!(edits.sql.starts_with("CREATE SOURCE edits (") && edits.sql.ends_with("'page')"), "{}", edits.sql);

    assert_eq!((view.name.as_str(), view.source.as_str(), view.line), ("edits_by_channel", "edits", 8));
    assert_eq!(view.options.batch.as_deref(), Some("0 */5 * * * *"));
    assert_eq!(view.options.full_recompute.as_deref(), Some("0 0 3 * * *"));
    let window = view.window.as_ref().ok_or("no window")?;
    assert_eq!((window.time.as_str(), window.window.size()), ("time", WindowSize::Micros(3_600_000_000)));
    assert_eq!(
        view.bind(edits)?.to_string(),
        "SELECT tumble(time, INTERVAL '1 hour') AS window_start, channel, count(*) AS edits, sum(added) AS added, \
         approx_distinct(\"user\") AS users, avg(deleted) AS mean_deleted FROM edits WHERE NOT is_robot \
         GROUP BY tumble(time, INTERVAL '1 hour'), channel"
    );
    assert!(
        view.sql.starts_with("CREATE MATERIALIZED VIEW") && view.sql.ends_with("'1 hour'), channel"),
        "{}",
        view.sql
    );
    Ok(())
}

#[test]
fn the_text_of_a_statement_gives_the_same_definition_again() -> TestResult {
    let text = "/* häßlich */ -- first\n  CREATE SOURCE a (a INT);;\r\n CREATE SOURCE s (\"é\nx\" TEXT) -- last\n;\n\
                create materialized view v as select 'ü;' || \"é\nx\" as y from s /* done */ ;
                create sink k from v into 't' with (brokers = 'b:1') -- last";
    let statements = parse_definitions(text)?;
    let texts: Vec<&str> = statements
        .iter()
        .map(|statement| match statement {
            Statement::Source(source) => source.sql.as_str(),
            Statement::View(view) => view.sql.as_str(),
            Statement::Sink(sink) => sink.sql.as_str(),
        })
        .collect();
    assert_eq!(
        texts,
        [
            "CREATE SOURCE a (a INT)",
            "CREATE SOURCE s (\"é\nx\" TEXT)",
            "create materialized view v as select 'ü;' || \"é\nx\" as y from s",
            "create sink k from v into 't' with (brokers = 'b:1')",
        ]
    );
    let again = view(texts[2])?;
    assert_eq!(again.query.to_string(), "SELECT 'ü;' || \"é\nx\" AS y FROM s");
    Ok(())
}

#[test]
fn every_column_type_has_one_arrow_type_whose_name_reads_back_to_it() -> TestResult {
    let list = |item: DataType| DataType::new_list(item, true);
    let point =
        DataType::Struct(vec![Field::new("a", DataType::Int64, true), Field::new("B c", DataType::Utf8, true)].into());
    for (sql, expected) in [
        ("BOOLEAN", DataType::Boolean),
        ("bool", DataType::Boolean),
        ("INT", DataType::Int32),
        ("INTEGER", DataType::Int32),
        ("BIGINT", DataType::Int64),
        ("FLOAT", DataType::Float32),
        ("REAL", DataType::Float32),
        ("DOUBLE", DataType::Float64),
        ("DOUBLE PRECISION", DataType::Float64),
        ("DECIMAL(38, 38)", DataType::Decimal128(38, 38)),
        ("NUMERIC(5)", DataType::Decimal128(5, 0)),
        ("TEXT", DataType::Utf8),
        ("VARCHAR", DataType::Utf8),
        ("STRING", DataType::Utf8),
        ("DATE", DataType::Date32),
        ("TIMESTAMP", timestamp_type()),
        ("TIMESTAMP(6)", timestamp_type()),
        ("TIMESTAMP WITH TIME ZONE", timestamp_type()),
        ("TIMESTAMPTZ", timestamp_type()),
        ("BIGINT[]", list(DataType::Int64)),
        ("ARRAY<ARRAY<BIGINT>>", list(list(DataType::Int64))),
        ("STRUCT<a BIGINT, \"B c\" TEXT>", point.clone()),
        ("STRUCT<A BIGINT, \"B c\" TEXT>[][]", list(list(point.clone()))),
        ("ARRAY<STRUCT<a BIGINT, \"B c\" STRING>>", list(point.clone())),
        ("STRUCT<p STRUCT<a BIGINT, \"B c\" TEXT>>", DataType::Struct(vec![Field::new("p", point, true)].into())),
    ] {
        let columns = source(&format!("CREATE SOURCE s (c {sql} NOT NULL, d {sql} NULL, e {sql})"))?.columns;
        assert_eq!(columns.field(0), &Field::new("c", expected.clone(), false), "{sql}");
        assert_eq!(columns.field(1), &Field::new("d", expected.clone(), true), "{sql}");
        let name = sql_type_name(&expected);
        let again = source(&format!("CREATE SOURCE s (c {name})"))?;
        assert_eq!(*again.columns.field(0).data_type(), expected, "{sql} as {name}");
    }
    Ok(())
}

#[test]
fn sources_take_defaults_and_names_as_postgres_does() -> TestResult {
    let plain = source("create source if not exists Edits (Time timestamp, \"Page\" text)")?;
    assert_eq!((plain.name.as_str(), plain.partitions, plain.partition_by), ("edits", 1, None));
    assert_eq!(plain.watermark, None);
    assert_eq!(plain.columns.field(0).name(), "time");
    assert_eq!(plain.columns.field(1).name(), "Page");

    let other = source(
        "CREATE SOURCE s (WATERMARK FOR \"T\" AS \"T\", \"T\" TIMESTAMP, watermark INT, primary INT) \
         WITH (partitions = 1024)",
    )?;
    assert_eq!(other.watermark, Some(WatermarkDefinition { column: "T".into(), delay_us: 0 }));
    assert_eq!((other.columns.fields().len(), other.partitions), (3, 1024));

    let by_unit = source("CREATE SOURCE s (t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '2' DAY)")?;
    assert_eq!(by_unit.watermark.map(|watermark| watermark.delay_us), Some(2 * 86_400_000_000));
    Ok(())
}

#[test]
fn definitions_that_cannot_work_are_refused_with_place_reason_and_way_out() {
    let mut wrong = String::new();
    let mut count = 0;
    for case in include_str!("refused.txt").split("\n\n") {
        let case: Vec<&str> = case.lines().filter(|line| !line.starts_with('#')).collect();
        let [sql @ .., expected] = case.as_slice() else { continue };
        let (sql, expected) = (sql.join("\n"), expected.trim_start_matches("=> "));
        let got = match parse_definitions(&sql) {
            Ok(statements) => format!("accepted as {statements:?}"),
            Err(error) => error.to_string(),
        };
        if got != expected {
            wrong.push_str(&format!("{sql}\n  expected: {expected}\n  got:      {got}\n"));
        }
        count += 1;
    }
    assert!(count > 100, "read only {count} cases");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn queries_of_the_shapes_that_views_have_are_accepted_unchanged() -> TestResult {
    for query in [
        "SELECT count(*), sum(a) AS total FROM s",
        "SELECT a, b AS c FROM s AS e WHERE e.a > 5 AND NOT b",
        "SELECT FLOOR(a / 15.0)::BIGINT AS bucket, count(DISTINCT (b, c)) AS n FROM s GROUP BY 1",
        "SELECT date_trunc('hour', t) AS hour, count(*) FILTER (WHERE a < 0) AS n FROM s GROUP BY hour HAVING n > 2",
        "SELECT date_bin(INTERVAL '15 minutes', t) AS q, avg(CAST(a AS DOUBLE)) FROM s GROUP BY q",
        "SELECT CASE WHEN a <= 1 THEN 'x' WHEN a IS NULL THEN 'y' ELSE 'z' END AS side, max(b) FROM s GROUP BY ALL",
        "SELECT first_value(a ORDER BY t DESC) AS f, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY a) AS p FROM s",
        "SELECT EXTRACT(DOW FROM t), EXTRACT(ISODOW FROM t), SUBSTRING(b, 1, 3), TRIM(b), POSITION('x' IN b) FROM s",
        "SELECT tags[1], point['a'], {'k': a}, [a, 2], STRUCT(a, b), b LIKE 'x%' FROM s WHERE b IN ('x', 'y')",
        "SELECT x.a + 1 AS a FROM (SELECT a FROM s WHERE a BETWEEN 1 AND 5) AS x",
        "SELECT t AT TIME ZONE 'Europe/Berlin', b || 'x', a & 1, a << 2, -a, b ~ '^x', TRY_CAST(b AS INT) FROM s",
    ] {
        assert_eq!(view_of(query).map(|view| view.query.to_string()), Ok(query.to_owned()));
    }
    Ok(())
}

#[test]
fn tumble_makes_one_key_and_both_names() -> TestResult {
    let hour = "tumble(t, INTERVAL '1 hour')";
    for (query, expected) in [
        (
            "SELECT window_start, window_end, count(*) AS n FROM s GROUP BY tumble(t, INTERVAL '1 hour')",
            format!(
                "SELECT {hour} AS window_start, ({hour} + INTERVAL '1 hour') AS window_end, count(*) AS n \
                 FROM s GROUP BY {hour}"
            ),
        ),
        (
            "SELECT window_end AS until, date_trunc('day', WINDOW_START) AS day, sum(a) FROM s \
             WHERE window_start > TIMESTAMP '2020-01-01' GROUP BY a, (TUMBLE(t, INTERVAL '1 hour')) \
             HAVING window_end < max(t)",
            format!(
                "SELECT ({hour} + INTERVAL '1 hour') AS until, date_trunc('day', {hour}) AS day, sum(a) FROM s \
                 WHERE {hour} > TIMESTAMP '2020-01-01' GROUP BY a, ({hour}) \
                 HAVING ({hour} + INTERVAL '1 hour') < max(t)"
            ),
        ),
        (
            "SELECT first_value(a ORDER BY window_start) AS f FROM (SELECT a, t FROM s WHERE a > 0) AS x \
             GROUP BY tumble(x.t, INTERVAL '1' MONTH, INTERVAL '14 days')",
            "SELECT first_value(a ORDER BY tumble(x.t, INTERVAL '1' MONTH, INTERVAL '14 days')) AS f \
             FROM (SELECT a, t FROM s WHERE a > 0) AS x GROUP BY tumble(x.t, INTERVAL '1' MONTH, INTERVAL '14 days')"
                .to_owned(),
        ),
    ] {
        let view = view_of(query)?;
        assert!(view.window.is_some(), "{query}");
        assert_eq!(view.query.to_string(), expected, "{query}");
    }
    assert_eq!(view_of("SELECT a, count(*) FROM s GROUP BY a")?.window, None);
    Ok(())
}

#[test]
fn binding_expands_wildcards_to_the_declared_columns_and_checks_the_windows_names() -> TestResult {
    let s = source("CREATE SOURCE s (t TIMESTAMP, \"B\" TEXT)")?;
    for (query, expected) in [
        ("SELECT * FROM s", "SELECT \"t\", \"B\" FROM s"),
        ("SELECT e.*, 1 AS one FROM s AS e", "SELECT \"t\", \"B\", 1 AS one FROM s AS e"),
        ("SELECT * FROM (SELECT *, _offset FROM s) AS x", "SELECT * FROM (SELECT \"t\", \"B\", _offset FROM s) AS x"),
        (
            "SELECT window_start FROM (SELECT t AS window_start FROM s) AS x",
            "SELECT window_start FROM (SELECT t AS window_start FROM s) AS x",
        ),
    ] {
        assert_eq!(view_of(query)?.bind(&s)?.to_string(), expected, "{query}");
    }
    let with_name = source("CREATE SOURCE s (t TIMESTAMP, window_start TIMESTAMP)")?;
    let other = source("CREATE SOURCE other (a INT)")?;
    for (query, source, expected) in [
        ("SELECT t.* FROM s", &s, "line 1, column 38: there is no table \"t\" in FROM; write * alone"),
        (
            "SELECT window_end FROM s",
            &s,
            "line 1, column 38: window_end needs a window; add tumble(time, INTERVAL '1 hour') to GROUP BY",
        ),
        (
            "SELECT count(*) FROM s GROUP BY tumble(t, INTERVAL '1 day')",
            &with_name,
            "line 1, column 1: window_start is a column of \"s\" and a name of the window; \
             rename the source's column, or group by date_bin instead of tumble",
        ),
        ("SELECT a FROM s", &other, "line 1, column 45: there is no source \"s\"; the sources are other"),
    ] {
        let error = view_of(query)?.bind(source).map(|query| query.to_string()).map_err(|error| error.to_string());
        assert_eq!(error, Err(expected.to_owned()), "{query}");
    }
    assert!(view_of("SELECT window_start FROM s")?.bind(&with_name).is_ok(), "the source's own column");
    Ok(())
}

#[test]
fn definition_ids_are_stable_and_depend_on_meaning_only() -> TestResult {
    let edits = edits()?;
    let written = view(DESIGN_EXAMPLE)?;
    let id = written.definition_id(&edits);
    // The id is part of paths in the store: a new one rebuilds every view of every user.
    assert_eq!(id.as_str(), "ff5b39c1cd76072029070b112ada0415");
    assert_eq!(id.as_str().parse::<DefinitionId>().ok(), Some(id.clone()));
    assert!("GOLDEN".parse::<DefinitionId>().is_err());

    let same = "create materialized view other with (batch = '0 0 * * * *') as /* hints */ \
                select WINDOW_START, Channel, COUNT(*) as edits,\n\
                Sum(added) added, APPROX_DISTINCT(\"user\") AS users, avg(deleted) as mean_deleted -- mean\n\
                from Edits where not IS_ROBOT group by TUMBLE(time, interval '1 hour'), channel";
    assert_eq!(view(same)?.definition_id(&edits), id);

    for change in [
        same.replace("not IS_ROBOT", "IS_ROBOT"),
        same.replace("1 hour", "2 hours"),
        same.replace("\"user\"", "\"User\""),
        same.replace("as edits", "as n"),
    ] {
        assert_ne!(view(&change)?.definition_id(&edits), id, "{change}");
    }
    let mut other_columns = edits.clone();
    other_columns.columns = source("CREATE SOURCE edits (time TIMESTAMP)")?.columns;
    assert_ne!(written.definition_id(&other_columns), id, "the source's columns are part of the definition");
    let mut other_watermark = edits;
    other_watermark.watermark = None;
    assert_eq!(written.definition_id(&other_watermark), id, "what changes no state is not");
    Ok(())
}

#[tokio::test]
async fn the_planner_takes_windows_as_one_timestamp_key_in_both_names() -> TestResult {
    let session = SessionContext::new();
    session.register_udf(tumble_function());
    let s = source("CREATE SOURCE s (t TIMESTAMP)")?;
    let hours = [Some(0), Some(3_599_999_999), Some(3_600_000_000), None, Some(32_503_680_000_000_000)];
    let times = TimestampMicrosecondArray::from_iter(hours).with_timezone("UTC");
    let batch = RecordBatch::try_new(Arc::clone(&s.columns), vec![Arc::new(times)])?;
    session.register_table("s", Arc::new(MemTable::try_new(Arc::clone(&s.columns), vec![vec![batch]])?))?;

    let view = view_of(
        "SELECT window_start, window_end, count(*) AS n FROM s WHERE window_start IS NULL OR window_end > '1970-01-01' \
         GROUP BY tumble(t, INTERVAL '1 hour') HAVING count(*) > 0",
    )?;
    let query = ast::Statement::Query(Box::new(view.bind(&s)?));
    let plan = session.state().statement_to_plan(QueryStatement::Statement(Box::new(query))).await?;
    let frame = session.execute_logical_plan(plan).await?.sort_by(vec![datafusion::prelude::col("window_start")])?;
    assert_eq!(*frame.schema().field(0).data_type(), timestamp_type());
    assert_eq!(*frame.schema().field(1).data_type(), timestamp_type());
    let mut rows = String::new();
    for batch in frame.collect().await? {
        for row in 0..batch.num_rows() {
            for column in batch.columns() {
                write!(rows, "{} ", array_value_to_string(column, row)?)?;
            }
            rows.push('\n');
        }
    }
    assert_eq!(
        rows,
        "1970-01-01T00:00:00Z 1970-01-01T01:00:00Z 2 \n1970-01-01T01:00:00Z 1970-01-01T02:00:00Z 1 \n\
         3000-01-01T00:00:00Z 3000-01-01T01:00:00Z 1 \n  1 \n"
    );
    Ok(())
}

/// A small generator of its own, so that a seed gives the same inputs for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) as usize % bound.max(1)
    }
}

/// Parses, and binds what can be bound; the result does not matter, only that there is one.
fn survive(sql: &str, edits: &SourceDefinition) {
    let Ok(statements) = parse_definitions(sql) else { return };
    for statement in statements {
        if let Statement::View(view) = statement {
            let _ = view.bind(edits);
            let _ = view.definition_id(edits);
        }
    }
}

#[test]
fn arbitrary_bytes_and_mutations_of_definitions_never_panic() -> TestResult {
    let edits = edits()?;
    let fragments = [
        "(",
        ")",
        "<",
        ">>",
        ",",
        ";",
        "'",
        "\"",
        "INTERVAL",
        "'1 hour'",
        "tumble",
        "ARRAY<",
        "STRUCT<a ",
        "window_start",
        "SELECT",
        "FROM",
        "*",
        "e.*",
        "CASE WHEN",
        "CAST(",
        "NOT",
        "-",
        "::",
        "[",
        "]",
        "{",
        "/*",
        "--",
        "\n",
        "é",
        "\u{0}",
        "$1",
        "99999999999999999999",
        "WITH",
        "GROUP BY",
        "DISTINCT",
        "UNION",
        "JOIN",
        "OVER (",
        "LIMIT",
        ".",
        "=",
        "E'",
        "X'",
        "1e999",
        "ORDER BY",
        "AS",
    ];
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let mut text: Vec<char> = DESIGN_EXAMPLE.chars().collect();
        for _ in 0..=random.below(6) {
            let at = random.below(text.len() + 1);
            match random.below(3) {
                0 => drop(text.drain(at..(at + random.below(30)).min(text.len()))),
                1 => drop(text.splice(at..at, fragments[random.below(fragments.len())].chars())),
                _ => {
                    let from = random.below(text.len() + 1);
                    let copy = text[from..(from + random.below(60)).min(text.len())].to_vec();
                    drop(text.splice(at..at, copy));
                }
            }
        }
        survive(&text.into_iter().collect::<String>(), &edits);
        let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
        survive(&String::from_utf8_lossy(&bytes), &edits);
        let words: Vec<&str> = (0..random.below(40)).map(|_| fragments[random.below(fragments.len())]).collect();
        survive(&format!("CREATE MATERIALIZED VIEW v AS SELECT {}", words.join(" ")), &edits);
        survive(&format!("CREATE SOURCE s (a {}", words.join(" ")), &edits);
    }
    Ok(())
}

#[test]
fn deep_nesting_and_long_chains_end_in_a_refusal() -> TestResult {
    let edits = edits()?;
    for depth in [25, 49, 51, 450, 20_000] {
        for (open, close) in [
            ("(", ")"),
            ("-", ""),
            ("NOT ", ""),
            ("a + ", "a"),
            ("a AND ", "a"),
            ("a || ", "a"),
            ("a.", "a"),
            ("a::INT + ", "a"),
            ("trim(", ""),
            ("floor(", ")"),
            ("cast(a AS ARRAY<", ""),
            ("INTERVAL ", "'1'"),
            ("CASE WHEN a THEN ", " END"),
            ("f(", ")"),
            ("[", "]"),
            ("{'a': ", "}"),
            ("EXISTS (SELECT ", ")"),
            ("(SELECT a FROM s UNION ", ""),
            ("a IS NULL OR ", "a"),
            ("a IN (", ")"),
            ("EXTRACT(YEAR FROM ", ")"),
            ("ARRAY[", "]"),
            ("a[", "]"),
            ("~", "a"),
            ("STRUCT<a STRUCT<", ""),
            ("a BETWEEN ", " AND 1"),
            ("SUBSTRING(a FROM ", ")"),
            ("POSITION(a IN ", ")"),
            ("CAST(", " AS INT)"),
        ] {
            survive(
                &format!(
                    "CREATE MATERIALIZED VIEW v AS SELECT {}a{} FROM edits",
                    open.repeat(depth),
                    close.repeat(depth)
                ),
                &edits,
            );
            survive(&format!("CREATE MATERIALIZED VIEW v AS SELECT {}", open.repeat(depth)), &edits);
        }
        for (open, close) in [
            ("(", ")"),
            ("(SELECT * FROM ", ") AS x"),
            ("((SELECT a FROM ", "))"),
            ("s JOIN (", ")"),
            ("s, ", ""),
            ("a.", ""),
        ] {
            survive(
                &format!(
                    "CREATE MATERIALIZED VIEW v AS SELECT * FROM {}edits{}",
                    open.repeat(depth),
                    close.repeat(depth)
                ),
                &edits,
            );
        }
        for (open, close) in [("ARRAY<", ">"), ("STRUCT<a ", ">"), ("INT", "[]"), ("DECIMAL(", ")"), ("MAP<INT, ", ">")]
        {
            survive(&format!("CREATE SOURCE s (a {}INT{})", open.repeat(depth), close.repeat(depth)), &edits);
        }
        survive(
            &format!(
                "CREATE MATERIALIZED VIEW v AS {} SELECT 1 FROM edits",
                "SELECT a FROM edits UNION ALL ".repeat(depth)
            ),
            &edits,
        );
        survive(&"/*".repeat(depth), &edits);
    }
    let flat =
        format!("CREATE MATERIALIZED VIEW v AS SELECT added FROM edits WHERE added IN ({}1)", "1, ".repeat(50_000));
    assert!(parse_definitions(&flat).is_ok(), "a long list is not deep");
    Ok(())
}
