//! What was said to samples that wait for their labels: many small things that come and go, in three long arrays.
use std::collections::BTreeMap;

use crate::horizons::Opinions;

/// What was said to one sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) opinions: Opinions,
    /// The mixture's scores, `[outputs]`.
    pub(crate) scores: Vec<f32>,
    /// Labels learnt when the sample came.
    pub(crate) learnt: u64,
}

/// Places for `places_max` samples. An allocation for each vector of each sample took more than twice the memory.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    places_max: usize,
    /// Place and labels learnt by key; keys grow with time, so the first one is the oldest.
    places: BTreeMap<u128, (u32, u64)>,
    free: Vec<u32>,
    /// `[places, said]` each, of which one is in use.
    classes: Vec<u16>,
    targets: Vec<f32>,
    /// `[places, outputs]`.
    scores: Vec<f32>,
}

impl Waiting {
    pub(crate) fn new(places_max: usize) -> Self {
        let (classes, targets, scores) = (Vec::new(), Vec::new(), Vec::new());
        Self { places_max, places: BTreeMap::new(), free: Vec::new(), classes, targets, scores }
    }

    /// Samples that wait.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Keeps what was said to the sample `key`; the oldest one gives way where there is no place left.
    ///
    /// Of one room all opinions have the same kind and length, and so have all scores.
    pub(crate) fn put(&mut self, key: u128, opinions: &Opinions, scores: &[f32], learnt: u64) {
        if self.places.len() == self.places_max && !self.places.contains_key(&key) {
            let oldest = self.places.pop_first();
            self.free.extend(oldest.map(|(_, (place, _))| place));
        }
        let taken = self.places.get(&key).map(|(place, _)| *place).or_else(|| self.free.pop());
        // Without a free place all of them are taken, one after the other from the first.
        let place = taken.unwrap_or_else(|| u32::try_from(self.places.len()).unwrap_or(u32::MAX));
        self.places.insert(key, (place, learnt));
        // Twice as many as are in use, so that the arrays seldom move, and never more than there will be.
        let places = (2 * (place as usize + 1)).min(self.places_max);
        match opinions {
            Opinions::Classes(said) => write(&mut self.classes, place, said, places),
            Opinions::Targets(said) => write(&mut self.targets, place, said, places),
        }
        write(&mut self.scores, place, scores, places);
    }

    /// Takes what was said to the sample `key` out; `said` and `outputs` are the lengths of its opinions and scores.
    pub(crate) fn take(&mut self, key: u128, said: usize, outputs: usize) -> Option<Said> {
        let (place, learnt) = self.places.remove(&key)?;
        self.free.push(place);
        let opinions = if self.targets.is_empty() {
            Opinions::Classes(read(&self.classes, place, said))
        } else {
            Opinions::Targets(read(&self.targets, place, said))
        };
        Some(Said { opinions, scores: read(&self.scores, place, outputs), learnt })
    }
}

fn write<T: Copy + Default>(into: &mut Vec<T>, place: u32, values: &[T], places: usize) {
    let at = place as usize * values.len();
    if into.len() < at + values.len() {
        into.reserve_exact(places * values.len() - into.len());
        into.resize(places * values.len(), T::default());
    }
    into[at..at + values.len()].copy_from_slice(values);
}

fn read<T: Copy>(from: &[T], place: u32, length: usize) -> Vec<T> {
    let at = place as usize * length;
    from.get(at..at + length).map(<[T]>::to_vec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opinion(value: u16) -> Opinions {
        Opinions::Classes(vec![value, value + 1])
    }

    #[test]
    fn what_was_said_comes_back_once_whatever_came_and_went_between() {
        let mut waiting = Waiting::new(4);
        let put = |waiting: &mut Waiting, key: u16| waiting.put(key.into(), &opinion(key), &[f32::from(key)], 7);
        (0..6).for_each(|key| put(&mut waiting, key));
        assert_eq!(waiting.len(), 4);
        assert!(waiting.take(1, 2, 1).is_none(), "the oldest gave way");
        for (taken, new) in [(3, 10), (2, 11), (11, 12)] {
            let said = waiting.take(taken, 2, 1).expect("it waits");
            let number = u16::try_from(taken).unwrap();
            assert_eq!(said, Said { opinions: opinion(number), scores: vec![f32::from(number)], learnt: 7 });
            assert!(waiting.take(taken, 2, 1).is_none(), "once");
            put(&mut waiting, new);
        }
        put(&mut waiting, 12);
        assert_eq!((waiting.len(), waiting.scores.len()), (4, 4), "a key that comes again keeps its place");
    }

    #[test]
    fn standardised_targets_are_kept_as_they_are() {
        let mut waiting = Waiting::new(2);
        let opinions = Opinions::Targets(vec![0.5, f32::MIN, 3.0]);
        waiting.put(1, &Opinions::Targets(vec![0.0; 3]), &[0.0], 0);
        waiting.put(9, &opinions, &[1.5], 3);
        assert_eq!(waiting.take(9, 3, 1), Some(Said { opinions, scores: vec![1.5], learnt: 3 }));
    }
}
