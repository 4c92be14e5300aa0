//! What holds after every event, whatever comes in whatever order.
use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::stories::{candidate, named};
use super::*;

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Happening {
    Passed(u8),
    Approve,
    Reject,
    Promote,
    Hold,
    Resume,
    Broken,
    Void,
    /// So many samples of this difference, labelled or not.
    Samples {
        count: u16,
        worse: u8,
        better: u8,
        labelled: bool,
    },
    NotFinite,
    /// So many hours.
    Hours(u16),
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..6_u8).prop_map(Happening::Passed),
        2 => Just(Happening::Approve),
        1 => Just(Happening::Reject),
        1 => Just(Happening::Promote),
        1 => Just(Happening::Hold),
        1 => Just(Happening::Resume),
        1 => Just(Happening::Broken),
        1 => Just(Happening::Void),
        8 => (1..400_u16, 0..30_u8, 0..30_u8, any::<bool>())
            .prop_map(|(count, worse, better, labelled)| Happening::Samples { count, worse, better, labelled }),
        1 => Just(Happening::NotFinite),
        3 => (1..900_u16).prop_map(Happening::Hours),
        2 => Just(Happening::Restart),
    ]
}

fn settings() -> impl Strategy<Value = RolloutSettings> {
    let approval = prop_oneof![
        Just(Approval::Auto),
        Just(Approval::Ask),
        Just(Approval::AskAfter { wait: Duration::from_hours(2), silence: Silence::Approve }),
    ];
    let mode = prop_oneof![Just(Mode::Gate), Just(Mode::Full), Just(Mode::Full), Just(Mode::Ab)];
    (approval, mode, 0..3_u8).prop_map(|(approval, mode, pace)| RolloutSettings {
        approval,
        mode,
        dwell_s: u64::from(pace) * 60,
        samples_max: 600,
        watch_samples: 300,
        ..RolloutSettings::default()
    })
}

/// A device in small: who serves, who was rejected, what is on record.
struct Device {
    rollout: Rollout,
    settings: RolloutSettings,
    champion: Digest,
    previous: Option<Digest>,
    rejected: BTreeSet<Digest>,
    /// Candidates with a verdict that passed.
    judged: BTreeSet<Digest>,
    /// Challengers that won, with their evidence or a person's word on record.
    won: BTreeSet<Digest>,
    /// Champions that were promoted by the rollout.
    promoted: Vec<Digest>,
    now: u64,
    row: u64,
}

impl Device {
    fn new(settings: RolloutSettings) -> Self {
        Self {
            rollout: Rollout::default(),
            settings,
            champion: named(0),
            previous: None,
            rejected: BTreeSet::new(),
            judged: BTreeSet::new(),
            won: BTreeSet::new(),
            promoted: Vec::new(),
            now: 0,
            row: 0,
        }
    }

    fn at(&self) -> Uptime {
        Uptime(Duration::from_secs(self.now))
    }

    fn step(&mut self, event: Event) {
        let before = self.rollout.clone();
        match self.rollout.step(event, self.at(), &self.settings) {
            Ok(reports) => self.record(&reports),
            Err(_) => assert_eq!(self.rollout, before, "a refusal changes nothing"),
        }
    }

    fn record(&mut self, reports: &[Report]) {
        for report in reports {
            match report {
                Report::TrialEnded { challenger, why, .. } if !matches!(why, Why::Undecided | Why::Void) => {
                    self.rejected.insert(*challenger);
                }
                Report::TrialWon { challenger, standing, answer, .. } => {
                    assert!(answer.is_some() || standing.pairs > 0, "a win without evidence");
                    self.won.insert(*challenger);
                }
                Report::Approved { candidate, .. } if self.settings.mode == Mode::Gate => {
                    self.won.insert(*candidate);
                }
                _ => {}
            }
        }
    }

    /// What the loop does after each step.
    fn carry_out(&mut self) {
        let orders = self.rollout.orders();
        if let Some(challenger) = orders.promote {
            self.previous = Some(self.champion);
            self.champion = challenger;
            self.promoted.push(challenger);
            self.step(Event::Promoted(self.previous.unwrap_or(challenger)));
        } else if orders.regret {
            let previous = self.previous.take().expect("a watch has a former champion");
            self.rejected.insert(self.champion);
            self.champion = previous;
            self.step(Event::Void);
        }
    }

    #[expect(clippy::fn_params_excessive_bools, reason = "each says what the sample is like")]
    fn sample(&mut self, worse: bool, better: bool, finite: bool, labelled: bool) {
        self.now += 20;
        self.row += 1;
        let id = SampleId(0, self.row);
        let measure = Measure::Classes;
        let wrong: &[f32] = if finite { &[0.0, 1.0] } else { &[f32::NAN, 1.0] };
        let right: &[f32] = &[1.0, 0.0];
        let route = self.rollout.orders().route;
        let served = route.is_some_and(|route| route.takes("pump", Timestamp(self.now.cast_signed() * 1_000_000)));
        let (champion, challenger) =
            (if better { &[0.0, 1.0] } else { right }, if worse || !finite { wrong } else { right });
        let now = self.at();
        let pair =
            Pair { id, now, source: self.row % 7, served, champion, challenger, took_us: None, measure: &measure };
        let mut reports = self.rollout.pair(&pair, &self.settings);
        if labelled {
            let told = Told { id, now, truth: &[0.0], measure: &measure, arm: Some((Arm::Champion, 0.0)) };
            reports.extend(self.rollout.label(&told, &self.settings));
        }
        self.record(&reports);
    }

