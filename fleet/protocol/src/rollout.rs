//! A model brought to a fleet in waves: what is retained of it, and the machine that advances it.
//!
//! ```text
//! each device   waiting ─► installing ─► promoting ─► proving ─► won
//!                              │             │          └─► rolled_back (it served, and another one serves again)
//!                              └─────────────┴──────────┴─► failed (the model's fault) | absent (it did not answer in time, or could not say)
//! the rollout   running ─► next wave … ─► finished
//!                 │  ▲ └ too few won, or a person: paused
//!                 │  └── a person: run
//!                 └ too many failed or were rolled back, or a person: stopped
//! ```
//! Plain data, advanced by what devices retain: whoever runs it may be killed, and another goes on from the retained state.
//! Winning is in the model's terms: it passed the gate of that device, still serves after the time of proof, and, if wanted,
//! nothing drifts there any more.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::Extra;
use crate::envelope::Envelope;
use crate::names::{DeviceId, Digest, Micros, Name};

/// When a wave has succeeded and when it has failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Share of a wave's devices on which the model must win before the next wave begins, 0 to 1.
    pub win_share: f64,
    /// Share of a wave's devices on which it may fail; beyond, everything stops.
    pub fail_share: f64,
    /// Share of a wave's devices on which a promoted model may be rolled back; beyond, everything stops.
    #[serde(default)]
    pub rollback_share: f64,
    /// Seconds a promoted model must hold on a device.
    pub prove_s: u32,
    /// Whether nothing may drift on a device at the end of that time.
    pub drift_cleared: bool,
    /// Seconds a device may take for its part before it counts as absent.
    pub deadline_s: u32,
}

/// The retained state of a rollout, with the commands that its starter signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Version of this payload.
    pub v: u32,
    /// Its name.
    pub id: Name,
    /// The bundle.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Its signature, which goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Envelope>,
    /// Rules.
    pub rules: Rules,
    /// Who goes when; the first wave is the canary device.
    pub waves: Vec<Vec<DeviceId>>,
    /// The wave under way.
    pub wave: usize,
    /// Whether it goes on.
    pub state: State,
    /// Since when.
    pub since: Micros,
    /// How each device stands.
    pub devices: BTreeMap<DeviceId, Member>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Whether a rollout goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It does.
    Running,
    /// It waits for a person.
    Paused {
        /// Why.
        reason: String,
    },
    /// It has ended before its time.
    Stopped {
        /// Why.
        reason: String,
    },
    /// Every wave has succeeded.
    Finished,
}

/// One device of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The command that brings the bundle.
    pub install: Ulid,
    /// The command that has it judged and served.
    pub promote: Ulid,
    /// Both, signed; each is let go once it is not needed any more.
    pub signed: Vec<Envelope>,
    /// How it stands.
    #[serde(flatten)]
    pub standing: Standing,
    /// Since when.
    pub since: Micros,
}

/// How a device stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Its wave has not begun.
    Waiting,
    /// The bundle is on its way.
    Installing,
    /// The device judges it.
    Promoting,
    /// It serves, and is watched.
    Proving {
        /// It was seen to serve.
        #[serde(default)]
        seen: bool,
    },
    /// It held.
    Won,
    /// It lost.
    Failed {
        /// Why.
        reason: String,
    },
    /// It served, and then another model served again.
    RolledBack,
    /// The device did not answer in time, or could not say: it is frozen, busy, or has too few labels to judge.
    Absent,
}

/// What a person wants of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// What.
    pub wish: WishKind,
    /// Since when; a rollout that paused later than that waits for another one.
    pub ts: Micros,
}

/// The wishes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WishKind {
    /// Go on.
    Run,
    /// Begin nothing new.
    Pause,
    /// End, and take back what has not begun.
    Stop,
}

/// What a device retains of its part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// How the install command ended: none yet, well, or with a reason.
    pub installed: Option<Result<(), String>>,
    /// How the promote command ended.
    pub promoted: Option<Result<(), String>>,
    /// Who serves.
    pub champion: Option<Digest>,
    /// Measures that drift.
    pub drifting: usize,
    /// It refused for a reason that says nothing of the model: it is frozen, busy, or has too few labels to judge.
    pub excused: bool,
}

/// What the runner has to publish. Repeating it is harmless: a device carries out each command once.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// This command, retained.
    Command(DeviceId, Ulid, Envelope),
    /// Nothing, retained: a command that is not to be carried out any more.
    Clear(DeviceId, Ulid),
}

impl Standing {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Won | Self::Failed { .. } | Self::RolledBack | Self::Absent)
    }
}

