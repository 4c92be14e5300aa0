//! What goes wrong on the first day: files that are not what they are called, places that are taken or forbidden. Each error names
//! the place and the next step, and nothing panics.
use std::fs;
use std::process::Command;

use hone_tests::agent::Device;
use hone_tests::{hone, world};

/// What `hone` says of it: exit code and standard error, which is never a panic.
fn told(device: &Device, arguments: &[&str]) -> (Option<i32>, String) {
    let (code, _, error) = device.ask(arguments);
    assert!(!error.contains("panicked"), "{arguments:?}: {error}");
    (code, error)
}

#[test]
fn a_replay_of_a_bad_file_names_the_line_and_what_to_do_and_takes_the_other_lines() {
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let good = world::sample([1.0, 2.0, 0.5]);
    let long = "x".repeat(70_000);
    let cases: [(&str, Vec<u8>, &[&str], u64); 12] = [
        ("empty.csv", Vec::new(), &["empty.csv: the file is empty", "a header line and rows"], 0),
        ("head.csv", b"a,b,c\n".to_vec(), &["head.csv: line 1 is the header", "add rows"], 0),
        ("other.csv", b"x,y\n1,2\n".to_vec(), &["other.csv: none of its columns", "x, y", "reads a, b, c"], 0),
        ("inf.csv", b"a,b,c\n1,2,3\n1,inf,3\n4,5,6\n".to_vec(), &["inf.csv:3: `b`", "finite"], 2),
        ("short.csv", b"a,b,c\n1,2\n4,5,6\n".to_vec(), &["short.csv:2: 2 cells where the header has 3"], 1),
        ("latin.csv", b"a,b,c\n1,\xe9,2\n4,5,6\n".to_vec(), &["latin.csv:2: not UTF-8", "iconv"], 1),
        ("empty.ndjson", b"\n\n".to_vec(), &["empty.ndjson has no lines", "--csv"], 0),
        ("bad.ndjson", format!("{good}oops\n{good}").into_bytes(), &["bad.ndjson:2: not one JSON object"], 2),
        (
            "long.ndjson",
            format!("{long}{long}\n{good}").into_bytes(),
            &["long.ndjson:1: the line has more than 65536"],
            1,
        ),
        ("endless.ndjson", long.repeat(20).into_bytes(), &["endless.ndjson:1: the line has more than 65536"], 0),
        ("junk.ndjson", vec![0x9f, 0x00, 0x0a, 0xff, 0xfe], &["junk.ndjson:1: not one JSON object", "add --csv"], 0),
        (
            "field.ndjson",
            b"{\"source\":\"x\",\"features\":{\"a\":1}}\n".to_vec(),
            &["field.ndjson:1: `b` is missing"],
            0,
        ),
    ];
    let mut answered = 0;
    for (name, bytes, words, taken) in cases {
        let file = device.path().join(name);
        fs::write(&file, bytes).expect("a temporary folder can be written");
        let (code, error) = told(&device, &["replay", file.to_str().expect("a path of letters")]);
        assert_eq!(code, Some(4), "{name}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
        assert!(error.contains("hint: "), "{name} has no next step: {error}");
        answered += taken;
        assert_eq!(agent.status()["requests"]["answered"], answered, "{name}: the good lines are taken");
    }
    let folder = device.path().display().to_string();
    for place in [folder.as_str(), "/no/such/file.csv"] {
        let (code, error) = told(&device, &["replay", place]);
        assert_eq!(code, Some(4), "{error}");
        assert!(error.contains(&format!("cannot read {place}")) && error.contains("hint: name a file"), "{error}");
    }
    let (code, error) =
        told(&device, &["replay", device.path().join("inf.csv").to_str().expect("letters"), "--time", "a"]);
    assert!(code == Some(4) && !error.contains("is not a time"), "a number of seconds is a time: {error}");
    fs::write(device.path().join("when.csv"), "at,a,b,c\nyesterday,1,2,3\n").expect("a folder");
    let (_, error) =
        told(&device, &["replay", device.path().join("when.csv").to_str().expect("letters"), "--time", "at"]);
    assert!(error.contains("when.csv:2: `yesterday` is not a time; write 2026"), "{error}");
}

#[test]
fn an_agent_that_cannot_start_says_where_and_what_to_do() {
    let device = Device::new();
    let model = world::train(device.path(), "base", 1, false);
    let refuses = |more: &[&str], exit: i32, words: &[&str]| {
        let (code, error) = told(&device, &[&["run"], more].concat());
        assert_eq!(code, Some(exit), "{more:?}: {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{more:?}: {error}");
    };
    for (text, words) in [
        ("[agent]\nlissten = \"off\"\n", ["hone.toml:2: unknown key `agent.lissten`", "did you mean `agent.listen`"]),
        ("[agnt]\n", ["hone.toml:1: unknown key `agnt`", "did you mean `agent`"]),
        ("[agent\n", ["hone.toml:1:", "hint: `hone init`"]),
        ("[agent]\nlisten = 5\n", ["hone.toml:2: `agent.listen`", "expected a string"]),
        ("[agent]\nlisten = \"0.0.0.0:80\"\n", ["`agent.listen` is 0.0.0.0:80", "loopback"]),
    ] {
        fs::write(device.path().join("hone.toml"), text).expect("a temporary folder can be written");
        refuses(&[], 3, &words);
    }
    fs::write(device.path().join("hone.toml"), [0xff, 0xfe, 0x00]).expect("a temporary folder can be written");
    refuses(&[], 3, &["cannot read", "hone.toml", "hint: --config names one file of TOML"]);
    device.set("");
    let rows = device.path().join("rows.csv");
    fs::write(&rows, "a,b,c,state\n1,2,3,low\n").expect("a temporary folder can be written");
    refuses(&["--model", rows.to_str().expect("letters")], 5, &["rows.csv is refused", "hone model inspect"]);
    refuses(&["--model", "/no/such/model"], 4, &["/no/such/model", "hone train"]);
    // Its port is somebody else's.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let listen = format!("[agent]\nlisten = \"{address}\"\n");
    fs::write(device.path().join("hone.toml"), listen).expect("a temporary folder can be written");
    refuses(&[], 3, &[&format!("cannot listen on {address}"), "`agent.listen` to another port"]);
    device.set("");
    // Its place is a file.
    let mut command = Command::new(hone());
    let output =
        command.args(["run", "--state-dir"]).arg(&rows).arg("--config").arg(device.path().join("hone.toml")).output();
    let output = output.expect("it can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert!(error.contains("rows.csv") && error.contains("choose another folder with `--state-dir`"), "{error}");
    // Its place is another agent's.
    let agent = device.start(Some(&model));
    refuses(&[], 6, &["is in use by process", "choose another with `--state-dir`"]);
    assert!(agent.terminate().success());
}

#[test]
fn what_belongs_to_another_user_is_refused_with_whom_to_ask_as() {
    let device = Device::new();
    // The binary and the settings may be read by all, as installed ones may; the state directory is root's.
    let folder = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let folder = folder.expect("a temporary folder");
    let (program, settings) = (folder.path().join("hone"), folder.path().join("hone.toml"));
    fs::copy(hone(), &program).expect("a copy");
    fs::write(&settings, "[agent]\nlisten = \"off\"\n").expect("settings");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(arguments);
        let output = command.arg("--config").arg(&settings).arg("--state-dir").arg(device.state_dir()).output().ok()?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("panicked"), "{error}");
        Some((output.status.code()?, error)).filter(|(code, _)| *code != 127 && *code != 126)
    };
    let Some((code, error)) = nobody(&["status"]).filter(|(_, error)| !error.contains("setpriv:")) else {
        eprintln!("SKIPPED: nobody else can be played here (needs root and setpriv)");
        return;
    };
    assert_eq!(code, 8, "{error}");
    assert!(
        error.contains("Permission denied") && error.contains("hint: ask as root, as the user it runs as"),
        "{error}"
    );
    drop(agent);
    let (code, error) = nobody(&["run"]).expect("it was started before");
    assert_eq!(code, 7, "{error}");
    assert!(error.contains("run it as the user the folder belongs to"), "{error}");
    fs::set_permissions(&settings, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
    let (code, error) = nobody(&["run"]).expect("it was started before");
    assert_eq!(code, 3, "{error}");
    assert!(
        error.contains("hone.toml: Permission denied") && error.contains("a user who may read that file"),
        "{error}"
    );
}

#[test]
fn a_backup_with_nowhere_to_go_and_a_restore_of_something_else_change_nothing() {
    let device = Device::new();
    let (code, error) = told(&device, &["backup", "/tmp/never.tar"]);
    assert_eq!(code, Some(4), "no state yet: {error}");
    assert!(error.contains("no agent has run there") && error.contains("--state-dir"), "{error}");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let (code, error) = told(&device, &["backup", "/no/such/folder/b.tar"]);
    assert_eq!(code, Some(7), "{error}");
    assert!(error.contains("/no/such/folder") && error.contains("hint: check the path"), "{error}");
    assert!(agent.terminate().success());
    let other = Device::new();
    for (name, bytes, words) in [
        ("empty.tar", Vec::new(), "it is empty, or ends too early"),
        ("junk.tar", vec![0x9f; 5_000], "no backup of hone"),
    ] {
        let file = other.path().join(name);
        fs::write(&file, bytes).expect("a temporary folder can be written");
        let (code, error) = told(&other, &["restore", file.to_str().expect("letters")]);
        assert_eq!(code, Some(4), "{error}");
        assert!(error.contains(name) && error.contains(words) && error.contains("hint: "), "{error}");
        assert!(!other.state_dir().join("control.db").exists());
    }
}
