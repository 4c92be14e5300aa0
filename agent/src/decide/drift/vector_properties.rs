//! The same promises for what takes rows, windows or confidences: restoring changes nothing, memory is bounded, nothing panics.
use std::fmt::Debug;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::adwin::{Adwin, AdwinSettings};
use super::bins::{BinWindow, FrozenBins};
use super::cbpe::{Cbpe, CbpeSettings};
use super::distances::{distances, psi};
use super::guard::{BlockMeans, Guarded};
use super::newma::{Newma, NewmaSettings};
use super::principal::Principal;
use super::qt_ewma::QtEwma;
use super::qt_thresholds::Thresholds;
use super::quant_tree::{QtSettings, QuantTree};
use super::seeded::Draws;
use super::thinning::Thinning;
use super::{Alarm, Detector};

/// Values per row.
const WIDTH: usize = 3;

/// Something that is told row after row; what it says is compared as text.
trait Machine: Clone + Debug + Serialize + DeserializeOwned {
    fn feed(&mut self, row: &[f32]) -> String;

    /// Bytes its stored state may have, however much it saw.
    fn bytes_max(&self) -> usize;
}

fn said(alarm: Option<Alarm>) -> String {
    let alarm = alarm.filter(|alarm| alarm.statistic > alarm.threshold);
    assert!(alarm.is_none_or(|alarm| alarm.change_point <= alarm.index), "{alarm:?}");
    format!("{alarm:?}")
}

impl Machine for QtEwma {
    fn feed(&mut self, row: &[f32]) -> String {
        said(self.update(row))
    }

    fn bytes_max(&self) -> usize {
        4_096
    }
}

impl Machine for Newma {
    fn feed(&mut self, row: &[f32]) -> String {
        said(self.update(row))
    }

    fn bytes_max(&self) -> usize {
        // 64 frequencies of three, two averages of 128.
        64 * 3 * 4 + 2 * 128 * 8 + 256
    }
}

impl Machine for Cbpe {
    fn feed(&mut self, row: &[f32]) -> String {
        let class = usize::from(row[0] > 0.0);
        let confidence = f64::from(row[1].abs());
        let outside = self.answer(class, confidence);
        self.label(f64::from(row[2]), row[0] < row[1]);
        format!("{outside:?} {:?}", self.view())
    }

    fn bytes_max(&self) -> usize {
        16_384
    }
}

impl Machine for BlockMeans {
    fn feed(&mut self, row: &[f32]) -> String {
        let said = self.feed(f64::from(row[0])).map(f64::to_bits);
        format!("{said:?} {}", self.block_rows())
    }

    fn bytes_max(&self) -> usize {
        1_024
    }
}

impl Machine for Guarded<Adwin> {
    fn feed(&mut self, row: &[f32]) -> String {
        said(self.update(f64::from(row[0])))
    }

    fn bytes_max(&self) -> usize {
        4_096
    }
}

impl Machine for Thinning {
    fn feed(&mut self, row: &[f32]) -> String {
        format!("{:?}", self.record(row, row[0] > 2.0))
    }

    fn bytes_max(&self) -> usize {
        2_048
    }
}

impl Machine for (FrozenBins, BinWindow) {
    fn feed(&mut self, row: &[f32]) -> String {
        let (frozen, window) = self;
        window.record(frozen.place(f64::from(row[0])));
        let reading = distances(frozen, window);
        let all = [reading.psi.psi, reading.psi.p, reading.jensen_shannon, reading.total_variation, reading.hellinger];
        assert!(all.iter().all(|value| value.is_finite() && *value >= -1e-12), "{reading:?}");
        format!("{reading:?} {:?}", psi(frozen, window))
    }

    fn bytes_max(&self) -> usize {
        2_048
    }
}

fn reference() -> Vec<f32> {
    rows(600, 0.0, 11).concat()
}

/// Rows whose neighbours follow each other and whose law moves by `shift` half-way.
fn rows(count: usize, shift: f32, seed: u64) -> Vec<Vec<f32>> {
    let mut draws = Draws::new(seed);
    let mut before = [0.0; WIDTH];
    let row = |at: usize| {
        #[expect(clippy::cast_possible_truncation, reason = "simulated values")]
        before.iter_mut().for_each(|x| *x = 0.4 * *x + draws.normal() as f32);
        before.map(|x| if at < count / 2 { x } else { x + shift }).to_vec()
    };
    (0..count).map(row).collect()
}

