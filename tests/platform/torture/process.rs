//! The real binary as a process that can die at any moment.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;

/// How long a start, a stop or a death may take; generous, because other tests share the machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Lines of output that a failure shows.
const LINES_SHOWN: usize = 40;

/// `watershed run` on a project.
pub(super) struct Process {
    child: Child,
    pub(super) started: SystemTime,
    /// The platform's URL once it listens; closed when the process has ended.
    url: watch::Receiver<Option<String>>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts the platform on `home/project` and `home/data`.
    pub(super) fn start(home: &Path, environment: &[(&str, String)]) -> Result<Process> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        command.arg("run").arg(home.join("project")).arg("--data").arg(home.join("data"));
        command.args(["--http", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("WATERSHED_FAULT_POINT").env_remove("WATERSHED_DEFECT");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let started = SystemTime::now();
        let mut child = command.spawn().context("cannot start the platform")?;
        let (sender, url) = watch::channel(None);
        let lines = Arc::new(Mutex::new(Vec::new()));
        keep_lines(child.stdout.take(), Arc::clone(&lines), sender.clone());
        keep_lines(child.stderr.take(), Arc::clone(&lines), sender);
        Ok(Process { child, started, url, lines })
    }

    /// The platform's URL as soon as it listens; `None` when the process ends before.
    pub(super) async fn url(&mut self) -> Result<Option<String>> {
        let listening = async { self.url.wait_for(Option::is_some).await.ok().and_then(|url| url.clone()) };
        let waited = tokio::time::timeout(PATIENCE, listening).await;
        waited.with_context(|| format!("the platform neither listens nor ends:\n{}", self.output()))
    }

    /// Kills the process with SIGKILL, and returns when it is gone with everything that it held.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the platform")?;
        self.ended(PATIENCE).await.map(drop)
    }

    /// Stops the process with SIGTERM; it must end by itself and without an error.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let signal = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(signal.success(), "cannot signal the platform: it is gone");
        let status = self.ended(PATIENCE).await?;
        ensure!(status.success(), "the platform ended with {status} after SIGTERM:\n{}", self.output());
        Ok(())
    }

    /// Waits until the process is gone.
    pub(super) async fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        let closed = async { while self.url.changed().await.is_ok() {} };
        let ended = tokio::time::timeout(patience, closed).await;
        ended.with_context(|| format!("the platform still runs after {patience:?}:\n{}", self.output()))?;
        Ok(self.child.wait()?)
    }

    /// The lines in which the process says that someone must act, or that it panicked.
    pub(super) fn alarms(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.contains(" ERROR ") || line.contains("panicked at")).cloned().collect()
    }

    /// Whether the process said that it stops at this fault point.
    pub(super) fn stopped_at(&self, point: &str) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().any(|line| line.contains(&format!("stopped at fault point {point}")))
    }

    /// The last lines that the process printed.
    pub(super) fn output(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the lines of a pipe until it is closed, and tells when one of them says where the platform listens.
fn keep_lines(
    pipe: Option<impl Read + Send + 'static>,
    lines: Arc<Mutex<Vec<String>>>,
    url: watch::Sender<Option<String>>,
) {
    std::thread::spawn(move || {
        let pipe = pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines());
        for line in pipe.map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("listening on http://") {
                url.send_replace(Some(format!("http://{}", address.trim())));
            }
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
