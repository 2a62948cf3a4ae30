//! The world around a simulated platform: what fails, when what takes effect, and when the process dies.
//!
//! Every call that leaves the platform asks the world for its fate: how long it takes, whether and when it takes effect,
//! what the caller hears, and whether the process dies on it. An effect belongs to the world and not to the caller, as a
//! request that is on its way belongs to the network: it happens although the caller has given up or died, also late.
//! All of it follows from one seed.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::schedule::End;
use tokio::sync::Notify;
use watershed_shared::time::simulated::{advance_to, elapsed, next_timer};
use watershed_shared::time::{instant, sleep_until};

/// How the world treats calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weather {
    /// Calls in a thousand that fail: refused, with a lost response, or by a timeout.
    pub(super) failures: u64,
    /// Calls in a thousand that take part in a second and more; others take milliseconds or nothing.
    pub(super) slow: u64,
    /// How long new objects are missing in listings; stores of today list at once.
    pub(super) listing_lag: Duration,
}

impl Weather {
    /// Nothing fails and nothing takes time.
    pub(super) const CALM: Weather = Weather { failures: 0, slow: 0, listing_lag: Duration::ZERO };
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Failure {
    /// Nothing happened.
    Refused,
    /// It happened, but the caller hears of a failure.
    LostResponse,
    /// The caller hears nothing and gives up; it happens before or after that, or never.
    Timeout,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Refused => "simulated: refused",
            Failure::LostResponse => "simulated: connection lost before the response",
            Failure::Timeout => "simulated: no response in time",
        })
    }
}

impl std::error::Error for Failure {}

/// How calls to one side of the world end that outlives the process or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// Requests to the object store travel: after a crash they may still arrive, and late.
    Store,
    /// The log is on the process's own disk: at a crash a write has happened or never will.
    Log,
}

/// How long a client waits for the store.
const TIMEOUT: Duration = Duration::from_secs(30);
/// An effect of the world, in the order of time.
type Effect = Box<dyn FnOnce() + Send>;

pub(super) struct World {
    state: Mutex<State>,
    /// Tells the process that it is dead.
    died: Notify,
}

struct State {
    random: Random,
    weather: Weather,
    /// At which call the process dies; counts down.
    end: End,
    is_dead: bool,
    /// What will happen: when, and in which order at the same time.
    effects: BTreeMap<(Duration, u64), (Side, Effect)>,
    effects_made: u64,
    failures: u64,
    calls: u64,
    trace: DefaultHasher,
}

/// What becomes of a call.
struct Fate {
    /// When it takes effect; `None` for never.
    effect: Option<Duration>,
    /// When the caller hears of it; `None` when the process dies first.
    answer: Option<Duration>,
    failure: Option<Failure>,
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Arc<World> {
        let state = State {
            random: Random(seed),
            weather,
            end: End::Stops,
            is_dead: false,
            effects: BTreeMap::new(),
            effects_made: 0,
            failures: 0,
            calls: 0,
            trace: DefaultHasher::new(),
        };
        Arc::new(World { state: Mutex::new(state), died: Notify::new() })
    }

    /// Begins a process's life.
    pub(super) fn begin_life(&self, weather: Weather, end: End) {
        let mut state = self.state();
        (state.weather, state.end, state.is_dead) = (weather, end, false);
    }

    /// Returns when the process must die.
    pub(super) async fn death(&self) {
        loop {
            let died = self.died.notified();
            if self.state().is_dead {
                return;
            }
            died.await;
        }
    }

    /// The process has died: what was on its way arrives, perhaps late, or does not.
    pub(super) fn bury(&self) {
        let mut happened = Vec::new();
        let mut state = self.state();
        for ((due, number), (side, effect)) in std::mem::take(&mut state.effects) {
            match (side, state.random.chance(500)) {
                (_, false) => {}
                (Side::Log, true) => happened.push(effect),
                (Side::Store, true) => {
                    let delay = if state.random.chance(500) { state.random.up_to(4_000) } else { 0 };
                    state.effects.insert((due + Duration::from_millis(delay), number), (side, effect));
                }
            }
        }
        drop(state);
        happened.into_iter().for_each(|effect| effect());
    }

    /// From now on nothing fails; what is on its way still arrives.
    pub(super) fn calm_down(&self) {
        self.state().weather = Weather::CALM;
    }

    pub(super) fn is_calm(&self) -> bool {
        self.state().weather.failures == 0
    }

    /// How long new objects are missing in listings.
    pub(super) fn listing_lag(&self) -> Duration {
        self.state().weather.listing_lag
    }

