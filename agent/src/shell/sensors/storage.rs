//! Flash: how worn it says it is, and how much has been written.
use serde::Serialize;

use super::tree::{Missing, Tree, miss, quoted};

const BLOCK: &str = "sys/block";
/// The kernel counts in these, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;
/// Devices without a medium of their own.
const VIRTUAL: [&str; 7] = ["loop", "ram", "zram", "dm-", "md", "sr", "nbd"];

/// How worn one flash device says it is (JEDEC eMMC 5.0 `DEVICE_LIFE_TIME_EST`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wear {
    /// Device.
    pub name: String,
    /// Share of its life used, at most, in percent and in steps of ten; above 100 it is beyond what it was made for.
    pub used_percent: u16,
}

/// The wear of each device that tells it.
pub(super) fn wear(tree: &Tree, missing: &mut Vec<Missing>) -> Vec<Wear> {
    let mut found = Vec::new();
    for name in tree.names(BLOCK, "mmcblk").into_iter().filter(|name| !name.contains("boot") && !name.contains("rpmb"))
    {
        let path = format!("{BLOCK}/{name}/device/life_time");
        let Some(text) = tree.named_text(&path, missing) else { continue };
        // Two kinds of cells: SLC and MLC. 0 says nothing.
        let steps =
            text.split_whitespace().filter_map(|word| u16::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        match steps.filter(|step| (1..=11).contains(step)).max() {
            Some(step) => found.push(Wear { name, used_percent: step * 10 }),
            None => miss(missing, &path, &format!("`{}` tells no wear", quoted(&text))),
        }
    }
    if found.is_empty() {
        miss(missing, "flash wear", "no device tells it");
    }
    found
}

/// Bytes written to all real disks since the machine started.
pub(super) fn written(tree: &Tree, missing: &mut Vec<Missing>) -> Option<u64> {
    let mut total: Option<u64> = None;
    let names = tree.names(BLOCK, "").into_iter();
    for name in names.filter(|name| !VIRTUAL.iter().any(|prefix| name.starts_with(prefix))) {
        let path = format!("{BLOCK}/{name}/stat");
        let Some(text) = tree.named_text(&path, missing) else { continue };
        match text.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok()) {
            Some(sectors) => {
                total = Some(total.unwrap_or(0).saturating_add(sectors.saturating_mul(SECTOR_BYTES)));
            }
            None => miss(missing, &path, &format!("`{}` has no count of sectors", quoted(&text))),
        }
    }
    if total.is_none() {
        miss(missing, "bytes written", "no disk counts them");
    }
    total
}
