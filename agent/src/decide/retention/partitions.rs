//! Which files of records are thinned or dropped when they take too many bytes, and in which order.
//!
//! ```text
//! whole ──── over the budget ────► thinned: every k-th row, and every labelled one
//! thinned ── thinned ones take more than their share ──► labelled rows alone
//! labelled ─ still too much, or too old ──► dropped
//! ```
//!
//! The oldest goes first in each step; a step that would save little is left out. The newest file, which is written to, is
//! never touched, and one whose labels are still needed (for a training under way with its hold-out, or not yet counted) stays
//! at least with its labelled rows. What a finished training learned from is in its snapshot, which is another file.

/// How much of a file is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Every row.
    #[default]
    Whole,
    /// Every k-th row, and every labelled one.
    Thinned,
    /// Labelled rows alone.
    Labelled,
}

/// One file of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// On the disk.
    pub bytes: u64,
    /// Records in it.
    pub rows: u64,
    /// Labelled ones among them.
    pub labelled: u64,
    /// What is left of it.
    pub stage: Stage,
    /// Seconds since its newest record, if the clock can be believed.
    pub age_s: Option<u64>,
    /// Whether somebody still reads its labels.
    pub needed: bool,
}

/// What may be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Bytes of all files.
    pub bytes_max: u64,
    /// Age of a file's newest record, seconds.
    pub age_s_max: Option<u64>,
    /// Thinning keeps every so many-th row; 1 thins nothing.
    pub every: u64,
    /// Share of the bytes that files may take that are no longer whole.
    pub thin_share: f64,
}

/// One step towards the rules; the number is the place of the file among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write it again with every k-th row and every labelled one.
    Thin(usize),
    /// Write it again with labelled rows alone.
    KeepLabelled(usize),
    /// Remove it.
    Drop(usize),
}

/// A step that saves less than this share of a file is not worth writing the rest of it again.
const SAVES_LEAST: f64 = 0.25;

/// Files that are no longer whole, at most: each is opened when records are counted or looked for.
const THIN_FILES_MAX: usize = 128;

/// The next step, if one is needed and may be taken; `parts` are oldest first, the last one is written to.
#[must_use]
pub fn next(parts: &[Part], rules: &Rules) -> Option<Step> {
    let (_, older) = parts.split_last()?;
    let may_go = |part: &Part| !part.needed;
    let is_old = |part: &Part| rules.age_s_max.zip(part.age_s).is_some_and(|(most, age)| age > most);
    if let Some(index) = older.iter().position(|part| is_old(part) && may_go(part)) {
        return Some(Step::Drop(index));
    }
    let thin = |part: &&Part| part.stage != Stage::Whole;
    let first = |stage: Stage| older.iter().position(|part| part.stage == stage && may_go(part));
    if older.iter().filter(thin).count() > THIN_FILES_MAX
        && let Some(index) = first(Stage::Labelled).or_else(|| first(Stage::Thinned))
    {
        return Some(Step::Drop(index));
    }
    if parts.iter().map(|part| part.bytes).sum::<u64>() <= rules.bytes_max {
        return None;
    }
    let thin_bytes: u64 = older.iter().filter(thin).map(|part| part.bytes).sum();
    let reduce = || {
        let thinned = first(Stage::Thinned).map(|index| match share_labelled(&older[index]) {
            share if share > 0.0 && 1.0 - share >= SAVES_LEAST => Step::KeepLabelled(index),
            _ => Step::Drop(index),
        });
        // Of two that may go, what is left of the oldest rows goes first, but labelled rows are kept longest.
        thinned.or_else(|| first(Stage::Labelled).map(Step::Drop))
    };
    let whole = || {
        // Thinning keeps what is needed.
        let index = older.iter().position(|part| part.stage == Stage::Whole && (may_go(part) || saves(part, rules)))?;
        Some(if saves(&older[index], rules) { Step::Thin(index) } else { Step::Drop(index) })
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes of a disk"
    )]
    let share = (rules.bytes_max as f64 * rules.thin_share) as u64;
    if thin_bytes > share { reduce().or_else(whole) } else { whole().or_else(reduce) }
}

fn saves(part: &Part, rules: &Rules) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "k is small")]
    let kept = share_labelled(part) + (1.0 - share_labelled(part)) / rules.every.max(1) as f64;
    1.0 - kept >= SAVES_LEAST
}

