//! Which stored things may go when they take too many bytes.
pub mod partitions;

use trainer_core::digest::Digest;

/// A stored thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// When it was written, microseconds since 1970.
    pub written_us: u64,
    /// Whether it must stay whatever it takes: it belongs to the champion, to the previous model or to unfinished work.
    pub pinned: bool,
}

/// The ones that have to go so that the rest takes at most `bytes_max`, oldest first; the newest and the pinned ones stay even
/// if they take more.
#[must_use]
pub fn surplus(held: &[Held], bytes_max: u64) -> Vec<Digest> {
    let mut oldest_first: Vec<&Held> = held.iter().collect();
    oldest_first.sort_by_key(|held| (held.written_us, held.digest));
    let mut total: u64 = held.iter().map(|held| held.bytes).sum();
    let newest = oldest_first.pop();
    let mut gone = Vec::new();
    for held in oldest_first.into_iter().filter(|held| !held.pinned) {
        if total <= bytes_max {
            break;
        }
        total -= held.bytes;
        gone.push(held.digest);
    }
    debug_assert!(newest.is_none_or(|newest| !gone.contains(&newest.digest)), "the newest stays");
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(name: &str, bytes: u64, written_us: u64, pinned: bool) -> Held {
        Held { digest: Digest::of(name.as_bytes()), bytes, written_us, pinned }
    }

    fn names(held: &[Held], bytes_max: u64) -> usize {
        surplus(held, bytes_max).len()
    }

    #[test]
    fn the_oldest_go_first_until_the_rest_fits() {
        let all = [held("c", 10, 3, false), held("a", 10, 1, false), held("b", 10, 2, false)];
        assert_eq!(surplus(&all, 30), []);
        assert_eq!(surplus(&all, 29), [Digest::of(b"a")]);
        assert_eq!(surplus(&all, 10), [Digest::of(b"a"), Digest::of(b"b")]);
    }

    #[test]
    fn the_newest_and_what_is_pinned_stay_whatever_they_take() {
        let all = [held("a", 10, 1, true), held("b", 10, 2, false), held("c", 10, 3, false)];
        assert_eq!(surplus(&all, 0), [Digest::of(b"b")]);
        assert_eq!(names(&[held("a", 10, 1, false)], 0), 0);
        assert_eq!(names(&[], 0), 0);
    }
}
