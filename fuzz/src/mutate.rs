//! Mutations: of bytes, and of what the bytes mean, so that checksums, signatures and lengths do not hide what lies behind.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_protocol::envelope::{Envelope, Kind};
use fleet_protocol::keys::SigningKey;
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::targets::KEY_SEED;

/// Longest input made.
pub const LONGEST: usize = 1 << 20;

/// xorshift64*, one stream per run.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { usize::try_from(self.next() >> 33).unwrap_or(0) % limit }
    }
}

/// A new input from `parent`, with parts of `other`.
pub fn mutated(target: &str, parent: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut input = parent.to_vec();
    match (target, chance.below(3)) {
        ("bundle", 0) => bundle_header(&mut input, chance, false),
        ("bundle", 1) => bundle_header(&mut input, chance, true),
        ("envelope", 0 | 1) => envelope_payload(&mut input, chance),
        ("payload", 0 | 1) => payload(&mut input, chance),
        ("topic", 0) => levels(&mut input, other, chance),
        ("frame", 0 | 1) => {
            bytes(&mut input, other, chance);
            if let Some(length) = input.len().checked_sub(8).and_then(|length| u32::try_from(length).ok()) {
                input[..4].copy_from_slice(b"hnt3");
                input[4..8].copy_from_slice(&length.to_le_bytes());
            }
        }
        _ => bytes(&mut input, other, chance),
    }
    input.truncate(LONGEST);
    input
}

fn bytes(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    const NUMBERS: [u64; 9] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, u32::MAX as u64, u64::MAX];
    for _ in 0..1 + chance.below(4) {
        // The beginning holds lengths and texts, so it is struck more often.
        let reach = if chance.below(2) == 0 { input.len().min(4_096) } else { input.len() };
        let at = chance.below(reach);
        match chance.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << chance.below(8),
            1 if !input.is_empty() => input[at] = u8::try_from(chance.next() & 0xff).unwrap_or(0),
            2 => input.insert(at.min(input.len()), u8::try_from(chance.next() & 0xff).unwrap_or(0)),
            3 if !input.is_empty() => {
                let end = (at + 1 + chance.below(64)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let number = NUMBERS[chance.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][chance.below(4)];
                let end = (at + width).min(input.len());
                let part = end - at.min(end);
                input[at.min(end)..end].copy_from_slice(&number[..part]);
            }
            5 => {
                let from = chance.below(other.len());
                let part = other[from..(from + chance.below(256)).min(other.len())].to_vec();
                input.splice(at..at, part);
            }
            6 => {
                let end = (at + chance.below(512)).min(input.len());
                let part = input[at.min(end)..end].to_vec();
                input.splice(at..at, part);
            }
            _ => input.truncate(at),
        }
    }
}

/// Changes one place of a JSON value to something else of any kind.
fn json(value: &mut Value, chance: &mut Chance) {
    const STRANGE: [&str; 14] = [
        "null",
        "true",
        "-1",
        "0",
        "1",
        "8192",
        "4294967296",
        "18446744073709551615",
        "1e308",
        "-0.0",
        "\"\"",
        "[]",
        "{}",
        "[0,0,0]",
    ];
    let descend = chance.below(5) != 0;
    match value {
        Value::Object(map) if descend && !map.is_empty() => {
            let at = chance.below(map.len());
            if chance.below(12) == 0 {
                let key = map.keys().nth(at).cloned().unwrap_or_default();
                map.remove(&key);
            } else if let Some((_, inner)) = map.iter_mut().nth(at) {
                json(inner, chance);
            }
        }
        Value::Array(list) if descend && !list.is_empty() => {
            let at = chance.below(list.len());
            match chance.below(12) {
                0 => drop(list.remove(at)),
                1 => {
                    let copy = list[at].clone();
                    (0..1 + chance.below(40)).for_each(|_| list.push(copy.clone()));
                }
                _ => json(&mut list[at], chance),
            }
        }
        Value::Number(number) if chance.below(2) == 0 => {
            let by = [0.0, -1.0, 0.5, 2.0, 1e6][chance.below(5)];
            let changed = number.as_f64().unwrap_or(0.0) * by;
            *value = if chance.below(2) == 0 { Value::from(changed as i64) } else { Value::from(changed) };
        }
        Value::String(text) if chance.below(2) == 0 => {
            let mut bytes = text.clone().into_bytes();
            self::bytes(&mut bytes, b"\xf0\x9f\x92\xa9\\u0000,{}[]:\"", chance);
            *value = Value::String(String::from_utf8_lossy(&bytes).into_owned());
        }
        _ => *value = serde_json::from_str(STRANGE[chance.below(STRANGE.len())]).unwrap_or_default(),
    }
}

