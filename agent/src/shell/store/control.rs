//! `control.db`: the one commit point. State, reports, ledger and lineage change together or not at all.
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use trainer_core::digest::Digest;

use super::commands::{self, CommandRow};
use super::cycle::{self, CycleRow};
use super::format::{self, Format, Synchronous};
use super::ledger::{self, RunRow};
use super::lineage::{self, ModelRow};
use super::reports::{self, ReportRow, StoredReport};
use super::{SetAside, StoreError, set_aside_database};

const FORMAT: Format = Format {
    application_id: 0x686F_6E63, // "honc"
    steps: &[
        include_str!("migrations/control_1.sql"),
        include_str!("migrations/control_2.sql"),
        include_str!("migrations/control_3.sql"),
        include_str!("migrations/control_4.sql"),
    ],
    tables: &["cycle", "cycle_part", "report", "run", "model", "outbox", "parked", "command", "replay"],
};

/// The only writing connection to `control.db`; the daemon loop owns it.
#[derive(Debug)]
pub struct Control {
    connection: Connection,
    path: PathBuf,
}

impl Control {
    /// Opens or creates the database `path`. One that cannot be read is set aside, never deleted, and an empty one takes
    /// its place; the second value tells.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if a newer `hone` wrote it; [`StoreError::Io`] or [`StoreError::Sqlite`] if the disk refuses.
    pub fn open(path: &Path) -> Result<(Self, Option<SetAside>), StoreError> {
        match Self::open_sound(path) {
            Err(damage) if damage.is_damage() => {
                let aside = set_aside_database(path, &damage)?;
                Ok((Self::open_sound(path)?, Some(aside)))
            }
            opened => Ok((opened?, None)),
        }
    }

    fn open_sound(path: &Path) -> Result<Self, StoreError> {
        // FULL: what was committed here has been acted upon, a power cut must not take it back.
        let connection = format::open(path, &FORMAT, Synchronous::Full)?;
        let verdict: String = connection
            .pragma_query_value(None, "quick_check", |row| row.get(0))
            .map_err(StoreError::sqlite("check", path))?;
        if verdict != "ok" {
            return Err(StoreError::Unreadable { path: path.to_owned(), reason: verdict });
        }
        let control = Self { connection, path: path.to_owned() };
        // Read everything once: what cannot be decoded now must not stop the loop later.
        control.cycle()?;
        control.models()?;
        Ok(control)
    }

    /// Stores the new state together with what it causes, in one durable transaction. Repeating a commit is harmless:
    /// reports are known by id, runs by number, models by digest.
    ///
    /// # Errors
    /// [`StoreError::Stale`] if a later generation is stored; [`StoreError::Sqlite`] if the disk refuses. Nothing is
    /// changed then, and the same commit may be tried again.
    pub fn commit(
        &mut self,
        cycle: &CycleRow,
        reports: &[ReportRow],
        runs: &[RunRow],
        models: &[ModelRow],
    ) -> Result<(), StoreError> {
        self.commit_with(cycle, reports, runs, models, &[])
    }

    /// [`Control::commit`], together with how commands of the fleet stand thereby.
    ///
    /// # Errors
    /// As [`Control::commit`].
    pub fn commit_with(
        &mut self,
        cycle: &CycleRow,
        reports: &[ReportRow],
        runs: &[RunRow],
        models: &[ModelRow],
        commands: &[CommandRow],
    ) -> Result<(), StoreError> {
        let failed = StoreError::sqlite("write", &self.path);
        let transaction = self.connection.transaction().map_err(&failed)?;
        if let Some(stored) = cycle::generation(&transaction).map_err(&failed)?
            && stored > cycle.generation
        {
            return Err(StoreError::Stale { path: self.path.clone(), stored, given: cycle.generation });
        }
        let write = || -> rusqlite::Result<()> {
            cycle::write(&transaction, cycle)?;
            reports.iter().try_for_each(|row| reports::write(&transaction, row))?;
            runs.iter().try_for_each(|row| ledger::write(&transaction, row))?;
            models.iter().try_for_each(|row| lineage::write(&transaction, row))?;
            commands.iter().try_for_each(|row| commands::write(&transaction, row))
        };
        write().map_err(&failed)?;
        #[cfg(test)]
        power::cut(power::Moment::Before);
        transaction.commit().map_err(&failed)?;
        #[cfg(test)]
        power::cut(power::Moment::After);
        Ok(())
    }

