//! The daemon: puts the parts together, runs until it is told to stop, takes them apart in order.
//!
//! ```text
//! handlers ─► recorder (thread)        records
//!     └─────► one bounded queue ─► keeper (thread): step, commit, carry out ─► work (thread): train, judge
//! ```
mod answering;
mod assumed;
mod books;
mod budget;
mod commands;
mod continual;
mod energy;
mod explain;
mod first;
mod freeze;
mod hands;
mod keeper;
mod ledger;
mod life;
mod link;
mod orders;
mod plan;
mod post;
mod purge;
mod realised;
mod saved;
mod serving;
mod shared;
mod storage;
mod sweep;
mod trial;
mod views;
mod wishes;
mod work;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use answering::NoNumber;
pub use commands::{REBASELINE_ROWS_MAX, strategy};
pub use link::{Answer, LinkAsk, News};
pub use orders::{Task, TaskKind};
pub use shared::{Answered, Command, Counters, Declined, Event, Origin, Place, Question, Retraining, Shared};
pub use wishes::SUPPORTED;

use crate::config::Config;
use crate::decide::budget::Budget;
use crate::decide::cycle::CycleSettings;
use crate::decide::time::Uptime;
use crate::shell::api::{self, Doors};
use crate::shell::clock::{self, Ids};
use crate::shell::flash;
use crate::shell::inference::Slot;
use crate::shell::ingest::intake::Intake;
use crate::shell::ingest::mqtt as input;
use crate::shell::memory;
use crate::shell::models::Refused;
use crate::shell::models::vetting::Vetting;
use crate::shell::mqtt::{Fleet, FleetError, Standing};
use crate::shell::paths::Places;
use crate::shell::recorder::Recorder;
use crate::shell::store::{StateDir, StoreError};
use crate::shell::systemd::{self, Notifier, Pulses, starts};
use crate::shell::trainer::Trainer;
use books::Books;
use budget::Warden;
use continual::Heads;
use first::{FirstModel, first_model};
use keeper::{Keeper, Rules};
use serving::Gatehouse;
use storage::Storage;

/// Seconds after the start by which the first requests were answered, and by which everything that serves has usually run once.
const SETTLED_S: [u64; 2] = [5, 30];
/// Threads that answer requests: inference takes microseconds, and a gateway has few cores.
const WORKERS: usize = 2;
/// Threads for reading the disk on behalf of a request.
const BLOCKING_MAX: usize = 4;
/// Niceness of the thread that learns, judges and swaps.
const KEEPER_NICE: i32 = 5;
/// What requests under way may take at the end; the rest of the second is for the disk.
const DRAIN: Duration = Duration::from_millis(400);

