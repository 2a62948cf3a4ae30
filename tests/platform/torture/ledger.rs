//! What the clients have sent and what they were told, against what the platform holds.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use watershed_shared::position::Position;

/// All requests of one data folder, from all its lives. Ids are given in order, so a request is a range of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    /// Joined positions of all acknowledgements.
    position: Position,
    acknowledged_events: u64,
}

#[derive(Debug)]
struct Request {
    ids: Range<u64>,
    fate: Fate,
}

/// What is known of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It was sent; no answer has come.
    Unknown,
    /// The platform said that its events are durable.
    Acknowledged,
    /// No answer came, and a check has found its events. They must stay.
    Found,
    /// No answer came, and a check has found none of its events. They must not come back.
    Absent,
}

/// Events by what the clients knew of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    /// Not acknowledged, and there all the same.
    pub(super) found: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.found += other.found;
    }
}

impl Ledger {
    /// Notes a request of so many events before it is sent; gives its number and their ids.
    pub(super) fn begin(&self, rows: u64) -> (usize, Range<u64>) {
        let mut state = self.state();
        let first = state.requests.last().map_or(0, |request| request.ids.end);
        let ids = first..first + rows;
        state.requests.push(Request { ids: ids.clone(), fate: Fate::Unknown });
        (state.requests.len() - 1, ids)
    }

    /// Notes that a request was acknowledged.
    pub(super) fn acknowledge(&self, request: usize, position: &Position) {
        let mut state = self.state();
        state.position.join(position);
        let request = &mut state.requests[request];
        request.fate = Fate::Acknowledged;
        state.acknowledged_events += request.ids.end - request.ids.start;
    }

    /// How many events are acknowledged by now, and the position that covers them.
    pub(super) fn acknowledged(&self) -> (u64, Position) {
        let state = self.state();
        (state.acknowledged_events, state.position.clone())
    }

    /// How many events were sent by now.
    pub(super) fn sent(&self) -> u64 {
        self.state().requests.last().map_or(0, |request| request.ids.end)
    }

    /// Holds the ids that the platform has against what the clients know, while no client is sending; the error names
    /// what is lost, doubled, torn, back from the dead or unknown.
    pub(super) fn judge(&self, mut ids: Vec<u64>) -> Result<()> {
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            let doubled = ids.windows(2).filter(|pair| pair[0] == pair[1]).count();
            bail!("{doubled} events are DOUBLED, the first is {}", twice[0]);
        }
        let mut state = self.state();
        let mut there = ids.as_slice();
        for request in &mut state.requests {
            let (of_request, rest) = there.split_at(there.partition_point(|id| *id < request.ids.end));
            there = rest;
            let (found, rows) = (of_request.len() as u64, request.ids.end - request.ids.start);
            request.fate = match (request.fate, found) {
                (Fate::Unknown, 0) => Fate::Absent,
                (Fate::Unknown, found) if found == rows => Fate::Found,
                (Fate::Unknown, _) => {
                    bail!("{found} of the {rows} events of request {request:?} are there: it is TORN")
                }
                (Fate::Absent, 0) => Fate::Absent,
                (Fate::Absent, _) => bail!("{found} events of request {request:?} are BACK after a check without them"),
                (fate, found) => {
                    ensure!(found == rows, "{} of the {rows} events of request {request:?} are LOST", rows - found);
                    fate
                }
            };
        }
        ensure!(there.is_empty(), "there are events that nobody sent: {there:?}");
        Ok(())
    }

    /// What was sent and what became of it.
    pub(super) fn counts(&self) -> Counts {
        let state = self.state();
        let mut counts = Counts::default();
        for Request { ids, fate } in &state.requests {
            let rows = ids.end - ids.start;
            counts.sent += rows;
            match fate {
                Fate::Acknowledged => counts.acknowledged += rows,
                Fate::Found => counts.found += rows,
                Fate::Unknown | Fate::Absent => {}
            }
        }
        counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[test]
fn whatever_is_not_exactly_what_was_acknowledged_is_found() {
    let judge = |checks: &[&[u64]]| {
        let ledger = Ledger::default();
        let (acknowledged, _) = ledger.begin(2);
        ledger.begin(2);
        ledger.acknowledge(acknowledged, &Position::default());
        let judged = checks.iter().try_for_each(|ids| ledger.judge(ids.to_vec()));
        judged.map(|()| ledger.counts()).map_err(|error| error.to_string())
    };
    assert_eq!(judge(&[&[1, 0]]), Ok(Counts { sent: 4, acknowledged: 2, found: 0 }));
    assert_eq!(judge(&[&[0, 1, 2, 3], &[3, 2, 1, 0]]), Ok(Counts { sent: 4, acknowledged: 2, found: 2 }));
    for (checks, complaint) in [
        (&[&[0_u64, 2, 3][..]][..], "LOST"),
        (&[&[0, 1, 1]], "DOUBLED"),
        (&[&[0, 1, 3]], "TORN"),
        (&[&[0, 1, 2, 3], &[0, 1]], "LOST"),
        (&[&[0, 1], &[0, 1, 2, 3]], "BACK"),
        (&[&[0, 1, 4]], "nobody sent"),
    ] {
        let judged = judge(checks);
        assert!(judged.as_ref().is_err_and(|error| error.contains(complaint)), "{complaint}: {judged:?}");
    }
}
