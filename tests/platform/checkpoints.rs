//! Checkpoints of realtime views make a restart quick, and are never needed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bytes::Bytes;
use tempfile::TempDir;
use watershed::platform::{Platform, Ports};
use watershed_serving_layer::Backend;
use watershed_shared::config::Config;
use watershed_shared::definition::parse_definitions;
use watershed_shared::format::EventFormat;
use watershed_shared::position::PositionToken;

const DEFINITIONS: &str = "
    CREATE SOURCE events (n BIGINT, name TEXT) WITH (connector = 'http', partitions = 3, partition_by = 'n');
    CREATE MATERIALIZED VIEW counted AS
        SELECT n % 7 AS rest, count(*) AS events, sum(n) AS total, approx_distinct(name) AS names,
               last_value(name ORDER BY n) AS last_name
        FROM events GROUP BY n % 7;
    CREATE MATERIALIZED VIEW large AS SELECT n, name FROM events WHERE n > 50;
    CREATE MATERIALIZED VIEW large_too AS SELECT n, name FROM events WHERE n > 50;";
const QUERIES: [&str; 3] =
    ["SELECT * FROM counted ORDER BY rest", "SELECT * FROM large ORDER BY n", "SELECT * FROM large_too ORDER BY n"];

async fn open(folder: &Path) -> Result<Platform> {
    let config = Config::default();
    let ports = Ports::open(&config, folder)?;
    Ok(Platform::open(parse_definitions(DEFINITIONS)?, config, ports).await?)
}

async fn send(platform: &Platform, numbers: std::ops::Range<i64>) -> Result<PositionToken> {
    let body: String = numbers.map(|n| format!("{{\"n\": {n}, \"name\": \"name {n}\"}}\n")).collect();
    Ok(platform.accept("events", EventFormat::NdJson, Bytes::from(body)).await?.position.parse()?)
}

async fn answers(platform: &Platform, positions: &[PositionToken]) -> Result<Vec<String>> {
    let engine = platform.query_engine();
    let mut answers = Vec::new();
    for query in QUERIES {
        let answer = engine.query(query, positions).await?;
        answers.push(arrow::util::pretty::pretty_format_batches(&answer.batches)?.to_string());
    }
    Ok(answers)
}

/// All files below `folder` with the extension.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(self::files(&path, extension)?),
            false if path.extension().is_some_and(|found| found == extension) => files.push(path),
            false => {}
        }
    }
    Ok(files)
}

/// A folder with events in checkpoint, history and log, and what the views answer.
async fn folder_with_events() -> Result<(TempDir, Vec<String>)> {
    let folder = TempDir::new()?;
    let platform = open(folder.path()).await?;
    for start in [0, 100, 200] {
        send(&platform, start..start + 100).await?;
        platform.archive("events").await?;
    }
    let position = send(&platform, 300..350).await?;
    let answers = answers(&platform, &[position]).await?;
    platform.stop().await;
    Ok((folder, answers))
}

#[tokio::test]
async fn a_restart_with_a_checkpoint_reads_no_event_of_the_history() -> Result<()> {
    let (folder, expected) = folder_with_events().await?;
    let history = files(&folder.path().join("store"), "parquet")?;
    assert!(!history.is_empty());
    for file in &history {
        std::fs::rename(file, file.with_extension("away"))?;
    }
    let platform = open(folder.path()).await?;
    assert_eq!(answers(&platform, &[]).await?, expected);
    platform.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_view_whose_checkpoint_is_gone_or_damaged_is_computed_from_the_history() -> Result<()> {
    let (folder, expected) = folder_with_events().await?;
    let realtime = folder.path().join("realtime");
    type Damage = dyn Fn(&Path) -> std::io::Result<()>;
    let damage: [&Damage; 4] = [
        &|realtime| std::fs::remove_dir_all(realtime),
        &|realtime| {
            for run in files(realtime, "arrow").unwrap_or_default() {
                let mut content = std::fs::read(&run)?;
                let middle = content.len() / 2;
                content[middle] ^= 4;
                std::fs::write(run, content)?;
            }
            Ok(())
        },
        &|realtime| files(realtime, "arrow").unwrap_or_default().iter().try_for_each(std::fs::remove_file),
        &|realtime| {
            for view in std::fs::read_dir(realtime)? {
                for definition in std::fs::read_dir(view?.path())? {
                    std::fs::write(definition?.path().join("manifest"), "not what was written")?;
                }
            }
            Ok(())
        },
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        damage(&realtime)?;
        let platform = open(folder.path()).await?;
        assert_eq!(answers(&platform, &[]).await?, expected, "damage {number}");
        // The next commit writes the checkpoint anew.
        platform.archive("events").await?;
        platform.stop().await;
        assert!(!files(&realtime, "arrow")?.is_empty(), "damage {number}");
    }
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_from_before_a_batch_run_gives_only_what_the_batch_view_does_not_cover() -> Result<()> {
    let (folder, _) = folder_with_events().await?;
    let platform = open(folder.path()).await?;
    platform.prepare_run("counted").await?.compute().await?.publish().await?;
    let position = send(&platform, 350..400).await?;
    let expected = answers(&platform, &[position]).await?;
    platform.stop().await;
    drop(platform);
    for _ in 0..2 {
        let platform = open(folder.path()).await?;
        assert_eq!(answers(&platform, &[]).await?, expected);
        platform.archive("events").await?;
        platform.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn realtime_views_that_outgrow_their_memory_answer_the_same_from_disk() -> Result<()> {
    let folder = TempDir::new()?;
    let mut config = Config::default();
    config.realtime.memory_bytes = 1000;
    let open = async || -> Result<Platform> {
        let ports = Ports::open(&config, folder.path())?;
        Ok(Platform::open(parse_definitions(DEFINITIONS)?, config.clone(), ports).await?)
    };
    let on_disk = |platform: &Platform| -> usize {
        let views = Backend::views(platform);
        views.iter().map(|view| view.realtime.stored_bytes).sum()
    };
    let all_in_memory = answers_over(0..2000).await?;
    let platform = open().await?;
    for start in (0..2000).step_by(500) {
        send(&platform, start..start + 500).await?;
        platform.archive("events").await?;
    }
    while on_disk(&platform) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(platform.readiness().detail.iter().any(|sentence| sentence.contains("realtime.memory_bytes")));
    assert_eq!(answers(&platform, &[]).await?, all_in_memory);
    platform.stop().await;
    drop(platform);

    let platform = open().await?;
    assert!(on_disk(&platform) > 0);
    assert_eq!(answers(&platform, &[]).await?, all_in_memory);
    let run = platform.prepare_run("large").await?.compute().await?.publish().await?;
    assert_eq!(format!("{:?}", run.audit.outcome), "Equal");
    assert_eq!(answers(&platform, &[]).await?, all_in_memory);
    platform.stop().await;
    Ok(())
}

/// What the views answer over some events, all in memory.
async fn answers_over(numbers: std::ops::Range<i64>) -> Result<Vec<String>> {
    let folder = TempDir::new()?;
    let platform = open(folder.path()).await?;
    let position = send(&platform, numbers).await?;
    let answers = answers(&platform, &[position]).await?;
    platform.stop().await;
    Ok(answers)
}
