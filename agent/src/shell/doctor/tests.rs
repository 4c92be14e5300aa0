//! Made-up gateways: a board with everything, a bare one, a disk that is damaged.
use std::fs;

use trainer_core::bundle;
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::spec::Spec;
use trainer_core::train::{self, TrainSettings};

use super::*;
use crate::shell::paths::Places;

struct Gateway {
    folder: tempfile::TempDir,
    config: Config,
    places: Places,
}

impl Gateway {
    fn new(files: &[(&str, &str)]) -> Self {
        let places = Places { state_dir: "/var/lib/hone".into(), socket: "/run/hone/api.sock".into() };
        let gateway = Self { folder: tempfile::tempdir().unwrap(), config: Config::default(), places };
        files.iter().for_each(|(path, text)| gateway.set(path, text.as_bytes()));
        gateway
    }

    fn set(&self, path: &str, bytes: &[u8]) {
        let full = self.folder.path().join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, bytes).unwrap();
    }

    fn look(&self, now: &str) -> Vec<Finding> {
        let now = crate::shell::clock::moment(now).unwrap();
        examine(&Subject { root: self.folder.path(), config: &self.config, places: &self.places, now })
    }

    fn level(&self, now: &str, check: &str) -> Level {
        self.look(now).into_iter().filter(|finding| finding.check == check).map(|finding| finding.level).max().unwrap()
    }
}

const NOW: &str = "2026-11-21T08:00:00Z";

