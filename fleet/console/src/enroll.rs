//! `hone-fleet enroll`: a folder with everything a new device needs; `hone join FOLDER` installs it there.
use std::path::PathBuf;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_protocol::keys::{KeySet, Role};
use fleet_protocol::names::{DeviceId, Name};
use serde_json::{Value, json};

use crate::Global;
use crate::authority::{Authority, Purpose, folder, write_new};
use crate::exit::{Exit, Fail};

/// Arguments of `hone-fleet enroll`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone-fleet enroll press-07 --authority ./fleet --broker mqtts://broker.example \\\n    \
    --trust BASE64=operator,admin --group hall-3 --out ./press-07\n\n\
    Bring the folder to the device and run `hone join ./press-07` there; then remove it here, it holds the device's key.\n\n\
    JSON keys: device, folder, broker."
)]
pub(crate) struct Args {
    /// The device: 1 to 64 of a-z, 0-9 and `-`
    device: DeviceId,
    /// Folder of the authority, as `hone-fleet broker write` makes it
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// Folder to write [default: the device's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A key the device shall obey, and what its holder may do; may be repeated
    #[arg(long, value_name = "PUBLIC=ROLE,…", value_parser = trust)]
    trust: Vec<Trust>,
    /// A group it belongs to; may be repeated
    #[arg(long, value_name = "NAME")]
    group: Vec<Name>,
}

/// A key and its roles.
#[derive(Clone, Debug)]
struct Trust {
    public: String,
    roles: Vec<Role>,
}

fn trust(text: &str) -> Result<Trust, String> {
    // Base64 ends in `=` itself: the last one separates.
    let (public, roles) =
        text.rsplit_once('=').ok_or("write PUBLIC=ROLE, with the key as `hone-fleet keygen` prints it")?;
    let bytes = STANDARD.decode(public).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| format!("`{public}` is not 32 bytes in base64"))?;
    let role = |word: &str| {
        serde_json::from_value::<Role>(Value::from(word)).map_err(|_| format!("`{word}` is no role: operator or admin"))
    };
    let roles: Vec<Role> = roles.split(',').map(role).collect::<Result<_, _>>()?;
    KeySet::default().trust(&bytes, &roles).map_err(|error| error.to_string())?;
    Ok(Trust { public: public.to_owned(), roles })
}

/// Writes the folder.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    if !global.broker.tls {
        return Err(
            Fail::new(Exit::Usage, "a device is enrolled with an encrypted broker: --broker mqtts://HOST").into()
        );
    }
    let authority = Authority::open(&args.authority)?;
    let out = folder(&args.out.clone().unwrap_or_else(|| PathBuf::from(args.device.as_str())))?;
    let issued = authority.issue(args.device.as_str(), Purpose::Client)?;
    let trust: Vec<_> = args.trust.iter().map(|trust| json!({"public": trust.public, "roles": trust.roles})).collect();
    let settings = json!({"mqtt": {
        "broker": global.broker.to_string(), "device": args.device, "groups": args.group, "trust": trust,
    }});
    write_new(&out.join("ca.pem"), &authority.certificate, 0o644)?;
    write_new(&out.join("device.pem"), &issued.certificate, 0o644)?;
    write_new(&out.join("device.key"), &issued.key, 0o600)?;
    write_new(&out.join("fleet.toml"), &toml::to_string(&settings)?, 0o644)?;
    if global.json {
        println!("{}", json!({"device": args.device, "folder": out, "broker": global.broker.to_string()}));
    } else {
        println!("{} is enrolled: bring {} to it, and run `hone join` there", args.device, out.display());
        if args.trust.is_empty() {
            println!("it will obey nobody: name keys with --trust to steer it");
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_given_with_its_roles_and_a_weak_or_unknown_one_is_refused() {
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let public = STANDARD.encode(key.verifying_key().as_bytes());
        let found = trust(&format!("{public}=operator,admin")).unwrap();
        assert_eq!((found.public, found.roles), (public.clone(), vec![Role::Operator, Role::Admin]));
        for wrong in
            [public.as_str(), "x=operator", &format!("{public}=king"), &format!("{}=admin", STANDARD.encode([0; 32]))]
        {
            assert!(trust(wrong).is_err(), "{wrong}");
        }
    }
}
