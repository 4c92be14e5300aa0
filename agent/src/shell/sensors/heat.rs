//! Temperatures: thermal zones with their trip points, and hwmon sensors that no zone stands for.
use super::tree::{Missing, Tree, miss};
use crate::decide::budget::Zone;

const THERMAL: &str = "sys/class/thermal";
const HWMON: &str = "sys/class/hwmon";
/// Trip points of one zone, and temperatures of one hwmon device, that are looked at.
const PLACES_MAX: u32 = 16;
/// Outside, a sensor is broken or not connected.
const PLAUSIBLE_C: std::ops::RangeInclusive<f64> = -40.0..=200.0;

/// Every temperature that can be read.
pub(super) fn zones(tree: &Tree, missing: &mut Vec<Missing>) -> Vec<Zone> {
    let mut zones = Vec::new();
    for name in tree.names(THERMAL, "thermal_zone") {
        let folder = format!("{THERMAL}/{name}");
        let kind = tree.named_text(&format!("{folder}/type"), missing).filter(|kind| !kind.is_empty());
        if let Some(celsius) = celsius(tree, &format!("{folder}/temp"), missing) {
            zones.push(Zone { name: kind.unwrap_or(name), celsius, trip_c: trip(tree, &folder, missing) });
        }
    }
    let plain = |name: &str| name.replace('-', "_");
    let known: Vec<_> = zones.iter().map(|zone| plain(&zone.name)).collect();
    for device in tree.names(HWMON, "hwmon") {
        let folder = format!("{HWMON}/{device}");
        let name = tree.named_text(&format!("{folder}/name"), missing).unwrap_or(device);
        // The kernel shows most zones here once more.
        if known.contains(&plain(&name)) {
            continue;
        }
        for place in 1..=PLACES_MAX {
            let Some(celsius) = celsius(tree, &format!("{folder}/temp{place}_input"), missing) else { continue };
            let label = tree.named_text(&format!("{folder}/temp{place}_label"), missing);
            let limit = |kind: &str, missing: &mut Vec<Missing>| {
                self::celsius(tree, &format!("{folder}/temp{place}_{kind}"), missing).filter(|limit| *limit > 0.0)
            };
            let trip_c = limit("max", missing).or_else(|| limit("crit", missing));
            zones.push(Zone {
                name: label.map_or_else(|| name.clone(), |label| format!("{name} {label}")),
                celsius,
                trip_c,
            });
        }
    }
    if zones.is_empty() {
        miss(missing, "temperature", "no thermal zone and no hwmon temperature can be read");
    }
    zones
}

/// The lowest passive trip point; where there is none, the lowest hot or critical one.
fn trip(tree: &Tree, folder: &str, missing: &mut Vec<Missing>) -> Option<f64> {
    let (mut passive, mut last) = (None, None);
    for place in 0..PLACES_MAX {
        let Ok(kind) = tree.text(&format!("{folder}/trip_point_{place}_type")) else { continue };
        let value = celsius(tree, &format!("{folder}/trip_point_{place}_temp"), missing);
        let lowest = match kind.as_str() {
            "passive" => &mut passive,
            "hot" | "critical" => &mut last,
            _ => continue,
        };
        if let Some(value) = value.filter(|value| *value > 0.0) {
            *lowest = Some(lowest.map_or(value, |known: f64| known.min(value)));
        }
    }
    passive.or(last)
}

/// Millidegrees as °C.
fn celsius(tree: &Tree, path: &str, missing: &mut Vec<Missing>) -> Option<f64> {
    let value = tree.named(path, missing)? as f64 / 1_000.0;
    if !PLAUSIBLE_C.contains(&value) {
        miss(missing, path, &format!("{value} °C is no temperature"));
        return None;
    }
    Some(value)
}
