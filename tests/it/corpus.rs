//! Every input the fuzzer kept, replayed: no panic, and nothing accepted that breaks what must be true of it.
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use trainer_core::digest::Digest;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// Whether an input was taken for what it claims to be, by the words it ended in.
fn standing(target: &str, end: &str) -> &'static str {
    let accepted = match target {
        "bundle" => end == "read",
        "envelope" => end.contains(" Ok(()) "),
        "topic" => ["Up ", "Down ", "Controller "].iter().any(|direction| end.starts_with(direction)),
        "payload" => end.trim_start() == "read",
        _ => ["job ", "answer ", "word ", "question ", "vetted "].iter().any(|name| end.starts_with(name)),
    };
    if accepted { "accepted" } else { "refused" }
}

/// Each input by the digest of what it expands to: one that a later run of the fuzzer has replaced is not meant.
/// `UPDATE_EXPECT=1` writes the list anew.
#[test]
fn what_was_refused_is_not_accepted_by_now_and_what_was_accepted_is_not_refused() {
    let path = corpus().join("standings.txt");
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let listed: BTreeMap<&str, &str> = listed.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut now = BTreeMap::new();
    for target in targets::TARGETS {
        let folder = corpus().join(target);
        let base = fs::read(folder.join("base.bin")).expect("each corpus has its base");
        for entry in fs::read_dir(&folder).expect("the corpus can be read") {
            let path = entry.expect("the corpus can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8").to_owned();
            let input = targets::expand(&name, fs::read(&path).expect("the corpus can be read"), &base);
            let found = format!("{} {target}", standing(target, &targets::run(target, &input)));
            now.insert(Digest::of(&[target.as_bytes(), input.as_slice()].concat()).short(), (found, name));
        }
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let mut text = String::new();
        now.iter()
            .for_each(|(digest, (found, _))| writeln!(text, "{digest} {found}").expect("a string takes any text"));
        fs::write(&path, text).expect("the list can be written");
        return;
    }
    let mut compared: BTreeMap<&str, u32> = BTreeMap::new();
    for (digest, (found, name)) in &now {
        let Some(expected) = listed.get(digest.as_str()) else { continue };
        assert_eq!(found, expected, "{name}");
        *compared.entry(expected).or_default() += 1;
    }
    for target in targets::TARGETS {
        let count = |standing: &str| compared.get(format!("{standing} {target}").as_str()).copied().unwrap_or(0);
        assert!(count("accepted") >= 1 && count("refused") >= 5, "{target}: {compared:?}");
    }
}

#[test]
fn the_corpus_of_each_target_is_replayed_without_a_finding() {
    for target in targets::TARGETS {
        let folder = corpus().join(target);
        let base = fs::read(folder.join("base.bin")).expect("each corpus has its base");
        let accepted = targets::run(target, &base);
        let (mut inputs, mut kinds) = (0, std::collections::BTreeSet::new());
        for entry in fs::read_dir(&folder).expect("the corpus can be read") {
            let path = entry.expect("the corpus can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8").to_owned();
            let input = targets::expand(&name, fs::read(&path).expect("the corpus can be read"), &base);
            kinds.insert(targets::run(target, &input));
            inputs += 1;
        }
        assert!(inputs >= 10 && kinds.len() >= 5, "{target}: {inputs} inputs end in {} ways", kinds.len());
        assert!(kinds.contains(&accepted), "{target}: {accepted}");
    }
}

#[test]
fn a_delta_is_what_lies_between_a_common_beginning_and_a_common_end() {
    let delta = [&3_u32.to_le_bytes()[..], &2_u32.to_le_bytes(), b"--"].concat();
    assert_eq!(targets::expand("a.delta", delta, b"abcdefgh"), b"abc--gh");
    assert_eq!(targets::expand("a.bin", b"xyz".to_vec(), b"abcdefgh"), b"xyz");
    assert_eq!(targets::expand("a.delta", vec![255; 9], b"ab"), [b"ab".as_slice(), &[255], b"ab"].concat());
}
