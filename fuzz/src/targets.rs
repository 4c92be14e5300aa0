//! What is fuzzed: each target takes any bytes, and holds what must be true of whatever is accepted. The repository's tests
//! include this file and replay the corpus through it.
use fleet_protocol::command::Command;
use fleet_protocol::data::Batch;
use fleet_protocol::envelope::{Envelope, Kind};
use fleet_protocol::event::Event;
use fleet_protocol::keys::{KeySet, Role, SigningKey};
use fleet_protocol::names::Micros;
use fleet_protocol::order::{BundleStatement, Desired, Notice, Order};
use fleet_protocol::report::{Birth, DriftReport, ModelReport, Reported, State};
use fleet_protocol::rollout::Rollout;
use fleet_protocol::sparkplug::orders_rebirth;
use fleet_protocol::status::CommandStatus;
use fleet_protocol::topics::{TOPIC_BYTES_MAX, Topic};
use fleet_protocol::transfer::Progress;
use hone_agent::shell::models::read_signature;
use hone_agent::shell::models::vetting;
use hone_agent::shell::trainer::frames::{self, Answer, Job, Word};
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Work;

/// All targets by name.
pub(crate) const TARGETS: [&str; 5] = ["bundle", "envelope", "frame", "topic", "payload"];

/// Seed of the one key that envelopes of the corpus are signed with.
pub(crate) const KEY_SEED: [u8; 32] = [1; 32];

/// Runs one target; returns what came of it, in words without numbers: the kind of its end.
pub(crate) fn run(target: &str, bytes: &[u8]) -> String {
    let text = match target {
        "bundle" => bundle(bytes),
        "envelope" => envelope(bytes),
        "topic" => topic(bytes),
        "payload" => payload(bytes),
        _ => frame(bytes),
    };
    text.chars().filter(|c| !c.is_ascii_digit()).take(120).collect()
}

fn bundle(bytes: &[u8]) -> String {
    let _ = bundle::tensor_names(bytes);
    let outline = bundle::outline(bytes);
    match bundle::read(bytes) {
        Err(error) => error.to_string(),
        Ok(mut model) => {
            assert!(outline.is_ok(), "what reads has an outline");
            assert_eq!(bundle::frozen_difference(bytes, bytes, None).expect("it reads"), None);
            let mut work = Work::default();
            let width = model.schema().features.len();
            for row in model.baseline.chunks_exact(width).take(4) {
                model.embed(row, &mut work);
                assert_eq!(work.answer.len(), model.schema().outputs());
            }
            let (again, _) = bundle::write(&mut model);
            assert!(bundle::read(&again).is_ok(), "what was read can be written and read");
            "read".to_owned()
        }
    }
}

fn envelope(bytes: &[u8]) -> String {
    let mut keys = KeySet::default();
    let public = SigningKey::from_bytes(&KEY_SEED).verifying_key();
    keys.trust(public.as_bytes(), &[Role::Vendor, Role::Operator, Role::Admin]).expect("a good key");
    let _ = read_signature(bytes, Digest::of(b"bundle"), &keys, None);
    let envelope = match Envelope::from_json(bytes) {
        Ok(envelope) => envelope,
        Err(error) => return error.to_string(),
    };
    assert_eq!(Envelope::from_json(&envelope.to_json()).expect("ours reads"), envelope);
    for kind in [Kind::Bundle, Kind::Command, Kind::Desired, Kind::Notice] {
        let Ok(verified) = envelope.verify(kind, &keys) else { continue };
        let parsed = match kind {
            Kind::Bundle => verified.parse::<BundleStatement>().map(drop),
            Kind::Desired => verified.parse::<Desired>().map(drop),
            Kind::Notice => verified.parse::<Notice>().map(drop),
            Kind::Command => verified.parse::<Order>().map(|order| drop(order.command())),
        };
        let signature =
            read_signature(bytes, Digest::of(b"bundle"), &keys, None).map(|(_, standing)| standing.as_str());
        return format!("{kind:?} {parsed:?} {signature:?}");
    }
    envelope.verify(Kind::Bundle, &keys).map_or_else(|error| error.to_string(), |_| "verified".to_owned())
}

