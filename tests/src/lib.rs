//! A real device in a temporary folder: the built binary, its socket, and a small world it measures.
pub mod agent;
pub mod bench;
pub mod broker;
pub mod fleet;
pub mod http;
pub mod local;
pub mod world;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest wait for anything; a busy machine with two cores needs a part of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// The built `hone`, made once per test run with the profile and target directory of the tests; or the one that `HONE_BINARY` names,
/// so that a run of hours does not follow the sources.
///
/// # Panics
/// The build fails.
pub fn hone() -> &'static PathBuf {
    static HONE: OnceLock<PathBuf> = OnceLock::new();
    HONE.get_or_init(|| {
        if let Some(given) = std::env::var_os("HONE_BINARY") {
            return given.into();
        }
        // This test lies in `<target>/<profile>/deps`, the binary two levels up from it.
        let test = std::env::current_exe().expect("a test knows its own file");
        let profile = test.parent().and_then(|deps| deps.parent()).expect("tests lie in <target>/<profile>/deps");
        let mut build = Command::new(env!("CARGO"));
        build
            // All targets, so that features are resolved as for the tests and no dependency is built twice.
            .args(["build", "--quiet", "--workspace", "--all-targets"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        // What cargo tells this test of itself is not for the build: a build script that watches these (ring's does) would run
        // again, and everything above it be compiled again, each time a build comes from a test or from a person.
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| own.iter().any(|prefix| name.starts_with(prefix))) {
                build.env_remove(name);
            }
        }
        build.arg("--target-dir").arg(profile.parent().expect("a profile has a target directory"));
        if profile.file_name().is_some_and(|name| name == "release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be started").success(), "hone does not build");
        profile.join("hone")
    })
}

/// The built `hone-fleet`, beside [`hone`].
#[must_use]
pub fn hone_fleet() -> PathBuf {
    hone().with_file_name("hone-fleet")
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// There is none for a minute; `what` says what was waited for.
pub fn until<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
