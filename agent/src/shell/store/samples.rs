//! Records and labels for tests: any number gives the same ones everywhere.
use std::fs;
use std::path::Path;

use trainer_core::digest::Digest;
use ulid::Ulid;

use super::{NewLabel, NewRecord};
use crate::decide::time::Timestamp;

pub(crate) const DAY_US: i64 = 86_400_000_000;

/// Record `number`, which arrived at `at`; its numbers have all kinds of bits, also those of `NaN`.
pub(crate) fn record(number: u64, at: Timestamp) -> NewRecord {
    let bits = |place: u64| {
        let mixed = (number * 31 + place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        f32::from_bits(u32::try_from(mixed >> 32).expect("32 bits"))
    };
    let mut features: Vec<f32> = (0..5).map(bits).collect();
    features.extend([f32::NAN, f32::from_bits(0x7FA0_0001), -0.0, f32::NEG_INFINITY]);
    NewRecord {
        id: Ulid::from(u128::from(number) << 80 | 0xA11),
        event_at: Timestamp(at.0.wrapping_sub(5)),
        arrived_at: at,
        source: format!("pump-{}", number % 3),
        segment: number.is_multiple_of(2).then(|| format!("line-{}", number % 4)),
        model: Digest::of(&[u8::from(number.is_multiple_of(7))]),
        features,
        output: vec![bits(90), bits(91)],
        adaptation: i64::try_from(number % 4).expect("small"),
        missing: 1,
    }
}

/// What `source` says of record `number`.
pub(crate) fn label(number: u64, source: &str, truth: f32) -> NewLabel {
    let NewRecord { id, .. } = record(number & 0xFFFF_FFFF, Timestamp(0));
    NewLabel { id, truth: vec![truth], source: source.to_owned(), at: Timestamp(0) }
}

/// Panics unless both are equal bit by bit.
pub(crate) fn assert_same(one: &NewRecord, other: &NewRecord) {
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
    let rest = |record: &NewRecord| NewRecord { features: Vec::new(), output: Vec::new(), ..record.clone() };
    assert_eq!(bits(&one.features), bits(&other.features));
    assert_eq!(bits(&one.output), bits(&other.output));
    assert_eq!(rest(one), rest(other));
}

/// Copies the files of a folder as they are at this moment: what a killed process leaves behind.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        // The index of the log is memory shared by processes; it is built anew.
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}
