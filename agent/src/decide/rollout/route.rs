//! Who answers a sample during a canary: the same source keeps its model for as long as its stage lasts.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use crate::decide::time::Timestamp;

/// From so many sources on each is on one side as a whole.
const SOURCES: usize = 100;
/// Fewer are dealt anew this often, or one busy source would be all of the canary or none of it.
const SLOT_US: i64 = 300_000_000;

/// How samples are dealt between champion and challenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The challenger.
    pub challenger: Digest,
    /// Percent of the samples it answers.
    pub share: u8,
    /// Whether sources are on one side for the whole stage, not for five minutes.
    pub by_source: bool,
    /// Differs from trial to trial, so that not the same sources bear every trial.
    pub salt: u64,
}

impl Route {
    /// Whether the challenger answers a sample of `source` that arrived at `at`. A larger share takes all that a smaller one took.
    #[must_use]
    pub fn takes(&self, source: &str, at: Timestamp) -> bool {
        let slot = if self.by_source { 0 } else { at.0.div_euclid(SLOT_US) };
        let mixed = mix(hash(source) ^ mix(self.salt ^ slot.cast_unsigned()));
        mixed % 100 < u64::from(self.share)
    }
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
        Route { challenger: Digest::of(b"challenger"), share, by_source, salt: 7 }
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
    fn shares_come_out_over_sources_and_over_slots_of_a_single_source() {
        for share in [1_u8, 10, 50] {
            let all = 20_000_i64;
            let sources = (0..all).filter(|number| route(share, true).takes(&number.to_string(), Timestamp(0))).count();
            let slots = (0..all).filter(|slot| route(share, false).takes("one", Timestamp(slot * SLOT_US))).count();
            let expected = usize::from(share) * 200;
            let near = |count: usize| count.abs_diff(expected) < 30 + expected / 20;
            assert!(near(sources) && near(slots), "{share}: {sources} sources, {slots} slots");
        }
        let within = |at: i64| route(50, false).takes("one", Timestamp(at));
        assert_eq!(within(0), within(SLOT_US - 1));
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
