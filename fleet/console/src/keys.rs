//! `hone-fleet keygen`: keys that sign commands. The secret half stays in a file of its owner.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use fleet_protocol::keys::KeyId;
use serde_json::json;

use crate::Global;
use crate::exit::{Exit, Fail};

/// Arguments of `hone-fleet keygen`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet keygen ada.key\n\n\
    Put the printed line into [mqtt] of every device that shall obey, with the roles its holder has.\n\n\
    JSON keys: key_id, public, file.")]
pub(crate) struct Args {
    /// File for the secret key, mode 0600; it must not be there yet
    file: PathBuf,
}

/// Draws a key, writes its secret half and prints the public one.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let mut seed = [0; 32];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed))?;
    let key = SigningKey::from_bytes(&seed);
    write(&args.file, &format!("{}\n", STANDARD.encode(seed)))?;
    let (public, id) = (STANDARD.encode(key.verifying_key().as_bytes()), KeyId::of(&key.verifying_key()));
    if global.json {
        println!("{}", json!({"key_id": id, "public": public, "file": args.file}));
    } else {
        println!("key {id}, secret half in {}", args.file.display());
        println!("trust = [{{ public = \"{public}\", roles = [\"operator\"] }}]");
    }
    Ok(Exit::Ok)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = |error: io::Error| {
        let fail = Fail::new(Exit::Disk, format!("cannot write {}: {error}", path.display()));
        if error.kind() == io::ErrorKind::AlreadyExists {
            fail.hint("a key is never overwritten: name another file")
        } else {
            fail
        }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(())
}

/// Reads the secret half of a key.
pub(crate) fn read(path: &Path) -> Result<SigningKey> {
    let input = |reason: String| {
        let fail = Fail::new(Exit::Input, format!("{}: {reason}", path.display()));
        fail.hint("name a secret key; `hone-fleet keygen FILE` makes one")
    };
    let text = fs::read_to_string(path).map_err(|error| input(error.to_string()))?;
    let seed = STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let seed = seed.ok_or_else(|| input("no secret key".to_owned()))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// The secret halves of several.
pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Vec<SigningKey>> {
    paths.iter().map(|path| read(path)).collect()
}
