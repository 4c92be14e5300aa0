//! Champion and candidate on the same held-out rows.
use trainer_core::model::{Model, Work};
use trainer_core::schema::Rows;

use crate::decide::gate::Evidence;

/// Answers every held-out row with both models and pairs their losses.
///
/// Both losses are measured by the champion, so that a regression candidate cannot make its errors small by its own scale.
#[must_use]
pub fn compare(champion: &Model, candidate: &Model, holdout: &Rows) -> Evidence {
    let mut evidence = Evidence::default();
    let (mut old, mut new) = (Work::default(), Work::default());
    for row in 0..holdout.len() {
        champion.answer(holdout.x(row), &mut old);
        candidate.answer(holdout.x(row), &mut new);
        evidence.not_finite |= new.answer.iter().any(|value| !value.is_finite());
        let truth = holdout.y(row);
        evidence.push(champion.loss(&old.answer, truth), champion.loss(&new.answer, truth));
    }
    evidence
}

/// The candidate against what was `served` to every held-out row, `[rows, outputs]`, before its label was known.
#[must_use]
pub fn compare_served(champion: &Model, candidate: &Model, holdout: &Rows, served: &[f32]) -> Evidence {
    let mut evidence = Evidence::default();
    let mut new = Work::default();
    for (row, answer) in (0..holdout.len()).zip(served.chunks_exact(champion.schema().outputs())) {
        candidate.answer(holdout.x(row), &mut new);
        evidence.not_finite |= new.answer.iter().any(|value| !value.is_finite());
        let truth = holdout.y(row);
        evidence.push(champion.loss(answer, truth), champion.loss(&new.answer, truth));
    }
    evidence
}
