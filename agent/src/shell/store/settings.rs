//! Settings of the record files.
use serde::{Deserialize, Serialize};

use super::format::Synchronous;

/// How the files of the records are laid out and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileSettings {
    /// A partition is also ended, before its day is over, once it has this many bytes: retention drops whole partitions,
    /// so this is how finely it works. Range 1 MiB to 1 GiB, default 64 MiB (100,000 rows of 128 features).
    pub partition_bytes_max: u64,
    /// What a group of records survives. Groups with labels are always synced.
    pub durability: Durability,
}

impl Default for FileSettings {
    fn default() -> Self {
        Self { partition_bytes_max: 64 << 20, durability: Durability::Checkpoint }
    }
}

/// What is thinned and what is dropped, beside `records.keep_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSettings {
    /// Before rows are dropped they are thinned: every so many-th stays, and every labelled one. Range 1 (no thinning) to
    /// 1,000, default 10.
    pub thin_every: u32,
    /// Share of the bytes that thinned rows may take. Range 0 to 0.9, default 0.25: four times as much time as the same
    /// bytes of whole rows would cover at one in ten.
    pub thin_share: f64,
    /// Days after which records are dropped; 0: never for their age. Range 0 to 36,500, default 0. Counts only while the
    /// clock can be believed.
    pub keep_days: u32,
    /// Bytes of the disk that stay free; as others fill it, records take less. At most a tenth of the disk. Range 0 to
    /// 1 TiB, default 64 MiB: room for models and state.
    pub free_bytes_min: u64,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { thin_every: 10, thin_share: 0.25, keep_days: 0, free_bytes_min: 64 << 20 }
    }
}

impl RetentionSettings {
    /// The first setting that cannot be used: key, value, range.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        let Self { thin_every, thin_share, keep_days, free_bytes_min } = self;
        let share = (0.0..=0.9).contains(thin_share);
        if !(1..=1_000).contains(thin_every) {
            Some(("retention.thin_every", thin_every.to_string(), "1 to 1000"))
        } else if !share {
            Some(("retention.thin_share", thin_share.to_string(), "0 to 0.9"))
        } else if *keep_days > 36_500 {
            Some(("retention.keep_days", keep_days.to_string(), "0 to 36500"))
        } else if *free_bytes_min > 1 << 40 {
            Some(("retention.free_bytes_min", free_bytes_min.to_string(), "0 to 1099511627776"))
        } else {
            None
        }
    }
}

/// What the card may take, and what it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlashSettings {
    /// Bytes that recording may write per day; as they run out, every 2nd, every 10th, then no sample is recorded. 0: no
    /// limit. Range 0 to 1 PiB, default 0. What training writes has its own limit, `budget.flash_bytes_per_day`.
    pub bytes_per_day: u64,
    /// Bytes the card can take in its life, from its data sheet (TBW), for the projected life; 0: not known. Default 0.
    pub endurance_bytes: u64,
}

impl FlashSettings {
    /// The first setting that cannot be used: key, value, range.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String, &'static str)> {
        let limit = self.bytes_per_day;
        (limit > 1 << 50 || (1..1 << 20).contains(&limit))
            .then(|| ("flash.bytes_per_day", limit.to_string(), "0, or 1048576 to 1125899906842624"))
    }
}

/// What a committed group of records survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Synced at each checkpoint (4 MB) and by the kernel in between, 30 s at most by its default. A killed agent loses
    /// nothing that was committed; a power cut may lose those seconds, never corrupts. The default, as it spares the card.
    #[default]
    Checkpoint,
    /// Synced at each group: a power cut loses at most the open group. Costs 12 % more bytes at 100 rows a group, and
    /// twice as many at one row a group.
    Group,
}

impl From<Durability> for Synchronous {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Checkpoint => Self::Normal,
            Durability::Group => Self::Full,
        }
    }
}