/// A topic as a broker may name it.
fn topic(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<Topic>() {
        Ok(topic) => {
            let again = topic.to_string();
            assert_eq!(again, text, "a topic has one spelling");
            assert!(!again.contains(['+', '#', '\0']) && again.len() <= TOPIC_BYTES_MAX, "it can be published to");
            let _ = (topic.delivery(), topic.schema());
            format!("{:?} {}", topic.direction(), topic.schema())
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.len() < 4 * TOPIC_BYTES_MAX, "a log is not flooded");
            shown.split('`').next().unwrap_or_default().to_owned() + shown.rsplit(':').next().unwrap_or_default()
        }
    }
}

/// A payload behind the digit of its kind.
fn payload(bytes: &[u8]) -> String {
    // A macro, for the repository's tests have no name for the bounds of a function.
    macro_rules! json {
        ($message:ty, $bytes:expr) => {
            match serde_json::from_slice::<$message>($bytes) {
                Ok(read) => {
                    let again = serde_json::to_vec(&read).expect("what was read can be written");
                    let twice: $message = serde_json::from_slice(&again).expect("what was written can be read");
                    assert_eq!(twice, read, "nothing is lost on the way");
                    "read".to_owned()
                }
                Err(error) => error.to_string().split(" at line").next().unwrap_or_default().to_owned(),
            }
        };
    }
    let Some((kind, rest)) = bytes.split_first() else { return "empty".to_owned() };
    let end = match kind {
        b'0' => json!(State, rest),
        b'1' => json!(Birth, rest),
        b'2' => json!(Reported, rest),
        b'3' => json!(ModelReport, rest),
        b'4' => json!(DriftReport, rest),
        b'5' => match serde_json::from_slice::<Event>(rest) {
            Ok(event) => {
                let _ = event.topic("press-7".parse().expect("a device"));
                json!(Event, rest)
            }
            Err(error) => error.to_string().split(" at line").next().unwrap_or_default().to_owned(),
        },
        b'6' => json!(CommandStatus, rest),
        b'7' => match serde_json::from_slice::<Rollout>(rest) {
            Ok(rollout) => {
                let next = rollout.step(&std::collections::BTreeMap::new(), None, Micros(i64::MAX));
                let _ = next.orders();
                json!(Rollout, rest)
            }
            Err(error) => error.to_string().split(" at line").next().unwrap_or_default().to_owned(),
        },
        b'8' => match Batch::from_cbor(rest) {
            Ok(batch) => {
                let again = Batch::from_cbor(&batch.to_cbor().expect("it was read")).expect("it was written");
                assert_eq!(again.rows.len(), batch.rows.len());
                "read".to_owned()
            }
            Err(error) => error.to_string(),
        },
        b'9' => Command::from_json(rest).map_or_else(|error| error.to_string(), |command| command.name().to_owned()),
        b's' => format!("rebirth {}", orders_rebirth(rest)),
        b't' => match serde_json::from_slice::<Progress>(rest) {
            Ok(progress) => format!("wants {}", progress.wanted(64).take(100).count() > 0),
            Err(error) => error.to_string().split(" at line").next().unwrap_or_default().to_owned(),
        },
        _ => "of no kind".to_owned(),
    };
    format!("{} {end}", char::from(*kind).escape_default())
}

fn frame(bytes: &[u8]) -> String {
    let mut told = String::new();
    let mut tell = |name: &str, result: Result<(), String>| match result {
        Ok(()) => told.push_str(name),
        Err(error) if told.is_empty() => told.push_str(&error),
        Err(_) => {}
    };
    // A macro, for the repository's tests have no name for the bounds of a function.
    macro_rules! both {
        ($message:ty) => {
            frames::read::<$message>(&mut &*bytes).map_err(|error| error.to_string()).map(|message| {
                let mut again = Vec::new();
                frames::write(&mut again, &message).expect("what was read can be written");
                frames::read::<$message>(&mut again.as_slice()).expect("what was written can be read");
            })
        };
    }
    tell("job ", both!(Job));
    tell("answer ", both!(Answer));
    tell("word ", both!(Word));
    tell("question ", both!(vetting::Question));
    tell("vetted ", both!(vetting::Answer));
    told
}

/// A corpus file as input: a `.delta` is the bytes between a common beginning and a common end of `base`.
pub(crate) fn expand(name: &str, file: Vec<u8>, base: &[u8]) -> Vec<u8> {
    if name.strip_suffix(".delta").is_none() {
        return file;
    }
    let length = |at: usize| {
        file.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let front = (length(0) as usize).min(base.len());
    let back = (length(4) as usize).min(base.len());
    [&base[..front], file.get(8..).unwrap_or_default(), &base[base.len() - back..]].concat()
}