/// What `hone run` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Settings.
    pub config: Config,
    /// Where it lives.
    pub places: Places,
    /// The first model, if the device has none yet.
    pub model: Option<PathBuf>,
    /// Where `/sys` and `/proc` are found; `/` but in tests and demonstrations.
    pub sensors_root: PathBuf,
    /// What vets models in place of this binary; none but in tests.
    pub vetting_program: Option<PathBuf>,
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state directory.
    #[error("{}", .0.chain())]
    Store(#[from] StoreError),
    /// The first model cannot be read.
    #[error("cannot read the model {path}: {source}")]
    ReadModel {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The first model is refused.
    #[error("the model {path} is refused: {source}")]
    Bundle {
        /// File.
        path: PathBuf,
        /// Why.
        source: Box<Refused>,
    },
    /// The device has another model already.
    #[error("this device serves model {champion} already; {offered} would replace it without being compared")]
    OtherModel {
        /// Serves.
        champion: String,
        /// Was named.
        offered: String,
    },
    /// Another agent answers on the socket.
    #[error("another agent answers on {0}")]
    SocketInUse(PathBuf),
    /// An address or the socket cannot be opened.
    #[error("cannot listen on {place}: {source}")]
    Listen {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// A file of the link to the fleet.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The system gives no thread, signal or executable path.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`DaemonError`] if it cannot start; nothing is left behind but what was stored before.
pub fn run(options: Options) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_name("serve")
        .enable_all()
        .build()?;
    let result = runtime.block_on(live(options));
    // A request that still reads the disk must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn live(options: Options) -> Result<(), DaemonError> {
    // Before anything is opened, so that no signal is missed.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let Options { config, places, model, sensors_root, vetting_program } = options;
    let model = model.map(|path| FirstModel::read(&path)).transpose()?;
    let notifier = Notifier::from_environment();
    let (held, pause) = starts::begin(&places.state_dir, &notifier);
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    // What the fleet wants stands over the files, from the start on.
    let standing = Standing::open(&places.state_dir, config);
    let config = standing.config().clone();
    let vetting = Vetting::child(vetting_program, config.models.vetting(), config.models.vetting_bytes)?;
    let fleet = Fleet::new(standing)?;
    let disk_bytes = flash::free_bytes(&places.state_dir).map(|(_, all)| all);
    let files = config.records.files.within(config.records.keep_bytes, disk_bytes);
    let state = StateDir::open_with(&places.state_dir, files)?;
    let doors = Doors::open(&places.socket, config.agent.address()).await?;
    let place = Place {
        state_dir: places.state_dir.clone(),
        socket: places.socket.clone(),
        listen: doors.address().map(|address| address.to_string()),
        started_at: clock::now(),
    };
    let (parts, events) = assemble(state, &config, place, model, &sensors_root, fleet.as_ref(), vetting)?;
    let (models, vault) = (parts.keeper.models.clone(), parts.keeper.gatehouse.vault.clone());
    let Parts { recorder, keeper, shared, lock } = parts;
    let (ready, begun) = oneshot::channel();
    let keeper = thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        let mut keeper = keeper;
        keeper.begin();
        // This thread's only: what it computes for a swap shall not take its time from who answers.
        let _ = rustix::process::setpriority_process(None, KEEPER_NICE);
        let _ = ready.send(());
        keeper.run(events);
    })?;
    // Serving begins once the stored model is loaded, so that a restart never answers "no model" in between.
    let _ = begun.await;
    memory::let_go_of_the_start();
    notifier.ready(&announce(&shared));
    let watchdog = systemd::watch(notifier, Arc::clone(&shared), fleet.is_some(), held.clone())?;
    let ticking = tokio::spawn(tick(Arc::clone(&shared)));
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(api::serve(doors, Arc::clone(&shared), stopped.clone()));
    let reading = input::start(&config.input.mqtt, Arc::clone(&shared), stopped.clone());
    let linked = fleet.map(|fleet| fleet.start(Arc::clone(&shared), models, vault, stopped));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    watchdog.stop();
    held.note();
    ticking.abort();
    let _ = stop.send(true);
    if tokio::time::timeout(DRAIN, serving).await.is_err() {
        tracing::warn!("requests that took too long were cut off");
    }
    if let Some(reading) = reading {
        // What it did not acknowledge, the broker sends again.
        let _ = tokio::time::timeout(DRAIN, reading).await;
    }
    if let Some(linked) = linked
        && tokio::time::timeout(2 * DRAIN, linked).await.is_err()
    {
        tracing::warn!("the link to the fleet was cut off; its will says that this device is gone");
    }
    // The state first: a label that is stored after it is found again at the next start, while work that finds the recorder
    // gone would be booked as failed.
    let (done, ended) = oneshot::channel();
    let _ = shared.events.send(Event::Stop(done)).await;
    let _ = ended.await;
    let _ = keeper.join();
    let status = tokio::task::spawn_blocking(move || recorder.stop()).await;
    let _ = fs::remove_file(&places.socket);
    drop(lock);
    if let Ok(status) = status {
        let lost = status.unrecorded + status.held;
        if lost > 0 {
            tracing::warn!(lost, "samples were answered that no disk took");
        }
        tracing::info!(recorded = status.recorded, "stopped");
    }
    Ok(())
}

/// Says where it listens and who serves.
fn announce(shared: &Shared) -> String {
    let serving = shared.slot.serving();
    let model = serving
        .map_or_else(|| "no model yet".to_owned(), |serving| format!("model {}", serving.champion.digest.short()));
    let records = shared.reader.counts().map_or(0, |counts| counts.records);
    let Place { state_dir, socket, listen, .. } = &shared.place;
    let listen = listen.as_ref().map_or_else(String::new, |address| format!(" and http://{address}"));
    let says =
        format!("listening on {}{listen}; {model}; {records} records in {}", socket.display(), state_dir.display());
    tracing::info!("{says}");
    says
}

