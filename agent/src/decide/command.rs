//! How long a command of the fleet may stand in each state of its life, by running time; then it has failed.
//!
//! ```text
//! init, validating ─► scheduled ─► executing ◄─► waiting_budget, waiting_approval ─► successful | failed
//!     10 min        its time + 1 day    1 day        7 days        the question's own end + 1 hour
//!                                       in a trial: the trial's own end + 1 hour
//! ```
use std::time::Duration;

use fleet_protocol::status::{ReasonCode, Status};

use super::budget::Code;
use super::time::{Timestamp, Uptime};

/// Stored and not begun: only a crash between two commits leaves a command so.
const BEGIN: Duration = Duration::from_mins(10);
/// Work, or a transfer, that takes longer has been forgotten by somebody.
const WORK: Duration = Duration::from_hours(24);
/// A budget that says no for a week will not say yes to this wish: its sender must think again.
const BUDGET: Duration = Duration::from_hours(7 * 24);
/// A clock that is not set by then will not be.
const CLOCK: Duration = Duration::from_hours(31 * 24);
/// Questions and trials end by themselves; beyond that by this something is wrong.
const GRACE: Duration = Duration::from_hours(1);
/// No rule here gives more than this: a stored deadline beyond it is of another version, or damaged.
const LONGEST: Duration = Duration::from_hours(400 * 24);

/// What the rules need to know of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Running time.
    pub now: Uptime,
    /// Wall time.
    pub wall: Timestamp,
    /// Whether wall time is right.
    pub clock_is_set: bool,
    /// When the question or the trial under way ends by itself.
    pub trial: Option<Uptime>,
}

impl Moment {
    /// Whether something may begin that is not wanted before `at`.
    #[must_use]
    pub fn has_come(&self, at: Timestamp) -> bool {
        self.clock_is_set && self.wall >= at
    }

    /// Wall time at the running time `then`, as far as it is known.
    #[must_use]
    pub fn wall_at(&self, then: Uptime) -> Timestamp {
        let ahead = then.0.as_micros().cast_signed() - self.now.0.as_micros().cast_signed();
        Timestamp(self.wall.0.saturating_add(i64::try_from(ahead).unwrap_or(i64::MAX)))
    }
}

/// What the fleet has forbidden a group of devices for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The group.
    pub group: String,
    /// Until then, by a clock that is right.
    pub until: Timestamp,
}

/// The freeze that is in force and lasts longest. By a clock that is not set every freeze is: nobody can say that it is over.
#[must_use]
pub fn frozen<'a>(freezes: &'a [Freeze], moment: &Moment) -> Option<&'a Freeze> {
    freezes.iter().filter(|freeze| !moment.has_come(freeze.until)).max_by_key(|freeze| freeze.until)
}

/// When a command that stands so from now on has failed; none for an end.
#[must_use]
pub fn deadline(status: &Status, moment: &Moment) -> Option<Uptime> {
    let trial = moment.trial.map_or(Uptime::default(), |end| end.plus(GRACE));
    Some(match status {
        Status::Init | Status::Validating => moment.now.plus(BEGIN),
        Status::Scheduled { at } if moment.clock_is_set => {
            let ahead = u64::try_from(at.0.saturating_sub(moment.wall.0)).unwrap_or(0);
            moment.now.plus(Duration::from_micros(ahead).min(LONGEST.saturating_sub(WORK)) + WORK)
        }
        Status::Scheduled { .. } => moment.now.plus(CLOCK),
        Status::WaitingBudget { .. } => moment.now.plus(BUDGET),
        Status::WaitingApproval | Status::Executing => moment.now.plus(WORK).max(trial),
        Status::Successful | Status::Failed { .. } => return None,
    })
}

/// A stored deadline as it counts: one that no rule can have given counts as given now.
#[must_use]
pub fn sound(deadline: Uptime, now: Uptime) -> Uptime {
    if deadline > now.plus(LONGEST) { now.plus(WORK) } else { deadline }
}

