//! What is kept: rows to be judged on out of the training, orders back until they are stored, models to go back to on the disk.
use trainer_core::model::Strategy;
use trainer_core::snapshot::Snapshot;

use super::*;
use crate::decide::plan::HOLDOUT_MIN;

#[test]
fn a_candidate_is_not_trained_on_the_rows_it_is_judged_on() {
    let folder = scratch();
    let (mut device, _) = Device::start(folder.path(), None, "static").unwrap();
    device.parts.keeper.begin();
    let (bytes, factory) = factory();
    device.command(Command::Install { bytes, envelope: None, door: Door::Local });
    device.live(200, false);
    device.command(Command::Retrain(Strategy::Head));
    assert_eq!(device.serving(), Some(factory), "there was nothing to gain");
    let snapshots = &device.parts.keeper.snapshots;
    let rows_of = |digest: &Digest| Snapshot::from_bytes(&snapshots.get(digest).unwrap()).unwrap().rows.len() as u64;
    let rows: Vec<u64> = snapshots.list().unwrap().iter().map(rows_of).collect();
    assert!(matches!(rows[..], [rows] if rows > 100 && rows <= 200 - HOLDOUT_MIN), "{rows:?} of 200");
    let _ = device.parts.recorder.stop();
}

#[test]
fn what_the_disk_refuses_to_store_is_not_carried_out_until_it_is_stored() {
    let folder = scratch();
    let (mut device, _) = Device::start(folder.path(), None, ALARMS).unwrap();
    device.parts.keeper.begin();
    let (bytes, factory) = factory();
    device.command(Command::Install { bytes, envelope: None, door: Door::Local });
    device.live(120, false);
    for _ in 0..12 {
        if device.serving() == Some(factory) {
            device.live(60, true);
        }
    }
    let promoted = device.serving();
    assert_ne!(promoted, Some(factory), "the drift has led to another model");
    let elsewhere = rusqlite::Connection::open(folder.path().join("control.db")).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON cycle BEGIN SELECT RAISE(ABORT, 'refused'); END";
    elsewhere.execute_batch(refuse).unwrap();
    let _ = device.parts.keeper.command(Command::RollBack);
    assert!(device.parts.keeper.books.trouble().is_some(), "the commit was refused");
    assert_eq!(device.serving(), promoted, "a rollback that is not stored is not seen");
    elsewhere.execute_batch("DROP TRIGGER refuse").unwrap();
    device.parts.keeper.tick();
    assert_eq!(device.serving(), Some(factory));
    let _ = device.parts.recorder.stop();
}

#[test]
fn the_model_that_was_last_good_is_never_swept() {
    let folder = scratch();
    let (mut device, _) = Device::start(folder.path(), None, ALARMS).unwrap();
    device.parts.keeper.begin();
    let (bytes, _) = factory();
    device.command(Command::Install { bytes, envelope: None, door: Door::Local });
    let keeper = &mut device.parts.keeper;
    let (good, rules) = (Digest::of(b"good"), keeper.gatehouse.rules);
    assert!(!keeper.reachable().contains(&good));
    let loading = &mut keeper.saved.as_mut().unwrap().loading;
    loading.begin(good, false, &rules);
    loading.answered(&good, rules.good_answers);
    assert!(loading.served(&good, rules.good_s, &rules));
    assert!(keeper.reachable().contains(&good), "the next start may need it");
    let _ = device.parts.recorder.stop();
}
