//! `watershed check`: are a project's definitions right, and what do they compile to?

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use watershed::project::Project;
use watershed_shared::definition::sql_type_name;
use watershed_shared::plan::ViewPlan;

use super::{CheckArgs, output};

/// Validates a project and prints the plans of its views.
pub(crate) async fn execute(args: CheckArgs) -> Result<ExitCode> {
    let project = Project::read(&args.project_dir)?;
    let plans = project.check().await?;
    let mut text = String::new();
    for plan in &plans {
        describe(plan, &mut text).await?;
    }
    let sources = project.statements.len() - plans.len();
    writeln!(text, "{sources} source(s) and {} view(s) are fine", plans.len())?;
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn describe(plan: &ViewPlan, text: &mut String) -> Result<()> {
    let explained = plan.explain().await?;
    writeln!(text, "view {} over source {} (definition {})", plan.name, plan.source.name, plan.id.as_str())?;
    let columns = plan.output_schema().fields().iter();
    let columns = columns.map(|field| format!("{} {}", field.name(), sql_type_name(field.data_type())));
    writeln!(text, "  columns: {}", columns.collect::<Vec<_>>().join(", "))?;
    for note in plan.notes() {
        writeln!(text, "  note: {note}")?;
    }
    for (title, tree) in [
        ("partial: events to states", &explained.partial),
        ("merge: states to states", &explained.merge),
        ("finish: states to rows", &explained.finish),
    ] {
        writeln!(text, "  {title}")?;
        for line in tree.lines() {
            writeln!(text, "    {line}")?;
        }
    }
    writeln!(text)?;
    Ok(())
}
