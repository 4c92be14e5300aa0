//! Every reader of this crate against damaged input: the committed golden messages, bent at random. Nothing panics, whatever is
//! read survives being written, and no bent envelope is believed.
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command::Command;
use crate::data::Batch;
use crate::envelope::{Envelope, Kind};
use crate::event::Event;
use crate::keys::{KeySet, Role};
use crate::order::{BundleStatement, Desired, Notice, Order};
use crate::report::{Birth, DriftReport, ModelReport, Reported, State};
use crate::rollout::{Rollout, Wish};
use crate::status::CommandStatus;
use crate::topics::Topic;
use crate::transfer::Progress;

const GOLDEN: [&str; 6] = [
    include_str!("../golden/commands.jsonl"),
    include_str!("../golden/events.jsonl"),
    include_str!("../golden/reports.jsonl"),
    include_str!("../golden/signed.jsonl"),
    include_str!("../golden/status.jsonl"),
    include_str!("../golden/waves.jsonl"),
];

const TOPICS: [&str; 6] = [
    "hone/v1/d/press-07/up/state",
    "hone/v1/d/press-07/up/evt/drift_raised",
    "hone/v1/d/press-07/down/cmd/01JD4V3Q8N7Y5ZK2M6T9W0XABC",
    "hone/v1/d/press-07/down/blob/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/10",
    "hone/v1/g/hall-3/down/notice/freeze",
    "hone/v1/ctl/ctl1/rollout/autumn/wish",
];

/// Words that readers stumble over.
const WORDS: [&[u8]; 14] = [
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\u0000",
    b"\xff",
    b"/",
    b"+",
    b"#",
    b"\"cmd\":",
    b",",
];

/// One way to bend a message.
#[derive(Clone, Debug)]
enum Bend {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Insert(prop::sample::Index, usize),
    End(prop::sample::Index),
}

fn bends() -> impl Strategy<Value = Vec<Bend>> {
    let at = any::<prop::sample::Index>;
    let bend = prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Bend::Flip(at, 1 << bit)),
        (at(), 1..40_usize).prop_map(|(at, count)| Bend::Cut(at, count)),
        (at(), 1..40_usize).prop_map(|(at, count)| Bend::Repeat(at, count)),
        (at(), 0..WORDS.len()).prop_map(|(at, word)| Bend::Insert(at, word)),
        at().prop_map(Bend::End),
    ];
    prop::collection::vec(bend, 0..4)
}

fn bent(seed: &[u8], bends: &[Bend]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for bend in bends {
        let size = bytes.len();
        let range = |at: &prop::sample::Index, count: usize| at.index(size)..(at.index(size) + count).min(size);
        match bend {
            _ if size == 0 => return bytes,
            Bend::Flip(at, bit) => bytes[at.index(size)] ^= bit,
            Bend::Cut(at, count) => drop(bytes.drain(range(at, *count))),
            Bend::Repeat(at, count) => {
                let again = bytes[range(at, *count)].to_vec();
                let at = at.index(size);
                bytes.splice(at..at, again);
            }
            Bend::Insert(at, word) => {
                let at = at.index(size);
                bytes.splice(at..at, WORDS[*word].iter().copied());
            }
            Bend::End(at) => bytes.truncate(at.index(size)),
        }
    }
    bytes
}

/// What is read is written, and read again as the same text.
fn survives<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let text = serde_json::to_vec(&value).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let again: T = serde_json::from_slice(&text)
            .map_err(|error| TestCaseError::fail(format!("{error} in {}", String::from_utf8_lossy(&text))))?;
        prop_assert_eq!(serde_json::to_vec(&again).ok(), Some(text));
    }
    Ok(())
}

fn seeds() -> Vec<&'static str> {
    GOLDEN.iter().flat_map(|file| file.lines()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_bent_message_never_panics_and_what_is_read_survives_being_written(
        seed in any::<prop::sample::Index>(), bends in bends()
    ) {
        let bytes = bent(seed.get(&seeds()).as_bytes(), &bends);
        // Every message reaches every reader: a broker delivers anything anywhere.
        survives::<Order>(&bytes)?;
        survives::<Desired>(&bytes)?;
        survives::<Notice>(&bytes)?;
        survives::<BundleStatement>(&bytes)?;
        survives::<CommandStatus>(&bytes)?;
        survives::<Event>(&bytes)?;
        survives::<State>(&bytes)?;
        survives::<Birth>(&bytes)?;
        survives::<Reported>(&bytes)?;
        survives::<ModelReport>(&bytes)?;
        survives::<DriftReport>(&bytes)?;
        survives::<Rollout>(&bytes)?;
        survives::<Wish>(&bytes)?;
        survives::<Progress>(&bytes)?;
        survives::<Envelope>(&bytes)?;
        if let Ok(command) = Command::from_json(&bytes) {
            let text = serde_json::to_vec(&command).unwrap();
            prop_assert_eq!(Command::from_json(&text).unwrap(), command);
        }
        let _ = Batch::from_cbor(&bytes);
    }

    #[test]
    fn a_bent_topic_is_refused_or_has_one_spelling(seed in 0..TOPICS.len(), bends in bends()) {
        let bytes = bent(TOPICS[seed].as_bytes(), &bends);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.to_string(), text);
        }
    }

    #[test]
    fn a_bent_envelope_is_refused_or_still_says_what_was_signed(bends in bends()) {
        let key = SigningKey::from_bytes(&[1; 32]);
        let mut keys = KeySet::default();
        keys.trust(key.verifying_key().as_bytes(), &[Role::Admin]).unwrap();
        let payload = br#"{"v":1,"id":"01KAHVBV000000000000000007","dev":"press-07","cmd":"data.purge"}"#;
        let bytes = bent(&Envelope::sign(Kind::Command, payload, &[&key]).to_json(), &bends);
        if let Ok(verified) = Envelope::from_json(&bytes).and_then(|envelope| envelope.verify(Kind::Command, &keys)) {
            prop_assert_eq!(verified.payload(), payload);
        }
        for other in [Kind::Desired, Kind::Notice, Kind::Bundle] {
            prop_assert!(Envelope::from_json(&bytes).and_then(|envelope| envelope.verify(other, &keys)).is_err());
        }
    }

    #[test]
    fn a_bent_batch_never_panics(bends in bends()) {
        let seed = Batch { v: 1, cmd: ulid::Ulid::from(9), from: 3, to: 3, rows: vec![], extra: crate::Extra::new() };
        let _ = Batch::from_cbor(&bent(&seed.to_cbor().unwrap(), &bends));
    }
}

#[test]
fn nesting_is_bounded_in_text_and_in_cbor() {
    let deep = "[".repeat(100_000);
    assert!(serde_json::from_str::<Event>(&deep).is_err());
    assert!(Batch::from_cbor(&vec![0x81; 100_000]).is_err());
    let inside = format!(r#"{{"extra":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    assert!(serde_json::from_str::<State>(&inside).is_err());
}
