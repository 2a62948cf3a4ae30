//! The clients that keep a platform busy until it dies, and notice what is wrong meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use tokio::task::JoinSet;

use super::client::{Client, Outcome};
use super::events::to_ndjson;
use super::ledger::Ledger;
use super::project;
use super::random::Random;

/// Clients that send few events at a time, besides the one that sends many.
const SMALL_CLIENTS: usize = 3;

/// Ways to ask how many events there are.
const COUNTS: &[&str] = &[
    "SELECT events FROM counted",
    "SELECT CAST(sum(events) AS BIGINT) FROM by_key",
    "SELECT CAST(sum(events) AS BIGINT) FROM by_window",
    "SELECT count(*) FROM all_events",
];

/// Clients at work. They end when the platform has gone away.
pub(super) struct Load {
    clients: JoinSet<Result<()>>,
}

impl Load {
    pub(super) fn start(client: &Client, ledger: &Arc<Ledger>, random: &mut Random) -> Load {
        let mut clients = JoinSet::new();
        for number in 0..=SMALL_CLIENTS {
            clients.spawn(send_events(client.clone(), Arc::clone(ledger), random.fork(), number == SMALL_CLIENTS));
        }
        clients.spawn(run_batches(client.clone(), random.fork()));
        clients.spawn(ask_counts(client.clone(), Arc::clone(ledger), random.fork()));
        Load { clients }
    }

    /// No client may have ended while the platform lives; the error says how one did.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        let Some(client) = self.clients.try_join_next() else { return Ok(()) };
        client.context("a client panicked")??;
        bail!("a client lost its connection, though the platform lives")
    }

    /// Waits for the end of all clients; the error is the first thing that one of them found wrong.
    pub(super) async fn ended(mut self) -> Result<()> {
        while let Some(client) = self.clients.join_next().await {
            client.context("a client panicked")??;
        }
        Ok(())
    }
}

async fn send_events(client: Client, ledger: Arc<Ledger>, mut random: Random, large: bool) -> Result<()> {
    loop {
        let rows = if large { 200 + random.below(800) } else { 1 + random.below(20) };
        let (request, ids) = ledger.begin(rows);
        match client.ingest(to_ndjson(ids), rows).await? {
            Outcome::Answered(position) => ledger.acknowledge(request, &position),
            Outcome::Gone => return Ok(()),
        }
        // At full speed the checks would have more to read, and the kills no more to hit.
        let pause_ms = if large { 200 } else { random.below(15) };
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

async fn run_batches(client: Client, mut random: Random) -> Result<()> {
    let views: Vec<&str> = project::views(0).map(|view| view.name).collect();
    while let Outcome::Answered(()) = client.batch_run(views[random.below(views.len() as u64) as usize]).await? {}
    Ok(())
}

/// Reads its own writes: an answer at a position has at least what was acknowledged with it, and never more than all.
async fn ask_counts(client: Client, ledger: Arc<Ledger>, mut random: Random) -> Result<()> {
    loop {
        let (acknowledged, position) = ledger.acknowledged();
        let sql = COUNTS[random.below(COUNTS.len() as u64) as usize];
        let Outcome::Answered(answer) = client.ask(sql, &position).await? else { return Ok(()) };
        let events = answer.batches.first().map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0));
        let sent = ledger.sent();
        ensure!(
            (acknowledged..=sent).contains(&(events as u64)),
            "{sql} says {events} at {position}, where {acknowledged} events are acknowledged and {sent} were sent"
        );
    }
}
