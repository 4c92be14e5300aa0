//! The table `run`: the ledger of retrains, what each cost and how it ended.
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use super::{digest_column, optional_digest_column};
use crate::decide::time::Timestamp;

/// One retrain. The row is rewritten, under the same number, each time the retrain gets further.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Counts retrains from 1.
    pub number: i64,
    /// How far it is, in the words of the decide part.
    pub state: String,
    /// The model it started from.
    pub parent: Digest,
    /// The model it made, once there is one.
    pub candidate: Option<Digest>,
    /// The snapshot it learned from, once written.
    pub snapshot: Option<Digest>,
    /// `head`, `tail` or `full`.
    pub strategy: String,
    /// Why it was ordered: `drift`, `schedule`, `staleness`, `command` or `offer`; none in runs of older versions.
    pub reason: Option<String>,
    /// Training rows.
    pub rows: i64,
    /// CPU seconds used so far, over all attempts.
    pub cpu_s: f64,
    /// Joules by the power model; none if there is no model for this board.
    pub joules_modelled: Option<f64>,
    /// The gate's verdict as JSON, once given.
    pub verdict: Option<String>,
    /// What else it took, as far as it is known.
    pub cost: RunCost,
    /// What it gained, as far as it is known.
    pub gain: RunGain,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended, however it ended.
    pub finished_at: Option<Timestamp>,
}

/// What a retrain took, beside CPU time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunCost {
    /// Wall seconds, over all attempts.
    pub wall_s: Option<f64>,
    /// Joules above what the board draws at rest.
    pub joules: Option<f64>,
    /// ± joules.
    pub joules_error: Option<f64>,
    /// The sensor behind `joules`, or `model`.
    pub joules_source: Option<String>,
    /// Peak resident memory of the trainer in bytes.
    pub peak_bytes: Option<i64>,
    /// Bytes written to the disk: snapshot, checkpoints, bundle.
    pub bytes_written: Option<i64>,
}

/// What a retrain gained, each a paired comparison of champion and candidate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunGain {
    /// On the held-out rows.
    pub holdout: Option<Interval>,
    /// On the factory's anchors.
    pub anchors: Option<Interval>,
    /// In each segment, by name.
    pub segments: Option<Vec<(String, Interval)>>,
    /// In service, against the champion of before on a sample of the traffic.
    pub realised: Option<Interval>,
}

/// A gain in mean loss (for 0/1 losses: in accuracy) with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Rows compared.
    pub rows: u64,
    /// Mean loss of the champion less that of the candidate.
    pub gain: f64,
    /// One-sided lower bound, 95 %.
    pub low: f64,
    /// One-sided upper bound, 95 %.
    pub high: f64,
}

impl RunRow {
    /// Whether its candidate became the champion.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.state == "promoted"
    }

    /// The best known figure of its energy, and whether a sensor stands behind it.
    #[must_use]
    pub fn energy(&self) -> Option<(f64, bool)> {
        match (self.cost.joules, &self.cost.joules_source) {
            (Some(joules), Some(source)) => Some((joules, source != "model")),
            _ => self.joules_modelled.map(|joules| (joules, false)),
        }
    }

    /// Points gained on the hold-out (hundredths of loss) per joule.
    #[must_use]
    pub fn points_per_joule(&self) -> Option<f64> {
        let (joules, _) = self.energy().filter(|(joules, _)| *joules > 0.0)?;
        Some(self.gain.holdout?.gain * 100.0 / joules)
    }

    /// Labelled samples after which the gain has paid for a retrain that costs `cost_errors` avoided errors; none if it never
    /// does. What was realised counts before what the hold-out promised.
    #[must_use]
    pub fn break_even_rows(&self, cost_errors: f64) -> Option<f64> {
        let gain = self.gain.realised.or(self.gain.holdout)?.gain;
        (gain > 0.0).then(|| (cost_errors / gain).ceil())
    }
}

const COLUMNS: &str = "number, state, parent, candidate, snapshot, strategy, rows, cpu_s, joules_modelled, verdict, \
                       started_at, finished_at, reason, wall_s, joules, joules_error, joules_source, peak_bytes, \
                       bytes_written, holdout, anchors, segments, realised";

pub(super) fn write(connection: &Connection, row: &RunRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO run ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, \
             ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)"
        ))?
        .execute(params![
            row.number,
            row.state,
            row.parent.to_string(),
            row.candidate.map(|digest| digest.to_string()),
            row.snapshot.map(|digest| digest.to_string()),
            row.strategy,
            row.rows,
            row.cpu_s,
            row.joules_modelled,
            row.verdict,
            row.started_at.0,
            row.finished_at.map(|at| at.0),
            row.reason,
            row.cost.wall_s,
            row.cost.joules,
            row.cost.joules_error,
            row.cost.joules_source,
            row.cost.peak_bytes,
            row.cost.bytes_written,
            json(row.gain.holdout.as_ref()),
            json(row.gain.anchors.as_ref()),
            json(row.gain.segments.as_ref()),
            json(row.gain.realised.as_ref()),
        ])?;
    Ok(())
}