async fn tick(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        every.tick().await;
        if SETTLED_S.contains(&second) {
            memory::let_go_of_the_start();
        }
        // This task runs where requests are answered: while it turns, so do they.
        shared.pulses.ingest.turn();
        // A full queue needs no reminder.
        let _ = shared.events.try_send(Event::Tick);
    }
}

/// The agent's parts, put together and not yet running.
struct Parts {
    recorder: Recorder,
    keeper: Keeper,
    shared: Arc<Shared>,
    lock: crate::shell::lock::Lock,
}

fn assemble(
    state: StateDir,
    config: &Config,
    place: Place,
    model: Option<FirstModel>,
    sensors_root: &Path,
    fleet: Option<&Fleet>,
    vetting: Vetting,
) -> Result<(Parts, mpsc::Receiver<Event>), DaemonError> {
    let StateDir { path, mut control, records, models, snapshots, mut set_aside, lock, .. } = state;
    let gatehouse = Gatehouse::open(&path, &models, config, fleet.and_then(Fleet::bundle_keys), vetting)?;
    // What was used up stays so when the table that knows it was lost.
    control.raise_high_water(&gatehouse.floors_file.floors().commands)?;
    let (control, mut saved, generation) = {
        let row = control.cycle()?;
        let generation = row.as_ref().map_or(0, |row| row.generation);
        match row.map(|row| saved::decode(&row.state)) {
            None => (control, None, generation),
            Some(Ok(saved)) => (control, Some(saved), generation),
            Some(Err(error)) => {
                let (control, aside) = control.set_aside(&format!("the state means nothing to this hone: {error}"))?;
                set_aside.push(aside);
                (control, None, 0)
            }
        }
    };
    if let Some(saved) = &mut saved {
        saved.floors.raise(gatehouse.floors_file.floors());
    }
    let (sender, events) = mpsc::channel(config.agent.queue_events);
    let next_seq = records.next_seq();
    let reader = records.reader();
    let samples = saved.as_ref().map_or(0, |saved| i64::try_from(saved.cycle.counts().0).unwrap_or(0));
    let recorder = Recorder::start(records, config.records.groups)?;
    let shared = Arc::new(Shared {
        name: config.agent.model_name.clone(),
        slot: Slot::default(),
        ids: Ids::new(),
        recorder: recorder.handle(),
        reader,
        models: models.clone(),
        events: sender,
        counters: Counters::default(),
        shift: AtomicI64::new(next_seq - 1 - samples),
        body_bytes_max: config.agent.body_bytes_max,
        stored: Notify::new(),
        link: watch::Sender::new(json!({"state": "off"})),
        intake: Intake::new(config.input.window),
        input: watch::Sender::new(json!({"state": "off"})),
        pulses: Pulses::default(),
        device: fleet.map(|fleet| fleet.device().clone()),
        place,
    });
    let heads = Heads::new(config, path.join("continual"));
    let rules = Rules {
        cycle: CycleSettings {
            rollout: config.rollout.clone(),
            mixture: heads.serves(),
            assumes_normal: true,
            ..config.cycle.clone()
        },
        training: config.training.clone(),
        commit_every: Duration::from_secs(config.agent.commit_s),
        commit_events: config.agent.commit_events,
        snapshot_bytes: config.snapshots.keep_bytes,
    };
    let ran = saved.as_ref().and_then(|saved| saved.budget.as_ref()).map_or(Uptime::default(), Budget::now);
    let mut keeper = Keeper {
        books: Books::new(control, generation, fleet.is_some()),
        models,
        snapshots,
        shared: Arc::clone(&shared),
        rules,
        trainer: Trainer::of_agent()?,
        saved,
        heads,
        storage: Storage::new(config.records.clone(), ran),
        warden: Warden::new(sensors_root, config.budget.clone(), &config.sensors, ran),
        gatehouse,
        working: None,
        unloadable: None,
        changed: 0,
        committed_at: Instant::now(),
        ticks: 0,
        is_stopping: false,
        freezes: fleet.map(Fleet::freezes).unwrap_or_default(),
        was_frozen: false,
    };
    first_model(&mut keeper, model, &set_aside)?;
    Ok((Parts { recorder, keeper, shared, lock }, events))
}

#[cfg(test)]
mod power_cut;
