//! Signed orders with the power cut at every commit: carried out once, whenever they come again; and what a start finds of them.
use std::time::Duration;

use fleet_protocol::command::Command as Wish;
use fleet_protocol::envelope::{Kind, Payload as _};
use fleet_protocol::keys::{KeySet, Role, SigningKey};
use fleet_protocol::names::{Micros, Name};
use fleet_protocol::order::Order;
use fleet_protocol::status::{CommandStatus, ReasonCode, Status};

use super::*;
use crate::decide::time::Uptime;
use crate::shell::clock;
use crate::shell::daemon::link::Answer;
use crate::shell::mqtt::{Fleet, MqttSettings, Signed, Standing};
use crate::shell::store::CommandRow;

const DEVICE: &str = "press-07";
const MINUTE_US: i64 = 60_000_000;

/// A device of a fleet, as [`Device::start`] makes one of none.
fn linked(path: &Path, disk: Option<Arc<CutDisk>>) -> Device {
    let mut config = config("static");
    config.mqtt =
        MqttSettings { broker: "mqtt://127.0.0.1:1".to_owned(), device: DEVICE.to_owned(), ..MqttSettings::default() };
    let fleet = Fleet::new(Standing::open(path, config.clone())).unwrap();
    let mut state = StateDir::open_with(path, config.records.files).unwrap();
    if let Some(disk) = disk {
        state.models = ModelStore::open_on(disk, &path.join("models"), "safetensors").unwrap();
    }
    let nowhere = path.join("sensors");
    let place = Place::default();
    let (mut parts, events) =
        assemble(state, &config, place, None, &nowhere, fleet.as_ref(), Vetting::in_process()).unwrap();
    parts.keeper.trainer = Trainer::InProcess;
    Device { parts, events, sent: 0 }
}

fn order(number: u128, ctr: u64, expires_us: i64, wish: &Wish) -> Order {
    let now = clock::now().0;
    Order::new(Ulid::from(number), DEVICE.parse().unwrap(), Micros(now), Micros(now + expires_us), ctr, wish)
}

fn signed(order: &Order, seeds: &[u8]) -> Signed {
    let secrets: Vec<_> = seeds.iter().map(|seed| SigningKey::from_bytes(&[*seed; 32])).collect();
    let mut keys = KeySet::default();
    for secret in &secrets {
        keys.trust(secret.verifying_key().as_bytes(), &[Role::Operator, Role::Admin]).unwrap();
    }
    let envelope = order.sign(&secrets.iter().collect::<Vec<_>>());
    Signed { verified: envelope.verify(Kind::Command, &keys).unwrap(), order: order.clone() }
}

fn baseline() -> Wish {
    Wish::DriftRebaseline { slot: Name::main_slot(), since: None, until: None }
}

fn said(answer: Option<Answer>) -> Option<Status> {
    match answer? {
        Answer::Says(status) => Some(status.status),
        Answer::Stored(_) => None,
    }
}

fn status(device: &mut Device, order: &Order) -> Option<Status> {
    let row = device.parts.keeper.books.control().command(order.id).unwrap()?;
    Some(serde_json::from_str::<CommandStatus>(&row.status).unwrap().status)
}

fn code(status: Option<Status>) -> Option<ReasonCode> {
    match status? {
        Status::Failed { reason_code, .. } => Some(reason_code),
        _ => None,
    }
}

fn effects(device: &mut Device) -> usize {
    let reports = device.parts.keeper.books.control().reports_after(0, 10_000).unwrap();
    reports.iter().filter(|stored| stored.report.kind == "rebaseline").count()
}