    /// A random number below `bound`.
    pub(super) fn up_to(&self, bound: u64) -> u64 {
        self.state().random.up_to(bound)
    }

    /// Notes what a run of the same seed must do again.
    pub(super) fn note(&self, what: impl Hash) {
        what.hash(&mut self.state().trace);
    }

    /// Stands for all calls and notes so far.
    pub(super) fn trace(&self) -> u64 {
        self.state().trace.finish()
    }

    pub(super) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(super) fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Lets a call happen as its fate wills. `what` names it in the trace.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        side: Side,
        is_write: bool,
        what: impl Hash,
        effect: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let fate = self.state().decide(side, what, is_write);
        let result = Arc::new(Mutex::new(None));
        match fate.effect {
            Some(due) if due == elapsed() => *lock(&result) = Some(effect()),
            Some(due) => {
                let result = Arc::clone(&result);
                self.state().schedule(due, side, Box::new(move || *lock(&result) = Some(effect())));
            }
            None => {}
        }
        let Some(answer) = fate.answer else {
            self.died.notify_waiters();
            return std::future::pending().await;
        };
        if answer > elapsed() {
            sleep_until(instant() + (answer - elapsed())).await;
        }
        match (fate.failure, lock(&result).take()) {
            (None, Some(result)) => Ok(result),
            (failure, _) => Err(failure.unwrap_or(Failure::Refused)),
        }
    }

    /// Moves the time on until somebody is woken; called when nothing can run.
    ///
    /// # Panics
    /// When nobody waits for a time: then nothing would ever happen again.
    pub(super) fn advance(&self) {
        let Some(timer) = next_timer() else { panic!("the simulation is stuck: every task waits for another one") };
        loop {
            let mut state = self.state();
            let due = state.effects.first_entry().filter(|entry| entry.key().0 <= timer);
            let Some(((due, _), (_, effect))) = due.map(|entry| entry.remove_entry()) else { break };
            drop(state);
            advance_to(due);
            effect();
        }
        advance_to(timer);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn decide(&mut self, side: Side, what: impl Hash, is_write: bool) -> Fate {
        self.calls += 1;
        let now = elapsed();
        (now.as_micros(), side).hash(&mut self.trace);
        what.hash(&mut self.trace);
        let (to, back) = (self.latency(), self.latency());
        match &mut self.end {
            End::Dies(left) => *left -= 1,
            End::DiesWriting(left) if side == Side::Store && is_write => *left -= 1,
            _ => {}
        }
        if matches!(self.end, End::Dies(0) | End::DiesWriting(0)) {
            (self.is_dead, self.end) = (true, End::Stops);
        }
        if self.is_dead {
            return Fate { effect: Some(now + to + Duration::from_micros(1)), answer: None, failure: None };
        }
        let failure = self.failure(side);
        let fate = match failure {
            None => Fate { effect: Some(now + to), answer: Some(now + to + back), failure },
            Some(Failure::Refused) => Fate { effect: None, answer: Some(now + to), failure },
            Some(Failure::LostResponse) => Fate { effect: Some(now + to), answer: Some(now + to + back), failure },
            Some(Failure::Timeout) => {
                let due = now + Duration::from_millis(1 + self.random.up_to(2 * TIMEOUT.as_millis() as u64));
                Fate { effect: self.random.chance(700).then_some(due), answer: Some(now + TIMEOUT), failure }
            }
        };
        (fate.effect, fate.answer, failure).hash(&mut self.trace);
        fate
    }

    fn failure(&mut self, side: Side) -> Option<Failure> {
        if !self.random.chance(self.weather.failures) {
            return None;
        }
        self.failures += 1;
        let failure = match (self.random.up_to(5), side) {
            (0 | 1, _) => Failure::Refused,
            (4, Side::Store) => Failure::Timeout,
            _ => Failure::LostResponse,
        };
        Some(failure)
    }

    fn latency(&mut self) -> Duration {
        if self.weather == Weather::CALM || self.random.chance(400) {
            return Duration::ZERO;
        }
        let micros_max = if self.random.chance(self.weather.slow) { 3_000_000 } else { 20_000 };
        Duration::from_micros(self.random.up_to(micros_max))
    }

    fn schedule(&mut self, due: Duration, side: Side, effect: Effect) {
        self.effects_made += 1;
        self.effects.insert((due, self.effects_made), (side, effect));
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

/// SplitMix64: any seed is a good one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn up_to(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True in so many of a thousand cases.
    fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.up_to(1000) < of_a_thousand
    }
}

/// A panic elsewhere fails the seed anyway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
