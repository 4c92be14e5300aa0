//! What of the heads is written to disk, and how the rest is rebuilt from labelled records.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{HorizonSettings, Horizons, Scoring, first_block};
use crate::mix::Mix;
use crate::ridge::{Gram, SolveError, SolveMemory};
use crate::sums::Histogram;

/// The part of [`Horizons`] worth its bytes on flash: settled sums, heads and weights. The newest rows are in the records already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    settings: HorizonSettings,
    scoring: Scoring,
    histogram: Histogram,
    /// Rows of each block that is not in `histogram`.
    newer: Vec<u32>,
    /// Rows of the unfinished block.
    open: u32,
    block: usize,
    heads: Vec<f32>,
    mix: Mix,
    work_mac: u64,
    refused: u64,
}

/// Saved heads that cannot be taken up; start from the factory head and let the records teach it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Other settings, another model, or damage.
    #[error("the saved heads have another shape ({0}): start them anew from the factory head and the newest records")]
    Shape(&'static str),
    /// The rows handed in are not the ones that were asked for.
    #[error("{needed} labelled rows are needed behind the saved sums, {found} were given: read them from the records")]
    Rows {
        /// Rows that [`Saved::rows_needed`] asks for.
        needed: usize,
        /// Rows given.
        found: usize,
    },
    /// The factory head cannot be solved.
    #[error("the heads cannot be solved")]
    Solve(#[from] SolveError),
}

impl Saved {
    /// How many of the newest learnt rows (as of [`Horizons::save`], in the order they were learnt) [`Horizons::restore`] needs.
    #[must_use]
    pub fn rows_needed(&self) -> usize {
        self.newer.iter().chain([&self.open]).map(|rows| *rows as usize).sum()
    }

    /// The settled part alone, for when the newer rows cannot be found any more: all of the past but the newest is better than nothing.
    #[must_use]
    pub fn without_newer(self) -> Self {
        Self { newer: Vec::new(), open: 0, ..self }
    }
}

impl Horizons {
    /// What to write to disk: sums of level [`crate::sums::SAVED_LEVEL`] and above, heads and weights.
    #[must_use]
    pub fn save(&self) -> Saved {
        let histogram = self.histogram.settled();
        let newer = usize::try_from(self.histogram.blocks() - histogram.blocks()).unwrap_or(usize::MAX);
        Saved {
            settings: self.settings.clone(),
            scoring: self.scoring,
            newer: self.block_rows.iter().skip(self.block_rows.len().saturating_sub(newer)).copied().collect(),
            open: u32::try_from(self.open_rows()).unwrap_or(u32::MAX),
            block: self.block,
            heads: self.heads.clone(),
            mix: self.mix.clone(),
            work_mac: self.work_mac,
            refused: self.refused,
            histogram,
        }
    }

    /// The heads as they were saved. `factory` are the model's own sums; `rows` are the newest [`Saved::rows_needed`] rows learnt
    /// before the save, in that order: features `[width]` and targets `[outputs]`. Rows learnt after the save are then learnt again
    /// with [`Horizons::learn`]; with the same opinions the result is the same to the bit as if nothing had happened.
    ///
    /// Fails with [`RestoreError`] if the settings or the model are others, a number is not finite, or rows are missing.
    pub fn restore(
        saved: Saved,
        factory: Gram,
        scoring: Scoring,
        settings: &HorizonSettings,
        rows: &[(Vec<f32>, Vec<f32>)],
    ) -> Result<Self, RestoreError> {
        let (width, outputs, count) = (factory.width, factory.outputs, settings.heads());
        let check = |holds: bool, what| if holds { Ok(()) } else { Err(RestoreError::Shape(what)) };
        check(saved.settings == *settings && saved.scoring == scoring, "settings")?;
        check(saved.histogram.fits(width, outputs, settings.top()), "sums")?;
        check(saved.heads.len() == width * count * outputs && saved.heads.iter().all(|x| x.is_finite()), "heads")?;
        check(saved.mix.fits(count + 1, settings.rate, settings.share), "weights")?;
        check(saved.block >= first_block(settings, scoring), "block")?;
        check(saved.newer.len() <= super::NEWER_BLOCKS, "blocks")?;
        let right = |(h, y): &&(Vec<f32>, Vec<f32>)| h.len() == width && y.len() == outputs;
        let found = rows.iter().filter(right).count();
        if found != rows.len() || found != saved.rows_needed() {
            return Err(RestoreError::Rows { needed: saved.rows_needed(), found });
        }
        let mut horizons = Self {
            settings: saved.settings,
            scoring,
            factory,
            histogram: saved.histogram,
            open: (Vec::new(), Vec::new()),
            block_rows: VecDeque::new(),
            block: saved.block,
            heads: saved.heads,
            mix: saved.mix,
            work_mac: saved.work_mac,
            refused: saved.refused,
        };
        let mut rows = rows.iter();
        for count in saved.newer {
            rows.by_ref().take(count as usize).for_each(|(h, y)| horizons.open_row(h, y));
            horizons.close_block();
        }
        rows.for_each(|(h, y)| horizons.open_row(h, y));
        Ok(horizons)
    }

    /// Takes over how far the experts of `other` are trusted, if they are the same ones: horizon by horizon, on whatever features.
    pub fn trust_as(&mut self, other: &Self) {
        if self.settings == other.settings && self.scoring == other.scoring {
            self.mix = other.mix.clone();
            self.block = other.block;
        }
    }

    /// Whether these are heads of a model with these factory sums and settings, every number of them finite and in its place; what comes
    /// from a disk is asked first.
    pub(crate) fn is_of(&self, factory: &Gram, scoring: Scoring, settings: &HorizonSettings) -> bool {
        let (width, outputs, count) = (factory.width, factory.outputs, settings.heads());
        let rows = self.open.1.len() / outputs.max(1);
        let open = self.open.0.len() == rows * width && self.open.1.len() == rows * outputs;
        let finite = self.heads.iter().chain(&self.open.0).chain(&self.open.1).all(|x| x.is_finite());
        (&self.factory, self.scoring, &self.settings) == (factory, scoring, settings)
            && self.histogram.fits(width, outputs, settings.top())
            && self.heads.len() == width * count * outputs
            && self.mix.fits(count + 1, settings.rate, settings.share)
            && self.block >= first_block(settings, scoring)
            && open
            && finite
    }

    /// Heads for a model without saved ones: the newest labelled rows of the records are learnt without opinions, so weights start
    /// equal. After a new backbone, `factory` are the sums of its anchors.
    ///
    /// Fails with [`SolveError`] as [`Horizons::new`] does.
    pub fn rebuild<'a>(
        factory: Gram,
        scoring: Scoring,
        settings: HorizonSettings,
        rows: impl Iterator<Item = (&'a [f32], &'a [f32])>,
        memory: &mut SolveMemory,
    ) -> Result<Self, SolveError> {
        let mut horizons = Self::new(factory, scoring, settings, memory)?;
        for (h, y) in rows {
            if !horizons.takes(h, y) {
                continue;
            }
            horizons.open_row(h, y);
            if horizons.open_rows() >= horizons.block {
                horizons.close_block();
            }
        }
        horizons.refit(|_, _| true, memory)?;
        Ok(horizons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};

    type Row = (Vec<f32>, Vec<f32>);

    fn rows(count: usize, seed: u64, broken: bool) -> Vec<Row> {
        let mut chance = Chance::new(seed, Purpose::Sample, 0);
        let mut row = |index: usize| {
            let x = [chance.normal(), chance.normal(), chance.normal()];
            let turned = if index > count / 2 { -x[0] } else { x[0] };
            let gap = broken && index % 17 == 3;
            (vec![if gap { f32::NAN } else { x[0] }, x[1], x[2], 1.0], vec![turned + 0.3 * x[1]])
        };
        (0..count).map(&mut row).collect()
    }

    fn settings(block: usize) -> HorizonSettings {
        HorizonSettings { block, horizons: if block == 1 { 3 } else { 4 }, ..HorizonSettings::default() }
    }

    fn factory() -> Gram {
        let mut gram = Gram::new(4, 1);
        rows(50, 9, false).iter().for_each(|(h, y)| gram.push(h, y));
        gram
    }

    fn learn(horizons: &mut Horizons, rows: &[Row], memory: &mut SolveMemory) {
        let mut mixture = Vec::new();
        for (h, y) in rows {
            let said = horizons.answer(h, &[0.1], &mut mixture);
            assert!(mixture.iter().all(|x| x.is_finite()));
            horizons.learn(h, y, Some(&said), memory).unwrap();
        }
    }

    #[test]
    fn a_restart_anywhere_changes_nothing_to_the_bit() {
        for (block, count) in [(1, 150), (3, 400)] {
            let rows = rows(count, 1, true);
            let mut memory = SolveMemory::default();
            let mut whole = Horizons::new(factory(), Scoring::Targets, settings(block), &mut memory).unwrap();
            let learnt = |until: usize| -> Vec<Row> {
                rows[..until].iter().filter(|(h, _)| h[0].is_finite()).cloned().collect()
            };
            for cut in 0..count {
                let saved: Saved = serde_json::from_str(&serde_json::to_string(&whole.save()).unwrap()).unwrap();
                let before = learnt(cut);
                let newer = &before[before.len() - saved.rows_needed()..];
                let again =
                    Horizons::restore(saved, factory(), Scoring::Targets, &settings(block), newer).expect("restored");
                assert_eq!(again.mix, whole.mix);
                assert!(again == trimmed(&whole, &again), "after {cut} rows in blocks of {block}");
                if cut % 7 == 0 {
                    whole = again;
                }
                learn(&mut whole, &rows[cut..=cut], &mut memory);
            }
            let mut straight = Horizons::new(factory(), Scoring::Targets, settings(block), &mut memory).unwrap();
            learn(&mut straight, &rows, &mut memory);
            assert_eq!(whole.collapse(), straight.collapse());
            assert_eq!((whole.rows(), whole.refused()), (straight.rows(), straight.refused()));
        }
    }

    /// Block sizes that no save will ever ask for again are not rebuilt.
    fn trimmed(whole: &Horizons, like: &Horizons) -> Horizons {
        let mut whole = whole.clone();
        let skip = whole.block_rows.len() - like.block_rows.len();
        whole.block_rows.drain(..skip);
        whole
    }

    #[test]
    fn other_settings_missing_rows_and_damage_are_refused() {
        let mut memory = SolveMemory::default();
        let rows = rows(60, 2, false);
        let mut whole = Horizons::new(factory(), Scoring::Targets, settings(1), &mut memory).unwrap();
        learn(&mut whole, &rows, &mut memory);
        let restore = |saved: Saved, settings: &HorizonSettings, rows: &[Row]| {
            Horizons::restore(saved, factory(), Scoring::Targets, settings, rows).map_err(|error| error.to_string())
        };
        let newer = &rows[60 - whole.save().rows_needed()..];
        assert!(restore(whole.save(), &settings(1), newer).is_ok());
        assert!(restore(whole.save(), &settings(2), newer).unwrap_err().contains("settings"));
        assert!(restore(whole.save(), &settings(1), &newer[1..]).unwrap_err().contains("rows are needed"));
        let damaged = Saved { heads: vec![f32::NAN; whole.heads.len()], ..whole.save() };
        assert!(restore(damaged, &settings(1), newer).unwrap_err().contains("heads"));
    }

    #[test]
    fn where_the_newer_rows_are_lost_all_older_ones_are_still_known() {
        let mut memory = SolveMemory::default();
        let settings = HorizonSettings { block: 1, ..HorizonSettings::default() };
        let mut whole = Horizons::new(factory(), Scoring::Targets, settings.clone(), &mut memory).unwrap();
        learn(&mut whole, &rows(300, 2, false), &mut memory);
        let saved = whole.save();
        let newer = saved.rows_needed() as u64;
        assert!(newer > 0);
        let rest = saved.without_newer();
        assert_eq!(rest.rows_needed(), 0);
        let mut rest = Horizons::restore(rest, factory(), Scoring::Targets, &settings, &[]).unwrap();
        assert_eq!((rest.rows(), rest.collapse()), (whole.rows() - newer, whole.collapse()));
        learn(&mut rest, &rows(50, 3, false), &mut memory);
        assert_eq!(rest.rows(), whole.rows() - newer + 50);
    }

    #[test]
    fn heads_rebuilt_from_records_know_what_the_records_know() {
        let rows = rows(400, 3, true);
        let mut memory = SolveMemory::default();
        let newest = rows[200..].iter().map(|(h, y)| (&h[..], &y[..]));
        let rebuilt = Horizons::rebuild(factory(), Scoring::Targets, settings(8), newest, &mut memory).unwrap();
        let mut mixture = Vec::new();
        rebuilt.answer(&[1.0, 0.0, 0.0, 1.0], &[0.0], &mut mixture);
        assert!(mixture[0] < 0.0, "the newest law is the turned one: {mixture:?}");
    }

    #[test]
    fn the_widest_state_stays_within_four_megabytes_and_scarce_work_makes_blocks_longer() {
        let factory = Gram::new(crate::embed::WIDTH_MAX, 10);
        for scoring in [Scoring::Classes, Scoring::Targets] {
            let settings = HorizonSettings::default();
            let mut horizons = Horizons::new(factory.clone(), scoring, settings, &mut SolveMemory::default()).unwrap();
            assert!(horizons.size_bytes_max() <= 4_000_000, "{} bytes", horizons.size_bytes_max());
            let free = horizons.limit_work(u64::MAX);
            assert_eq!(free, if scoring == Scoring::Classes { 32 } else { 1 });
            let scarce = horizons.limit_work(200_000);
            assert!(scarce > free && horizons.work_mac_per_label(scarce) <= 200_000);
            assert_eq!(horizons.limit_work(0), 4_096);
        }
    }
}