#[expect(clippy::cast_precision_loss, reason = "rows of one file")]
fn share_labelled(part: &Part) -> f64 {
    if part.rows == 0 { 0.0 } else { part.labelled as f64 / part.rows as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { bytes_max: 1_000, age_s_max: None, every: 10, thin_share: 0.25 };

    fn whole(bytes: u64, labelled: u64) -> Part {
        Part { bytes, rows: 100, labelled, ..Part::default() }
    }

    /// Takes steps until none is left, as a disk would; a file's bytes follow its rows.
    fn settle(parts: &mut Vec<Part>, rules: &Rules) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = next(parts, rules) {
            steps.push(step);
            assert!(steps.len() < 1_000, "it ends: {parts:?}");
            let (index, stage, rows) = match step {
                Step::Thin(index) => {
                    let part = parts[index];
                    (index, Stage::Thinned, part.labelled + (part.rows - part.labelled) / rules.every)
                }
                Step::KeepLabelled(index) => (index, Stage::Labelled, parts[index].labelled),
                Step::Drop(index) => {
                    parts.remove(index);
                    continue;
                }
            };
            let part = &mut parts[index];
            assert!(stage > part.stage, "it goes one way");
            part.bytes = part.bytes * rows / part.rows.max(1);
            (part.rows, part.stage) = (rows, stage);
        }
        steps
    }

    #[test]
    fn within_the_budget_nothing_is_touched() {
        assert_eq!(next(&[whole(500, 0), whole(500, 0)], &RULES), None);
        assert_eq!(next(&[], &RULES), None);
        assert_eq!(next(&[whole(9_000, 0)], &RULES), None, "the newest stays, whatever it takes");
    }

    #[test]
    fn old_rows_are_thinned_before_any_is_dropped_and_labelled_ones_go_last() {
        let mut parts = vec![whole(400, 20), whole(400, 20), whole(400, 0)];
        assert_eq!(settle(&mut parts, &RULES), [Step::Thin(0)]);
        assert_eq!((parts[0].rows, parts[0].bytes), (28, 112), "20 labelled and 8 others");
        parts.push(whole(400, 0));
        assert_eq!(settle(&mut parts, &RULES), [Step::Thin(1), Step::Thin(2)]);
        // Thinned files have their share: the oldest keeps its labelled rows, then goes.
        let tight = Rules { bytes_max: 500, ..RULES };
        let steps = settle(&mut parts, &tight);
        assert_eq!(steps[0], Step::KeepLabelled(0), "{steps:?}");
        assert!(parts.iter().map(|part| part.bytes).sum::<u64>() <= 500, "{parts:?}");
    }

    #[test]
    fn a_file_that_thinning_would_hardly_shrink_is_not_written_again() {
        assert_eq!(next(&[whole(600, 90), whole(600, 0)], &RULES), Some(Step::Drop(0)));
        let off = Rules { every: 1, ..RULES };
        assert_eq!(next(&[whole(600, 0), whole(600, 0)], &off), Some(Step::Drop(0)));
    }

    #[test]
    fn what_is_needed_may_be_thinned_but_keeps_its_labelled_rows() {
        let needed = Part { needed: true, ..whole(600, 20) };
        assert_eq!(next(&[needed, whole(600, 0)], &RULES), Some(Step::Thin(0)));
        let labelled = Part { needed: true, ..whole(600, 100) };
        assert_eq!(next(&[labelled, whole(600, 0)], &RULES), None, "over the budget rather than without its rows");
        assert_eq!(next(&[labelled, whole(600, 0), whole(600, 0)], &RULES), Some(Step::Thin(1)));
    }

    #[test]
    fn age_counts_only_where_the_clock_can_be_believed() {
        let rules = Rules { age_s_max: Some(60), ..RULES };
        let aged = |age_s| Part { age_s, ..whole(10, 5) };
        assert_eq!(next(&[aged(Some(61)), aged(Some(61))], &rules), Some(Step::Drop(0)));
        assert_eq!(next(&[aged(Some(60)), aged(None), aged(Some(99))], &rules), None);
        assert_eq!(next(&[Part { needed: true, ..aged(Some(61)) }, aged(None)], &rules), None);
    }

    proptest! {
        #[test]
        fn it_ends_within_the_budget_or_with_what_may_not_go(
            parts in proptest::collection::vec((1_u64..400, 0_u64..=100, any::<bool>()), 1..20),
            bytes_max in 1_u64..3_000,
        ) {
            let mut parts: Vec<_> = parts
                .into_iter()
                .map(|(bytes, labelled, needed)| Part { needed, ..whole(bytes, labelled) })
                .collect();
            let before = parts.clone();
            let rules = Rules { bytes_max, ..RULES };
            settle(&mut parts, &rules);
            let over = parts.iter().map(|part| part.bytes).sum::<u64>() > bytes_max;
            let (newest, older) = parts.split_last().expect("the newest stays");
            prop_assert_eq!(newest, before.last().expect("there was one"));
            prop_assert!(!over || older.iter().all(|part| part.needed), "{:?}", parts);
            let needed = |parts: &[Part]| parts.iter().filter(|part| part.needed).map(|part| part.labelled).sum::<u64>();
            prop_assert_eq!(needed(&parts), needed(&before), "labelled rows that are needed stay");
        }
    }
}
