//! What the loop and the thread of a training say to each other while it runs.
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::shell::trainer::Say;
use crate::shell::trainer::frames::{Report, Usage};

const FINISH: u8 = 1;
const SUSPEND: u8 = 2;
const CANCEL: u8 = 3;

/// One training's post: orders go in, how far it is comes out. Nobody waits for anybody.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// The trainer's process; 0 before it has reported.
    process: AtomicU32,
    /// What it shall do; a later word is heard only if it is stronger.
    word: AtomicU8,
    /// Thousandths of one core it may take, and which of them it was told last.
    share: AtomicU16,
    told: AtomicU16,
    heard: Mutex<Heard>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    report: Report,
    /// Bytes written beside checkpoints.
    written_bytes: u64,
}

impl Post {
    /// A training that begins with this share of one core.
    pub(super) fn new(share: f64) -> Self {
        let thousandths = thousandths(share);
        Self { share: AtomicU16::new(thousandths), told: AtomicU16::new(thousandths), ..Self::default() }
    }

    /// Hears a report, and says what the loop wants.
    pub(super) fn exchange(&self, process: u32, report: &Report) -> Say {
        self.process.store(process, Ordering::Relaxed);
        self.with(|heard| heard.report = *report);
        match self.word.load(Ordering::Relaxed) {
            CANCEL | SUSPEND => Say::Cancel,
            FINISH => Say::Finish,
            _ => {
                let share = self.share.load(Ordering::Relaxed);
                if self.told.swap(share, Ordering::Relaxed) == share { Say::GoOn } else { Say::Share(share) }
            }
        }
    }

    /// It has ended with this.
    pub(super) fn ended(&self, usage: Usage) {
        self.with(|heard| heard.report.usage = usage);
    }

    /// So many bytes were written beside checkpoints.
    pub(super) fn wrote(&self, bytes: u64) {
        self.with(|heard| heard.written_bytes += bytes);
    }

    /// It shall take this share of one core from now on.
    pub(super) fn pace(&self, share: f64) {
        self.share.store(thousandths(share), Ordering::Relaxed);
    }

    /// It shall make no more steps and finish.
    pub(super) fn finish(&self) {
        self.word.fetch_max(FINISH, Ordering::Relaxed);
    }

    /// It shall leave a checkpoint and end.
    pub(super) fn suspend(&self) {
        self.word.fetch_max(SUSPEND, Ordering::Relaxed);
    }

    /// It shall end and leave nothing.
    pub(super) fn cancel(&self) {
        self.word.fetch_max(CANCEL, Ordering::Relaxed);
    }

    /// Whether nobody wants its result any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.word.load(Ordering::Relaxed) == CANCEL
    }

    /// The trainer's process, once it has reported.
    pub(super) fn process(&self) -> Option<u32> {
        Some(self.process.load(Ordering::Relaxed)).filter(|process| *process > 0)
    }

    /// How far it is, and how many bytes it has caused to be written.
    pub(super) fn report(&self) -> (Report, u64) {
        let heard = self.with(|heard| *heard);
        (heard.report, heard.written_bytes + heard.report.usage.written_bytes)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Heard) -> T) -> T {
        // Plain numbers: whoever panicked while holding them left none half written.
        look(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn thousandths(share: f64) -> u16 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=1000")]
    let thousandths = (share * 1_000.0).round().clamp(1.0, 1_000.0) as u16;
    thousandths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_said_once_and_a_stronger_word_is_not_taken_back() {
        let post = Post::new(0.25);
        let report = Report::default();
        assert_eq!(post.exchange(7, &report), Say::GoOn);
        post.pace(0.125);
        assert_eq!((post.exchange(7, &report), post.exchange(7, &report)), (Say::Share(125), Say::GoOn));
        post.suspend();
        post.finish();
        assert_eq!((post.exchange(7, &report), post.process()), (Say::Cancel, Some(7)));
        assert!(!post.is_cancelled());
        post.cancel();
        assert!(post.is_cancelled());
    }

    #[test]
    fn checkpoints_and_other_bytes_are_counted_together() {
        let post = Post::default();
        post.wrote(100);
        post.ended(Usage { written_bytes: 20, ..Usage::default() });
        assert_eq!(post.report().1, 120);
    }
}
