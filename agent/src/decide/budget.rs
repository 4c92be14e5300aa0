//! May training run now, how hard, and if not, why and until when.
//!
//! ```text
//!  readings ─► step ─► ask ──► allowance ─► began ─► pace … pace ─► ended (what it really took is booked)
//!                       │                     ▲        └─ refusal: suspend at a checkpoint
//!                       └─ refusal: wait ─────┘ asked again        └─ starved: reported, never let through
//! ```
//!
//! What a job is expected to take leaves the stocks when it begins, so that a power cut in the middle cannot make it free.
mod bucket;
mod forecast;
mod limits;
#[cfg(test)]
mod properties;
mod readings;
mod settings;
mod throttle;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::{Timestamp, Uptime};
pub use bucket::Bucket;
pub use forecast::{Forecast, forecast};
use limits::Phase;
pub use readings::{Battery, Memory, Readings, Zone};
pub use settings::{BudgetSettings, Hours, OnBattery, WordError};
use throttle::{Bounds, Throttle};

/// Seconds in which `flash_bytes_per_day` is given out.
const DAY_S: f64 = 86_400.0;
/// Seconds in which `energy_j_per_hour` is given out.
const HOUR_S: f64 = 3_600.0;
/// Temperatures that are kept of one look.
const ZONES_MAX: usize = 64;
/// Distance from the first trip point at which training slows down, in °C.
const TRIP_DISTANCE_C: f64 = 5.0;
/// Distance below that at which it speeds up again, in °C.
const HYSTERESIS_C: f64 = 7.0;
/// How far above the limit of temperature it stops, in °C: 1 °C below the trip point.
const STOP_ABOVE_C: f64 = 4.0;
/// Part of the agent's own CPU quota that training leaves to inference.
const QUOTA_LEFT: f64 = 0.5;
/// Others must have been quiet for this long before a suspended training goes on.
const QUIET: Duration = Duration::from_secs(10);

/// What one training is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Peak resident memory with `micro_batch_rows`, in bytes.
    pub memory_bytes: u64,
    /// What the peak falls by for each row the micro-batch is smaller, in bytes.
    pub memory_bytes_per_row: u64,
    /// Rows of a micro-batch, as wished for.
    pub micro_batch_rows: u32,
    /// CPU seconds.
    pub cpu_s: f64,
    /// Joules.
    pub joules: f64,
    /// Bytes written to the disk.
    pub write_bytes: u64,
}

/// What a training has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Wall seconds since its start.
    pub wall_s: f64,
    /// Joules.
    pub joules: f64,
    /// Joules that earlier attempts of the same retrain took, before it was suspended.
    #[serde(default)]
    pub joules_before: f64,
    /// Bytes written to the disk.
    pub write_bytes: u64,
}

/// How a training may run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allowance {
    /// Resident memory that must not be exceeded, in bytes.
    pub memory_bytes: u64,
    /// Share of one core, above 0 to 1.
    pub duty: f64,
    /// Rows of a micro-batch; at most what was wished for.
    pub micro_batch_rows: u32,
    /// Seconds of wall time left until it must have stopped, at a checkpoint if need be.
    pub deadline_s: u64,
}

/// Why training may not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// For machines.
    pub code: Code,
    /// For people, with the numbers.
    pub sentence: String,
    /// When asking again may help.
    pub try_again: TryAgain,
    /// Other limits that refuse as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Code>,
}

/// When asking again may help. Later variants are farther away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TryAgain {
    /// From this running time on.
    After(Uptime),
    /// From this wall time on; it is known to be right.
    At(Timestamp),
    /// Never with this job and these settings.
    WhenChanged,
}

/// A limit, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The predicted peak does not fit.
    Memory,
    /// One retrain may not take so much energy.
    EnergyPerRetrain,
    /// The stock of energy is too low.
    EnergyPerHour,
    /// The stock of bytes to write is too low, or too small.
    Flash,
    /// The board draws too much.
    Power,
    /// It is too hot.
    Heat,
    /// A battery feeds the gateway.
    Battery,
    /// Not at this hour.
    Hours,
    /// Hours are set and the clock is not.
    ClockUnknown,
    /// Others have used the CPU lately.
    NotIdle,
    /// Others need the CPU now.
    CpuBusy,
    /// Others wait for memory.
    MemoryPressure,
    /// Others wait for the disk.
    IoPressure,
    /// It has run for as long as it may.
    Deadline,
}

/// A job has been refused for long. It stays refused: a person may want to change a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Starved {
    /// Seconds since it was refused first, running time.
    pub waited_s: u64,
    /// The limit that refuses now.
    pub refusal: Refusal,
}

