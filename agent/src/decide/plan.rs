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
    /// Labels right before those held out that a judged candidate is not trained on: as many as were outstanding when the order was made.
    /// What was served had not seen them either when it answered the rows held out.
    #[serde(default)]
    pub gap: u64,
}

impl RowsWanted {
    /// The same rows where so many labels are outstanding: no more than half of the new rows are kept back for it.
    #[must_use]
    pub fn behind(self, outstanding: u64) -> Self {
        Self { gap: outstanding.min((self.newest - self.holdout) / 2), ..self }
    }

    /// How many of the newest rows are kept back from a training: those it is judged on and the gap before them. A refit of a candidate
    /// that has passed has nothing left to prove and learns from all of them.
    #[must_use]
    pub fn kept_back(&self, refit: bool) -> u64 {
        if refit { 0 } else { self.holdout.saturating_add(self.gap) }
    }
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

/// Plans a training of an episode: hold-out and what counts as enough as in [`plan`], from the labels `since` the change, but trained on
/// the newest `newest` labels whether they are older than the change or not.
///
/// The heads learn in time order and weigh their horizons by the newest rows: rows from just before an abrupt change lose their say
/// within a hundred rows, and where change creeps they are most of what is known.
/// Fails with [`TooFew`] and the number of labels that are missing.
pub fn episode(since: u64, labels: u64, newest: u64, history: u64, seen: u64) -> Result<RowsWanted, TooFew> {
    let new = plan(since, labels, newest, history, seen)?;
    let newest = newest.max(new.newest).min(labels);
    Ok(RowsWanted { from_label: labels - newest, newest, ..new })
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
    Ok(RowsWanted { from_label, newest, holdout, history, gap: 0 })
}

/// Rows of history that are looked at for each one that is wanted.
const LOOKED_AT: usize = 4;

/// How many older rows have to be read, evenly strided, before [`history`] chooses `wanted` of them.
#[must_use]
pub fn history_read(wanted: usize) -> usize {
    wanted.saturating_mul(LOOKED_AT)
}

/// Rank `k` of `wanted` that are spread evenly over `total`: ⌊k · total / wanted⌋, without overflow.
#[must_use]
pub fn strided(k: usize, total: usize, wanted: usize) -> usize {
    let rank = k as u128 * total as u128 / (wanted as u128).max(1);
    usize::try_from(rank).unwrap_or(usize::MAX)
}

/// Which of `available` older rows, oldest first, a training gets: at most `count`, in their order.
///
/// They are first thinned to [`history_read`] rows, evenly strided over all of the past. Of these, each class gets as many as
/// every other as far as it goes, the newest first; without `classes` (regression) they are thinned once more. A device that
/// reads no more than [`history_read`] strided rows chooses the same ones.
#[must_use]
pub fn history(available: usize, classes: Option<&[usize]>, count: usize) -> Vec<usize> {
    if available <= count {
        return (0..available).collect();
    }
    let looked_at = history_read(count).min(available);
    let thinned = (0..looked_at).map(|k| strided(k, available, looked_at));
    let Some(classes) = classes else {
        return (0..count).map(|k| strided(strided(k, looked_at, count), available, looked_at)).collect();
    };
    let mut by_class: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for row in thinned {
        by_class.entry(classes[row]).or_default().push(row);
    }
    // Newest first, round by round, until the count is reached.
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let before = chosen.len();
        for rows in by_class.values_mut() {
            if chosen.len() < count {
                chosen.extend(rows.pop());
            }
        }
        if chosen.len() == before {
            break;
        }
    }
    chosen.sort_unstable();
    chosen
}

/// The rows of [`history`] out of `rows`, which are older ones in time order.
#[must_use]
pub fn history_of(rows: &Rows, task: &Task, count: usize) -> Rows {
    let classes: Option<Vec<usize>> = match task {
        Task::Classification { .. } => {
            Some((0..rows.len()).map(|row| trainer_core::evaluate::class_of(rows.y(row)[0])).collect())
        }
        Task::Regression { .. } => None,
    };
    let mut chosen = Rows::empty(rows.features, rows.truths);
    for row in history(rows.len(), classes.as_deref(), count) {
        chosen.push(rows.x(row), rows.y(row));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_as_late_as_labels_are_kept_back_from_a_judged_candidate_but_never_more_than_half() {
        let rows = plan(0, 1_000, 600, 50, 0).unwrap();
        assert_eq!((rows.gap, rows.behind(0)), (0, rows));
        assert_eq!((rows.behind(100).gap, rows.behind(100).holdout), (100, rows.holdout));
        assert_eq!(rows.behind(5_000).gap, (rows.newest - rows.holdout) / 2);
        assert_eq!(rows.behind(100).kept_back(false), rows.holdout + 100);
        assert_eq!(rows.behind(100).kept_back(true), 0, "a refit learns from all of them");
    }

    #[test]
    fn an_episode_is_judged_on_rows_after_the_change_and_trained_on_the_newest_ones() {
        let wanted = episode(900, 1_000, 400, 50, 0).unwrap();
        assert_eq!(wanted, RowsWanted { from_label: 600, newest: 400, holdout: 20, history: 50, gap: 0 });
        assert_eq!(episode(990, 1_000, 400, 50, 0), plan(990, 1_000, 400, 50, 0), "too few is too few");
        let early = episode(20, 120, 400, 0, 0).unwrap();
        assert_eq!((early.from_label, early.newest), (0, 120), "there are no more");
    }

    #[test]
    fn a_fifth_is_held_out_and_too_few_rows_name_what_is_missing() {
        assert_eq!(
            plan(900, 1_000, 400, 50, 0),
            Ok(RowsWanted { from_label: 900, newest: 100, holdout: 20, history: 50, gap: 0 })
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
        let chosen = history_of(&rows, &task, 25);
        assert_eq!(chosen.y.iter().filter(|y| **y > 0.5).count(), 5);
        assert_eq!(chosen.len(), 25);
        assert!(chosen.x.is_sorted(), "time order is kept");
        assert_eq!(history_of(&rows, &task, 200), rows, "what is there is taken");
    }

    #[test]
    fn history_reaches_back_over_all_of_the_past() {
        let classes: Vec<usize> = (0..10_000).map(|row| row % 2).collect();
        let chosen = history(10_000, Some(&classes), 100);
        assert_eq!((chosen.len(), chosen[0]), (100, 7_500), "the newest of every 25th row");
        assert_eq!(history(10_000, None, 4), [0, 2_500, 5_000, 7_500]);
        assert_eq!(history(0, None, 4), [0; 0]);
        assert_eq!(history(9, Some(&[0; 9]), 0), [0; 0]);
    }

    #[test]
    fn a_device_that_reads_strided_rows_chooses_what_a_replay_of_all_rows_chooses() {
        for (available, count) in [(10_000, 100), (1_000, 300), (399, 100), (401, 100), (7, 3)] {
            // Some seven rows of eight are of one class.
            let classes: Vec<usize> = (0..available).map(|row| usize::from(row * 7 % 8 == 0)).collect();
            let read = history_read(count).min(available);
            let places: Vec<usize> = (0..read).map(|k| strided(k, available, read)).collect();
            let seen: Vec<usize> = places.iter().map(|place| classes[*place]).collect();
            for classes in [Some((classes.as_slice(), seen.as_slice())), None] {
                let (all, read_ones) = (classes.map(|(all, _)| all), classes.map(|(_, seen)| seen));
                let device: Vec<usize> =
                    history(read, read_ones, count).into_iter().map(|index| places[index]).collect();
                assert_eq!(device, history(available, all, count), "{available} rows, {count} wanted");
            }
        }
    }
}
