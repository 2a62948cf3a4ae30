//! Up to where a sink has sent: what its topic's group remembers.

use serde::{Deserialize, Serialize};
use watershed_shared::plan::ViewPlan;
use watershed_shared::position::{Offset, Position};
use watershed_shared::sink::SinkMode;

use super::Prepared;

const FORMAT: u32 = 1;

/// Up to where a sink has sent, as its topic's group has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    format: u32,
    /// Name of the source that the offsets are of.
    pub(super) source: String,
    /// Identity of the view's definition.
    definition: String,
    pub(super) mode: SinkMode,
    /// Names of the columns that made the records' key.
    key: Vec<String>,
    /// Ids of the schemas that stand in front of the records' values and keys; none in JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    schemas: Vec<u32>,
    /// Position of the snapshot that was sent.
    pub(super) offsets: Vec<u64>,
    /// In mode append with windows: those that start before this were closed; microseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) closed_before: Option<i64>,
}

impl Progress {
    pub(super) fn at(
        view: &ViewPlan,
        prepared: &Prepared,
        position: &Position,
        closed_before: Option<i64>,
    ) -> Progress {
        let columns = view.output_schema();
        let plan = &prepared.plan;
        Progress {
            format: FORMAT,
            source: view.source.name.clone(),
            definition: view.id.as_str().to_owned(),
            mode: plan.mode,
            key: plan.key.iter().map(|column| columns.field(*column).name().clone()).collect(),
            schemas: prepared.writer.schema_ids(),
            offsets: position.offsets().iter().map(|offset| offset.0).collect(),
            closed_before,
        }
    }

    pub(super) fn position(&self) -> Position {
        Position::new(self.offsets.iter().copied().map(Offset).collect())
    }

    /// Whether it was written by the same sink over the same definition, so that only changes are to be sent.
    pub(super) fn is_of(&self, view: &ViewPlan, prepared: &Prepared) -> bool {
        let Progress { offsets, closed_before, .. } = self.clone();
        *self == Progress { offsets, closed_before, ..Progress::at(view, prepared, &Position::default(), None) }
    }

    /// # Errors
    /// Text that no version has written, or only a later one.
    pub(super) fn parse(text: &str) -> Result<Progress, String> {
        let progress: Progress = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match progress.format {
            FORMAT => Ok(progress),
            other => Err(format!("its format is {other}, which a newer version has written")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As sinks without schemas have written it from the first version on.
    const STORED: &str = r#"{"format":1,"source":"edits","definition":"2f","mode":"append","key":["page"],"offsets":[3,7],"closed_before":-60}"#;

    #[test]
    fn stored_progress_is_read_for_ever() -> Result<(), Box<dyn std::error::Error>> {
        let progress = Progress {
            format: 1,
            source: "edits".to_owned(),
            definition: "2f".to_owned(),
            mode: SinkMode::Append,
            key: vec!["page".to_owned()],
            schemas: Vec::new(),
            offsets: vec![3, 7],
            closed_before: Some(-60),
        };
        assert_eq!(Progress::parse(STORED)?, progress);
        assert_eq!(serde_json::to_string(&progress)?, STORED);
        let with_schemas = Progress { schemas: vec![5, 4], ..progress };
        assert_eq!(Progress::parse(&serde_json::to_string(&with_schemas)?)?, with_schemas);
        Ok(())
    }

    #[test]
    fn progress_of_a_later_version_is_refused() {
        let refused = Progress::parse(&STORED.replacen("1", "2", 1));
        assert!(refused.is_err_and(|reason| reason.contains("newer version")));
    }
}
