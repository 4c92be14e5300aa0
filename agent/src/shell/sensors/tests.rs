//! Made-up boards: a Raspberry Pi, a Jetson, an x86 box, a battery, and files as bad as they come.
use std::fs;
use std::time::Duration;

use super::*;
use crate::decide::budget::{Battery, Memory, Zone};

/// A root folder with these files.
struct Board {
    folder: tempfile::TempDir,
}

impl Board {
    fn new(files: &[(&str, &str)]) -> Self {
        let board = Self { folder: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(path, text)| board.set(path, text));
        board
    }

    fn set(&self, path: &str, text: &str) {
        let full = self.folder.path().join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }

    fn sensors(&self) -> Sensors {
        Sensors::at(self.folder.path())
    }

    fn look(&self) -> Look {
        self.sensors().look(None, at(0))
    }
}

fn at(seconds: u64) -> Uptime {
    Uptime(Duration::from_secs(seconds))
}

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

const PI: &[(&str, &str)] = &[
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "110000\n"),
    ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
    ("sys/class/hwmon/hwmon0/temp1_input", "48312\n"),
    ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
    ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n"),
    ("sys/block/mmcblk0/device/life_time", "0x01 0x03\n"),
    ("sys/block/mmcblk0/stat", " 11 2 3 4 5 6 2048 8 0 9 10 0 0 0 0 0 0\n"),
    ("sys/block/loop0/stat", "1 2 3 4 5 6 999999 8 0 9 10\n"),
    ("proc/meminfo", "MemTotal:         944000 kB\nMemFree:  1 kB\nMemAvailable:     512000 kB\n"),
    ("proc/loadavg", "0.80 0.5 0.4 1/200 999\n"),
    ("proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2\ncpu1 1 2\ncpu2 1 2\ncpu3 1 2\nintr 5\n"),
    ("proc/self/stat", "77 (hone (x) y) S 1 1 1 0 -1 0 0 0 0 0 30 20 0 0 39 19 1 0 5\n"),
    (
        "proc/self/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax address space         unlimited            unlimited            bytes\n",
    ),
    (
        "proc/pressure/memory",
        "some avg10=1.25 avg60=0.10 avg300=0.00 total=5\nfull avg10=0.00 avg60=0 avg300=0 total=0\n",
    ),
    ("proc/pressure/io", "some avg10=0.00 avg60=0.10 avg300=0.00 total=5\n"),
];

#[test]
fn a_raspberry_pi_has_heat_load_memory_and_wear_and_its_energy_is_modelled() {
    let look = Board::new(PI).look();
    let zone = Zone { name: "cpu-thermal".to_owned(), celsius: 48.312, trip_c: Some(110.0) };
    assert_eq!(look.readings.zones, [zone], "the same sensor is not listed twice");
    assert_eq!(look.readings.memory, Memory { available_bytes: Some(512_000 * 1_024), ..Memory::default() });
    assert_eq!((look.readings.load_per_core, look.readings.memory_pressure_percent), (Some(0.2), Some(1.25)));
    assert_eq!(look.wear, [Wear { name: "mmcblk0".to_owned(), used_percent: 30 }]);
    assert_eq!(look.disk_written_bytes, Some(2048 * 512), "loop devices have no medium of their own");
    assert_eq!((look.draw, look.readings.power_w, look.readings.battery), (None, None, None));
    let names: Vec<_> = look.missing.iter().map(|missing| missing.what.as_str()).collect();
    assert_eq!(names, ["energy"]);
}

