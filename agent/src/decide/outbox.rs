//! What the fleet is sent next, and what may be dropped for it: order per device, nothing forgotten before the broker has it.
//!
//! ```text
//!  stored reports …  5   6   7 | 8   9   10   11 | 12 …
//!          done with through 7 ┘   └ in flight ┘   └ wait for the window
//! ```
//! A lost connection makes everything in flight wait again: the broker may have lost its sessions with its state. What it
//! had already comes a second time under the same id, and receivers tell a repetition by it.
use std::collections::VecDeque;

/// What a report is worth, the least first: under pressure the least is dropped before the next is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// What tests and prospects have said: the retained drift report holds the present state anyway.
    Signal,
    /// How work went: ordered, trained, waiting; and who was turned away, which a stranger repeats as often as he likes.
    Course,
    /// Which model serves and why, who decided it, what was lost.
    Decision,
}

impl Class {
    /// The class of a kind of report; an unknown kind is worth keeping.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        match kind {
            "drift" | "class_shift" | "confidence_shift" | "considered" => Self::Signal,
            "retrain" | "consolidated" | "trained" | "failed" | "retrain_finished" | "rebaseline" | "waiting"
            | "waiting_budget" | "suspended" | "starved" | "canary_step" | "recording_share" | "clock_jump"
            | "sig_rejected" | "turned_away" => Self::Course,
            _ => Self::Decision,
        }
    }
}

/// A stored report that the broker has not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Place in the order of commits.
    pub position: i64,
    /// What it is worth.
    pub class: Class,
    /// What it takes on the disk.
    pub bytes: u64,
}

/// Share of the cap that is free again after an eviction: one eighth, so that the next report does not cause another one.
const FREED: u64 = 8;

/// The positions to drop, so that the rest fits into seven eighths of `bytes_max`: none while the whole fits; else the least
/// class first, and its oldest first.
#[must_use]
pub fn evict(entries: &[Entry], bytes_max: u64) -> Vec<i64> {
    let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
    if bytes <= bytes_max {
        return Vec::new();
    }
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| (entry.class, entry.position));
    let mut dropped = Vec::new();
    for entry in order {
        if bytes <= bytes_max - bytes_max / FREED {
            break;
        }
        bytes -= entry.bytes;
        dropped.push(entry.position);
    }
    dropped
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Waiting,
    InFlight,
    Settled,
}

/// The reports between what the broker has taken and what was read from the disk.
#[derive(Clone, Debug)]
pub struct Outbox {
    through: i64,
    read: i64,
    window: usize,
    slots: VecDeque<(i64, Standing)>,
}

impl Outbox {
    /// Continues after position `through`; at most `window` reports are in flight at once.
    #[must_use]
    pub fn new(through: i64, window: usize) -> Self {
        Self { through, read: through, window: window.max(1), slots: VecDeque::new() }
    }

    /// Everything up to here is done with, and may be forgotten.
    #[must_use]
    pub fn through(&self) -> i64 {
        self.through
    }

    /// After which position to read on, and how many; none while enough is at hand. At most four windows are held in memory.
    #[must_use]
    pub fn wants(&self) -> Option<(i64, usize)> {
        (self.slots.len() <= 2 * self.window).then_some((self.read, 2 * self.window))
    }

    /// Adds a report that was read; one that is known is passed over.
    pub fn add(&mut self, position: i64) {
        if position > self.read {
            self.read = position;
            self.slots.push_back((position, Standing::Waiting));
        }
    }

    /// The report to send now, in the order of commits; none while the window is full or nothing waits.
    pub fn send_next(&mut self) -> Option<i64> {
        if self.in_flight() >= self.window {
            return None;
        }
        let slot = self.slots.iter_mut().find(|(_, standing)| *standing == Standing::Waiting)?;
        slot.1 = Standing::InFlight;
        Some(slot.0)
    }

    /// The broker has taken it, or it was given up; returns whether [`Outbox::through`] has moved.
    pub fn settle(&mut self, position: i64) -> bool {
        if let Some(slot) = self.slots.iter_mut().find(|(known, _)| *known == position) {
            slot.1 = Standing::Settled;
        }
        let before = self.through;
        while let Some((position, _)) = self.slots.pop_front_if(|(_, standing)| *standing == Standing::Settled) {
            self.through = position;
        }
        self.through != before
    }

    /// What was in flight is sent again on the next connection.
    pub fn connection_lost(&mut self) {
        for (_, standing) in &mut self.slots {
            if *standing == Standing::InFlight {
                *standing = Standing::Waiting;
            }
        }
    }

