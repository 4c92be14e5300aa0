//! What can be seen of a challenger without a single label: how long it takes, how often and how it differs, whether it collapses.
//!
//! Both models are compared on the same samples, never with the past, so that a drift of the samples alone trips nothing.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::settings::RolloutSettings;
use crate::decide::drift::special::gamma_upper;
use crate::decide::evidence::Bets;
use crate::decide::gate::Evidence;

/// Timed answers of one look at the latency.
const TIMED: usize = 100;
/// Answers of one look at collapse.
const COLLAPSE_ROWS: u32 = 50;
/// Share of one class that is a collapse, and the most of it that the champion may show then.
const COLLAPSED: (f64, f64) = (0.95, 0.7);
/// Answers of one look at the classes.
const SHIFT_ROWS: u32 = 200;
/// Chance of a false alarm of one look at the classes; two in a row raise it.
const SHIFT_P: f64 = 0.01;
/// Logarithm of the evidence that the challenger disagrees too often: a false alarm in a hundred trials.
const DISAGREEMENT_LN: f64 = 4.605_170_185_988_091;
/// Classes that are told apart; further ones count as one.
const CLASSES_MAX: u16 = 64;

/// What tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// An answer that is no finite number.
    NotFinite,
    /// Its slowest answers take too long.
    Latency,
    /// It disagrees with the champion more often than on the held-out rows by far.
    Disagreement,
    /// It says one class only, while the champion tells classes apart.
    Collapse,
}

/// How the guards stand. Plain data, bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guards {
    latency: Latency,
    disagreement: Bets,
    /// Rate of disagreement that is too much.
    most: f64,
    collapse: Collapse,
    shift: Shift,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Latency {
    champion_us: Vec<f32>,
    challenger_us: Vec<f32>,
    was_slow: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Collapse {
    rows: u32,
    champion: BTreeMap<u16, u32>,
    challenger: BTreeMap<u16, u32>,
}

/// Off-diagonal counts of champion's class against challenger's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Shift {
    rows: u32,
    #[serde(with = "pairs")]
    moved: BTreeMap<(u16, u16), u32>,
    strikes: u8,
}

impl Guards {
    /// Guards of a trial whose candidate compared so on the held-out rows.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    pub fn new(evidence: &Evidence, settings: &RolloutSettings) -> Self {
        // Two more of each kind: a few held-out rows that agree by chance prove little.
        let rate = (evidence.differed as f64 + 2.0) / (evidence.rows as f64 + 4.0);
        Self {
            latency: Latency::default(),
            disagreement: Bets::new(0.0),
            most: (settings.disagreement_factor * rate + 0.02).min(1.0),
            collapse: Collapse::default(),
            shift: Shift::default(),
        }
    }

    /// Takes what both took for the same sample, in microseconds.
    pub fn timed(&mut self, champion_us: f32, challenger_us: f32, settings: &RolloutSettings) -> Option<Guard> {
        self.latency.take(champion_us, challenger_us, settings).then_some(Guard::Latency)
    }

    /// Takes whether both said the same, and for classes which; returns a guard that trips.
    pub fn answered(&mut self, differs: bool, classes: Option<(u16, u16)>) -> Option<Guard> {
        self.disagreement.push(f64::from(u8::from(differs)) - self.most);
        let collapsed = classes.is_some_and(|(champion, challenger)| {
            let (champion, challenger) = (champion.min(CLASSES_MAX), challenger.min(CLASSES_MAX));
            self.shift.take(champion, challenger);
            self.collapse.take(champion, challenger)
        });
        if collapsed {
            Some(Guard::Collapse)
        } else if self.disagreement.ln_k() >= DISAGREEMENT_LN {
            Some(Guard::Disagreement)
        } else {
            None
        }
    }

    /// Whether the classes it says are others than the champion's, in two windows in a row: no stage is left meanwhile.
    #[must_use]
    pub fn is_shifted(&self) -> bool {
        self.shift.strikes >= 2
    }

    /// The rate of disagreement above which it is too much.
    #[must_use]
    pub fn disagreement_most(&self) -> f64 {
        self.most
    }
}

impl Latency {
    /// Looks at disjoint windows; two slow ones in a row trip, as one may be the machine's.
    fn take(&mut self, champion_us: f32, challenger_us: f32, settings: &RolloutSettings) -> bool {
        self.champion_us.push(champion_us);
        self.challenger_us.push(challenger_us);
        if self.champion_us.len() < TIMED {
            return false;
        }
        let (champion, challenger) = (p95(&mut self.champion_us), p95(&mut self.challenger_us));
        self.champion_us.clear();
        self.challenger_us.clear();
        let slow = challenger > champion * settings.latency_factor && challenger - champion > settings.latency_floor_us;
        let trips = slow && self.was_slow;
        self.was_slow = slow;
        trips
    }
}