/// Runs a check over one machine of every kind.
macro_rules! each_machine {
    ($check:ident $(, $argument:expr)*) => {{
        let reference = reference();
        let tree = QuantTree::grow(QtSettings::default(), WIDTH, &reference).expect("enough rows");
        $check(QtEwma::new(tree, 0.03, Thresholds::promised(600.0, 200.0)).expect("a weight") $(, $argument)*);
        $check(Newma::new(NewmaSettings::default(), WIDTH, &reference).expect("settings") $(, $argument)*);
        $check(Cbpe::new(CbpeSettings { chunk_rows: 50, reference_chunks: 3 }, 2) $(, $argument)*);
        $check(BlockMeans::new() $(, $argument)*);
        $check(Guarded::new(Adwin::new(AdwinSettings { clock: 1, ..AdwinSettings::default() }).expect("settings")) $(, $argument)*);
        $check(Thinning::new(WIDTH, 1, 100) $(, $argument)*);
        let frozen = FrozenBins::numbers(&reference, 10).expect("enough rows");
        let window = BinWindow::new(&frozen, 200);
        $check((frozen, window) $(, $argument)*);
    }};
}

/// Told `rows`, and stored and restored before row `cut`, it says the same and stands the same.
fn a_restart_changes_nothing<M: Machine>(machine: M, rows: &[Vec<f32>], cut: usize) {
    let (mut straight, mut restored) = (machine.clone(), machine);
    for (at, row) in rows.iter().enumerate() {
        if at == cut {
            restored = postcard::from_bytes(&stored(&restored)).expect("restores");
            // The agent keeps its state as JSON.
            let text = serde_json::to_string(&restored).expect("plain data");
            restored = serde_json::from_str(&text).expect("reads");
        }
        assert_eq!(straight.feed(row), restored.feed(row), "row {at}, restarted before {cut}: {straight:?}");
    }
    assert_eq!(stored(&straight), stored(&restored));
}

/// Told anything, it goes on and stays small.
fn anything_is_taken<M: Machine>(mut machine: M, rows: &[Vec<f32>]) {
    let most = machine.bytes_max();
    for row in rows {
        machine.feed(row);
    }
    assert!(stored(&machine).len() <= most, "{} bytes, {most} allowed: {machine:?}", stored(&machine).len());
}

fn stored<M: Machine>(machine: &M) -> Vec<u8> {
    postcard::to_stdvec(machine).expect("plain data")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn restoring_anywhere_changes_nothing(seed in 0_u64..1000, cut in 0_usize..700) {
        let rows = rows(700, 1.5, seed);
        each_machine!(a_restart_changes_nothing, &rows, cut);
    }

    #[test]
    fn no_row_panics(values in prop::collection::vec(prop::collection::vec(any::<f32>(), WIDTH), 300)) {
        each_machine!(anything_is_taken, &values);
    }

    #[test]
    fn the_order_of_the_columns_does_not_change_what_is_seen(seed in 0_u64..1000) {
        // Components are the same whatever the order of the columns, but for their signs and for rounding.
        let (reference, after) = (rows(600, 0.0, seed), rows(200, 0.0, seed + 1));
        let turned = |rows: &[Vec<f32>]| rows.iter().map(|row| vec![row[2], row[0], row[1]]).collect::<Vec<_>>();
        let straight = Principal::new(&reference.concat(), WIDTH, WIDTH).expect("it varies");
        let other = Principal::new(&turned(&reference).concat(), WIDTH, WIDTH).expect("it varies");
        for (row, turned) in after.iter().zip(turned(&after)) {
            let (one, _) = straight.project(row);
            let (two, _) = other.project(&turned);
            for (one, two) in one[..WIDTH].iter().zip(&two[..WIDTH]) {
                prop_assert!((one.abs() - two.abs()).abs() < 1e-2, "{row:?}: {one} and {two}");
            }
        }
    }
}

#[test]
fn memory_stays_bounded_over_long_streams() {
    let rows = rows(30_000, 3.0, 1);
    each_machine!(anything_is_taken, &rows);
}
