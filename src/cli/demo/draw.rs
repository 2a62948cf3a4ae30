//! The lines that show the demo's progress: a picture for a terminal, single lines for anything else, and a summary.
//!
//! Nothing here writes or asks anybody: progress in, lines out.

use std::time::Duration;

use chrono::DateTime;
use console::{Style, style, truncate_str};
use indicatif::HumanCount;
use watershed_serving_layer::{AuditOutcome, AuditReport};

use super::progress::{Parts, Progress, Stage, Tally, ViewProgress};
use crate::cli::table::printable;
use crate::cli::views::counted;

/// A bar's width: what the terminal leaves of it, within these bounds.
const BAR_WIDTH_MIN: usize = 10;
const BAR_WIDTH_MAX: usize = 50;
/// What stands beside a bar: the margin, the gaps, and the shares.
const BAR_BESIDE: usize = 32;
/// Problems in the picture; the summary has more.
const PROBLEMS_SHOWN: usize = 3;

/// A picture of the progress in lines of at most `width`; `hint` are lines that the user may need meanwhile.
pub(super) fn picture(progress: &Progress, hint: &[String], width: usize) -> Vec<String> {
    let mut lines =
        vec![title(), String::new(), stream_line(progress), lateness_line(progress), String::new(), legend()];
    let name_width = progress.views.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let bar_width = width.saturating_sub(name_width + BAR_BESIDE).clamp(BAR_WIDTH_MIN, BAR_WIDTH_MAX);
    for (name, view) in &progress.views {
        let bar = bar(view.parts, progress.events_total, bar_width);
        let name = style(format!("{name:<name_width$}")).bold();
        lines.push(format!(" {name}  {bar}  {}", shares(view.parts)));
        lines.push(format!("   {}", layers(view)));
    }
    lines.push(String::new());
    lines.push(verdict("answers equal to the truth", progress.checks, &answered_in(progress.answer_time)));
    lines.push(verdict("handoffs without drift", progress.handoffs, ""));
    let problems = progress.problems.iter().take(PROBLEMS_SHOWN);
    lines.extend(problems.map(|problem| format!(" {}", style(printable(problem)).red())));
    lines.push(String::new());
    lines.extend(hint.iter().map(|line| format!(" {line}")));
    lines.into_iter().map(|line| truncate_str(&line, width, "…").into_owned()).collect()
}

/// The progress in one line.
pub(super) fn line(progress: &Progress) -> String {
    let views = progress.views.iter().map(|(name, view)| {
        let version = view.parts.batch_version.map_or("no batch view".to_owned(), |version| format!("v{version}"));
        format!("{name} {version} {}", shares(view.parts))
    });
    let checks = format!("{} of {} answers equal", progress.checks.right, progress.checks.total());
    let handoffs = format!("{} of {} handoffs without drift", progress.handoffs.right, progress.handoffs.total());
    let events = counted(progress.events_sent, "event");
    format!("{}  {events}; {}; {checks}, {handoffs}", date(progress), views.collect::<Vec<_>>().join(", "))
}

/// What has been shown, once it is over.
pub(super) fn summary(progress: &Progress) -> Vec<String> {
    let ended = match progress.stage {
        Stage::Finished => "The year is over",
        Stage::Streaming | Stage::Finishing => "Stopped before the year was over",
    };
    let time = format!("{:.1} s", progress.streaming.as_secs_f64());
    let mut lines = vec![
        format!("{ended}: {} streamed in {time}, {}.", counted(progress.events_sent, "event"), lateness(progress)),
        String::new(),
        verdict("answers equal to the truth", progress.checks, ""),
        verdict("handoffs from realtime to batch without drift", progress.handoffs, ""),
    ];
    let versions = progress.views.iter().filter_map(|(name, view)| Some((name, view.parts.batch_version?)));
    let versions: Vec<String> = versions.map(|(name, version)| format!("{name} {version}")).collect();
    if !versions.is_empty() {
        lines.push(format!("   batch views published: {}", versions.join(", ")));
    }
    let most = counted(progress.realtime_rows_max as u64, "row");
    lines.push(format!("   most in the realtime views at once: {most}"));
    if !progress.problems.is_empty() {
        lines.push(String::new());
        lines.extend(progress.problems.iter().map(|problem| style(printable(problem)).red().to_string()));
    }
    lines
}

fn title() -> String {
    let subject = "all flights of 2013 from New York, in the order in which they left";
    format!(" {}  {subject}", style("Watershed").bold())
}

fn stream_line(progress: &Progress) -> String {
    let (sent, total) = (HumanCount(progress.events_sent), counted(progress.events_total, "event"));
    let state = match progress.stage {
        Stage::Streaming => format!("{}/s", HumanCount(progress.events_per_second())),
        Stage::Finishing => "all there; the last batch runs".to_owned(),
        Stage::Finished => "all there".to_owned(),
    };
    format!(" {}  {sent} of {total}, {state}", style(date(progress)).bold())
}

