//! What of the heads is on the disk: their settled sums, and one line for each head that ever answered.
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trainer_core::adaptive::Mixture;
use trainer_core::digest::Digest;
use trainer_core::horizons::Saved;

use crate::shell::clock::{self, shown};
use crate::shell::files::{create_private_folder, remove_durable, write_durable};
use crate::shell::store::RecordReader;

/// Bytes of lines after which a new file is begun; the one before is kept.
const LINES_BYTES_MAX: u64 = 1 << 20;
/// Layout of the saved heads.
const FORMAT: u32 = 1;
/// Bytes of the digest before the rest.
const DIGEST_BYTES: usize = 32;

/// The folder `continual` of the state directory.
pub(super) struct Folder {
    path: PathBuf,
}

/// Heads as they are saved.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedHeads {
    pub(super) champion: Digest,
    /// Ordinal of the newest label in them.
    pub(super) through: i64,
    pub(super) heads: Saved,
}

/// Who answered when a freeze began, and answers until it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) champion: Digest,
    /// The head beside it, with its number; none if the bare champion answered.
    pub(super) head: Option<(i64, Mixture)>,
}

impl Folder {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    fn heads(&self) -> PathBuf {
        self.path.join("heads")
    }

    fn lines(&self) -> PathBuf {
        self.path.join("adaptations.jsonl")
    }

    fn lines_before(&self) -> PathBuf {
        self.path.join("adaptations.1.jsonl")
    }

    fn held(&self) -> PathBuf {
        self.path.join("held")
    }

    /// Replaces the saved heads.
    pub(super) fn write(&self, heads: &SavedHeads) -> io::Result<()> {
        self.seal(&self.heads(), heads)
    }

    /// The saved heads of `champion`; none if there are none, or they are damaged: records can give them again.
    pub(super) fn read(&self, champion: &Digest) -> Option<SavedHeads> {
        let saved: SavedHeads = unseal(&self.heads(), "they are built anew from the newest labelled records")?;
        (saved.champion == *champion).then_some(saved)
    }

    /// Keeps who answers for as long as a freeze lasts.
    pub(super) fn hold(&self, held: &Held) -> io::Result<()> {
        self.seal(&self.held(), held)
    }

    /// Who answered when the freeze began; none if that is not known.
    pub(super) fn who_is_held(&self) -> Option<Held> {
        unseal(&self.held(), "the newest head answers")
    }

    /// The freeze is over.
    pub(super) fn let_go(&self) -> io::Result<()> {
        if self.held().exists() { remove_durable(&self.held()) } else { Ok(()) }
    }

    fn seal(&self, path: &Path, content: &impl Serialize) -> io::Result<()> {
        create_private_folder(&self.path)?;
        let body = postcard::to_stdvec(&(FORMAT, content)).map_err(io::Error::other)?;
        let mut bytes = Digest::of(&body).as_bytes().to_vec();
        bytes.extend_from_slice(&body);
        write_durable(path, &bytes)
    }

    /// Writes down which head answers under this number from now on.
    pub(super) fn note(&self, number: i64, champion: &Digest, through: i64, head: &Digest) -> io::Result<()> {
        create_private_folder(&self.path)?;
        let path = self.lines();
        if fs::metadata(&path).is_ok_and(|facts| facts.len() >= LINES_BYTES_MAX) {
            fs::rename(&path, self.lines_before())?;
        }
        let line = json!({
            "adaptation": number, "champion": champion, "labels_through": through, "head": head, "at": shown(clock::now()),
        });
        // No fsync: a power cut loses what it loses of the records that name these numbers.
        OpenOptions::new().create(true).append(true).open(path)?.write_all(format!("{line}\n").as_bytes())
    }

    /// The highest number that ever answered.
    pub(super) fn last_number(&self, reader: &RecordReader) -> i64 {
        let of_line = |path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let numbers = text
                .lines()
                .rev()
                .take(2)
                .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["adaptation"].as_i64());
            numbers.max().unwrap_or(0)
        };
        let recorded =
            reader.recent(1, None).ok().and_then(|records| records.first().map(|record| record.record.adaptation));
        of_line(self.lines()).max(of_line(self.lines_before())).max(recorded.unwrap_or(0))
    }
}

/// What a file holds behind its checksum; `instead` says what becomes of it if that is damaged.
fn unseal<T: DeserializeOwned>(path: &Path, instead: &str) -> Option<T> {
    let bytes = fs::read(path).ok()?;
    let whole = bytes.split_at_checked(DIGEST_BYTES).filter(|(digest, body)| Digest::of(body).as_bytes() == *digest);
    let Some((_, body)) = whole else {
        tracing::warn!(path = %path.display(), "the saved heads are damaged: {instead}");
        return None;
    };
    let (format, content): (u32, T) = postcard::from_bytes(body).ok()?;
    (format == FORMAT).then_some(content)
}

#[cfg(test)]
mod tests {
    use trainer_core::horizons::{HorizonSettings, Horizons, Scoring};
    use trainer_core::ridge::{Gram, SolveMemory};

    use super::*;

    #[test]
    fn saved_heads_come_back_whole_for_their_own_champion_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let place = Folder::at(folder.path().join("continual"));
        let champion = Digest::of(b"champion");
        let mut memory = SolveMemory::default();
        let horizons =
            Horizons::new(Gram::new(2, 2), Scoring::Classes, HorizonSettings::default(), &mut memory).unwrap();
        assert!(place.read(&champion).is_none());
        place.write(&SavedHeads { champion, through: 41, heads: horizons.save() }).unwrap();
        let back = place.read(&champion).expect("it was written");
        assert_eq!((back.through, back.heads), (41, horizons.save()));
        assert!(place.read(&Digest::of(b"another")).is_none());
        let mut bytes = fs::read(place.heads()).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(place.heads(), bytes).unwrap();
        assert!(place.read(&champion).is_none(), "damage is found");
    }

    #[test]
    fn who_is_held_outlives_the_agent_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let place = Folder::at(folder.path().join("continual"));
        assert_eq!(place.who_is_held(), None);
        place.let_go().unwrap();
        let head = Mixture { champion: 0.25, head: vec![0.5, f32::MIN_POSITIVE] };
        for head in [Some((7, head)), None] {
            let held = Held { champion: Digest::of(b"champion"), head };
            place.hold(&held).unwrap();
            assert_eq!(place.who_is_held(), Some(held));
        }
        place.let_go().unwrap();
        assert_eq!(place.who_is_held(), None);
    }

    #[test]
    fn every_number_is_on_record_and_none_is_given_twice_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let place = Folder::at(folder.path().join("continual"));
        let reader = RecordReader::open(&folder.path().join("records"));
        assert_eq!(place.last_number(&reader), 0);
        for number in 1..=9_000 {
            place.note(number, &Digest::of(b"champion"), number * 2, &Digest::of(b"head")).unwrap();
        }
        assert_eq!(place.last_number(&reader), 9_000);
        let text = fs::read_to_string(place.lines()).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&last["labels_through"], &last["champion"]), (&json!(18_000), &json!(Digest::of(b"champion"))));
        let bytes = [place.lines(), place.lines_before()].map(|path| fs::metadata(path).unwrap().len());
        assert!(bytes.iter().all(|bytes| *bytes < 2 * LINES_BYTES_MAX), "{bytes:?}");
    }
}
