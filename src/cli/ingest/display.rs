//! What a person sees while events are sent: one bar over all inputs on standard error, with messages above it.

use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::cli::output;
use crate::cli::table::printable;

/// Progress over all inputs; invisible when standard error is no terminal, except for its messages.
#[derive(Debug)]
pub(super) struct Display {
    bar: ProgressBar,
    started: Instant,
    events: u64,
    /// Bytes of the inputs that are finished.
    finished_bytes: u64,
}

impl Display {
    /// For inputs of `bytes` altogether, or of unknown size.
    pub(super) fn new(bytes: Option<u64>) -> Display {
        let (bar, template) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), "{wide_msg} {bar:20} {bytes}/{total_bytes}, {eta} left"),
            None => (ProgressBar::no_length(), "{spinner} {wide_msg} {bytes}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Display { bar, started: Instant::now(), events: 0, finished_bytes: 0 }
    }

    /// `events` more have been acknowledged; `bytes_read` of the input `name` have been read.
    pub(super) fn acknowledged(&mut self, name: &str, events: u64, bytes_read: u64) {
        self.events += events;
        let per_second = self.events as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let (events, rate) = (HumanCount(self.events), HumanCount(per_second as u64));
        self.bar.set_message(format!("{}: {events} events, {rate}/s", printable(name)));
        self.bar.set_position(self.finished_bytes + bytes_read);
    }

    /// An input of `bytes` is done with.
    pub(super) fn finished(&mut self, bytes: u64) {
        self.finished_bytes += bytes;
        self.bar.set_position(self.finished_bytes);
    }

    /// Writes a line above the bar.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| output::notice(line));
    }

    /// Time since the display began.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Removes the bar.
    pub(super) fn close(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
