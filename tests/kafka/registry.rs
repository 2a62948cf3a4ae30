//! A schema registry of a test's own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::run;

/// A real registry in a folder of its own, which ends with the test.
pub(crate) struct Registry {
    folder: TempDir,
    /// The address that clients use.
    pub(crate) url: String,
}

impl Registry {
    /// Starts a registry. The first start on a machine downloads it.
    pub(crate) fn start() -> Result<Registry> {
        let folder = tempfile::tempdir()?;
        let url = run("registry", "start", folder.path(), &["--port", "free"])?;
        Ok(Registry { url: url.trim().to_owned(), folder })
    }

    /// Registers an Avro schema and gives its id.
    pub(crate) async fn register(&self, subject: &str, schema: &Value) -> Result<u32> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("{}/subjects/{subject}/versions", self.url);
        let response = client.post(url).json(&json!({ "schema": schema.to_string() })).send().await?;
        let (status, body) = (response.status(), response.text().await?);
        ensure!(status.is_success(), "the registry answered {status}: {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let id = answer["id"].as_u64().with_context(|| format!("no id in {body}"))?;
        Ok(id.try_into()?)
    }

    /// The newest schema of a subject, with its id.
    pub(crate) async fn latest(&self, subject: &str) -> Result<(u32, Value)> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("{}/subjects/{subject}/versions/latest", self.url);
        let answer: Value = client.get(url).send().await?.error_for_status()?.json().await?;
        let id = answer["id"].as_u64().with_context(|| format!("no id in {answer}"))?;
        Ok((id.try_into()?, serde_json::from_str(answer["schema"].as_str().context("no schema")?)?))
    }

    /// Ends the registry as a crash does.
    pub(crate) fn kill(&self) -> Result<()> {
        run("registry", "kill", self.folder.path(), &[]).map(drop)
    }

    /// Starts it again, on the same schemas and at the same address.
    pub(crate) fn restart(&self) -> Result<()> {
        let url = run("registry", "start", self.folder.path(), &[])?;
        ensure!(url.trim() == self.url, "the registry is at {url} now, not at {}", self.url);
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            println!("the registry may still run: {error:#}");
        }
    }
}