impl Member {
    fn advance(&mut self, facts: &Facts, digest: Digest, rules: &Rules, now: Micros) {
        let after = |seconds: u32| now.0 >= self.since.0.saturating_add(i64::from(seconds) * 1_000_000);
        let failed = |what: &str, reason: &str| Standing::Failed { reason: format!("{what}: {reason}") };
        let next = match &self.standing {
            Standing::Installing | Standing::Promoting if facts.excused => Standing::Absent,
            Standing::Waiting => Standing::Installing,
            Standing::Installing => match &facts.installed {
                Some(Ok(())) => Standing::Promoting,
                Some(Err(reason)) => failed("install", reason),
                None if after(rules.deadline_s) => Standing::Absent,
                None => return,
            },
            Standing::Promoting => match &facts.promoted {
                Some(Ok(())) => Standing::Proving { seen: facts.champion == Some(digest) },
                Some(Err(reason)) => failed("promote", reason),
                None if after(rules.deadline_s) => Standing::Absent,
                None => return,
            },
            // At once: every wave that follows would be rolled back too.
            Standing::Proving { seen: true } if facts.champion.is_some_and(|champion| champion != digest) => {
                Standing::RolledBack
            }
            Standing::Proving { seen } if !after(rules.prove_s) => {
                // The report of the promotion may come before that of the new champion: judged at the end.
                self.standing = Standing::Proving { seen: *seen || facts.champion == Some(digest) };
                return;
            }
            Standing::Proving { .. } if facts.champion != Some(digest) => failed("proof", "another model serves"),
            Standing::Proving { .. } if rules.drift_cleared && facts.drifting > 0 => {
                failed("proof", &format!("{} measures drift", facts.drifting))
            }
            Standing::Proving { .. } => Standing::Won,
            Standing::Won | Standing::Failed { .. } | Standing::RolledBack | Standing::Absent => return,
        };
        let needed = match next {
            Standing::Waiting | Standing::Installing => 0,
            Standing::Promoting => 1,
            Standing::Proving { .. }
            | Standing::Won
            | Standing::Failed { .. }
            | Standing::RolledBack
            | Standing::Absent => self.signed.len(),
        };
        self.signed.drain(..needed.min(self.signed.len()));
        (self.standing, self.since) = (next, now);
    }
}

impl Rollout {
    /// Advances by what devices retain and what a person wants; `facts` holds nothing for a device that says nothing.
    #[must_use]
    pub fn step(mut self, facts: &BTreeMap<DeviceId, Facts>, wish: Option<Wish>, now: Micros) -> Self {
        match (wish.map(|wish| wish.wish), &self.state) {
            (Some(WishKind::Stop), State::Running | State::Paused { .. }) => {
                return self.to(State::Stopped { reason: "by a person".to_owned() }, now);
            }
            (Some(WishKind::Pause), State::Running) => {
                return self.to(State::Paused { reason: "by a person".to_owned() }, now);
            }
            (Some(WishKind::Run), State::Paused { .. }) if wish.is_some_and(|wish| wish.ts > self.since) => {
                if self.wave_has_ended() {
                    self.wave += 1;
                }
                self = self.to(State::Running, now);
            }
            _ => {}
        }
        if matches!(self.state, State::Stopped { .. } | State::Finished) {
            return self;
        }
        // A pause begins nothing new; what has begun is followed to its end.
        let paused = matches!(self.state, State::Paused { .. });
        let nothing = Facts::default();
        let Some(wave) = self.waves.get(self.wave).cloned() else { return self.to(State::Finished, now) };
        for device in &wave {
            let Some(member) = self.devices.get_mut(device) else { continue };
            if !(paused && member.standing == Standing::Waiting) {
                member.advance(facts.get(device).unwrap_or(&nothing), self.digest, &self.rules, now);
            }
        }
        self.judge(wave.len(), paused, now)
    }

    fn judge(mut self, size: usize, paused: bool, now: Micros) -> Self {
        let failed = self.count(|standing| matches!(standing, Standing::Failed { .. }));
        if failed as f64 > self.rules.fail_share * size as f64 {
            let reason = format!("{failed} of {size} devices of wave {} failed", self.wave + 1);
            return self.to(State::Stopped { reason }, now);
        }
        let rolled_back = self.count(|standing| *standing == Standing::RolledBack);
        if rolled_back as f64 > self.rules.rollback_share * size as f64 {
            let reason = format!("{rolled_back} of {size} devices of wave {} rolled it back", self.wave + 1);
            return self.to(State::Stopped { reason }, now);
        }
        if paused || !self.wave_has_ended() {
            return self;
        }
        let won = self.count(|standing| *standing == Standing::Won);
        if (won as f64) < self.rules.win_share * size as f64 {
            let reason = format!("the model won on {won} of {size} devices of wave {} only", self.wave + 1);
            return self.to(State::Paused { reason }, now);
        }
        self.wave += 1;
        if self.wave >= self.waves.len() { self.to(State::Finished, now) } else { self }
    }

