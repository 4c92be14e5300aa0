//! When to connect to the broker and when to give a connection up; every connection is a new one.
//!
//! ```text
//!            retry time                  CONNACK
//!  Offline ─────────────► Connecting ─────────────► Online
//!     ▲                       │ lost, or silent        │ lost, or silent
//!     └───────────────────────┴────────────────────────┘
//!       waits longer after each failure, with jitter; starts afresh after a connection that held
//! ```
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::drift::seeded::Draws;
use super::time::Uptime;

/// How patient the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRules {
    /// Wait after the first failure.
    pub retry_first: Duration,
    /// Longest wait.
    pub retry_max: Duration,
    /// A connection that held this long makes the next failure the first one.
    pub steady: Duration,
    /// A connection attempt without an answer is given up after this.
    pub connect_within: Duration,
    /// A connection on which nothing was heard for this long is given up; two keep-alives.
    pub silence_max: Duration,
    /// Draws the jitter: a fleet that lost its broker at once must not return at once.
    pub seed: u64,
}

/// How the link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Link {
    /// Waits.
    Offline {
        /// Connects then.
        until: Uptime,
        /// In a row.
        failures: u32,
    },
    /// Has asked.
    Connecting {
        /// Since then.
        since: Uptime,
        /// In a row before this attempt.
        failures: u32,
    },
    /// Talks.
    Online {
        /// Since then.
        since: Uptime,
        /// When something came last.
        heard: Uptime,
        /// In a row before this connection.
        failures: u32,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Time has passed.
    Tick,
    /// The broker accepted the connection.
    Accepted,
    /// Something came from the broker.
    Heard,
    /// The connection, or the attempt, has ended.
    Lost,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkOrder {
    /// Nothing.
    Keep,
    /// Begin a new connection.
    Connect,
    /// Give this one up.
    Drop,
}

impl Link {
    /// The first attempt is made at once.
    #[must_use]
    pub fn new(now: Uptime) -> Self {
        Self::Offline { until: now, failures: 0 }
    }

    /// Advances by one event.
    #[must_use]
    pub fn step(self, event: LinkEvent, now: Uptime, rules: &LinkRules) -> (Self, LinkOrder) {
        match (self, event) {
            (Self::Offline { until, failures }, LinkEvent::Tick) if now >= until => {
                (Self::Connecting { since: now, failures }, LinkOrder::Connect)
            }
            (Self::Connecting { failures, .. }, LinkEvent::Accepted) => {
                (Self::Online { since: now, heard: now, failures }, LinkOrder::Keep)
            }
            (Self::Online { since, failures, .. }, LinkEvent::Heard) => {
                (Self::Online { since, heard: now, failures }, LinkOrder::Keep)
            }
            (Self::Connecting { since, failures }, LinkEvent::Tick) if now >= since.plus(rules.connect_within) => {
                (offline(failures, now, rules), LinkOrder::Drop)
            }
            (Self::Online { since, heard, failures }, LinkEvent::Tick) if now >= heard.plus(rules.silence_max) => {
                (offline(held(since, failures, heard, rules), now, rules), LinkOrder::Drop)
            }
            (Self::Connecting { failures, .. }, LinkEvent::Lost) => (offline(failures, now, rules), LinkOrder::Drop),
            (Self::Online { since, failures, .. }, LinkEvent::Lost) => {
                (offline(held(since, failures, now, rules), now, rules), LinkOrder::Drop)
            }
            (Self::Offline { .. }, LinkEvent::Tick | LinkEvent::Accepted | LinkEvent::Heard | LinkEvent::Lost)
            | (Self::Connecting { .. }, LinkEvent::Tick | LinkEvent::Heard)
            | (Self::Online { .. }, LinkEvent::Tick | LinkEvent::Accepted) => (self, LinkOrder::Keep),
        }
    }
}

/// Failures in a row, given how long the connection held.
fn held(since: Uptime, failures: u32, until: Uptime, rules: &LinkRules) -> u32 {
    if until >= since.plus(rules.steady) { 0 } else { failures }
}

fn offline(failures: u32, now: Uptime, rules: &LinkRules) -> Link {
    Link::Offline { until: now.plus(wait(failures, rules)), failures: failures.saturating_add(1) }
}

/// Half to whole of `first · 2^failures`, at most half to whole of the longest.
#[must_use]
pub fn wait(failures: u32, rules: &LinkRules) -> Duration {
    let whole = rules.retry_first.saturating_mul(1 << failures.min(20)).min(rules.retry_max);
    let share = Draws::new(rules.seed ^ u64::from(failures).rotate_left(32)).uniform();
    whole.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: LinkRules = LinkRules {
        retry_first: Duration::from_secs(1),
        retry_max: Duration::from_mins(2),
        steady: Duration::from_secs(30),
        connect_within: Duration::from_secs(15),
        silence_max: Duration::from_mins(1),
        seed: 7,
    };

    fn at(seconds: u64) -> Uptime {
        Uptime(Duration::from_secs(seconds))
    }

    fn wait(link: Link, now: Uptime) -> f64 {
        match link {
            Link::Offline { until, .. } => until.0.saturating_sub(now.0).as_secs_f64(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_each_device_waits_its_own_time() {
        let mut link = Link::new(at(0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            (link, _) = Link::Connecting { since: at(0), failures: u32::try_from(waits.len()).unwrap() }.step(
                LinkEvent::Lost,
                at(0),
                &RULES,
            );
            waits.push(wait(link, at(0)));
        }
        for (failures, wait) in waits.iter().enumerate() {
            let whole = 2_f64.powi(i32::try_from(failures).unwrap()).min(120.0);
            assert!((whole / 2.0..=whole).contains(wait), "{failures}: {wait}");
        }
        let other = LinkRules { seed: 8, ..RULES };
        let (elsewhere, _) = Link::Connecting { since: at(0), failures: 11 }.step(LinkEvent::Lost, at(0), &other);
        assert!((wait(elsewhere, at(0)) - wait(link, at(0))).abs() > 0.1);
    }

    #[test]
    fn a_connection_that_held_makes_the_next_failure_the_first_and_one_that_flaps_does_not() {
        let lost = |since, now| {
            Link::Online { since: at(since), heard: at(now), failures: 6 }.step(LinkEvent::Lost, at(now), &RULES).0
        };
        assert!(wait(lost(0, 30), at(30)) <= 1.0);
        assert!(wait(lost(0, 29), at(29)) >= 32.0);
    }

    #[test]
    fn a_broker_that_accepts_and_hangs_up_is_asked_less_and_less_often_until_a_connection_holds() {
        let (mut link, mut now, mut waits) = (Link::new(at(0)), Uptime::default(), Vec::new());
        let mut connect_for = |held: Duration| {
            let Link::Offline { until, .. } = link else { panic!("{link:?}") };
            waits.push(until.0.saturating_sub(now.0).as_secs_f64());
            now = until;
            (link, _) = link.step(LinkEvent::Tick, now, &RULES);
            (link, _) = link.step(LinkEvent::Accepted, now, &RULES);
            now = now.plus(held);
            (link, _) = link.step(LinkEvent::Heard, now, &RULES);
            (link, _) = link.step(LinkEvent::Lost, now, &RULES);
        };
        (0..9).for_each(|_| connect_for(Duration::from_secs(1)));
        connect_for(RULES.steady);
        connect_for(Duration::from_secs(1));
        assert!(waits[0] <= 0.0, "the first attempt is made at once");
        for (failures, wait) in (0..).zip(&waits[1..10]) {
            let whole = 2_f64.powi(failures).min(120.0);
            assert!((whole / 2.0..=whole).contains(wait), "{failures}: {waits:?}");
        }
        assert!(waits[10] <= 1.0, "it held: {waits:?}");
    }

    #[test]
    fn a_silent_broker_is_given_up_and_a_talking_one_kept() {
        let (link, order) = Link::new(at(0)).step(LinkEvent::Tick, at(0), &RULES);
        assert_eq!(order, LinkOrder::Connect);
        assert_eq!(link.step(LinkEvent::Tick, at(14), &RULES).1, LinkOrder::Keep);
        assert_eq!(link.step(LinkEvent::Tick, at(15), &RULES).1, LinkOrder::Drop);
        let (link, _) = link.step(LinkEvent::Accepted, at(1), &RULES);
        assert_eq!(link.step(LinkEvent::Tick, at(61), &RULES).1, LinkOrder::Drop);
        let (link, _) = link.step(LinkEvent::Heard, at(50), &RULES);
        assert_eq!(link.step(LinkEvent::Tick, at(61), &RULES).1, LinkOrder::Keep);
        let (link, order) = link.step(LinkEvent::Tick, at(110), &RULES);
        assert_eq!(
            (order, link.step(LinkEvent::Accepted, at(111), &RULES)),
            (LinkOrder::Drop, (link, LinkOrder::Keep))
        );
    }
}
