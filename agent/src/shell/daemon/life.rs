//! The life of a command's row: how it moves on with what the loop does for it, and what ends by its deadline.
//!
//! A row whose step the cycle makes changes in the same transaction as that step; every other change is a transaction of its own.
use std::mem::discriminant;

use fleet_protocol::Extra;
use fleet_protocol::names::{Clock, Micros};
use fleet_protocol::order::Order;
use fleet_protocol::status::{CommandStatus, ReasonCode, Status};
use serde_json::{Value, json};
use ulid::Ulid;

use super::books::Books;
use super::keeper::Keeper;
use super::orders::{Orders, Task};
use super::wishes::Refused;
use crate::decide::budget::Refusal;
use crate::decide::command::{Moment, deadline, reason_code, sound};
use crate::decide::cycle::{Cycle, Report};
use crate::decide::rollout::{self, Why};
use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::store::{CommandRow, Control};

/// A report on a command as of now.
pub(super) fn report(id: Ulid, cmd: &str, status: Status) -> CommandStatus {
    let (ts, clock) = (Micros(clock::now().0), clock::trust());
    CommandStatus { id, cmd: cmd.to_owned(), status, ts, clock, deadline: None, extra: Extra::new() }
}

/// How the row says that it stands; none if it cannot be read.
pub(super) fn status_of(row: &CommandRow) -> Option<CommandStatus> {
    serde_json::from_str(&row.status).ok()
}

/// The row with another status, and the deadline of that; an end never changes.
pub(super) fn moved(mut row: CommandRow, status: Status, result: Option<Value>, moment: &Moment) -> CommandRow {
    let Some(before) = status_of(&row).filter(|before| before.status.may_become(&status)) else { return row };
    row.ended = status.is_final();
    // Told again, as after a restart, it has stood so since before; only a trial gives more time.
    let again = discriminant(&before.status) == discriminant(&status) && moment.trial.is_none();
    let until = deadline(&status, moment).map(|until| if again { row.deadline } else { until });
    row.deadline = until.unwrap_or(row.deadline);
    let mut after = report(row.id, &before.cmd, status);
    // For people: the device itself goes by running time.
    after.deadline = until.filter(|_| moment.clock_is_set).map(|until| Micros(moment.wall_at(until).0));
    after.extra = before.extra;
    after.extra.extend(result.map(|result| ("result".to_owned(), result)));
    row.status = serde_json::to_string(&after).unwrap_or_default();
    row
}

pub(super) fn ended(row: CommandRow, outcome: Result<Value, Refused>, moment: &Moment) -> CommandRow {
    match outcome {
        Ok(result) => moved(row, Status::Successful, Some(result), moment),
        Err((reason_code, reason)) => moved(row, Status::Failed { reason_code, reason }, None, moment),
    }
}

fn moment(cycle: &Cycle) -> Moment {
    let trial = cycle.rollout().candidate().and_then(|_| cycle.rollout().deadline());
    Moment { now: cycle.uptime(), wall: clock::now(), clock_is_set: clock::trust() != Clock::Unsynced, trial }
}

/// How the trial of a command's candidate ended, in the words of the fleet.
fn lost(why: &Why) -> Refused {
    let code = match why {
        Why::Worse | Why::Guard { .. } | Why::Undecided => ReasonCode::GateFailed,
        Why::Person { .. } | Why::Void => ReasonCode::Canceled,
        Why::Silence => ReasonCode::Timeout,
        Why::Broken { .. } => ReasonCode::Internal,
    };
    (code, why.sentence())
}

/// Where a report leads the command of its run.
enum Way {
    Stands(Status),
    Ends(Result<Value, Refused>),
}

