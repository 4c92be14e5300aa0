//! Energy: the first source of a fixed order that the board has, counted from the first look on; else a model.
//!
//! ```text
//! 1 hwmon energy   2 hwmon power (INA219/226/260)   3 INA3221 rails   4 RAPL   5 power supply   6 model (CPU seconds)
//! ```
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::supply;
use super::tree::{Missing, Tree, miss};
use crate::decide::time::Uptime;

const HWMON: &str = "sys/class/hwmon";
const POWERCAP: &str = "sys/class/powercap";
/// Channels of one hwmon device that are looked at.
const CHANNELS_MAX: u32 = 16;
/// Bus channels of an INA3221; 4 and up are shunts and sums.
const RAILS: u32 = 3;
/// Devices that measure a part the training does not run on.
const OTHER_PARTS: [&str; 7] = ["amdgpu", "radeon", "nouveau", "i915", "xe", "nvme", "iwlwifi"];
/// Labels of rails through which everything flows: beside one of these the others would be counted twice.
const WHOLE: [&str; 5] = ["vdd_in", "5v_in", "vin_sys", "total", "psys"];
/// How far the power at rest may have moved during a training, as a share.
const REST_ERROR: f64 = 0.1;

/// Where a figure of energy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergySource {
    /// A counter of a hwmon device.
    HwmonEnergy,
    /// Power of a hwmon device.
    HwmonPower,
    /// Voltage times current of an INA3221.
    Rails,
    /// RAPL counters of an x86 package.
    Rapl,
    /// A mains adapter or battery that measures.
    PowerSupply,
    /// CPU seconds times watts per core.
    Model,
}

impl EnergySource {
    /// The word in the ledger and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HwmonEnergy => "hwmon_energy",
            Self::HwmonPower => "hwmon_power",
            Self::Rails => "rails",
            Self::Rapl => "rapl",
            Self::PowerSupply => "power_supply",
            Self::Model => "model",
        }
    }

    /// Whether a sensor stands behind it.
    #[must_use]
    pub fn is_measured(self) -> bool {
        self != Self::Model
    }

    /// How far off it may be, as a share: data sheets for the chips with a 1 % shunt, judgement for the rest.
    fn error_share(self) -> f64 {
        match self {
            Self::HwmonEnergy | Self::HwmonPower | Self::Rails => 0.02,
            Self::Rapl => 0.05,
            Self::PowerSupply => 0.1,
            Self::Model => 0.5,
        }
    }
}

impl fmt::Display for EnergySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the board has drawn, as measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// By which source.
    pub source: EnergySource,
    /// By which devices or rails.
    pub name: String,
    /// Joules since this source was first read.
    pub joules: f64,
    /// Power now, or on average since the look before.
    pub watts: Option<f64>,
}

/// What one training took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Booked {
    /// Joules above what the board draws at rest.
    pub joules: f64,
    /// ± joules.
    pub error: f64,
    /// By which source; [`EnergySource::Model`] also where the measured figure drowns in its error.
    pub source: EnergySource,
}

/// Books a training between two looks: measured energy less the power at rest times the time; the model where nothing
/// measures, where the source changed, or where the training is smaller than the error.
#[must_use]
pub fn book(
    before: Option<&Draw>,
    after: Option<&Draw>,
    rest_w: Option<f64>,
    (wall_s, cpu_s): (f64, f64),
    watts_per_core: f64,
) -> Booked {
    let source = EnergySource::Model;
    let modelled = cpu_s.max(0.0) * watts_per_core.max(0.0);
    let model = Booked { joules: modelled, error: modelled * source.error_share(), source };
    let (Some(before), Some(after), Some(rest_w)) = (before, after, rest_w) else { return model };
    if (before.source, &before.name) != (after.source, &after.name) {
        return model;
    }
    let drawn = after.joules - before.joules;
    let rest = rest_w * wall_s;
    let joules = drawn - rest;
    let error = drawn * after.source.error_share() + rest * REST_ERROR;
    if joules.is_finite() && error.is_finite() && joules > error && wall_s > 0.0 {
        Booked { joules, error, source: after.source }
    } else {
        model
    }
}

/// What one look at a source gives.
struct Sample {
    source: EnergySource,
    /// By name: a counter in joules with the value at which it wraps, or watts.
    channels: Vec<(String, Channel)>,
}

#[derive(Clone, Copy)]
enum Channel {
    Counter { joules: f64, wraps_at: Option<f64> },
    Watts(f64),
}

/// Adds up what a source says from look to look.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Source and channels of the look before.
    of: Option<(EnergySource, String)>,
    at: Uptime,
    counters: BTreeMap<String, f64>,
    watts: f64,
    joules: f64,
}

impl Meter {
    /// Reads the first source there is.
    pub(super) fn read(&mut self, tree: &Tree, now: Uptime, missing: &mut Vec<Missing>) -> Option<Draw> {
        let sample = hwmon(tree, EnergySource::HwmonEnergy, missing)
            .or_else(|| hwmon(tree, EnergySource::HwmonPower, missing))
            .or_else(|| hwmon(tree, EnergySource::Rails, missing))
            .or_else(|| rapl(tree, missing))
            .or_else(|| {
                let (name, watts) = supply::watts(tree, missing)?;
                Some(Sample { source: EnergySource::PowerSupply, channels: vec![(name, Channel::Watts(watts))] })
            });
        let Some(sample) = sample else {
            miss(missing, "energy", "nothing measures it: figures are modelled from CPU seconds");
            self.of = None;
            return None;
        };
        Some(self.add(&sample, now))
    }