    /// The stored state; none before the first commit.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if its bytes changed on the disk; [`StoreError::Sqlite`] if it cannot be read.
    pub fn cycle(&self) -> Result<Option<CycleRow>, StoreError> {
        let stored = self.read(cycle::read)?;
        stored.transpose().map_err(|reason| StoreError::Unreadable { path: self.path.clone(), reason })
    }

    /// At most `limit` reports stored after `position` (0 for all), oldest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn reports_after(&self, position: i64, limit: usize) -> Result<Vec<StoredReport>, StoreError> {
        self.read(|connection| reports::after(connection, position, limit))
    }

    /// The newest `limit` reports, newest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn reports_newest(&self, limit: usize) -> Result<Vec<StoredReport>, StoreError> {
        self.read(|connection| reports::newest(connection, limit))
    }

    /// Deletes the reports up to and including `position`, and returns how many those were. Their ids are forgotten too.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the disk refuses.
    pub fn forget_reports_through(&mut self, position: i64) -> Result<usize, StoreError> {
        reports::forget_through(&self.connection, position).map_err(StoreError::sqlite("write", &self.path))
    }

    /// The retrain of that number.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if it cannot be read.
    pub fn run(&self, number: i64) -> Result<Option<RunRow>, StoreError> {
        self.read(|connection| ledger::find(connection, number))
    }

    /// The newest `limit` retrains, newest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn runs_newest(&self, limit: usize) -> Result<Vec<RunRow>, StoreError> {
        self.read(|connection| ledger::newest(connection, limit))
    }

    /// The model of that digest.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if it cannot be read.
    pub fn model(&self, digest: &Digest) -> Result<Option<ModelRow>, StoreError> {
        self.read(|connection| lineage::find(connection, digest))
    }

    /// All models ever known, in the order they came.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn models(&self) -> Result<Vec<ModelRow>, StoreError> {
        self.read(lineage::all)
    }

    /// Sets the whole database aside and begins an empty one: for a state whose bytes are sound but mean nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Sqlite`] if the disk refuses.
    pub fn set_aside(self, reason: &str) -> Result<(Self, SetAside), StoreError> {
        let Self { connection, path } = self;
        connection.close().map_err(|(_, source)| StoreError::sqlite("close", &path)(source))?;
        let aside =
            set_aside_database(&path, &StoreError::Unreadable { path: path.clone(), reason: reason.to_owned() })?;
        Ok((Self::open_sound(&path)?, aside))
    }

    /// Writes in one transaction of its own.
    pub(super) fn write<T>(
        &mut self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let failed = StoreError::sqlite("write", &self.path);
        let transaction = self.connection.transaction().map_err(&failed)?;
        let value = change(&transaction).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        Ok(value)
    }

    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        query(&self.connection).map_err(StoreError::sqlite("read", &self.path))
    }
}

/// Tells a test of each commit, so that it can look at the files around it.
#[cfg(test)]
pub(crate) mod power {
    use std::cell::RefCell;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Moment {
        Before,
        After,
    }

    type Listener = Box<dyn FnMut(Moment)>;

    thread_local! {
        static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
    }

    pub(crate) fn listen(listener: Option<Listener>) {
        LISTENER.with_borrow_mut(|slot| *slot = listener);
    }

