//! Data folders that earlier versions have written, kept in `tests/samples`: they load and answer right, for ever.
//!
//! When a stored form changes, add samples of the new one and keep the old ones:
//!
//! ```text
//! WATERSHED_SAMPLES=tests/samples/v2 cargo test --test platform samples
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::fixture::{self, Fixture, Rows, copy_folder};
use super::{Outcome, named_text, outcome};

/// Bytes that the samples of one version may have: everybody who clones the repository gets them.
const SAMPLE_BYTES_MAX: u64 = 300_000;
/// What a sample's platform must answer.
const EXPECTED: &str = "expected.json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_every_version_load_and_answer_right() -> Result<()> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let mut versions = 0;
    for entry in std::fs::read_dir(&samples)? {
        let sample = entry?.path();
        if !sample.is_dir() {
            continue;
        }
        versions += 1;
        let name = sample.display().to_string();
        let expected: Value = serde_json::from_slice(&std::fs::read(sample.join(EXPECTED)).context(name.clone())?)?;
        let fixture = Fixture::kept(&sample.join("data"), &expected)?;
        match outcome(&fixture, fixture.path()).await.context(name.clone())? {
            Outcome::Right => {}
            Outcome::Named => anyhow::bail!("{name} is not answered"),
        }
    }
    ensure!(versions > 0, "there are no samples in {}", samples.display());
    Ok(())
}

/// Also the way to make the samples of a version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_can_be_made_small_enough_to_keep() -> Result<()> {
    let fixture = Fixture::create(Rows::FEW).await?;
    let folder = tempfile::TempDir::new()?;
    let target = std::env::var_os("WATERSHED_SAMPLES").map_or_else(|| folder.path().join("v"), PathBuf::from);
    let data = target.join("data");
    copy_folder(fixture.path(), &data)?;
    // What RocksDB tells people: no sample of anything that is read, and full of this machine's paths.
    for entry in std::fs::read_dir(data.join("log"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("LOG") || name == "LOCK" {
            std::fs::remove_file(entry.path())?;
        }
    }
    let expected = json!({"position": fixture.position(), "answer": fixture.answer()});
    std::fs::write(target.join(EXPECTED), serde_json::to_string_pretty(&expected)?)?;
    let bytes = size(&target)?;
    ensure!(bytes <= SAMPLE_BYTES_MAX, "the samples have {bytes} bytes");
    Ok(())
}

/// A later version's data is not read, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_later_version_is_refused_by_name() -> Result<()> {
    let fixture = Fixture::create(Rows::FEW).await?;
    let copy = fixture.copy()?;
    let catalog = copy.path().join("store/catalog/views.json");
    std::fs::write(&catalog, r#"{"format_version": 99, "anything": "else"}"#)?;
    let config = fixture::config();
    let ports = watershed::platform::Ports::open(&config, copy.path())?;
    let Err(error) = watershed::platform::Platform::open(fixture::definitions()?, config, ports).await else {
        anyhow::bail!("a catalog of version 99 was read")
    };
    named_text(&watershed::error::with_causes(&error)).map(drop)
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
