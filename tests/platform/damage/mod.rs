//! Damage to every kind of file of a data folder: the answer is right or the error names the damage, never anything else.

mod doctor;
mod fixture;
mod inflict;
mod samples;

use anyhow::{Context, Result, bail, ensure};
use watershed::platform::{Platform, Ports};
use watershed_serving_layer::{Backend, ViewState};
use watershed_shared::position::PositionToken;

use self::fixture::{Fixture, Rows};
use self::inflict::{Damage, FileKind, files};

/// Times that each kind of damage is done to each kind of file.
const REPEATS: u64 = 2;
/// Changes the places of damage; the places of a failure are in its message.
const SEED: u64 = 20_261_120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_anywhere_is_named_or_changes_no_answer() -> Result<()> {
    let fixture = Fixture::create(Rows::MANY).await?;
    let kinds = files(fixture.path())?;
    for kind in FileKind::ALL {
        ensure!(kinds.contains_key(&kind), "the fixture has no {kind:?}");
    }
    let (mut right, mut named) = (0, 0);
    for (kind, paths) in &kinds {
        for damage in Damage::ALL {
            for repeat in 0..REPEATS {
                let copy = fixture.copy()?;
                let seed = SEED + repeat;
                let Some(done) = damage.inflict(copy.path(), paths, seed)? else { continue };
                match outcome(&fixture, copy.path()).await.with_context(|| format!("{kind:?}: {done}"))? {
                    Outcome::Right => right += 1,
                    Outcome::Named => named += 1,
                }
            }
        }
    }
    ensure!(
        right > 20 && named > 50,
        "{right} right answers and {named} named errors: the damage is not where it hurts"
    );
    Ok(())
}

enum Outcome {
    Right,
    Named,
}

/// Opens a platform on a data folder, asks it, computes its view anew and asks again.
async fn outcome(fixture: &Fixture, data: &std::path::Path) -> Result<Outcome> {
    let config = fixture::config();
    let ports = match Ports::open(&config, data) {
        Ok(ports) => ports,
        Err(error) => return named(&error),
    };
    let platform = match Platform::open(fixture::definitions()?, config, ports).await {
        Ok(platform) => platform,
        Err(error) => return named(&error),
    };
    let asked = ask(fixture, &platform).await;
    platform.stop().await;
    asked
}

async fn ask(fixture: &Fixture, platform: &Platform) -> Result<Outcome> {
    let end = platform.sources().remove(0).offsets;
    ensure!(end == fixture.end(), "acknowledged events are gone without a word: the log ends at {end:?}");
    while platform.views()[0].state == ViewState::Building {
        if let Some(error) = platform.batch_runs().into_iter().find_map(|run| run.error) {
            return named_text(&error);
        }
        tokio::task::yield_now().await;
    }
    let first = answer(fixture, platform).await?;
    let run = async { platform.prepare_run(fixture::VIEW).await?.compute().await?.publish().await };
    if let Err(error) = run.await {
        return named(&error);
    }
    match answer(fixture, platform).await.context("after a batch run")? {
        Outcome::Named => bail!("a batch run did not replace the damaged batch view"),
        Outcome::Right => Ok(first),
    }
}

async fn answer(fixture: &Fixture, platform: &Platform) -> Result<Outcome> {
    let token: PositionToken = fixture.position().parse()?;
    match platform.query_engine().query(fixture::QUESTION, &[token]).await {
        Ok(answer) => {
            let found = fixture::numbers(&answer.batches)?;
            ensure!(found == fixture.answer(), "wrong answer {found:?} instead of {:?}", fixture.answer());
            Ok(Outcome::Right)
        }
        Err(error) => {
            let detail = platform.readiness().detail.join("; ");
            ensure!(detail.contains("damaged"), "nobody is told: {detail:?}");
            named(&error)
        }
    }
}

/// An error that says what is damaged, and what to do.
fn named(error: &dyn std::error::Error) -> Result<Outcome> {
    named_text(&watershed::error::with_causes(error))
}

fn named_text(text: &str) -> Result<Outcome> {
    const NAMED: [(&str, &str); 3] = [
        ("is damaged", "watershed doctor"),
        ("both must belong to the same data folder", "restore"),
        ("format version", "use the version"),
    ];
    ensure!(!text.contains("panicked"), "a panic: {text}");
    let is_named = NAMED.iter().any(|(what, action)| text.contains(what) && text.contains(action));
    ensure!(is_named, "the error does not name the damage: {text}");
    Ok(Outcome::Named)
}
