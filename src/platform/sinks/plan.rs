//! What a sink sends of its view: mode, key and schemas, checked against the view's plan.

use arrow::datatypes::Schema;
use watershed_serving_layer::AvroForm;
use watershed_shared::plan::ViewPlan;
use watershed_shared::sink::{SinkDefinition, SinkFormat, SinkMode};

use crate::error::{Error, Result};

/// A sink over one definition of its view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::platform) struct SinkPlan {
    pub(super) mode: SinkMode,
    /// The output columns that make a record's key.
    pub(super) key: Vec<usize>,
    /// The records' schemas, if they have any.
    pub(super) avro: Option<AvroForms>,
}

/// The Avro schemas of a sink's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AvroForms {
    /// Of the keys; none without keys.
    pub(super) key: Option<AvroForm>,
    pub(super) value: AvroForm,
}

impl SinkPlan {
    /// # Errors
    /// `Project` when the view cannot be sent so.
    pub(in crate::platform) fn new(sink: &SinkDefinition, view: &ViewPlan) -> Result<SinkPlan> {
        let refuse = |reason: String| {
            let reason = format!("line {}: sink \"{}\": {reason}", sink.line, sink.name);
            Error::Project { reason }
        };
        let by_view = if view.has_aggregate() { SinkMode::Update } else { SinkMode::Append };
        let mode = sink.mode.unwrap_or(by_view);
        let outputs = view.key_outputs().map_err(watershed_shared::error::Error::from)?;
        let columns = view.output_schema();
        let key = match &sink.key {
            None => outputs.iter().flatten().copied().collect(),
            Some(names) => {
                let mut key = Vec::with_capacity(names.len());
                for name in names {
                    let Ok(column) = columns.index_of(name) else {
                        let known: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
                        return Err(refuse(format!(
                            "view \"{}\" has no column \"{name}\" for the key; its columns are {}",
                            view.name,
                            known.join(", ")
                        )));
                    };
                    if key.contains(&column) {
                        return Err(refuse(format!("the key has column \"{name}\" twice")));
                    }
                    key.push(column);
                }
                key
            }
        };
        match mode {
            SinkMode::Complete => {}
            SinkMode::Append if !view.has_aggregate() => {}
            SinkMode::Append => append_by_window(view).map_err(refuse)?,
            SinkMode::Update if !view.has_aggregate() => {
                return Err(refuse(format!(
                    "view \"{}\" has no GROUP BY, so that its rows never change; write mode = 'append'",
                    view.name
                )));
            }
            SinkMode::Update => {
                if outputs.contains(&None) {
                    return Err(refuse(format!(
                        "view \"{}\" groups by something that it does not select as it is, so that who reads the topic could \
                         not tell which group has changed; select every key of GROUP BY",
                        view.name
                    )));
                }
                let missing = outputs.iter().flatten().find(|column| !key.contains(column));
                if let Some(missing) = missing {
                    return Err(refuse(format!(
                        "mode 'update' needs every key of the view's GROUP BY in the records' key, and \"{}\" is not; add it, \
                         or leave the option out",
                        columns.field(*missing).name()
                    )));
                }
                // A group that is gone has no other columns to delete it under.
                if let Some(other) = key.iter().find(|column| !outputs.contains(&Some(**column))) {
                    return Err(refuse(format!(
                        "mode 'update' has the keys of the view's GROUP BY in the records' key and nothing else, and \"{}\" is \
                         none of them",
                        columns.field(*other).name()
                    )));
                }
            }
        }
        let avro = match &sink.format {
            SinkFormat::Json => None,
            SinkFormat::Avro(_) => Some(
                avro_forms(&view.name, columns, &key)
                    .map_err(|reason| refuse(format!("view \"{}\" cannot be sent as Avro: {reason}", view.name)))?,
            ),
        };
        Ok(SinkPlan { mode, key, avro })
    }
}

fn avro_forms(view: &str, columns: &Schema, key: &[usize]) -> Result<AvroForms, String> {
    let key_columns = columns.project(key).map_err(|error| error.to_string())?;
    let key = (!key.is_empty()).then(|| AvroForm::new(&format!("{view}_key"), &key_columns)).transpose()?;
    Ok(AvroForms { key, value: AvroForm::new(view, columns)? })
}

