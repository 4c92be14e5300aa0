//! The simulated gateway of `hone demo`: a press line whose sensors age and whose machine changes, from one seed.
//!
//! Every reading is a function of (seed, row) alone, so any row can be asked for at any time and in any order.
//!
//! ```text
//! row 0 ────────── ageing_from ────── maintenance (short) ────── tooling_from ──────────►
//!     the machine      sensors creep      the accelerometer and      new tooling: the same states
//!     as trained       a little a day     a valve are touched        look different on most sensors
//! ```
#![expect(clippy::cast_precision_loss, reason = "rows of a simulation stay far below 2^52, and 53 random bits fit f64")]

use std::ops::Range;

use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};

/// Sensors of one press.
pub const SENSORS: usize = 8;

/// Machine states in the order of the schema's classes, which are sorted by text.
pub const STATES: [&str; 4] = ["bearing_wear", "leak", "normal", "overload"];

/// Presses that report in turn through one gateway.
pub const PRESSES: u64 = 5;

/// What one sensor measures and how it behaves on a healthy press.
struct Sensor {
    name: &'static str,
    unit: &'static str,
    range: [f32; 2],
    /// Reading in the normal state at medium load.
    base: f64,
    /// One standard deviation of the noise; everything below is counted in it.
    noise: f64,
    /// Change from idle to full load.
    load: f64,
    /// Drift of the offset in 1,000 rows of ageing.
    creep: f64,
    /// Change of the offset while the maintenance lasts.
    maintenance: f64,
}

#[rustfmt::skip]
const PRESS: [Sensor; SENSORS] = [
    Sensor { name: "vibration_mm_s", unit: "mm/s",  range: [0.0, 50.0],     base: 3.2,    noise: 0.35, load: 1.0,  creep: 0.30,  maintenance: 2.6 },
    Sensor { name: "temp_c",         unit: "°C",    range: [-20.0, 150.0],  base: 58.0,   noise: 1.8,  load: 2.4,  creep: 0.45,  maintenance: -1.6 },
    Sensor { name: "current_a",      unit: "A",     range: [0.0, 120.0],    base: 34.0,   noise: 1.6,  load: 2.2,  creep: 0.05,  maintenance: 0.0 },
    Sensor { name: "pressure_bar",   unit: "bar",   range: [0.0, 320.0],    base: 180.0,  noise: 4.0,  load: 1.2,  creep: -0.35, maintenance: -2.2 },
    Sensor { name: "flow_l_min",     unit: "L/min", range: [0.0, 200.0],    base: 62.0,   noise: 2.1,  load: 1.0,  creep: -0.10, maintenance: 0.0 },
    Sensor { name: "rpm",            unit: "1/min", range: [0.0, 3_000.0],  base: 1480.0, noise: 9.0,  load: -1.4, creep: 0.0,   maintenance: 0.0 },
    Sensor { name: "acoustic_db",    unit: "dB",    range: [20.0, 140.0],   base: 78.0,   noise: 1.3,  load: 0.8,  creep: 0.25,  maintenance: 0.0 },
    Sensor { name: "humidity_pct",   unit: "%",     range: [0.0, 100.0],    base: 45.0,   noise: 3.0,  load: 0.0,  creep: 0.20,  maintenance: 0.0 },
];

/// What a state does to each sensor, in standard deviations of its noise: `[state][sensor]`, states as in [`STATES`].
type Signatures = [[f64; SENSORS]; 4];

#[rustfmt::skip]
const OLD_TOOLING: Signatures = [
    // vib  temp  amp   bar   flow  rpm   dB    hum
    [4.2,   1.6,  0.5,  0.0,  0.0, -0.3,  3.2,  0.0], // bearing_wear
    [0.2,  -0.4, -0.3, -4.2, -3.0,  0.2,  1.0,  0.0], // leak
    [0.0,   0.0,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0], // normal
    [0.8,   2.6,  4.2,  0.6,  0.2, -3.0,  0.6,  0.0], // overload
];

/// A stiffer tool: wear shows as heat and current, overload as vibration and pressure, a leak no longer costs flow.
#[rustfmt::skip]
const NEW_TOOLING: Signatures = [
    // vib  temp  amp   bar   flow  rpm   dB    hum
    [1.2,   4.6,  3.0,  0.2,  2.0, -2.4,  1.2,  0.0], // bearing_wear
    [0.6,   0.2,  0.0, -5.2,  0.6,  0.2,  0.4,  0.0], // leak
    [0.2,   0.2, -0.4,  0.2,  0.2,  0.4,  0.2,  0.0], // normal
    [2.8,   1.4,  2.8,  4.6, -1.0, -1.8,  1.6,  0.0], // overload
];