#[test]
fn an_ina219_on_a_pi_is_integrated_by_trapezoid_and_comes_before_every_later_source() {
    let board = Board::new(PI);
    board.set("sys/class/hwmon/hwmon2/name", "ina219");
    board.set("sys/class/hwmon/hwmon2/power1_input", "3000000");
    board.set("sys/class/powercap/intel-rapl:0/energy_uj", "5");
    let mut sensors = board.sensors();
    assert!(close(sensors.look(None, at(10)).draw.unwrap().joules, 0.0));
    board.set("sys/class/hwmon/hwmon2/power1_input", "5000000");
    let draw = sensors.look(None, at(12)).draw.unwrap();
    assert_eq!((draw.source, draw.name.as_str(), draw.watts), (EnergySource::HwmonPower, "ina219.1", Some(5.0)));
    assert!(close(draw.joules, 8.0), "2 s at 4 W: {draw:?}");
    board.set("sys/class/hwmon/hwmon2/energy1_input", "1000000");
    let draw = sensors.look(None, at(14)).draw.unwrap();
    assert_eq!((draw.source, draw.watts), (EnergySource::HwmonEnergy, None), "a counter comes first");
}

#[test]
fn a_jetson_counts_the_rail_through_which_everything_flows_and_not_its_parts() {
    let rail = |place: u32, label: &str, millivolts: &str, milliamperes: &str| {
        let file = |name: &str| format!("sys/class/hwmon/hwmon3/{name}");
        vec![
            (file(&format!("in{place}_label")), label.to_owned()),
            (file(&format!("in{place}_input")), millivolts.to_owned()),
            (file(&format!("curr{place}_input")), milliamperes.to_owned()),
        ]
    };
    let mut files = vec![("sys/class/hwmon/hwmon3/name".to_owned(), "ina3221".to_owned())];
    files.extend(rail(1, "VDD_IN", "5000", "1200"));
    files.extend(rail(2, "VDD_CPU_GPU_CV", "5000", "300"));
    files.extend(rail(4, "sum of shunt voltages", "9", "5000"));
    let board = Board::new(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>());
    let draw = board.look().draw.unwrap();
    assert_eq!((draw.source, draw.name.as_str()), (EnergySource::Rails, "VDD_IN"));
    assert!(close(draw.watts.unwrap(), 6.0));
    board.set("sys/class/hwmon/hwmon3/in1_label", "VDD_CPU");
    assert!(close(board.look().draw.unwrap().watts.unwrap(), 7.5), "without such a rail they add up");
}

