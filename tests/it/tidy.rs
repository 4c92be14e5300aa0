//! The repository reads itself: what the compiler and Clippy cannot see about the house, each finding as `file:line`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this module reads the repository's files")]
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest file, tests left out; a longer one usually holds two ideas.
const LINES_MAX: usize = 400;

/// Files that are allowed to be longer, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// The command a visitor runs; `README.md` and `.ci/run` must both name it.
const TEST_COMMAND: &str = "cargo test --workspace";

/// What the files under a folder never name; `crate::x` also covers `super::x` out of the folder.
const NEVER: [(&str, &str); 6] = [
    (
        "trainer-core/src",
        "std::fs std::time std::thread std::net std::os std::process std::env rand getrandom \
         tokio rusqlite rumqttc axum hyper tempfile tracing hone_agent anyhow",
    ),
    (
        "fleet/protocol/src",
        "std::fs std::time std::thread std::net std::os std::process std::env rand getrandom \
         tokio rusqlite rumqttc axum hyper tempfile tracing burn trainer_core hone_agent anyhow",
    ),
    (
        "agent/src/decide",
        "crate::shell crate::cli burn tokio rusqlite rumqttc axum hyper rustix tempfile anyhow \
         std::fs std::net std::os std::thread std::process std::env std::time::Instant std::time::SystemTime",
    ),
    ("agent/src/config", "crate::cli burn tokio rusqlite rumqttc axum hyper anyhow std::fs std::net"),
    ("agent/src/shell", "crate::cli anyhow"),
    ("agent/src/cli", "rusqlite rumqttc burn crate::shell::store crate::shell::mqtt"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One text file of the repository, by its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// How many lines come before the test module; a file that only tests include has none.
    fn lines_of_code(&self, test_files: &[String]) -> usize {
        if test_files.contains(&self.path) {
            return 0;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let opens_tests = |index: usize| {
            let is_attribute = |line: &&&str| line.trim_start().starts_with('#');
            let item = lines[index..].iter().find(|line| !is_attribute(line));
            lines[index].starts_with("#[cfg(test)]")
                && item.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
        };
        (0..lines.len()).find(|&index| opens_tests(index)).unwrap_or(lines.len())
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {}", self.path, what.trim())
    }
}

/// Every file with one of the endings, sorted; build output and hidden folders but `.ci` left out.
fn sources(endings: &[&str]) -> Vec<Source> {
    fn walk(folder: &Path, from: &str, endings: &[&str], found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).expect("the checkout can be read") {
            let entry = entry.expect("the checkout can be read");
            let name = entry.file_name().into_string().expect("names in the repository are UTF-8");
            let path = if from.is_empty() { name.clone() } else { format!("{from}/{name}") };
            let kind = entry.file_type().expect("the checkout can be read");
            if kind.is_dir() && !name.starts_with("target") && (!name.starts_with('.') || name == ".ci") {
                walk(&entry.path(), &path, endings, found);
            } else if kind.is_file() && endings.iter().any(|ending| path.ends_with(ending)) {
                let text = fs::read(entry.path()).expect("the checkout can be read");
                found.push(Source { path, text: String::from_utf8_lossy(&text).into_owned() });
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), "", endings, &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!found.is_empty(), "no {endings:?} file found: the walk is broken");
    found
}

fn rust() -> Vec<Source> {
    sources(&[".rs"])
}

/// Files that only exist for tests: named by `#[cfg(test)] mod name;`, or below a folder of tests, benches or examples.
fn test_files(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
        let stem = file.trim_end_matches(".rs");
        let own = if ["mod", "lib", "main"].contains(&stem) { folder.to_owned() } else { format!("{folder}/{stem}") };
        let mut after_test_attribute = false;
        for line in source.text.lines().map(str::trim) {
            if after_test_attribute && let Some(name) = line.trim_start_matches("pub(crate) ").strip_prefix("mod ") {
                found.extend(name.strip_suffix(';').map(|name| format!("{own}/{name}.rs")));
            }
            after_test_attribute = line.starts_with("#[cfg(test)]") || after_test_attribute && line.starts_with('#');
        }
        let below = |name: &str| source.path.contains(&format!("/{name}/"));
        if ["it", "tests", "benches", "examples"].into_iter().any(below) {
            found.push(source.path.clone());
        }
    }
    found
}

/// A line without its comment; a `//` inside a text, as in an address, follows a colon.
fn code(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// The paths that a `use` statement brings in: `a::{b, c::{d}}` is `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = inner[start..at].trim();
                if !branch.is_empty() {
                    paths.extend(expand(branch).into_iter().map(|path| format!("{}{path}", head.trim())));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// Every path that the code of a file names, with its line: from `use` statements, and in full in the text.
fn named_paths(source: &Source, lines_of_code: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut statement: Option<(usize, String)> = None;
    for (number, line) in source.lines().take(lines_of_code) {
        let line = code(line).trim();
        if statement.is_none() {
            let visible = line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            statement = visible.trim_start_matches("pub ").strip_prefix("use ").map(|_| (number, String::new()));
        }
        let Some((_, text)) = &mut statement else {
            let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
            found.extend(words.filter(|word| word.contains("::")).map(|word| (number, word.to_owned())));
            continue;
        };
        *text += line;
        if line.ends_with(';')
            && let Some((first, text)) = statement.take()
        {
            let tree = text.split_once("use ").map_or("", |(_, tree)| tree).trim_end_matches(';').to_owned();
            found.extend(expand(&tree).into_iter().map(|path| (first, path)));
        }
    }
    found
}

/// `super::super::shell::x` and `self::x` as `crate::shell::x` and `crate::x`: a folder's own modules never share a banned name.
fn absolute(path: &str) -> String {
    let mut rest = path.trim_start_matches("::");
    let mut relative = false;
    while let Some(shorter) = rest.strip_prefix("super::").or_else(|| rest.strip_prefix("self::")) {
        (rest, relative) = (shorter, true);
    }
    if relative { format!("crate::{rest}") } else { rest.to_owned() }
}

#[track_caller]
fn assert_none(promise: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{promise}:\n  {}\n", findings.join("\n  "));
}

#[test]
fn each_part_of_the_house_imports_only_what_it_may() {
    let sources = rust();
    let test_files = test_files(&sources);
    let mut findings = Vec::new();
    for (folder, never) in NEVER {
        let inside = |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(['/', '.']));
        for source in sources.iter().filter(|source| inside(&source.path)) {
            for (line, path) in named_paths(source, source.lines_of_code(&test_files)) {
                let path = absolute(&path);
                let hit = |banned: &&str| path == *banned || path.starts_with(&format!("{banned}::"));
                findings.extend(
                    never.split_whitespace().find(hit).map(|banned| source.at(line, &format!("{path} ({banned})"))),
                );
            }
        }
    }
    assert_none("parts that import what HOUSE.md forbids them", &findings);
}

#[test]
fn the_border_to_the_world_is_opened_only_at_its_doors() {
    let sources = rust();
    let test_files = test_files(&sources);
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !["agent/src/main.rs", "agent/src/lib.rs"].contains(&&*source.path)) {
        let code_lines = source.lines().take(source.lines_of_code(&test_files));
        let opening = code_lines.filter(|(_, line)| code(line).contains("clippy::disallowed"));
        findings.extend(opening.map(|(line, text)| source.at(line, text)));
    }
    assert_none("borders opened beside `pub mod shell;` and `pub mod cli;`", &findings);
}

#[test]
fn every_module_says_in_its_first_line_what_it_is_for() {
    let says = |source: &Source| {
        source.text.lines().next().and_then(|line| line.strip_prefix("//! ")).is_some_and(|line| !line.is_empty())
    };
    let findings: Vec<_> =
        rust().iter().filter(|source| !says(source)).map(|source| source.at(1, "no `//!`")).collect();
    assert_none("files that do not open with a `//!` line", &findings);
}

#[test]
fn no_file_is_longer_than_one_idea() {
    let sources = rust();
    let test_files = test_files(&sources);
    let mut findings = Vec::new();
    for source in &sources {
        let lines = source.lines_of_code(&test_files);
        let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > LINES_MAX && !excused {
            findings.push(source.at(lines, "split it, or list it in LONG_FILES with the reason"));
        }
        if lines <= LINES_MAX && excused {
            findings.push(source.at(lines, "no longer long: take it out of LONG_FILES"));
        }
    }
    assert_none(&format!("files of more than {LINES_MAX} lines without their tests"), &findings);
}

#[test]
fn nothing_is_left_undone() {
    let needles = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("db", "g!(")];
    let mut findings = Vec::new();
    for source in rust() {
        let open = source.lines().filter(|(_, line)| needles.iter().any(|needle| code(line).contains(needle)));
        findings.extend(open.map(|(line, text)| source.at(line, text)));
    }
    assert_none("unfinished or debugging code", &findings);
}

