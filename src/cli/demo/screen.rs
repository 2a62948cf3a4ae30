//! Where the demo's progress is seen: on a terminal, redrawn in place, or line by line in a pipe or a file.
//!
//! A terminal's second screen is used, which terminals never reflow: after a resize nothing of an old, wider picture is
//! left over, and what was on the terminal before is there again at the end.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use console::Term;

use super::draw::{line, picture};
use super::progress::Progress;
use crate::cli::output;

/// How often a picture is drawn.
pub(super) const FRAME_INTERVAL: Duration = Duration::from_millis(150);

/// The second screen, cleared, without cursor and without wrapping; and back.
const ENTER: &str = "\x1b[?1049h\x1b[2J\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(super) enum Screen {
    /// A picture that is kept current.
    Live(LiveScreen),
    /// A line now and then.
    Plain(PlainLines),
}

impl Screen {
    /// A screen for a demo of `duration`, during which the user may need `hint`.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn new(plain: bool, duration: Duration, hint: Vec<String>) -> Result<Screen> {
        let term = Term::stdout();
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if plain || is_dumb || !term.is_term() || term.size_checked().is_none() {
            return Ok(Screen::Plain(PlainLines::new(duration, &hint)?));
        }
        Ok(Screen::Live(LiveScreen::new(term, hint)?))
    }

    /// Shows the progress, if it is time to.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn show(&mut self, progress: &Progress) -> Result<()> {
        match self {
            Screen::Live(live) => live.show(progress),
            Screen::Plain(lines) => lines.show(progress),
        }
    }
}

/// A terminal that shows the newest picture.
#[derive(Debug)]
pub(super) struct LiveScreen {
    term: Term,
    hint: Vec<String>,
    canvas: Canvas,
}

impl LiveScreen {
    fn new(term: Term, hint: Vec<String>) -> Result<LiveScreen> {
        let live = LiveScreen { term, hint, canvas: Canvas::default() };
        output::print(ENTER.as_bytes())?;
        Ok(live)
    }

    fn show(&mut self, progress: &Progress) -> Result<()> {
        let (height, width) = self.term.size();
        let lines = picture(progress, &self.hint, usize::from(width));
        output::print(self.canvas.update(lines, (height, width)).as_bytes())
    }
}

impl Drop for LiveScreen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = output::print(LEAVE.as_bytes());
    }
}

/// What a terminal shows.
#[derive(Debug, Default)]
struct Canvas {
    /// Height and width.
    size: (u16, u16),
    lines: Vec<String>,
}

impl Canvas {
    /// What to write so that a terminal of this size shows `lines`, or as many as it has room for. Lines that are there
    /// already are left alone: no flicker, and what the user has marked on them stays marked.
    fn update(&mut self, mut lines: Vec<String>, size: (u16, u16)) -> String {
        let mut commands = String::new();
        if size != self.size {
            commands.push_str("\x1b[2J");
            self.size = size;
            self.lines.clear();
        }
        lines.truncate(usize::from(size.0));
        for (index, line) in lines.iter().enumerate() {
            if self.lines.get(index) != Some(line) {
                // Writing to a text does not fail.
                let _ = write!(commands, "\x1b[{};1H{line}\x1b[K", index + 1);
            }
        }
        if lines.len() < self.lines.len() {
            let _ = write!(commands, "\x1b[{};1H\x1b[J", lines.len() + 1);
        }
        self.lines = lines;
        commands
    }
}

/// Lines for whoever reads a pipe or a file.
#[derive(Debug)]
pub(super) struct PlainLines {
    interval: Duration,
    printed: Instant,
}

impl PlainLines {
    fn new(duration: Duration, hint: &[String]) -> Result<PlainLines> {
        output::print(format!("{}\n", hint.join("\n")).as_bytes())?;
        let interval = (duration / 12).clamp(Duration::from_secs(1), Duration::from_secs(10));
        Ok(PlainLines { interval, printed: Instant::now() })
    }

    fn show(&mut self, progress: &Progress) -> Result<()> {
        if self.printed.elapsed() < self.interval {
            return Ok(());
        }
        self.printed = Instant::now();
        output::print(format!("{}\n", line(progress)).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn only_lines_that_change_are_written_again() {
        let mut canvas = Canvas::default();
        let first = canvas.update(lines(&["one", "two", "three"]), (24, 80));
        assert_eq!(first, "\x1b[2J\x1b[1;1Hone\x1b[K\x1b[2;1Htwo\x1b[K\x1b[3;1Hthree\x1b[K");
        assert_eq!(canvas.update(lines(&["one", "2", "three"]), (24, 80)), "\x1b[2;1H2\x1b[K");
        assert_eq!(canvas.update(lines(&["one"]), (24, 80)), "\x1b[2;1H\x1b[J");
        assert_eq!(canvas.update(lines(&["one"]), (24, 80)), "");
    }

    #[test]
    fn another_size_draws_everything_again_within_its_height() {
        let mut canvas = Canvas::default();
        canvas.update(lines(&["one", "two"]), (24, 80));
        assert_eq!(canvas.update(lines(&["one", "two"]), (1, 40)), "\x1b[2J\x1b[1;1Hone\x1b[K");
    }
}
