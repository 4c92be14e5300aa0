//! Clock, power, heat, pressure and control groups: what the budgets stand on.
use std::fs;
use std::path::Path;

use super::{Finding, Level, Subject};
use crate::decide::time::{Timestamp, Uptime};
use crate::shell::clock;
use crate::shell::sensors::{Look, Sensors};

/// 2024-01-01: a clock before it was never set.
const SET_SINCE: Timestamp = Timestamp(1_704_067_200_000_000);
/// Below so much the agent and a training do not fit beside the system.
const MEMORY_LEAST_BYTES: u64 = 128 << 20;

pub(super) fn findings(subject: &Subject<'_>) -> Vec<Finding> {
    let look = Sensors::at(subject.root).look(None, Uptime::default());
    let mut found =
        vec![time(subject), memory(subject, &look), power(&look), heat(&look), battery(&look), pressure(&look)];
    found.push(groups(subject.root));
    found
}

fn time(subject: &Subject<'_>) -> Finding {
    let exists = |path: &str| subject.root.join(path).exists();
    let now = clock::shown(subject.now);
    let synchronised = ["run/systemd/timesync/synchronized", "run/chrony/chronyd.pid", "run/ntpd.pid"];
    let battery = exists("sys/class/rtc/rtc0");
    if subject.now < SET_SINCE {
        let costs =
            "records carry wrong times, hours of [budget] never come, certificates and dated commands are refused";
        return Finding::new("clock", Level::Bad, format!("it says {now}"), costs)
            .next("start a time service (systemd-timesyncd, chrony), or set it with `date -s`");
    }
    if synchronised.into_iter().any(exists) {
        return Finding::good(
            "clock",
            format!("{now}, kept by a time service{}", if battery { "" } else { ", no battery" }),
        );
    }
    let costs = if battery {
        "times of records drift away slowly; event times across gateways cannot be compared"
    } else {
        "after a power cut it is wrong until somebody sets it: times of records, hours of [budget], dated commands"
    };
    Finding::new("clock", Level::Warning, format!("{now}, no time service is known to have set it"), costs)
        .next("enable systemd-timesyncd or chrony")
}

fn memory(subject: &Subject<'_>, look: &Look) -> Finding {
    let Some(available) = look.readings.memory.available_bytes else {
        return Finding::new(
            "memory",
            Level::Warning,
            "/proc/meminfo does not tell",
            "retraining may meet the kernel's killer",
        )
        .next("is /proc mounted, and ProcSubset= left at `all`?");
    };
    let budget = &subject.config.budget;
    let needed = budget.memory_bytes.saturating_add(budget.memory_reserve_bytes);
    let found = format!("{} MB available, a training may take {} MB", available >> 20, budget.memory_bytes >> 20);
    if available < needed {
        return Finding::new(
            "memory",
            Level::Warning,
            found,
            "no retrain begins: the reserve of `budget.memory_reserve_bytes` is kept free",
        )
        .next("lower `budget.memory_bytes`, or free memory");
    }
    if available < MEMORY_LEAST_BYTES {
        return Finding::new("memory", Level::Note, found, "little is left beside the agent");
    }
    Finding::good("memory", found)
}

fn power(look: &Look) -> Finding {
    match &look.draw {
        Some(draw) => {
            let watts = draw.watts.map_or_else(String::new, |watts| format!(", {watts:.1} W now"));
            Finding::good("power", format!("measured by {}{watts}", draw.source.as_str()))
        }
        None => Finding::new(
            "power",
            Level::Note,
            "no sensor measures it",
            "joules of retrains are CPU seconds times `sensors.watts_per_core`, marked as modelled; `budget.power_w_max` never holds",
        )
        .next("measure watts_per_core once with a meter at the plug"),
    }
}

fn heat(look: &Look) -> Finding {
    let zones = &look.readings.zones;
    let Some(hottest) = zones.iter().max_by(|one, other| one.celsius.total_cmp(&other.celsius)) else {
        return Finding::new(
            "heat",
            Level::Warning,
            "no temperature can be read",
            "a training does not slow down for `budget.temperature_c_max`",
        )
        .next("load the thermal driver of this board");
    };
    Finding::good(
        "heat",
        format!("{} sensors, {} is the hottest at {:.0} °C", zones.len(), hottest.name, hottest.celsius),
    )
}

fn battery(look: &Look) -> Finding {
    match &look.readings.battery {
        Some(battery) => {
            let percent = battery.percent.map_or_else(|| "unknown".to_owned(), |percent| format!("{percent:.0} %"));
            Finding::good("battery", format!("{percent}{}", if battery.discharging { ", discharging" } else { "" }))
        }
        None => Finding::good("battery", "none: counted as mains, `budget.on_battery` never refuses"),
    }
}

fn pressure(look: &Look) -> Finding {
    let readings = &look.readings;
    let (Some(memory), Some(io)) = (readings.memory_pressure_percent, readings.io_pressure_percent) else {
        let costs = "a training is not suspended when others wait for memory or the disk";
        return Finding::new("pressure", Level::Warning, "the kernel tells no pressure", costs)
            .next("boot with `psi=1`; kernels before 4.20 have none");
    };
    Finding::good("pressure", format!("memory {memory:.1} %, disk {io:.1} % over 10 s"))
}

fn groups(root: &Path) -> Finding {
    let read = |path: &str| fs::read_to_string(root.join("sys/fs/cgroup").join(path)).unwrap_or_default();
    let controllers = read("cgroup.controllers");
    let has = |name: &str| controllers.split_whitespace().any(|found| found == name);
    if has("memory") && has("cpu") {
        return Finding::good("cgroup", "version 2 with memory and cpu");
    }
    if root.join("sys/fs/cgroup/memory/memory.limit_in_bytes").is_file() {
        let costs = "the units' MemoryMax= holds, a kill for memory is not told apart from others";
        return Finding::new("cgroup", Level::Note, "version 1", costs)
            .next("boot with systemd.unified_cgroup_hierarchy=1");
    }
    let costs =
        "MemoryMax= and CPUQuota= of the units hold nobody; a training is bounded by its own count of the heap alone";
    let found =
        if controllers.is_empty() { "none".to_owned() } else { format!("version 2 with only: {}", controllers.trim()) };
    Finding::new("cgroup", Level::Warning, found, costs)
        .next("boot with `cgroup_enable=memory` (Raspberry Pi: in /boot/firmware/cmdline.txt)")
}