#[test]
fn every_ignored_test_and_every_lint_exception_says_why() {
    let bare = concat!("#[ig", "nore]");
    let mut findings = Vec::new();
    for source in rust() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let attribute = line.trim_start();
            let opens = ["#[allow(", "#![allow(", "#[expect(", "#![expect("].iter().any(|it| attribute.starts_with(it));
            let whole = || {
                let end = lines[index..].iter().position(|line| line.trim_end().ends_with(']')).unwrap_or_default();
                lines[index..=index + end].concat()
            };
            let unscheduled = attribute.starts_with(concat!("#[ig", "nore = "))
                && !(attribute.contains("\"long: ") && attribute.contains("; run by .ci/nightly\""));
            if attribute.starts_with(bare) || unscheduled || opens && !whole().contains("reason = ") {
                findings.push(source.at(index + 1, line));
            }
        }
    }
    assert_none("exceptions without a reason", &findings);
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    let folders = [concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
    let endings = [
        ".rs", ".md", ".toml", ".sh", ".service", ".socket", ".conf", ".sql", ".html", ".js", ".css", "run", ".aarch64",
    ];
    let mut findings = Vec::new();
    for source in sources(&endings) {
        for (number, line) in source.lines() {
            // Only where the path begins: `$DIR` followed by the same letters is a path of the reader's.
            let begins =
                |at: usize| !line[..at].ends_with(|letter: char| letter.is_alphanumeric() || "_}.".contains(letter));
            let named = folders.iter().any(|folder| line.match_indices(folder).any(|(at, _)| begins(at)));
            findings.extend(named.then(|| source.at(number, line)));
        }
    }
    assert_none("paths that exist on one machine only", &findings);
}