fn lateness_line(progress: &Progress) -> String {
    format!(" {}", style(format!("{}; late events count like all others", lateness(progress))).dim())
}

/// How many of the events came out of order, and by how much.
fn lateness(progress: &Progress) -> String {
    let minutes = progress.lateness.longest_us / 60_000_000;
    let late = share(progress.lateness.late_events, progress.events_sent);
    format!("{late} of them out of order, by up to {} h {} min", minutes / 60, minutes % 60)
}

fn legend() -> String {
    let [batch, realtime, future] = PARTS.map(|(symbol, style)| style().apply_to(symbol).to_string());
    format!(" {batch} from the batch view   {realtime} from the realtime view   {future} still to come")
}

/// Batch, realtime, future.
const PARTS: [(char, fn() -> Style); 3] =
    [('█', || Style::new().cyan()), ('▒', || Style::new().yellow()), ('·', || Style::new().dim())];

/// Which part of all events the batch view answers for, then the realtime view, then nobody yet.
fn bar(parts: Parts, events_total: u64, width: usize) -> String {
    let cells = |events: u64| {
        let cells =
            (u128::from(events) * width as u128 + u128::from(events_total) / 2) / u128::from(events_total.max(1));
        usize::try_from(cells).unwrap_or(width).min(width)
    };
    let (batch, present) = (cells(parts.batch_events), cells(parts.batch_events + parts.realtime_events));
    let widths = [batch, present - batch, width - present];
    let drawn = PARTS.iter().zip(widths).filter(|(_, width)| *width > 0);
    drawn.map(|((symbol, style), width)| style().apply_to(symbol.to_string().repeat(width)).to_string()).collect()
}

fn shares(parts: Parts) -> String {
    let present = parts.batch_events + parts.realtime_events;
    format!("batch {} realtime {}", share(parts.batch_events, present), share(parts.realtime_events, present))
}

/// `part` of `whole` in percent; 0 % and 100 % only where they are exact.
fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    match part {
        0 => "0%".to_owned(),
        _ if part == whole => "100%".to_owned(),
        _ => format!("{:.1}%", percent.clamp(0.1, 99.9)),
    }
}

/// What each layer holds, and how the last handoff went.
fn layers(view: &ViewProgress) -> String {
    let parts = view.parts;
    let batch = match parts.batch_version {
        Some(version) => format!("version {version}: {}", counted(parts.batch_rows as u64, "row")),
        None => "no batch view yet".to_owned(),
    };
    let realtime = [(parts.realtime_rows, "row"), (parts.realtime_runs, "run"), (parts.realtime_segments, "segment")];
    let realtime = realtime.map(|(count, noun)| counted(count as u64, noun)).join(", ");
    let mut layers = vec![style(batch).cyan().to_string(), style(format!("realtime: {realtime}")).yellow().to_string()];
    layers.extend(view.audit.as_ref().map(audit));
    match view.run_time {
        _ if view.run_under_way => layers.push("batch run".to_owned()),
        Some(time) => layers.push(format!("{:.1} s", time.as_secs_f64())),
        None => {}
    }
    layers.join(" | ")
}

fn audit(audit: &AuditReport) -> String {
    match audit.outcome {
        AuditOutcome::Equal => "audit equal".to_owned(),
        AuditOutcome::Drift => {
            let groups = counted(audit.groups_compared, "group");
            style(format!("audit: {} of {groups} differ", audit.groups_different)).red().to_string()
        }
        AuditOutcome::Skipped => "no audit".to_owned(),
    }
}

/// ` ✔ handoffs without drift: 4 of 4`, green or red.
fn verdict(what: &str, tally: Tally, more: &str) -> String {
    let (mark, color) = match tally {
        Tally { right: 0, wrong: 0 } => (' ', Style::new()),
        Tally { wrong: 0, .. } => ('✔', Style::new().green()),
        _ => ('✘', Style::new().red().bold()),
    };
    let text = format!("{mark} {what}: {} of {}", HumanCount(tally.right), HumanCount(tally.total()));
    format!(" {}{more}", color.apply_to(text))
}

fn answered_in(time: Duration) -> String {
    if time.is_zero() { String::new() } else { format!(", the last in {} ms", time.as_millis()) }
}

