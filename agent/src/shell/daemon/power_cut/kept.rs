//! What is kept: rows to be judged on out of the training, orders back until they are stored, models to go back to on the disk.
use trainer_core::model::Strategy;
use trainer_core::snapshot::Snapshot;

use super::*;
use crate::decide::floors::Floors;
use crate::decide::plan::HOLDOUT_MIN;

/// A device of this policy that serves the factory's model.
fn begun(policy: &str) -> (tempfile::TempDir, Device, Digest) {
    let folder = scratch();
    let (mut device, _) = Device::start(folder.path(), None, policy).unwrap();
    device.parts.keeper.begin();
    let (bytes, factory) = factory();
    device.command(Command::Install { bytes, envelope: None, door: Door::Local });
    (folder, device, factory)
}

#[test]
fn a_candidate_is_not_trained_on_the_rows_it_is_judged_on() {
    let (_folder, mut device, factory) = begun("static");
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
    let (folder, mut device, factory) = begun(ALARMS);
    // Older than those of the trainings: the newest stays in any case.
    let spare = device.parts.keeper.snapshots.put(b"a snapshot that nothing refers to").unwrap();
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
    device.parts.keeper.rules.snapshot_bytes = 0;
    let _ = device.parts.keeper.command(Command::RollBack);
    assert!(device.parts.keeper.books.trouble().is_some(), "the commit was refused");
    assert_eq!(device.serving(), promoted, "a rollback that is not stored is not seen");
    device.parts.keeper.collect();
    let is_kept = |device: &Device| device.parts.keeper.snapshots.list().unwrap().contains(&spare);
    assert!(is_kept(&device), "nothing is removed for a state that is not stored");
    elsewhere.execute_batch("DROP TRIGGER refuse").unwrap();
    device.parts.keeper.tick();
    assert_eq!(device.serving(), Some(factory));
    device.parts.keeper.collect();
    assert!(!is_kept(&device));
    let _ = device.parts.recorder.stop();
}

#[test]
fn the_model_that_was_last_good_is_never_swept() {
    let (_folder, mut device, _) = begun(ALARMS);
    let keeper = &mut device.parts.keeper;
    let good = Digest::of(b"good");
    assert!(!keeper.reachable().contains(&good));
    make_last_good(keeper, good);
    assert!(keeper.reachable().contains(&good), "the next start may need it");
    let _ = device.parts.recorder.stop();
}

#[test]
fn the_model_whose_tensors_another_was_compared_with_stays_as_long_as_that_one() {
    let (_folder, mut device, _) = begun(ALARMS);
    let keeper = &mut device.parts.keeper;
    let [made, ancestor] = [&b"made"[..], b"made from"].map(|bytes| keeper.models.put(bytes).unwrap());
    keeper.gatehouse.vault.sign(made, ancestor, &mut Floors::default()).unwrap();
    assert!(!keeper.reachable().contains(&ancestor));
    make_last_good(keeper, made);
    assert!(keeper.reachable().contains(&ancestor), "without it nobody answers for the other");
    let _ = device.parts.recorder.stop();
}

/// As after a time of good service.
fn make_last_good(keeper: &mut Keeper, good: Digest) {
    let rules = keeper.gatehouse.rules;
    let loading = &mut keeper.saved.as_mut().unwrap().loading;
    loading.begin(good, false, &rules);
    loading.answered(&good, rules.good_answers);
    assert!(loading.served(&good, rules.good_s, &rules));
}

#[test]
fn the_state_comes_back_to_the_bit_from_its_bytes_from_json_and_with_numbers_that_are_none() {
    use ciborium::Value;
    fn lose_numbers(value: &mut Value) -> usize {
        match value {
            Value::Float(number) => {
                *number = f64::NAN;
                1
            }
            Value::Array(list) => list.iter_mut().map(lose_numbers).sum(),
            Value::Map(pairs) => pairs.iter_mut().map(|(_, value)| lose_numbers(value)).sum(),
            _ => 0,
        }
    }
    let (_folder, mut device, _) = begun(ALARMS);
    device.live(200, true);
    let saved = device.parts.keeper.saved.clone().unwrap();
    let bytes = saved::encode(&saved, 0).unwrap();
    let again = |bytes: &[u8]| saved::encode(&saved::decode(bytes).unwrap(), 0).unwrap();
    assert!(again(&bytes) == bytes, "CBOR");
    assert!(again(&serde_json::to_vec(&saved).unwrap()) == bytes, "JSON, as the third layout had it");
    let mut value: Value = ciborium::from_reader(bytes.as_slice()).unwrap();
    assert!(lose_numbers(&mut value) > 100);
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).unwrap();
    let found: Value = ciborium::from_reader(again(&bytes).as_slice()).unwrap();
    assert!(format!("{found:?}") == format!("{value:?}"), "a NaN has many bit patterns, and is as good in each");
    assert!(saved::decode(b"not a state").is_err());
    let _ = device.parts.recorder.stop();
}