/// What the budgets know: stocks, throttles, who waits. Plain data; a restart goes on where it was and refills nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    now: Uptime,
    wall: Timestamp,
    readings: Readings,
    energy: Bucket,
    flash: Bucket,
    heat: Throttle,
    power: Throttle,
    /// How long others have left the CPU alone.
    idle: Duration,
    /// Whether a training is held because others needed the machine, and for how long they have been quiet.
    suspended: bool,
    quiet: Duration,
    /// How long the present job has been refused, and after how long that was reported last.
    waited: Option<Duration>,
    reported: Duration,
    /// What has left the stocks for a training under way.
    reserved: Option<Spent>,
    /// The retrain that was attempted last, and the joules that its ended attempts took.
    #[serde(default)]
    retrain: Option<(u64, f64)>,
}

impl Budget {
    /// Full stocks, at the first start of a gateway.
    #[must_use]
    pub fn new(settings: &BudgetSettings, now: Uptime, wall: Timestamp) -> Self {
        Self {
            now,
            wall,
            readings: Readings::default(),
            energy: Bucket::full(settings.energy_j_stored),
            flash: Bucket::full(flash_capacity(settings)),
            heat: Throttle::default(),
            power: Throttle::default(),
            idle: Duration::ZERO,
            suspended: false,
            quiet: Duration::ZERO,
            waited: None,
            reported: Duration::ZERO,
            reserved: None,
            retrain: None,
        }
    }

    /// Takes one look at the gateway; every two seconds while something trains or waits.
    ///
    /// Running time that starts over (a restart) counts as no time at all.
    #[must_use]
    pub fn step(self, readings: &Readings, now: Uptime, wall: Timestamp, settings: &BudgetSettings) -> Self {
        let elapsed = now.0.saturating_sub(self.now.0);
        let readings = sound(readings);
        let busy = limits::busy(&readings, settings).is_some();
        let quiet = if busy { Duration::ZERO } else { self.quiet.saturating_add(elapsed).min(QUIET) };
        let idle_load = readings.cpu_others.or(readings.load_per_core);
        let is_idle = idle_load.is_none_or(|load| load < settings.idle_cpu_share);
        let hottest = hottest(&readings, settings);
        let high = hottest.map_or(settings.temperature_c_max, |(_, limit)| limit);
        let heat = Bounds { low: high - HYSTERESIS_C, high, stop: high + STOP_ABOVE_C };
        let watts = settings.power_w_max.unwrap_or(f64::MAX);
        let power = Bounds { low: watts * 0.9, high: watts, stop: watts * 1.2 };
        Self {
            now,
            wall,
            energy: self.energy.refilled(elapsed, settings.energy_j_per_hour / HOUR_S, settings.energy_j_stored),
            flash: self.flash.refilled(elapsed, flash_capacity(settings) / DAY_S, flash_capacity(settings)),
            heat: self.heat.step(hottest.map(|(zone, _)| zone.celsius), heat, elapsed),
            power: self.power.step(readings.power_w, power, elapsed),
            idle: if is_idle { self.idle.saturating_add(elapsed) } else { Duration::ZERO },
            suspended: busy || self.suspended && quiet < QUIET,
            quiet,
            waited: self.waited.map(|waited| waited.saturating_add(elapsed)),
            readings,
            ..self
        }
    }

    /// Asks whether `job` may start. A refusal is remembered: one that lasts is reported as starved.
    pub fn ask(mut self, job: &Job, settings: &BudgetSettings) -> (Self, Result<Allowance, Refusal>, Option<Starved>) {
        let answer = self.decide(&Phase::Start(job), settings).map(|()| Allowance {
            memory_bytes: limits::memory(&self.readings.memory, settings).0,
            duty: self.duty(settings),
            micro_batch_rows: limits::micro_batch(job, limits::memory(&self.readings.memory, settings).0).unwrap_or(1),
            deadline_s: self.left_s(settings).map_or(settings.deadline_s, |left| left.min(settings.deadline_s)),
        });
        let starved = match &answer {
            Ok(_) => {
                (self.waited, self.reported) = (None, Duration::ZERO);
                None
            }
            Err(refusal) => {
                let waited = *self.waited.get_or_insert(Duration::ZERO);
                let due = waited.saturating_sub(self.reported) >= Duration::from_secs(settings.starved_after_s.max(1));
                due.then(|| {
                    self.reported = waited;
                    Starved { waited_s: waited.as_secs(), refusal: refusal.clone() }
                })
            }
        };
        (self, answer, starved)
    }

    /// After the job that waited was given up.
    #[must_use]
    pub fn withdrawn(self) -> Self {
        Self { waited: None, reported: Duration::ZERO, ..self }
    }

    /// After `job` was begun: what it is expected to take leaves the stocks. What an interrupted one had reserved stays spent.
    #[must_use]
    pub fn began(self, job: &Job) -> Self {
        let reserved = Spent { joules: job.joules, write_bytes: job.write_bytes, ..Spent::default() };
        Self {
            energy: self.energy.spent(job.joules),
            flash: self.flash.spent(bytes(job.write_bytes)),
            reserved: Some(reserved),
            ..self
        }
    }

