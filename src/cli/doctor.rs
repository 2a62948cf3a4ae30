//! `watershed doctor`: is everything in a data folder as it was written, and what can be done where it is not?
//!
//! It works while no platform has the folder open, and holds RocksDB's lock meanwhile. Reading changes nothing but what a
//! start changes; a repair only deletes what can be made again, after saying so.

mod examine;
mod place;
mod report;

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use watershed_batch_layer::inspect::Severity;

use self::examine::{Diagnosis, Fix, examine};
use self::place::Place;
use super::{ListFormat, output};

/// The folder could not be checked, which says nothing of what is in it.
const NOT_CHECKED: u8 = 2;

/// Arguments of `watershed doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed doctor my-project               check everything; the platform must be stopped
  watershed doctor my-project --repair      say what can be repaired, ask, and repair it
  watershed doctor /var/lib/watershed --format json | jq '.findings[]'

Checked are all checksums, the offsets of each log against its history, each batch view's boundary against the history's \
cuts, the row counts, the checkpoints of realtime views against those boundaries, the catalog, format versions, and files \
that belong to nothing.

Exit codes: 0 nothing is wrong, 1 something is, 2 it could not be checked. Notes count as nothing wrong.")]
pub(crate) struct DoctorArgs {
    /// A project's folder, or a data folder
    #[arg(value_name = "PROJECT_OR_DATA_DIR")]
    folder: PathBuf,
    /// The project's data folder, instead of the one in watershed.toml
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How the findings are printed
    #[arg(long, short, value_enum, default_value_t)]
    format: ListFormat,
    /// Repair what can be made again: batch views, checkpoints of tables and realtime views, the catalog, files that belong to nothing
    #[arg(long)]
    repair: bool,
    /// With --repair: only say what would be done
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// With --repair: do it without asking
    #[arg(long, requires = "repair", conflicts_with = "dry_run")]
    yes: bool,
}

/// Checks a folder and prints what was found.
pub(crate) async fn execute(args: DoctorArgs) -> Result<ExitCode> {
    let examined = async {
        let place = Place::find(&args.folder, args.data.clone())?;
        let diagnosis = examine(&place).await?;
        Ok::<_, anyhow::Error>((place, diagnosis))
    };
    let (place, diagnosis) = match examined.await {
        Ok(examined) => examined,
        Err(error) => {
            output::notice(&format!("error: {error:#}"));
            return Ok(ExitCode::from(NOT_CHECKED));
        }
    };
    let text = match args.format {
        ListFormat::Table => report::table(&diagnosis),
        ListFormat::Json => report::json(&place, &diagnosis)?,
    };
    output::print(text.as_bytes())?;
    let repaired = args.repair && repair(&args, &place, &diagnosis).await?;
    let is_wrong = diagnosis.findings.iter().any(|found| {
        let is_fixed = repaired && found.fix.is_some();
        found.finding.severity > Severity::Note && !is_fixed
    });
    Ok(if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Does what can be done; false if nothing was.
async fn repair(args: &DoctorArgs, place: &Place, diagnosis: &Diagnosis) -> Result<bool> {
    let mut fixes: Vec<&Fix> = Vec::new();
    for fix in diagnosis.findings.iter().filter_map(|found| found.fix.as_ref()) {
        if !fixes.contains(&fix) {
            fixes.push(fix);
        }
    }
    if fixes.is_empty() {
        output::notice("there is nothing that can be repaired here");
        return Ok(false);
    }
    output::notice("To repair:");
    for fix in &fixes {
        output::notice(&format!("  {}", fix.describe()));
    }
    if args.dry_run || !(args.yes || is_agreed()?) {
        output::notice("nothing was changed");
        return Ok(false);
    }
    // The catalog first: dropping batch views changes it.
    fixes.sort_by_key(|fix| !fix.is_catalog());
    for fix in fixes {
        fix.carry_out(place).await.with_context(|| format!("cannot {}", fix.describe()))?;
        output::notice(&format!("done: {}", fix.describe()));
    }
    Ok(true)
}

fn is_agreed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked whether to do this; give --yes to do it, or --dry-run to only see it");
    }
    output::notice("Type \"yes\" to do this:");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}
