//! Bodies that no reasonable program sends.

use std::io::Write;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::site::Site;

const DEFINITIONS: &str = "
    CREATE SOURCE events (id BIGINT NOT NULL, name TEXT, tags TEXT[]);
    CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, count(name) AS named FROM events";

const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";
const CSV: &str = "text/csv";

/// Sends a body with good rows and bad ones and checks how many of each there were, and that the good ones are there.
async fn check(site: &mut Site, format: &str, body: impl Into<Vec<u8>>, accepted: u64, rejected: u64) -> Result<()> {
    let body = body.into();
    let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
    let before: u64 = site.rows("SELECT n FROM v").await?[0].parse()?;
    let (status, report) = site.send(format, body).await?;
    let expected = if accepted > 0 || rejected == 0 { 200 } else { 422 };
    ensure!(status == expected, "{shown}: {status}: {report}");
    ensure!(report["accepted"] == accepted && report["rejected"] == rejected, "{shown}: {report}");
    ensure!(report.to_string().len() < 100_000, "{shown}: a report of {} bytes", report.to_string().len());
    let after: u64 = site.rows("SELECT n FROM v").await?[0].parse()?;
    ensure!(after == before + accepted, "{shown}: {after} events after {before} and {accepted}");
    Ok(())
}

/// Sends a body that cannot be read at all and checks that it says so and changes nothing.
async fn check_unreadable(site: &mut Site, format: &str, body: impl Into<Vec<u8>>) -> Result<()> {
    let body = body.into();
    let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
    let before = site.rows("SELECT n FROM v").await?;
    let (status, problem) = site.send(format, body).await?;
    ensure!(
        status == 400 && problem["detail"].as_str().is_some_and(|text| text.len() < 2_000),
        "{shown}: {status}: {problem}"
    );
    ensure!(site.rows("SELECT n FROM v").await? == before, "{shown} has changed something");
    Ok(())
}

