//! `watershed views` and `watershed sources`: what the platform holds, and how far each part has come.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use serde_json::value::RawValue;

use super::batch::describe_audit;
use super::table::{Align, Table};
use super::{ListFormat, ServerArgs, output};
use crate::client::Client;
use crate::client::answer::{Column, OffsetGap, Source, View};

/// Arguments of `watershed views`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed views
  watershed views edits_by_channel
  watershed views --format json | jq '.[].batch_version'

A view's answer is its batch part below the boundary merged with its realtime part from there on. A view in state \
\"building\" is being computed from existing history and cannot be asked yet; a changed definition is built behind the \
one that answers.")]
pub(crate) struct ViewsArgs {
    /// Show only this view, with its definition and columns
    view: Option<String>,
    /// How the list is printed
    #[arg(long, short, value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    server: ServerArgs,
}

/// Arguments of `watershed sources`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed sources
  watershed sources edits
  watershed sql --position \"$(watershed sources --format json | jq -r '.[0].position')\" 'SELECT ...'")]
pub(crate) struct SourcesArgs {
    /// Show only this source, with its definition and columns
    source: Option<String>,
    /// How the list is printed
    #[arg(long, short, value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs `watershed views`.
pub(crate) async fn execute_views(args: ViewsArgs) -> Result<ExitCode> {
    let client = args.server.client()?;
    let text = match (args.format, &args.view) {
        (ListFormat::Json, None) => raw_array(client.views().await?),
        (ListFormat::Json, Some(view)) => raw_array(vec![client.view(view).await?]),
        (ListFormat::Table, None) => view_table(&client.views().await?),
        (ListFormat::Table, Some(view)) => view_details(&client.view(view).await?),
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `watershed sources`.
pub(crate) async fn execute_sources(args: SourcesArgs) -> Result<ExitCode> {
    let client = args.server.client()?;
    let text = match (args.format, &args.source) {
        (ListFormat::Json, None) => raw_array(client.sources().await?),
        (ListFormat::Json, Some(source)) => raw_array(vec![client.source(source).await?]),
        (ListFormat::Table, None) => source_table(&client.sources().await?),
        (ListFormat::Table, Some(source)) => source_details(&client.source(source).await?),
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints all views and sources, or the one of this name, as the prompt's `\d` does.
pub(super) async fn describe(client: &Client, name: Option<&str>) -> Result<()> {
    let views: Vec<View> = client.views().await?;
    let sources: Vec<Source> = client.sources().await?;
    let Some(name) = name else {
        let text = format!("Views\n{}Sources\n{}", view_table(&views), source_table(&sources));
        return output::print(text.as_bytes());
    };
    let views = views.iter().filter(|view| view.name == name).map(view_details);
    let sources = sources.iter().filter(|source| source.name == name).map(source_details);
    let found: Vec<String> = views.chain(sources).collect();
    if found.is_empty() {
        bail!("there is no view or source \"{name}\"; \\d lists them");
    }
    output::print(found.join("\n").as_bytes())
}

/// A count for a table's cell; empty when there is none.
pub(super) fn count(count: Option<u64>) -> String {
    count.map(|count| HumanCount(count).to_string()).unwrap_or_default()
}

/// A count with its noun: `39,244 events`, `1 file`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

/// Offsets of all partitions: `[12,40]`.
pub(super) fn bracketed(offsets: &[u64]) -> String {
    let offsets: Vec<String> = offsets.iter().map(u64::to_string).collect();
    format!("[{}]", offsets.join(","))
}

fn raw_array(values: Vec<Box<RawValue>>) -> String {
    output::json_array(values.iter().map(|value| value.get()))
}

fn view_table(views: &[View]) -> String {
    let left = ["view", "source", "state"].map(|title| (title, Align::Left));
    let right = ["version", "batch rows", "realtime rows"].map(|title| (title, Align::Right));
    let last = ["boundary", "audit"].map(|title| (title, Align::Left));
    let mut table = Table::new(left.into_iter().chain(right).chain(last));
    for view in views {
        table.push([
            view.name.clone(),
            view.source.clone(),
            view.state.clone(),
            count(view.batch_version),
            count(Some(view.batch.rows)),
            count(Some(view.realtime.rows)),
            bracketed(&view.boundary),
            view.last_audit.as_ref().map(|audit| audit.outcome.clone()).unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn source_table(sources: &[Source]) -> String {
    let right = ["partitions", "events", "views lack", "history lacks"];
    let right = right.map(|title| (title, Align::Right));
    let last = ["watermark", "position"].map(|title| (title, Align::Left));
    let mut table = Table::new([("source", Align::Left)].into_iter().chain(right).chain(last));
    for source in sources {
        table.push([
            source.name.clone(),
            count(Some(source.offsets.len() as u64)),
            count(Some(source.offsets.iter().sum())),
            count(Some(lag(&source.offsets, &source.applied))),
            count(Some(lag(&source.offsets, &source.history_offsets))),
            source.watermark.clone().unwrap_or_default(),
            source.position.clone(),
        ]);
    }
    table.to_string()
}

fn view_details(view: &View) -> String {
    let (batch, realtime) = (&view.batch, &view.realtime);
    let facts = [
        ("view", format!("{} ({})", view.name, view.state)),
        ("building", view.building.clone().map_or("nothing".to_owned(), |id| format!("changed definition {id}"))),
        ("source", view.source.clone()),
        ("batch version", view.batch_version.map_or("none yet".to_owned(), |version| version.to_string())),
        ("boundary", bracketed(&view.boundary)),
        (
            "batch",
            format!("{} in {}, {}", counted(batch.rows, "row"), counted(batch.files, "file"), HumanBytes(batch.bytes)),
        ),
        (
            "realtime",
            format!(
                "{} in {} of {}, {}",
                counted(realtime.rows, "row"),
                counted(realtime.runs, "run"),
                counted(realtime.segments, "segment"),
                HumanBytes(realtime.bytes)
            ),
        ),
        ("batch schedule", view.batch_schedule.clone().unwrap_or_else(|| "by hand".to_owned())),
        ("full recompute", view.full_recompute_schedule.clone().unwrap_or_else(|| "by hand".to_owned())),
        ("next run", view.next_run.clone().unwrap_or_else(|| "none planned".to_owned())),
        ("last audit", view.last_audit.as_ref().map_or("none yet".to_owned(), describe_audit)),
    ];
    details(&facts, &view.columns, &view.sql)
}

fn source_details(source: &Source) -> String {
    let mut facts = vec![
        ("source", source.name.clone()),
        ("partitions", source.offsets.len().to_string()),
        ("log ends at", bracketed(&source.offsets)),
        ("views at", bracketed(&source.applied)),
        ("history at", bracketed(&source.history_offsets)),
        ("watermark", source.watermark.clone().unwrap_or_else(|| "none yet".to_owned())),
        ("position", source.position.clone()),
    ];
    let lost = |gap: &OffsetGap| format!("offsets {} to {} of partition {}", gap.start, gap.end - 1, gap.partition);
    facts.extend(source.gaps.iter().map(|gap| ("lost", lost(gap))));
    facts.extend(source.troubles.iter().map(|trouble| ("trouble", trouble.clone())));
    details(&facts, &source.columns, &source.sql)
}

fn details(facts: &[(&str, String)], columns: &[Column], sql: &str) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text: String = facts.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect();
    let mut table = Table::new(["column", "type", "nullable"].map(|title| (title, Align::Left)));
    for column in columns {
        let nullable = match column.nullable {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        table.push([column.name.as_str(), &column.sql_type, nullable]);
    }
    text.push_str(&table.to_string());
    text.push_str(sql.trim());
    text.push('\n');
    text
}

/// How many events `follower` is behind `end`, over all partitions.
fn lag(end: &[u64], follower: &[u64]) -> u64 {
    let behind = |(partition, end): (usize, &u64)| end.saturating_sub(follower.get(partition).copied().unwrap_or(0));
    end.iter().enumerate().map(behind).sum()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::client::fake::{Fake, reply};

    const SOURCES: &str = r#"{"sources":[{"name":"edits","sql":"CREATE SOURCE edits (...)","columns":[
        {"name":"time","type":"TIMESTAMP","nullable":false}],"partitions":2,"position":"edits=1200,40",
        "offsets":[1200,40],"applied":[1200,39],"history_offsets":[1000],"history_version":4,"watermark":null}]}"#;

    const VIEW: &str = r#"{"name":"edits_by_channel","source":"edits","sql":"CREATE MATERIALIZED VIEW ...",
        "definition_id":"ab12","state":"active","columns":[{"name":"edits","type":"BIGINT"}],"batch_version":3,
        "boundary":[10,40],"batch":{"files":1,"rows":51,"bytes":2048},
        "realtime":{"segments":2,"runs":3,"rows":7,"bytes":100},"batch_schedule":"0 */5 * * * *",
        "full_recompute_schedule":null,"next_run":null,
        "last_audit":{"batch_version":3,"outcome":"drift","groups_compared":51,"groups_different":2,"detail":"sum"}}"#;

    #[tokio::test]
    async fn source_table_counts_what_views_and_history_still_lack() {
        let fake = Fake::start([reply(200, SOURCES)]).await;
        let text = source_table(&Client::new(&fake.url).unwrap().sources().await.unwrap());
        let row: Vec<&str> = text.lines().nth(3).unwrap().split('|').map(str::trim).collect();
        assert_eq!(row, ["", "edits", "2", "1,240", "1", "240", "", "edits=1200,40", ""]);
    }

    #[test]
    fn view_shows_drift_in_the_table_and_in_its_details() {
        let view: View = serde_json::from_str(VIEW).unwrap();
        let details = view_details(&view);
        assert!(details.contains("realtime        7 rows in 3 runs of 2 segments, 100 B"), "{details}");
        assert!(details.contains("last audit      drift (2 of 51 groups differ): sum"), "{details}");
        assert!(details.contains("| edits  | BIGINT |"), "{details}");
        assert!(view_table(&[view]).contains("| [10,40]  |"));
    }

    #[tokio::test]
    async fn unknown_source_lists_the_known_ones() {
        let fake = Fake::start([reply(200, SOURCES)]).await;
        let error = Client::new(&fake.url).unwrap().source::<Source>("edit").await.unwrap_err().to_string();
        assert!(error.contains("there is no source \"edit\"") && error.ends_with("there are: edits"), "{error}");
    }
}