/// Share of the rows in each state, in the order of [`STATES`]: faults are frequent, or two minutes would show none.
const SHARES: [f64; 4] = [0.2, 0.2, 0.4, 0.2];

/// Humidity follows the day: its swing in standard deviations, and the rows of a day.
const DAY: (f64, f64) = (1.2, 480.0);

/// The humidity sensor has a loose contact: this share of its readings is missing.
const MISSING_SHARE: f64 = 0.005;

/// When the plant changes; all in rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// First row of ageing; before it the plant is as it was when the base model was trained.
    pub ageing_from: u64,
    /// A short maintenance that shifts a few sensors while it lasts, and then passes.
    pub maintenance: Range<u64>,
    /// First row with the new tooling: the states keep their names and look different.
    pub tooling_from: u64,
}

impl Default for Timeline {
    /// 1,500 rows to train on, a maintenance at 2,400, new tooling at 3,200.
    fn default() -> Self {
        Self { ageing_from: 1_500, maintenance: 2_400..2_440, tooling_from: 3_200 }
    }
}

/// What happens to the plant at a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantEvent {
    /// Sensors begin to creep.
    AgeingStarts,
    /// Technicians are at the presses; some sensors are off.
    MaintenanceStarts,
    /// The presses run as before the maintenance.
    MaintenanceEnds,
    /// The tooling was changed; from here on the old model is wrong.
    NewTooling,
}

/// One sample with its truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Values in the order of [`schema`], in raw units; `NaN` = the sensor did not answer.
    pub features: Vec<f32>,
    /// The true state, an index into [`STATES`].
    pub class: usize,
    /// Which press reported: `press-1` to `press-5`.
    pub source: String,
    /// What begins at this row, for the live account.
    pub event: Option<PlantEvent>,
}

/// The press line.
#[derive(Clone, Debug)]
pub struct Plant {
    seed: u64,
    timeline: Timeline,
}

impl Plant {
    /// A plant with the default [`Timeline`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_timeline(seed, Timeline::default())
    }

    /// A plant that changes when `timeline` says.
    #[must_use]
    pub fn with_timeline(seed: u64, timeline: Timeline) -> Self {
        Self { seed, timeline }
    }

    /// When this plant changes.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The reading at `row`, counted from 0; the same for the same seed and row, whatever was asked before.
    #[must_use]
    pub fn next(&self, row: u64) -> Reading {
        let mut chance = Chance::new(self.seed, row);
        let class = state(chance.uniform());
        let load = chance.uniform() - 0.5;
        let aged = row.saturating_sub(self.timeline.ageing_from) as f64 / 1_000.0;
        let signatures = if row < self.timeline.tooling_from { &OLD_TOOLING } else { &NEW_TOOLING };
        let day = DAY.0 * (row as f64 / DAY.1 * std::f64::consts::TAU).sin();
        let features = PRESS
            .iter()
            .zip(signatures[class])
            .map(|(sensor, signature)| {
                let mut deviations = signature + sensor.load * load + sensor.creep * aged + chance.normal();
                if self.timeline.maintenance.contains(&row) {
                    deviations += sensor.maintenance;
                }
                if sensor.name == "humidity_pct" {
                    deviations += day;
                }
                measured(sensor, sensor.base + sensor.noise * deviations)
            })
            .collect::<Vec<_>>();
        let mut reading =
            Reading { features, class, source: format!("press-{}", row % PRESSES + 1), event: self.event(row) };
        if chance.uniform() < MISSING_SHARE {
            reading.features[SENSORS - 1] = f32::NAN;
        }
        reading
    }

    /// The readings of `range` as labelled rows.
    #[must_use]
    pub fn rows(&self, range: Range<u64>) -> Rows {
        let mut rows = Rows::empty(SENSORS, 1);
        for row in range {
            let reading = self.next(row);
            rows.push(&reading.features, &[reading.class as f32]);
        }
        rows
    }

    fn event(&self, row: u64) -> Option<PlantEvent> {
        let timeline = &self.timeline;
        [
            (timeline.tooling_from, PlantEvent::NewTooling),
            (timeline.maintenance.start, PlantEvent::MaintenanceStarts),
            (timeline.maintenance.end, PlantEvent::MaintenanceEnds),
            (timeline.ageing_from, PlantEvent::AgeingStarts),
        ]
        .into_iter()
        .find_map(|(at, event)| (at == row).then_some(event))
    }
}

