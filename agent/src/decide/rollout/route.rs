//! Who answers a sample during a canary: where sources are many each keeps its model for as long as the stage lasts, where they are few
//! every request is dealt by itself.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use crate::decide::time::Timestamp;

/// From so many sources on each is on one side as a whole: one percent of them is one. Fewer would all be on one side, or wait for hours
/// for their turn: what they send is dealt request by request.
const SOURCES: usize = 100;

/// How samples are dealt between champion and challenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The challenger.
    pub challenger: Digest,
    /// Percent of the samples it answers.
    pub share: u8,
    /// Whether sources are on one side for the whole stage; if not, each request is dealt by itself.
    pub by_source: bool,
    /// Differs from trial to trial, so that not the same sources bear every trial.
    pub salt: u64,
    /// Where chance gave the challenger none of the known sources: one above the place of the nearest one. 0 where it gave some.
    #[serde(default)]
    pub at_least: u64,
}

impl Route {
    /// Whether the challenger answers a request of `source` that arrived at `at`. A larger share takes all that a smaller one took.
    #[must_use]
    pub fn takes(&self, source: &str, at: Timestamp) -> bool {
        let request = if self.by_source { 0 } else { at.0.cast_unsigned() };
        let place = place(hash(source), self.salt ^ request);
        self.share >= 100 || place < bound(self.share).max(self.at_least)
    }

    /// The same with at least one of the known sources, if they are dealt whole: a stage without any would never end.
    #[must_use]
    pub fn with_one_of(self, sources: &Sources) -> Self {
        if !self.by_source || self.share == 0 {
            return self;
        }
        let nearest = sources.0.iter().map(|source| place(*source, self.salt)).min();
        let beyond = nearest.filter(|nearest| *nearest >= bound(self.share));
        Self { at_least: beyond.map_or(0, |nearest| nearest.saturating_add(1)), ..self }
    }
}

/// Where a source, or its request, lies among all numbers.
fn place(source: u64, salt: u64) -> u64 {
    mix(source ^ mix(salt))
}

/// Below it lie `share` percent of all numbers.
fn bound(share: u8) -> u64 {
    u64::MAX / 100 * u64::from(share.min(100))
}

/// Even bits of a source's name (FNV-1a).
#[must_use]
pub fn hash(source: &str) -> u64 {
    source.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The last step of `SplitMix64`: spreads what differs in few bits.
fn mix(bits: u64) -> u64 {
    let mixed = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Which sources were seen, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sources(BTreeSet<u64>);

impl Sources {
    /// Takes the source of a sample, by its [`hash`].
    pub fn see(&mut self, source: u64) {
        if self.0.len() < SOURCES {
            self.0.insert(source);
        }
    }

    /// Whether there are enough to be dealt whole.
    #[must_use]
    pub fn are_many(&self) -> bool {
        self.0.len() >= SOURCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(share: u8, by_source: bool) -> Route {
        Route { challenger: Digest::of(b"challenger"), share, by_source, salt: 7, at_least: 0 }
    }

    #[test]
    fn a_source_keeps_its_side_and_a_larger_share_takes_what_the_smaller_took() {
        for source in (0..500).map(|number| format!("pump-{number}")) {
            let sides: Vec<bool> =
                [1, 10, 50, 100].map(|share| route(share, true).takes(&source, Timestamp(0))).to_vec();
            assert!(sides.is_sorted() && sides[3], "{source}: {sides:?}");
            for at in [1, 299, 300, 86_400] {
                assert_eq!(route(50, true).takes(&source, Timestamp(at * 1_000_000)), sides[2]);
            }
            assert!(!route(0, true).takes(&source, Timestamp(0)));
        }
    }

    #[test]
    fn shares_come_out_over_sources_and_over_the_requests_of_a_single_source() {
        for share in [1_u8, 10, 50] {
            let all = 20_000_i64;
            let sources = (0..all).filter(|number| route(share, true).takes(&number.to_string(), Timestamp(0))).count();
            let requests =
                (0..all).filter(|second| route(share, false).takes("one", Timestamp(second * 1_000_000))).count();
            let expected = usize::from(share) * 200;
            let near = |count: usize| count.abs_diff(expected) < 30 + expected / 20;
            assert!(near(sources) && near(requests), "{share}: {sources} sources, {requests} requests");
        }
    }

    #[test]
    fn one_source_at_one_percent_is_answered_by_the_challenger_within_minutes_and_never_for_long_at_a_stretch() {
        let takes = |second: i64| route(1, false).takes("one", Timestamp(second * 1_000_000));
        let taken: Vec<i64> = (0..86_400).filter(|second| takes(*second)).collect();
        assert!(taken[0] < 600, "the first at {} s", taken[0]);
        assert!(taken[49] < 2 * 5_000, "fifty answers took {} s", taken[49]);
        let longest = taken.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest < 1_800, "{longest} s without any");
        assert!(!taken.windows(4).any(|four| four[3] - four[0] == 3), "four in a row");
    }

    #[test]
    fn of_many_known_sources_at_least_one_is_on_the_challengers_side_in_every_trial() {
        let names: Vec<String> = (0..100).map(|number| format!("pump-{number}")).collect();
        let mut sources = Sources::default();
        names.iter().for_each(|name| sources.see(hash(name)));
        let mut without = 0;
        for salt in 0..300 {
            let bare = |share| Route { salt, ..route(share, true) };
            let taken = |route: &Route| names.iter().filter(|name| route.takes(name, Timestamp(0))).count();
            without += u32::from(taken(&bare(1)) == 0);
            let counts: Vec<usize> = [1, 10, 50, 100].map(|share| taken(&bare(share).with_one_of(&sources))).to_vec();
            assert!(counts[0] >= 1 && counts.is_sorted() && counts[3] == 100, "trial {salt}: {counts:?}");
            assert_eq!(counts[0].max(1), taken(&bare(1)).max(1), "chance decides where it gives any");
        }
        assert!(without > 60, "chance alone leaves a third of the trials without any: {without}");
        let few = Route { by_source: false, ..route(1, false) }.with_one_of(&sources);
        assert_eq!(few, route(1, false));
    }

    #[test]
    fn a_hundred_sources_are_many_and_no_more_are_kept() {
        let mut sources = Sources::default();
        (0..99).for_each(|source| sources.see(source));
        (0..99).for_each(|source| sources.see(source));
        assert!(!sources.are_many());
        (0..1_000).for_each(|source| sources.see(source));
        assert!(sources.are_many() && sources.0.len() == SOURCES);
    }
}