fn p95(times: &mut [f32]) -> f64 {
    times.sort_by(f32::total_cmp);
    times.get(times.len() * 95 / 100).copied().unwrap_or_default().into()
}

impl Collapse {
    fn take(&mut self, champion: u16, challenger: u16) -> bool {
        *self.champion.entry(champion).or_default() += 1;
        *self.challenger.entry(challenger).or_default() += 1;
        self.rows += 1;
        if self.rows < COLLAPSE_ROWS {
            return false;
        }
        let share = |counts: &BTreeMap<u16, u32>| {
            f64::from(counts.values().copied().max().unwrap_or(0)) / f64::from(COLLAPSE_ROWS)
        };
        let trips = share(&self.challenger) > COLLAPSED.0 && share(&self.champion) < COLLAPSED.1;
        *self = Self::default();
        trips
    }
}

impl Shift {
    fn take(&mut self, champion: u16, challenger: u16) {
        if champion != challenger {
            *self.moved.entry((champion, challenger)).or_default() += 1;
        }
        self.rows += 1;
        if self.rows == SHIFT_ROWS {
            let alarmed = stuart_maxwell(&self.moved) < SHIFT_P;
            self.strikes = if alarmed { self.strikes.saturating_add(1) } else { 0 };
            self.rows = 0;
            self.moved.clear();
        }
    }
}

/// P-value of equal marginals of a square table, of which only what lies off the diagonal matters.
///
/// `χ² = dᵀ S⁻¹ d` with `d_i = n_i. − n_.i`, `S_ii = n_i. + n_.i`, `S_ij = −(n_ij + n_ji)`, one class left out, as many degrees of
/// freedom as remain. Source: Stuart 1955, Maxwell 1970. Unlike PSI it knows that both answered the same samples.
fn stuart_maxwell(moved: &BTreeMap<(u16, u16), u32>) -> f64 {
    let mut classes: Vec<u16> = moved.keys().flat_map(|(from, to)| [*from, *to]).collect();
    classes.sort_unstable();
    classes.dedup();
    // The last class follows from the others.
    let size = classes.len().saturating_sub(1);
    let place = |class: u16| classes[..size].binary_search(&class).ok();
    let mut system = vec![vec![0.0; size + 1]; size];
    for ((from, to), count) in moved {
        let count = f64::from(*count);
        let (from, to) = (place(*from), place(*to));
        for (at, sign) in [(from, 1.0), (to, -1.0)] {
            if let Some(at) = at {
                system[at][at] += count;
                system[at][size] += sign * count;
            }
        }
        if let (Some(from), Some(to)) = (from, to) {
            system[from][to] -= count;
            system[to][from] -= count;
        }
    }
    let difference: Vec<f64> = system.iter().map(|row| row[size]).collect();
    let (solution, rank) = solve(system);
    let square: f64 = difference.iter().zip(&solution).map(|(d, x)| d * x).sum();
    if rank == 0 { 1.0 } else { gamma_upper(rank as f64 / 2.0, square / 2.0) }
}

/// Solves `[n][n + 1]` by elimination with pivots on the diagonal (the matrix is symmetric and not negative); what is singular is left
/// at 0. Returns the solution and the rank.
fn solve(mut system: Vec<Vec<f64>>) -> (Vec<f64>, usize) {
    let size = system.len();
    let mut is_pivot = vec![false; size];
    for column in 0..size {
        let pivot = system[column].clone();
        if pivot[column].abs() < 1e-9 {
            continue;
        }
        is_pivot[column] = true;
        for (at, row) in system.iter_mut().enumerate().filter(|(at, _)| *at != column) {
            let factor = row[column] / pivot[column];
            debug_assert!(at < size);
            row.iter_mut().zip(&pivot).for_each(|(value, above)| *value -= factor * above);
        }
    }
    let value = |at: usize| if is_pivot[at] { system[at][size] / system[at][at] } else { 0.0 };
    ((0..size).map(value).collect(), is_pivot.iter().filter(|pivot| **pivot).count())
}

