//! `watershed run`: the platform on a project folder, until it is told to stop.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use watershed::platform::{Platform, Ports};
use watershed::project::Project;
use watershed_serving_layer::api::{ApiOptions, Gate, router, serve};
use watershed_shared::fault;
use watershed_shared::folder::create_folder;
use watershed_shared::telemetry::Metrics;

use super::{RunArgs, output};

/// Runs the platform; returns when SIGTERM or Ctrl-C has stopped it.
pub(crate) async fn execute(args: RunArgs) -> Result<ExitCode> {
    let mut project = Project::read(&args.project_dir)?;
    if let Some(http) = &args.http {
        project.config.http =
            http.parse().with_context(|| format!("\"{http}\" is not an address like 127.0.0.1:8080"))?;
    }
    let data = args.data.unwrap_or_else(|| project.data());
    start_log(&project.config.log_filter)?;
    tracing::info!(config = ?project.config, data = %data.display(), "starting");

    create_folder(&data).with_context(|| format!("cannot make the data folder \"{}\"", data.display()))?;
    let ports = Ports::open(&project.config, &data)?;
    // Before the platform is open, so that an address in use is found at once and whoever asks is told to wait.
    let listener = TcpListener::bind(project.config.http)
        .await
        .with_context(|| format!("cannot listen on {}; choose another address with --http", project.config.http))?;
    let (options, connections) = (ApiOptions::of(&project.config), project.config.connections.clone());
    let address = listener.local_addr().context("cannot tell the address in use")?;
    let (progress, watched) = watch::channel("reading the project".to_owned());
    let gate = Gate::closed(watched);
    let metrics = Metrics::new();
    let server = serve(listener, gate.router(), connections, metrics.clone(), told_to_stop()?);
    let mut server = tokio::spawn(server);
    let opening = Platform::open_with(project.statements, project.config, ports, metrics, &progress);
    let platform = tokio::select! {
        opened = opening => opened?,
        ended = &mut server => {
            tracing::info!("stopped while starting");
            return ended.context("the HTTP server panicked")?.context("the HTTP server failed").map(|()| ExitCode::SUCCESS);
        }
    };
    fault::point("start.before_listening");
    gate.open(router(Arc::new(platform.clone()), Arc::new(platform.query_engine()), options));
    output::print(format!("listening on http://{address}\n").as_bytes())?;
    server.await.context("the HTTP server panicked")?.context("the HTTP server failed")?;
    tracing::info!("stopping");
    platform.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Sends the process's log to standard error.
fn start_log(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("log_filter = \"{filter}\" is not a filter"))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    Ok(())
}

/// Ends when the process gets SIGTERM or SIGINT.
pub(super) fn told_to_stop() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