#[test]
fn every_relative_link_of_the_documents_leads_somewhere() {
    let mut findings = Vec::new();
    for source in sources(&[".md"]) {
        let folder = root().join(&source.path).parent().map(Path::to_path_buf).unwrap_or_default();
        let mut fenced = false;
        for (number, line) in source.lines() {
            fenced ^= line.trim_start().starts_with("```");
            for (_, rest) in line.match_indices("](").filter(|_| !fenced).map(|(at, _)| line.split_at(at + 2)) {
                let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
                let elsewhere = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
                if !elsewhere && !folder.join(target).exists() {
                    findings.push(source.at(number, target));
                }
            }
        }
    }
    assert_none("links that lead nowhere", &findings);
}

#[test]
fn every_guide_that_the_readme_names_is_in_the_package() {
    let manifest = fs::read_to_string(root().join("agent/Cargo.toml")).expect("a manifest");
    let guides = fs::read_dir(root().join("docs")).expect("guides").flatten().map(|entry| entry.path());
    let missing: Vec<_> = guides
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .filter(|name| !manifest.contains(&format!("\"../docs/{name}\", \"usr/share/doc/hone/docs/\"")))
        .collect();
    assert_none("guides that agent/Cargo.toml does not package", &missing);
}

#[test]
fn the_lock_file_is_committed() {
    assert!(root().join("Cargo.lock").is_file(), "Cargo.lock is missing: run `cargo generate-lockfile` and commit it");
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    assert!(!ignored.lines().any(|line| line.contains("Cargo.lock")), ".gitignore keeps Cargo.lock out");
    let git = |arguments: &[&str]| Command::new("git").arg("-C").arg(root()).args(arguments).output();
    // An unpacked archive has no history to ask; what is there was shipped.
    if git(&["rev-parse", "HEAD"]).is_ok_and(|answer| answer.status.success()) {
        let listed = git(&["ls-files", "--error-unmatch", "Cargo.lock"]).expect("git has just answered");
        assert!(listed.status.success(), "Cargo.lock is not in the repository: `git add Cargo.lock`");
    }
}

#[test]
fn every_decision_is_numbered_and_dated() {
    let mut findings = Vec::new();
    let pages = sources(&[".md"]).into_iter().filter(|source| source.path.starts_with("docs/decisions/"));
    for (expected, page) in (1..).map(|number| format!("{number:04}")).zip(pages) {
        let is_date = |text: &str| {
            let part = |range| text.get(range).is_some_and(|digits: &str| digits.bytes().all(|it| it.is_ascii_digit()));
            text.len() == 10 && part(0..4) && &text[4..5] == "-" && part(5..7) && &text[7..8] == "-" && part(8..10)
        };
        let dated = page.text.lines().take(5).filter_map(|line| line.strip_prefix("Date: ")).any(is_date);
        let numbered = page.path.starts_with(&format!("docs/decisions/{expected}-"))
            && page.text.starts_with(&format!("# {expected}: "));
        findings.extend((!dated).then(|| page.at(1, "needs `Date: YYYY-MM-DD` in its first five lines")));
        findings.extend((!numbered).then(|| page.at(1, &format!("should be number {expected}, in name and title"))));
    }
    assert_none("decisions without number or date", &findings);
}

#[test]
fn a_visitor_and_the_build_server_run_the_same_tests() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read("README.md").contains(TEST_COMMAND), "README.md does not name `{TEST_COMMAND}`");
    let script = read(".ci/run");
    let steps = ["cargo fmt --all --check", "cargo clippy --workspace --all-targets --locked", TEST_COMMAND];
    let places = steps.map(|step| script.find(step).unwrap_or_else(|| panic!(".ci/run does not run `{step}`")));
    assert!(places.is_sorted(), ".ci/run runs its steps in another order than {steps:?}");
}

#[test]
fn every_member_keeps_the_lints_of_the_house() {
    let manifests = sources(&["/Cargo.toml"]);
    let lax = manifests.iter().filter(|source| !source.text.contains("[lints]\nworkspace = true"));
    assert_none(
        "members without the workspace's lints",
        &lax.map(|source| source.at(1, "[lints]")).collect::<Vec<_>>(),
    );
}