impl Orders {
    /// Follows what a step reported, all of it: a run that begins, is asked about, tried or ends may be a command's.
    pub(super) fn follow(&mut self, reports: &[Report], cycle: &Cycle, control: &Control) {
        for report in reports {
            let (run, way) = match report {
                Report::Retrain { order } | Report::Consolidated { order } => {
                    if let Some(row) = self.starting.take().and_then(|id| self.changed.get_mut(&id)) {
                        row.run = i64::try_from(order.run).ok();
                    }
                    continue;
                }
                // A refit that fails leaves the candidate that had passed: that one goes on.
                Report::Failed { run, .. } if goes_on(*run, reports, cycle) => continue,
                Report::Failed { run, reason } => (*run, Way::Ends(Err((ReasonCode::Internal, reason.clone())))),
                Report::Gate { run, verdict, .. } if !verdict.passed => {
                    (*run, Way::Ends(Err((ReasonCode::GateFailed, verdict.sentence()))))
                }
                Report::Promote { run, to, .. } => (*run, Way::Ends(Ok(json!({"digest": to})))),
                Report::Rollback { .. } => {
                    self.void(cycle, control);
                    continue;
                }
                Report::Rollout(rollout::Report::ApprovalRequired { run, .. }) => {
                    (*run, Way::Stands(Status::WaitingApproval))
                }
                Report::Rollout(rollout::Report::Approved { run, .. } | rollout::Report::CanaryStep { run, .. }) => {
                    (*run, Way::Stands(Status::Executing))
                }
                Report::Rollout(rollout::Report::TrialEnded { run, why, .. }) => (*run, Way::Ends(Err(lost(why)))),
                Report::Gate { .. }
                | Report::Drift { .. }
                | Report::Waiting { .. }
                | Report::Rebaseline { .. }
                | Report::Considered { .. }
                | Report::Adaptation { .. }
                | Report::Rollout(
                    rollout::Report::TrialWon { .. }
                    | rollout::Report::Regretted { .. }
                    | rollout::Report::ClassShift { .. }
                    | rollout::Report::ConfidenceShift { .. },
                ) => continue,
            };
            let Some(row) = self.of_run(run, control) else { continue };
            let moment = moment(cycle);
            let row = match way {
                Way::Stands(status) => moved(row, status, None, &moment),
                Way::Ends(outcome) => ended(row, outcome, &moment),
            };
            self.changed.insert(row.id, row);
        }
    }

    /// The open command of a run, as it will be stored.
    fn of_run(&self, run: u64, control: &Control) -> Option<CommandRow> {
        let run = i64::try_from(run).ok()?;
        if let Some(row) = self.changed.values().find(|row| row.run == Some(run)) {
            return (!row.ended).then(|| row.clone());
        }
        let open = control.commands_open().unwrap_or_default();
        open.into_iter().find(|row| row.run == Some(run) && !self.changed.contains_key(&row.id))
    }

    /// A rollback makes the run under way void.
    fn void(&mut self, cycle: &Cycle, control: &Control) {
        for row in control.commands_open().unwrap_or_default().into_iter().filter(|row| row.run.is_some()) {
            let canceled = (ReasonCode::Canceled, "a rollback made its run void".to_owned());
            self.changed.entry(row.id).or_insert_with(|| ended(row, Err(canceled), &moment(cycle)));
        }
    }
}

fn goes_on(run: u64, reports: &[Report], cycle: &Cycle) -> bool {
    let promoted = |report: &Report| matches!(report, Report::Promote { run: promoted, .. } if *promoted == run);
    cycle.rollout().candidate().is_some_and(|candidate| candidate.run == run) || reports.iter().any(promoted)
}

impl Books {
    /// The command of this run, if it is one's, stands so with the next commit.
    pub(super) fn command_stands(&mut self, run: u64, status: &Status, moment: &Moment) {
        let (orders, control) = self.orders_and_control();
        let Some(row) = orders.of_run(run, control) else { return };
        let code = |status: &Status| match status {
            Status::WaitingBudget { reason_code, .. } => Some(reason_code.clone()),
            _ => None,
        };
        let differs = |before: &Status| discriminant(before) != discriminant(status) || code(before) != code(status);
        if status_of(&row).is_some_and(|before| differs(&before.status)) {
            let row = moved(row, status.clone(), None, moment);
            orders.changed.insert(row.id, row);
        }
    }
}

impl Keeper {
    pub(super) fn moment(&self) -> Moment {
        let now = self.warden.now();
        match &self.saved {
            Some(saved) => Moment { now, ..moment(&saved.cycle) },
            None => Moment { now, wall: clock::now(), clock_is_set: clock::trust() != Clock::Unsynced, trial: None },
        }
    }

    /// A budget says no to the training of this run.
    pub(super) fn waits_for_budget(&mut self, run: u64, refusal: &Refusal) {
        let moment = self.moment();
        let retry_at = refusal.try_again.after(moment.now, moment.wall).map(|then| Micros(moment.wall_at(then).0));
        let retry_at = retry_at.filter(|_| moment.clock_is_set);
        let status = Status::WaitingBudget { reason_code: reason_code(refusal.code), retry_at };
        self.books.command_stands(run, &status, &moment);
    }

