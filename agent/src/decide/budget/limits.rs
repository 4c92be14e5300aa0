//! Every limit as one check: it says nothing, or refuses with its numbers.
use std::time::Duration;

use super::{Allowance, Budget, BudgetSettings, Code, Job, Memory, OnBattery, Readings, Refusal, Spent, TryAgain};
use super::{bytes, flash_capacity, hottest};
use crate::decide::time::{Timestamp, Uptime};

/// 2020-01-01T00:00:00Z. A clock before it was never set.
const CLOCK_SET: Timestamp = Timestamp(1_577_836_800_000_000);
/// The predicted peak is taken this many times over, as predictions may be 20 % short.
const PREDICTION_SAFETY: f64 = 1.2;
const MICROS: u64 = 1_000_000;

/// Who asks.
pub(super) enum Phase<'a> {
    /// A job that wants to start.
    Start(&'a Job),
    /// One that runs.
    Running { given: &'a Allowance, spent: &'a Spent, reserved: Option<Spent> },
}

impl Budget {
    /// Every limit in turn; the refusal that lasts longest speaks.
    pub(super) fn decide(&self, phase: &Phase<'_>, settings: &BudgetSettings) -> Result<(), Refusal> {
        let mut refusals: Vec<Refusal> = match phase {
            Phase::Start(job) => {
                let checks = [self.memory(job, settings), self.energy(job, settings), self.flash(job, settings)];
                let start = [self.warm(settings), self.drawing(settings), self.idle(settings)];
                checks.into_iter().chain(start).flatten().collect()
            }
            Phase::Running { given, spent, reserved } => self.spending(given, spent, *reserved, settings),
        };
        let always = [self.hot(settings), self.overloaded(settings), self.battery(settings), self.hours(settings)];
        refusals.extend(always.into_iter().flatten());
        refusals.extend(self.needed_by_others(settings));
        // The first of those that last longest.
        let Some(last) = refusals.iter().map(|refusal| refusal.try_again).max() else { return Ok(()) };
        let index = refusals.iter().position(|refusal| refusal.try_again == last).unwrap_or(0);
        let mut decisive = refusals.remove(index);
        for Refusal { code, .. } in refusals {
            if code != decisive.code && !decisive.also.contains(&code) {
                decisive.also.push(code);
            }
        }
        Err(decisive)
    }

    fn refuse(&self, code: Code, after: Option<Duration>, sentence: String) -> Refusal {
        let try_again = after.map_or(TryAgain::WhenChanged, |after| TryAgain::After(self.now.plus(after)));
        Refusal { code, sentence, try_again, also: Vec::new() }
    }

    /// A refusal that depends on the gateway: worth another look soon.
    fn for_now(&self, code: Code, settings: &BudgetSettings, sentence: String) -> Refusal {
        self.refuse(code, Some(Duration::from_secs(settings.retry_s.max(1))), sentence)
    }

    fn memory(&self, job: &Job, settings: &BudgetSettings) -> Option<Refusal> {
        let (limit, whose) = memory(&self.readings.memory, settings);
        if micro_batch(job, limit).is_some() {
            return None;
        }
        let least = least_bytes(job, 1);
        let sentence = format!(
            "training needs at least {} of memory (a fifth to spare included), {whose} leaves {}",
            megabytes(least),
            megabytes(bytes(limit))
        );
        // What the machine has free changes, what the settings allow does not.
        let fixed = least > bytes(settings.memory_bytes);
        Some(if fixed {
            self.refuse(Code::Memory, None, sentence)
        } else {
            self.for_now(Code::Memory, settings, sentence)
        })
    }

