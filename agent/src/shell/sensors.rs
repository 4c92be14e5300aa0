//! What the gateway measures about itself: energy, heat, battery, memory, pressure, flash; all read below one root path.
//!
//! The files of `/sys` and `/proc` are written by drivers of all qualities. None of them can stop anything here: what cannot
//! be read, is no number or makes no sense is absent, and named with the reason.
mod energy;
mod heat;
mod limits;
mod load;
mod storage;
mod supply;
#[cfg(test)]
mod tests;
mod tree;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use energy::{Booked, Draw, EnergySource, book};
pub use storage::Wear;
pub use tree::Missing;

use crate::decide::budget::Readings;
use crate::decide::time::Uptime;
use energy::Meter;
use load::CpuTimes;
use tree::Tree;

/// What sensors cannot know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorSettings {
    /// Power one busy core draws more than an idle one, in watts: the energy model where nothing is measured. Measure it once
    /// with a meter at the plug and a busy loop. Range 0.01 to 100, default 2 (Cortex-A72 class; half for Cortex-A53).
    pub watts_per_core: f64,
}

impl Default for SensorSettings {
    fn default() -> Self {
        Self { watts_per_core: 2.0 }
    }
}

impl SensorSettings {
    /// The first setting outside its range: its name, its value and what is allowed.
    #[must_use]
    pub fn out_of_range(&self) -> Option<(&'static str, String, &'static str)> {
        let watts = self.watts_per_core;
        (!(0.01..=100.0).contains(&watts)).then(|| ("watts_per_core", watts.to_string(), "0.01 to 100"))
    }
}

/// The sensors of one machine. Keeps the counters of the look before, so that rates can be told.
#[derive(Debug)]
pub struct Sensors {
    tree: Tree,
    meter: Meter,
    cpu: Option<CpuTimes>,
}

/// One look at everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// For the budgets.
    pub readings: Readings,
    /// Energy the board has drawn since the first look; none if nothing measures it.
    pub draw: Option<Draw>,
    /// How worn each flash device is, as it says itself.
    pub wear: Vec<Wear>,
    /// Bytes written to all disks since the machine started, by everybody.
    pub disk_written_bytes: Option<u64>,
    /// What could not be read, and why.
    pub missing: Vec<Missing>,
}

impl Sensors {
    /// The sensors below `root`: `/` on a gateway, a made-up tree in tests.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { tree: Tree::at(root), meter: Meter::default(), cpu: None }
    }

    /// Reads everything once; some hundred small files, a few milliseconds. `trainer` is the process that trains now: its CPU
    /// time counts as the agent's own.
    pub fn look(&mut self, trainer: Option<u32>, now: Uptime) -> Look {
        let tree = &self.tree;
        let mut missing = Vec::new();
        let times = load::cpu_times(tree, trainer, &mut missing);
        let cpu_others = self.cpu.zip(times).and_then(|(before, after)| load::others(before, after));
        self.cpu = times;
        let draw = self.meter.read(tree, now, &mut missing);
        let readings = Readings {
            memory: limits::memory(tree, &mut missing),
            cpu_quota_cores: limits::cpu_quota(tree),
            cpu_others,
            load_per_core: load::per_core(tree, times, &mut missing),
            memory_pressure_percent: load::pressure(tree, "memory", &mut missing),
            io_pressure_percent: load::pressure(tree, "io", &mut missing),
            zones: heat::zones(tree, &mut missing),
            power_w: draw.as_ref().and_then(|draw| draw.watts),
            battery: supply::battery(tree, &mut missing),
        };
        let wear = storage::wear(tree, &mut missing);
        let disk_written_bytes = storage::written(tree, &mut missing);
        Look { readings, draw, wear, disk_written_bytes, missing }
    }
}