    pub(super) fn cut(moment: Moment) {
        // Taken out while it listens: it may commit itself.
        let listener = LISTENER.take();
        if let Some(mut listener) = listener {
            listener(moment);
            LISTENER.set(Some(listener));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;
    use crate::decide::time::Timestamp;
    use crate::shell::store::{ModelStatus, RunCost, RunGain};

    fn cycle(generation: i64) -> CycleRow {
        CycleRow { generation, state: generation.to_le_bytes().repeat(100) }
    }

    fn report(number: u128) -> ReportRow {
        let at = Timestamp(-i64::try_from(number).unwrap());
        ReportRow { id: Ulid::from(number), kind: "promoted".to_owned(), json: format!("{{\"n\":{number}}}"), at }
    }

    fn run(number: i64, state: &str) -> RunRow {
        RunRow {
            number,
            state: state.to_owned(),
            parent: Digest::of(b"parent"),
            candidate: (state == "finished").then(|| Digest::of(b"candidate")),
            snapshot: Some(Digest::of(b"snapshot")),
            strategy: "head".to_owned(),
            reason: Some("drift".to_owned()),
            rows: 445,
            cpu_s: 0.125,
            joules_modelled: None,
            verdict: (state == "finished").then(|| "{}".to_owned()),
            cost: RunCost::default(),
            gain: RunGain::default(),
            started_at: Timestamp(5),
            finished_at: (state == "finished").then_some(Timestamp(6)),
        }
    }

    fn model(name: &str, status: ModelStatus) -> ModelRow {
        let digest = Digest::of(name.as_bytes());
        ModelRow { digest, role: "device".to_owned(), parent: None, run: Some(1), installed_at: Timestamp(7), status }
    }

    fn open(folder: &Path) -> Control {
        let (control, aside) = Control::open(&folder.join("control.db")).unwrap();
        assert_eq!(aside, None);
        control
    }

    #[test]
    fn state_reports_runs_and_models_of_one_commit_read_back_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = open(folder.path());
        let models = [model("factory", ModelStatus::Factory), model("new", ModelStatus::Candidate)];
        control.commit(&cycle(1), &[report(1)], &[run(1, "training")], &models).unwrap();
        control.commit(&cycle(2), &[], &[run(1, "finished")], &[model("new", ModelStatus::Champion)]).unwrap();
        drop(control);
        let control = open(folder.path());
        assert_eq!(control.cycle().unwrap(), Some(cycle(2)));
        assert_eq!(control.run(1).unwrap(), Some(run(1, "finished")));
        assert_eq!(control.run(2).unwrap(), None);
        assert_eq!(control.runs_newest(5).unwrap(), [run(1, "finished")]);
        assert_eq!(control.model(&Digest::of(b"new")).unwrap(), Some(model("new", ModelStatus::Champion)));
        assert_eq!(control.models().unwrap().len(), 2);
    }

    #[test]
    fn a_report_stored_twice_is_there_once_and_order_is_that_of_the_commits() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = open(folder.path());
        control.commit(&cycle(1), &[report(9), report(3)], &[], &[]).unwrap();
        control.commit(&cycle(1), &[report(9), report(5)], &[], &[]).unwrap();
        let ids = |reports: Vec<StoredReport>| reports.iter().map(|stored| stored.report.id.0).collect::<Vec<_>>();
        assert_eq!(ids(control.reports_after(0, 10).unwrap()), [9, 3, 5]);
        assert_eq!(ids(control.reports_newest(2).unwrap()), [5, 3]);
        let second = control.reports_after(0, 10).unwrap()[1].position;
        assert_eq!(control.forget_reports_through(second).unwrap(), 2);
        assert_eq!(ids(control.reports_after(second, 10).unwrap()), [5]);
        control.forget_reports_through(i64::MAX).unwrap();
        control.commit(&cycle(2), &[report(6)], &[], &[]).unwrap();
        assert!(control.reports_newest(1).unwrap()[0].position > second + 1, "positions are not used again");
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one_and_brings_no_reports_in() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = open(folder.path());
        control.commit(&cycle(5), &[], &[], &[]).unwrap();
        let refused = control.commit(&cycle(4), &[report(1)], &[], &[]).unwrap_err();
        assert!(matches!(refused, StoreError::Stale { stored: 5, given: 4, .. }));
        assert_eq!((control.cycle().unwrap(), control.reports_newest(9).unwrap()), (Some(cycle(5)), vec![]));
    }

