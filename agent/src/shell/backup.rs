//! Backup and restore of the state directory: one archive, made while the agent runs, checked before anything is replaced.
//!
//! ```text
//! hone-backup.json                  what is in it: format, sizes, digests, the next numbers of records and labels
//! models/<sha256>.…                 bundles and their signatures
//! continual/…                       heads that learn from every label, and which of them answered under which number
//! records/…, snapshots/…            with `--records`
//! control.db                        state, reports, ledger, lineage, outbox
//! ```
//!
//! Keys are not in it: a backup is carried around, and two devices must not speak with one voice. What a restore does not
//! bring stays as it is: keys, floors of replayed orders, and records if the backup has none.
mod tar;

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::decide::time::Timestamp;
use crate::shell::clock::shown;
use crate::shell::files::{create_private_folder, rename_durable, suffixed, sync_folder};
use crate::shell::lock::Lock;
use crate::shell::store::{
    Control, FileSettings, RecordReader, RecordWriter, StoreError, copy_database, keep_replay_floors,
};

/// Format of the archive.
const FORMAT: u32 = 1;
const MANIFEST: &str = "hone-backup.json";
/// Bytes of a manifest: a hundred per file, and more files than a device has.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Where an archive is unpacked, inside the state directory: what is then renamed must be on the same disk.
const UNPACKED: &str = "restore.unfinished";
const CONTROL: &str = "control.db";
/// Folders of the state directory that files of an archive may lie in.
const FOLDERS: [&str; 4] = ["models", "records", "snapshots", "continual"];

/// Why there is no backup, or why it is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A database or the state directory.
    #[error("{}", .0.chain())]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no state to back up.
    #[error("there is no state in {0}: no agent has run there")]
    Nothing(PathBuf),
    /// The archive is none, or damaged.
    #[error("{path} cannot be restored: {reason}")]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer hone made it.
    #[error(
        "{path} was made by hone {version} in format {format}, this hone knows up to {FORMAT}: install the newer hone first"
    )]
    Newer {
        /// The archive.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// Who made it.
        version: String,
    },
    /// There is a state already.
    #[error("{0} holds a state already")]
    Taken(PathBuf),
}

/// What is in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of the archive.
    pub format: u32,
    /// The hone that made it.
    pub version: String,
    /// When, as the device's clock said.
    pub created_at: String,
    /// Numbers that the next record and the next label get at least.
    pub next_seq: i64,
    /// See `next_seq`.
    pub next_ordinal: i64,
    /// The files behind this one, in their order.
    pub files: Vec<Entry>,
}

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path below the state directory.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// sha-256, hexadecimal.
    pub sha256: String,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { action, path, source }
}

