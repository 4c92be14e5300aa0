//! Every input the fuzzer kept, replayed: no panic, and nothing accepted that breaks what must be true of it.
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn the_corpus_of_each_target_is_replayed_without_a_finding() {
    for target in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
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
