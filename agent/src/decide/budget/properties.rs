//! The budgets as stories, and what must hold of them whatever happens.
use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

/// 2026-11-21T00:00:00Z.
const MIDNIGHT: i64 = 1_795_219_200_000_000;
const JOB: Job = Job {
    memory_bytes: 30_000_000,
    memory_bytes_per_row: 200_000,
    micro_batch_rows: 64,
    cpu_s: 10.0,
    joules: 20.0,
    write_bytes: 1_000_000,
};

fn wall(seconds: u64) -> Timestamp {
    Timestamp(MIDNIGHT + i64::try_from(seconds).unwrap() * 1_000_000)
}

fn up(seconds: u64) -> Uptime {
    Uptime(Duration::from_secs(seconds))
}

/// A gateway after one look, `seconds` after midnight.
fn looked(readings: &Readings, seconds: u64, settings: &BudgetSettings) -> Budget {
    Budget::new(settings, up(0), wall(0)).step(readings, up(seconds), wall(seconds), settings)
}

fn refusal(readings: &Readings, job: &Job, settings: &BudgetSettings) -> Refusal {
    looked(readings, 100, settings).ask(job, settings).1.expect_err("it is refused")
}

#[expect(clippy::needless_pass_by_value, reason = "expectations are written in place")]
fn check(refusal: &Refusal, expected: Expect) {
    let Refusal { code, sentence, try_again, also } = refusal;
    expected.assert_eq(&format!("{code:?} {try_again:?} {also:?}\n{sentence}\n"));
}

fn zone(celsius: f64, trip_c: Option<f64>) -> Readings {
    Readings { zones: vec![Zone { name: "cpu-thermal".to_owned(), celsius, trip_c }], ..Readings::default() }
}

#[test]
fn a_gateway_without_any_sensor_may_train_within_its_settings() {
    let settings = BudgetSettings::default();
    let (_, answer, starved) = looked(&Readings::default(), 1, &settings).ask(&JOB, &settings);
    let expected = Allowance { memory_bytes: 64 << 20, duty: 0.25, micro_batch_rows: 64, deadline_s: 3_600 };
    assert_eq!((answer, starved), (Ok(expected), None));
}