/// A limit in the words of the fleet.
#[must_use]
pub fn reason_code(code: Code) -> ReasonCode {
    match code {
        Code::Memory | Code::MemoryPressure => ReasonCode::BudgetMemory,
        Code::EnergyPerRetrain | Code::EnergyPerHour | Code::Power | Code::Battery => ReasonCode::BudgetPower,
        Code::Heat => ReasonCode::BudgetThermal,
        Code::Flash => ReasonCode::BudgetStorage,
        Code::Deadline => ReasonCode::Timeout,
        Code::Hours => ReasonCode::Other("budget_hours".to_owned()),
        Code::ClockUnknown => ReasonCode::Other("clock_unknown".to_owned()),
        Code::NotIdle | Code::CpuBusy => ReasonCode::Other("budget_cpu".to_owned()),
        Code::IoPressure => ReasonCode::Other("budget_io".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use fleet_protocol::names::Micros;

    use super::*;

    const NOW: Uptime = Uptime(Duration::from_hours(50));

    fn moment() -> Moment {
        Moment { now: NOW, wall: Timestamp(1_000_000_000), clock_is_set: true, trial: None }
    }

    fn hours(status: &Status, moment: &Moment) -> Option<f64> {
        deadline(status, moment).map(|until| (until.0.as_secs_f64() - NOW.0.as_secs_f64()) / 3_600.0)
    }

    #[test]
    fn every_state_but_an_end_has_a_deadline_and_a_trial_is_given_its_own_time() {
        let waits = Status::WaitingBudget { reason_code: ReasonCode::BudgetThermal, retry_at: None };
        let in_two_hours = Status::Scheduled { at: Micros(1_000_000_000 + 2 * 3_600_000_000) };
        assert_eq!(hours(&Status::Init, &moment()), Some(1.0 / 6.0));
        assert_eq!(hours(&in_two_hours, &moment()), Some(26.0));
        assert_eq!(hours(&in_two_hours, &Moment { clock_is_set: false, ..moment() }), Some(744.0));
        assert_eq!(hours(&waits, &moment()), Some(168.0));
        assert_eq!(hours(&Status::Executing, &moment()), Some(24.0));
        let tried = Moment { trial: Some(NOW.plus(Duration::from_hours(720))), ..moment() };
        assert_eq!(hours(&Status::Executing, &tried), Some(721.0));
        assert_eq!(hours(&Status::WaitingApproval, &tried), Some(721.0));
        assert_eq!(hours(&Status::Successful, &moment()), None);
    }

    #[test]
    fn a_time_that_nobody_can_have_meant_neither_overflows_nor_lasts_for_ever() {
        for at in [i64::MIN, -1, 0, i64::MAX] {
            let until = deadline(&Status::Scheduled { at: Micros(at) }, &moment()).unwrap();
            assert!(until >= NOW.plus(WORK) && sound(until, NOW) == until, "{at}");
        }
        assert_eq!(sound(Uptime(Duration::from_micros(u64::MAX)), NOW), NOW.plus(WORK));
        let _ = moment().wall_at(Uptime(Duration::MAX));
    }

    #[test]
    fn a_freeze_ends_by_a_clock_that_is_set_and_the_longest_counts() {
        let freeze = |group: &str, until| Freeze { group: group.to_owned(), until: Timestamp(until) };
        let over = [freeze("hall-3", 999_999_999), freeze("all", 1_000_000_000)];
        assert_eq!(frozen(&over, &moment()), None);
        assert_eq!(frozen(&over, &Moment { clock_is_set: false, ..moment() }), Some(&over[1]));
        let both = [freeze("hall-3", 1_000_000_009), freeze("all", 1_000_000_005)];
        assert_eq!(frozen(&both, &moment()), Some(&both[0]));
    }

    #[test]
    fn nothing_begins_by_a_clock_that_is_not_set() {
        assert!(moment().has_come(Timestamp(1_000_000_000)) && !moment().has_come(Timestamp(1_000_000_001)));
        assert!(!Moment { clock_is_set: false, ..moment() }.has_come(Timestamp(0)));
    }
}
