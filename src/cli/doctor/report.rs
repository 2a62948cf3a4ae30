//! How findings are printed.

use anyhow::Result;
use serde_json::{Value, json};
use watershed_batch_layer::inspect::Severity;

use super::examine::{Diagnosis, Fix, Found};
use super::place::Place;
use crate::cli::table::{Align, Table};

/// For people: a table of what was found, and a sentence.
pub(super) fn table(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    if !diagnosis.findings.is_empty() {
        let mut table = Table::new(["severity", "where", "what", "what to do"].map(|title| (title, Align::Left)));
        for Found { finding, .. } in &diagnosis.findings {
            table.push([name(finding.severity), &finding.place, &finding.what, &finding.action]);
        }
        text.push_str(&table.to_string());
    }
    text.push_str(&diagnosis.describe());
    text.push('\n');
    text
}

/// For programs: everything, in one object.
pub(super) fn json(place: &Place, diagnosis: &Diagnosis) -> Result<String> {
    let finding = |Found { finding, fix }: &Found| -> Result<Value> {
        let mut value = serde_json::to_value(finding)?;
        value["repair"] = json!(fix.as_ref().map(Fix::describe));
        Ok(value)
    };
    let log = diagnosis.log.partitions.iter().map(|log| {
        json!({"source": log.source, "partition": log.partition.0, "start": log.start.0, "end": log.end.0, "blocks": log.blocks})
    });
    let value = json!({
        "data": place.data.display().to_string(),
        "store": place.store,
        "clean": diagnosis.findings.iter().all(|found| found.finding.severity == Severity::Note),
        "findings": diagnosis.findings.iter().map(finding).collect::<Result<Vec<_>>>()?,
        "log": log.collect::<Vec<_>>(),
        "formats": diagnosis.formats,
        "store_bytes": diagnosis.bytes,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}
