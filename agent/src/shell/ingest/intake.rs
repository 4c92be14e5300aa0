//! One sample, whichever way it came in: through the window of its source, to the model, on record.
//!
//! ```text
//! sample ─► window of its source ─► answer ─► recorder (bounded, never waited for)
//!             └─ kept for a later row          └─► loop
//! ```
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use trainer_core::schema::Schema;

use super::samples::Sample;
use super::window::{Layout, Pushed, WindowSettings, Windows};
use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::daemon::{Answered, NoNumber, Origin, Shared};
use crate::shell::inference::Serving;

/// How long whoever can wait waits between two looks at a full queue: a hundredth of a group's second.
const FULL_WAIT: Duration = Duration::from_millis(10);
/// A sender that waits gives up after this and lets the queue drop and count, and so do the next ones until there is room
/// again: a recorder that stands still for longer is a fault, and serving must not stand still with it.
const FULL_WAIT_MAX: Duration = Duration::from_secs(10);

/// What became of a sample.
#[derive(Debug)]
pub enum Taken {
    /// It was answered.
    Answered(Answered),
    /// No model has a number for it; counted, not recorded.
    Refused(NoNumber),
    /// It is one reading of a window that holds so many.
    Kept(usize),
    /// It is older than the newest reading of its source.
    Late,
}

/// The windows of all sources, and what they did.
#[derive(Debug)]
pub struct Intake {
    windows: Mutex<Windows>,
    length: usize,
    late: AtomicU64,
    kept: AtomicU64,
    /// The last one who waited for room did so in vain.
    stuck: AtomicBool,
}

impl Intake {
    /// No source yet.
    #[must_use]
    pub fn new(settings: WindowSettings) -> Self {
        let length = settings.length;
        Self {
            windows: Mutex::new(Windows::new(settings)),
            length,
            late: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
        }
    }

    /// How rows of a model of `schema` are made of samples.
    #[must_use]
    pub fn layout(&self, schema: &Schema) -> Layout {
        Layout::of(schema, self.length)
    }

    /// Counts, for status.
    #[must_use]
    pub fn view(&self) -> Value {
        json!({
            "window_length": self.length,
            "kept": self.kept.load(Ordering::Relaxed),
            "late": self.late.load(Ordering::Relaxed),
        })
    }

    /// Takes one reading, in the order of `layout.readings`, to the window of its source, and counts it if it makes no row.
    #[must_use]
    pub fn reading(&self, layout: &Layout, source: &str, time: Option<Timestamp>, reading: &[f32]) -> Pushed {
        if self.length == 1 {
            return Pushed::Row(reading.to_vec());
        }
        let at = time.unwrap_or_else(clock::now);
        // Whoever panicked while holding them left whole windows.
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let pushed = windows.push(layout, source, at, reading.to_vec());
        match pushed {
            Pushed::Row(_) => {}
            Pushed::Kept(_) => _ = self.kept.fetch_add(1, Ordering::Relaxed),
            Pushed::Late => _ = self.late.fetch_add(1, Ordering::Relaxed),
        }
        pushed
    }
}

/// Takes one sample, read by `layout.readings`; never blocks.
pub fn take(shared: &Arc<Shared>, serving: &Serving, layout: &Layout, sample: &Sample) -> Taken {
    shared.counters.accept(&sample.counts);
    let arrived_at = clock::now();
    let row = match shared.intake.reading(layout, &sample.source, sample.time.or(Some(arrived_at)), &sample.features) {
        Pushed::Row(row) => row,
        Pushed::Kept(readings) => return Taken::Kept(readings),
        Pushed::Late => return Taken::Late,
    };
    let origin =
        Origin { source: &sample.source, segment: sample.segment.as_deref(), event_at: sample.time, arrived_at };
    shared.answer(serving, None, row, origin).map_or_else(
        |refused| {
            shared.counters.refuse(NoNumber::CODE);
            Taken::Refused(refused)
        },
        Taken::Answered,
    )
}

/// Waits until recorder and loop have room, for ways of coming in that can wait: then nothing of theirs is dropped.
pub async fn room(shared: &Shared) {
    let busy = || shared.recorder.is_busy() || shared.events.capacity() == 0;
    let stuck = &shared.intake.stuck;
    let mut waited = Duration::ZERO;
    while busy() {
        if stuck.load(Ordering::Relaxed) || waited >= FULL_WAIT_MAX {
            return stuck.store(true, Ordering::Relaxed);
        }
        tokio::time::sleep(FULL_WAIT).await;
        waited += FULL_WAIT;
    }
    stuck.store(false, Ordering::Relaxed);
}
