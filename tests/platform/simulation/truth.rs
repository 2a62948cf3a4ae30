//! What every answer must say: one pass over the durable events below the offsets that the answer reports.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::RecordBatch;
use watershed_serving_layer::Answer;
use watershed_shared::position::{Offset, Position};
use watershed_shared::source::SourceDefinition;

use super::log::Disk;
use super::schedule::{DEFINITIONS, Question};
use super::world::lock;
use crate::model::one_pass::{self, Row};

/// Answers by definition and offsets.
type Passes = HashMap<(usize, Vec<Offset>), Arc<Vec<Row>>>;

/// The truth of one schedule. Passes are remembered, as many answers are given at the same offsets.
#[derive(Debug)]
pub(super) struct Truth {
    source: Arc<SourceDefinition>,
    disk: Arc<Mutex<Disk>>,
    passes: Mutex<Passes>,
}

impl Truth {
    pub(super) fn new(source: &Arc<SourceDefinition>, disk: &Arc<Mutex<Disk>>) -> Truth {
        Truth { source: Arc::clone(source), disk: Arc::clone(disk), passes: Mutex::default() }
    }

    /// Checks an answer to a question that names the columns of the definition `asked`. Each of the views that it is about
    /// has one of the definitions given; another one than `asked` may answer if it has columns of these names too. Gives
    /// the offsets that the answer reports.
    pub(super) async fn check(
        &self,
        (question, asked): (Question, usize),
        views: &[Vec<usize>],
        answer: &Answer,
    ) -> Result<Position> {
        let offsets = answer.as_of.sources.get("events").context("the answer reports no offsets")?;
        let as_of = Position::new(offsets.offsets.iter().copied().map(Offset).collect());
        let durable = lock(&self.disk).end().clone();
        ensure!(durable.covers(&as_of), "the answer stands for events below {as_of}, but only {durable} are durable");
        match (question, views) {
            (Question::Together(_), [first, second]) => self.check_counts([first, second], &as_of, answer).await?,
            (_, [definitions]) => self.check_rows((question, asked), definitions, &as_of, answer).await?,
            _ => bail!("{question:?} was asked of {} views", views.len()),
        }
        Ok(as_of)
    }

    async fn check_rows(
        &self,
        (of, asked): (Question, usize),
        definitions: &[usize],
        as_of: &Position,
        answer: &Answer,
    ) -> Result<()> {
        let rows = one_pass::to_rows(&answer.batches)?;
        let mut difference = Err(anyhow::anyhow!("no definition has the columns of {of:?}"));
        for &definition in definitions {
            let truth = self.rows(definition, as_of).await?;
            let Some((columns, first)) = of.columns(asked, definition) else { continue };
            let tolerance = |column: usize| DEFINITIONS[definition].tolerance(columns[column]);
            difference = match (of, answer.schema.fields().len()) {
                (Question::Count, 1) => count_is(&rows, 0, &[truth.len()]),
                (_, found) if found != columns.len() => Err(anyhow::anyhow!("{found} columns, not {}", columns.len())),
                _ => one_pass::ensure_equal(&tolerance, rows.clone(), of.of_all(&truth, &columns, first)),
            };
            if difference.is_ok() {
                return Ok(());
            }
            let statement = DEFINITIONS[definition].definition("v");
            difference = difference.with_context(|| format!("{of:?} of {statement}, as of {:?}", answer.as_of));
        }
        difference
    }

    async fn check_counts(&self, views: [&Vec<usize>; 2], as_of: &Position, answer: &Answer) -> Result<()> {
        let rows = one_pass::to_rows(&answer.batches)?;
        for (column, definitions) in views.into_iter().enumerate() {
            let mut counts = Vec::new();
            for &definition in definitions {
                counts.push(self.rows(definition, as_of).await?.len());
            }
            count_is(&rows, column, &counts).with_context(|| format!("two views at {as_of}"))?;
        }
        Ok(())
    }

    async fn rows(&self, definition: usize, as_of: &Position) -> Result<Arc<Vec<Row>>> {
        let key = (definition, as_of.offsets().to_vec());
        if let Some(known) = lock(&self.passes).get(&key) {
            return Ok(Arc::clone(known));
        }
        let events = lock(&self.disk).below(as_of);
        let events: Vec<RecordBatch> = events
            .iter()
            .map(|batch| batch.with_system_columns(&self.source.event_schema))
            .collect::<Result<_, _>>()?;
        let rows = Arc::new(one_pass::rows(&DEFINITIONS[definition], &self.source, &events).await?);
        lock(&self.passes).insert(key, Arc::clone(&rows));
        Ok(rows)
    }
}

fn count_is(rows: &[Row], column: usize, counts: &[usize]) -> Result<()> {
    let found = rows.first().and_then(|row| row.texts.get(column)?.parse::<usize>().ok());
    ensure!(found.is_some_and(|found| counts.contains(&found)), "{found:?} rows instead of {counts:?}");
    Ok(())
}

impl Question {
    /// The question about a view, and a second one, in SQL.
    pub(super) fn sql(self, view: &str, definition: usize, other: &str) -> String {
        let names = DEFINITIONS[definition].column_names();
        match self {
            Question::All => format!("SELECT * FROM {view}"),
            Question::SomeColumns => {
                format!("SELECT {} FROM {view}", every_other(&names).join(", "))
            }
            Question::Count => format!("SELECT count(*) FROM {view}"),
            Question::FirstIsNull(is) => {
                format!("SELECT * FROM {view} WHERE {} IS {}NULL", names[0], if is { "" } else { "NOT " })
            }
            Question::Together(_) => {
                format!("SELECT (SELECT count(*) FROM {view}) AS a, (SELECT count(*) FROM {other}) AS b")
            }
        }
    }

    /// Which columns of a view by `definition` the answer has, and which one the predicate is about, when the question
    /// names the columns of `asked`; `None` if there are none of these names.
    fn columns(self, asked: usize, definition: usize) -> Option<(Vec<usize>, usize)> {
        let (asked, names) = (DEFINITIONS[asked].column_names(), DEFINITIONS[definition].column_names());
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        match self {
            Question::SomeColumns => Some((every_other(&asked).into_iter().map(find).collect::<Option<_>>()?, 0)),
            Question::FirstIsNull(_) => Some(((0..names.len()).collect(), find(&asked[0])?)),
            _ => Some(((0..names.len()).collect(), 0)),
        }
    }

    /// What of all the view's rows is the answer; a predicate is about the column `first`.
    fn of_all(self, rows: &[Row], columns: &[usize], first: usize) -> Vec<Row> {
        let wanted = |row: &&Row| match self {
            Question::FirstIsNull(is) => (row.texts[first] == "NULL") == is,
            _ => true,
        };
        rows.iter().filter(wanted).map(|row| row.project(columns)).collect()
    }
}

/// Every other name, the last one among them.
fn every_other(names: &[String]) -> Vec<&str> {
    let mut chosen: Vec<&str> = names.iter().rev().step_by(2).map(String::as_str).collect();
    chosen.reverse();
    chosen
}
