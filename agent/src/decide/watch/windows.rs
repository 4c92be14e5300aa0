//! The field's measures over the last labelled rows, for people: accuracy, F1, log loss, RMSE, MAE.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use trainer_core::evaluate::{Metrics, Tally};
use trainer_core::schema::Task;

/// What is kept of a classified row: 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Classified {
    truth: u32,
    answer: u32,
    /// Probability that was given to the truth.
    p: f32,
}

/// The last labelled rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    rows_max: usize,
    losses: VecDeque<f32>,
    classified: VecDeque<Classified>,
    /// Answer and truth of each target of each row, flat.
    targets: VecDeque<f32>,
}

impl Window {
    pub(super) fn new(rows_max: usize) -> Self {
        let rows_max = rows_max.max(1);
        Self { rows_max, losses: VecDeque::new(), classified: VecDeque::new(), targets: VecDeque::new() }
    }

    pub(super) fn loss(&mut self, loss: f64) {
        if self.losses.len() == self.rows_max {
            self.losses.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "losses lie in [0, 1] and are only shown")]
        self.losses.push_back(loss as f32);
    }

    /// Takes a row of class `truth` answered as `answer`, with probability `p` for the truth.
    pub(super) fn classified(&mut self, truth: usize, answer: usize, p: f32) {
        if self.classified.len() == self.rows_max {
            self.classified.pop_front();
        }
        let index = |class| u32::try_from(class).unwrap_or(u32::MAX);
        self.classified.push_back(Classified { truth: index(truth), answer: index(answer), p });
    }

    /// Takes the answer and the truth of all targets of a row.
    pub(super) fn regressed(&mut self, answer: &[f32], truth: &[f32]) {
        if self.targets.len() >= self.rows_max * 2 * answer.len() {
            self.targets.drain(..2 * answer.len());
        }
        for (answer, truth) in answer.iter().zip(truth) {
            self.targets.extend([*answer, *truth]);
        }
    }

    /// Mean loss over the last labels and how many they are.
    pub(super) fn mean_loss(&self) -> Option<(f64, usize)> {
        let sum: f64 = self.losses.iter().map(|loss| f64::from(*loss)).sum();
        (!self.losses.is_empty()).then(|| (sum / self.losses.len() as f64, self.losses.len()))
    }

    /// The measures of the window; none before the first usable row.
    pub(super) fn metrics(&self, task: &Task) -> Option<Metrics> {
        match task {
            Task::Classification { classes } => self.classification(classes.len()),
            Task::Regression { targets } => {
                let mut tally = Tally::new(task);
                let (mut answers, mut truths) = (Vec::new(), Vec::new());
                for (place, value) in self.targets.iter().enumerate() {
                    if place % 2 == 0 {
                        answers.push(*value)
                    } else {
                        truths.push(*value)
                    }
                    if truths.len() == targets.len() {
                        tally.push(&answers, &truths);
                        answers.clear();
                        truths.clear();
                    }
                }
                tally.metrics()
            }
        }
    }

    /// As [`Tally`] computes them; from what is kept, without its matrix of all pairs of classes.
    fn classification(&self, classes: usize) -> Option<Metrics> {
        let mut counts = vec![[0_u64; 3]; classes];
        let mut log_loss = 0.0;
        for row in &self.classified {
            counts[row.truth as usize][0] += 1;
            counts[row.answer as usize][1] += 1;
            counts[row.truth as usize][2] += u64::from(row.truth == row.answer);
            log_loss -= f64::from(row.p).max(1e-15).ln();
        }
        let n = self.classified.len() as f64;
        let present = counts.iter().filter(|[truths, answers, _]| truths + answers > 0);
        let f1 = present.map(|[truths, answers, hits]| 2.0 * *hits as f64 / (truths + answers) as f64);
        let (sum, occurring) = f1.fold((0.0, 0.0), |(sum, count), f1| (sum + f1, count + 1.0));
        let hits: u64 = counts.iter().map(|count| count[2]).sum();
        (!self.classified.is_empty()).then(|| Metrics::Classification {
            rows: self.classified.len() as u64,
            accuracy: hits as f64 / n,
            f1_macro: sum / occurring,
            log_loss: log_loss / n,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::seeded::Draws;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "small made-up numbers")]
    fn measures_equal_those_of_the_tally_over_the_last_rows() {
        let classes = Task::Classification { classes: names(4) };
        let targets = Task::Regression { targets: names(2) };
        let (mut window, mut draws) = (Window::new(50), Draws::new(1));
        let mut rows = Vec::new();
        for _ in 0..180 {
            let answer: Vec<f32> = (0..4).map(|_| draws.uniform() as f32).collect();
            let truth = draws.below(3);
            window.classified(truth, trainer_core::horizons::argmax(&answer), answer[truth]);
            let values: Vec<f32> = (0..2).map(|_| draws.normal() as f32).collect();
            window.regressed(&answer[..2], &values);
            rows.push((answer, truth, values));
        }
        let (mut classified, mut regressed) = (Tally::new(&classes), Tally::new(&targets));
        for (answer, truth, values) in &rows[130..] {
            classified.push(answer, &[*truth as f32]);
            regressed.push(&answer[..2], values);
        }
        assert_eq!(window.metrics(&targets), regressed.metrics());
        let of = |metrics: Option<Metrics>| match metrics {
            Some(Metrics::Classification { rows, accuracy, f1_macro, log_loss }) => {
                (rows, [accuracy, f1_macro, log_loss])
            }
            _ => panic!(),
        };
        let (ours, theirs) = (of(window.metrics(&classes)), of(classified.metrics()));
        assert_eq!(ours.0, theirs.0);
        assert!(ours.1.iter().zip(theirs.1).all(|(a, b)| (a - b).abs() < 1e-12), "{ours:?} {theirs:?}");
    }

    #[test]
    fn an_empty_window_has_no_measures() {
        let window = Window::new(0);
        assert_eq!(window.metrics(&Task::Classification { classes: names(2) }), None);
        assert_eq!(window.metrics(&Task::Regression { targets: names(1) }), None);
        assert_eq!(window.mean_loss(), None);
    }
}
