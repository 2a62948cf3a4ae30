//! `watershed demo`: a year of real flights through the platform in about a minute, checked against the truth all along.
//!
//! | module | what it does |
//! |---|---|
//! | `example` | the bundled definitions and events |
//! | `play` | streams the events, and recomputes views and checks answers meanwhile |
//! | `truth`, `compare` | what a view must answer, and whether it does |
//! | `progress` | what has happened so far |
//! | `draw` | progress as lines of text |
//! | `screen` | lines on a terminal or in a pipe |

mod compare;
mod draw;
mod example;
mod play;
mod progress;
mod screen;
mod truth;

use std::convert::Infallible;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;
use watershed::platform::{Platform, Ports};
use watershed_serving_layer::Backend;
use watershed_serving_layer::api::{ApiOptions, router, serve};

use self::draw::summary;
use self::example::Example;
use self::play::Player;
use self::progress::{Progress, Stage};
use self::screen::{FRAME_INTERVAL, Screen};
use super::output;
use super::run::told_to_stop;

const LOG_FILE: &str = "demo.log";
const LOG_FILTER: &str = "info";
const QUESTION: &str = "SELECT * FROM carrier_stats";

/// Arguments of `watershed demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed demo
  watershed demo --seconds 300 --http 127.0.0.1:8080    time to ask it something: watershed sql
  watershed demo --keep flights-demo && watershed run flights-demo

Every answer is compared with the truth: the view's SQL, run once by plain DataFusion over exactly the events that the \
answer says it covers. Ends with exit code 0 only if all were equal, no handoff from realtime to batch drifted and the \
whole year was played; 130 after Ctrl-C.")]
pub(crate) struct DemoArgs {
    /// About how long the year takes
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Keep the data: make DIR (new, or empty) a project that `watershed run` can go on with
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print a line now and then, as when standard output is no terminal, instead of a picture
    #[arg(long)]
    plain: bool,
    /// Address to serve HTTP on meanwhile; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    http: SocketAddr,
}

/// Plays the demo.
pub(crate) async fn execute(args: DemoArgs) -> Result<ExitCode> {
    let interrupted = told_to_stop()?;
    let example = Example::read()?;
    // Before anything is written, so that an address in use leaves no trace.
    let listener = listen(args.http).await?;
    let folder = Folder::make(args.keep.as_deref())?;
    log_to(&folder.path().join(LOG_FILE))?;
    let running = Running::start(&example, folder.path(), listener).await?;
    let played = play(&args, &example, &running, interrupted).await;
    running.stop().await;
    let went_well = match &played {
        Ok(progress) => progress.all_right(),
        // Whoever read our output has seen enough.
        Err(error) => output::is_closed(error),
    };
    if !went_well && let Some(path) = folder.keep() {
        output::notice(&format!("the data and the log are in \"{}\"", path.display()));
    }
    let progress = played?;
    let mut lines = summary(&progress);
    lines.extend(next_steps(args.keep.as_deref()));
    output::print(format!("{}\n", lines.join("\n")).as_bytes())?;
    Ok(match progress.stage {
        _ if !went_well => ExitCode::FAILURE,
        Stage::Finished => ExitCode::SUCCESS,
        Stage::Streaming | Stage::Finishing => ExitCode::from(130),
    })
}

/// Plays and shows the example until its end, or until `interrupted`.
async fn play(
    args: &DemoArgs,
    example: &Example,
    running: &Running,
    interrupted: impl Future<Output = ()>,
) -> Result<Progress> {
    let duration = Duration::from_secs(args.seconds);
    let names = example.views.iter().map(|view| view.name.clone());
    let progress = watch::Sender::new(Progress::new(example.events.num_rows() as u64, names));
    let (stop, stopped) = watch::channel(false);
    let player = Player::new(&running.platform, example, duration, &progress, stopped)?;
    let mut screen = Screen::new(args.plain, duration, hint(&running.url))?;
    let stop_when_interrupted = async {
        interrupted.await;
        stop.send_replace(true);
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        played = player.play() => played?,
        shown = show(&running.platform, &progress, &mut screen) => match shown? {},
        never = stop_when_interrupted => match never {},
    }
    sample(&running.platform, &progress);
    Ok(progress.borrow().clone())
}

async fn show(platform: &Platform, progress: &watch::Sender<Progress>, screen: &mut Screen) -> Result<Infallible> {
    loop {
        sample(platform, progress);
        let shown = progress.borrow().clone();
        screen.show(&shown)?;
        tokio::time::sleep(FRAME_INTERVAL).await;
    }
}

