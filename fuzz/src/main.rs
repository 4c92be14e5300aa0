//! A mutation fuzzer for stable Rust. It sees no coverage; what guides it is the kind of end an input comes to: an input that
//! ends in a way no other did is kept and mutated further. A panic, an allocation the input's length does not justify, or an
//! input that takes seconds is a finding: it is written to `findings/` and ends the run with code 1.
mod mutate;
mod seeds;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hone_agent::shell::trainer::duty::{Clock, RealClock};
use hone_agent::shell::trainer::system::{CountedHeap, heap_bytes};

use mutate::Chance;

#[global_allocator]
static HEAP: CountedHeap = CountedHeap;

/// An input may take this many times its own length, and a little, on the heap.
const HEAP_FACTOR: u64 = 40;
const HEAP_BYTES_FREE: u64 = 8 << 20;
/// CPU seconds an input may take: a busy machine makes nothing slow.
const INPUT_MAX_S: f64 = 2.0;
/// Inputs kept for one kind of end, and in all.
const KINDS_MAX: usize = 160;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let Some(target) = arguments.first().filter(|name| targets::TARGETS.contains(&name.as_str())) else {
        eprintln!("usage: hone-fuzz bundle|envelope|frame|topic|payload [--minutes N | --seconds N] [--seed N]");
        return ExitCode::from(2);
    };
    let seconds = value("--seconds").unwrap_or(60 * value("--minutes").unwrap_or(1));
    let seed = value("--seed").unwrap_or(1);
    fuzz(target, Duration::from_secs(seconds), seed)
}

fn fuzz(target: &str, length: Duration, seed: u64) -> ExitCode {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = home.join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the corpus can be written");
    let base = seeds::base(target, &folder);
    let mut kinds: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut names: Vec<PathBuf> =
        fs::read_dir(&folder).expect("the corpus can be read").flatten().map(|entry| entry.path()).collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = targets::expand(&name, fs::read(&path).expect("the corpus can be read"), &base);
        if let Some(kind) = held(target, &bytes, home) {
            kinds.entry(kind).or_insert(bytes);
        } else {
            return ExitCode::FAILURE;
        }
    }
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let (begun, mut chance, mut inputs, mut told) = (Instant::now(), Chance::new(seed), 0_u64, Instant::now());
    while begun.elapsed() < length {
        let parents: Vec<&Vec<u8>> = kinds.values().collect();
        // The accepted input is the most fruitful parent.
        let parent = if chance.below(3) == 0 { &base } else { parents[chance.below(parents.len())] };
        let other = parents[chance.below(parents.len())];
        let input = mutate::mutated(target, parent, other, &mut chance);
        inputs += 1;
        let Some(kind) = held(target, &input, home) else { return ExitCode::FAILURE };
        if !kinds.contains_key(&kind) && kinds.len() < KINDS_MAX {
            keep(target, &folder, &input, &base, kinds.len());
            kinds.insert(kind, input);
        }
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            println!("{target}: {inputs} inputs, {} kinds of end, {} s", kinds.len(), begun.elapsed().as_secs());
        }
    }
    println!("{target}: {inputs} inputs in {} s, {} kinds of end, no finding", begun.elapsed().as_secs(), kinds.len());
    ExitCode::SUCCESS
}

/// Runs one input; none if it is a finding.
fn held(target: &str, input: &[u8], home: &Path) -> Option<String> {
    let (live, _) = heap_bytes();
    let before_s = RealClock.cpu_s();
    let outcome = catch_unwind(AssertUnwindSafe(|| targets::run(target, input)));
    let (_, peak) = heap_bytes();
    let took = peak.saturating_sub(live);
    let allowed = HEAP_FACTOR * input.len() as u64 + HEAP_BYTES_FREE;
    let wrong = match &outcome {
        Err(_) => "panic",
        Ok(_) if RealClock.cpu_s() - before_s > INPUT_MAX_S => "slow",
        // The peak is that of the whole run: it counts against this input only if it is more than any allowed before.
        Ok(_) if took > allowed.max(mutate::LONGEST as u64 * HEAP_FACTOR) => "heap",
        Ok(kind) => return Some(kind.clone()),
    };
    let path = home.join("findings").join(format!("{target}-{wrong}"));
    let _ = fs::create_dir_all(home.join("findings"));
    let _ = fs::write(&path, input);
    eprintln!("finding: {wrong}, {} bytes, {took} bytes of heap, in {}", input.len(), path.display());
    None
}

/// Keeps an input in the corpus, as the difference from the base where that is shorter.
fn keep(target: &str, folder: &Path, input: &[u8], base: &[u8], number: usize) {
    let front = input.iter().zip(base).take_while(|(a, b)| a == b).count();
    let most = input.len().min(base.len()) - front;
    let back = input.iter().rev().zip(base.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    let middle = &input[front..input.len() - back];
    if middle.len() > 16 * 1024 {
        return;
    }
    let length = |value: usize| u32::try_from(value).expect("inputs are short").to_le_bytes();
    let delta = [&length(front)[..], &length(back)[..], middle].concat();
    let (name, bytes) = if target == "bundle" { ("delta", delta) } else { ("bin", input.to_vec()) };
    let _ = fs::write(folder.join(format!("kept-{number:03}.{name}")), bytes);
}