    fn add(&mut self, sample: &Sample, now: Uptime) -> Draw {
        let names: Vec<_> = sample.channels.iter().map(|(name, _)| name.as_str()).collect();
        let name = names.join("+");
        let elapsed_s = now.0.saturating_sub(self.at.0).as_secs_f64();
        let of = Some((sample.source, name.clone()));
        let goes_on = self.of == of;
        if !goes_on {
            // Another source, or the first one: nothing can be said about the time before.
            *self = Self { of, ..Self::default() };
        }
        let (mut step, mut watts, mut is_power) = (0.0, 0.0, false);
        for (name, channel) in &sample.channels {
            match *channel {
                Channel::Counter { joules, wraps_at } => {
                    if let Some(before) = self.counters.insert(name.clone(), joules) {
                        // A counter that fell without a known end was reset: that stretch is not counted.
                        let wrapped = wraps_at.map_or(0.0, |end| (end - before + joules).max(0.0));
                        step += if joules >= before { joules - before } else { wrapped };
                    }
                }
                Channel::Watts(power) => (watts, is_power) = (watts + power, true),
            }
        }
        if is_power {
            // Trapezoid between the two looks.
            step = if goes_on { f64::midpoint(self.watts, watts) * elapsed_s } else { 0.0 };
        }
        let rate = (goes_on && elapsed_s > 0.0).then(|| step / elapsed_s);
        (self.joules, self.watts, self.at) = (self.joules + step, watts, now);
        Draw { source: sample.source, name, joules: self.joules, watts: if is_power { Some(watts) } else { rate } }
    }
}

/// All channels of one kind over all hwmon devices; only the one through which everything flows, where it is labelled.
fn hwmon(tree: &Tree, source: EnergySource, missing: &mut Vec<Missing>) -> Option<Sample> {
    let mut found = Vec::new();
    for device in tree.names(HWMON, "hwmon") {
        let folder = format!("{HWMON}/{device}");
        let driver = tree.text(&format!("{folder}/name")).unwrap_or_else(|_| device.clone());
        if OTHER_PARTS.iter().any(|part| driver.starts_with(part))
            || (source == EnergySource::Rails) != (driver == "ina3221")
        {
            continue;
        }
        let channels = if source == EnergySource::Rails { RAILS } else { CHANNELS_MAX };
        for place in 1..=channels {
            let mut value = |file: String| tree.named(&format!("{folder}/{file}"), missing).map(|value| value as f64);
            let (channel, labelled) = match source {
                EnergySource::HwmonEnergy => {
                    let counter = value(format!("energy{place}_input"));
                    (counter.map(|micro| Channel::Counter { joules: micro / 1e6, wraps_at: None }), "energy")
                }
                EnergySource::HwmonPower => {
                    let power = value(format!("power{place}_input")).or_else(|| value(format!("power{place}_average")));
                    (power.map(|micro| Channel::Watts(micro / 1e6)), "power")
                }
                _ => {
                    let volts = value(format!("in{place}_input"));
                    let milli = volts.zip(value(format!("curr{place}_input")));
                    (milli.map(|(volts, amperes)| Channel::Watts(volts * amperes / 1e6)), "in")
                }
            };
            let Some(channel) = channel.filter(Channel::is_plausible) else { continue };
            let label = tree.text(&format!("{folder}/{labelled}{place}_label")).ok().filter(|label| !label.is_empty());
            found.push((label.unwrap_or_else(|| format!("{driver}.{place}")), channel));
        }
    }
    let is_whole = |name: &str| WHOLE.iter().any(|whole| name.to_lowercase().contains(whole));
    if found.iter().any(|(name, _)| is_whole(name)) {
        found.retain(|(name, _)| is_whole(name));
    }
    (!found.is_empty()).then_some(Sample { source, channels: found })
}

impl Channel {
    fn is_plausible(&self) -> bool {
        match self {
            Self::Counter { joules, .. } => *joules >= 0.0,
            Self::Watts(watts) => (0.0..=10_000.0).contains(watts),
        }
    }
}

/// The packages of an x86 board; their parts (`intel-rapl:0:1`) are within them.
fn rapl(tree: &Tree, missing: &mut Vec<Missing>) -> Option<Sample> {
    let mut channels = Vec::new();
    for zone in tree.names(POWERCAP, "intel-rapl:").into_iter().filter(|zone| zone.matches(':').count() == 1) {
        let folder = format!("{POWERCAP}/{zone}");
        let Some(micro) = tree.named(&format!("{folder}/energy_uj"), missing) else { continue };
        let wraps_at = tree.named(&format!("{folder}/max_energy_range_uj"), missing).map(|end| end as f64 / 1e6);
        let label = tree.text(&format!("{folder}/name")).unwrap_or_else(|_| zone.clone());
        channels.push((label, Channel::Counter { joules: micro as f64 / 1e6, wraps_at }));
    }
    if channels.iter().any(|(name, _)| name == "psys") {
        channels.retain(|(name, _)| name == "psys");
    }
    (!channels.is_empty()).then_some(Sample { source: EnergySource::Rapl, channels })
}
