//! Power cuts where heads learn from every label: while the mixture becomes a champion, and in the file that the heads are saved in.
use super::*;

/// The default policy.
const VALUE: &str = "value";

#[test]
fn a_cut_while_heads_learn_are_frozen_and_promoted_corrupts_nothing_and_a_model_serves() {
    let (folder, cuts) = run(VALUE);
    let database = Database::of(folder.path());
    let reports = Known::stored(&database).reports;
    assert!(reports.iter().any(|(_, json)| json.contains("consolidated")), "the mixture became a candidate");
    let (count, moments) = check(&cuts, folder.path(), false, VALUE);
    println!("{count} cuts at {moments} moments");
    assert!(moments > 20, "{moments} moments");
}

#[test]
fn whatever_is_left_of_the_saved_heads_the_agent_starts_and_knows_what_the_records_know() {
    let folder = scratch();
    let file = folder.path().join("continual/heads");
    let learnt = |device: &Device| device.parts.keeper.heads_view()["labels"].as_u64().unwrap();
    let (serving, early) = {
        let (mut device, _) = Device::start(folder.path(), None, VALUE).unwrap();
        device.parts.keeper.begin();
        device.command(Command::Install { bytes: factory().0, envelope: None, door: Door::Local });
        device.live(300, true);
        assert_eq!(learnt(&device), 300);
        device.parts.keeper.heads.save();
        let early = fs::read(&file).unwrap();
        device.live(100, true);
        device.parts.keeper.heads.save();
        device.parts.keeper.commit();
        let serving = device.serving();
        drop(device.events);
        let _ = device.parts.recorder.stop();
        (serving, early)
    };
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let cut = |length: usize| Some(whole[..length].to_vec());
    let (none, half) = (None, cut(whole.len() / 2));
    for left in [none, cut(0), cut(31), cut(32), half, Some(flipped), Some(early), Some(whole.clone())] {
        match &left {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let length = left.map(|bytes| bytes.len());
        let (mut device, set_aside) = Device::start(folder.path(), None, VALUE).unwrap();
        assert!(set_aside.is_empty());
        device.parts.keeper.begin();
        assert_eq!(device.serving(), serving, "{length:?} bytes of {}", whole.len());
        assert_eq!(learnt(&device), 400, "{length:?} bytes of {}", whole.len());
        drop(device.events);
        let _ = device.parts.recorder.stop();
    }
}
