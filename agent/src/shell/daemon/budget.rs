//! Budgets in the loop: looks at the sensors, asks before a training begins, paces it while it runs, books what it took.
//!
//! ```text
//! tick ─► look ─► budget.step ─┬─ something waits: ask again ─► begin
//!                              └─ something trains: pace ─► share | suspend | finish
//! ```
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use trainer_core::model::Strategy;
use trainer_core::session::RunChoices;

use super::keeper::Keeper;
use super::post::Post;
use crate::decide::budget::{
    Allowance, Budget, BudgetSettings, Code, Forecast, Refusal, Spent, Starved, TryAgain, forecast,
};
use crate::decide::cycle::{Order, OrderTask};
use crate::decide::plan::RowsWanted;
use crate::decide::time::{Timestamp, Uptime};
use crate::shell::clock::{self, Running, shown};
use crate::shell::sensors::{self, Booked, Draw, Look, SensorSettings, Sensors};
use crate::shell::trainer::frames::Usage;
use crate::shell::trainer::limits::Limits;

/// Time between two looks while something trains or waits: heat and load move slower than this.
const LOOK_BUSY: Duration = Duration::from_secs(2);
/// Time between two looks otherwise.
const LOOK_IDLE: Duration = Duration::from_secs(10);
/// Weight of the newest look in the power at rest: a minute or so is remembered.
const REST_WEIGHT: f64 = 0.2;

/// Sensors, the running clock, and the training or the order they watch over.
pub(super) struct Warden {
    sensors: Sensors,
    settings: BudgetSettings,
    /// Of the budget as it is set, before anything is taken off.
    memory_bytes: u64,
    watts_per_core: f64,
    clock: Running,
    look: Look,
    looked_at: Option<Uptime>,
    /// Power of the board while nothing trains.
    rest_w: Option<f64>,
    waiting: Option<Waiting>,
    training: Option<Training>,
}

/// An order that may not begin yet.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    run: u64,
    refusal: Refusal,
    /// The look the refusal rests on.
    asked_at: Option<Uptime>,
    starved: bool,
}

/// A training under way.
struct Training {
    run: u64,
    post: Arc<Post>,
    given: Allowance,
    share: f64,
    began: Uptime,
    draw: Option<Draw>,
    /// Why it shall leave a checkpoint and end.
    held: Option<Refusal>,
}

/// What one training has taken, however it ended.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) usage: Usage,
    pub(super) wall_s: f64,
    pub(super) booked: Booked,
    pub(super) written_bytes: u64,
    /// Why the budgets ended it, if they did.
    pub(super) held: Option<Refusal>,
}

impl Warden {
    /// Running time.
    pub(super) fn now(&self) -> Uptime {
        self.clock.now()
    }

    /// Watches the machine below `root`; running time goes on from `before`.
    pub(super) fn new(root: &Path, settings: BudgetSettings, sensors: &SensorSettings, before: Uptime) -> Self {
        Self {
            sensors: Sensors::at(root),
            memory_bytes: settings.memory_bytes,
            settings,
            watts_per_core: sensors.watts_per_core,
            clock: Running::after(before),
            look: Look::default(),
            looked_at: None,
            rest_w: None,
            waiting: None,
            training: None,
        }
    }

    /// So many bytes of the memory budget are taken by the heads that learn inside the agent: the trainer may take the rest.
    pub(super) fn reserve(&mut self, bytes: u64) {
        self.settings.memory_bytes = self.memory_bytes.saturating_sub(bytes).max(self.memory_bytes / 2);
    }

    /// How worn the card says it is, the worst of several, in percent.
    pub(super) fn worn_percent(&self) -> Option<u16> {
        self.look.wear.iter().map(|wear| wear.used_percent).max()
    }

    fn is_due(&self, now: Uptime) -> bool {
        let every = if self.training.is_some() || self.waiting.is_some() { LOOK_BUSY } else { LOOK_IDLE };
        self.looked_at.is_none_or(|at| now.0.saturating_sub(at.0) >= every)
    }

