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