    /// The work of this run begins now.
    pub(super) fn executes(&mut self, run: u64) {
        let moment = self.moment();
        self.books.command_stands(run, &Status::Executing, &moment);
    }

    /// Every look: begins what was scheduled for now, and ends what has stood in one state for too long. Returns what the link
    /// has to do for what began.
    pub(super) fn follow_commands(&mut self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for row in self.books.control().commands_open().unwrap_or_default() {
            let moment = self.moment();
            let Some(status) = status_of(&row) else { continue };
            if let (Status::Scheduled { at }, None) = (&status.status, row.run)
                && moment.has_come(Timestamp(at.0))
            {
                tasks.extend(self.begin_scheduled(row, &status, &moment));
            } else if sound(row.deadline, moment.now) != row.deadline {
                let deadline = sound(row.deadline, moment.now);
                self.put(CommandRow { deadline, ..row });
            } else if row.deadline <= moment.now {
                self.out_of_time(row, &status.status, &moment);
            }
        }
        tasks
    }

    fn begin_scheduled(&mut self, row: CommandRow, status: &CommandStatus, moment: &Moment) -> Option<Task> {
        let order = serde_json::from_str::<Order>(&row.wish).ok();
        let read = order.and_then(|order| Some((order.command().ok()?, order.exp)));
        let Some((command, exp)) = read else {
            let damaged = (ReasonCode::Internal, "its wish cannot be read any more".to_owned());
            self.put(ended(row, Err(damaged), moment));
            return None;
        };
        if exp.0 <= moment.wall.0 {
            let late = (ReasonCode::Expired, "this device did not run at its time, and now it is void".to_owned());
            self.put(ended(row, Err(late), moment));
            return None;
        }
        self.execute(row, command, &signers(status))
    }

    fn out_of_time(&mut self, row: CommandRow, status: &Status, moment: &Moment) {
        let word = serde_json::to_value(report(row.id, "", status.clone())).unwrap_or_default()["status"].clone();
        let reason = format!("it has stood as `{}` for too long", word.as_str().unwrap_or_default());
        let run = row.run.and_then(|run| u64::try_from(run).ok());
        let row = ended(row, Err((ReasonCode::Timeout, reason.clone())), moment);
        let work = self.saved.as_ref().and_then(|saved| saved.cycle.orders().work);
        if let Some(run) = run.filter(|run| work.is_some_and(|order| order.run == *run)) {
            // What is told as failed must not happen after all; both in one transaction.
            self.books.orders.changed.insert(row.id, row);
            self.fail(run, reason);
        } else {
            self.put(row);
        }
    }

    /// Ends every retrain that waits for its time; returns how many.
    pub(super) fn cancel_scheduled(&mut self) -> usize {
        let moment = self.moment();
        let mut count = 0;
        for row in self.books.control().commands_open().unwrap_or_default() {
            let waits = |status: &CommandStatus| matches!(status.status, Status::Scheduled { .. });
            if row.run.is_none() && status_of(&row).as_ref().is_some_and(waits) {
                count += 1;
                self.put(ended(row, Err((ReasonCode::Canceled, "cancelled by command".to_owned())), &moment));
            }
        }
        count
    }

    /// Stores how a command stands, in a transaction of its own.
    pub(super) fn put(&mut self, row: CommandRow) {
        if let Err(error) = self.books.control().put_commands(std::slice::from_ref(&row)) {
            tracing::warn!(error = %error.chain(), "how a command stands waits for the disk");
            self.books.orders.changed.insert(row.id, row);
        }
        self.shared.stored.notify_one();
    }
}

