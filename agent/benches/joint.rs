//! What the joint watch costs per row: `cargo bench --workspace --bench joint`.
//!
//! Rows are independent, so each is tested: the worst case. The promise is 1.5 µs for 128 columns and 16 components.
use divan::Bencher;
use hone_agent::decide::watch::joint::{Joint, JointSettings};

fn main() {
    divan::main();
}

/// `[rows, width]` of independent values of mean 0, from `SplitMix64`: sums of four uniform draws.
fn rows(count: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let uniform = |bits: u64| f32::from(u16::try_from(bits >> 48).unwrap_or(0)) / 65_536.0 - 0.5;
    (0..count * width).map(|_| (0..4).map(|_| uniform(next())).sum()).collect()
}

fn watched(width: usize, settings: &JointSettings) -> Joint {
    let mut joint = Joint::new(settings, 100_000.0, &rows(1024, width, 1), width);
    rows(2000, width, 2).chunks_exact(width).for_each(|row| drop(joint.sample(row)));
    joint
}

fn sample(bencher: Bencher, width: usize, settings: &JointSettings) {
    let stream = rows(1000, width, 3);
    let joint = watched(width, settings);
    assert_eq!(joint.view().block_rows, Some(1), "every row is tested");
    bencher.counter(divan::counter::ItemsCount::new(1000_usize)).with_inputs(|| joint.clone()).bench_local_refs(
        |joint| {
            stream.chunks_exact(width).for_each(|row| drop(divan::black_box(joint.sample(row))));
        },
    );
}

#[divan::bench(args = [8, 32, 128, 256])]
fn thousand_rows_8_components(bencher: Bencher, width: usize) {
    sample(bencher, width, &JointSettings { components: 8, ..JointSettings::default() });
}

#[divan::bench(args = [32, 128, 256])]
fn thousand_rows_16_components(bencher: Bencher, width: usize) {
    sample(bencher, width, &JointSettings { components: 16, ..JointSettings::default() });
}

#[divan::bench(args = [128])]
fn thousand_rows_with_newma(bencher: Bencher, width: usize) {
    sample(bencher, width, &JointSettings { newma: true, ..JointSettings::default() });
}

#[divan::bench(args = [8, 128], sample_count = 10)]
fn baseline_of_2048_rows(bencher: Bencher, width: usize) {
    let baseline = rows(2048, width, 1);
    bencher.bench_local(|| Joint::new(&JointSettings::default(), 100_000.0, &baseline, width));
}