    #[test]
    fn a_state_whose_bytes_changed_on_the_disk_is_set_aside_and_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = open(folder.path());
        control.commit(&cycle(5), &[], &[], &[]).unwrap();
        control.connection.execute("UPDATE cycle_part SET bytes = zeroblob(800)", []).unwrap();
        drop(control);
        let (control, aside) = Control::open(&folder.path().join("control.db")).unwrap();
        let aside = aside.unwrap();
        assert!(aside.path.ends_with("control.db.damaged-1") && aside.reason.contains("sha-256"), "{aside:?}");
        assert_eq!(control.cycle().unwrap(), None);
        let (control, aside) = control.set_aside("the state means nothing").unwrap();
        assert!(aside.path.ends_with("control.db.damaged-2"));
        assert_eq!(control.cycle().unwrap(), None);
    }

    #[test]
    fn a_control_database_of_a_newer_hone_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let control = open(folder.path());
        control.connection.pragma_update(None, "user_version", 99).unwrap();
        drop(control);
        let path = folder.path().join("control.db");
        assert!(matches!(Control::open(&path), Err(StoreError::Newer { found: 99, known: 4, .. })));
        assert!(path.exists() && fs::read_dir(folder.path()).unwrap().count() == 1);
    }

    #[test]
    fn a_full_disk_refuses_the_whole_commit_and_it_may_be_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = open(folder.path());
        control.commit(&cycle(1), &[], &[], &[]).unwrap();
        control.connection.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(())).unwrap();
        let large = CycleRow { generation: 2, state: vec![7; 100_000] };
        let refused = control.commit(&large, &[report(1)], &[], &[]).unwrap_err();
        assert!(refused.is_disk());
        assert_eq!((control.cycle().unwrap(), control.reports_newest(9).unwrap()), (Some(cycle(1)), vec![]));
        control.connection.pragma_update_and_check(None, "max_page_count", 10_000, |_| Ok(())).unwrap();
        control.commit(&large, &[report(1)], &[], &[]).unwrap();
        assert_eq!(control.cycle().unwrap(), Some(large));
    }

    #[test]
    fn a_header_damaged_at_any_byte_never_keeps_the_agent_from_starting() {
        for place in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let mut control = open(folder.path());
            control.commit(&cycle(1), &[], &[], &[]).unwrap();
            drop(control);
            let path = folder.path().join("control.db");
            let mut bytes = fs::read(&path).unwrap();
            bytes[place] = 0x5A;
            fs::write(&path, &bytes).unwrap();
            match Control::open(&path) {
                Ok((control, None)) => assert_eq!(control.cycle().unwrap(), Some(cycle(1)), "byte {place}"),
                Ok((_, Some(aside))) => assert!(aside.path.exists()),
                Err(error) => assert!(matches!(error, StoreError::Newer { .. }), "byte {place}: {}", error.chain()),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever a power cut or a dying card leaves of the file, the agent starts, and the damaged file is kept.
        #[test]
        fn any_overwritten_stretch_is_noticed_or_harmless(place in 0_usize..40_000, length in 1_usize..3000) {
            let folder = tempfile::tempdir().unwrap();
            let mut control = open(folder.path());
            let reports: Vec<_> = (1..100).map(report).collect();
            control.commit(&cycle(1), &reports, &[run(1, "training")], &[model("a", ModelStatus::Factory)]).unwrap();
            drop(control);
            let path = folder.path().join("control.db");
            let mut bytes = fs::read(&path).unwrap();
            let place = place % bytes.len();
            let end = (place + length).min(bytes.len());
            bytes[place..end].fill(0x5A);
            fs::write(&path, &bytes).unwrap();
            match Control::open(&path) {
                Ok((control, Some(aside))) => {
                    prop_assert!(aside.path.exists());
                    prop_assert_eq!(control.cycle().unwrap(), None);
                }
                Ok((control, None)) => prop_assert_eq!(control.cycle().unwrap(), Some(cycle(1))),
                Err(error) => prop_assert!(matches!(error, StoreError::Newer { .. }), "{}", error.chain()),
            }
        }
    }
}
