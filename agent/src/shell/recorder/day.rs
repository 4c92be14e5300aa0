//! A day of 100 samples a second under a travelling clock: the real recorder, the real files, retention as the loop asks for it.
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::decide::time::Timestamp;
use crate::shell::flash;
use crate::shell::store::samples::{label, record};
use crate::shell::store::{FileSettings, NewRecord, Retention};

/// Rows a second, and seconds between two looks of the loop at what the records take.
const RATE: u64 = 100;
const LOOK_S: u64 = 60;

/// What a day did.
#[derive(Debug)]
struct Day {
    recorded: u64,
    recorded_bytes: u64,
    written_bytes: Option<u64>,
    most_bytes: u64,
    least_bytes: u64,
    status: RecorderStatus,
    labelled: i64,
}

/// `hours` of it with rows of `features`, within `keep_bytes`; every 500th row is labelled.
fn live(folder: &Path, hours: u64, features: usize, keep_bytes: u64) -> Day {
    let files = FileSettings { partition_bytes_max: keep_bytes / 16, ..FileSettings::default() };
    let (writer, _) = RecordWriter::open(&folder.join("records"), files).unwrap();
    let reader = writer.reader();
    let settings = RecorderSettings { group_rows: 100, ..RecorderSettings::default() };
    let mut batcher = Batcher::new(writer, settings, Arc::new(Shared::default()));
    let retention = Retention { keep_bytes, free: None, age: None, every: 10, thin_share: 0.25, needed_from: i64::MAX };
    let before = flash::written_bytes();
    let (mut most_bytes, mut least_bytes, mut recorded_bytes) = (0, u64::MAX, 0);
    for second in 0..hours * 3_600 {
        let at = Timestamp(i64::try_from(1_795_000_000 + second).unwrap() * 1_000_000);
        for row in 0..RATE {
            let number = second * RATE + row;
            let record = NewRecord { features: vec![0.25; features], ..record(number, at) };
            recorded_bytes += record.bytes();
            assert!(batcher.handle(Message::Record(record)).is_continue());
        }
        if second % 5 == 4 {
            let (reply, _) = oneshot::channel();
            let label = NewLabel { at, ..label(second * RATE, "lab", 1.0) };
            assert!(batcher.handle(Message::Label(label, reply)).is_continue());
        }
        if second % LOOK_S == LOOK_S - 1 {
            most_bytes = most_bytes.max(reader.counts().unwrap().bytes);
            let (reply, _) = oneshot::channel();
            assert!(batcher.handle(Message::Retain(retention, reply)).is_continue());
            let bytes = reader.counts().unwrap().bytes;
            most_bytes = most_bytes.max(bytes);
            if second > hours * 3_600 / 2 {
                least_bytes = least_bytes.min(bytes);
            }
        }
    }
    batcher.close();
    let written_bytes = flash::written_bytes().zip(before).map(|(after, before)| after - before);
    let (status, counts) = (batcher.shared.status(), reader.counts().unwrap());
    Day {
        recorded: status.recorded,
        recorded_bytes,
        written_bytes,
        most_bytes,
        least_bytes,
        status,
        labelled: counts.labels,
    }
}

fn holds(day: &Day, hours: u64, keep_bytes: u64) {
    assert_eq!((day.recorded, day.status.unrecorded, day.status.dropped), (hours * 3_600 * RATE, 0, 0), "{day:?}");
    assert!(day.most_bytes * 100 <= keep_bytes * 105, "never more than 5 % over: {day:?}");
    assert!(day.least_bytes * 100 >= keep_bytes * 80, "and the budget is used: {day:?}");
    assert!(day.status.partitions_thinned > 0 && day.labelled > 0, "{day:?}");
    assert!(hours < 24 || day.status.partitions_dropped > 0, "{day:?}");
}

#[test]
fn an_hour_of_a_hundred_samples_a_second_holds_its_disk_budget() {
    const KEEP: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    holds(&live(folder.path(), 1, 16, KEEP), 1, KEEP);
}

#[test]
#[ignore = "long: 24 simulated hours of 100 samples a second; run by .ci/nightly"]
fn a_day_of_a_hundred_samples_a_second_holds_its_disk_budget() {
    const KEEP: u64 = 256 << 20;
    // Not in memory: what is written is part of what is measured.
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let begun = Instant::now();
    let day = live(folder.path(), 24, 16, KEEP);
    println!(
        "{} rows, {} bytes recorded, {:?} written ({:.2} x), at most {} bytes of {KEEP}, {:.0} s",
        day.recorded,
        day.recorded_bytes,
        day.written_bytes,
        day.written_bytes.map_or(f64::NAN, |written| written as f64 / day.recorded_bytes as f64),
        day.most_bytes,
        begun.elapsed().as_secs_f64()
    );
    println!("{day:?}");
    holds(&day, 24, KEEP);
    assert!(day.written_bytes.is_none_or(|written| written <= 4 * day.recorded_bytes), "{day:?}");
}