    /// What the training under way has taken up to the newest look.
    fn taken(&self, training: &Training) -> Taken {
        let (report, written_bytes) = training.post.report();
        let wall_s = self.clock.now().0.saturating_sub(training.began.0).as_secs_f64();
        let (before, after) = (training.draw.as_ref(), self.look.draw.as_ref());
        let booked = sensors::book(before, after, self.rest_w, (wall_s, report.usage.cpu_s), self.watts_per_core);
        Taken { usage: report.usage, wall_s, booked, written_bytes, held: training.held.clone() }
    }
}

impl Taken {
    fn spent(&self) -> Spent {
        let (wall_s, joules) = (self.wall_s, self.booked.joules);
        Spent { wall_s, joules, write_bytes: self.written_bytes, ..Spent::default() }
    }
}

impl Keeper {
    /// Every second: looks if it is time to, then paces what trains and asks again for what waits.
    pub(super) fn watch_over(&mut self) {
        let now = self.warden.clock.now();
        if self.saved.is_none() || !self.warden.is_due(now) {
            return;
        }
        self.look();
        self.pace();
        if self.warden.waiting.is_some() && !self.books.is_waiting() {
            self.carry_out();
        }
    }

    /// Reads the sensors and lets time pass for the budgets.
    pub(super) fn look(&mut self) {
        let warden = &mut self.warden;
        let now = warden.clock.now();
        let process = warden.training.as_ref().and_then(|training| training.post.process());
        warden.look = warden.sensors.look(process, now);
        warden.looked_at = Some(now);
        if warden.training.is_none()
            && let Some(watts) = warden.look.draw.as_ref().and_then(|draw| draw.watts)
        {
            let rest = warden.rest_w.unwrap_or(watts);
            warden.rest_w = Some(rest + REST_WEIGHT * (watts - rest));
        }
        let settings = &warden.settings;
        if let Some(saved) = &mut self.saved {
            let wall = clock::now();
            let budget = saved.budget.take().unwrap_or_else(|| Budget::new(settings, now, wall));
            saved.budget = Some(budget.step(&warden.look.readings, now, wall, settings));
        }
    }

    /// Lets the training under way go on, slower or faster, or has it leave a checkpoint and end.
    fn pace(&mut self) {
        let Some(budget) = self.saved.as_ref().and_then(|saved| saved.budget.as_ref()) else { return };
        let Some(training) = &self.warden.training else { return };
        let settings = &self.warden.settings;
        let joules_before = budget.taken_before(training.run);
        let spent = Spent { joules_before, ..self.warden.taken(training).spent() };
        let answer = budget.pace(&training.given, &spent, settings);
        let whole = training.given.deadline_s == settings.deadline_s;
        let Some(training) = &mut self.warden.training else { return };
        match answer {
            Ok(allowance) => {
                training.share = allowance.duty;
                training.post.pace(allowance.duty);
            }
            // Suspended it would only go on at once: what there is after so long, or so many joules, is what there will be.
            Err(Refusal { code: Code::Deadline, also, .. }) if also.is_empty() && whole => training.post.finish(),
            Err(Refusal { code: Code::EnergyPerRetrain, .. }) => training.post.finish(),
            Err(refusal) => {
                training.post.suspend();
                training.held.get_or_insert(refusal);
            }
        }
    }

    /// Asks whether the training of `order` may begin; limits and post of one that may. Nothing is stored here.
    pub(super) fn ask_budget(&mut self, order: &Order) -> Option<(Limits, RunChoices, Arc<Post>)> {
        let OrderTask::Train { strategy, .. } = order.task else {
            self.warden.waiting = None;
            return Some((Limits::default(), RunChoices::default(), Arc::new(Post::default())));
        };
        let now = self.warden.clock.now();
        if self.warden.looked_at.is_none_or(|at| now.0.saturating_sub(at.0) >= LOOK_BUSY) {
            self.look();
        }
        let looked_at = self.warden.looked_at;
        let same = |waiting: &&Waiting| waiting.run == order.run;
        if self.warden.waiting.as_ref().filter(same).is_some_and(|waiting| waiting.asked_at == looked_at) {
            return None;
        }
        // A parent that cannot be read is the work's to report.
        let forecast = self.forecast(order, strategy).unwrap_or_default();
        let saved = self.saved.as_mut()?;
        let (budget, answer, starved) = saved.budget.take()?.ask(&forecast.job, &self.warden.settings);
        let answer = match answer {
            Ok(given) => {
                saved.budget = Some(budget.began(&forecast.job));
                Ok(given)
            }
            Err(refusal) => {
                saved.budget = Some(budget);
                Err(refusal)
            }
        };
        match answer {
            Ok(given) => {
                let choices = RunChoices { micro_batch: given.parts(&forecast.job), ..RunChoices::default() };
                let (limits, post) = self.admitted(order.run, given);
                Some((limits, choices, post))
            }
            Err(refusal) => {
                self.refused(order.run, refusal, starved.as_ref(), looked_at);
                None
            }
        }
    }

