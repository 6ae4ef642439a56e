//! Every input of the fuzz targets' corpora, through the same functions that cargo-fuzz runs: what was found once stays
//! mended, without a fuzzer. `scripts/fuzz` looks for new ones.

#[allow(dead_code, reason = "libFuzzer's way in is not ours")]
#[path = "fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let known: BTreeSet<String> = fuzz::TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(known.len(), fuzz::TARGETS.len(), "a name is there twice");
    assert_eq!(names(&folder().join("corpus")), known, "folders in tests/fuzz/corpus");
    let programs = names(&folder().join("bin"));
    let expected: BTreeSet<String> = known.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(programs, expected, "files in tests/fuzz/bin");
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &known {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"bin/{name}.rs\"")), "{name} has no [[bin]]");
        let program = std::fs::read_to_string(folder().join(format!("bin/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\", data)")), "bin/{name}.rs runs another target");
    }
}

#[test]
fn no_input_of_the_corpora_makes_a_target_fail() {
    let mut bytes = 0;
    for (name, target) in fuzz::TARGETS {
        let folder = folder().join("corpus").join(name);
        let inputs = names(&folder);
        assert!(inputs.len() >= 3, "{} has only {} inputs", folder.display(), inputs.len());
        for input in inputs {
            let data = std::fs::read(folder.join(&input)).unwrap();
            bytes += data.len();
            let ended = std::panic::catch_unwind(|| target(&data));
            assert!(ended.is_ok(), "tests/fuzz/corpus/{name}/{input} makes the target fail, see above");
        }
    }
    assert!(bytes < 1_000_000, "the corpora have grown to {bytes} bytes; minimise them: scripts/fuzz --minimise");
}