const BOARD: &[(&str, &str)] = &[
    ("run/systemd/timesync/synchronized", ""),
    ("sys/class/rtc/rtc0/name", "rtc\n"),
    ("proc/meminfo", "MemTotal: 944000 kB\nMemFree: 1 kB\nMemAvailable: 512000 kB\n"),
    ("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
    ("proc/pressure/io", "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\n"),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
    ("sys/class/hwmon/hwmon0/name", "ina226\n"),
    ("sys/class/hwmon/hwmon0/power1_input", "4200000\n"),
    ("sys/block/mmcblk0/device/life_time", "0x01 0x03\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
];

#[test]
fn a_board_with_everything_has_nothing_to_warn_of_and_every_other_finding_says_what_it_costs() {
    let found = Gateway::new(BOARD).look(NOW);
    let worse: Vec<_> = found.iter().filter(|finding| finding.level > Level::Note).collect();
    assert!(worse.is_empty(), "{worse:?}");
    assert!(found.iter().all(|finding| (finding.level == Level::Good) == finding.costs.is_none()), "{found:?}");
}

#[test]
fn a_bare_board_is_told_of_each_thing_it_lacks_with_its_price() {
    let bare = Gateway::new(&[]);
    for (check, level) in [
        ("clock", Level::Warning),
        ("memory", Level::Warning),
        ("power", Level::Note),
        ("heat", Level::Warning),
        ("pressure", Level::Warning),
        ("cgroup", Level::Warning),
        ("wear", Level::Note),
        ("models", Level::Note),
        ("agent", Level::Note),
        ("broker", Level::Note),
    ] {
        let found: Vec<_> = bare.look(NOW).into_iter().filter(|finding| finding.check == check).collect();
        assert_eq!(found.len(), 1, "{check}");
        assert_eq!((found[0].level, found[0].costs.is_some()), (level, true), "{:?}", found[0]);
    }
}

#[test]
fn a_clock_that_was_never_set_is_bad_and_so_is_a_card_at_its_end() {
    let board = Gateway::new(BOARD);
    assert_eq!(board.level("1970-01-01T00:01:00Z", "clock"), Level::Bad);
    for (life, level) in [("0x03 0x08\n", Level::Warning), ("0x0b 0x01\n", Level::Bad)] {
        board.set("sys/block/mmcblk0/device/life_time", life.as_bytes());
        assert_eq!(board.level(NOW, "wear"), level, "{life}");
    }
    board.set("sys/fs/cgroup/cgroup.controllers", b"cpu io pids\n");
    assert_eq!(board.level(NOW, "cgroup"), Level::Warning, "a Raspberry Pi before cgroup_enable=memory");
    board.set("proc/meminfo", b"MemAvailable: 60000 kB\n");
    assert_eq!(board.level(NOW, "memory"), Level::Warning);
}

#[test]
fn a_damaged_model_is_found_and_left_where_it_is() {
    let board = Gateway::new(BOARD);
    let path = format!("var/lib/hone/models/{}.safetensors", "a".repeat(64));
    board.set(&path, b"half a bundle");
    let found: Vec<_> = board.look(NOW).into_iter().filter(|finding| finding.check == "models").collect();
    assert_eq!(found[0].level, Level::Bad, "{found:?}");
    assert!(found[0].found.contains("another digest") && board.folder.path().join(path).exists());
}

#[test]
fn a_fleet_without_its_files_is_bad_and_a_key_that_others_may_read_is_a_warning() {
    let mut board = Gateway::new(BOARD);
    board.config.mqtt.broker = "mqtts://127.0.0.1:1".into();
    board.config.mqtt.device = "press-1".into();
    board.config.mqtt.ca_file = Some("/etc/hone/ca.pem".into());
    board.config.mqtt.key_file = Some("/etc/hone/mqtt.key".into());
    assert_eq!((board.level(NOW, "certificate"), board.level(NOW, "key")), (Level::Bad, Level::Warning));
    board.set("etc/hone/ca.pem", include_bytes!("certificate.pem"));
    board.set("etc/hone/mqtt.key", b"secret");
    assert_eq!((board.level(NOW, "certificate"), board.level(NOW, "broker")), (Level::Good, Level::Bad));
    let key = board.folder.path().join("etc/hone/mqtt.key");
    let allow = |mode| fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    allow(0o644);
    assert_eq!(board.level(NOW, "key"), Level::Warning);
    allow(0o600);
    assert_eq!(board.level(NOW, "key"), Level::Good);
}

#[test]
fn databases_that_were_set_aside_are_told_of_with_what_was_lost() {
    let board = Gateway::new(BOARD);
    let told = || board.look(NOW).into_iter().filter(|finding| finding.check == "databases").collect::<Vec<_>>();
    board.set("var/lib/hone/control.db", b"sound");
    board.set("var/lib/hone/records/1-2026-11-21.db-wal", b"sound");
    assert_eq!(told(), []);
    for name in ["1.db.damaged-1", "1.db.damaged-1-wal", "2.db.damaged-1"] {
        board.set(&format!("var/lib/hone/records/{name}"), b"damaged");
    }
    assert_eq!((told().len(), told()[0].level), (1, Level::Warning));
    assert!(
        told()[0].found.starts_with("2 damaged") && told()[0].found.ends_with("/records/1.db.damaged-1"),
        "{:?}",
        told()
    );
    board.set("var/lib/hone/control.db.damaged-1", b"damaged");
    assert!(told()[0].costs.as_ref().unwrap().contains("factory"), "{:?}", told());
}

#[test]
fn a_state_directory_that_is_named_from_here_is_looked_for_here() {
    let mut board = Gateway::new(BOARD);
    let here = std::env::current_dir().unwrap();
    let below = here.strip_prefix("/").unwrap().join("state/models/half.safetensors");
    board.set(below.to_str().unwrap(), b"half a bundle");
    board.places.state_dir = "./state".into();
    assert_eq!(board.level(NOW, "models"), Level::Bad);
}

/// Stores a model of a feature of this name.
fn store_model(board: &Gateway, feature: &str) {
    let feature = Feature { name: feature.to_owned(), unit: None, kind: FeatureKind::Number, range: None };
    let schema = Schema { features: vec![feature], task: Task::Regression { targets: vec!["y".to_owned()] } };
    let mut rows = Rows::empty(1, 1);
    (0..60_u8).for_each(|row| rows.push(&[f32::from(row % 10)], &[f32::from(row % 10)]));
    let mut model = train::base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 1).unwrap().model;
    let (bytes, digest) = bundle::write(&mut model);
    board.set(&format!("var/lib/hone/models/{digest}.safetensors"), &bytes);
}

#[test]
fn one_model_has_nothing_to_fall_back_to_and_two_have() {
    let board = Gateway::new(BOARD);
    store_model(&board, "x");
    assert_eq!(board.level(NOW, "models"), Level::Note);
    store_model(&board, "z");
    assert_eq!(board.level(NOW, "models"), Level::Good);
}

#[test]
fn control_groups_of_version_1_are_told_from_none() {
    let board = Gateway::new(BOARD);
    board.set("sys/fs/cgroup/cgroup.controllers", b"");
    assert_eq!(board.level(NOW, "cgroup"), Level::Warning, "none");
    board.set("sys/fs/cgroup/memory/memory.limit_in_bytes", b"9223372036854771712");
    assert_eq!(board.level(NOW, "cgroup"), Level::Note, "the units' limits hold");
}