pub(super) fn find(connection: &Connection, number: i64) -> rusqlite::Result<Option<RunRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM run WHERE number = ?1"))?
        .query_row([number], read)
        .optional()
}

pub(super) fn newest(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<RunRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM run ORDER BY number DESC LIMIT ?1"))?
        .query_map([super::limit(limit)], read)?
        .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        number: row.get(0)?,
        state: row.get(1)?,
        parent: digest_column(row, 2)?,
        candidate: optional_digest_column(row, 3)?,
        snapshot: optional_digest_column(row, 4)?,
        strategy: row.get(5)?,
        rows: row.get(6)?,
        cpu_s: row.get(7)?,
        joules_modelled: row.get(8)?,
        verdict: row.get(9)?,
        started_at: Timestamp(row.get(10)?),
        finished_at: row.get::<_, Option<i64>>(11)?.map(Timestamp),
        reason: row.get(12)?,
        cost: RunCost {
            wall_s: row.get(13)?,
            joules: row.get(14)?,
            joules_error: row.get(15)?,
            joules_source: row.get(16)?,
            peak_bytes: row.get(17)?,
            bytes_written: row.get(18)?,
        },
        gain: RunGain {
            holdout: json_column(row, 19)?,
            anchors: json_column(row, 20)?,
            segments: json_column(row, 21)?,
            realised: json_column(row, 22)?,
        },
    })
}

/// A number that is not finite cannot be written as JSON and read again: such a value is left out.
fn json<T: Serialize + for<'a> Deserialize<'a>>(value: Option<&T>) -> Option<String> {
    let text = serde_json::to_string(value?).ok()?;
    serde_json::from_str::<T>(&text).is_ok().then_some(text)
}

fn json_column<T: for<'a> Deserialize<'a>>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let text = row.get::<_, Option<String>>(column)?;
    let read = |text: String| serde_json::from_str(&text);
    text.map(read)
        .transpose()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunRow {
        RunRow {
            number: 3,
            state: "promoted".to_owned(),
            parent: Digest::of(b"parent"),
            candidate: None,
            snapshot: None,
            strategy: "tail".to_owned(),
            reason: Some("drift".to_owned()),
            rows: 445,
            cpu_s: 1.5,
            joules_modelled: Some(9.0),
            verdict: None,
            cost: RunCost {
                wall_s: Some(6.0),
                joules: Some(4.0),
                joules_error: Some(0.5),
                joules_source: Some("rails".to_owned()),
                peak_bytes: Some(30_000_000),
                bytes_written: Some(90_000),
            },
            gain: RunGain {
                holdout: Some(Interval { rows: 100, gain: 0.04, low: 0.01, high: 0.07 }),
                anchors: None,
                segments: Some(vec![("line 1".to_owned(), Interval { rows: 40, gain: 0.1, low: 0.0, high: 0.2 })]),
                realised: None,
            },
            started_at: Timestamp(5),
            finished_at: Some(Timestamp(6)),
        }
    }

    #[test]
    fn a_run_of_an_older_version_keeps_its_figures_and_gets_the_new_ones_as_unknown() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("migrations/control_1.sql")).unwrap();
        let digest = Digest::of(b"parent").to_string();
        let old = "INSERT INTO run VALUES (3, 'promoted', ?1, NULL, NULL, 'tail', 445, 1.5, 9.0, NULL, 5, 6)";
        connection.execute(old, [digest]).unwrap();
        connection.execute_batch(include_str!("migrations/control_2.sql")).unwrap();
        let expected = RunRow { reason: None, cost: RunCost::default(), gain: RunGain::default(), ..run() };
        assert_eq!(find(&connection, 3).unwrap(), Some(expected));
        write(&connection, &run()).unwrap();
        assert_eq!(newest(&connection, 5).unwrap(), [run()]);
        let broken = Interval { rows: 1, gain: f64::NAN, low: 0.0, high: 0.0 };
        write(&connection, &RunRow { gain: RunGain { realised: Some(broken), ..run().gain }, ..run() }).unwrap();
        assert_eq!(find(&connection, 3).unwrap(), Some(run()), "what is no number is left out");
    }

    #[test]
    fn points_per_joule_and_break_even_follow_from_gain_and_energy() {
        let run = run();
        assert_eq!((run.energy(), run.points_per_joule()), (Some((4.0, true)), Some(1.0)));
        assert_eq!(run.break_even_rows(10.0), Some(250.0));
        let realised = Some(Interval { rows: 600, gain: -0.01, low: -0.02, high: 0.0 });
        let worse = RunRow { gain: RunGain { realised, ..run.gain.clone() }, ..run.clone() };
        assert_eq!(worse.break_even_rows(10.0), None, "what came true counts");
        let cost = RunCost { joules_source: Some("model".to_owned()), ..run.cost.clone() };
        let modelled = RunRow { cost, ..run.clone() };
        assert_eq!(modelled.energy(), Some((4.0, false)), "a model's figure is not called measured");
        let unmeasured = RunRow { cost: RunCost::default(), ..run };
        assert_eq!(unmeasured.energy(), Some((9.0, false)));
    }
}