fn sample(platform: &Platform, progress: &watch::Sender<Progress>) {
    for (_, snapshots) in platform.snapshots() {
        let snapshot = Arc::clone(&snapshots.borrow());
        progress.send_modify(|progress| progress.sample(&snapshot));
    }
}

/// What the user may want to know while the demo plays.
fn hint(url: &str) -> Vec<String> {
    vec![
        "Ask it meanwhile, in another terminal:".to_owned(),
        // On two lines, so that all of it is there on a narrow terminal too.
        format!("  {} sql --url {url} \\", command()),
        format!("    \"{QUESTION}\""),
        "Ctrl-C stops.".to_owned(),
    ]
}

fn next_steps(kept: Option<&Path>) -> Vec<String> {
    let command = command();
    let (title, folder) = match kept {
        Some(folder) => ("Go on with the data, which is kept:", folder.display().to_string()),
        None => ("Try next, to keep the data and go on with it:", "flights-demo".to_owned()),
    };
    let mut lines = vec![String::new(), title.to_owned()];
    if kept.is_none() {
        lines.push(format!("  {command} demo --keep {folder}"));
    }
    lines.push(format!("  {command} run {folder}"));
    lines.push(format!("  {command} sql \"{QUESTION}\"  # in another terminal"));
    lines
}

/// This command as the user has typed it.
fn command() -> String {
    std::env::args().next().unwrap_or_else(|| "watershed".to_owned())
}

/// Sends the process's log to a file: on the terminal it would disturb the picture.
fn log_to(path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create \"{}\"", path.display()))?;
    let filter = EnvFilter::new(LOG_FILTER);
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(file)).init();
    Ok(())
}

/// Where the demo's data is; a project.
#[derive(Debug)]
enum Folder {
    /// Deleted when dropped.
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn make(kept: Option<&Path>) -> Result<Folder> {
        let folder = match kept {
            Some(path) => Folder::Kept(make_empty(path)?),
            None => {
                let made = tempfile::Builder::new().prefix("watershed-demo-").tempdir();
                Folder::Temporary(made.context("cannot make a temporary folder; name another one with --keep")?)
            }
        };
        let path = folder.path();
        Example::write_project(path).with_context(|| format!("cannot write to \"{}\"", path.display()))?;
        Ok(folder)
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Temporary(folder) => folder.path(),
            Folder::Kept(path) => path,
        }
    }

    /// Leaves the folder where it is; gives its path, unless the user knows it.
    fn keep(self) -> Option<PathBuf> {
        match self {
            Folder::Temporary(folder) => Some(folder.keep()),
            Folder::Kept(_) => None,
        }
    }
}

fn make_empty(path: &Path) -> Result<PathBuf> {
    let make = || -> std::io::Result<bool> {
        std::fs::create_dir_all(path)?;
        Ok(std::fs::read_dir(path)?.next().is_none())
    };
    let is_empty = make().with_context(|| format!("cannot use \"{}\" as the demo's folder", path.display()))?;
    ensure!(
        is_empty,
        "the folder \"{}\" is not empty; nothing was changed; name a new one with --keep",
        path.display()
    );
    Ok(path.to_owned())
}

async fn listen(http: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(http).await;
    listener.with_context(|| format!("cannot listen on {http}; choose another address with --http"))
}

/// The platform with its HTTP API.
#[derive(Debug)]
struct Running {
    platform: Platform,
    url: String,
    stop_server: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn start(example: &Example, folder: &Path, listener: TcpListener) -> Result<Running> {
        let config = example.config.clone();
        let data = folder.join(&config.data);
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make \"{}\"", data.display()))?;
        let address = listener.local_addr().context("cannot tell the address in use")?;
        let (options, connections) = (ApiOptions::of(&config), config.connections.clone());
        let ports = Ports::open(&config, &data)?;
        let platform = Platform::open(example.statements(), config, ports).await?;
        let router = router(Arc::new(platform.clone()), Arc::new(platform.query_engine()), options);
        let (stop_server, stopped) = oneshot::channel();
        let until_stopped = async move {
            // The sender's end says as much as its message.
            let _ = stopped.await;
        };
        let metrics = platform.metrics().clone();
        let server = tokio::spawn(serve(listener, router, connections, metrics, until_stopped));
        Ok(Running { platform, url: format!("http://{address}"), stop_server, server })
    }

    async fn stop(self) {
        // A server that has ended needs no telling.
        let _ = self.stop_server.send(());
        if let Ok(Err(error)) = self.server.await {
            tracing::warn!(%error, "the HTTP server failed");
        }
        self.platform.stop().await;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_anything_in_it_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        assert!(Folder::make(Some(&path)).unwrap().keep().is_none());
        let error = Folder::make(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        assert!(path.join("flights.sql").is_file());
    }
}