    /// Reports that wait for their acknowledgement.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.iter().filter(|(_, standing)| *standing == Standing::InFlight).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outbox(positions: impl Iterator<Item = i64>) -> Outbox {
        let mut outbox = Outbox::new(0, 3);
        positions.for_each(|position| outbox.add(position));
        outbox
    }

    fn sent(outbox: &mut Outbox) -> Vec<i64> {
        std::iter::from_fn(|| outbox.send_next()).collect()
    }

    #[test]
    fn no_more_than_a_window_is_in_flight_and_the_order_is_that_of_the_commits() {
        let mut outbox = outbox(1..=6);
        assert_eq!(sent(&mut outbox), [1, 2, 3]);
        assert!(outbox.settle(1));
        assert_eq!((sent(&mut outbox), outbox.through()), (vec![4], 1));
    }

    #[test]
    fn a_report_is_forgotten_only_once_all_before_it_are_taken() {
        let mut outbox = outbox(1..=3);
        sent(&mut outbox);
        assert!(!outbox.settle(3) && !outbox.settle(2));
        assert_eq!(outbox.through(), 0);
        assert!(outbox.settle(1));
        assert_eq!(outbox.through(), 3);
        assert!(!outbox.settle(1), "an acknowledgement that comes twice changes nothing");
    }

    #[test]
    fn what_was_in_flight_on_a_lost_connection_is_sent_again_in_order() {
        let mut outbox = outbox(1..=4);
        sent(&mut outbox);
        outbox.settle(2);
        outbox.connection_lost();
        assert_eq!(sent(&mut outbox), [1, 3, 4]);
    }

    #[test]
    fn reading_goes_on_where_it_ended_and_holds_four_windows_at_most() {
        let mut outbox = outbox(1..=6);
        assert_eq!(outbox.wants(), Some((6, 6)));
        (7..=12).for_each(|position| outbox.add(position));
        assert_eq!(outbox.wants(), None);
        outbox.add(5);
        assert_eq!(sent(&mut outbox), [1, 2, 3], "a report that is known is not added twice");
    }

    #[test]
    fn under_pressure_signals_go_first_and_decisions_last() {
        let entry = |position, kind| Entry { position, class: Class::of(kind), bytes: 100 };
        let entries =
            [entry(1, "promote"), entry(2, "drift"), entry(3, "retrain"), entry(4, "drift"), entry(5, "gate")];
        assert_eq!(evict(&entries, 500), [] as [i64; 0]);
        assert_eq!(evict(&entries, 460), [2], "one eighth is free again");
        assert_eq!(evict(&entries, 300), [2, 4, 3]);
        assert_eq!(evict(&entries, 0), [2, 4, 3, 1, 5]);
    }

    #[test]
    fn nothing_that_is_said_often_or_by_strangers_outlives_a_decision() {
        let often = [
            "drift",
            "class_shift",
            "confidence_shift",
            "considered",
            "retrain",
            "consolidated",
            "trained",
            "failed",
            "retrain_finished",
            "rebaseline",
            "waiting",
            "waiting_budget",
            "suspended",
            "starved",
            "canary_step",
            "recording_share",
            "clock_jump",
            "sig_rejected",
            "turned_away",
        ];
        let decisions = [
            "gate",
            "promote",
            "rollback",
            "adaptation",
            "approval_required",
            "approved",
            "trial_won",
            "trial_ended",
            "regretted",
            "installed",
            "model_damaged",
            "model_good",
            "settings",
            "key_revoked",
            "frozen",
            "thawed",
            "purged",
            "set_aside",
            "storage_low",
            "storage_back",
            "of_a_later_version",
        ];
        // However old the decision is.
        for (kind, decision) in often.into_iter().flat_map(|kind| decisions.map(|decision| (kind, decision))) {
            let entry = |position, kind| Entry { position, class: Class::of(kind), bytes: 100 };
            assert_eq!(evict(&[entry(1, decision), entry(2, kind)], 150), [2], "{kind} before {decision}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_cut_everything_arrives_and_first_arrivals_are_in_order(cuts in prop::collection::vec(0..5_usize, 1..40)) {
            let mut outbox = outbox(1..=20);
            let mut arrived = Vec::new();
            for taken in cuts.into_iter().chain(std::iter::repeat_n(4, 20)) {
                let batch = sent(&mut outbox);
                // The broker receives a prefix of what was sent, and acknowledges all or all but the last of it.
                let received = &batch[..taken.min(batch.len())];
                for position in received {
                    if !arrived.contains(position) {
                        arrived.push(*position);
                    }
                }
                received.iter().take(received.len().saturating_sub(taken % 2)).for_each(|position| {
                    outbox.settle(*position);
                });
                outbox.connection_lost();
            }
            prop_assert_eq!(arrived, (1..=20).collect::<Vec<_>>());
        }
    }
}
