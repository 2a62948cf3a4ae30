//! Events until they are durable, in every view, and committed to the history; against a bare loop that decodes the same
//! bytes with arrow-json and writes the same Parquet, with nothing durable before its one fsync at the end.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::json::ReaderBuilder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use watershed_serving_layer::Backend;
use watershed_serving_layer::IngestReport;
use watershed_serving_layer::api::{ApiOptions, router, serve};
use watershed_shared::config::ConnectionsConfig;
use watershed_shared::source::SourceDefinition;

use crate::flights::{self, Body, Running, SOURCE, VIEWS};
use crate::{Measurement, Sides};

const TURNS: usize = 6;

/// How the events are sent.
struct Load {
    name: &'static str,
    bodies: Arc<Vec<Body>>,
    clients: usize,
    views: &'static [&'static str],
    http: bool,
}

pub(crate) async fn run() -> Result<()> {
    let source = flights::source()?;
    let events = flights::events(&source)?;
    let load = |rows: usize, requests: usize, clients, views, http, name| -> Result<Load> {
        let wanted = rows * requests;
        let part = events.slice(0, wanted.min(events.num_rows()));
        // Played as often as it takes: a body's bytes are shared by its repetitions.
        let mut bodies = flights::bodies(&part, rows)?;
        bodies = bodies.iter().cycle().take(requests).cloned().collect();
        Ok(Load { name, bodies: Arc::new(bodies), clients, views, http })
    };
    let loads = [
        load(10_000, 100, 4, &VIEWS[..], false, "10,000 events a request, 3 views")?,
        load(10_000, 100, 4, &VIEWS[..1], false, "10,000 events a request, 1 view")?,
        load(10_000, 100, 4, &[], false, "10,000 events a request, no view")?,
        load(10_000, 100, 4, &VIEWS[..], true, "10,000 events a request, 3 views, HTTP")?,
        load(100, 3_000, 16, &VIEWS[..], false, "100 events a request, 3 views")?,
        load(100, 3_000, 16, &VIEWS[..], true, "100 events a request, 3 views, HTTP")?,
        load(1, 20_000, 64, &VIEWS[..], false, "1 event a request, 3 views")?,
        load(1, 20_000, 64, &VIEWS[..], true, "1 event a request, 3 views, HTTP")?,
    ];
    println!("\ningest: events a second, durable, visible and in the history; ratio to the bare loop, aim >= 0.6");
    let mut sides = Sides::default();
    for _ in 0..TURNS {
        sides.note("bare loop: arrow-json, Parquet, fsync", bare(&source, &loads[0].bodies).await?);
        for load in &loads {
            sides.note(load.name, platform(load).await?);
        }
    }
    sides.print_rates();
    Ok(())
}

async fn bare(source: &SourceDefinition, bodies: &[Body]) -> Result<Measurement> {
    let folder = crate::folder()?;
    let events = bodies.iter().map(|body| body.rows).sum();
    Measurement::of(events, async {
        let file = File::create(folder.path().join("events.parquet"))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(256 << 10));
        let mut writer = ArrowWriter::try_new(file, Arc::clone(&source.columns), Some(properties.build()))?;
        let mut rows = 0;
        for body in bodies {
            for batch in ReaderBuilder::new(Arc::clone(&source.columns)).with_batch_size(8192).build(&body.json[..])? {
                let batch = batch?;
                rows += batch.num_rows();
                writer.write(&batch)?;
            }
        }
        ensure!(rows == events, "decoded {rows} of {events} events");
        Ok(writer.into_inner()?.sync_all()?)
    })
    .await
}

async fn platform(load: &Load) -> Result<Measurement> {
    let running = Running::open(flights::definitions(load.views, "")?).await?;
    let events = load.bodies.iter().map(|body| body.rows).sum();
    let server = if load.http { Some(Server::start(&running).await?) } else { None };
    let measured = Measurement::of(events, async {
        match &server {
            Some(server) => server.accept(&load.bodies, load.clients).await?,
            None => running.accept(&load.bodies, load.clients).await?,
        }
        running.archive().await
    });
    let measured = measured.await?;
    drop(server);
    running.platform.stop().await;
    Ok(measured)
}

/// The platform's HTTP server in this process, until it is dropped.
struct Server {
    url: String,
    client: reqwest::Client,
    _stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(running: &Running) -> Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/v1/sources/{SOURCE}/events", listener.local_addr()?);
        let engine = Arc::new(running.platform.query_engine());
        let router = router(Arc::new(running.platform.clone()), engine, ApiOptions::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let metrics = running.platform.metrics().clone();
        tokio::spawn(serve(listener, router, ConnectionsConfig::default(), metrics, async { drop(stopped.await) }));
        Ok(Server { url, client: reqwest::Client::new(), _stop: stop })
    }

    async fn accept(&self, bodies: &Arc<Vec<Body>>, clients: usize) -> Result<()> {
        let (url, client) = (self.url.clone(), self.client.clone());
        let send = move |body: Body| {
            let request = client.post(&url).header("content-type", "application/x-ndjson").body(body.json);
            async move {
                let answer = request.send().await?.text().await?;
                let report: IngestReport = serde_json::from_str(&answer).with_context(|| answer.clone())?;
                flights::check(&report, body.rows)
            }
        };
        flights::in_turn(bodies, clients, send).await
    }
}