#[test]
fn rapl_counters_wrap_around_and_parts_of_a_package_are_not_counted_again() {
    let zone = "sys/class/powercap/intel-rapl:0";
    let board = Board::new(&[
        (&format!("{zone}/name"), "package-0"),
        (&format!("{zone}/energy_uj"), "262143000000"),
        (&format!("{zone}/max_energy_range_uj"), "262143328850"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", "7"),
    ]);
    let mut sensors = board.sensors();
    sensors.look(None, at(0));
    board.set(&format!("{zone}/energy_uj"), "1671150");
    let draw = sensors.look(None, at(1)).draw.unwrap();
    assert_eq!((draw.source, draw.name.as_str()), (EnergySource::Rapl, "package-0"));
    assert!((draw.joules - 2.0).abs() < 1e-4 && (draw.watts.unwrap() - 2.0).abs() < 1e-4, "{draw:?}");
}

#[test]
fn a_battery_is_told_from_mains_and_from_a_mouse() {
    let battery = "sys/class/power_supply/BAT0";
    let board = Board::new(&[
        (&format!("{battery}/type"), "Battery"),
        (&format!("{battery}/status"), "Discharging"),
        (&format!("{battery}/capacity"), "83"),
        (&format!("{battery}/current_now"), "500000"),
        (&format!("{battery}/voltage_now"), "12000000"),
        ("sys/class/power_supply/AC/type", "Mains"),
        ("sys/class/power_supply/AC/online", "0"),
        ("sys/class/power_supply/mouse/type", "Battery"),
        ("sys/class/power_supply/mouse/scope", "Device"),
        ("sys/class/power_supply/mouse/capacity", "2"),
    ]);
    let look = board.look();
    assert_eq!(look.readings.battery, Some(Battery { discharging: true, percent: Some(83.0) }));
    let draw = look.draw.unwrap();
    assert_eq!((draw.source, draw.watts), (EnergySource::PowerSupply, Some(6.0)));
    board.set(&format!("{battery}/status"), "Unknown");
    assert!(board.look().readings.battery.unwrap().discharging, "no mains, so the battery feeds it");
    board.set("sys/class/power_supply/AC/online", "1");
    assert!(!board.look().readings.battery.unwrap().discharging);
    assert_eq!(board.look().draw, None, "a battery at rest says nothing about the board");
    board.set(&format!("{battery}/capacity"), "300");
    assert_eq!(board.look().readings.battery.unwrap().percent, None);
}

#[test]
fn the_tightest_group_above_counts_and_its_droppable_cache_is_free() {
    let board = Board::new(PI);
    board.set("proc/self/cgroup", "0::/system.slice/hone.service\n");
    for (file, text) in [
        ("hone.service/memory.max", "max"),
        ("hone.service/memory.high", "100000000"),
        ("hone.service/memory.current", "30000000"),
        ("hone.service/memory.stat", "anon 5\ninactive_file 10000000\n"),
        ("hone.service/cpu.max", "max 100000"),
        ("memory.max", "60000000"),
        ("memory.current", "40000000"),
        ("cpu.max", "50000 100000"),
    ] {
        board.set(&format!("sys/fs/cgroup/system.slice/{file}"), text);
    }
    let readings = board.look().readings;
    assert_eq!((readings.memory.cgroup_free_bytes, readings.cpu_quota_cores), (Some(20_000_000), Some(0.5)));
    board.set("sys/fs/cgroup/system.slice/memory.max", "max");
    assert_eq!(board.look().readings.memory.cgroup_free_bytes, Some(80_000_000));
}

#[test]
fn groups_of_version_one_beside_an_empty_second_version_are_found() {
    let board = Board::new(PI);
    board.set("proc/self/cgroup", "4:memory:/a/b\n3:cpu,cpuacct:/a\n1:name=systemd:/\n0::/\n");
    board.set("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712");
    board.set("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "5");
    board.set("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "50000000");
    board.set("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "10000000");
    board.set("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "20000");
    board.set("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000");
    board.set("proc/self/limits", "Max address space         200000000            unlimited            bytes\n");
    let readings = board.look().readings;
    assert_eq!((readings.memory.cgroup_free_bytes, readings.cpu_quota_cores), (Some(40_000_000), Some(0.2)));
    assert_eq!(readings.memory.address_bytes, Some(200_000_000));
    board.set("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1");
    assert_eq!(board.look().readings.cpu_quota_cores, None);
}

#[test]
fn the_agent_and_its_trainer_are_not_others() {
    let board = Board::new(PI);
    let mut sensors = board.sensors();
    assert_eq!(sensors.look(Some(9), at(0)).readings.cpu_others, None, "one look tells no rate");
    // 1,000 ticks on: 600 busy, of which 100 are ours and 300 the trainer's.
    board.set("proc/stat", "cpu  500 0 300 1000 200 0 0 0 0 0\ncpu0 1 2\n");
    board.set("proc/self/stat", "77 (hone (x) y) S 1 1 1 0 -1 0 0 0 0 0 80 70 0 0 39 19 1 0 5\n");
    board.set("proc/9/stat", "9 (hone) R 77 1 1 0 -1 0 0 0 0 0 290 10 0 0 39 19 1 0 5\n");
    assert!(close(sensors.look(Some(9), at(2)).readings.cpu_others.unwrap(), 0.2));
    // The trainer has ended: its ticks are now among those of our children.
    board.set("proc/stat", "cpu  500 0 300 2000 200 0 0 0 0 0\ncpu0 1 2\n");
    board.set("proc/self/stat", "77 (hone (x) y) S 1 1 1 0 -1 0 0 0 0 0 80 70 290 10 39 19 1 0 5\n");
    assert!(close(sensors.look(None, at(4)).readings.cpu_others.unwrap(), 0.0));
}

#[test]
fn files_as_bad_as_they_come_are_absent_and_named() {
    let nonsense = ["", "\n", "abc", "12 34", "-9223372036854775809", "1e999", "\u{0}\u{ff}", &"7".repeat(200_000)];
    let paths = PI.iter().map(|(path, _)| *path).chain([
        "sys/class/hwmon/hwmon2/power1_input",
        "sys/class/hwmon/hwmon2/energy1_input",
        "sys/class/powercap/intel-rapl:0/energy_uj",
        "sys/class/power_supply/BAT0/type",
        "proc/self/cgroup",
        "sys/fs/cgroup/memory.max",
    ]);
    for path in paths {
        for text in nonsense {
            let board = Board::new(PI);
            board.set(path, text);
            let look = board.look();
            assert!(look.readings.zones.iter().all(|zone| zone.celsius.is_finite()), "{path}: {text:?}");
        }
        // A folder in its place, which refuses to be read as a file without a right would.
        let board = Board::new(PI);
        let full = board.folder.path().join(path);
        let _ = fs::remove_file(&full);
        fs::create_dir_all(&full).unwrap();
        board.look();
    }
    let board = Board::new(PI);
    board.set("sys/class/thermal/thermal_zone0/temp", "hot");
    board.set("proc/loadavg", &"9".repeat(200_000));
    board.set("proc/pressure/io", "some avg10=200.00");
    let missing = board.look().missing;
    let told: Vec<_> = missing.iter().map(|Missing { what, reason }| format!("{what}: {reason}")).collect();
    for expected in [
        "sys/class/thermal/thermal_zone0/temp: `hot` is no number",
        "proc/loadavg: it is longer than 131072 bytes",
        "proc/pressure/io: `some avg10=200.00` has no avg10",
    ] {
        assert!(told.iter().any(|line| line == expected), "{expected} is not among {told:#?}");
    }
    let nothing = Board::new(&[]).look();
    assert_eq!(nothing.readings, Readings::default());
    assert!(nothing.missing.len() >= 6, "{:?}", nothing.missing);
}

#[test]
fn a_sensor_that_vanishes_and_comes_back_counts_no_energy_for_the_time_between() {
    let board =
        Board::new(&[("sys/class/hwmon/hwmon0/name", "ina226"), ("sys/class/hwmon/hwmon0/power1_input", "2000000")]);
    let mut sensors = board.sensors();
    sensors.look(None, at(0));
    assert!(close(sensors.look(None, at(5)).draw.unwrap().joules, 10.0));
    fs::remove_file(board.folder.path().join("sys/class/hwmon/hwmon0/power1_input")).unwrap();
    assert_eq!(sensors.look(None, at(10)).draw, None);
    board.set("sys/class/hwmon/hwmon0/power1_input", "2000000");
    assert!(close(sensors.look(None, at(1_000)).draw.unwrap().joules, 0.0));
    assert!(close(sensors.look(None, at(1_001)).draw.unwrap().joules, 2.0));
}

#[test]
fn a_training_is_booked_as_measured_only_if_it_stands_out_of_the_boards_own_draw() {
    let draw = |joules| Draw { source: EnergySource::Rails, name: "VDD_IN".to_owned(), joules, watts: Some(4.0) };
    let (before, after) = (draw(100.0), draw(300.0));
    let measured = book(Some(&before), Some(&after), Some(3.0), (50.0, 12.0), 2.0);
    assert_eq!(measured.source, EnergySource::Rails);
    assert!(close(measured.joules, 50.0) && close(measured.error, 4.0 + 15.0));
    let drowned = book(Some(&before), Some(&draw(255.0)), Some(3.0), (50.0, 1.0), 2.0);
    assert_eq!(drowned, Booked { joules: 2.0, error: 1.0, source: EnergySource::Model });
    let other = Draw { name: "VDD_CPU".to_owned(), ..after.clone() };
    assert!(!book(Some(&before), Some(&other), Some(3.0), (50.0, 1.0), 2.0).source.is_measured());
    assert!(!book(None, Some(&after), Some(3.0), (50.0, 1.0), 2.0).source.is_measured());
}

#[test]
fn this_machine_can_be_looked_at() {
    let mut sensors = Sensors::at(Path::new("/"));
    sensors.look(None, at(0));
    let look = sensors.look(Some(std::process::id()), at(1));
    assert!(look.readings.memory.available_bytes.is_none_or(|bytes| bytes > 0));
    assert!(look.missing.len() <= 64);
}