/// Sensors with units and ranges, and the machine states as classes.
#[must_use]
pub fn schema() -> Schema {
    let features = PRESS
        .iter()
        .map(|sensor| Feature {
            name: sensor.name.to_owned(),
            unit: Some(sensor.unit.to_owned()),
            kind: FeatureKind::Number,
            range: Some(sensor.range),
        })
        .collect();
    Schema { features, task: Task::Classification { classes: STATES.map(str::to_owned).to_vec() } }
}

/// The state at `uniform` in the cumulated shares.
fn state(uniform: f64) -> usize {
    let mut rest = uniform;
    for (class, share) in SHARES.into_iter().enumerate() {
        if rest < share {
            return class;
        }
        rest -= share;
    }
    STATES.len() - 1
}

/// A value as the instrument shows it: inside its range, to a thousandth.
fn measured(sensor: &Sensor, value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "sensor readings are single precision")]
    let shown = ((value * 1_000.0).round() / 1_000.0) as f32;
    shown.clamp(sensor.range[0], sensor.range[1])
}

/// Chance of one row: splitmix64 from a state mixed of seed and row (Steele, Lea, Flood 2014), normals by Box–Muller.
struct Chance(u64);

impl Chance {
    fn new(seed: u64, row: u64) -> Self {
        Self(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ mix(row.wrapping_mul(0xd1b5_4a32_d192_ed03)))
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal; the second half of the pair is thrown away to keep a row's draws countable.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

fn mix(value: u64) -> u64 {
    let mut mixed = value;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a truth is a small class index")]

    use super::*;

    /// Ridge regression on one-hot targets over standardised inputs: the plainest linear classifier.
    struct Linear {
        mean: [f64; SENSORS],
        scale: [f64; SENSORS],
        weights: Vec<[f64; 4]>,
    }

    impl Linear {
        fn fit(rows: &Rows) -> Self {
            let mut mean = [0.0; SENSORS];
            let mut scale = [0.0; SENSORS];
            for sensor in 0..SENSORS {
                let seen: Vec<f64> = (0..rows.len())
                    .map(|row| f64::from(rows.x(row)[sensor]))
                    .filter(|value| value.is_finite())
                    .collect();
                mean[sensor] = seen.iter().sum::<f64>() / seen.len() as f64;
                let squares: f64 = seen.iter().map(|value| (value - mean[sensor]).powi(2)).sum();
                scale[sensor] = (squares / seen.len() as f64).sqrt();
            }
            let mut model = Self { mean, scale, weights: Vec::new() };
            let mut gram = vec![[0.0; SENSORS + 1 + 4]; SENSORS + 1];
            for row in 0..rows.len() {
                let h = model.inputs(rows.x(row));
                for (i, line) in gram.iter_mut().enumerate() {
                    for j in 0..=SENSORS {
                        line[j] += h[i] * h[j];
                    }
                    for (class, name) in STATES.iter().enumerate() {
                        if STATES[rows.y(row)[0] as usize] == *name {
                            line[SENSORS + 1 + class] += h[i];
                        }
                    }
                }
            }
            for (i, line) in gram.iter_mut().enumerate() {
                line[i] += 1.0;
            }
            for pivot in 0..=SENSORS {
                let lead = gram[pivot];
                for (i, line) in gram.iter_mut().enumerate() {
                    if i != pivot {
                        let factor = line[pivot] / lead[pivot];
                        line.iter_mut().zip(lead).for_each(|(value, other)| *value -= factor * other);
                    }
                }
            }
            model.weights =
                (0..=SENSORS).map(|i| std::array::from_fn(|class| gram[i][SENSORS + 1 + class] / gram[i][i])).collect();
            model
        }

        fn inputs(&self, x: &[f32]) -> [f64; SENSORS + 1] {
            std::array::from_fn(|i| match x.get(i) {
                None => 1.0,
                Some(value) if value.is_nan() => 0.0,
                Some(value) => (f64::from(*value) - self.mean[i]) / self.scale[i],
            })
        }

        fn accuracy(&self, rows: &Rows) -> f64 {
            let right = (0..rows.len())
                .filter(|&row| {
                    let h = self.inputs(rows.x(row));
                    let score = |class: usize| h.iter().zip(&self.weights).map(|(h, w)| h * w[class]).sum::<f64>();
                    let best = (0..4).max_by(|&a, &b| score(a).total_cmp(&score(b))).expect("four classes");
                    best == rows.y(row)[0] as usize
                })
                .count();
            right as f64 / rows.len() as f64
        }
    }

    #[test]
    fn a_linear_model_is_good_until_the_tooling_changes_and_good_again_after_400_new_rows() {
        for seed in 0..5 {
            let plant = Plant::new(seed);
            let base = Linear::fit(&plant.rows(0..1_500));
            let fresh = base.accuracy(&plant.rows(1_500..2_400));
            let before = base.accuracy(&plant.rows(2_440..3_200));
            let after = base.accuracy(&plant.rows(3_200..4_400));
            let refit = Linear::fit(&plant.rows(3_200..3_600)).accuracy(&plant.rows(3_600..4_400));
            println!("seed {seed}: fresh {fresh:.3}, aged {before:.3}, after the change {after:.3}, refit {refit:.3}");
            assert!(fresh > 0.94 && before > 0.9, "the base model holds before the change: {fresh}, {before}");
            assert!((0.45..0.75).contains(&after), "the change must hurt, not invert: {after}");
            assert!(refit > 0.92, "400 rows must be enough: {refit}");
        }
    }

    #[test]
    fn the_maintenance_hurts_only_while_it_lasts() {
        let (mut during, mut later) = (0.0, 0.0);
        for seed in 0..5 {
            let plant = Plant::new(seed);
            let base = Linear::fit(&plant.rows(0..1_500));
            during += base.accuracy(&plant.rows(2_400..2_440)) / 5.0;
            later += base.accuracy(&plant.rows(2_440..2_480)) / 5.0;
        }
        println!("during {during:.3}, later {later:.3}");
        assert!(during < 0.8 && later > 0.9, "{during} {later}");
    }

    #[test]
    fn ageing_starts_after_training_and_never_jumps() {
        let mean = |rows: Range<u64>| {
            let plant = Plant::with_timeline(
                3,
                Timeline { maintenance: u64::MAX..u64::MAX, tooling_from: u64::MAX, ..Timeline::default() },
            );
            let count = (rows.end - rows.start) as f64;
            rows.map(|row| f64::from(plant.next(row).features[0])).sum::<f64>() / count
        };
        let (first, trained, aged) = (mean(0..750), mean(750..1_500), mean(10_500..11_500));
        assert!((trained - first).abs() < 0.1, "{first} {trained}");
        assert!((aged - trained - 0.30 * 0.35 * 9.5).abs() < 0.15, "{trained} {aged}");
    }

    #[test]
    fn a_reading_depends_on_seed_and_row_alone() {
        let plant = Plant::new(7);
        let later = plant.next(2_000);
        let _ = plant.next(10);
        assert_eq!(format!("{later:?}"), format!("{:?}", Plant::new(7).next(2_000)));
        assert_ne!(format!("{later:?}"), format!("{:?}", Plant::new(8).next(2_000)));
        let shown = format!("{:?}", plant.next(0).features);
        assert_eq!(
            shown, "[2.902, 59.334, 37.43, 185.429, 58.043, 1478.559, 79.42, 41.31]",
            "the demo's account and its page depend on these bytes"
        );
    }

    #[test]
    fn readings_stay_in_their_ranges_and_few_are_missing() {
        let plant = Plant::new(1);
        let mut missing = 0;
        for row in 0..6_000 {
            let reading = plant.next(row);
            for (value, feature) in reading.features.iter().zip(schema().features) {
                let [low, high] = feature.range.expect("every sensor has a range");
                assert!(value.is_nan() || (low..=high).contains(value), "{} = {value}", feature.name);
                missing += usize::from(value.is_nan());
            }
        }
        assert!((10..60).contains(&missing), "{missing}");
    }

    #[test]
    fn each_change_is_told_once() {
        let plant = Plant::new(1);
        let told: Vec<_> = (0..5_000).filter_map(|row| plant.next(row).event.map(|event| (row, event))).collect();
        assert_eq!(
            told,
            [
                (1_500, PlantEvent::AgeingStarts),
                (2_400, PlantEvent::MaintenanceStarts),
                (2_440, PlantEvent::MaintenanceEnds),
                (3_200, PlantEvent::NewTooling),
            ]
        );
    }
}