#[tokio::test]
async fn a_bad_row_never_costs_its_neighbours() -> Result<()> {
    let mut site = Site::open(DEFINITIONS).await?;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let between = |row: &str| format!("{{\"id\":1}}\n{row}\n{{\"id\":2}}\n");
    for bad in [
        "{\"id\":1,\"id\":2}",
        "{\"id\":null}",
        "{\"id\":1,\"name\":{\"a\":1}}",
        "{\"id\":1,\"tags\":[[\"a\"]]}",
        "{\"id\":1,\"name\":\"\\ud800\"}",
        "{\"id\":1,\"name\":\"a\0b\"}",
        "{\"id\":1,\"name\":\"\\x\"}",
        "{\"id\":1",
        "\0",
        "null",
        "[]",
        "{}",
        "{\"id\":1}{\"id\":2}",
        &format!("{{\"id\":1,\"other\":{}}}", deep(1_000_000)),
        &format!("{{\"id\":1,\"tags\":{}}}", deep(100_000)),
        &"[".repeat(1_000_000),
        &"{\"id\":".repeat(500_000),
        &format!("{{\"id\":{}}}", "9".repeat(1_000_000)),
        &format!("{{\"id\":1e{}}}", "9".repeat(1_000_000)),
    ] {
        check(&mut site, NDJSON, between(bad), 2, 1).await?;
    }
    let invalid_utf8 = [b"{\"id\":1}\n{\"id\":2,\"name\":\"\xff\xfe\"}\n".as_slice(), b"{\"id\":3}"].concat();
    check(&mut site, NDJSON, invalid_utf8, 2, 1).await?;
    check(&mut site, JSON, b"[{\"id\":1},{\"id\":2,\"name\":\"\xc0\x80\"},{\"id\":3}]".as_slice(), 2, 1).await?;
    check(&mut site, JSON, format!("[{{\"id\":1}},{{\"id\":2,\"x\":{}}},3,{{\"id\":4}}]", deep(1000)), 2, 2).await?;
    check(&mut site, CSV, b"id,name\n1,\xff\n2,ok\n3\n4,\"x\"y\n5,last".as_slice(), 2, 3).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_odd_but_right_is_accepted() -> Result<()> {
    let mut site = Site::open(DEFINITIONS).await?;
    check(&mut site, NDJSON, "", 0, 0).await?;
    check(&mut site, NDJSON, "\n\r\n  \n", 0, 0).await?;
    check(&mut site, NDJSON, "\u{feff}{\"id\":1}\r\n{\"id\":2}", 2, 0).await?;
    check(&mut site, JSON, "\u{feff}{\"id\":1}", 1, 0).await?;
    check(&mut site, CSV, "\u{feff}id\r\n1\r\n", 1, 0).await?;
    check(&mut site, NDJSON, "{\"id\":1,\"name\":\"a\\u0000b\"}", 1, 0).await?;
    check(&mut site, CSV, "id,name\n1,a\0b\n", 1, 0).await?;
    check(&mut site, NDJSON, format!("{{\"id\":1,\"{}\":1}}", "k".repeat(1_000_000)), 1, 0).await?;
    check(&mut site, NDJSON, "{\"id\":1,\"\":2,\"x\":3,\"x\":4}", 1, 0).await?;
    check(&mut site, NDJSON, format!("{{\"id\":1,\"name\":\"{}\"}}", "é".repeat(10_000_000)), 1, 0).await?;
    let keys: Vec<String> = (0..100_000).map(|key| format!("\"k{key}\":{key}")).collect();
    check(&mut site, NDJSON, format!("{{\"id\":1,{}}}", keys.join(",")), 1, 0).await?;
    let columns: Vec<String> = (0..100_000).map(|column| format!("c{column}")).collect();
    check(&mut site, CSV, format!("id,{}\n1{}\n", columns.join(","), ",".repeat(100_000)), 1, 0).await?;
    let rows = site.rows("SELECT n, named FROM v").await?;
    ensure!(rows == ["11,3"], "{rows:?}");
    Ok(())
}

#[tokio::test]
async fn bodies_without_known_rows_are_refused_whole() -> Result<()> {
    let mut site = Site::open(DEFINITIONS).await?;
    check(&mut site, NDJSON, "{\"id\":0}", 1, 0).await?;
    for body in
        ["", "[", "[{\"id\":1}", "[{\"id\":1}{\"id\":2}]", "{\"id\":1}\n{\"id\":2}", "\"id\"", "[{\"id\":1}]]", "[\"a]"]
    {
        check_unreadable(&mut site, JSON, body).await?;
    }
    check_unreadable(&mut site, JSON, "[".repeat(1_000_000)).await?;
    for body in ["", "\n", "id,id\n1,2", "\"id\n1", "nothing,known\n1,2", "id\n1\n\"2\n3\n"] {
        check_unreadable(&mut site, CSV, body).await?;
    }
    for body in
        [b"".as_slice(), b"ARROW1\0\0", &[0xff; 100], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]]
    {
        check_unreadable(&mut site, "application/vnd.apache.arrow.stream", body).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_report_names_the_first_refused_rows_and_stays_small() -> Result<()> {
    let mut site = Site::open(DEFINITIONS).await?;
    let long = "x".repeat(10_000);
    let body = format!("{{\"id\":\"{long}\"}}\n").repeat(1_000);
    check(&mut site, NDJSON, body, 0, 1_000).await?;
    let (_, problem) = site.send(NDJSON, "{\"id\":\"x\"}\n".repeat(200)).await?;
    let errors = problem["errors"].as_array().map(Vec::len);
    ensure!(errors == Some(100) && problem["errors_truncated"] == Value::Bool(true), "{problem}");
    Ok(())
}

#[tokio::test]
async fn compressed_bodies_are_whole_or_refused() -> Result<()> {
    let gzip = |text: &[u8]| -> Result<Vec<u8>> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text)?;
        Ok(encoder.finish()?)
    };
    let mut site = Site::open(DEFINITIONS).await?;
    let rows = b"{\"id\":1}\n{\"id\":2}\n".as_slice();
    let members = [gzip(rows)?, gzip(b"")?, gzip(rows)?].concat();
    let frames = [zstd::encode_all(rows, 0)?, zstd::encode_all(rows, 0)?].concat();
    // A gibibyte of zeros is a mebibyte of gzip, and a few kilobytes once more.
    let bomb = gzip(&vec![b' '; 128 << 20])?;
    for (encoding, body, status, accepted) in [
        ("gzip", members.clone(), 200, 4),
        ("zstd", frames.clone(), 200, 4),
        ("gzip", members[..members.len() - 1].to_vec(), 400, 0),
        ("gzip", [members.as_slice(), b"garbage"].concat(), 400, 0),
        ("zstd", frames[..frames.len() - 1].to_vec(), 400, 0),
        ("zstd", [frames.as_slice(), b"garbage"].concat(), 400, 0),
        ("gzip", rows.to_vec(), 400, 0),
        ("zstd", rows.to_vec(), 400, 0),
        ("gzip", bomb.clone(), 413, 0),
        ("zstd", zstd::encode_all(vec![0; 128 << 20].as_slice(), 0)?, 413, 0),
        ("gzip", gzip(&bomb)?, 422, 0),
    ] {
        let (found, report) = site.send_encoded(encoding, body).await?;
        ensure!(found == status, "{encoding}: {found} instead of {status}: {report}");
        ensure!(report["accepted"].as_u64().unwrap_or_default() == accepted, "{encoding}: {report}");
    }
    ensure!(site.rows("SELECT n FROM v").await? == ["8"]);
    Ok(())
}
