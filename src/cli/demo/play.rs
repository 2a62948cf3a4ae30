//! Plays the year: streams its events, recomputes the views meanwhile, and compares answers with the truth all along.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use watershed::platform::Platform;
use watershed_serving_layer::{Backend, BatchRunKind, QueryEngine};
use watershed_shared::format::EventFormat;
use watershed_shared::position::PositionToken;

use super::example::{Example, encode};
use super::progress::{Progress, Stage};
use super::truth::Truth;

/// How often events are sent: often enough to look like a stream.
const CHUNK_INTERVAL: Duration = Duration::from_millis(100);
/// Most events in one request. A machine that is too slow for the duration gets full chunks, one after the other.
const CHUNK_ROWS_MAX: usize = 20_000;
/// Batch runs in the time of the stream, and bounds of the pause between two.
const BATCH_RUNS: u32 = 20;
const BATCH_PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
/// Checks in the time of the stream, and bounds of the pause between two.
const CHECKS: u32 = 120;
const CHECK_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Who plays, and what with.
#[derive(Debug)]
pub(super) struct Player<'a> {
    platform: &'a Platform,
    engine: QueryEngine,
    example: &'a Example,
    truth: Truth,
    duration: Duration,
    progress: &'a watch::Sender<Progress>,
    /// Becomes true when the user has seen enough.
    stop: watch::Receiver<bool>,
}

