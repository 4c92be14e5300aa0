//! `floors.json`: the floors once more, outside of `control.db`, with a checksum and in two generations.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use crate::decide::floors::Floors;
use crate::shell::disk::{self, Disk};
use crate::shell::store::StoreError;

const FILE: &str = "floors.json";
const OLDER: &str = "floors.json.1";

/// As it is written.
#[derive(Serialize, Deserialize)]
struct Sealed {
    generation: u64,
    /// Of generation and floors as JSON.
    sha256: Digest,
    floors: Floors,
}

/// The file and its older generation.
#[derive(Debug)]
pub struct FloorsFile {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    generation: u64,
    stored: Floors,
    /// Whether the newest generation may replace the one before.
    whole: bool,
}

impl FloorsFile {
    /// Reads the newer of both generations that is whole; the second value names what was damaged.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk refuses to read.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> Result<(Self, Vec<PathBuf>), StoreError> {
        let (mut best, mut damaged): (Option<Sealed>, _) = (None, Vec::new());
        for name in [FILE, OLDER] {
            let path = folder.join(name);
            match disk.read(&path) {
                Ok(bytes) => match read(&bytes) {
                    Some(sealed) if best.as_ref().is_some_and(|best| best.generation >= sealed.generation) => {}
                    Some(sealed) => best = Some(sealed),
                    None => damaged.push(path),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(StoreError::io("read", &path, source)),
            }
        }
        let (generation, stored) = best.map_or((0, Floors::default()), |best| (best.generation, best.floors));
        let whole = !damaged.contains(&folder.join(FILE));
        Ok((Self { disk, folder: folder.to_owned(), generation, stored, whole }, damaged))
    }

    /// What it says.
    #[must_use]
    pub fn floors(&self) -> &Floors {
        &self.stored
    }

    /// Stores `floors` if they have changed, keeping the generation before.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk refuses; the older generation is whole then.
    ///
    /// # Panics
    /// Never: floors are plain data.
    pub fn store(&mut self, floors: &Floors) -> Result<(), StoreError> {
        if *floors == self.stored {
            return Ok(());
        }
        let generation = self.generation + 1;
        let sealed = Sealed { generation, sha256: seal(generation, floors), floors: floors.clone() };
        let bytes = serde_json::to_vec_pretty(&sealed).expect("floors are plain data");
        let path = self.folder.join(FILE);
        let written = if self.whole {
            disk::put_keeping(&*self.disk, &path, &self.folder.join(OLDER), &bytes)
        } else {
            disk::put(&*self.disk, &path, &bytes)
        };
        written.map_err(|source| StoreError::io("write", &path, source))?;
        self.whole = true;
        (self.generation, self.stored) = (generation, sealed.floors);
        Ok(())
    }
}

fn read(bytes: &[u8]) -> Option<Sealed> {
    let sealed: Sealed = serde_json::from_slice(bytes).ok()?;
    (seal(sealed.generation, &sealed.floors) == sealed.sha256).then_some(sealed)
}

fn seal(generation: u64, floors: &Floors) -> Digest {
    Digest::of(&serde_json::to_vec(&(generation, floors)).expect("floors are plain data"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::shell::disk::RealDisk;
    use crate::shell::disk::cut::{CutDisk, FATES, lay_out};

    fn floors(epoch: u32) -> Floors {
        Floors { epoch, ..Floors::default() }
    }

    fn open(folder: &Path) -> (FloorsFile, usize) {
        let (file, damaged) = FloorsFile::open(RealDisk::shared(), folder).unwrap();
        (file, damaged.len())
    }

    #[test]
    fn a_damaged_newest_generation_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, _) = open(folder.path());
        (1..=3).for_each(|epoch| file.store(&floors(epoch)).unwrap());
        assert_eq!(open(folder.path()).0.floors().epoch, 3);
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"epoch\": 3", "\"epoch\": 1")).unwrap();
        let (file, damaged) = open(folder.path());
        assert_eq!((file.floors().epoch, damaged), (2, 1), "a changed number has another checksum");
    }

    #[test]
    fn a_cut_at_any_step_loses_at_most_the_floor_that_was_being_stored() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(CutDisk::new());
        let (mut file, _) = FloorsFile::open(Arc::<CutDisk>::clone(&disk), folder.path()).unwrap();
        file.store(&floors(1)).unwrap();
        file.store(&floors(2)).unwrap();
        let from = folder.path().to_owned();
        disk.listen(move |step, memory| {
            for fate in FATES {
                let after = tempfile::tempdir().unwrap();
                lay_out(&memory.after(fate), &from, after.path());
                let found = open(after.path()).0.floors().epoch;
                assert!((2..=3).contains(&found), "{step}: {fate:?} leaves {found}");
            }
        });
        file.store(&floors(3)).unwrap();
    }
}