/// Changes the header, or the manifest inside it, and mends the header's length and, if `sealed`, the checksum.
fn bundle_header(input: &mut Vec<u8>, chance: &mut Chance, sealed: bool) {
    let Some(claimed) = input.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else { return };
    let Some(end) = usize::try_from(claimed).ok().and_then(|claimed| claimed.checked_add(8)) else { return };
    let Some(Ok(mut header)) = input.get(8..end).map(serde_json::from_slice::<Value>) else { return };
    if sealed && chance.below(3) == 0 && input.len() > end {
        // The weights themselves.
        let at = end + chance.below(input.len() - end);
        let strange = [f32::NAN, f32::INFINITY, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, -1.0][chance.below(7)];
        let to = (at + 4).min(input.len());
        let width = to - at;
        input[at..to].copy_from_slice(&strange.to_le_bytes()[..width]);
    } else if let Some(Value::String(text)) =
        header.pointer_mut("/__metadata__/hone.manifest").filter(|_| sealed || chance.below(2) == 0)
    {
        let Ok(mut manifest) = serde_json::from_str::<Value>(text) else { return };
        (0..1 + chance.below(2)).for_each(|_| json(&mut manifest, chance));
        *text = manifest.to_string();
    } else {
        json(&mut header, chance);
    }
    let body = input.split_off(end);
    *input = with_header(&header, &body);
    if sealed && let Some(check) = check(input) {
        let Some(Value::String(text)) = header.pointer_mut("/__metadata__/hone.manifest") else { return };
        let Ok(mut manifest) = serde_json::from_str::<Value>(text) else { return };
        if let Some(place) = manifest.get_mut("check") {
            *place = Value::String(check);
            *text = manifest.to_string();
            *input = with_header(&header, &body);
        }
    }
}

fn with_header(header: &Value, body: &[u8]) -> Vec<u8> {
    let mut text = header.to_string();
    while text.len() % 8 != 0 {
        text.push(' ');
    }
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), body].concat()
}

/// The checksum a bundle of this content would have; the same sum as in `trainer_core::bundle`.
fn check(input: &[u8]) -> Option<String> {
    let (_, metadata) = SafeTensors::read_metadata(input).ok()?;
    let mut manifest: Value = serde_json::from_str(metadata.metadata().as_ref()?.get("hone.manifest")?).ok()?;
    *manifest.get_mut("check")? = Value::String(String::new());
    let (text, file) = (manifest.to_string(), SafeTensors::deserialize(input).ok()?);
    let mut tensors = file.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = Sha256::new();
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(&text);
    for (name, view) in tensors {
        hash.update(format!("{name} {:?} {}\n", view.shape(), view.data().len()));
        hash.update(view.data());
    }
    Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Changes the JSON behind the digit of a payload's kind.
fn payload(input: &mut Vec<u8>, chance: &mut Chance) {
    let Some((kind, rest)) = input.split_first() else { return };
    match serde_json::from_slice::<Value>(rest) {
        Ok(mut value) => {
            let kind = *kind;
            (0..1 + chance.below(3)).for_each(|_| json(&mut value, chance));
            *input = [&[kind], value.to_string().as_bytes()].concat();
        }
        Err(_) => bytes(input, b"{\"kind\":1}", chance),
    }
}

/// Exchanges, repeats or removes whole levels of a topic.
fn levels(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let mut levels: Vec<Vec<u8>> = input.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
    let theirs: Vec<&[u8]> = other.split(|byte| *byte == b'/').collect();
    let at = chance.below(levels.len());
    match chance.below(4) {
        0 => levels[at] = theirs[chance.below(theirs.len())].to_vec(),
        1 => levels.insert(at, theirs[chance.below(theirs.len())].to_vec()),
        2 if levels.len() > 1 => drop(levels.remove(at)),
        _ => bytes(&mut levels[at], b"+#\0\xc3\xa9", chance),
    }
    *input = levels.join(&b'/');
}

/// Changes what was signed and signs it again.
fn envelope_payload(input: &mut Vec<u8>, chance: &mut Chance) {
    let Ok(outer) = serde_json::from_slice::<Value>(input) else { return };
    let payload = outer.get("payload").and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    let Some(mut payload) = payload else { return };
    match serde_json::from_slice::<Value>(&payload) {
        Ok(mut value) if chance.below(4) != 0 => {
            (0..1 + chance.below(3)).for_each(|_| json(&mut value, chance));
            payload = value.to_string().into_bytes();
        }
        _ => bytes(&mut payload, b"{\"v\":1}", chance),
    }
    let kind = [Kind::Bundle, Kind::Command, Kind::Desired, Kind::Notice][chance.below(4)];
    *input = Envelope::sign(kind, &payload, &[&SigningKey::from_bytes(&KEY_SEED)]).to_json();
}
