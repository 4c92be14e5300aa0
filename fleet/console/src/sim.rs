//! `hone-fleet sim`: many real agents with small models on this machine and one broker, for trying a fleet out.
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use fleet_protocol::names::DeviceId;
use serde_json::json;

use crate::Global;
use crate::authority::folder;
use crate::exit::{Exit, Fail};

/// Most agents: each takes about 10 MB and a few threads.
const AGENTS_MAX: u16 = 1_000;
/// A request of the simulation to an agent takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `hone-fleet sim`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet sim 20 --broker mqtt://127.0.0.1:1883 --folder ./fleet-sim\n\n\
    Each agent is the real `hone run` with a state of its own below the folder; all end when this ends. Without --model, one small \
    model is trained first. Prints a line for each agent; send samples of your own to their sockets.\n\n\
    JSON keys, one object for each start of an agent: device, process, socket, of.")]
pub(crate) struct Args {
    /// How many
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(AGENTS_MAX)))]
    count: u16,
    /// Where their states are
    #[arg(long, value_name = "DIR", default_value = "fleet-sim")]
    folder: PathBuf,
    /// The `hone` to run [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    hone: Option<PathBuf>,
    /// Their first model [default: a small one, trained now]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// More settings for each, TOML
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Seconds between two rows of each agent; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    every: f64,
    /// Let devices die and come back, one each so many seconds
    #[arg(long, value_name = "SECONDS")]
    trouble: Option<f64>,
}

struct Agent {
    device: DeviceId,
    folder: PathBuf,
    child: Child,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs until Ctrl-C, SIGTERM, or the end of standard input if that is a pipe.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    if global.broker.tls {
        return Err(Fail::new(
            Exit::Usage,
            "a simulation runs on a broker of this machine: --broker mqtt://127.0.0.1:1883",
        )
        .into());
    }
    let hone = match &args.hone {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("hone"),
    };
    let root = folder(&args.folder)?;
    let model = match &args.model {
        Some(path) => path.clone(),
        None => train(&hone, &root)?,
    };
    let more = args.settings.as_ref().map(fs::read_to_string).transpose()?.unwrap_or_default();
    let mut agents = Vec::new();
    for number in 0..args.count {
        let device: DeviceId = format!("sim-{number:03}").parse()?;
        let folder = folder(&root.join(device.as_str()))?;
        let settings = format!(
            "[agent]\nlisten = \"off\"\n\n[mqtt]\nbroker = \"{}\"\ndevice = \"{device}\"\ngroups = [\"sim-{}\"]\n",
            global.broker,
            number % 4
        );
        fs::write(folder.join("hone.toml"), settings)?;
        fs::create_dir_all(folder.join("conf.d"))?;
        fs::write(folder.join("conf.d/more.toml"), &more)?;
        let agent = Agent { child: start(&hone, &folder, &model)?, device, folder };
        tell(&agent, args, global);
        agents.push(agent);
    }
    let stop = Arc::new(AtomicBool::new(false));
    watch_for_the_end(&stop);
    let (begun, mut sent, mut killed) = (Instant::now(), 0_u64, 0_u64);
    let mut chance = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        let now = begun.elapsed().as_secs_f64();
        let agents_count = agents.len() as u64;
        // One row at a time, spread over the agents.
        if args.every > 0.0 && now * agents_count as f64 / args.every > sent as f64 {
            let index = usize::try_from(sent % agents_count).unwrap_or(0);
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // An agent that starts or has died takes its next row.
            let _ = sample(&agents[index].folder, chance);
            sent += 1;
            continue;
        }
        if let Some(every) = args.trouble
            && now / every > (killed + 1) as f64
        {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let agent = &mut agents[usize::try_from((chance >> 33) % agents_count).unwrap_or(0)];
            let _ = agent.child.kill();
            let _ = agent.child.wait();
            agent.child = start(&hone, &agent.folder, &model)?;
            tell(agent, args, global);
            killed += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Exit::Ok)
}

fn tell(agent: &Agent, args: &Args, global: &Global) {
    let (device, process, socket) = (&agent.device, agent.child.id(), agent.folder.join("state/api.sock"));
    if global.json {
        println!("{}", json!({"device": device, "process": process, "socket": socket, "of": args.count}));
    } else {
        println!("{device} process {process}, socket {}", socket.display());
    }
}

fn start(hone: &Path, folder: &Path, model: &Path) -> Result<Child> {
    let mut command = Command::new(hone);
    command.args(["run", "--with-parent", "--config"]).arg(folder.join("hone.toml"));
    command.arg("--state-dir").arg(folder.join("state")).arg("--model").arg(model);
    command.arg("--sensors-root").arg(folder.join("sensors"));
    // A group of its own: Ctrl-C is for this program, which ends them all.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(folder.join("log"))?);
    command.spawn().map_err(|error| {
        Fail::new(Exit::Input, format!("cannot start {}: {error}", hone.display()))
            .hint("name the agent with --hone FILE")
            .into()
    })
}

/// Trains a small model: the sign of a sum, from two numbers.
fn train(hone: &Path, root: &Path) -> Result<PathBuf> {
    let (data, model) = (root.join("sim.csv"), root.join("sim.safetensors"));
    let mut text = "a,b,state\n".to_owned();
    let mut chance = 7;
    for _ in 0..400 {
        let (a, b) = (number(&mut chance), number(&mut chance));
        text += &[a.to_string(), b.to_string(), (if a + b > 0.0 { "high\n" } else { "low\n" }).to_owned()].join(",");
    }
    fs::write(&data, text)?;
    let mut command = Command::new(hone);
    command.args(["train", "--label", "state", "--seed", "1", "--data"]).arg(&data).arg("-o").arg(&model);
    let output = command
        .output()
        .map_err(|error| Fail::new(Exit::Input, format!("cannot start {}: {error}", hone.display())))
        .map_err(|fail| fail.hint("name the agent with --hone FILE"))?;
    if !output.status.success() {
        return Err(Fail::new(Exit::Internal, String::from_utf8_lossy(&output.stderr).into_owned()).into());
    }
    Ok(model)
}

/// A number from -1 to 1.
fn number(chance: &mut u64) -> f64 {
    *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*chance >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// One row for an agent, over its socket.
fn sample(folder: &Path, mut chance: u64) -> std::io::Result<()> {
    let body =
        json!({"source": "sim", "features": {"a": number(&mut chance), "b": number(&mut chance)}}).to_string() + "\n";
    let mut stream = UnixStream::connect(folder.join("state/api.sock"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Ctrl-C and SIGTERM end the simulation and, with it, its agents.
fn watch_for_the_end(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let _ = crate::session::talk(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
    });
}
