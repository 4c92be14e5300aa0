//! What the agent writes to its card: bytes by the kernel's count, per byte recorded, per day, and how long the card lasts.
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::shell::store::FlashSettings;

const DAY_S: f64 = 86_400.0;
/// Before this has passed a rate per day would say more about the start than about the day.
const RATE_AFTER: Duration = Duration::from_mins(1);

/// Bytes this process has caused to be written to a disk since it started, as the kernel counts them (`write_bytes` of
/// `/proc/self/io`); none where it does not count.
#[must_use]
pub fn written_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// Bytes free to us on the disk of `path`, and all of its bytes.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

/// For status: what was written since the start, `running` ago, and what that means for the card.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "bytes for people")]
pub fn view(
    settings: &FlashSettings,
    recorded_bytes: u64,
    written_bytes: Option<u64>,
    running: Duration,
    used_percent: Option<u16>,
) -> Value {
    let written = written_bytes.map(|bytes| bytes as f64);
    let amplification = written.filter(|_| recorded_bytes > 0).map(|written| written / recorded_bytes as f64);
    let per_day = written.filter(|_| running >= RATE_AFTER).map(|written| written / running.as_secs_f64() * DAY_S);
    let left = 1.0 - f64::from(used_percent.unwrap_or(0).min(100)) / 100.0;
    let life = per_day.filter(|per_day| settings.endurance_bytes > 0 && *per_day > 0.0);
    let life = life.map(|per_day| settings.endurance_bytes as f64 * left / per_day / 365.25);
    json!({
        "recorded_bytes": recorded_bytes,
        "written_bytes": written_bytes,
        "amplification": amplification,
        "written_bytes_per_day": per_day,
        "limit_bytes_per_day": (settings.bytes_per_day > 0).then_some(settings.bytes_per_day),
        "endurance_bytes": (settings.endurance_bytes > 0).then_some(settings.endurance_bytes),
        "used_percent": used_percent,
        "life_years": life,
        "source": "measured: write_bytes of this process since it started, without its trainer",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amplification_rate_and_life_follow_from_what_was_written() {
        let settings = FlashSettings { bytes_per_day: 0, endurance_bytes: 36_525 << 30 };
        let hour = Duration::from_hours(1);
        let view_of = |used| view(&settings, 1 << 30, Some(3 << 30), hour, used);
        let fresh = view_of(None);
        assert_eq!(
            (fresh["amplification"].as_f64(), fresh["written_bytes_per_day"].as_f64()),
            (Some(3.0), Some(72.0 * 1_073_741_824.0))
        );
        assert!((fresh["life_years"].as_f64().unwrap() - 100.0 / 72.0).abs() < 1e-9, "{fresh}");
        assert!((view_of(Some(50))["life_years"].as_f64().unwrap() - 50.0 / 72.0).abs() < 1e-9);
        let early = view(&settings, 0, Some(5), Duration::from_secs(2), None);
        assert!(early["amplification"].is_null() && early["life_years"].is_null(), "{early}");
        assert!(view(&FlashSettings::default(), 1, None, hour, None)["amplification"].is_null());
    }

    #[test]
    fn the_kernel_counts_what_this_process_writes() {
        let before = written_bytes();
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = fs::File::create(folder.path().join("x")).unwrap();
        std::io::Write::write_all(&mut &file, &vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        if let (Some(before), Some(after)) = (before, written_bytes()) {
            assert!(after - before >= 1 << 20, "{before} {after}");
        }
        let (free, all) = free_bytes(folder.path()).unwrap();
        assert!(free > 0 && free <= all);
    }
}