    fn happen(&mut self, happening: &Happening) {
        let answer = || Answer::new("anna", Timestamp(0));
        match happening {
            Happening::Passed(number) => {
                // The gate offers neither the champion nor what was rejected.
                let candidate = candidate(*number);
                if candidate.digest != self.champion && !self.rejected.contains(&candidate.digest) {
                    self.judged.insert(candidate.digest);
                    self.step(Event::Passed(Box::new(candidate)));
                }
            }
            Happening::Approve => self.step(Event::Approve(answer())),
            Happening::Reject => self.step(Event::Reject(answer(), "no".to_owned())),
            Happening::Promote => self.step(Event::Promote(answer())),
            Happening::Hold => self.step(Event::Hold(answer())),
            Happening::Resume => self.step(Event::Resume(answer())),
            Happening::Broken => self.step(Event::Broken("broken".to_owned())),
            Happening::Void => self.step(Event::Void),
            Happening::Samples { count, worse, better, labelled } => {
                for row in 0..u64::from(*count) {
                    let draw = (row * 37 + 11) % 100;
                    let (worse, better) = (u64::from(*worse), u64::from(*better));
                    self.sample(draw < worse, (worse..worse + better).contains(&draw), true, *labelled);
                    self.carry_out();
                    self.invariants();
                }
            }
            Happening::NotFinite => self.sample(false, false, false, false),
            Happening::Hours(hours) => {
                self.now += u64::from(*hours) * 3_600;
                self.step(Event::Tick(Timestamp(0)));
            }
            Happening::Restart => {
                let bytes = serde_json::to_vec(&self.rollout).unwrap();
                let back: Rollout = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(back, self.rollout, "a restart changes nothing");
                assert_eq!(back.orders(), self.rollout.orders(), "its orders are repeated");
                self.rollout = back;
            }
        }
        self.carry_out();
        self.invariants();
    }

    fn invariants(&self) {
        self.invariant_rejected_models_never_serve();
        self.invariant_a_canary_always_has_a_deadline();
        self.invariant_one_champion_exactly();
        self.invariant_no_promotion_without_evidence_on_record();
        self.invariant_state_is_bounded();
    }

    fn invariant_rejected_models_never_serve(&self) {
        let orders = self.rollout.orders();
        assert!(!self.rejected.contains(&self.champion), "a rejected model is champion");
        for served in orders.route.map(|route| route.challenger).into_iter().chain(orders.promote) {
            assert!(!self.rejected.contains(&served), "a rejected model serves");
        }
    }

    fn invariant_a_canary_always_has_a_deadline(&self) {
        if self.rollout.candidate().is_some() {
            let deadline = self.rollout.deadline().expect("whoever is on the way has a deadline");
            let longest = self.settings.longest().max(self.settings.ab()).max(Duration::from_hours(2));
            assert!(deadline <= self.at().plus(longest + self.settings.ab()), "{deadline:?} at {:?}", self.at());
        }
    }

    fn invariant_one_champion_exactly(&self) {
        let orders = self.rollout.orders();
        assert_eq!((orders.promote, orders.regret), (None, false), "what was decided is carried out");
        assert_ne!(orders.compare, Some(self.champion), "the champion is not its own rival");
        assert_ne!(orders.route.map(|route| route.challenger), Some(self.champion));
        assert!(orders.route.is_none_or(|route| Some(route.challenger) == orders.compare), "who serves is compared");
    }

    fn invariant_no_promotion_without_evidence_on_record(&self) {
        for promoted in &self.promoted {
            assert!(self.judged.contains(promoted), "promoted without the gate's verdict");
            assert!(self.won.contains(promoted), "promoted without a trial's evidence");
        }
    }

    fn invariant_state_is_bounded(&self) {
        let open = self.rollout.label_requests(&self.settings).count();
        assert!(open <= crate::decide::evidence::WAITING_MAX, "{open} labels are asked for");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_happens_the_invariants_hold(settings in settings(), story in prop::collection::vec(happening(), 1..40)) {
        let mut device = Device::new(settings);
        for happening in &story {
            device.happen(happening);
        }
    }

    /// A restart after every single event ends in the same state, reports included, as none at all.
    #[test]
    fn a_restart_at_any_event_changes_nothing(settings in settings(), story in prop::collection::vec(happening(), 1..20)) {
        let (mut one, mut other) = (Device::new(settings.clone()), Device::new(settings));
        for happening in &story {
            one.happen(happening);
            other.happen(happening);
            other.happen(&Happening::Restart);
            prop_assert_eq!(&one.rollout, &other.rollout);
            prop_assert_eq!(&one.promoted, &other.promoted);
            prop_assert_eq!(&one.rejected, &other.rejected);
        }
    }
}
