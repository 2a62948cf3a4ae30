//! The real binary as a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a start may take; generous, because other tests share the machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts `watershed run` on a free port and waits until it listens; returns the process, its output and its URL.
pub(crate) fn spawn(project: &Path, data: &Path) -> Result<(Child, Receiver<String>, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.arg("run").arg(project).arg("--data").arg(data);
    command.args(["--http", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn()?;
    let (sender, output) = channel();
    forward_lines(process.stdout.take(), sender.clone());
    forward_lines(process.stderr.take(), sender);
    let started = Instant::now();
    while let Ok(line) = output.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
        if let Some((_, address)) = line.split_once("listening on http://") {
            let address = address.split_whitespace().next().unwrap_or_default();
            return Ok((process, output, format!("http://{address}")));
        }
        println!("{line}");
    }
    // It fails only when the process is gone already.
    let _ = process.kill();
    bail!("the platform does not listen; it ended with {}", process.wait()?)
}

/// Passes the lines of a pipe on until it is closed, so that the process never blocks on a full pipe.
fn forward_lines(pipe: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    std::thread::spawn(move || {
        let pipe = pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines());
        pipe.map_while(|line| line.ok()).all(|line| lines.send(line).is_ok())
    });
}
