//! A small world to measure: three sensors, two states, and a day on which everything changes.
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::hone;

/// What the rows follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// As the model was trained.
    Old,
    /// The sensors read higher and the states have swapped their looks.
    New,
    /// The states have swapped their looks, the sensors read as before.
    Opposite,
}

/// A source of rows; equal seeds give equal rows.
#[derive(Clone, Debug)]
pub struct World(u64);

impl World {
    /// A world with its own chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn uniform(&mut self) -> f64 {
        // xorshift64*, by Vigna.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = u32::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32).unwrap_or_default();
        f64::from(bits) / f64::from(u32::MAX)
    }

    /// Twelve uniforms make a normal one, near enough.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// One row and its true state.
    pub fn row(&mut self, law: Law) -> ([f64; 3], &'static str) {
        let [a, b, c] = [self.normal(), self.normal(), self.normal()];
        let high = (a + b > 0.0) == (law == Law::Old);
        let moved = if law == Law::New { 2.0 } else { 0.0 };
        ([a + moved, b + moved, c], if high { "high" } else { "low" })
    }
}

/// A sample as one NDJSON line.
#[must_use]
pub fn sample([a, b, c]: [f64; 3]) -> String {
    format!("{}\n", json!({"source": "press-1", "features": {"a": a, "b": b, "c": c}}))
}

/// An inference request for one row.
#[must_use]
pub fn request(row: [f64; 3]) -> Value {
    json!({"inputs": [{"name": "input", "shape": [3], "datatype": "FP32", "data": row}]})
}

/// Trains a model with `hone train` on 400 rows of the old law; `flip` swaps its labels, which poisons it.
///
/// # Panics
/// The training fails.
#[must_use]
pub fn train(folder: &Path, name: &str, seed: u64, flip: bool) -> PathBuf {
    train_with(folder, name, seed, flip, &[])
}

/// The same, with more arguments for `hone train`.
///
/// # Panics
/// The training fails.
#[must_use]
pub fn train_with(folder: &Path, name: &str, seed: u64, flip: bool, more: &[&str]) -> PathBuf {
    let mut world = World::new(seed);
    let mut text = "a,b,c,state\n".to_owned();
    for _ in 0..400 {
        let ([a, b, c], state) = world.row(Law::Old);
        let state = if (state == "high") == flip { "low" } else { "high" };
        writeln!(text, "{a},{b},{c},{state}").expect("a string takes any text");
    }
    let (data, model) = (folder.join(format!("{name}.csv")), folder.join(format!("{name}.safetensors")));
    std::fs::write(&data, text).expect("a temporary folder can be written");
    let mut train = Command::new(hone());
    train.args(["train", "--label", "state", "--seed", "1", "--data"]).arg(&data).arg("-o").arg(&model).args(more);
    let output = train.output().expect("hone can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    model
}
