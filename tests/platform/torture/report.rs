//! What a round has shown, as the table of `docs/reliability.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::lane::{Seen, UNDER_LOAD, WHILE_STARTING};
use super::points::POINTS;

/// The sum of all lanes.
#[derive(Debug, Default)]
pub(super) struct Report {
    kills: BTreeMap<&'static str, u64>,
    total: Seen,
}

impl Report {
    pub(super) fn add(&mut self, seen: Seen) {
        for kill in &seen.kills {
            *self.kills.entry(kill).or_default() += 1;
        }
        let total = &mut self.total;
        total.kills.extend(seen.kills);
        total.starts += seen.starts;
        total.checks += seen.checks;
        total.answers_compared += seen.answers_compared;
        total.folders += seen.folders;
        total.counts.add(seen.counts);
    }

    /// Number of kills.
    pub(super) fn kills(&self) -> usize {
        self.total.kills.len()
    }

    /// Points that no life was killed at.
    pub(super) fn never_reached(&self) -> Vec<&'static str> {
        POINTS.iter().map(|point| point.name).filter(|name| !self.kills.contains_key(name)).collect()
    }

    /// The totals in one line.
    pub(super) fn summary(&self, elapsed: Duration) -> String {
        let Seen { starts, checks, answers_compared, folders, counts, .. } = &self.total;
        format!(
            "{} kills, {starts} starts, {folders} data folders in {} s; {checks} checks compared {answers_compared} \
             answers; {} events sent, {} acknowledged, {} without an answer and there, {} without and not there; \
             0 lost, 0 doubled, 0 wrong answers",
            self.kills(),
            elapsed.as_secs(),
            counts.sent,
            counts.acknowledged,
            counts.found,
            counts.sent - counts.acknowledged - counts.found,
        )
    }
}

/// The table. A round ends at the first thing that is wrong, so every line of a table has the same outcome.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = [(UNDER_LOAD, "at a random moment"), (WHILE_STARTING, "at a random moment")];
        let named = POINTS.iter().map(|point| (point.name, point.meaning));
        writeln!(f, "| fault | what was done last | kills | lost | doubled | wrong |\n|---|---|---:|---:|---:|---:|")?;
        for (name, meaning) in rest.into_iter().chain(named) {
            let kills = self.kills.get(name).copied().unwrap_or_default();
            writeln!(f, "| `{name}` | {meaning} | {kills} | 0 | 0 | 0 |")?;
        }
        Ok(())
    }
}