    fn energy(&self, job: &Job, settings: &BudgetSettings) -> Option<Refusal> {
        let joules = if job.joules.is_finite() { job.joules.max(0.0) } else { f64::MAX };
        if joules > settings.energy_j_per_retrain {
            let allowed = settings.energy_j_per_retrain;
            let sentence = format!("training would take {joules:.1} J, one retrain may take {allowed:.1} J");
            return Some(self.refuse(Code::EnergyPerRetrain, None, sentence));
        }
        let needed = joules + settings.energy_j_reserve.max(0.0);
        let rate = settings.energy_j_per_hour / super::HOUR_S;
        let wait = self.energy.wait(needed, rate, settings.energy_j_stored);
        if wait == Some(Duration::ZERO) {
            return None;
        }
        let sentence = format!(
            "training would take {joules:.1} J and {:.1} J stay reserved, {:.1} J are left of {:.1} J per hour (at most \
             {:.1} J are saved up)",
            settings.energy_j_reserve,
            self.energy.level(),
            settings.energy_j_per_hour,
            settings.energy_j_stored
        );
        Some(self.refuse(Code::EnergyPerHour, wait, sentence))
    }

    fn flash(&self, job: &Job, settings: &BudgetSettings) -> Option<Refusal> {
        let capacity = flash_capacity(settings);
        let wait = self.flash.wait(bytes(job.write_bytes), capacity / super::DAY_S, capacity);
        if wait == Some(Duration::ZERO) {
            return None;
        }
        let sentence = format!(
            "training would write {}, {} are left of {} per day",
            megabytes(bytes(job.write_bytes)),
            megabytes(self.flash.level()),
            megabytes(capacity)
        );
        Some(self.refuse(Code::Flash, wait, sentence))
    }

    fn warm(&self, settings: &BudgetSettings) -> Option<Refusal> {
        let (zone, limit) = hottest(&self.readings, settings)?;
        (zone.celsius > limit).then(|| {
            let sentence = format!("{} has {:.1} °C, training starts up to {limit:.1} °C", zone.name, zone.celsius);
            self.for_now(Code::Heat, settings, sentence)
        })
    }

    fn hot(&self, settings: &BudgetSettings) -> Option<Refusal> {
        self.heat.is_stopped().then(|| {
            let sentence = match hottest(&self.readings, settings) {
                Some((zone, limit)) => format!(
                    "it was too hot: {} has {:.1} °C, training goes on after a minute below {:.1} °C",
                    zone.name,
                    zone.celsius,
                    limit - super::HYSTERESIS_C
                ),
                None => "it was too hot, and no temperature can be read any more".to_owned(),
            };
            self.for_now(Code::Heat, settings, sentence)
        })
    }

    fn drawing(&self, settings: &BudgetSettings) -> Option<Refusal> {
        let (power, limit) = (self.readings.power_w?, settings.power_w_max?);
        (power > limit).then(|| {
            let sentence = format!("the board draws {power:.2} W, training starts up to {limit:.2} W");
            self.for_now(Code::Power, settings, sentence)
        })
    }

    fn overloaded(&self, settings: &BudgetSettings) -> Option<Refusal> {
        let limit = settings.power_w_max?;
        self.power.is_stopped().then(|| {
            let sentence = format!("the board drew far more than {limit:.2} W; training goes on after a minute below");
            self.for_now(Code::Power, settings, sentence)
        })
    }

    fn idle(&self, settings: &BudgetSettings) -> Option<Refusal> {
        let wanted = Duration::from_secs(settings.idle_s);
        let missing = wanted.saturating_sub(self.idle);
        (!missing.is_zero()).then(|| {
            let sentence = format!(
                "others have left the CPU alone for {} s, training waits for {} s of it",
                self.idle.as_secs(),
                settings.idle_s
            );
            self.refuse(Code::NotIdle, Some(missing), sentence)
        })
    }

    fn needed_by_others(&self, settings: &BudgetSettings) -> Option<Refusal> {
        if let Some((code, sentence)) = busy(&self.readings, settings) {
            return Some(self.for_now(code, settings, sentence));
        }
        self.suspended.then(|| {
            let missing = super::QUIET.saturating_sub(self.quiet).max(Duration::from_secs(1));
            let sentence = "others needed the machine a moment ago".to_owned();
            self.refuse(Code::CpuBusy, Some(missing), sentence)
        })
    }

