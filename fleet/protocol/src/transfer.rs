//! How a bundle travels in chunks: which pieces a device has, which it wants, and what a piece must look like.
//!
//! ```text
//! model.install ─► executing, want 0-3 ─► chunks … ─► executing, want 2-2 ─► chunk 2 ─► digest fits ─► successful
//!                        ▲ told again in a lull and after every restart        └ does not: all thrown away, failed
//! ```
//! The device asks, the sender answers: so a transfer goes on after any loss, wherever it was lost. Behind the last piece comes the
//! bundle's signature, as a piece of its own.
use serde::{Deserialize, Serialize};

use crate::CHUNK_BYTES_MAX;

/// Largest bundle that is taken over the network.
pub const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// Most ranges of wanted pieces that are told at once; the rest is told when these have come.
pub const RANGES_MAX: usize = 16;

/// What a device tells of a transfer, under `transfer` in the status of its command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Pieces that are stored.
    pub have: u32,
    /// Pieces there are.
    pub chunks: u32,
    /// Pieces that are missing: first and last of each range, at most [`RANGES_MAX`] ranges. The one behind the last is the
    /// signature.
    pub want: Vec<[u32; 2]>,
}

/// Bytes of piece `index` of a bundle; none if there is no such piece.
#[must_use]
pub fn chunk_bytes(size_bytes: u64, index: u32) -> Option<usize> {
    let from = u64::from(index).checked_mul(CHUNK_BYTES_MAX as u64)?;
    let left = size_bytes.checked_sub(from).filter(|left| *left > 0)?;
    usize::try_from(left.min(CHUNK_BYTES_MAX as u64)).ok()
}

/// How many pieces a bundle has.
#[must_use]
pub fn chunks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CHUNK_BYTES_MAX as u64).max(1)
}

/// Which pieces are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Those of the bundle, and the signature.
    stored: Vec<bool>,
    size_bytes: u64,
}

impl Pieces {
    /// A bundle of which nothing is stored; none if it is larger than is taken, or empty.
    #[must_use]
    pub fn new(size_bytes: u64) -> Option<Self> {
        if size_bytes == 0 || size_bytes > BUNDLE_BYTES_MAX {
            return None;
        }
        let count = usize::try_from(chunks(size_bytes)).ok()?;
        Some(Self { stored: vec![false; count + 1], size_bytes })
    }

    /// Where the signature is: behind the last piece.
    #[must_use]
    pub fn signature(&self) -> u32 {
        u32::try_from(self.stored.len() - 1).unwrap_or(u32::MAX)
    }

    /// Whether `index` with so many bytes is a piece that is missing.
    #[must_use]
    pub fn wants(&self, index: u32, bytes: usize) -> bool {
        let missing = usize::try_from(index).ok().and_then(|index| self.stored.get(index)) == Some(&false);
        let fits = match chunk_bytes(self.size_bytes, index) {
            Some(length) => bytes == length,
            None => index == self.signature() && (1..=CHUNK_BYTES_MAX).contains(&bytes),
        };
        missing && fits
    }

    /// A piece is stored.
    pub fn store(&mut self, index: u32) {
        if let Some(stored) = usize::try_from(index).ok().and_then(|index| self.stored.get_mut(index)) {
            *stored = true;
        }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.stored.iter().all(|stored| *stored)
    }

    /// What to tell.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut want: Vec<[u32; 2]> = Vec::new();
        for (index, _) in (0..).zip(&self.stored).filter(|(_, stored)| !**stored) {
            if let Some([_, last]) = want.last_mut().filter(|[_, last]| *last + 1 == index) {
                *last = index;
            } else if want.len() < RANGES_MAX {
                want.push([index, index]);
            } else {
                break;
            }
        }
        let (_, pieces) = self.stored.split_last().unwrap_or((&false, &[]));
        let have = pieces.iter().filter(|stored| **stored).count();
        Progress { have: u32::try_from(have).unwrap_or(u32::MAX), chunks: self.signature(), want }
    }
}

impl Progress {
    /// The wanted pieces, one by one, `chunks` for the signature; what does not belong to a bundle of so many pieces is passed over.
    pub fn wanted(&self, chunks: u32) -> impl Iterator<Item = u32> + '_ {
        let most = chunks.saturating_add(1);
        self.want.iter().take(RANGES_MAX).flat_map(move |[first, last]| *first..(last.saturating_add(1)).min(most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_piece_is_what_is_left_and_nothing_comes_after_it() {
        let chunk = CHUNK_BYTES_MAX as u64;
        assert_eq!(chunk_bytes(chunk + 1, 0), Some(CHUNK_BYTES_MAX));
        assert_eq!((chunk_bytes(chunk + 1, 1), chunk_bytes(chunk + 1, 2)), (Some(1), None));
        assert_eq!((chunk_bytes(chunk, 1), chunk_bytes(u64::MAX, u32::MAX)), (None, Some(CHUNK_BYTES_MAX)));
        assert_eq!((Pieces::new(0), Pieces::new(BUNDLE_BYTES_MAX + 1)), (None, None));
    }

    #[test]
    fn a_piece_of_the_wrong_length_or_one_that_is_stored_is_not_wanted() {
        let mut pieces = Pieces::new(CHUNK_BYTES_MAX as u64 + 5).unwrap();
        assert!(pieces.wants(0, CHUNK_BYTES_MAX) && pieces.wants(1, 5));
        assert!(!pieces.wants(0, 5) && !pieces.wants(1, 4) && !pieces.wants(3, 5) && !pieces.wants(u32::MAX, 5));
        pieces.store(1);
        assert!(!pieces.wants(1, 5) && !pieces.is_whole());
        assert_eq!(pieces.progress(), Progress { have: 1, chunks: 2, want: vec![[0, 0], [2, 2]] });
        pieces.store(0);
        // The signature may have any length that a piece may have.
        assert!(!pieces.is_whole() && pieces.wants(2, 1) && pieces.wants(2, CHUNK_BYTES_MAX));
        assert!(!pieces.wants(2, 0) && !pieces.wants(2, CHUNK_BYTES_MAX + 1));
        pieces.store(2);
        assert!(pieces.is_whole());
        assert_eq!(pieces.progress(), Progress { have: 2, chunks: 2, want: vec![] });
    }

    proptest! {
        #[test]
        fn whoever_sends_what_is_wanted_ends(lost in prop::collection::vec(any::<bool>(), 100)) {
            let mut pieces = Pieces::new(100 * CHUNK_BYTES_MAX as u64).unwrap();
            (0..100).zip(&lost).filter(|(_, lost)| !**lost).for_each(|(index, _)| pieces.store(index));
            let mut rounds = 0;
            while !pieces.is_whole() {
                let progress = pieces.progress();
                prop_assert!(progress.want.len() <= RANGES_MAX);
                progress.wanted(progress.chunks).for_each(|index| pieces.store(index));
                rounds += 1;
                prop_assert!(rounds <= 5);
            }
        }
    }
}