    fn admitted(&mut self, run: u64, given: Allowance) -> (Limits, Arc<Post>) {
        let warden = &mut self.warden;
        if warden.waiting.take_if(|waiting| waiting.run == run).is_some() {
            self.books.stands(run, "ordered");
        }
        let whole = given.deadline_s == warden.settings.deadline_s;
        let limits = Limits {
            memory_bytes: Some(given.memory_bytes),
            cpu_share: Some(given.duty),
            // Where the allowed hours end first it is suspended then, and goes on in the next ones.
            deadline_s: whole.then_some(given.deadline_s as f64),
        };
        let post = Arc::new(Post::new(given.duty));
        let (began, draw) = (warden.clock.now(), warden.look.draw.clone());
        let training = Training { run, post: Arc::clone(&post), given, share: given.duty, began, draw, held: None };
        warden.training = Some(training);
        (limits, post)
    }

    fn refused(&mut self, run: u64, refusal: Refusal, starved: Option<&Starved>, asked_at: Option<Uptime>) {
        let waited = self.warden.waiting.take_if(|waiting| waiting.run == run);
        if waited.as_ref().is_none_or(|waited| waited.refusal.code != refusal.code) {
            self.waits_for_budget(run, &refusal);
        }
        let (wall, now) = (clock::now(), self.warden.clock.now());
        if waited.is_none() {
            let mut payload = shown_refusal(&refusal, now, wall);
            payload["kind"] = json!("waiting_budget");
            payload["run"] = json!(run);
            tracing::info!(run, code = ?refusal.code, "training waits: {}", refusal.sentence);
            self.books.say("waiting_budget", &payload);
            self.books.stands(run, "waiting_budget");
        }
        if let Some(Starved { waited_s, refusal }) = starved {
            let mut payload = shown_refusal(refusal, now, wall);
            payload["kind"] = json!("starved");
            payload["run"] = json!(run);
            payload["waited_s"] = json!(waited_s);
            tracing::warn!(run, waited_s, "training starves: {}", refusal.sentence);
            self.books.say("starved", &payload);
        }
        let starved = starved.is_some() || waited.is_some_and(|waited| waited.starved);
        self.warden.waiting = Some(Waiting { run, refusal, asked_at, starved });
        // The reports alone: nothing is carried out by this.
        if self.books.is_waiting() {
            self.commit();
        }
    }

    /// What carrying out `order` is expected to take.
    fn forecast(&self, order: &Order, strategy: Strategy) -> Result<Forecast, String> {
        let parent = self.load(&order.parent)?;
        let bundle_bytes = self.models.path(&order.parent).metadata().map_or(0, |facts| facts.len());
        let RowsWanted { newest, history, .. } = order.rows;
        let rows = newest.saturating_sub(order.rows.kept_back(order.refit_of.is_some())).saturating_add(history);
        let (training, watts) = (&self.rules.training, self.warden.watts_per_core);
        Ok(forecast(&parent.model, bundle_bytes, strategy, rows, training, watts))
    }

    /// What the budgets say to a training that nobody has ordered yet; changes nothing.
    pub(super) fn consult(&self, order: &Order, strategy: Strategy) -> Option<(Forecast, Result<Allowance, Refusal>)> {
        let forecast = self.forecast(order, strategy).ok()?;
        let budget = self.saved.as_ref()?.budget.clone()?;
        Some((forecast, budget.ask(&forecast.job, &self.warden.settings).1))
    }

