//! `hone model sign`, `verify`, `install`: a bundle and the `.dsse` file beside it.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::keys::{KeyId, KeySet, Role, SigningKey};
use fleet_protocol::names::DeviceId;
use fleet_protocol::order::BundleStatement;
use serde_json::json;
use trainer_core::bundle::{self, is_trainable};
use trainer_core::digest::Digest;

use crate::cli::Global;
use crate::cli::ask::{agent, fail, places, short};
use crate::cli::exit::{Exit, Fail};
use crate::shell::disk::{self, RealDisk};
use crate::shell::models::{FLOOR, Refused, envelope_path, read_limited, read_signature, wire_digest};

/// Arguments of `hone model sign`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone model sign model.safetensors --key vendor.key --sequence 7\n\n\
    `hone-fleet keygen vendor.key` makes a key; devices trust its public half by `models.vendor_keys`.")]
pub(super) struct SignArgs {
    /// Bundle
    file: PathBuf,
    /// Secret key, as `hone-fleet keygen` writes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Number of this bundle; above that of every earlier one of the same key
    #[arg(long, value_name = "N")]
    sequence: u64,
    /// Epoch; a higher one voids every bundle of an earlier one, once this one has proven itself on a device
    #[arg(long, value_name = "N", default_value_t = 0)]
    epoch: u32,
    /// Void bundles of an earlier epoch as soon as a device has taken this one; a stored model serves until one of this epoch has
    /// proven itself
    #[arg(long)]
    force_epoch: bool,
    /// As what it is signed
    #[arg(long, value_name = "ROLE", default_value = "vendor", value_parser = ["vendor", "operator"])]
    role: String,
    /// The one device it may serve on [default: any]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The bundle it came from [default: what its manifest says]
    #[arg(long, value_name = "DIGEST")]
    parent: Option<String>,
    /// Tensors a device may change, by name [default: all above the cut, batch-norm statistics, calibration, baseline, golden
    /// outputs]
    #[arg(long, value_name = "TENSOR,…", value_delimiter = ',')]
    trainable: Option<Vec<String>>,
}

/// Arguments of `hone model verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone model verify model.safetensors --trust BASE64\n\n\
    Trusts the keys of the configuration and those named here. Exit code 5 if bundle or signature is refused.")]
pub(super) struct VerifyArgs {
    /// Bundle
    file: PathBuf,
    /// Public key of the vendor, base64; may be repeated
    #[arg(long, value_name = "BASE64")]
    trust: Vec<String>,
    /// The device it is meant for [default: `mqtt.device`]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The vendor's model it was trained from: also compare the tensors a device may not change
    #[arg(long, value_name = "FILE")]
    ancestor: Option<PathBuf>,
}

/// Arguments of `hone model install`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone model install model.safetensors\n\n\
    The gate compares it with the champion; on a device without a model it serves at once. Exit code 9 if it is refused.")]
pub(super) struct InstallArgs {
    /// Bundle; FILE.dsse beside it is handed over with it
    file: PathBuf,
}

pub(super) fn sign(args: &SignArgs, global: &Global) -> Result<()> {
    let bytes = read(&args.file)?;
    let model = bundle::read(&bytes).map_err(|error| refused(&args.file, error))?;
    let digest = Digest::of(&bytes);
    let device = args.device.as_deref().map(str::parse::<DeviceId>).transpose();
    let device = device.map_err(|error| Fail::new(Exit::Usage, error))?;
    let parent = match args.parent.as_deref().map(str::parse::<Digest>).transpose() {
        Ok(parent) => parent.or(model.manifest.parent),
        Err(error) => return Err(Fail::new(Exit::Usage, error).hint("a digest has 64 hexadecimal digits").into()),
    };
    if let Some(names) = &args.trainable {
        let known = bundle::tensor_names(&bytes).map_err(|error| refused(&args.file, error))?;
        // A head that is not there yet may be listed too.
        let strange = |name: &&String| !known.contains(name) && !is_trainable(name, model.manifest.spec.cut);
        if let Some(unknown) = names.iter().find(strange) {
            return Err(Fail::new(Exit::Usage, format!("the bundle has no tensor `{unknown}`"))
                .hint("`hone model verify` lists the default")
                .into());
        }
    }
    let role = if args.role == "operator" { Role::Operator } else { Role::Vendor };
    if args.force_epoch && role != Role::Vendor {
        return Err(Fail::new(Exit::Usage, "only the vendor forces an epoch: leave `--force-epoch` out").into());
    }
    let mut extra = fleet_protocol::Extra::new();
    if args.force_epoch {
        extra.insert(FLOOR.to_owned(), json!(args.epoch));
    }
    let statement = BundleStatement {
        v: fleet_protocol::API,
        digest: wire_digest(&digest),
        sequence: args.sequence,
        parent: parent.as_ref().map(wire_digest),
        epoch: args.epoch,
        role,
        device,
        trainable: args.trainable.clone(),
        extra,
    };
    let key = secret(&args.key)?;
    let path = envelope_path(&args.file);
    disk::put(&RealDisk, &path, &statement.sign(&[&key]).to_json())
        .map_err(|error| Fail::new(Exit::Disk, format!("cannot write {}", path.display())).because(error))?;
    let key_id = KeyId::of(&key.verifying_key());
    if global.json {
        println!("{}", json!({"file": path, "digest": digest, "key_id": key_id, "statement": statement}));
    } else {
        println!("{}: {} signed by key {key_id}, sequence {}", path.display(), digest.short(), args.sequence);
    }
    Ok(())
}