#[test]
fn memory_shrinks_the_micro_batch_before_it_refuses_and_names_whose_limit_it_is() {
    let settings = BudgetSettings::default();
    let memory = |free: u64| Memory { cgroup_free_bytes: Some(free + (32 << 20)), ..Memory::default() };
    let with = |free: u64| Readings { memory: memory(free), ..Readings::default() };
    let allowed = |free| looked(&with(free), 1, &settings).ask(&JOB, &settings).1.map(|given| given.micro_batch_rows);
    // 1.2 times 30 MB, 23.6 MB and 20.4 MB.
    assert_eq!((allowed(36_000_000), allowed(35_999_999)), (Ok(64), Ok(32)));
    assert_eq!((allowed(28_320_000), allowed(28_319_999)), (Ok(32), Ok(16)));
    let parts = |free| looked(&with(free), 1, &settings).ask(&JOB, &settings).1.map(|given| given.parts(&JOB));
    assert_eq!(
        (parts(36_000_000), parts(35_999_999), parts(28_319_999)),
        (Ok(0), Ok(32), Ok(16)),
        "whole batches where they fit"
    );
    check(
        &refusal(&with(20_000_000), &JOB, &settings),
        expect![[r#"
        Memory After(Uptime(160s)) []
        training needs at least 20.9 MB of memory (a fifth to spare included), the agent's cgroup leaves 20.0 MB
    "#]],
    );
    let large = Job { memory_bytes: 100_000_000, memory_bytes_per_row: 0, ..JOB };
    check(
        &refusal(&Readings::default(), &large, &settings),
        expect![[r#"
        Memory WhenChanged []
        training needs at least 120.0 MB of memory (a fifth to spare included), the budget (`memory_bytes`) leaves 67.1 MB
    "#]],
    );
}

#[test]
fn energy_is_saved_up_reserved_at_the_start_and_settled_at_the_end() {
    let settings = BudgetSettings::default();
    let large = Job { joules: 120.0, ..JOB };
    let (budget, answer, _) = looked(&Readings::default(), 100, &settings).ask(&large, &settings);
    let given = answer.unwrap();
    let budget = budget.began(&large);
    assert!((budget.stocks().0 - 80.0).abs() < 1e-9);
    let pace = |joules| budget.pace(&given, &Spent { joules, ..Spent::default() }, &settings);
    assert!(pace(130.0).is_ok());
    check(
        &pace(151.0).unwrap_err(),
        expect![[r#"
        EnergyPerRetrain WhenChanged []
        this training has taken 151.0 J, one retrain may take 150.0 J
    "#]],
    );
    let budget = budget.ended(&Spent { joules: 100.0, ..Spent::default() }, &settings).attempted(7, 100.0);
    assert!((budget.stocks().0 - 100.0).abs() < 1e-9);
    // A retrain that was suspended does not begin at zero again; another one does.
    let again = |retrain, joules| {
        let joules_before = budget.taken_before(retrain);
        budget.pace(&given, &Spent { joules, joules_before, ..Spent::default() }, &settings)
    };
    assert_eq!(again(7, 51.0).unwrap_err().code, Code::EnergyPerRetrain);
    assert!(again(7, 49.0).is_ok() && again(8, 51.0).is_ok());
    assert_eq!(budget.clone().attempted(7, 20.0).taken_before(7).to_bits(), 120.0_f64.to_bits());
    let (budget, answer, _) = budget.ask(&large, &settings);
    check(
        &answer.unwrap_err(),
        expect![[r#"
        EnergyPerHour After(Uptime(1900s)) []
        training would take 120.0 J and 5.0 J stay reserved, 100.0 J are left of 50.0 J per hour (at most 200.0 J are saved up)
    "#]],
    );
    let budget = budget.step(&Readings::default(), up(1_901), wall(1_901), &settings);
    assert!(budget.ask(&large, &settings).1.is_ok());
    let huge = Job { joules: 151.0, ..JOB };
    check(
        &refusal(&Readings::default(), &huge, &settings),
        expect![[r#"
        EnergyPerRetrain WhenChanged []
        training would take 151.0 J, one retrain may take 150.0 J
    "#]],
    );
}

#[test]
fn a_day_of_flash_is_a_day_of_flash() {
    let settings = BudgetSettings { flash_bytes_per_day: 10_000_000, ..BudgetSettings::default() };
    let job = Job { write_bytes: 6_000_000, ..JOB };
    let budget = looked(&Readings::default(), 100, &settings).began(&job);
    let budget = budget.ended(&Spent { write_bytes: 6_000_000, ..Spent::default() }, &settings);
    check(
        &budget.ask(&job, &settings).1.unwrap_err(),
        expect![[r#"
        Flash After(Uptime(17380s)) []
        training would write 6.0 MB, 4.0 MB are left of 10.0 MB per day
    "#]],
    );
    let never = Job { write_bytes: 10_000_001, ..JOB };
    assert_eq!(refusal(&Readings::default(), &never, &settings).try_again, TryAgain::WhenChanged);
}

#[test]
fn heat_refuses_a_start_slows_a_training_and_suspends_it_near_the_trip_point() {
    let settings = BudgetSettings::default();
    check(
        &refusal(&zone(66.0, Some(70.0)), &JOB, &settings),
        expect![[r#"
        Heat After(Uptime(160s)) []
        cpu-thermal has 66.0 °C, training starts up to 65.0 °C
    "#]],
    );
    let (budget, answer, _) = looked(&zone(60.0, None), 100, &settings).ask(&JOB, &settings);
    let given = answer.unwrap();
    let budget = budget.began(&JOB).step(&zone(76.0, None), up(102), wall(102), &settings);
    let slower = budget.pace(&given, &Spent::default(), &settings).unwrap();
    assert!((slower.duty - 0.125).abs() < 1e-12);
    let budget = budget.step(&zone(79.5, None), up(104), wall(104), &settings);
    check(
        &budget.pace(&given, &Spent::default(), &settings).unwrap_err(),
        expect![[r#"
        Heat After(Uptime(164s)) []
        it was too hot: cpu-thermal has 79.5 °C, training goes on after a minute below 68.0 °C
    "#]],
    );
}

#[test]
fn power_refuses_above_its_limit_and_only_where_it_is_measured() {
    let settings = BudgetSettings { power_w_max: Some(5.0), ..BudgetSettings::default() };
    let drawing = |watts| Readings { power_w: Some(watts), ..Readings::default() };
    check(
        &refusal(&drawing(5.5), &JOB, &settings),
        expect![[r#"
        Power After(Uptime(160s)) []
        the board draws 5.50 W, training starts up to 5.00 W
    "#]],
    );
    assert!(looked(&Readings::default(), 100, &settings).ask(&JOB, &settings).1.is_ok());
    assert!(looked(&drawing(50.0), 100, &BudgetSettings::default()).ask(&JOB, &BudgetSettings::default()).1.is_ok());
}

#[test]
fn a_battery_that_feeds_the_gateway_decides_by_its_charge() {
    let on = |discharging, percent| Readings { battery: Some(Battery { discharging, percent }), ..Readings::default() };
    let allowed = |rule: &str, readings: &Readings| {
        let settings = BudgetSettings { on_battery: rule.parse().unwrap(), ..BudgetSettings::default() };
        looked(readings, 100, &settings).ask(&JOB, &settings).1.is_ok()
    };
    assert!(allowed("never", &on(false, Some(3.0))), "mains feed it while the battery charges");
    assert!(!allowed("never", &on(true, Some(99.0))) && allowed("always", &on(true, Some(1.0))));
    assert!(allowed("above:60", &on(true, Some(61.0))) && !allowed("above:60", &on(true, Some(60.0))));
    check(
        &refusal(&on(true, None), &JOB, &BudgetSettings::default()),
        expect![[r#"
        Battery After(Uptime(160s)) []
        the gateway runs on battery, its charge is unknown, and training needs more than 60 %
    "#]],
    );
}

#[test]
fn hours_refuse_until_they_begin_bound_the_deadline_and_need_a_clock() {
    let settings =
        BudgetSettings { hours: "22:00-06:00".parse().unwrap(), utc_offset_min: 60, ..BudgetSettings::default() };
    // 04:30 UTC is 05:30 local.
    let given = looked(&Readings::default(), 4 * 3_600 + 1_800, &settings).ask(&JOB, &settings).1.unwrap();
    assert_eq!(given.deadline_s, 1_800);
    let budget = looked(&Readings::default(), 5 * 3_600, &settings);
    let refused = budget.clone().ask(&JOB, &settings).1.unwrap_err();
    assert_eq!((refused.code, refused.try_again), (Code::Hours, TryAgain::At(wall(21 * 3_600))));
    assert_eq!(refused.try_again.after(up(7), wall(20 * 3_600)), Some(up(7 + 3_600)));
    let given = Allowance { memory_bytes: 1, duty: 0.1, micro_batch_rows: 1, deadline_s: 100 };
    assert_eq!(budget.pace(&given, &Spent::default(), &settings).unwrap_err().code, Code::Hours);
    let woken = Timestamp(3_600_000_000);
    let budget = Budget::new(&settings, up(0), woken).step(&Readings::default(), up(1), woken, &settings);
    check(
        &budget.ask(&JOB, &settings).1.unwrap_err(),
        expect![[r#"
        ClockUnknown After(Uptime(61s)) []
        training is allowed at 22:00-06:00 only, and the clock has not been set yet
    "#]],
    );
}

#[test]
fn others_suspend_a_training_until_they_have_been_quiet_and_idle_only_waits_longer() {
    let settings = BudgetSettings::default();
    let others = |share| Readings { cpu_others: Some(share), ..Readings::default() };
    let budget = looked(&others(0.7), 100, &settings);
    check(
        &budget.clone().ask(&JOB, &settings).1.unwrap_err(),
        expect![[r#"
        CpuBusy After(Uptime(160s)) []
        others take 70 % of the CPU, training yields above 50 %
    "#]],
    );
    let budget = budget.step(&others(0.1), up(105), wall(105), &settings);
    assert_eq!(budget.clone().ask(&JOB, &settings).1.unwrap_err().try_again, TryAgain::After(up(110)));
    assert!(budget.step(&others(0.1), up(110), wall(110), &settings).ask(&JOB, &settings).1.is_ok());
    let pressed = Readings { memory_pressure_percent: Some(20.0), io_pressure_percent: Some(90.0), ..others(0.0) };
    assert_eq!(refusal(&pressed, &JOB, &settings).code, Code::MemoryPressure);
    let idle = BudgetSettings { idle_s: 180, ..BudgetSettings::default() };
    check(
        &refusal(&others(0.05), &JOB, &idle),
        expect![[r#"
        NotIdle After(Uptime(180s)) []
        others have left the CPU alone for 100 s, training waits for 180 s of it
    "#]],
    );
    assert!(looked(&others(0.05), 180, &idle).ask(&JOB, &idle).1.is_ok());
}

#[test]
fn the_refusal_that_lasts_longest_speaks_and_the_others_are_named() {
    let settings = BudgetSettings { hours: "22:00-06:00".parse().unwrap(), ..BudgetSettings::default() };
    let readings = Readings { cpu_others: Some(0.9), ..zone(90.0, None) };
    let refused = looked(&readings, 12 * 3_600, &settings).ask(&JOB, &settings).1.unwrap_err();
    assert_eq!((refused.code, refused.also), (Code::Hours, vec![Code::Heat, Code::CpuBusy]));
}

#[test]
fn a_job_that_is_refused_for_days_is_reported_once_per_span_and_stays_refused() {
    let settings = BudgetSettings { starved_after_s: 1_000, ..BudgetSettings::default() };
    let battery = Some(Battery { discharging: true, percent: Some(10.0) });
    let readings = Readings { battery, ..Readings::default() };
    let mut budget = looked(&readings, 0, &settings);
    let mut told = Vec::new();
    for second in (0..=2_500).step_by(50) {
        budget = budget.step(&readings, up(second), wall(second), &settings);
        let (next, answer, starved) = budget.ask(&JOB, &settings);
        assert!(answer.is_err());
        told.extend(starved.map(|starved| starved.waited_s));
        budget = next;
        // A restart in between: running time may start over, waiting does not.
        let text = serde_json::to_string(&budget).unwrap();
        assert_eq!(serde_json::from_str::<Budget>(&text).unwrap(), budget);
    }
    assert_eq!(told, [1_000, 2_000]);
    assert_eq!(budget.withdrawn().waited(), None);
}

#[test]
fn a_training_is_stopped_at_its_deadline() {
    let settings = BudgetSettings::default();
    let (budget, answer, _) = looked(&Readings::default(), 100, &settings).ask(&JOB, &settings);
    let given = answer.unwrap();
    let spent = |wall_s| Spent { wall_s, ..Spent::default() };
    assert_eq!(budget.pace(&given, &spent(3_000.0), &settings).unwrap().deadline_s, 600);
    assert_eq!(budget.pace(&given, &spent(3_600.0), &settings).unwrap_err().code, Code::Deadline);
}

/// One thing that may happen to a budget.
#[derive(Clone, Debug)]
enum Happens {
    Look { seconds: u64, celsius: f64, others: f64 },
    Asks { joules: f64, write_bytes: u64 },
    Ends { joules: f64, write_bytes: u64 },
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0_u64..20_000, 20.0..120.0, 0.0..1.0)
            .prop_map(|(seconds, celsius, others)| Happens::Look { seconds, celsius, others }),
        3 => (0.0..300.0, 0_u64..100_000_000).prop_map(|(joules, write_bytes)| Happens::Asks { joules, write_bytes }),
        2 => (0.0..150.0, 0_u64..100_000_000).prop_map(|(joules, write_bytes)| Happens::Ends { joules, write_bytes }),
        1 => Just(Happens::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Stocks never exceed their capacity, duty stays within its bounds, nothing starts at a forbidden hour, no more is
    /// handed out than was there, and a restart changes nothing but the running time.
    #[test]
    fn budgets_hold_whatever_happens(story in proptest::collection::vec(happens(), 1..80)) {
        let settings = BudgetSettings { hours: "22:00-06:00".parse().unwrap(), ..BudgetSettings::default() };
        let (mut running, mut clock) = (0_u64, 0_u64);
        let mut budget = Budget::new(&settings, up(0), wall(0));
        let mut admitted = 0.0;
        let mut under_way: Option<Job> = None;
        for event in story {
            match event {
                Happens::Look { seconds, celsius, others } => {
                    (running, clock) = (running + seconds, clock + seconds);
                    let readings = Readings { cpu_others: Some(others), ..zone(celsius, Some(95.0)) };
                    budget = budget.step(&readings, up(running), wall(clock), &settings);
                    let duty = budget.duty(&settings);
                    prop_assert!((settings.cpu_share / 16.0 - 1e-12..=settings.cpu_share).contains(&duty), "{}", duty);
                }
                Happens::Asks { joules, write_bytes } => {
                    let job = Job { joules, write_bytes, ..JOB };
                    let before = budget.stocks();
                    let (next, answer, _) = budget.ask(&job, &settings);
                    budget = next;
                    if answer.is_ok() && under_way.is_none() {
                        let hour = clock / 3_600 % 24;
                        prop_assert!(!(6..22).contains(&hour), "started at {} h", hour);
                        prop_assert!(joules <= settings.energy_j_per_retrain && joules <= before.0);
                        prop_assert!(bytes(write_bytes) <= before.1);
                        admitted += joules;
                        prop_assert!(admitted <= settings.energy_j_stored + settings.energy_j_per_hour * clock as f64 / 3_600.0 + 1e-6);
                        budget = budget.began(&job);
                        under_way = Some(job);
                    }
                }
                Happens::Ends { joules, write_bytes } => {
                    if let Some(job) = under_way.take() {
                        admitted += joules - job.joules;
                        budget = budget.ended(&Spent { joules, write_bytes, wall_s: 1.0, ..Spent::default() }, &settings);
                    }
                }
                Happens::Restart => {
                    let text = serde_json::to_string(&budget).unwrap();
                    let restored: Budget = serde_json::from_str(&text).unwrap();
                    prop_assert_eq!(&restored, &budget);
                    running = 0;
                    let again = restored.clone().step(restored.readings(), up(0), wall(clock), &settings);
                    prop_assert_eq!(again.stocks(), restored.stocks());
                    prop_assert!((again.duty(&settings) - restored.duty(&settings)).abs() < 1e-15);
                    budget = again;
                }
            }
            let (joules, written) = budget.stocks();
            prop_assert!(joules <= settings.energy_j_stored && written <= flash_capacity(&settings));
        }
    }
}
