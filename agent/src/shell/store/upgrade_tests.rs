//! From the first layout to this one: files as the first release wrote them are read, added to, and never called damaged.
use std::fs;
use std::path::Path;

use super::samples::{DAY_US, label, record};
use super::*;
use crate::decide::time::Timestamp;

/// A state directory as layout 1 left it.
fn first_layout() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("records")).unwrap();
    let records = folder.path().join("records/0000000000000001-2026-11-20.db");
    fs::write(records, include_bytes!("migrations/fixtures/records_1.db")).unwrap();
    fs::write(folder.path().join("control.db"), include_bytes!("migrations/fixtures/control_1.db")).unwrap();
    folder
}

fn set_version(path: &Path, version: i64) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "user_version", version).unwrap();
}

#[test]
fn a_state_of_the_first_layout_keeps_every_row_and_takes_new_ones() {
    let folder = first_layout();
    for start in 0..2 {
        let mut state = StateDir::open(folder.path()).unwrap();
        assert_eq!(state.set_aside, [], "start {start}");
        let cycle = state.control.cycle().unwrap().unwrap();
        assert_eq!((cycle.generation, cycle.state.as_slice()), (7 + start, b"{\"layout\":1}".as_slice()));
        assert_eq!(state.control.reports_newest(9).unwrap()[0].report.kind, "drift");
        let run = state.control.run(1).unwrap().unwrap();
        assert_eq!(
            (run.state.as_str(), run.rows, run.joules_modelled, run.cost),
            ("promoted", 445, Some(2.5), RunCost::default())
        );
        assert_eq!(state.control.models().unwrap()[0].status, ModelStatus::Champion);
        let rows = state.reader().labelled_since(0, 9).unwrap();
        assert_eq!((rows[0].ordinal, rows[0].seq, rows[0].features.as_slice()), (4, 2, [1.0, 2.0, 2.0].as_slice()));
        // What is new in the layouts since then can be written.
        let number = 10 + u64::try_from(start).unwrap();
        let outcome = state.records.commit(&[record(number, Timestamp(DAY_US))], &[label(number, "lab", 1.0)]).unwrap();
        assert!(matches!(outcome[0], LabelOutcome::Stored { ordinal: 5.., .. }), "{outcome:?}");
        assert_eq!(state.records.next_seq(), 5 + start);
        state.control.commit(&CycleRow { generation: 8 + start, state: cycle.state }, &[], &[], &[]).unwrap();
    }
    let state = StateDir::open(folder.path()).unwrap();
    assert_eq!(state.reader().recent(9, None).unwrap().len(), 5);
}

#[test]
fn a_downgrade_is_refused_with_the_reason_and_touches_nothing() {
    for name in ["control.db", "records/0000000000000001-2026-11-20.db"] {
        let folder = first_layout();
        drop(StateDir::open(folder.path()).unwrap());
        let path = folder.path().join(name);
        set_version(&path, 99);
        let before = fs::read(&path).unwrap();
        let refused = StateDir::open(folder.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Newer { found: 99, .. }), "{refused}");
        assert!(refused.to_string().contains("install the newer hone again"), "{refused}");
        assert_eq!((refused.exit_code(), fs::read(&path).unwrap() == before), (7, true));
    }
}

#[test]
fn a_step_that_was_released_is_never_edited() {
    // The first digits of the sha-256 of each step: a change to a layout is the next file.
    let steps: [(&str, &[u8], &str); 6] = [
        ("control_1.sql", include_bytes!("migrations/control_1.sql"), "f669abe915380765"),
        ("control_2.sql", include_bytes!("migrations/control_2.sql"), "8d9315d49103e51a"),
        ("control_3.sql", include_bytes!("migrations/control_3.sql"), "f7a4915ee93242f9"),
        ("control_4.sql", include_bytes!("migrations/control_4.sql"), "38be8c6b1cc5a3e3"),
        ("records_1.sql", include_bytes!("migrations/records_1.sql"), "89d1d8cfdcd28845"),
        ("records_2.sql", include_bytes!("migrations/records_2.sql"), "5576f5e1efdf3a8d"),
    ];
    for (name, bytes, sha256) in steps {
        assert_eq!(&Digest::of(bytes).to_string()[..16], sha256, "{name} was edited: add a step instead");
    }
}