/// Writes the state in `state_dir` to the new archive `to`, also while an agent uses it; with records and snapshots if asked for.
///
/// # Errors
/// [`BackupError`]; `to` is not there then, or as it was.
pub fn back_up(state_dir: &Path, to: &Path, with_records: bool, now: Timestamp) -> Result<Manifest, BackupError> {
    if !state_dir.join(CONTROL).is_file() {
        return Err(BackupError::Nothing(state_dir.to_owned()));
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Beside the archive: the card that is backed up may be full.
    let copies = tempfile::tempdir_in(folder).map_err(failed("write in", folder))?;
    let (next_seq, next_ordinal) = RecordReader::open(&state_dir.join("records")).next_numbers().unwrap_or((1, 1));
    let mut files: Vec<(String, PathBuf)> = listed(state_dir, "models", &["safetensors", "dsse"])?;
    // Copied: the agent replaces one and appends to the others.
    for (name, path) in all_of(state_dir, "continual")? {
        let copy = copies.path().join(name.replace('/', "-"));
        match fs::copy(&path, &copy) {
            Ok(_) => files.push((name, copy)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("copy", &path)(error)),
        }
    }
    if with_records {
        files.extend(listed(state_dir, "snapshots", &["snapshot"])?);
        for (name, path) in listed(state_dir, "records", &["db"])? {
            let copy = copies.path().join(name.replace('/', "-"));
            match copy_database(&path, &copy) {
                Ok(()) => files.push((name, copy)),
                // Thinned or dropped meanwhile; what is left of it has another name and comes with the next backup.
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    // The state last: it must not speak of models that came after the list was made.
    let control = copies.path().join(CONTROL);
    copy_database(&state_dir.join(CONTROL), &control)?;
    files.push((CONTROL.to_owned(), control));

    let mut entries = Vec::with_capacity(files.len());
    for (name, path) in &files {
        let mut file = File::open(path).map_err(failed("read", path))?;
        let (bytes, sha256) = digest(&mut file, &mut io::sink()).map_err(failed("read", path))?;
        entries.push(Entry { name: name.clone(), bytes, sha256 });
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let manifest = Manifest { format: FORMAT, version, created_at: shown(now), next_seq, next_ordinal, files: entries };
    let unfinished = tempfile::NamedTempFile::new_in(folder).map_err(failed("write in", folder))?;
    write(&unfinished, &manifest, &files).map_err(failed("write", to))?;
    unfinished.persist(to).map_err(|error| failed("write", to)(error.error))?;
    sync_folder(folder).map_err(failed("sync", folder))?;
    Ok(manifest)
}

fn write(to: &tempfile::NamedTempFile, manifest: &Manifest, files: &[(String, PathBuf)]) -> io::Result<()> {
    let mut writer = BufWriter::new(to.as_file());
    let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other)?;
    tar::write_file(&mut writer, MANIFEST, text.len() as u64, &mut text.as_slice())?;
    for (entry, (_, path)) in manifest.files.iter().zip(files) {
        tar::write_file(&mut writer, &entry.name, entry.bytes, &mut File::open(path)?)?;
    }
    tar::finish(&mut writer)?;
    writer.flush()?;
    drop(writer);
    to.as_file().sync_all()
}

/// Files of a folder of the state directory with one of the endings, by name.
fn listed(state_dir: &Path, folder: &str, endings: &[&str]) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let ending =
        |path: &Path| path.extension().and_then(|ending| ending.to_str()).is_some_and(|end| endings.contains(&end));
    Ok(all_of(state_dir, folder)?.into_iter().filter(|(_, path)| ending(path)).collect())
}

/// Files of a folder of the state directory by name, but for hidden ones.
fn all_of(state_dir: &Path, folder: &str) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let path = state_dir.join(folder);
    let mut found = Vec::new();
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(failed("list", &path))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", &path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push((format!("{folder}/{name}"), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Copies everything and returns its size and digest.
fn digest(from: &mut impl Read, to: &mut impl io::Write) -> io::Result<(u64, String)> {
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 64 << 10], 0);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        bytes += read as u64;
    }
    Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Puts the state of the archive `from` into `state_dir`. A state that is there already is refused, or, with `replace`, kept
/// beside it in `before-restore-<n>`.
///
/// Everything is unpacked and checked first. The state itself comes last: a restore that was cut off leaves either no state,
/// and is done again, or the restored one.
///
/// # Errors
/// [`BackupError`]; nothing was replaced, unless the disk refused in the middle of it.
pub fn restore(from: &Path, state_dir: &Path, replace: bool, now: Timestamp) -> Result<Manifest, BackupError> {
    let mut reader = BufReader::new(File::open(from).map_err(failed("read", from))?);
    let manifest = read_manifest(from, &mut reader)?;
    create_private_folder(state_dir).map_err(failed("create", state_dir))?;
    let _lock = Lock::take(state_dir, &state_dir.join("lock"))?;
    let taken = state_dir.join(CONTROL).exists();
    if taken && !replace {
        return Err(BackupError::Taken(state_dir.to_owned()));
    }
    let unpacked = state_dir.join(UNPACKED);
    let _ = fs::remove_dir_all(&unpacked);
    let result = unpack(from, &mut reader, &manifest, &unpacked).and_then(|()| {
        let control = unpacked.join(CONTROL);
        // Brings an older one to this layout, and refuses a newer one by name.
        if let (_, Some(aside)) = Control::open(&control)? {
            return Err(BackupError::Damaged { path: from.to_owned(), reason: aside.reason });
        }
        if taken && let Err(error) = keep_replay_floors(&control, &state_dir.join(CONTROL)) {
            // The old one may be what is damaged: that is why somebody restores.
            tracing::warn!(error = %error.chain(), "the old state tells nothing of the orders it had seen");
        }
        replace_by(state_dir, &unpacked, &manifest)
    });
    let _ = fs::remove_dir_all(&unpacked);
    result?;
    if !manifest.files.iter().any(|entry| entry.name.starts_with("records/")) {
        let (mut records, _) = RecordWriter::open(&state_dir.join("records"), FileSettings::default())?;
        records.go_on_behind(manifest.next_seq, manifest.next_ordinal, now)?;
    }
    Ok(manifest)
}

fn read_manifest(from: &Path, reader: &mut BufReader<File>) -> Result<Manifest, BackupError> {
    let damaged = |reason: String| BackupError::Damaged { path: from.to_owned(), reason };
    let bytes = match tar::next_file(reader).map_err(|error| damaged(error.to_string()))? {
        Some((name, bytes)) if name == MANIFEST && bytes <= MANIFEST_BYTES_MAX => bytes,
        _ => return Err(damaged(format!("it does not begin with {MANIFEST}"))),
    };
    let mut text = Vec::new();
    reader.take(bytes).read_to_end(&mut text).map_err(failed("read", from))?;
    tar::skip_padding(reader, bytes).map_err(|error| damaged(error.to_string()))?;
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    // Before the rest is understood: a newer one may say it in another form.
    let format = value["format"].as_u64().and_then(|format| u32::try_from(format).ok()).unwrap_or(0);
    if format > FORMAT {
        let version = value["version"].as_str().unwrap_or("?").to_owned();
        return Err(BackupError::Newer { path: from.to_owned(), format, version });
    }
    serde_json::from_value(value).map_err(|error| damaged(error.to_string()))
}

fn unpack(from: &Path, reader: &mut BufReader<File>, manifest: &Manifest, to: &Path) -> Result<(), BackupError> {
    let damaged = |reason: String| BackupError::Damaged { path: from.to_owned(), reason };
    for folder in [""].iter().chain(&FOLDERS) {
        let folder = to.join(folder);
        create_private_folder(&folder).map_err(failed("create", &folder))?;
    }
    for entry in &manifest.files {
        let found = tar::next_file(reader).map_err(|error| damaged(error.to_string()))?;
        if found.as_ref() != Some(&(entry.name.clone(), entry.bytes)) || !is_ours(&entry.name) {
            return Err(damaged(format!("`{}` is not where its list says", entry.name)));
        }
        let path = to.join(&entry.name);
        let mut file = File::create(&path).map_err(failed("write", &path))?;
        let (bytes, sha256) = digest(&mut reader.take(entry.bytes), &mut file).map_err(failed("write", &path))?;
        if (bytes, &sha256) != (entry.bytes, &entry.sha256) {
            return Err(damaged(format!("the bytes of `{}` are not those that were written", entry.name)));
        }
        file.rewind().and_then(|()| file.sync_all()).map_err(failed("sync", &path))?;
        tar::skip_padding(reader, entry.bytes).map_err(|error| damaged(error.to_string()))?;
    }
    if to.join(CONTROL).exists() { Ok(()) } else { Err(damaged("it holds no state".to_owned())) }
}

/// A name that this hone writes: nothing leads out of the state directory.
fn is_ours(name: &str) -> bool {
    let plain = |part: &str| {
        !part.starts_with('.')
            && !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match name.split_once('/') {
        None => name == CONTROL,
        Some((folder, file)) => FOLDERS.contains(&folder) && plain(file),
    }
}

fn replace_by(state_dir: &Path, unpacked: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let has_records = manifest.files.iter().any(|entry| entry.name.starts_with("records/"));
    let names = |prefix: &'static str| {
        manifest.files.iter().map(|entry| &entry.name).filter(move |name| name.starts_with(prefix))
    };
    // Content-addressed: what is there under that name is the same, or damaged and better replaced.
    for name in names("models/").chain(names("snapshots/")) {
        move_file(&unpacked.join(name), &state_dir.join(name))?;
    }
    let kept = (1..=u32::MAX)
        .map(|n| state_dir.join(format!("before-restore-{n}")))
        .find(|path| !path.exists())
        .expect("names without end");
    let mut aside: Vec<PathBuf> = ["", "-wal", "-shm"].map(|end| suffixed(Path::new(CONTROL), end)).into();
    if has_records {
        aside.push(PathBuf::from("records"));
    }
    // Heads of another past: labels have other numbers there.
    aside.push(PathBuf::from("continual"));
    for name in aside.iter().filter(|name| state_dir.join(name).exists()) {
        create_private_folder(&kept).map_err(failed("create", &kept))?;
        move_file(&state_dir.join(name), &kept.join(name))?;
    }
    for name in names("records/").chain(names("continual/")) {
        move_file(&unpacked.join(name), &state_dir.join(name))?;
    }
    // Opened a moment ago, so its log is written home.
    move_file(&unpacked.join(CONTROL), &state_dir.join(CONTROL))
}

fn move_file(from: &Path, to: &Path) -> Result<(), BackupError> {
    if let Some(folder) = to.parent() {
        create_private_folder(folder).map_err(failed("create", folder))?;
    }
    rename_durable(from, to).map_err(failed("write", to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::store::samples::{label, record};
    use crate::shell::store::{CycleRow, LabelOutcome, ReportRow, StateDir};

    const NOW: Timestamp = Timestamp(1_795_221_600_000_000);

    /// A state with a model, five records, three labels and a report; still open, as a running agent's.
    fn state(path: &Path) -> StateDir {
        let mut state = StateDir::open(path).unwrap();
        state.models.put(b"bundle").unwrap();
        state.snapshots.put(b"rows").unwrap();
        fs::create_dir_all(path.join("continual")).unwrap();
        fs::write(path.join("continual/heads"), "sums").unwrap();
        let rows: Vec<_> = (1..=5).map(|number| record(number, NOW)).collect();
        state.records.commit(&rows, &[1, 2, 3].map(|number| label(number, "lab", 1.0))).unwrap();
        let report = ReportRow { id: ulid::Ulid::from(7_u128), kind: "drift".into(), json: "{}".into(), at: NOW };
        let cycle = CycleRow { generation: 4, state: b"{}".to_vec() };
        state.control.commit(&cycle, &[report], &[], &[]).unwrap();
        state
    }

    #[test]
    fn a_state_backed_up_while_it_is_in_use_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new, file) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("b.tar"));
        let running = state(&old);
        let made = back_up(&old, &file, true, NOW).unwrap();
        drop(running);
        assert_eq!((made.next_seq, made.next_ordinal), (6, 4));
        assert_eq!(restore(&file, &new, false, NOW).unwrap(), made);
        let mut state = StateDir::open(&new).unwrap();
        assert_eq!(state.set_aside, []);
        assert_eq!(state.control.cycle().unwrap().unwrap().generation, 4);
        assert_eq!(state.control.reports_newest(9).unwrap().len(), 1);
        assert_eq!(state.reader().recent(9, None).unwrap().len(), 5);
        assert_eq!((state.models.list().unwrap().len(), state.snapshots.list().unwrap().len()), (1, 1));
        assert_eq!((state.records.next_seq(), state.records.next_ordinal()), (6, 4));
        let again = state.records.commit(&[], &[label(4, "lab", 1.0)]).unwrap().remove(0);
        assert!(matches!(again, LabelOutcome::Stored { ordinal: 4, .. }), "{again:?}");
        assert!(!new.join(UNPACKED).exists());
        assert_eq!(fs::read_to_string(new.join("continual/heads")).unwrap(), "sums");
    }

    #[test]
    fn without_records_numbers_go_on_behind_those_that_the_state_has_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new, file) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("b.tar"));
        drop(state(&old));
        let made = back_up(&old, &file, false, NOW).unwrap();
        assert!(made.files.iter().all(|entry| !entry.name.starts_with("records/")), "{made:?}");
        restore(&file, &new, false, NOW).unwrap();
        let state = StateDir::open(&new).unwrap();
        assert_eq!((state.records.next_seq(), state.records.next_ordinal()), (6, 4));
        assert_eq!(state.reader().counts().unwrap().records, 0);
    }

    #[test]
    fn a_state_that_is_there_or_in_use_is_not_replaced_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let (old, file) = (folder.path().join("old"), folder.path().join("b.tar"));
        let running = state(&old);
        back_up(&old, &file, true, NOW).unwrap();
        let in_use = restore(&file, &old, true, NOW);
        assert!(matches!(in_use, Err(BackupError::Store(StoreError::InUse { .. }))), "{in_use:?}");
        drop(running);
        assert!(matches!(restore(&file, &old, false, NOW), Err(BackupError::Taken(_))));
        restore(&file, &old, true, NOW).unwrap();
        assert!(old.join("before-restore-1/continual/heads").exists(), "labels had other numbers then");
        assert!(old.join("before-restore-1/control.db").exists() && old.join("before-restore-1/records").is_dir());
        assert_eq!(StateDir::open(&old).unwrap().reader().counts().unwrap().records, 5);
        assert!(matches!(back_up(&folder.path().join("none"), &file, true, NOW), Err(BackupError::Nothing(_))));
    }

    #[test]
    fn a_damaged_or_newer_archive_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new, file) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("b.tar"));
        drop(state(&old));
        back_up(&old, &file, true, NOW).unwrap();
        let good = fs::read(&file).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let error = restore(&file, &new, false, NOW).unwrap_err().to_string();
            assert!(!new.join(CONTROL).exists() && !new.join(UNPACKED).exists(), "{error}");
            error
        };
        // A bit anywhere: in the list, in a header, in the bytes of a model, in the state.
        for at in [600, 520, good.len() / 3, good.len() / 2, good.len() - 3_000] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(refused(&bytes).contains("cannot be restored"), "{at}");
        }
        assert!(refused(&good[..good.len() / 2]).contains("b.tar"));
        assert!(refused(b"no archive").contains("ends too early") && refused(b"").contains("it is empty"));
        let newer = String::from_utf8_lossy(&good[..4_096]).into_owned();
        let at = newer.find("\"format\": 1").unwrap() + 10;
        let mut bytes = good.clone();
        bytes[at] = b'2';
        assert!(refused(&bytes).contains("install the newer hone first"));
        assert!(is_ours("models/ab.safetensors") && is_ours("control.db"));
        for name in ["../x", "models/../x", "/etc/passwd", "models/.x", "lock", "models/a/b", "keys/device"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn orders_that_were_seen_before_a_restore_are_still_known_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let (old, file) = (folder.path().join("old"), folder.path().join("b.tar"));
        drop(state(&old));
        let control = |sql: &str| rusqlite::Connection::open(old.join(CONTROL)).unwrap().execute_batch(sql).unwrap();
        control("INSERT INTO replay VALUES ('a', 5), ('b', 9)");
        back_up(&old, &file, false, NOW).unwrap();
        control(
            "UPDATE replay SET high_water = 8 WHERE key_id = 'a'; UPDATE replay SET high_water = 2 WHERE key_id = 'b'",
        );
        control("INSERT INTO replay VALUES ('c', 1)");
        restore(&file, &old, true, NOW).unwrap();
        let connection = rusqlite::Connection::open(old.join(CONTROL)).unwrap();
        let floor = |key: &str| -> i64 {
            connection.query_row("SELECT high_water FROM replay WHERE key_id = ?1", [key], |row| row.get(0)).unwrap()
        };
        assert_eq!((floor("a"), floor("b"), floor("c")), (8, 9, 1));
    }
}
