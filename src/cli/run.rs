//! `watershed run`: the platform on a project folder, until it is told to stop.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use watershed::platform::{Platform, Ports};
use watershed::project::Project;
use watershed_serving_layer::api::{ApiOptions, router, serve};

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

    std::fs::create_dir_all(&data).with_context(|| format!("cannot make the data folder \"{}\"", data.display()))?;
    let ports = Ports::open(&project.config, &data)?;
    // Before the views are rebuilt, so that an address in use is found at once.
    let listener = TcpListener::bind(project.config.http)
        .await
        .with_context(|| format!("cannot listen on {}; choose another address with --http", project.config.http))?;
    let options = ApiOptions { body_bytes_max: project.config.ingest.body_bytes_max, ..ApiOptions::default() };
    let platform = Platform::open(project.statements, project.config, ports).await?;
    let engine = Arc::new(platform.query_engine());
    let router = router(Arc::new(platform.clone()), engine, options);

    let address = listener.local_addr().context("cannot tell the address in use")?;
    output::print(format!("listening on http://{address}\n").as_bytes())?;
    serve(listener, router, told_to_stop()?).await.context("the HTTP server failed")?;
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
