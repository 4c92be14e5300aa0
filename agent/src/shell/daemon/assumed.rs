//! Rows of a retrain of an anomaly model: what its labels say, and of the others what may be taken for normal.
use trainer_core::evaluate::class_of;
use trainer_core::model::{Model, Work};

use super::work::{Bench, Material, Older, Undone, rows_of};
use crate::decide::assume;
use crate::decide::plan::HOLDOUT_MAX;
use crate::shell::store::{RecordReader, ToldRow};

impl Bench {
    /// The newest samples and some older ones, each with its label or as normal. Among those held out are the anomalies that labels
    /// have named lately: nothing is trained on them, and a candidate must find them.
    pub(super) fn assumed(&self, champion: &Model) -> Result<Material, Undone> {
        let count = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let newest = self.reader.newest_told(count(self.order.rows.newest))?;
        let first = newest.first().map_or(0, |row| row.seq);
        let older = self.reader.older_told(first, count(self.order.rows.history))?;
        // Apart: what is usual now may not have been usual then.
        let (older, newest) = (counted(champion, older), counted(champion, newest));
        let held = count(self.order.rows.holdout).min(newest.len());
        let held_rows = &newest[newest.len() - held..];
        let before = held_rows.first().map_or(i64::MAX, |row| row.seq);
        let known = known_anomalies(&self.reader, champion, before)?;
        let rows = |counted: &mut dyn Iterator<Item = &Counted>| {
            let mut rows = rows_of(champion.schema(), &[]);
            counted.for_each(|row| rows.push(&row.features, &row.truth));
            rows
        };
        Ok(Material {
            older: Older::Rows(rows(&mut older.iter())),
            newest: rows(&mut newest.iter()),
            held,
            holdout: rows(&mut known.iter().chain(held_rows)),
            segments: known.iter().chain(held_rows).map(|row| row.segment.clone()).collect(),
            served: Vec::new(),
        })
    }
}

/// A row that counts.
struct Counted {
    seq: i64,
    features: Vec<f32>,
    segment: Option<String>,
    truth: Vec<f32>,
}

/// The rows that count of one stretch of the stream ([`assume`]).
fn counted(champion: &Model, rows: Vec<ToldRow>) -> Vec<Counted> {
    let schema = champion.schema();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.features.len() == schema.features.len()).collect();
    let mut work = Work::default();
    let errors: Vec<f32> = rows.iter().map(|row| champion.reconstruction_error(&row.features, &mut work)).collect();
    let left_out = assume::stand_out(&errors, champion.manifest.threshold.unwrap_or(f32::INFINITY));
    let truth = |told: Option<Vec<f32>>, left_out: bool| match told {
        Some(truth) if truth.len() == schema.truths() => Some(truth),
        _ => (!left_out).then(|| vec![0.0; schema.truths()]),
    };
    let counts = |(ToldRow { seq, features, segment, truth: told }, left_out)| {
        Some(Counted { seq, features, segment, truth: truth(told, left_out)? })
    };
    rows.into_iter().zip(left_out).filter_map(counts).collect()
}

/// Anomalies among the newest labels, of records before `before`.
fn known_anomalies(reader: &RecordReader, champion: &Model, before: i64) -> Result<Vec<Counted>, Undone> {
    let schema = champion.schema();
    let labelled = reader.newest_labelled(usize::try_from(HOLDOUT_MAX).unwrap_or(usize::MAX))?;
    let fits = |truth: &[f32], features: &[f32]| {
        features.len() == schema.features.len() && truth.first().is_some_and(|class| class_of(*class) == 1)
    };
    let named = labelled.into_iter().filter(|row| row.seq < before && fits(&row.truth, &row.features));
    Ok(named
        .map(|row| Counted { seq: row.seq, features: row.features, segment: row.segment, truth: row.truth })
        .collect())
}
