//! Counters by which each part of the agent shows that it moves; nobody waits to turn one.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decide::liveness::{Part, Pulse};
use crate::shell::recorder::RecorderHandle;

/// Pieces of work under way that are told apart; more threads than answer requests.
const PLACES: usize = 16;

/// How often a part has turned.
#[derive(Debug, Default)]
pub struct Turns(AtomicU64);

impl Turns {
    /// One more.
    pub fn turn(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The pulse of every part.
#[derive(Debug, Default)]
pub struct Pulses {
    /// The executor of the threads that answer: turned by a task of theirs.
    pub ingest: Turns,
    /// The loop that owns the state: turned by every event, one each second at least.
    pub control: Turns,
    /// The link's loop: turned with or without a connection.
    pub link: Turns,
    begun: AtomicU64,
    /// Numbers of the requests whose samples are being answered; 0 is a free place.
    busy: [AtomicU64; PLACES],
}

/// A request whose samples are being answered; ends when it is dropped.
#[derive(Debug)]
pub struct Busy<'a> {
    place: Option<&'a AtomicU64>,
}

impl Pulses {
    /// A thread begins to answer samples.
    #[must_use]
    pub fn answering(&self) -> Busy<'_> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let free = |place: &&AtomicU64| place.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        // More at once than places: this one is not watched, its neighbours are.
        Busy { place: self.busy.iter().find(free) }
    }

    /// What all parts show now; the recorder is asked to turn, and `linked` says whether there is a link.
    #[must_use]
    pub fn look(&self, recorder: &RecorderHandle, linked: bool) -> crate::decide::liveness::Pulses {
        let oldest = self.busy.iter().map(|place| place.load(Ordering::Relaxed)).filter(|number| *number > 0).min();
        let pulse = |turns: u64| Some(Pulse { turns, oldest: None });
        [
            (Part::Ingest, Some(Pulse { turns: self.ingest.count(), oldest })),
            (Part::Control, pulse(self.control.count())),
            (Part::Records, pulse(recorder.beat())),
            (Part::Link, pulse(self.link.count()).filter(|_| linked)),
        ]
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_request_under_way_is_shown_and_a_place_is_free_again_when_it_ends() {
        let pulses = Pulses::default();
        let oldest =
            |pulses: &Pulses| pulses.busy.iter().map(|place| place.load(Ordering::Relaxed)).filter(|n| *n > 0).min();
        let first = pulses.answering();
        let second = pulses.answering();
        assert_eq!(oldest(&pulses), Some(1));
        drop(first);
        assert_eq!(oldest(&pulses), Some(2));
        drop(second);
        assert_eq!(oldest(&pulses), None);
        let many: Vec<_> = (0..PLACES + 3).map(|_| pulses.answering()).collect();
        assert_eq!(oldest(&pulses), Some(3), "more than places is no harm");
        drop(many);
        assert_eq!(oldest(&pulses), None);
    }
}