impl<'a> Player<'a> {
    /// Plays `example` on a platform that holds its definitions and no events, in about `duration`.
    pub(super) fn new(
        platform: &'a Platform,
        example: &'a Example,
        duration: Duration,
        progress: &'a watch::Sender<Progress>,
        stop: watch::Receiver<bool>,
    ) -> Result<Player<'a>> {
        let truth = Truth::new(example)?;
        Ok(Player { platform, engine: platform.query_engine(), example, truth, duration, progress, stop })
    }

    /// Plays to the end, or until told to stop. What goes wrong with answers and batch runs is noted as a problem.
    ///
    /// # Errors
    /// When it cannot go on: events are refused, a query fails, somebody else sends events.
    pub(super) async fn play(&self) -> Result<()> {
        let streamed = watch::Sender::new(false);
        tokio::try_join!(
            async {
                let outcome = self.stream().await;
                streamed.send_replace(true);
                outcome
            },
            self.recompute_until(streamed.subscribe()),
            self.check_until(streamed.subscribe()),
        )?;
        if self.stopped() { Ok(()) } else { self.finish().await }
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Sends the events in log order, evenly over the duration.
    async fn stream(&self) -> Result<()> {
        let total = self.example.events.num_rows();
        let started = Instant::now();
        let mut tick = interval(CHUNK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = 0;
        while sent < total && !self.stopped() {
            tick.tick().await;
            let due = total as f64 * started.elapsed().as_secs_f64() / self.duration.as_secs_f64();
            let rows = (due as usize).min(total).saturating_sub(sent).min(CHUNK_ROWS_MAX);
            if rows > 0 {
                self.send(sent, rows).await?;
                sent += rows;
                self.progress.send_modify(|progress| progress.streaming = started.elapsed());
            }
        }
        Ok(())
    }

    async fn send(&self, start: usize, rows: usize) -> Result<()> {
        let events = self.example.events.slice(start, rows);
        let name = &self.example.source.name;
        let report = self.platform.accept(name, EventFormat::ArrowStream, encode(&events)?).await?;
        ensure!(report.rejected == 0, "the platform refused events of the example: {:?}", report.errors);
        let end: u64 = self.log_end()?.position.offsets().iter().map(|offset| offset.0).sum();
        ensure!(
            end == (start + rows) as u64,
            "the log holds {end} events, but the demo has sent {}; ask the demo's platform, but send nothing to it",
            start + rows
        );
        self.progress.send_modify(|progress| {
            progress.lateness.observe(self.example.event_times_us(&events));
            progress.events_sent = end;
        });
        Ok(())
    }

    fn log_end(&self) -> Result<PositionToken> {
        let source = self.platform.sources().into_iter().find(|source| source.name == self.example.source.name);
        let source = source.context("the platform has lost the example's source")?;
        Ok(source.position.parse()?)
    }

    /// Runs a batch run of one view after the other.
    async fn recompute_until(&self, mut streamed: watch::Receiver<bool>) -> Result<()> {
        let pause = (self.duration / BATCH_RUNS).clamp(BATCH_PAUSES[0], BATCH_PAUSES[1]);
        for view in self.example.views.iter().cycle() {
            if becomes_true_within(pause, &mut streamed).await {
                break;
            }
            self.recompute(&view.name).await?;
        }
        Ok(())
    }

    async fn recompute(&self, view: &str) -> Result<()> {
        self.progress.send_modify(|progress| progress.run_begins(view));
        let started = Instant::now();
        let run = self.platform.start_batch_run(view, BatchRunKind::Full, true).await?;
        self.progress.send_modify(|progress| progress.run_ended(&run, started.elapsed()));
        Ok(())
    }

    /// Checks one view after the other.
    async fn check_until(&self, mut streamed: watch::Receiver<bool>) -> Result<()> {
        let pause = (self.duration / CHECKS).clamp(CHECK_PAUSES[0], CHECK_PAUSES[1]);
        for view in self.example.views.iter().cycle() {
            if becomes_true_within(pause, &mut streamed).await {
                break;
            }
            self.check(&view.name, &[]).await?;
        }
        Ok(())
    }

    async fn check(&self, view: &str, positions: &[PositionToken]) -> Result<()> {
        let started = Instant::now();
        let answer = self.engine.query(&format!("SELECT * FROM \"{view}\""), positions).await?;
        let time = started.elapsed();
        let difference = self.truth.difference(view, answer).await?;
        self.progress.send_modify(|progress| progress.checked(view, difference, time));
        Ok(())
    }

    /// All events have been sent: asks for the whole year from both layers, recomputes, and asks again.
    async fn finish(&self) -> Result<()> {
        self.progress.send_modify(|progress| progress.stage = Stage::Finishing);
        let end = [self.log_end()?];
        for view in &self.example.views {
            self.check(&view.name, &end).await?;
            self.recompute(&view.name).await?;
            self.check(&view.name, &end).await?;
            if self.stopped() {
                return Ok(());
            }
        }
        self.progress.send_modify(|progress| progress.stage = Stage::Finished);
        Ok(())
    }
}

/// Waits for `time`, or less if the flag becomes true; whether it has.
async fn becomes_true_within(time: Duration, flag: &mut watch::Receiver<bool>) -> bool {
    timeout(time, flag.wait_for(|is_true| *is_true)).await.is_ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use watershed::platform::Ports;

    use super::super::progress::Lateness;
    use super::*;

    async fn platform(example: &Example) -> Platform {
        Platform::open(example.statements(), example.config.clone(), Ports::in_memory().unwrap()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whole_year_equals_the_truth_and_is_as_late_as_its_provenance_says() {
        let example = Example::read().unwrap();
        let platform = platform(&example).await;
        let names = example.views.iter().map(|view| view.name.clone());
        let progress = watch::Sender::new(Progress::new(example.events.num_rows() as u64, names));
        let (_stop, stopped) = watch::channel(false);
        let player = Player::new(&platform, &example, Duration::from_millis(1), &progress, stopped).unwrap();
        player.play().await.unwrap();

        let played = progress.borrow().clone();
        assert_eq!(played.problems, [""; 0]);
        assert_eq!((played.stage, played.events_sent), (Stage::Finished, 336_776));
        assert!(played.checks.right > 6 && played.handoffs.right >= 3, "{played:?}");
        let Lateness { late_events, longest_us, .. } = played.lateness;
        assert_eq!((late_events, longest_us / 60_000_000), (188_750, 21 * 60 + 40));

        let mut answer = player.engine.query("SELECT * FROM carrier_stats", &[]).await.unwrap();
        answer.as_of.sources.get_mut("flights").unwrap().offsets[1] -= 1;
        let difference = player.truth.difference("carrier_stats", answer).await.unwrap();
        assert!(difference.unwrap().contains("in truth"), "an answer with one event too many is found out");
        platform.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn events_of_somebody_else_end_the_demo_instead_of_looking_like_a_difference() {
        let example = Example::read().unwrap();
        let platform = platform(&example).await;
        let foreign = encode(&example.events.slice(0, 1)).unwrap();
        platform.accept("flights", EventFormat::ArrowStream, foreign).await.unwrap();
        let progress = watch::Sender::new(Progress::default());
        let (_stop, stopped) = watch::channel(false);
        let player = Player::new(&platform, &example, Duration::from_millis(1), &progress, stopped).unwrap();
        let error = player.play().await.unwrap_err().to_string();
        assert!(error.contains("send nothing to it"), "{error}");
        platform.stop().await;
    }
}