    fn to(mut self, state: State, now: Micros) -> Self {
        (self.state, self.since) = (state, now);
        self
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.waves.get(self.wave).into_iter().flatten().filter_map(|device| self.devices.get(device))
    }

    fn count(&self, wanted: impl Fn(&Standing) -> bool) -> usize {
        self.members().filter(|member| wanted(&member.standing)).count()
    }

    fn wave_has_ended(&self) -> bool {
        self.members().all(|member| member.standing.is_final())
    }

    /// What must stand at the broker in this state.
    #[must_use]
    pub fn orders(&self) -> Vec<Order> {
        let stopped = matches!(self.state, State::Stopped { .. });
        let order = |(device, member): (&DeviceId, &Member)| {
            let id = match member.standing {
                Standing::Installing => member.install,
                Standing::Promoting => member.promote,
                Standing::Waiting
                | Standing::Proving { .. }
                | Standing::Won
                | Standing::Failed { .. }
                | Standing::RolledBack
                | Standing::Absent => {
                    return None;
                }
            };
            if stopped {
                return Some(Order::Clear(device.clone(), id));
            }
            Some(Order::Command(device.clone(), id, member.signed.first()?.clone()))
        };
        self.devices.iter().filter_map(order).collect()
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.state, State::Stopped { .. } | State::Finished)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use ed25519_dalek::SigningKey;
    use expect_test::{Expect, expect, expect_file};
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::Kind;

    fn rollout(waves: &[&[&str]]) -> Rollout {
        let key = SigningKey::from_bytes(&[1; 32]);
        let waves: Vec<Vec<DeviceId>> =
            waves.iter().map(|wave| wave.iter().map(|device| device.parse().unwrap()).collect()).collect();
        let member = |(number, device): (u128, &DeviceId)| {
            let member = Member {
                install: Ulid::from(2 * number),
                promote: Ulid::from(2 * number + 1),
                signed: vec![Envelope::sign(Kind::Command, b"{}", &[&key]); 2],
                standing: Standing::Waiting,
                since: Micros(0),
            };
            (device.clone(), member)
        };
        let devices = (1..).zip(waves.iter().flatten()).map(member).collect();
        let rules = Rules {
            win_share: 0.5,
            fail_share: 0.34,
            rollback_share: 0.25,
            prove_s: 60,
            drift_cleared: true,
            deadline_s: 600,
        };
        Rollout {
            v: 1,
            id: "autumn".parse().unwrap(),
            digest: Digest::of(b"new"),
            size_bytes: 10,
            signature: None,
            rules,
            waves,
            wave: 0,
            state: State::Running,
            since: Micros(0),
            devices,
            extra: Extra::new(),
        }
    }

    fn won() -> Facts {
        let champion = Some(Digest::of(b"new"));
        Facts { installed: Some(Ok(())), promoted: Some(Ok(())), champion, ..Facts::default() }
    }

    fn lost() -> Facts {
        Facts { promoted: Some(Err("gate_failed".to_owned())), ..won() }
    }

    #[test]
    fn what_is_retained_of_a_rollout_and_what_is_wanted_of_it_are_the_golden_ones() {
        let mut rollout = rollout(&[&["press-1"], &["press-2", "press-3"]]);
        rollout.signature = rollout.devices.values().next().map(|member| member.signed[0].clone());
        let standings = [
            Standing::Proving { seen: true },
            Standing::Failed { reason: "promote: gate_failed: no gain".to_owned() },
            Standing::RolledBack,
        ];
        rollout.devices.values_mut().zip(standings).for_each(|(member, standing)| member.standing = standing);
        let mut golden = String::new();
        for state in [State::Running, State::Paused { reason: "by a person".to_owned() }, State::Finished] {
            let whole = Rollout { state, ..rollout.clone() };
            let line = serde_json::to_string(&whole).unwrap();
            assert_eq!(serde_json::from_str::<Rollout>(&line).unwrap(), whole);
            golden = golden + &line + "\n";
        }
        for wish in [WishKind::Run, WishKind::Pause, WishKind::Stop] {
            let line = serde_json::to_string(&Wish { wish, ts: Micros(5) }).unwrap();
            golden = golden + &line + "\n";
        }
        let progress = crate::transfer::Progress { have: 2, chunks: 4, want: vec![[1, 1], [3, 4]] };
        golden = golden + &serde_json::to_string(&progress).unwrap() + "\n";
        expect_file!["../golden/waves.jsonl"].assert_eq(&golden);
    }