/// JSON has no pairs as keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    type Counts = BTreeMap<(u16, u16), u32>;

    pub(super) fn serialize<S: Serializer>(counts: &Counts, serializer: S) -> Result<S::Ok, S::Error> {
        counts.iter().map(|((from, to), count)| (*from, *to, *count)).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Counts, D::Error> {
        let list = Vec::<(u16, u16, u32)>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|(from, to, count)| ((from, to), count)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards() -> Guards {
        let evidence = Evidence { rows: 200, differed: 16, ..Evidence::default() };
        Guards::new(&evidence, &RolloutSettings::default())
    }

    /// Even numbers in [0, 1), one stream per seed.
    fn even(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 33) as f64) / (1_u64 << 31) as f64
    }

    #[test]
    fn disagreement_trips_beyond_three_times_the_held_out_rate_and_not_at_that_rate() {
        let trips = |rate: f64| {
            (0..200_u64)
                .filter(|seed| {
                    let (mut guards, mut state) = (guards(), *seed);
                    (0..1_000).any(|_| guards.answered(even(&mut state) < rate, None).is_some())
                })
                .count()
        };
        assert!((guards().disagreement_most() - 0.2847).abs() < 1e-3);
        assert_eq!(trips(0.08), 0);
        assert!(trips(0.28) <= 4, "at the bound itself");
        assert_eq!(trips(0.5), 200);
    }

    #[test]
    fn one_class_only_trips_while_the_champion_tells_them_apart() {
        let mut guards = guards();
        let tripped: Vec<_> = (0..50_u16).map(|row| guards.answered(row % 2 == 0, Some((row % 2, 1)))).collect();
        assert_eq!(tripped[49], Some(Guard::Collapse));
        let mut quiet = self::guards();
        assert!((0..500).all(|_| quiet.answered(false, Some((1, 1))).is_none()), "the plant has one state only");
    }

    #[test]
    fn slow_answers_trip_in_two_windows_and_a_hiccup_of_the_machine_does_not() {
        let settings = RolloutSettings::default();
        let run = |slow: &dyn Fn(usize) -> f32| {
            let mut guards = guards();
            (0..1_000).position(|row| guards.timed(400.0, slow(row), &settings).is_some())
        };
        assert_eq!(run(&|_| 900.0), Some(199));
        assert_eq!(run(&|_| 500.0), None);
        assert_eq!(run(&|row| if row < 100 { 5_000.0 } else { 400.0 }), None);
        let mut tiny = guards();
        assert!((0..1_000).all(|_| tiny.timed(2.0, 9.0, &settings).is_none()), "seven microseconds are nobody's");
    }

    #[test]
    fn moved_marginals_are_seen_by_the_paired_test_and_exchanged_ones_are_not() {
        // Agresti, Categorical Data Analysis: with two classes it is McNemar's test, (b − c)²/(b + c).
        let table = BTreeMap::from([((0, 1), 15), ((1, 0), 5)]);
        assert!((stuart_maxwell(&table) - gamma_upper(0.5, 2.5)).abs() < 1e-12);
        let circle = BTreeMap::from([((0, 1), 9), ((1, 2), 9), ((2, 0), 9)]);
        assert!((stuart_maxwell(&circle) - 1.0).abs() < 1e-9, "the marginals are equal");
        assert!((stuart_maxwell(&BTreeMap::new()) - 1.0).abs() < 1e-12);
        // d = (10, 5), S = [[20, -5], [-5, 15]]: dᵀ S⁻¹ d = 2600/275.
        let three = BTreeMap::from([((0, 1), 5), ((0, 2), 10), ((2, 0), 0), ((1, 2), 10), ((1, 0), 0)]);
        let p = stuart_maxwell(&three);
        assert!((0.0..0.01).contains(&p), "{p}");
        let mut shifting = guards();
        let mut window = || {
            (0..200_u16).for_each(|row| {
                shifting.answered(row % 10 == 0, Some((row % 10, if row % 10 == 0 { 1 } else { row % 10 })));
            });
            shifting.is_shifted()
        };
        assert_eq!([window(), window()], [false, true], "one window may be chance");
        let mut even_handed = guards();
        (0..4_000_u16).for_each(|row| {
            let moved = row % 10 == 0;
            let class = (row / 10) % 2;
            even_handed.answered(moved, Some((class, if moved { 1 - class } else { class })));
        });
        assert!(!even_handed.is_shifted());
    }

    #[test]
    fn a_restart_changes_nothing() {
        let mut guards = guards();
        for row in 0..77_u16 {
            guards.answered(row % 9 == 0, Some((row % 3, if row % 9 == 0 { 2 } else { row % 3 })));
            guards.timed(1.5, 2.25, &RolloutSettings::default());
        }
        let text = serde_json::to_string(&guards).unwrap();
        assert_eq!(serde_json::from_str::<Guards>(&text).unwrap(), guards);
    }
}
