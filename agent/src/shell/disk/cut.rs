//! A disk that can be cut: does everything on this machine's disk, and knows what a power cut would leave of it.
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Disk, RealDisk};

/// How kind a power cut is to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing that was not synced is there: names are the old ones, bytes are none.
    Lost,
    /// All names are the new ones, bytes that were not synced are half there.
    Torn,
    /// Everything is there.
    Kept,
}

pub(crate) const FATES: [Fate; 3] = [Fate::Lost, Fate::Torn, Fate::Kept];

/// What is told before each step that changes something.
type Listener = Box<dyn FnMut(&str, &Memory) + Send>;

/// Files as they would be after a cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Bytes now, and whether they are synced.
    files: Vec<(Arc<Vec<u8>>, bool)>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
}

impl Memory {
    /// Every file there is after a cut now.
    pub(crate) fn after(&self, fate: Fate) -> BTreeMap<PathBuf, Vec<u8>> {
        let names = if fate == Fate::Lost { &self.synced_names } else { &self.names };
        let bytes = |index: &usize| {
            let (bytes, synced) = &self.files[*index];
            let kept = match fate {
                _ if *synced => bytes.len(),
                Fate::Lost => 0,
                Fate::Torn => bytes.len() / 2,
                Fate::Kept => bytes.len(),
            };
            bytes[..kept].to_vec()
        };
        names.iter().map(|(path, index)| (path.clone(), bytes(index))).collect()
    }
}

/// The disk.
pub(crate) struct CutDisk {
    memory: Mutex<Memory>,
    listener: Mutex<Option<Listener>>,
}

impl std::fmt::Debug for CutDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CutDisk")
    }
}

impl CutDisk {
    pub(crate) fn new() -> Self {
        Self { memory: Mutex::new(Memory::default()), listener: Mutex::new(None) }
    }

    /// From now on `listener` hears of each step before it is made, with what a cut would leave at that moment.
    pub(crate) fn listen(&self, listener: impl FnMut(&str, &Memory) + Send + 'static) {
        *self.listener.lock().unwrap() = Some(Box::new(listener));
    }

    pub(crate) fn memory(&self) -> Memory {
        self.memory.lock().unwrap().clone()
    }

    fn before(&self, step: &str, path: &Path) {
        let memory = self.memory();
        if let Some(listener) = &mut *self.listener.lock().unwrap() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            listener(&format!("{step} {name}"), &memory);
        }
    }
}

impl Disk for CutDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        RealDisk.length(path)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        RealDisk.names(folder)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.before("write", path);
        RealDisk.create(path, bytes)?;
        let mut memory = self.memory.lock().unwrap();
        memory.files.push((Arc::new(bytes.to_vec()), false));
        let index = memory.files.len() - 1;
        memory.names.insert(path.to_owned(), index);
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.before("sync", path);
        RealDisk.sync(path)?;
        let mut memory = self.memory.lock().unwrap();
        if let Some(index) = memory.names.get(path).copied() {
            memory.files[index].1 = true;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before("rename to", to);
        RealDisk.rename(from, to)?;
        let mut memory = self.memory.lock().unwrap();
        if let Some(index) = memory.names.remove(from) {
            memory.names.insert(to.to_owned(), index);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.before("remove", path);
        RealDisk.remove(path)?;
        self.memory.lock().unwrap().names.remove(path);
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.before("sync folder", folder);
        RealDisk.sync_folder(folder)?;
        let mut memory = self.memory.lock().unwrap();
        let inside = |path: &Path| path.parent() == Some(folder);
        memory.synced_names.retain(|path, _| !inside(path));
        let now: Vec<_> = memory.names.iter().filter(|(path, _)| inside(path)).map(|(p, i)| (p.clone(), *i)).collect();
        memory.synced_names.extend(now);
        Ok(())
    }
}

/// Lays `files`, named from `from`, out below `to`.
pub(crate) fn lay_out(files: &BTreeMap<PathBuf, Vec<u8>>, from: &Path, to: &Path) {
    for (path, bytes) in files {
        let path = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

mod tests {
    use super::super::{put, put_keeping};
    use super::*;

    type Left = (Option<Vec<u8>>, Option<Vec<u8>>);

    /// What every cut during `work` leaves of the file `state`, and of `state.1`.
    fn left(work: impl FnOnce(&dyn Disk, &Path)) -> Vec<Left> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (disk, seen) = (CutDisk::new(), Arc::new(Mutex::new(Vec::new())));
        let (heard, at) = (Arc::clone(&seen), path.clone());
        let note = move |memory: &Memory| {
            for fate in FATES {
                let files = memory.after(fate);
                heard.lock().unwrap().push((files.get(&at).cloned(), files.get(&at.with_extension("1")).cloned()));
            }
        };
        put(&disk, &path, b"old").unwrap();
        let told = note.clone();
        disk.listen(move |_, memory| told(memory));
        work(&disk, &path);
        note(&disk.memory());
        seen.lock().unwrap().clone()
    }

    #[test]
    fn a_cut_at_any_step_leaves_the_old_bytes_or_the_new_ones() {
        let seen = left(|disk, path| put(disk, path, b"new").unwrap());
        assert_eq!(seen.len(), 5 * FATES.len());
        for (state, _) in &seen {
            assert!(matches!(state.as_deref(), Some(b"old" | b"new")), "{state:?}");
        }
        assert!(seen[12..].iter().all(|(state, _)| state.as_deref() == Some(b"new")), "once it returns it is durable");
    }

    #[test]
    fn a_cut_at_any_step_of_two_generations_leaves_one_whole() {
        let seen = left(|disk, path| put_keeping(disk, path, &path.with_extension("1"), b"new").unwrap());
        for (state, older) in &seen {
            let whole = |bytes: &Option<Vec<u8>>| matches!(bytes.as_deref(), Some(b"old" | b"new"));
            assert!(whole(state) || whole(older), "{state:?} {older:?}");
        }
    }

    #[test]
    fn without_the_sync_of_its_bytes_a_renamed_file_may_be_empty() {
        let seen = left(|disk, path| {
            let unfinished = path.with_extension("unfinished");
            disk.create(&unfinished, b"new").unwrap();
            disk.rename(&unfinished, path).unwrap();
            disk.sync_folder(path.parent().unwrap()).unwrap();
        });
        assert!(seen.iter().any(|(state, _)| state.as_deref() == Some(b"")), "this disk would show a missing sync");
    }
}
