//! Time that stands still until its owner moves it, for one thread.
//!
//! A simulation enters it on the thread that runs everything. While tasks can run, no time passes; when all of them
//! wait, the owner looks at [`next_timer`], and [`advance_to`] wakes those who waited for that time. So a minute of waiting
//! costs nothing, and the order of events follows from the program alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

thread_local! {
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Clock {
    epoch_us: i64,
    /// The instant at which the simulation began; only differences to it mean anything.
    base: Instant,
    elapsed: Duration,
    /// Who waits for what; in the order of registration where times are equal.
    timers: BTreeMap<(Duration, u64), Waker>,
    timers_made: u64,
}

/// Keeps this thread in simulated time until it is dropped.
#[derive(Debug)]
pub struct SimulatedTime {
    /// Must be dropped where it was made.
    _thread: PhantomData<*const ()>,
}

impl SimulatedTime {
    /// Begins at `epoch_us` microseconds since the epoch.
    ///
    /// # Panics
    /// When the thread is in simulated time already.
    pub fn enter(epoch_us: i64) -> SimulatedTime {
        CLOCK.with_borrow_mut(|clock| {
            assert!(clock.is_none(), "this thread is in simulated time already");
            let timers = BTreeMap::new();
            *clock = Some(Clock { epoch_us, base: Instant::now(), elapsed: Duration::ZERO, timers, timers_made: 0 });
        });
        SimulatedTime { _thread: PhantomData }
    }
}

impl Drop for SimulatedTime {
    fn drop(&mut self) {
        CLOCK.with_borrow_mut(Option::take);
    }
}

/// Simulated time since its beginning; zero where time is real.
pub fn elapsed() -> Duration {
    read(|clock| clock.elapsed).unwrap_or_default()
}

/// When somebody waits to be woken next, as time since the beginning.
pub fn next_timer() -> Option<Duration> {
    read(|clock| clock.timers.first_key_value().map(|((time, _), _)| *time)).flatten()
}

/// Moves the time forward and wakes whoever waited for it. A time that has passed changes nothing.
pub fn advance_to(time: Duration) {
    let due = CLOCK.with_borrow_mut(|clock| {
        let clock = clock.as_mut()?;
        clock.elapsed = clock.elapsed.max(time);
        let later = clock.timers.split_off(&(clock.elapsed, u64::MAX));
        Some(std::mem::replace(&mut clock.timers, later))
    });
    // Outside the borrow: a waker may run code that asks for the time.
    due.into_iter().flatten().for_each(|(_, waker)| waker.wake());
}

pub(super) fn is_entered() -> bool {
    read(|_| ()).is_some()
}

pub(super) fn now_us() -> Option<i64> {
    read(|clock| clock.epoch_us + clock.elapsed.as_micros() as i64)
}

pub(super) fn instant() -> Option<Instant> {
    read(|clock| clock.base + clock.elapsed)
}

pub(super) fn sleep_until(deadline: Instant) -> Sleep {
    let deadline = read(|clock| deadline.saturating_duration_since(clock.base)).unwrap_or_default();
    Sleep { deadline, timer: None }
}

fn read<T>(read: impl FnOnce(&Clock) -> T) -> Option<T> {
    CLOCK.with_borrow(|clock| clock.as_ref().map(read))
}

/// Waits for a time.
#[derive(Debug)]
pub(super) struct Sleep {
    deadline: Duration,
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        CLOCK.with_borrow_mut(|clock| {
            let Some(clock) = clock.as_mut().filter(|clock| clock.elapsed < self.deadline) else {
                return Poll::Ready(());
            };
            let made = &mut clock.timers_made;
            let timer = *self.timer.get_or_insert_with(|| {
                *made += 1;
                *made
            });
            clock.timers.insert((self.deadline, timer), context.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(timer) = self.timer else { return };
        let key = (self.deadline, timer);
        // Dropped outside the borrow: the waker may hold the last reference to a task.
        let _waker = CLOCK.with_borrow_mut(|clock| clock.as_mut().and_then(|clock| clock.timers.remove(&key)));
    }
}
