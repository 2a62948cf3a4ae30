//! The data sets: where their events are, how they are cut in two, and which answers are expected.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray};
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatchReader;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;

use super::answer::{Oracle, Oracles, Row};

/// Real events with expected answers. The data set's name is its source's name.
pub(crate) struct DataSet {
    pub(crate) name: &'static str,
    /// File with all events, in `../shared/data`.
    pub(crate) file: &'static str,
    /// File with the same events in the same order, from which `batch_midway` takes the second part.
    second_file: &'static str,
    pub(crate) rows: usize,
    /// Number of rows that `batch_midway` ingests before its first batch run.
    pub(crate) first_rows: usize,
    /// Oracles that hold when exactly `first_rows` events are accepted, and not at the end.
    midway: &'static [&'static str],
}

pub(crate) const WIKITICKER: DataSet = DataSet {
    name: "wikiticker",
    file: "wikiticker-2015-09-12-sampled.json.gz",
    second_file: "wikiticker-2015-09-12-sampled.json.gz",
    rows: 39_244,
    first_rows: 19_622,
    midway: &[],
};

pub(crate) const NYCFLIGHTS13: DataSet = DataSet {
    name: "nycflights13",
    file: "nycflights13_events.parquet",
    second_file: "nycflights13_events.parquet",
    rows: 336_776,
    first_rows: 50_000,
    midway: &["n13_prefix_50000"],
};

pub(crate) const FLIGHTS3M: DataSet = DataSet {
    name: "flights3m",
    file: "flights-3m.parquet",
    second_file: "flights-3m.parquet",
    rows: 3_000_000,
    first_rows: 1_500_000,
    midway: &[],
};

/// Pinot's hybrid table: what Pinot calls its offline part goes below the boundary, its realtime part above.
pub(crate) const AIRLINE_STATS: DataSet = DataSet {
    name: "airlineStats",
    file: "pinot_airlineStats_offline.parquet",
    second_file: "pinot_airlineStats_stream.parquet",
    rows: 9_746,
    first_rows: 4_873,
    midway: &[],
};

pub(crate) const GITHUB_EVENTS: DataSet = DataSet {
    name: "githubEvents",
    file: "githubEvents_2021-07-21.parquet",
    second_file: "githubEvents_2021-07-21.parquet",
    rows: 800,
    first_rows: 400,
    midway: &[],
};

impl DataSet {
    pub(crate) fn manifest(&self) -> Result<Manifest> {
        let path = shared("oracles").join(self.name).join("manifest.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The oracles that have a query; `None`, with a word about it, where `../shared` is missing.
    pub(crate) fn oracles(&self) -> Result<Option<Oracles>> {
        if !shared("oracles").exists() {
            println!("skipped: ../shared is not there");
            return Ok(None);
        }
        let mut oracles = Vec::new();
        for view in self.manifest()?.views {
            let query = definitions().join(self.name).join(format!("{}.sql", view.name));
            if !query.exists() {
                continue;
            }
            let sql = fs::read_to_string(query)?;
            let midway = self.midway.contains(&view.name.as_str());
            let (columns, rows) = expected_rows(&shared("oracles").join(self.name).join(format!("{}.csv", view.name)))?;
            oracles.push(Oracle { name: view.name, sql, tolerance: view.float_tolerance, midway, columns, rows });
        }
        ensure!(!oracles.is_empty(), "data set {} has no queries", self.name);
        Ok(Some(Oracles(oracles)))
    }

    /// Writes the first `first_rows` events and the others into two files below `folder`.
    pub(crate) fn split(&self, folder: &Path) -> Result<[PathBuf; 2]> {
        let [file, second_file] = [self.file, self.second_file].map(|name| shared("data").join(name));
        if self.file.ends_with(".parquet") {
            let parts = ["first.parquet", "second.parquet"].map(|name| folder.join(name));
            copy_parquet_rows(&file, 0, self.first_rows, &parts[0])?;
            copy_parquet_rows(&second_file, self.first_rows, self.rows - self.first_rows, &parts[1])?;
            return Ok(parts);
        }
        // One part plain and one compressed, because clients send both.
        let parts = ["first.json", "second.json.gz"].map(|name| folder.join(name));
        let mut first = File::create(&parts[0])?;
        let mut second = GzEncoder::new(File::create(&parts[1])?, Compression::fast());
        for (row, line) in BufReader::new(MultiGzDecoder::new(File::open(&file)?)).lines().enumerate() {
            let part: &mut dyn Write = if row < self.first_rows { &mut first } else { &mut second };
            writeln!(part, "{}", line?)?;
        }
        second.finish()?;
        Ok(parts)
    }
}

/// A data set's `manifest.json`, as far as the tests need it.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    pub(crate) views: Vec<ManifestView>,
}

#[derive(Deserialize)]
pub(crate) struct ManifestView {
    pub(crate) name: String,
    float_tolerance: f64,
}

/// A folder of the files that are shared between checkouts; it may be missing.
pub(crate) fn shared(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(folder)
}

/// The folder with the definitions and queries of all data sets.
pub(crate) fn definitions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles")
}

fn copy_parquet_rows(file: &Path, offset: usize, limit: usize, target: &Path) -> Result<()> {
    let rows = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?;
    let rows = rows.with_offset(offset).with_limit(limit).build()?;
    let mut writer = ArrowWriter::try_new(File::create(target)?, rows.schema(), None)?;
    for batch in rows {
        writer.write(&batch?)?;
    }
    writer.close()?;
    Ok(())
}

/// The header and the rows of an oracle's CSV file; an empty field is NULL.
fn expected_rows(path: &Path) -> Result<(Vec<String>, Vec<Row>)> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let columns: Vec<String> = text.lines().next().unwrap_or_default().split(',').map(String::from).collect();
    let fields: Vec<Field> = columns.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let reader = ReaderBuilder::new(Arc::new(Schema::new(fields))).with_header(true).build(text.as_bytes())?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch?;
        let cells: Vec<_> = batch.columns().iter().map(|column| column.as_string::<i32>()).collect();
        for row in 0..batch.num_rows() {
            rows.push(cells.iter().map(|cell| cell.is_valid(row).then(|| cell.value(row).to_owned())).collect());
        }
    }
    Ok((columns, rows))
}