/// Who signed a command, as its status tells.
pub(super) fn signers(status: &CommandStatus) -> String {
    status.extra.get("by").and_then(Value::as_str).unwrap_or("fleet").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trainer_core::digest::Digest;
    use trainer_core::model::Model;
    use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use trainer_core::spec::Spec;
    use trainer_core::train::{TrainSettings, base};

    use super::*;
    use crate::decide::cycle::CycleSettings;
    use crate::decide::gate;
    use crate::decide::time::Uptime;

    const HOUR: Duration = Duration::from_hours(1);

    fn row(number: u128, run: Option<i64>, status: Status) -> CommandRow {
        let text = serde_json::to_string(&report(Ulid::from(number), "retrain.start", status)).unwrap();
        CommandRow {
            id: Ulid::from(number),
            status: text,
            wish: "{}".to_owned(),
            run,
            ended: false,
            deadline: Uptime(HOUR),
        }
    }

    fn at(hours: u32) -> Moment {
        Moment { now: Uptime(hours * HOUR), wall: Timestamp(9_000_000), clock_is_set: true, trial: None }
    }

    fn code(row: &CommandRow) -> Option<ReasonCode> {
        match status_of(row)?.status {
            Status::Failed { reason_code, .. } => Some(reason_code),
            _ => None,
        }
    }

    #[test]
    fn what_is_told_again_has_stood_so_since_before_and_only_a_trial_gives_more_time() {
        let executing = row(1, Some(1), Status::Executing);
        let again = moved(executing.clone(), Status::Executing, None, &at(5));
        assert_eq!(again.deadline, Uptime(HOUR), "or a restart each day would let it stand for ever");
        let tried = Moment { trial: Some(Uptime(90 * HOUR)), ..at(5) };
        assert_eq!(moved(executing.clone(), Status::Executing, None, &tried).deadline, Uptime(91 * HOUR));
        let budget = |reason_code| Status::WaitingBudget { reason_code, retry_at: None };
        let waits = moved(executing, budget(ReasonCode::BudgetPower), None, &at(5));
        assert_eq!(waits.deadline, Uptime((5 + 7 * 24) * HOUR), "another state has its own time");
        let hotter = moved(waits.clone(), budget(ReasonCode::BudgetThermal), None, &at(50));
        assert_eq!((hotter.deadline, hotter.status != waits.status), (waits.deadline, true), "another budget has not");
    }

    #[test]
    fn an_end_never_changes_and_forgets_no_signer() {
        let mut open = row(1, None, Status::Init);
        let mut status = status_of(&open).unwrap();
        status.extra.insert("by".to_owned(), json!("ada"));
        open.status = serde_json::to_string(&status).unwrap();
        let done = ended(open, Ok(json!({"rows": 7})), &at(1));
        let status = status_of(&done).unwrap();
        assert_eq!(
            (done.ended, status.extra["by"].clone(), status.extra["result"]["rows"].clone()),
            (true, json!("ada"), json!(7))
        );
        assert_eq!(ended(done.clone(), Err((ReasonCode::Timeout, String::new())), &at(9)), done);
    }

    #[test]
    fn whoever_reads_how_a_trial_ended_is_told_whose_doing_that_was() {
        let reason = || "a test".to_owned();
        for (why, expected) in [
            (Why::Worse, ReasonCode::GateFailed),
            (Why::Undecided, ReasonCode::GateFailed),
            (Why::Person { reason: reason() }, ReasonCode::Canceled),
            (Why::Void, ReasonCode::Canceled),
            (Why::Silence, ReasonCode::Timeout),
            (Why::Broken { reason: reason() }, ReasonCode::Internal),
        ] {
            let (code, sentence) = lost(&why);
            assert_eq!((code, sentence.is_empty()), (expected, false), "{why:?}");
        }
    }

    /// A cycle of a small model, and a database with these commands.
    fn device(rows: &[CommandRow]) -> (Cycle, Control, tempfile::TempDir) {
        let feature = Feature { name: "x".to_owned(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: vec!["low".to_owned(), "high".to_owned()] };
        let mut samples = Rows::empty(1, 1);
        (0..60_u8).for_each(|number| samples.push(&[f32::from(number)], &[f32::from(number % 2)]));
        let schema = Schema { features: vec![feature], task };
        let model: Model = base(&schema, &Spec::default(), &samples, &TrainSettings::default(), 1).unwrap().model;
        let folder = tempfile::tempdir().unwrap();
        let (mut control, _) = Control::open(&folder.path().join("control.db")).unwrap();
        rows.iter().for_each(|row| control.admit(row, &[]).unwrap());
        (Cycle::new(&model, Digest::of(b"champion"), &CycleSettings::default()), control, folder)
    }

    #[test]
    fn a_rollback_ends_the_command_of_the_run_it_makes_void_and_no_other() {
        let (cycle, control, _folder) =
            device(&[row(1, Some(7), Status::Executing), row(2, None, Status::Scheduled { at: Micros(1) })]);
        let mut orders = Orders::default();
        let [from, to] = [b"from", b"to\0\0"].map(|bytes| Digest::of(bytes));
        orders.follow(&[Report::Rollback { from, to }], &cycle, &control);
        let changed = orders.rows();
        assert_eq!((changed.len(), changed[0].id, code(&changed[0])), (1, Ulid::from(1), Some(ReasonCode::Canceled)));
    }

    #[test]
    fn the_command_of_a_run_stands_as_its_run_does_and_ends_with_its_trial() {
        let (cycle, control, _folder) = device(&[row(1, Some(7), Status::Executing)]);
        let stands = |reports: &[Report]| {
            let mut orders = Orders::default();
            orders.follow(reports, &cycle, &control);
            let rows = orders.rows();
            assert!(rows.len() <= 1 && rows.iter().all(|row| row.id == Ulid::from(1)), "{rows:?}");
            rows.first().map(|row| status_of(row).unwrap().status)
        };
        let candidate = Digest::of(b"candidate");
        let standing = rollout::Standing {
            trial: 1,
            pairs: 9,
            agreed: 8,
            labelled: 7,
            missed: 0,
            served: 1,
            abort_e: 0.5,
            promote_e: 2.0,
            limit: 20.0,
        };
        let verdict = gate::judge(&gate::Evidence::default(), &gate::GateSettings::default());
        assert!(!verdict.passed);
        let asks = rollout::Report::ApprovalRequired {
            run: 7,
            candidate,
            verdict: verdict.clone(),
            silence: rollout::Silence::Reject,
            wait_s: 60,
        };
        assert_eq!(stands(&[Report::Rollout(asks)]), Some(Status::WaitingApproval));
        let ended = |run, why| rollout::Report::TrialEnded { run, challenger: candidate, why, answer: None, standing };
        let code = |status| match status {
            Some(Status::Failed { reason_code, .. }) => Some(reason_code),
            _ => None,
        };
        assert_eq!(code(stands(&[Report::Rollout(ended(7, Why::Worse))])), Some(ReasonCode::GateFailed));
        assert_eq!(code(stands(&[Report::Rollout(ended(7, Why::Silence))])), Some(ReasonCode::Timeout));
        assert_eq!(stands(&[Report::Rollout(ended(8, Why::Worse))]), None, "another run");
        assert_eq!(code(stands(&[Report::Gate { run: 7, candidate, verdict }])), Some(ReasonCode::GateFailed));
    }

    #[test]
    fn a_run_that_fails_ends_its_command_unless_the_candidate_that_had_passed_is_promoted_instead() {
        let (mut cycle, control, _folder) = device(&[row(1, Some(7), Status::Executing)]);
        let failed = || Report::Failed { run: 7, reason: "killed".to_owned() };
        let mut orders = Orders::default();
        orders.follow(&[failed()], &cycle, &control);
        assert_eq!(orders.rows().iter().map(code).collect::<Vec<_>>(), [Some(ReasonCode::Internal)]);
        // Its refit failed, and what was judged serves.
        let [from, to] = [b"from", b"to\0\0"].map(|bytes| Digest::of(bytes));
        let mut orders = Orders::default();
        orders.follow(&[failed(), Report::Promote { run: 7, from, to }], &cycle, &control);
        let status = status_of(&orders.rows()[0]).unwrap();
        assert_eq!((status.status, status.extra["result"]["digest"].clone()), (Status::Successful, json!(to)));
        let mut orders = Orders::default();
        orders.follow(&[Report::Failed { run: 8, reason: String::new() }], &cycle, &control);
        assert_eq!(orders.rows(), [], "a run that nobody of the fleet has asked for");
        // Its refit failed, and what was judged is being tried.
        let mut verdict = gate::judge(&gate::Evidence::default(), &gate::GateSettings::default());
        verdict.passed = true;
        let candidate = rollout::Candidate { digest: to, run: 7, verdict };
        let passed = rollout::Event::Passed(Box::new(candidate));
        cycle.step(crate::decide::cycle::Event::Rollout(passed), &CycleSettings::default()).unwrap();
        assert_eq!(cycle.rollout().candidate().map(|candidate| candidate.run), Some(7));
        let mut orders = Orders::default();
        orders.follow(&[failed()], &cycle, &control);
        assert_eq!(orders.rows(), [], "it goes on");
    }
}
