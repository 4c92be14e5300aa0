//! The champion's adaptive form: one collapsed head beside it, swapped as a whole like the champion itself.
use std::cell::RefCell;
use std::sync::Arc;

use trainer_core::adaptive::Mixture;
use trainer_core::digest::Digest;
use trainer_core::model::Work;

use super::{Loaded, Slot};

/// A mixture that answers for a champion.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// The champion whose features it reads; for another one it does not answer.
    pub champion: Digest,
    /// Counts what was ever served on this device, from 1; 0 is the bare champion.
    pub number: i64,
    /// What answers.
    pub mixture: Mixture,
}

impl Slot {
    /// The mixture that answers for the champion of that name now, if any does.
    #[must_use]
    pub fn adapted(&self, champion: &Digest) -> Option<Arc<Adapted>> {
        self.adapted.load_full().filter(|adapted| adapted.champion == *champion)
    }

    /// Lets this mixture answer from the next request on, or the bare champion.
    pub fn adapt(&self, adapted: Option<Adapted>) {
        self.adapted.store(adapted.map(Arc::new));
    }
}

impl Loaded {
    /// Answers `rows`, `[n, features]`, raw units, as `adapted` does where it can; returns `[n, outputs]` and, for each row, the
    /// number of the adaptation that answered.
    #[must_use]
    pub fn answer_adapted(&self, adapted: Option<&Adapted>, rows: &[f32]) -> (Vec<f32>, Vec<i64>) {
        thread_local! {
            static WORK: RefCell<Work> = RefCell::default();
        }
        let width = self.model.schema().features.len().max(1);
        let Some(adapted) = adapted else {
            return (self.answer(rows), vec![0; rows.len() / width]);
        };
        let mut answers = Vec::with_capacity(rows.len() / width * self.model.schema().outputs());
        let mut numbers = Vec::with_capacity(rows.len() / width);
        WORK.with_borrow_mut(|work| {
            for row in rows.chunks_exact(width) {
                let mixed = adapted.mixture.answer(&self.model, row, work);
                answers.extend_from_slice(&work.answer);
                numbers.push(if mixed { adapted.number } else { 0 });
            }
        });
        (answers, numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::loaded;
    use super::*;

    #[test]
    fn a_mixture_answers_for_its_own_champion_alone_and_a_broken_one_not_at_all() {
        let (one, other) = (loaded(1.0), loaded(-1.0));
        let slot = Slot::default();
        let mut work = Work::default();
        one.model.embed(&[3.0], &mut work);
        let head = vec![0.0; work.h.len()];
        let adapted = Adapted { champion: one.digest, number: 7, mixture: Mixture { champion: 0.0, head } };
        slot.adapt(Some(adapted.clone()));
        assert!(slot.adapted(&other.digest).is_none());
        let found = slot.adapted(&one.digest).expect("it is the champion's");
        // A head of zeros says the mean of the targets whatever comes.
        let (answers, numbers) = one.answer_adapted(Some(&found), &[1.0, 8.0]);
        assert!((answers[0] - answers[1]).abs() < 1e-6 && numbers == [7, 7], "{answers:?}");
        let broken = Adapted { mixture: Mixture { champion: f32::NAN, head: Vec::new() }, ..adapted };
        assert_eq!(one.answer_adapted(Some(&broken), &[1.0, 8.0]), (one.answer(&[1.0, 8.0]), vec![0, 0]));
        slot.adapt(None);
        assert!(slot.adapted(&one.digest).is_none());
        assert_eq!(one.answer_adapted(None, &[1.0]).1, [0]);
    }
}
