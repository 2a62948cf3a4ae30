//! A real day of Wikipedia edits: read as arrow-json reads it, and the same in every format.

use std::path::Path;
use std::process::Command;

use arrow::json::ReaderBuilder;

use super::EventFormat::{ArrowStream, Csv, JsonArray, NdJson};
use super::*;

const COLUMNS: [&str; 20] = [
    "time TIMESTAMP!",
    "channel TEXT",
    "cityName TEXT",
    "comment TEXT",
    "countryIsoCode TEXT",
    "countryName TEXT",
    "isAnonymous BOOLEAN",
    "isMinor BOOLEAN",
    "isNew BOOLEAN",
    "isRobot BOOLEAN",
    "isUnpatrolled BOOLEAN",
    "metroCode INT",
    "namespace TEXT",
    "page TEXT",
    "regionIsoCode TEXT",
    "regionName TEXT",
    "user TEXT",
    "delta BIGINT",
    "added BIGINT",
    "deleted BIGINT",
];

/// The bodies' lines, unless the data is not on this machine.
fn wikiticker() -> Option<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/wikiticker-2015-09-12-sampled.json.gz");
    if !file.exists() {
        eprintln!("skipped: {} is not there", file.display());
        return None;
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(&file).output().unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    Some(unpacked.stdout)
}

/// What arrow-json makes of lines, all in one batch.
pub(super) fn bare_arrow_json(columns: &SchemaRef, lines: &[u8]) -> RecordBatch {
    let rows = lines.iter().filter(|byte| **byte == b'\n').count() + 1;
    let mut decoder = ReaderBuilder::new(Arc::clone(columns)).with_batch_size(rows).build_decoder().unwrap();
    // A number is only read when something follows it.
    let read = decoder.decode(lines).unwrap() + decoder.decode(b"\n").unwrap();
    assert_eq!(read, lines.len() + 1);
    decoder.flush().unwrap().unwrap()
}

#[test]
fn a_real_day_is_read_as_arrow_json_reads_it_and_the_same_in_every_format() {
    let Some(lines) = wikiticker() else { return };
    let decoder = decoder(&COLUMNS);
    let expected = bare_arrow_json(&decoder.columns, &lines);
    assert_eq!(expected.num_rows(), 39_244);
    let elements = String::from_utf8(lines.clone()).unwrap().trim_end().replace('\n', ",\n");
    let mut csv = Vec::new();
    let mut csv_writer = arrow::csv::Writer::new(&mut csv);
    csv_writer.write(&expected).unwrap();
    drop(csv_writer);
    let mut stream = Vec::new();
    let mut stream_writer = arrow::ipc::writer::StreamWriter::try_new(&mut stream, &expected.schema()).unwrap();
    for start in (0..expected.num_rows()).step_by(5000) {
        stream_writer.write(&expected.slice(start, 5000.min(expected.num_rows() - start))).unwrap();
    }
    stream_writer.finish().unwrap();
    drop(stream_writer);
    let bodies =
        [(NdJson, lines), (JsonArray, format!("[{elements}]").into_bytes()), (Csv, csv), (ArrowStream, stream)];
    for (format, body) in bodies {
        let decoded = decoder.decode(format, &body).unwrap();
        assert_eq!(decoded.rejected, [], "{format:?}");
        assert!(decoded.events == expected, "{format:?}");
    }
}
