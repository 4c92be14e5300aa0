//! What watching the columns costs per row: `cargo bench --bench drift`.
#![expect(clippy::cast_precision_loss, reason = "draws of 24 bits are exact in f32")]
use divan::counter::ItemsCount;
use hone_agent::decide::watch::columns::{ColumnKind, ColumnPlan, ColumnSpec, Columns};
use hone_agent::decide::watch::finding::Measure;

fn main() {
    divan::main();
}

/// Rows that are drawn once and fed in turn.
const ROWS: usize = 4096;

/// Nearly normal values: sums of four uniform draws of one multiplicative generator.
fn rows(width: usize) -> Vec<Vec<f32>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..ROWS).map(|_| (0..width).map(|_| (0..4).map(|_| uniform()).sum::<f32>() - 2.0).collect()).collect()
}

/// Columns with a baseline and all default tests, past their first verdicts.
fn watching(rows: &[Vec<f32>]) -> Columns {
    let spec = |index: usize| ColumnSpec {
        measure: Measure::Feature(format!("feature_{index}")),
        kind: ColumnKind::Number,
        range: Some([-4.0, 4.0]),
    };
    let mut columns = Columns::new((0..rows[0].len()).map(spec).collect(), &ColumnPlan::default());
    columns.rebaseline(&rows[..1000].concat(), None);
    for row in rows {
        columns.sample(row, None);
    }
    columns
}

/// One row of so many features through bins, mean and rates, looks included.
#[divan::bench(args = [1, 8, 128])]
fn row(bencher: divan::Bencher<'_, '_>, width: usize) {
    let rows = rows(width);
    let mut columns = watching(&rows);
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        for row in &rows {
            divan::black_box(columns.sample(divan::black_box(row), None));
        }
    });
}