    fn battery(&self, settings: &BudgetSettings) -> Option<Refusal> {
        let battery = self.readings.battery.filter(|battery| battery.discharging)?;
        let sentence = match (settings.on_battery, battery.percent) {
            (OnBattery::Always, _) => return None,
            (OnBattery::Above(least), Some(percent)) if percent > f64::from(least) => return None,
            (OnBattery::Never, _) => "the gateway runs on battery, and training waits for mains".to_owned(),
            (OnBattery::Above(least), Some(percent)) => {
                format!("the gateway runs on battery with {percent:.0} % left, training needs more than {least} %")
            }
            (OnBattery::Above(least), None) => {
                format!("the gateway runs on battery, its charge is unknown, and training needs more than {least} %")
            }
        };
        Some(self.for_now(Code::Battery, settings, sentence))
    }

    /// The safe rule for an unknown clock: a forbidden hour must not be used by mistake, so no hour is allowed.
    fn hours(&self, settings: &BudgetSettings) -> Option<Refusal> {
        if settings.hours.is_any() {
            return None;
        }
        if self.wall < CLOCK_SET {
            let hours = &settings.hours;
            let sentence = format!("training is allowed at {hours} only, and the clock has not been set yet");
            return Some(self.for_now(Code::ClockUnknown, settings, sentence));
        }
        let wait_s = settings.hours.opens_in_s(second_of_day(self.wall, settings));
        let at = i64::try_from(wait_s * MICROS).map_or(self.wall, |wait| Timestamp(self.wall.0.saturating_add(wait)));
        (wait_s > 0).then(|| Refusal {
            code: Code::Hours,
            sentence: format!("training is allowed at {} only", settings.hours),
            try_again: TryAgain::At(at),
            also: Vec::new(),
        })
    }

    fn spending(
        &self,
        given: &Allowance,
        spent: &Spent,
        reserved: Option<Spent>,
        settings: &BudgetSettings,
    ) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let reserved = reserved.unwrap_or_default();
        let taken = spent.joules_before + spent.joules;
        if taken > settings.energy_j_per_retrain {
            let sentence = format!(
                "this training has taken {taken:.1} J, one retrain may take {:.1} J",
                settings.energy_j_per_retrain
            );
            refusals.push(self.refuse(Code::EnergyPerRetrain, None, sentence));
        }
        let over = spent.joules - reserved.joules;
        if over > 0.0 && over > self.energy.level() - settings.energy_j_reserve {
            let sentence = format!(
                "this training has taken {:.1} J instead of {:.1} J, and the stock is used up",
                spent.joules, reserved.joules
            );
            let wait = (over + settings.energy_j_reserve - self.energy.level()) / settings.energy_j_per_hour;
            let wait = Duration::try_from_secs_f64(wait * super::HOUR_S).ok();
            refusals.push(self.refuse(Code::EnergyPerHour, wait, sentence));
        }
        let over = bytes(spent.write_bytes) - bytes(reserved.write_bytes);
        if over > 0.0 && over > self.flash.level() {
            let sentence = format!(
                "this training has written {} instead of {}, and the day's stock is used up",
                megabytes(bytes(spent.write_bytes)),
                megabytes(bytes(reserved.write_bytes))
            );
            let wait = (over - self.flash.level()) / flash_capacity(settings) * super::DAY_S;
            refusals.push(self.refuse(Code::Flash, Duration::try_from_secs_f64(wait).ok(), sentence));
        }
        if left_of_deadline_s(given, spent) == 0 {
            let sentence = format!("this training has run for the {} s it may run at once", given.deadline_s);
            refusals.push(self.for_now(Code::Deadline, settings, sentence));
        }
        refusals
    }
}

