//! `watershed sinks`: what each sink sends, and up to where it has.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::value::RawValue;
use watershed_serving_layer::SinkStatus;

use super::table::{Align, Table};
use super::views::{bracketed, count};
use super::{ListFormat, ServerArgs, output};

/// Arguments of `watershed sinks`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed sinks                  up to where has each sink sent its view, and does anything keep it from sending?
  watershed sinks --format json

The column \"sent up to\" has the offsets of the view's source that the topic's records stand for.")]
pub(crate) struct SinksArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs `watershed sinks`.
pub(crate) async fn execute(args: SinksArgs) -> Result<ExitCode> {
    let client = args.server.client()?;
    let text = match args.format {
        ListFormat::Json => {
            let sinks: Vec<Box<RawValue>> = client.sinks().await?;
            output::json_array(sinks.iter().map(|sink| sink.get()))
        }
        ListFormat::Table => table(&client.sinks().await?),
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn table(sinks: &[SinkStatus]) -> String {
    let left = ["sink", "view", "topic", "mode"].map(|title| (title, Align::Left));
    let last = ["sent up to", "windows before", "trouble"].map(|title| (title, Align::Left));
    let mut table = Table::new(left.into_iter().chain([("records", Align::Right)]).chain(last));
    for sink in sinks {
        let mode = sink.mode.map(|mode| format!("{mode:?}").to_lowercase());
        table.push([
            sink.name.clone(),
            sink.view.clone(),
            sink.topic.clone(),
            mode.unwrap_or_default(),
            count(Some(sink.records)),
            sink.sent.as_deref().map(bracketed).unwrap_or_default(),
            sink.closed_before.clone().unwrap_or_default(),
            sink.trouble.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::client::fake::{Fake, reply};

    const SINKS: &str = r#"{"sinks":[{"name":"changes","view":"pages","topic":"pages","sql":"CREATE SINK ...",
        "mode":"update","sent":[10,40],"closed_before":null,"records":1200}]}"#;

    #[tokio::test]
    async fn a_sink_shows_what_it_has_sent() {
        let fake = Fake::start([reply(200, SINKS)]).await;
        let text = table(&Client::new(&fake.url).unwrap().sinks().await.unwrap());
        let row: Vec<&str> = text.lines().nth(3).unwrap().split('|').map(str::trim).collect();
        assert_eq!(row, ["", "changes", "pages", "pages", "update", "1,200", "[10,40]", "", "", ""]);
    }
}