#[test]
fn an_order_is_carried_out_once_wherever_the_power_goes_and_however_often_it_comes() {
    let folder = scratch();
    let disk = Arc::new(CutDisk::new());
    let mut device = linked(folder.path(), Some(Arc::clone(&disk)));
    device.parts.keeper.begin();
    let (bytes, _) = factory();
    device.command(Command::Install { bytes, envelope: None, door: Door::Local });
    device.live(220, false);
    let order = order(1, 10, 10 * MINUTE_US, &baseline());
    let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
    let key = fleet_protocol::keys::KeyId::of(&key).to_string();
    let witness = Witness::watch(&disk, folder.path());
    assert!(said(device.parts.keeper.order(signed(&order, &[1]))).is_none(), "it is stored");
    device.parts.keeper.tick();
    let cuts = witness.end();
    assert_eq!((effects(&mut device), status(&mut device, &order)), (1, Some(Status::Successful)));
    let _ = device.parts.recorder.stop();

    let mut count = 0;
    for cut in &cuts {
        let Cut::Commit { before, after, memory } = cut else { continue };
        let states = before.until(after);
        let step = 1 + states.len() / 6;
        for database in states.iter().step_by(step).chain([&**after]) {
            let left = scratch();
            lay_out(&memory.after(Fate::Lost), folder.path(), left.path());
            fs::create_dir_all(left.path().join("records")).unwrap();
            for entry in fs::read_dir(folder.path().join("records")).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), left.path().join("records").join(entry.file_name())).unwrap();
            }
            database.lay_out(left.path());
            let mut device = linked(left.path(), None);
            device.parts.keeper.begin();
            if effects(&mut device) > 0 {
                // What it caused is never on the disk without it.
                assert_eq!(status(&mut device, &order), Some(Status::Successful));
            }
            if status(&mut device, &order).is_some() {
                let used = device.parts.keeper.books.control().high_water().unwrap();
                assert_eq!(used.get(&key), Some(&10), "nor is it without the counter it uses up");
            }
            // The link begins, and the broker brings what it retains.
            device.parts.keeper.unfinished();
            for _ in 0..2 {
                let _ = device.parts.keeper.order(signed(&order, &[1]));
                device.settle();
            }
            assert_eq!((effects(&mut device), status(&mut device, &order)), (1, Some(Status::Successful)));
            let older = self::order(2, 10, 10 * MINUTE_US, &baseline());
            assert_eq!(code(said(device.parts.keeper.order(signed(&older, &[1])))), Some(ReasonCode::Replayed));
            assert_eq!(effects(&mut device), 1);
            let _ = device.parts.recorder.stop();
            count += 1;
        }
    }
    assert!(count >= 8, "{count} cuts");
}

#[test]
fn the_counter_of_every_signer_is_used_up() {
    let folder = scratch();
    let mut device = linked(folder.path(), None);
    assert!(
        said(device.parts.keeper.order(signed(&order(1, 10, MINUTE_US, &Wish::AgentSelftest {}), &[1, 2]))).is_none()
    );
    for seed in [1, 2] {
        let alone = order(u128::from(seed) + 1, 10, MINUTE_US, &Wish::AgentSelftest {});
        assert_eq!(
            code(said(device.parts.keeper.order(signed(&alone, &[seed])))),
            Some(ReasonCode::Replayed),
            "{seed}"
        );
    }
    let _ = device.parts.recorder.stop();
}

#[test]
fn what_was_planned_for_a_time_at_which_nobody_was_there_is_void_once_it_has_expired() {
    let folder = scratch();
    let mut device = linked(folder.path(), None);
    let plan = |at: i64| Wish::RetrainStart {
        slot: Name::main_slot(),
        strategy: None,
        reason: "a test".to_owned(),
        at: Some(Micros(clock::now().0 + at)),
    };
    let late = order(1, 1, -MINUTE_US, &plan(-2 * MINUTE_US));
    let due = order(2, 2, MINUTE_US, &plan(-2 * MINUTE_US));
    let later = order(3, 3, 2 * MINUTE_US, &plan(MINUTE_US));
    for order in [&late, &due, &later] {
        let scheduled = CommandStatus {
            id: order.id,
            cmd: order.cmd.clone(),
            status: Status::Scheduled { at: serde_json::from_value(order.args["at"].clone()).unwrap() },
            ts: order.iat,
            clock: clock::trust(),
            deadline: None,
            extra: fleet_protocol::Extra::new(),
        };
        let row = CommandRow {
            id: order.id,
            status: serde_json::to_string(&scheduled).unwrap(),
            wish: serde_json::to_string(order).unwrap(),
            run: None,
            ended: false,
            deadline: Uptime(Duration::from_hours(99)),
        };
        device.parts.keeper.books.control().admit(&row, &[]).unwrap();
    }
    assert!(device.parts.keeper.unfinished().is_empty());
    assert!(device.parts.keeper.follow_commands().is_empty());
    assert_eq!(code(status(&mut device, &late)), Some(ReasonCode::Expired));
    assert_eq!(code(status(&mut device, &due)), Some(ReasonCode::Other("no_model".to_owned())), "it was tried");
    assert!(matches!(status(&mut device, &later), Some(Status::Scheduled { .. })));
    let _ = device.parts.recorder.stop();
}

#[test]
fn a_stored_deadline_that_nobody_can_have_given_counts_as_given_now() {
    let folder = scratch();
    let mut device = linked(folder.path(), None);
    let order = order(1, 1, MINUTE_US, &Wish::AgentRestart {});
    assert!(said(device.parts.keeper.order(signed(&order, &[1]))).is_none());
    let row = device.parts.keeper.books.control().command(order.id).unwrap().unwrap();
    let damaged = CommandRow { deadline: Uptime(Duration::from_hours(24 * 365 * 1_000)), ..row };
    device.parts.keeper.books.control().put_commands(&[damaged]).unwrap();
    device.parts.keeper.follow_commands();
    let row = device.parts.keeper.books.control().command(order.id).unwrap().unwrap();
    assert!(!row.ended && row.deadline.0 < Duration::from_hours(25), "{row:?}");
    let _ = device.parts.recorder.stop();
}