/// Whether others need the machine now, by which measure.
pub(super) fn busy(readings: &Readings, settings: &BudgetSettings) -> Option<(Code, String)> {
    let above = |value: Option<f64>, limit: f64| value.filter(|value| *value > limit);
    if let Some(share) = above(readings.cpu_others, settings.busy_cpu_share) {
        let (share, limit) = (share * 100.0, settings.busy_cpu_share * 100.0);
        return Some((
            Code::CpuBusy,
            format!("others take {share:.0} % of the CPU, training yields above {limit:.0} %"),
        ));
    }
    // Runnable tasks count the trainer too, so this stands in only where nothing better is known, and leaves it one.
    if readings.cpu_others.is_none()
        && let Some(load) = above(readings.load_per_core, settings.busy_cpu_share + 1.0)
    {
        return Some((Code::CpuBusy, format!("{load:.1} tasks per core want to run")));
    }
    if let Some(percent) = above(readings.memory_pressure_percent, settings.memory_pressure_percent_max) {
        let limit = settings.memory_pressure_percent_max;
        let sentence = format!("tasks wait for memory {percent:.0} % of the time, training yields above {limit:.0} %");
        return Some((Code::MemoryPressure, sentence));
    }
    let percent = above(readings.io_pressure_percent, settings.io_pressure_percent_max)?;
    let limit = settings.io_pressure_percent_max;
    let sentence = format!("tasks wait for the disk {percent:.0} % of the time, training yields above {limit:.0} %");
    Some((Code::IoPressure, sentence))
}

/// Bytes the trainer may have now, and what sets that limit.
pub(super) fn memory(memory: &Memory, settings: &BudgetSettings) -> (u64, &'static str) {
    let reserved = |bytes: Option<u64>| bytes.map(|bytes| bytes.saturating_sub(settings.memory_reserve_bytes));
    let limits = [
        (Some(settings.memory_bytes), "the budget (`memory_bytes`)"),
        (reserved(memory.available_bytes), "the machine"),
        (reserved(memory.cgroup_free_bytes), "the agent's cgroup"),
        (memory.address_bytes, "the limit of address space (RLIMIT_AS)"),
    ];
    let known = limits.into_iter().filter_map(|(bytes, whose)| bytes.map(|bytes| (bytes, whose)));
    known.min_by_key(|(bytes, _)| *bytes).unwrap_or((settings.memory_bytes, "the budget (`memory_bytes`)"))
}

/// The largest micro-batch, by halving, with which the job fits.
pub(super) fn micro_batch(job: &Job, limit: u64) -> Option<u32> {
    let mut rows = job.micro_batch_rows.max(1);
    while least_bytes(job, rows) > bytes(limit) {
        if rows == 1 {
            return None;
        }
        rows /= 2;
    }
    Some(rows)
}

fn least_bytes(job: &Job, rows: u32) -> f64 {
    let fewer = u64::from(job.micro_batch_rows.max(1).saturating_sub(rows));
    bytes(job.memory_bytes.saturating_sub(job.memory_bytes_per_row.saturating_mul(fewer))) * PREDICTION_SAFETY
}

/// Second of the local day.
pub(super) fn second_of_day(wall: Timestamp, settings: &BudgetSettings) -> u64 {
    let local = wall.0.div_euclid(1_000_000).saturating_add(i64::from(settings.utc_offset_min) * 60);
    u64::try_from(local.rem_euclid(86_400)).unwrap_or(0)
}

/// Whole seconds left of what the training was given.
pub(super) fn left_of_deadline_s(given: &Allowance, spent: &Spent) -> u64 {
    let gone = Duration::try_from_secs_f64(spent.wall_s.max(0.0)).unwrap_or(Duration::MAX);
    Duration::from_secs(given.deadline_s).saturating_sub(gone).as_secs()
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

impl TryAgain {
    /// The running time from which asking again may help, if it may.
    #[must_use]
    pub fn after(self, now: Uptime, wall: Timestamp) -> Option<Uptime> {
        match self {
            Self::After(at) => Some(at),
            Self::At(at) => {
                let micros = u64::try_from(at.0.saturating_sub(wall.0)).unwrap_or(0);
                Some(now.plus(Duration::from_micros(micros)))
            }
            Self::WhenChanged => None,
        }
    }
}
