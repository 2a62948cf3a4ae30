//! Short texts: positions, ids, content types, schedules; and the settings of a project.

use std::fs;
use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use tempfile::TempDir;
use watershed::project::Project;
use watershed_batch_layer::schedule::Schedule;
use watershed_shared::definition::DefinitionId;
use watershed_shared::error::ErrorKind;
use watershed_shared::format::EventFormat;
use watershed_shared::position::PositionToken;

/// What is printed is read again as the same, and nothing else is read.
pub(crate) fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<PositionToken>() {
        Ok(token) => {
            assert_eq!(token.to_string().parse::<PositionToken>().unwrap(), token);
            let json = serde_json::to_string(&token).unwrap();
            assert_eq!(serde_json::from_str::<PositionToken>(&json).unwrap(), token);
            assert!(token.position.covers(&token.position) && token.position.events_since(&token.position) == 0);
        }
        Err(error) => assert!(error.kind() == ErrorKind::Invalid && error.to_string().len() < 2_000, "{error}"),
    }
    match text.parse::<DefinitionId>() {
        Ok(id) => assert_eq!(id.as_str(), text),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
    if let Some(format) = EventFormat::from_content_type(text) {
        assert_eq!(EventFormat::from_content_type(&text.to_ascii_uppercase()), Some(format));
    }
    check_schedule(text);
}

/// A schedule's starts come one after the other.
fn check_schedule(text: &str) {
    let Ok(schedule) = Schedule::parse(text) else { return };
    assert_eq!(schedule.text(), text);
    let mut time: DateTime<Utc> = "2023-12-31T23:59:58.5Z".parse().unwrap();
    for _ in 0..3 {
        let Some(next) = schedule.next_after(time) else { return };
        assert!(next > time, "{text:?}: {next} after {time}");
        time = next;
    }
}

/// A project folder, used again for each input.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("project.sql"), "CREATE SOURCE s (a INT)").unwrap();
    folder
});

/// Settings are refused, or are the same when they are written down as they were understood.
pub(crate) fn settings(data: &[u8]) {
    let read = |data: &[u8]| {
        fs::write(FOLDER.path().join("watershed.toml"), data).unwrap();
        Project::read(FOLDER.path())
    };
    let Ok(project) = read(data) else { return };
    // TOML's numbers end where i64 does, so larger ones cannot have been read.
    let printed = toml::to_string(&project.config).unwrap_or_else(|error| panic!("{:?}: {error}", project.config));
    let again = read(printed.as_bytes()).unwrap_or_else(|error| panic!("{printed}: {error}"));
    assert_eq!(again.config, project.config);
}