    /// The end of the training of `run`, however it ended: settles what it took.
    pub(super) fn settle(&mut self, run: u64) -> Option<Taken> {
        if self.warden.training.as_ref().is_none_or(|training| training.run != run) {
            return None;
        }
        self.look();
        let training = self.warden.training.take()?;
        let taken = self.warden.taken(&training);
        if let Some(saved) = &mut self.saved
            && let Some(budget) = saved.budget.take()
        {
            let spent = taken.spent();
            saved.budget = Some(budget.ended(&spent, &self.warden.settings).attempted(run, spent.joules));
        }
        self.books.took(run, &taken);
        Some(taken)
    }

    /// A training that was admitted was not begun after all.
    pub(super) fn not_begun(&mut self, budget: Option<Budget>) {
        self.warden.training = None;
        if let Some(saved) = &mut self.saved {
            saved.budget = budget;
        }
    }

    /// Has a training end whose result nobody wants any more, and forgets an order that waits no longer.
    pub(super) fn drop_void(&mut self, wanted: Option<u64>) {
        if let Some(training) = self.warden.training.as_ref().filter(|training| Some(training.run) != wanted) {
            training.post.cancel();
        }
        if self.warden.waiting.take_if(|waiting| Some(waiting.run) != wanted).is_some()
            && let Some(saved) = &mut self.saved
        {
            saved.budget = saved.budget.take().map(Budget::withdrawn);
        }
    }

    /// Has the training under way leave a checkpoint and end, before the agent does.
    pub(super) fn suspend_for_stop(&self) -> bool {
        let training = self.warden.training.as_ref();
        training.inspect(|training| training.post.suspend()).is_some()
    }

    /// Budgets, for status: what waits and why, what trains and how, and what is left.
    pub(super) fn budget_view(&self) -> [(&'static str, Value); 3] {
        let warden = &self.warden;
        let (now, wall) = (warden.clock.now(), clock::now());
        let budget = self.saved.as_ref().and_then(|saved| saved.budget.as_ref());
        let waiting = warden.waiting.as_ref().map(|waiting| {
            let mut value = shown_refusal(&waiting.refusal, now, wall);
            value["run"] = json!(waiting.run);
            value["starved"] = json!(waiting.starved);
            value["waited_s"] = json!(budget.and_then(Budget::waited).map(|waited| waited.as_secs()));
            value
        });
        let training = warden.training.as_ref().map(|training| {
            let (report, _) = training.post.report();
            let Taken { wall_s, booked, written_bytes, .. } = warden.taken(training);
            json!({
                "run": training.run, "share": training.share, "memory_bytes": training.given.memory_bytes,
                "steps": report.steps, "steps_max": report.steps_max, "remaining_s": report.remaining_s,
                "cpu_s": report.usage.cpu_s, "wall_s": wall_s, "joules": booked.joules, "joules_source": booked.source,
                "bytes_written": written_bytes, "suspending": training.held.is_some(),
            })
        });
        let left = budget.map(|budget| {
            let (joules, flash_bytes) = budget.stocks();
            json!({
                "joules_left": joules, "flash_bytes_left": flash_bytes, "readings": budget.readings(),
                "missing": warden.look.missing,
            })
        });
        [("waiting_budget", json!(waiting)), ("training", json!(training)), ("budget", json!(left))]
    }

    /// A refusal for people and machines.
    pub(super) fn shown_refusal(&self, refusal: &Refusal) -> Value {
        shown_refusal(refusal, self.warden.clock.now(), clock::now())
    }
}

fn shown_refusal(refusal: &Refusal, now: Uptime, wall: Timestamp) -> Value {
    let try_again = match refusal.try_again {
        TryAgain::WhenChanged => json!("when_changed"),
        other => {
            let wait = other.after(now, wall).map_or(0, |at| at.0.saturating_sub(now.0).as_secs());
            let at =
                Timestamp(wall.0.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX).saturating_mul(1_000_000)));
            json!({"in_s": wait, "at": shown(at)})
        }
    };
    json!({"code": refusal.code, "sentence": refusal.sentence, "try_again": try_again, "also": refusal.also})
}
