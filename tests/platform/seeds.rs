//! Runs a property over many seeds, each of which stands for one random case.
//!
//! A failure prints its seed, which replays it, and the shortest case that still fails. The variables are named by the
//! property, here `LAW`: `WATERSHED_LAW_SEED=7` runs one seed, `WATERSHED_LAW_SCHEDULES=10000` more of them, starting at
//! `WATERSHED_LAW_FIRST_SEED`.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// How long a shorter case is looked for, unless `WATERSHED_SHRINKING_SECONDS` says otherwise.
const SHRINKING_MAX: Duration = Duration::from_secs(120);

/// A property of cases that come from seeds.
pub(crate) struct Property<Case> {
    /// Part of the variables' names.
    pub(crate) name: &'static str,
    /// How many seeds are run unless a variable says otherwise.
    pub(crate) count: u64,
    /// The cases that a seed may stand for.
    pub(crate) cases: fn(u64) -> BoxedStrategy<Case>,
    /// Checks one case; gives how many answers were compared, or what is broken.
    pub(crate) check: fn(&Case) -> Result<u64, String>,
}

impl<Case: Debug + Clone + 'static> Property<Case> {
    /// Checks the seeds that the environment asks for, on all cores, up to the first that fails.
    ///
    /// # Panics
    /// When a seed's case breaks the property.
    pub(crate) fn check_seeds(&self) {
        let (first, count) = self.seeds();
        let (next, checks) = (AtomicU64::new(first), AtomicU64::new(0));
        let failed = AtomicBool::new(false);
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count || failed.load(Ordering::Relaxed) {
                            break;
                        }
                        let checked = self.check_seed(seed, || failed.store(true, Ordering::Relaxed));
                        checks.fetch_add(checked, Ordering::Relaxed);
                    }
                });
            }
        });
        let (checks, seconds) = (checks.into_inner(), started.elapsed().as_secs_f64());
        println!("{count} schedules from seed {first} kept the law in {checks} answers, in {seconds:.1} s");
    }

    /// Checks one seed; gives how many answers were compared. Says so at once when it fails: what follows takes its time.
    fn check_seed(&self, seed: u64, has_failed: impl FnOnce()) -> u64 {
        let mut tree = self.tree(seed);
        match (self.check)(&tree.current()) {
            Ok(checks) => checks,
            Err(failure) => {
                has_failed();
                let (case, failure) = self.shrink(tree.as_mut(), failure);
                panic!(
                    "the law is broken: {failure}\n\nreplay with WATERSHED_{}_SEED={seed}\n\nshortest schedule found:\n{case:#?}",
                    self.name
                );
            }
        }
    }

    /// The case of a seed.
    pub(crate) fn case(&self, seed: u64) -> Case {
        self.tree(seed).current()
    }

    fn tree(&self, seed: u64) -> Box<dyn ValueTree<Value = Case>> {
        (self.cases)(seed).new_tree(&mut runner(seed)).unwrap_or_else(|reason| panic!("no case for {seed}: {reason}"))
    }

    fn shrink(&self, tree: &mut dyn ValueTree<Value = Case>, mut failure: String) -> (Case, String) {
        let mut shortest = tree.current();
        let patience = number("WATERSHED_SHRINKING_SECONDS").map_or(SHRINKING_MAX, Duration::from_secs);
        let started = Instant::now();
        let mut more = tree.simplify();
        while more && started.elapsed() < patience {
            let case = tree.current();
            more = match (self.check)(&case) {
                Err(other) => {
                    (shortest, failure) = (case, other);
                    tree.simplify()
                }
                Ok(_) => tree.complicate(),
            };
        }
        (shortest, failure)
    }

    fn seeds(&self) -> (u64, u64) {
        let number = |variable: &str| number(&format!("WATERSHED_{}_{variable}", self.name));
        match number("SEED") {
            Some(seed) => (seed, 1),
            None => (number("FIRST_SEED").unwrap_or(0), number("SCHEDULES").unwrap_or(self.count)),
        }
    }
}

/// A number that the environment holds.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{variable} is \"{text}\"; set it to a number")))
}

/// The source of randomness that a seed stands for.
pub(crate) fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}
