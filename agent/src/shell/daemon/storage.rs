//! Keeps the records within the disk and the card within its day, watches the wall clock, and tells when either gives trouble.
use std::time::Duration;

use serde_json::{Value, json};

use super::keeper::Keeper;
use crate::config::RecordsSettings;
use crate::decide::clock::{Calendar, Standing};
use crate::decide::flash::Flash;
use crate::decide::time::{Timestamp, Uptime};
use crate::shell::clock::{self, Running, shown};
use crate::shell::flash;
use crate::shell::recorder::{RecorderState, RecorderStatus};
use crate::shell::store::Retention;

/// Seconds between two looks at how many bytes the records take.
const RETENTION_S: u64 = 60;
/// While the disk refuses it is looked at more often: whatever can go makes room.
const REFUSED_S: u64 = 5;
/// Seconds between two looks at how many bytes were written.
const FLASH_S: u64 = 10;
/// Of a small disk at most this part stays free.
const FREE_PART: u64 = 10;
const DAY_S: u64 = 86_400;

/// What the loop knows of disk, card and clock.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) settings: RecordsSettings,
    running: Running,
    began: Uptime,
    /// Bytes written at the last look.
    written_bytes: u64,
    /// Of how many samples one is recorded.
    every: u32,
    /// What the recorder said at the last look.
    state: RecorderState,
    /// Counts at the beginning of the trouble: given up, dropped.
    before: (u64, u64),
    /// What is over the budget was told.
    is_over: bool,
    /// Partitions set aside at the last look.
    set_aside: u64,
}

impl Storage {
    /// Running time goes on from `before`.
    pub(super) fn new(settings: RecordsSettings, before: Uptime) -> Self {
        Self {
            settings,
            running: Running::after(before),
            began: before,
            written_bytes: flash::written_bytes().unwrap_or(0),
            every: 1,
            state: RecorderState::Recording,
            before: (0, 0),
            is_over: false,
            set_aside: 0,
        }
    }
}

impl Keeper {
    /// Every second.
    pub(super) fn care_for_storage(&mut self) {
        self.look_at_the_clock();
        self.look_at_the_recorder();
        if self.ticks.is_multiple_of(FLASH_S) {
            self.look_at_the_card();
        }
        let refused = self.storage.state != RecorderState::Recording;
        // The first look tells the recorder what it may take; from then on it makes room by itself as partitions fill.
        if self.ticks == 1 || self.ticks.is_multiple_of(if refused { REFUSED_S } else { RETENTION_S }) {
            // The outcome is in the counts; a full queue means that the next time is soon enough.
            let _ = self.shared.recorder.retain(self.retention());
            self.books.forget_old();
        }
    }

    fn look_at_the_clock(&mut self) {
        let (now, wall) = (self.storage.running.now(), clock::now());
        let disciplined = clock::trust() == fleet_protocol::names::Clock::Ntp;
        let Some(saved) = &mut self.saved else { return };
        let calendar = saved.calendar.unwrap_or_else(|| Calendar::new(clock::SET_SINCE));
        let (next, jump) = calendar.step(now, wall, disciplined);
        saved.calendar = Some(next);
        clock::has_passed(next.floor());
        if let Some(jump) = jump {
            let by_s = (jump.to.0 - jump.from.0) / 1_000_000;
            tracing::warn!(by_s, "the clock has jumped from {} to {}", shown(jump.from), shown(jump.to));
            let payload = json!({"kind": "clock_jump", "from": shown(jump.from), "to": shown(jump.to), "by_s": by_s});
            self.books.say("clock_jump", &payload);
        }
    }

    fn look_at_the_recorder(&mut self) {
        let status = self.shared.recorder.status();
        if let Some(payload) = aside(self.storage.set_aside, &status) {
            self.storage.set_aside = status.set_aside;
            self.books.say("set_aside", &payload);
        }
        let lost = (status.unrecorded, status.dropped);
        if (&self.storage.state, &status.state) == (&RecorderState::Recording, &RecorderState::Recording) {
            self.storage.before = lost;
        }
        let payload = match (&self.storage.state, &status.state) {
            (RecorderState::Recording, RecorderState::Degraded { reason }) => {
                tracing::error!(reason, "the disk takes no records; inference goes on");
                json!({
                    "kind": "storage_low", "reason": reason, "held": status.held,
                    "free_bytes": self.free().map(|(free, _)| free),
                    "order": ["old records are thinned", "old records are dropped", "new records are held in memory",
                        "the oldest held are given up and counted", "answers go on"],
                })
            }
            (RecorderState::Degraded { .. }, RecorderState::Recording) => {
                let (unrecorded, dropped) = self.storage.before;
                let (unrecorded, dropped) = (lost.0 - unrecorded, lost.1 - dropped);
                tracing::info!(unrecorded, dropped, "the disk takes records again");
                json!({"kind": "storage_back", "unrecorded": unrecorded, "dropped": dropped})
            }
            (RecorderState::Recording, RecorderState::Recording) if (status.bytes_over > 0) != self.storage.is_over => {
                self.storage.is_over = status.bytes_over > 0;
                if !self.storage.is_over {
                    return;
                }
                json!({"kind": "storage_over", "bytes_over": status.bytes_over})
            }
            _ => return,
        };
        self.storage.state = status.state;
        let kind = payload["kind"].as_str().unwrap_or("storage").to_owned();
        self.books.say(&kind, &payload);
    }