pub(super) fn verify(args: &VerifyArgs, global: &Global) -> Result<()> {
    let (config, _) = places(global)?;
    let mut keys = config.mqtt.keys().map_err(|reason| Fail::new(Exit::Config, reason))?;
    config.models.trust(&mut keys).map_err(|reason| Fail::new(Exit::Config, reason))?;
    for public in &args.trust {
        trust(&mut keys, public)?;
    }
    let bytes = read(&args.file)?;
    let model = bundle::read(&bytes).map_err(|error| refused(&args.file, error))?;
    let path = envelope_path(&args.file);
    let device = match args.device.as_deref().map(str::parse::<DeviceId>).transpose() {
        Ok(device) => device.or_else(|| config.mqtt.device.parse().ok()),
        Err(error) => return Err(Fail::new(Exit::Usage, error).into()),
    };
    let envelope = fs::read(&path).map_err(|error| {
        Fail::new(Exit::Bundle, format!("unsigned: there is no {}", path.display()))
            .because(error)
            .hint("sign it with `hone model sign`")
    })?;
    let (statement, standing) =
        read_signature(&envelope, Digest::of(&bytes), &keys, device.as_ref()).map_err(|error| refused(&path, error))?;
    let cut = model.manifest.spec.cut;
    let names = bundle::tensor_names(&bytes).map_err(|error| refused(&args.file, error))?;
    let may = |name: &&String| {
        statement.trainable.as_ref().map_or_else(|| is_trainable(name, cut), |listed| listed.contains(*name))
    };
    let trainable: Vec<_> = names.iter().filter(may).collect();
    if let Some(ancestor) = &args.ancestor {
        let theirs = read(ancestor)?;
        let listed = fs::read(envelope_path(ancestor)).ok();
        let listed = listed.and_then(|text| read_signature(&text, Digest::of(&theirs), &keys, device.as_ref()).ok());
        let listed = listed.and_then(|(statement, _)| statement.trainable);
        let differs = bundle::frozen_difference(&theirs, &bytes, listed.as_deref());
        if let Some(tensor) = differs.map_err(|error| refused(ancestor, error))? {
            return Err(refused(&args.file, Refused::Frozen { tensor, ancestor: Digest::of(&theirs) }).into());
        }
    }
    if global.json {
        println!("{}", json!({"standing": standing.as_str(), "statement": statement, "trainable": trainable}));
        return Ok(());
    }
    println!("{}  {}", args.file.display(), standing.sentence());
    println!("digest      {}", statement.digest);
    let forced = if statement.extra.contains_key(FLOOR) { ", earlier ones are void at once" } else { "" };
    println!("sequence    {}, epoch {}{forced}", statement.sequence, statement.epoch);
    println!("device      {}", statement.device.map_or_else(|| "any".to_owned(), |device| device.to_string()));
    println!("trainable   {}", trainable.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "));
    Ok(())
}

pub(super) fn install(args: &InstallArgs, global: &Global) -> Result<()> {
    let bytes = read(&args.file)?;
    let path = match fs::read(envelope_path(&args.file)) {
        Ok(envelope) => format!("/v1/models?signature={}", URL_SAFE_NO_PAD.encode(envelope)),
        Err(_) => "/v1/models".to_owned(),
    };
    let client = agent(global)?;
    let answer = client.post(&path, bytes).map_err(fail)?;
    if answer["installed"] == true {
        if global.json {
            println!("{answer}");
        } else {
            println!("model {} serves: this device had none", short(&answer["digest"]));
        }
        return Ok(());
    }
    crate::cli::promote::verdict(&client, &answer["run"], global)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(read_limited(&RealDisk, path).map_err(|error| match &error {
        Refused::Store(_) => Fail::new(Exit::Input, error),
        _ => refused(path, error),
    })?)
}

/// Names the file: where there are several, the message alone does not tell which.
fn refused(file: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fail {
    Fail::new(Exit::Bundle, format!("{} is refused", file.display())).because(why)
}

fn secret(path: &Path) -> Result<SigningKey> {
    let text = fs::read_to_string(path)
        .map_err(|error| Fail::new(Exit::Input, format!("cannot read {}", path.display())).because(error))?;
    let seed = STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let seed = seed.ok_or_else(|| {
        Fail::new(Exit::Input, format!("{} holds no secret key", path.display()))
            .hint("make one with `hone-fleet keygen FILE`")
    })?;
    Ok(SigningKey::from_bytes(&seed))
}

fn trust(keys: &mut KeySet, public: &str) -> Result<()> {
    let bytes = STANDARD.decode(public).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| Fail::new(Exit::Usage, format!("`{public}` is not 32 bytes in base64")))?;
    keys.trust(&bytes, &[Role::Vendor]).map_err(|error| Fail::new(Exit::Usage, error))?;
    Ok(())
}
