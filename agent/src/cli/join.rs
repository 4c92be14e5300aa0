//! `hone join`: installs what `hone-fleet enroll` has made: certificate, key, and the settings of the link.
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Fail};
use crate::config::Config;
use crate::shell::files::{create_private_folder, write_durable};
use crate::shell::paths::CONFIG_FILE;

/// The files of an enrolment.
const FILES: [(&str, u32); 3] = [("ca.pem", 0o644), ("device.pem", 0o644), ("device.key", 0o600)];

/// Arguments of `hone join`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone join ./press-07 && systemctl restart hone\n\n\
    Certificates go to `fleet` beside the configuration file, settings to `conf.d/50-fleet.toml`; the agent must be able to read \
    the key. Remove the folder afterwards.")]
pub struct Args {
    /// Folder that `hone-fleet enroll` has written
    folder: PathBuf,
    /// Replace an earlier enrolment
    #[arg(long)]
    force: bool,
}

/// Checks everything, then installs it.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let main = global.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG_FILE));
    let beside = main.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = std::path::absolute(beside)?;
    let (folder, settings) = (beside.join("fleet"), beside.join("conf.d/50-fleet.toml"));
    if settings.exists() && !args.force {
        return Err(Fail::new(Exit::Refused, format!("this device has joined already: {}", settings.display()))
            .hint("--force replaces the enrolment")
            .into());
    }
    let read = |name: &str| {
        let path = args.folder.join(name);
        fs::read(&path).map_err(|error| {
            Fail::new(Exit::Input, format!("cannot read {}", path.display()))
                .because(error)
                .hint("make the folder with `hone-fleet enroll`")
        })
    };
    let text = String::from_utf8(read("fleet.toml")?).map_err(|error| {
        Fail::new(Exit::Input, "fleet.toml is no text").because(error).hint("make the folder with `hone-fleet enroll`")
    })?;
    let place = |name: &str| toml::Value::from(folder.join(name).display().to_string());
    // Behind the section that it ends with, or the lists in it.
    let paths = format!(
        "[mqtt]\nca_file = {}\ncertificate_file = {}\nkey_file = {}\n",
        place("ca.pem"),
        place("device.pem"),
        place("device.key")
    );
    let text = text.replacen("[mqtt]\n", &paths, 1);
    let config = Config::parse([("fleet.toml", text.as_str())])
        .map_err(|error| Fail::new(Exit::Input, error).hint("make the folder with `hone-fleet enroll`"))?;
    if !config.mqtt.is_on() || config.mqtt.key_file.is_none() {
        return Err(Fail::new(Exit::Input, "fleet.toml names no broker")
            .hint("make the folder with `hone-fleet enroll`")
            .into());
    }
    let files = FILES.iter().map(|(name, mode)| Ok((*name, *mode, read(name)?))).collect::<Result<Vec<_>>>()?;
    let disk = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Fail::new(Exit::Disk, format!("cannot write {path}")).because(error)
    };
    create_private_folder(&folder).map_err(disk(&folder))?;
    for (name, mode, bytes) in files {
        let path = folder.join(name);
        write_durable(&path, &bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(disk(&path))?;
    }
    // Last: an enrolment that was cut short names no file that is missing.
    fs::create_dir_all(beside.join("conf.d")).map_err(disk(&settings))?;
    write_durable(&settings, text.as_bytes())
        .and_then(|()| fs::set_permissions(&settings, fs::Permissions::from_mode(0o644)))
        .map_err(disk(&settings))?;
    let (device, broker) = (&config.mqtt.device, &config.mqtt.broker);
    if global.json {
        println!("{}", json!({"device": device, "broker": broker, "settings": settings, "files": folder}));
    } else {
        println!("joined as {device} at {broker}: restart the agent, then remove {}", args.folder.display());
    }
    Ok(())
}
