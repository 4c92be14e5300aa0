//! What the gateway's sensors say, as far as it has them. Whatever is absent cannot refuse.
use serde::{Deserialize, Serialize};

/// One look at the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readings {
    /// Memory that may still be taken.
    pub memory: Memory,
    /// Cores' worth of CPU time that the agent's own cgroup may take, if limited.
    pub cpu_quota_cores: Option<f64>,
    /// Share of all CPU time that others took since the look before, 0 to 1; neither the agent nor its trainer counts.
    pub cpu_others: Option<f64>,
    /// Runnable tasks per core over the last minute: stands in for `cpu_others` where that is unknown.
    pub load_per_core: Option<f64>,
    /// Share of the last 10 s in which some task waited for memory, in percent (PSI `some avg10`).
    pub memory_pressure_percent: Option<f64>,
    /// Share of the last 10 s in which some task waited for the disk, in percent.
    pub io_pressure_percent: Option<f64>,
    /// Temperatures, with the first trip point at which the kernel would slow down or switch off.
    pub zones: Vec<Zone>,
    /// Power the board draws, in watts; only if measured.
    pub power_w: Option<f64>,
    /// The battery; none counts as mains.
    pub battery: Option<Battery>,
}

/// Memory that a child process may still take, by each limit that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// `MemAvailable` of the machine.
    pub available_bytes: Option<u64>,
    /// Limit of the own cgroup, or of one above it, less what is in use.
    pub cgroup_free_bytes: Option<u64>,
    /// Address space that one process may have (`RLIMIT_AS`).
    pub address_bytes: Option<u64>,
}

/// One temperature.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    /// Name, for people.
    pub name: String,
    /// Temperature in °C.
    pub celsius: f64,
    /// First trip point in °C, if the zone has one.
    pub trip_c: Option<f64>,
}

/// The battery, or all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Battery {
    /// Whether it is what feeds the gateway now.
    pub discharging: bool,
    /// Charge in percent, if known.
    pub percent: Option<f64>,
}