/// The date that the stream has reached.
fn date(progress: &Progress) -> String {
    let reached = progress.lateness.reached_us.and_then(DateTime::from_timestamp_micros);
    reached.map_or("          ".to_owned(), |reached| reached.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use console::{measure_text_width, strip_ansi_codes};

    use super::super::progress::Lateness;
    use super::*;

    fn progress() -> Progress {
        let mut progress = Progress::new(336_776, ["carrier_stats".to_owned(), "long_delays".to_owned()]);
        progress.events_sent = 128_400;
        progress.streaming = Duration::from_millis(22_900);
        progress.lateness =
            Lateness { late_events: 71_904, longest_us: 78_000_000_000, reached_us: Some(1_368_800_000_000_000) };
        progress.checks = Tally { right: 37, wrong: 0 };
        progress.handoffs = Tally { right: 9, wrong: 0 };
        progress.realtime_rows_max = 1234;
        progress.answer_time = Duration::from_millis(14);
        let carriers = ViewProgress {
            parts: Parts {
                batch_version: Some(4),
                batch_events: 105_288,
                batch_rows: 16,
                realtime_events: 23_112,
                realtime_rows: 48,
                realtime_runs: 3,
                realtime_segments: 1,
            },
            run_under_way: false,
            run_time: Some(Duration::from_millis(410)),
            audit: Some(AuditReport {
                batch_version: 4,
                outcome: AuditOutcome::Equal,
                groups_compared: 16,
                groups_different: 0,
                detail: None,
            }),
        };
        progress.views.insert("carrier_stats".to_owned(), carriers);
        let mut delays = ViewProgress { run_under_way: true, ..ViewProgress::default() };
        delays.parts.realtime_events = 128_400;
        progress.views.insert("long_delays".to_owned(), delays);
        progress
    }

    fn plain(lines: &[String]) -> String {
        let lines = lines.iter().map(|line| strip_ansi_codes(line).trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn picture_shows_how_far_each_layer_answers() {
        let picture = picture(&progress(), &["Ctrl-C stops.".to_owned()], 100);
        let expected = " Watershed  all flights of 2013 from New York, in the order in which they left

 2013-05-17  128,400 of 336,776 events, 5,606/s
 56.0% of them out of order, by up to 21 h 40 min; late events count like all others

 █ from the batch view   ▒ from the realtime view   · still to come
 carrier_stats  ████████████████▒▒▒·······························  batch 82.0% realtime 18.0%
   version 4: 16 rows | realtime: 48 rows, 3 runs, 1 segment | audit equal | 0.4 s
 long_delays    ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒·······························  batch 0% realtime 100%
   no batch view yet | realtime: 0 rows, 0 runs, 0 segments | batch run

 ✔ answers equal to the truth: 37 of 37, the last in 14 ms
 ✔ handoffs without drift: 9 of 9

 Ctrl-C stops.";
        assert_eq!(plain(&picture), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut progress = progress();
        progress.problems.push("a problem\nin many words ".repeat(9));
        for width in 1..140 {
            for line in picture(&progress, &["watershed sql --url http://127.0.0.1:40000".to_owned()], width) {
                assert!(measure_text_width(&line) <= width && !line.contains('\n'), "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn bar_is_always_as_wide_as_asked() {
        for width in [0, 1, 10, 37] {
            for (batch_events, realtime_events) in [(0, 0), (0, 1), (1, 0), (3, 4), (10, 0), (0, 10), (9, 1), (12, 3)] {
                let bar = bar(Parts { batch_events, realtime_events, ..Parts::default() }, 10, width);
                assert_eq!(measure_text_width(&bar), width, "{bar}");
            }
        }
        assert_eq!(strip_ansi_codes(&bar(Parts::default(), 0, 3)), "···", "before anything is known");
    }

    #[test]
    fn shares_are_whole_only_when_they_are_exact() {
        let shares = [(0, 0), (0, 9), (1, 100_000), (1, 2), (99_999, 100_000), (9, 9)];
        assert_eq!(shares.map(|(part, whole)| share(part, whole)), ["-", "0%", "0.1%", "50.0%", "99.9%", "100%"]);
    }

    #[test]
    fn line_says_it_all_in_one() {
        let expected = "2013-05-17  128,400 events; carrier_stats v4 batch 82.0% realtime 18.0%, long_delays no batch view \
                        batch 0% realtime 100%; 37 of 37 answers equal, 9 of 9 handoffs without drift";
        assert_eq!(line(&progress()), expected);
    }

    #[test]
    fn summary_counts_what_was_right_and_names_what_was_not() {
        let mut progress = progress();
        progress.stage = Stage::Finished;
        progress.checks.wrong = 1;
        progress.problems.push("answer of carrier_stats: it has 15 rows, in truth 16".to_owned());
        let expected = "\
The year is over: 128,400 events streamed in 22.9 s, 56.0% of them out of order, by up to 21 h 40 min.

 ✘ answers equal to the truth: 37 of 38
 ✔ handoffs from realtime to batch without drift: 9 of 9
   batch views published: carrier_stats 4
   most in the realtime views at once: 1,234 rows

answer of carrier_stats: it has 15 rows, in truth 16";
        assert_eq!(plain(&summary(&progress)), expected);
    }
}