    type Moment<'a> = (i64, &'a [(&'a str, Facts)], Option<(WishKind, i64)>);

    /// Seconds, what devices say, what a person wants; the machine is stored and read back between all of them.
    fn check(mut rollout: Rollout, story: &[Moment], expected: &Expect) {
        let mut told = String::new();
        for (second, facts, wish) in story {
            let facts = facts.iter().map(|(device, facts)| (device.parse().unwrap(), facts.clone())).collect();
            let wish = wish.map(|(wish, second)| Wish { wish, ts: Micros(second * 1_000_000) });
            rollout = rollout.step(&facts, wish, Micros(second * 1_000_000));
            rollout = serde_json::from_str(&serde_json::to_string(&rollout).unwrap()).unwrap();
            let word = |standing: &Standing| serde_json::to_value(standing).unwrap()["standing"].to_string();
            let members: Vec<_> = rollout.devices.values().map(|member| word(&member.standing)).collect();
            let state = match &rollout.state {
                State::Paused { reason } | State::Stopped { reason } => {
                    format!("{:?}: {reason}", rollout.state).split(' ').next().unwrap().to_owned() + " " + reason
                }
                State::Running | State::Finished => format!("{:?}", rollout.state),
            };
            let _ = writeln!(
                told,
                "@{second} wave {} {state}: {} ({} orders)",
                rollout.wave,
                members.join(" ").replace('"', ""),
                rollout.orders().len()
            );
        }
        expected.assert_eq(&told);
    }

    #[test]
    fn the_canary_device_goes_first_and_the_next_wave_follows_only_when_it_has_proved_itself() {
        check(
            rollout(&[&["a"], &["b", "c"]]),
            &[
                (0, &[], None),
                (1, &[("a", Facts { installed: Some(Ok(())), ..Facts::default() })], None),
                (2, &[("a", won())], None),
                (61, &[("a", won())], None),
                (62, &[("a", won())], None),
                (63, &[("a", won())], None),
                (64, &[("b", won()), ("c", won())], None),
                (65, &[("b", won()), ("c", won())], None),
                (125, &[("b", won()), ("c", won())], None),
            ],
            &expect![[r#"
                @0 wave 0 Running: installing waiting waiting (1 orders)
                @1 wave 0 Running: promoting waiting waiting (1 orders)
                @2 wave 0 Running: proving waiting waiting (0 orders)
                @61 wave 0 Running: proving waiting waiting (0 orders)
                @62 wave 1 Running: won waiting waiting (0 orders)
                @63 wave 1 Running: won installing installing (2 orders)
                @64 wave 1 Running: won promoting promoting (2 orders)
                @65 wave 1 Running: won proving proving (0 orders)
                @125 wave 2 Finished: won won won (0 orders)
            "#]],
        );
    }

    #[test]
    fn a_model_that_loses_on_the_canary_device_never_reaches_another() {
        check(
            rollout(&[&["a"], &["b", "c"]]),
            &[
                (0, &[], None),
                (1, &[("a", lost())], None),
                (2, &[("a", lost())], None),
                (3, &[("a", won())], Some((WishKind::Run, 3))),
            ],
            &expect![[r#"
                @0 wave 0 Running: installing waiting waiting (1 orders)
                @1 wave 0 Running: promoting waiting waiting (1 orders)
                @2 wave 0 Stopped 1 of 1 devices of wave 1 failed: failed waiting waiting (0 orders)
                @3 wave 0 Stopped 1 of 1 devices of wave 1 failed: failed waiting waiting (0 orders)
            "#]],
        );
    }

    #[test]
    fn drift_that_stays_and_a_champion_that_is_gone_are_defeats_and_silence_is_absence() {
        let drifting = Facts { drifting: 2, ..won() };
        let replaced = Facts { champion: Some(Digest::of(b"old")), ..won() };
        check(
            Rollout { rules: Rules { fail_share: 1.0, ..rollout(&[]).rules }, ..rollout(&[&["a", "b", "c", "d"]]) },
            &[
                (0, &[], None),
                (1, &[("a", drifting.clone()), ("b", replaced.clone()), ("c", won())], None),
                (2, &[("a", drifting.clone()), ("b", replaced.clone()), ("c", won())], None),
                (70, &[("a", drifting), ("b", replaced), ("c", won())], None),
                (600, &[], None),
                (700, &[], Some((WishKind::Run, 700))),
            ],
            &expect![[r#"
                @0 wave 0 Running: installing installing installing installing (4 orders)
                @1 wave 0 Running: promoting promoting promoting installing (4 orders)
                @2 wave 0 Running: proving proving proving installing (1 orders)
                @70 wave 0 Running: failed failed won installing (1 orders)
                @600 wave 0 Paused the model won on 1 of 4 devices of wave 1 only: failed failed won absent (0 orders)
                @700 wave 1 Finished: failed failed won absent (0 orders)
            "#]],
        );
    }

    #[test]
    fn a_model_that_was_seen_to_serve_and_is_gone_was_rolled_back_and_too_many_of_these_stop_everything() {
        let back = || Facts { champion: Some(Digest::of(b"old")), ..won() };
        let four: &[&[&str]] = &[&["a", "b", "c", "d"]];
        let all = [("a", won()), ("b", won()), ("c", won()), ("d", won())];
        let one = [("a", back()), ("b", won()), ("c", won()), ("d", won())];
        let two = [("a", back()), ("b", back()), ("c", won()), ("d", won())];
        check(
            rollout(four),
            &[(0, &[], None), (1, &all, None), (2, &all, None), (3, &all, None), (4, &one, None), (5, &two, None)],
            &expect![[r#"
                @0 wave 0 Running: installing installing installing installing (4 orders)
                @1 wave 0 Running: promoting promoting promoting promoting (4 orders)
                @2 wave 0 Running: proving proving proving proving (0 orders)
                @3 wave 0 Running: proving proving proving proving (0 orders)
                @4 wave 0 Running: rolled_back proving proving proving (0 orders)
                @5 wave 0 Stopped 2 of 4 devices of wave 1 rolled it back: rolled_back rolled_back proving proving (0 orders)
            "#]],
        );
    }

    #[test]
    fn a_frozen_device_says_nothing_of_the_model_and_the_wave_waits_for_a_person() {
        let frozen = || Facts { promoted: Some(Err("frozen".to_owned())), excused: true, ..won() };
        check(
            rollout(&[&["a"], &["b"]]),
            &[(0, &[], None), (1, &[("a", frozen())], None)],
            &expect![[r#"
                @0 wave 0 Running: installing waiting (1 orders)
                @1 wave 0 Paused the model won on 0 of 1 devices of wave 1 only: absent waiting (0 orders)
            "#]],
        );
    }

    #[test]
    fn a_person_pauses_resumes_and_stops_and_a_stop_takes_back_what_has_not_begun() {
        check(
            rollout(&[&["a"], &["b"]]),
            &[
                (0, &[], None),
                (1, &[("a", won())], Some((WishKind::Pause, 1))),
                (2, &[("a", won())], Some((WishKind::Pause, 1))),
                (3, &[("a", won())], Some((WishKind::Run, 3))),
                (64, &[("a", won())], Some((WishKind::Run, 3))),
                (65, &[], None),
                (66, &[], Some((WishKind::Stop, 66))),
                (67, &[], Some((WishKind::Run, 67))),
            ],
            &expect![[r#"
                @0 wave 0 Running: installing waiting (1 orders)
                @1 wave 0 Paused by a person: installing waiting (1 orders)
                @2 wave 0 Paused by a person: promoting waiting (1 orders)
                @3 wave 0 Running: proving waiting (0 orders)
                @64 wave 1 Running: won waiting (0 orders)
                @65 wave 1 Running: won installing (1 orders)
                @66 wave 1 Stopped by a person: won installing (1 orders)
                @67 wave 1 Stopped by a person: won installing (1 orders)
            "#]],
        );
    }

    proptest! {
        #[test]
        fn no_wave_begins_before_the_one_ahead_has_won_whatever_devices_say(
            said in prop::collection::vec((0..3_usize, 0..4_u8, 1..100_i64), 1..80)
        ) {
            let mut rollout = rollout(&[&["a"], &["b"], &["c"]]);
            let (mut facts, mut now) = (BTreeMap::new(), 0);
            for (device, fact, seconds) in said {
                now += seconds * 1_000_000;
                let fact = match fact { 0 => won(), 1 => lost(), 2 => Facts { drifting: 1, ..won() }, _ => Facts::default() };
                facts.insert(["a", "b", "c"][device].parse().unwrap(), fact);
                rollout = rollout.step(&facts, None, Micros(now));
                let begun = |device: &str| rollout.devices[&device.parse::<DeviceId>().unwrap()].standing != Standing::Waiting;
                let has_won = |device: &str| rollout.devices[&device.parse::<DeviceId>().unwrap()].standing == Standing::Won;
                prop_assert!((!begun("b") || has_won("a")) && (!begun("c") || has_won("b")));
            }
        }
    }
}