    /// How the training under way, which was `given` an allowance and has `spent` so much, may go on.
    ///
    /// # Errors
    /// A [`Refusal`] means: stop at a checkpoint, end it with [`Self::ended`], ask again when it says.
    pub fn pace(&self, given: &Allowance, spent: &Spent, settings: &BudgetSettings) -> Result<Allowance, Refusal> {
        self.decide(&Phase::Running { given, spent, reserved: self.reserved }, settings)?;
        let left = limits::left_of_deadline_s(given, spent);
        let left = self.left_s(settings).map_or(left, |hours| hours.min(left));
        Ok(Allowance { duty: self.duty(settings), deadline_s: left, ..*given })
    }

    /// After the training under way ended, however it did: what it took more or less than expected is settled.
    #[must_use]
    pub fn ended(self, spent: &Spent, settings: &BudgetSettings) -> Self {
        let reserved = self.reserved.unwrap_or_default();
        let energy = self.energy.returned(reserved.joules, f64::MAX).spent(spent.joules);
        let flash = self.flash.returned(bytes(reserved.write_bytes), f64::MAX).spent(bytes(spent.write_bytes));
        Self {
            energy: energy.returned(0.0, settings.energy_j_stored),
            flash: flash.returned(0.0, flash_capacity(settings)),
            reserved: None,
            ..self
        }
    }

    /// After an attempt of `retrain` ended: what all of its attempts took counts against `energy_j_per_retrain`.
    #[must_use]
    pub fn attempted(self, retrain: u64, joules: f64) -> Self {
        Self { retrain: Some((retrain, self.taken_before(retrain) + joules)), ..self }
    }

    /// Joules that ended attempts of `retrain` took.
    #[must_use]
    pub fn taken_before(&self, retrain: u64) -> f64 {
        self.retrain.filter(|(known, _)| *known == retrain).map_or(0.0, |(_, joules)| joules)
    }

    /// Running time of the newest look; a restart goes on from here.
    #[must_use]
    pub fn now(&self) -> Uptime {
        self.now
    }

    /// Joules and bytes that may be spent now, for status; below zero after overspending.
    #[must_use]
    pub fn stocks(&self) -> (f64, f64) {
        (self.energy.level(), self.flash.level())
    }

    /// The look the next answer rests on.
    #[must_use]
    pub fn readings(&self) -> &Readings {
        &self.readings
    }

    /// How long the present job has been refused; none if none waits.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// Share of one core now.
    fn duty(&self, settings: &BudgetSettings) -> f64 {
        let quota = self.readings.cpu_quota_cores.map_or(f64::MAX, |cores| cores * (1.0 - QUOTA_LEFT));
        settings.cpu_share.min(quota) * self.heat.factor().min(self.power.factor())
    }

    /// Seconds left of the allowed hours; none if they do not end.
    fn left_s(&self, settings: &BudgetSettings) -> Option<u64> {
        settings.hours.closes_in_s(limits::second_of_day(self.wall, settings))
    }
}

/// The zone that is nearest to its limit, or farthest above it, with that limit.
fn hottest<'a>(readings: &'a Readings, settings: &BudgetSettings) -> Option<(&'a Zone, f64)> {
    let limit = |zone: &Zone| {
        zone.trip_c.map_or(settings.temperature_c_max, |trip| settings.temperature_c_max.min(trip - TRIP_DISTANCE_C))
    };
    let zones = readings.zones.iter().map(|zone| (zone, limit(zone)));
    zones.max_by(|(one, first), (other, second)| (one.celsius - first).total_cmp(&(other.celsius - second)))
}

/// The readings without what is no number, and no longer than they may be.
fn sound(readings: &Readings) -> Readings {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    let battery = |battery: Battery| Battery { percent: finite(battery.percent), ..battery };
    let mut zones: Vec<_> = readings.zones.iter().filter(|zone| zone.celsius.is_finite()).cloned().collect();
    zones.truncate(ZONES_MAX);
    zones.iter_mut().for_each(|zone| zone.trip_c = finite(zone.trip_c));
    Readings {
        memory: readings.memory,
        cpu_quota_cores: finite(readings.cpu_quota_cores),
        cpu_others: finite(readings.cpu_others),
        load_per_core: finite(readings.load_per_core),
        memory_pressure_percent: finite(readings.memory_pressure_percent),
        io_pressure_percent: finite(readings.io_pressure_percent),
        zones,
        power_w: finite(readings.power_w),
        battery: readings.battery.map(battery),
    }
}

fn flash_capacity(settings: &BudgetSettings) -> f64 {
    bytes(settings.flash_bytes_per_day)
}

fn bytes(bytes: u64) -> f64 {
    bytes as f64
}
