//! Batteries, and what the power supplies say about power.
use super::tree::{Missing, Tree, miss};
use crate::decide::budget::Battery;

const SUPPLIES: &str = "sys/class/power_supply";

/// All batteries together: the emptiest counts. None means mains.
pub(super) fn battery(tree: &Tree, missing: &mut Vec<Missing>) -> Option<Battery> {
    let mut found: Option<Battery> = None;
    let (mut mains, mut unclear) = (None, false);
    for name in tree.names(SUPPLIES, "") {
        let folder = format!("{SUPPLIES}/{name}");
        let Some(kind) = tree.named_text(&format!("{folder}/type"), missing) else { continue };
        // A mouse or a pen that is connected.
        if tree.text(&format!("{folder}/scope")).is_ok_and(|scope| scope == "Device") {
            continue;
        }
        if kind != "Battery" && kind != "UPS" {
            if let Some(online) = tree.named(&format!("{folder}/online"), missing) {
                mains = Some(mains.unwrap_or(false) || online != 0);
            }
            continue;
        }
        let status = tree.named_text(&format!("{folder}/status"), missing).unwrap_or_default();
        unclear |= !["Charging", "Discharging", "Full"].contains(&status.as_str());
        let percent_path = format!("{folder}/capacity");
        let percent = tree.named(&percent_path, missing).map(|percent| percent as f64);
        if let Some(wrong) = percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
            miss(missing, &percent_path, &format!("{wrong} % is no charge"));
        }
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let battery = found.get_or_insert(Battery { discharging: false, percent });
        battery.discharging |= status == "Discharging";
        battery.percent = battery.percent.zip(percent).map(|(one, other)| one.min(other));
    }
    // A battery that does not say: what the mains say decides, and without them the careful answer.
    if let Some(battery) = found.as_mut().filter(|battery| !battery.discharging && unclear) {
        battery.discharging = !mains.unwrap_or(false);
    }
    found
}

/// Watts that come out of the supplies: mains that are on, or else batteries that discharge.
pub(super) fn watts(tree: &Tree, missing: &mut Vec<Missing>) -> Option<(String, f64)> {
    let (mut mains, mut batteries) = (Vec::new(), Vec::new());
    for name in tree.names(SUPPLIES, "") {
        let folder = format!("{SUPPLIES}/{name}");
        let Ok(kind) = tree.text(&format!("{folder}/type")) else { continue };
        let status = tree.text(&format!("{folder}/status")).unwrap_or_default();
        let online = tree.number(&format!("{folder}/online")).is_ok_and(|online| online != 0);
        let list = match kind.as_str() {
            // While it charges it measures what goes in, not what the board takes.
            "Battery" | "UPS" if status == "Discharging" => &mut batteries,
            "Battery" | "UPS" => continue,
            _ if online => &mut mains,
            _ => continue,
        };
        let mut value =
            |file: &str| tree.named(&format!("{folder}/{file}"), missing).map(|micro| (micro as f64 / 1e6).abs());
        let power = value("power_now").or_else(|| Some(value("current_now")? * value("voltage_now")?));
        list.extend(power.map(|power| (name, power)));
    }
    let found = if mains.is_empty() { batteries } else { mains };
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    (!found.is_empty()).then(|| (names.join("+"), found.iter().map(|(_, watts)| watts).sum()))
}
