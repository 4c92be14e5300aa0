//! Which labelled rows a training gets, which are held out, or how many are missing.
use serde::{Deserialize, Serialize};
use trainer_core::schema::{Rows, Task};

/// Rows of one training, chosen by ordinal of their label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsWanted {
    /// Only labels from here on count as new.
    pub from_label: u64,
    /// At most so many of the newest of them, hold-out included.
    pub newest: u64,
    /// The newest of those are held out for the gate.
    pub holdout: u64,
    /// Rows from before `from_label`, spread evenly and balanced by class, trained on first.
    pub history: u64,
}

/// Fewest rows that are held out.
pub const HOLDOUT_MIN: u64 = 20;
/// Most rows that are held out; more only delays the candidate.
pub const HOLDOUT_MAX: u64 = 400;
/// Fewest rows that training needs beside the hold-out.
pub const TRAIN_MIN: u64 = trainer_core::train::ROWS_MIN as u64;

/// Too few labels for a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{known} labelled rows are too few to train and to judge: {missing} more are needed")]
pub struct TooFew {
    /// Labels since the first one wanted.
    pub known: u64,
    /// Labels that are missing.
    pub missing: u64,
}

/// Plans a training on labels `from_label..labels`, at most the newest `newest`, with a fifth held out.
///
/// The champion was trained on labels up to `seen`: only later ones can be held out, or it would be judged on its own rows.
/// Fails with [`TooFew`] and the number of labels that are missing.
pub fn plan(from_label: u64, labels: u64, newest: u64, history: u64, seen: u64) -> Result<RowsWanted, TooFew> {
    let known = labels.saturating_sub(from_label);
    if known < TRAIN_MIN + HOLDOUT_MIN {
        return Err(TooFew { known, missing: TRAIN_MIN + HOLDOUT_MIN - known });
    }
    let newest = known.min(newest.max(TRAIN_MIN + HOLDOUT_MIN));
    let fresh = labels.saturating_sub(seen);
    if fresh < HOLDOUT_MIN {
        return Err(TooFew { known: fresh, missing: HOLDOUT_MIN - fresh });
    }
    let holdout = (newest / 5).clamp(HOLDOUT_MIN, HOLDOUT_MAX).min(fresh);
    Ok(RowsWanted { from_label, newest, holdout, history })
}

/// At most `count` of `rows`, in their order, with every class as often as every other as far as it goes.
///
/// Regression rows are taken evenly spread.
#[must_use]
pub fn balance(rows: &Rows, task: &Task, count: usize) -> Rows {
    let total = rows.len();
    let chosen: Vec<usize> = match task {
        _ if total <= count => (0..total).collect(),
        Task::Regression { .. } => (0..count).map(|index| index * total / count).collect(),
        Task::Classification { classes } => {
            let mut by_class: Vec<Vec<usize>> = vec![Vec::new(); classes.len()];
            for row in 0..total {
                if let Some(list) = by_class.get_mut(trainer_core::evaluate::class_of(rows.y(row)[0])) {
                    list.push(row);
                }
            }
            // Newest first, round by round, until the count is reached.
            let mut chosen = Vec::with_capacity(count);
            while chosen.len() < count {
                let before = chosen.len();
                for list in &mut by_class {
                    if chosen.len() < count {
                        chosen.extend(list.pop());
                    }
                }
                if chosen.len() == before {
                    break;
                }
            }
            chosen.sort_unstable();
            chosen
        }
    };
    let mut balanced = Rows::empty(rows.features, rows.truths);
    chosen.into_iter().for_each(|row| balanced.push(rows.x(row), rows.y(row)));
    balanced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_held_out_and_too_few_rows_name_what_is_missing() {
        assert_eq!(
            plan(900, 1_000, 400, 50, 0),
            Ok(RowsWanted { from_label: 900, newest: 100, holdout: 20, history: 50 })
        );
        assert_eq!(plan(0, 1_000, 400, 0, 0).map(|wanted| (wanted.newest, wanted.holdout)), Ok((400, 80)));
        assert_eq!(
            plan(0, 1_000, 1_000, 0, 950).map(|wanted| wanted.holdout),
            Ok(50),
            "the champion knows the first 950"
        );
        assert_eq!(plan(0, 1_000, 400, 0, 995), Err(TooFew { known: 5, missing: 15 }));
        assert_eq!(plan(990, 1_000, 400, 0, 0), Err(TooFew { known: 10, missing: 30 }));
        assert!(TooFew { known: 10, missing: 30 }.to_string().contains("30 more are needed"));
    }

    #[test]
    fn a_rare_class_is_kept_whole() {
        let mut rows = Rows::empty(1, 1);
        for row in 0..100_u8 {
            rows.push(&[f32::from(row)], &[f32::from(u8::from(row % 20 == 0))]);
        }
        let task = Task::Classification { classes: vec!["often".into(), "rare".into()] };
        let chosen = balance(&rows, &task, 20);
        assert_eq!(chosen.y.iter().filter(|y| **y > 0.5).count(), 5);
        assert_eq!(chosen.len(), 20);
        assert!(chosen.x.is_sorted(), "time order is kept");
    }
}