/// Whether the watermark says when the view's rows are final.
fn append_by_window(view: &ViewPlan) -> Result<(), String> {
    let name = &view.name;
    let Some(window) = view.window() else {
        return Err(format!(
            "the groups of view \"{name}\" can always get further events; mode 'append' needs a view without GROUP BY, or with \
             tumble in it; write mode = 'update'"
        ));
    };
    let Some(watermark) = &view.source.watermark else {
        return Err(format!(
            "source \"{}\" has no watermark, so that no window of view \"{name}\" is ever closed; add WATERMARK FOR to the source",
            view.source.name
        ));
    };
    match &window.time {
        Some(time) if *time == watermark.column => Ok(()),
        other => Err(format!(
            "the windows of view \"{name}\" are over {}, but the watermark is over \"{}\"; mode 'append' needs windows over that",
            other.as_ref().map_or("an expression".to_owned(), |column| format!("\"{column}\"")),
            watermark.column
        )),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use watershed_shared::definition::parse_definitions;

    use crate::platform::check_definitions;

    const VIEWS: &str = "CREATE SOURCE edits (at TIMESTAMP NOT NULL, seen TIMESTAMP, page TEXT, delta BIGINT, payload STRUCT<at TIMESTAMP>,
             WATERMARK FOR at AS at);
         CREATE SOURCE late (at TIMESTAMP NOT NULL, page TEXT);
         CREATE MATERIALIZED VIEW pages AS SELECT page, count(*) AS edits FROM edits GROUP BY page;
         CREATE MATERIALIZED VIEW upper AS SELECT upper(page) AS page, count(*) AS edits FROM edits GROUP BY page;
         CREATE MATERIALIZED VIEW total AS SELECT count(*) AS edits FROM edits;
         CREATE MATERIALIZED VIEW minutes AS
           SELECT window_end, count(*) AS edits FROM edits GROUP BY tumble(at, INTERVAL '1 minute');
         CREATE MATERIALIZED VIEW seen AS
           SELECT window_end, count(*) AS edits FROM edits GROUP BY tumble(seen, INTERVAL '1 minute');
         CREATE MATERIALIZED VIEW late_minutes AS
           SELECT window_start, count(*) AS edits FROM late GROUP BY tumble(at, INTERVAL '1 minute');
         CREATE MATERIALIZED VIEW hidden AS SELECT window_end, count(*) AS edits
           FROM (SELECT seen AS at FROM edits) AS x GROUP BY tumble(at, INTERVAL '1 minute');
         CREATE MATERIALIZED VIEW nested AS SELECT window_end, count(*) AS edits
           FROM edits GROUP BY tumble(payload['at'], INTERVAL '1 minute');
         CREATE MATERIALIZED VIEW shifted AS SELECT window_start + INTERVAL '1 month' AS m, count(*) AS edits
           FROM edits GROUP BY tumble(at, INTERVAL '1 day');
         CREATE MATERIALIZED VIEW ends AS SELECT window_end, page AS p, count(*) AS edits
           FROM (SELECT page, at AS t FROM edits) AS x GROUP BY tumble(t, INTERVAL '1 month'), page;
         CREATE MATERIALIZED VIEW words AS SELECT page, upper(page) AS word, count(*) AS edits
           FROM edits GROUP BY page, upper(page);
         CREATE MATERIALIZED VIEW odd AS SELECT count(*) AS \"edits of all\" FROM edits;
         CREATE MATERIALIZED VIEW waits AS SELECT seen - at AS wait FROM edits;
         CREATE MATERIALIZED VIEW plain AS SELECT page FROM edits;";
    const AVRO: &str = ", format = 'avro', schema_registry = 'http://localhost:2'";

    async fn refusal(view: &str, option: &str) -> String {
        let sink = format!("CREATE SINK s FROM {view} INTO 't' WITH (brokers = 'localhost:1'{option});");
        let checked = check_definitions(parse_definitions(&format!("{VIEWS}\n{sink}")).unwrap()).await;
        checked.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_view_that_cannot_be_sent_so_is_refused() {
        for (view, option, words) in [
            ("pages", ", mode = 'append'", "the groups of view \"pages\" can always get further events"),
            ("plain", ", mode = 'update'", "has no GROUP BY, so that its rows never change; write mode = 'append'"),
            ("upper", "", "select every key of GROUP BY"),
            ("late_minutes", ", mode = 'append'", "source \"late\" has no watermark"),
            ("seen", ", mode = 'append'", "are over \"seen\", but the watermark is over \"at\""),
            ("pages", ", key = 'pag'", "view \"pages\" has no column \"pag\" for the key; its columns are page, edits"),
            ("pages", ", key = 'edits'", "and \"page\" is not; add it"),
            ("pages", ", key = 'edits, page'", "\"edits\" is none of them"),
            ("pages", ", mode = 'complete', key = 'page, page'", "the key has column \"page\" twice"),
            ("total", ", key = 'edits'", "\"edits\" is none of them"),
            ("hidden", ", mode = 'append'", "are over \"seen\", but the watermark is over \"at\""),
            ("nested", ", mode = 'append'", "are over an expression"),
            ("shifted", "", "select every key of GROUP BY"),
            ("odd", AVRO, "view \"odd\" cannot be sent as Avro: \"edits of all\" is no name of an Avro field"),
            ("waits", AVRO, "column \"wait\": INTERVAL has no form in Avro; CAST it to TEXT"),
            ("nothing", "", "sends view \"nothing\", which is not defined; the views are pages, upper"),
        ] {
            let refused = refusal(view, option).await;
            assert!(refused.contains(words), "{view}{option}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_view_that_can_be_sent_so_is_taken() {
        for (view, option) in [
            ("pages", ""),
            ("words", ", key = 'word, page'"),
            ("ends", ", mode = 'append'"),
            ("ends", ""),
            ("pages", ", mode = 'complete', key = 'edits'"),
            ("total", ""),
            ("minutes", ""),
            ("minutes", ", mode = 'append'"),
            ("seen", ", mode = 'update', trigger = '100 milliseconds'"),
            ("plain", ""),
            ("pages", AVRO),
            ("total", AVRO),
            ("minutes", AVRO),
            ("upper", ", mode = 'complete', kafka.linger.ms = 1, format = 'json'"),
        ] {
            assert_eq!(refusal(view, option).await, "", "{view}{option}");
        }
    }
}
