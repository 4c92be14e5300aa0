//! Which model files may go: what the loop has parted from, that nothing kept refers to, and that is not among the newest.
use std::collections::BTreeSet;

use trainer_core::digest::Digest;

use super::time::Timestamp;

/// Model files that stay although nothing refers to them: the last that were tried, for a look at why they failed.
const NEWEST_KEPT: usize = 2;

/// A model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// What the lineage says of it.
    pub known: Known,
}

/// What the lineage says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: an install that was cut short, or a model of before the state was lost.
    Nothing,
    /// It has a place: champion, previous, factory.
    InUse,
    /// It was refused, retired or judged, and came here then.
    Parted(Timestamp),
}

/// Whose wish a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The loop's own, after a commit: what nobody knows stays, for a lost state may be all that forgot it.
    Routine,
    /// A person's: what nobody knows goes too.
    Command,
}

/// The files that may go, in the order of their names.
#[must_use]
pub fn doomed(stored: &[Stored], kept: &BTreeSet<Digest>, wish: Wish) -> Vec<Digest> {
    let mut parted: Vec<(Timestamp, Digest)> = stored
        .iter()
        .filter_map(|file| if let Known::Parted(at) = file.known { Some((at, file.digest)) } else { None })
        .filter(|(_, digest)| !kept.contains(digest))
        .collect();
    parted.sort_unstable();
    let older = parted.len().saturating_sub(NEWEST_KEPT);
    let unknown = stored.iter().filter(|file| wish == Wish::Command && file.known == Known::Nothing);
    let unknown = unknown.map(|file| file.digest).filter(|digest| !kept.contains(digest));
    let mut doomed: Vec<_> = parted[..older].iter().map(|(_, digest)| *digest).chain(unknown).collect();
    doomed.sort_unstable();
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: u8, known: Known) -> Stored {
        Stored { digest: Digest::of(&[name]), known }
    }

    #[test]
    fn what_is_reachable_or_new_stays_and_what_nobody_knows_goes_only_by_command() {
        let parted = |name: u8, at: i64| file(name, Known::Parted(Timestamp(at)));
        let stored =
            [file(0, Known::InUse), parted(1, 1), parted(2, 2), parted(3, 3), parted(4, 4), file(5, Known::Nothing)];
        let kept = BTreeSet::from([stored[1].digest]);
        assert_eq!(doomed(&stored, &kept, Wish::Routine), [stored[2].digest]);
        let mut by_command = vec![stored[2].digest, stored[5].digest];
        by_command.sort_unstable();
        assert_eq!(doomed(&stored, &kept, Wish::Command), by_command);
        assert_eq!(doomed(&stored[..3], &BTreeSet::new(), Wish::Routine), [], "two are not too many");
    }
}
