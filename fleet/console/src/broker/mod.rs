//! `hone-fleet broker`: writes a mosquitto configuration that keeps devices apart, and checks one by trying to break in.
mod check;
mod probe;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use fleet_protocol::PACKET_BYTES_MAX;
use fleet_protocol::names::Name;
use fleet_protocol::topics::ROOT;
use serde_json::json;

use crate::Global;
use crate::authority::{Authority, Purpose, folder, write_new};
use crate::exit::Exit;

/// Arguments of `hone-fleet broker`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    hone-fleet broker write ./fleet --host broker.example\n  \
    mosquitto -c ./fleet/mosquitto.conf\n  \
    hone-fleet broker check ./fleet --broker mqtts://broker.example --ca ./fleet/ca.pem")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write configuration, access rules, an authority and certificates into a folder
    Write(Write),
    /// Try to break the rules of a running broker: what is delivered counts, not what is granted
    Check(check::Args),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone-fleet broker write ./fleet --host broker.example --controller ctl1 --controller ctl2\n\n\
    JSON keys: folder, host, port, controllers."
)]
struct Write {
    /// Folder; its authority is used if it has one
    folder: PathBuf,
    /// Name or address under which devices reach the broker
    #[arg(long)]
    host: String,
    /// Port
    #[arg(long, default_value_t = 8883)]
    port: u16,
    /// Controllers, each with a certificate of its own
    #[arg(long, value_name = "NAME", default_values = ["ctl1"])]
    controller: Vec<Name>,
    /// Also let devices speak to Home Assistant
    #[arg(long)]
    home_assistant: bool,
    /// Also let devices speak to thin-edge.io
    #[arg(long)]
    thin_edge: bool,
}

/// Writes or checks.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    match &args.command {
        Command::Write(args) => write(args, global),
        Command::Check(args) => check::run(args, global),
    }
}

fn write(args: &Write, global: &Global) -> Result<Exit> {
    let folder = folder(&args.folder)?;
    let authority = Authority::open_or_create(&folder)?;
    write_new(&folder.join("mosquitto.conf"), &configuration(&folder, args.port), 0o644)?;
    write_new(&folder.join("hone.acl"), &rules(args), 0o600)?;
    let mut names = vec![("server".to_owned(), authority.issue(&args.host, Purpose::Server(&args.host))?)];
    for controller in &args.controller {
        names.push((controller.to_string(), authority.issue(controller.as_str(), Purpose::Client)?));
    }
    for (name, issued) in &names {
        write_new(&folder.join(format!("{name}.pem")), &issued.certificate, 0o644)?;
        write_new(&folder.join(format!("{name}.key")), &issued.key, 0o600)?;
    }
    if global.json {
        println!("{}", json!({"folder": folder, "host": args.host, "port": args.port, "controllers": args.controller}));
        return Ok(Exit::Ok);
    }
    let shown = folder.display();
    println!("written to {shown}: mosquitto.conf, hone.acl, ca.pem, ca.key (keep it offline) and certificates");
    println!(
        "mosquitto runs as its own user: chown mosquitto {shown}/server.key {shown}/hone.acl, and let it enter {shown}"
    );
    println!("then: hone-fleet broker check {shown} --broker mqtts://{}:{}", args.host, args.port);
    Ok(Exit::Ok)
}

fn configuration(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "# A broker for hone: written by `hone-fleet broker write`, checked by `hone-fleet broker check`.\n\
         # Never true: with it, 2.0.12 to 2.0.18 keep no sessions.\n\
         per_listener_settings false\n\
         listener {port}\n\
         cafile {folder}/ca.pem\n\
         certfile {folder}/server.pem\n\
         keyfile {folder}/server.key\n\
         tls_version tlsv1.3\n\
         require_certificate true\n\
         # The name in the certificate is the user, and the client id whatever a client says of itself: else any device could\n\
         # connect under another's id and throw it out.\n\
         use_identity_as_username true\n\
         use_username_as_clientid true\n\
         allow_anonymous false\n\
         acl_file {folder}/hone.acl\n\
         max_packet_size {PACKET_BYTES_MAX}\n\
         # Retained messages survive a restart; agents do not rely on it.\n\
         persistence true\n\
         persistence_location {folder}/\n\
         autosave_interval 60\n"
    )
}

fn rules(args: &Write) -> String {
    let mut text = format!(
        "# %u is the name in the certificate, and always a whole level.\n\
         pattern write {ROOT}/d/%u/up/#\n\
         pattern read {ROOT}/d/%u/down/#\n\
         pattern read {ROOT}/g/+/down/notice/+\n\
         pattern read {ROOT}/ctl/+/state\n"
    );
    if args.home_assistant {
        // A device is `hone-NAME` there, and %u must be a whole level: the rule cannot tell devices apart.
        text += "pattern write homeassistant/device/+/config\n";
    }
    if args.thin_edge {
        text += "pattern write te/device/main/service/hone/status/health\n";
    }
    for controller in &args.controller {
        // A string takes any text.
        let _ = write!(
            text,
            "\nuser {controller}\n\
             topic read {ROOT}/d/+/up/#\n\
             topic write {ROOT}/d/+/down/#\n\
             topic write {ROOT}/g/+/down/notice/+\n\
             topic read {ROOT}/ctl/#\n\
             topic write {ROOT}/ctl/{controller}/#\n"
        );
    }
    text
}