    fn look_at_the_card(&mut self) {
        let (limit, now) = (self.storage.settings.flash.bytes_per_day, self.storage.running.now());
        let Some(written) = flash::written_bytes() else { return };
        let since = written.saturating_sub(self.storage.written_bytes);
        self.storage.written_bytes = written;
        let Some(saved) = &mut self.saved else { return };
        saved.flash = (limit > 0).then(|| match saved.flash {
            None => Flash::new(limit, now),
            Some(flash) => flash.after(since, limit, now),
        });
        let every = saved.flash.map_or(1, |flash| flash.every(limit));
        if every != self.storage.every {
            self.storage.every = every;
            self.shared.recorder.record_every(every);
            tracing::info!(every, "the day's bytes of the card: one of so many samples is recorded (0: none)");
            self.books.say("recording_share", &json!({"kind": "recording_share", "every": every}));
        }
    }

    fn free(&self) -> Option<(u64, u64)> {
        let (free, all) = flash::free_bytes(&self.shared.place.state_dir)?;
        Some((free, self.storage.settings.retention.free_bytes_min.min(all / FREE_PART)))
    }

    fn retention(&self) -> Retention {
        let RecordsSettings { keep_bytes, retention, .. } = &self.storage.settings;
        let wall = clock::now();
        let calendar = self.saved.as_ref().and_then(|saved| saved.calendar);
        Retention {
            keep_bytes: *keep_bytes,
            free: self.free(),
            age: age(retention.keep_days, calendar, wall),
            every: retention.thin_every.into(),
            thin_share: retention.thin_share,
            needed_from: self.needed_from(),
        }
    }

    /// The oldest label that somebody still reads: the rows of a training under way with its hold-out, and labels that the
    /// cycle has not counted.
    fn needed_from(&self) -> i64 {
        let Some(saved) = &self.saved else { return i64::MAX };
        let uncounted = saved.ordinal + 1;
        saved.cycle.orders().work.map_or(uncounted, |order| {
            let from = i64::try_from(order.rows.from_label).unwrap_or(i64::MAX);
            let labels = i64::try_from(saved.cycle.known(&self.rules.cycle)).unwrap_or(i64::MAX);
            uncounted.min(uncounted.saturating_sub(labels.saturating_sub(from)))
        })
    }

    /// For status.
    pub(super) fn storage_view(&self) -> Value {
        let (now, wall) = (self.storage.running.now(), clock::now());
        let ran: Duration = now.0.saturating_sub(self.storage.began.0);
        let recorded = self.shared.recorder.status().recorded_bytes;
        let used = self.warden.worn_percent();
        let mut view = flash::view(&self.storage.settings.flash, recorded, flash::written_bytes(), ran, used);
        view["recording_every"] = json!(self.storage.every);
        view["left_bytes_of_day"] = json!(self.saved.as_ref().and_then(|saved| saved.flash).map(|flash| flash.level()));
        let calendar = self.saved.as_ref().and_then(|saved| saved.calendar);
        json!({
            "keep_bytes": self.storage.settings.keep_bytes,
            "free_bytes": self.free().map(|(free, _)| free),
            "recording": self.storage.state,
            "flash": view,
            "clock": {
                "trust": clock::trust(),
                "standing": calendar.map(|calendar| calendar.standing(wall)),
                "floor": calendar.map(|calendar| shown(calendar.floor())),
                "now": shown(wall),
            },
        })
    }
}

/// The age in seconds beyond which records go, and now; none while the clock cannot be believed: nothing is deleted for an age
/// that only a jump has given it.
fn age(keep_days: u32, calendar: Option<Calendar>, wall: Timestamp) -> Option<(u64, Timestamp)> {
    let believed = calendar.is_some_and(|calendar| calendar.standing(wall) == Standing::Steady);
    (keep_days > 0 && believed).then_some((u64::from(keep_days) * DAY_S, wall))
}

/// What is told of damaged partitions that were set aside since the last look, when there were `before` of them.
fn aside(before: u64, status: &RecorderStatus) -> Option<Value> {
    let last = status.last_set_aside.as_ref().filter(|_| status.set_aside > before)?;
    Some(json!({
        "kind": "set_aside", "kept": last.path, "reason": last.reason, "partitions": status.set_aside - before,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::store::SetAside;

    #[test]
    fn nothing_is_deleted_for_its_age_while_the_clock_cannot_be_believed() {
        let wall = |hours: i64| Timestamp(clock::SET_SINCE.0 + hours * 3_600_000_000);
        let up = |hours: u64| Uptime(Duration::from_hours(hours));
        let (steady, _) = Calendar::new(clock::SET_SINCE).step(up(0), wall(1), false);
        assert_eq!(age(30, Some(steady), wall(1)), Some((30 * DAY_S, wall(1))));
        assert_eq!(age(0, Some(steady), wall(1)), None, "not asked for");
        assert_eq!(age(30, None, wall(1)), None, "not looked at yet");
        assert_eq!(age(30, Some(steady), Timestamp(5)), None, "1970");
        let (jumped, _) = steady.step(up(1), wall(90_000), false);
        assert_eq!(age(30, Some(jumped), wall(90_000)), None, "ten years ahead");
        let (back, _) = jumped.step(up(2), wall(3), false);
        assert_eq!(age(30, Some(back), wall(3)), None, "and back");
    }

    #[test]
    fn a_partition_that_was_set_aside_is_told_once_with_its_place_and_its_reason() {
        let mut status = RecorderStatus::default();
        assert_eq!(aside(0, &status), None);
        status.set_aside = 2;
        status.last_set_aside =
            Some(SetAside { path: "records/1.db.damaged-1".into(), reason: "disk image is malformed".to_owned() });
        let told = aside(0, &status).unwrap();
        assert_eq!((&told["kind"], &told["partitions"]), (&json!("set_aside"), &json!(2)));
        assert_eq!(told["kept"], "records/1.db.damaged-1");
        assert_eq!(aside(2, &status), None, "once");
    }
}
