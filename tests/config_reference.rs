//! `conf/` and `docs/configuration.md` say what the program does: every key, its default, and nothing else.
//!
//! With `FOREBAY_WRITE_DOCS=1` the tables of `docs/configuration.md` are written instead of compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forebay::config::{KeyInfo, Shape, load, load_str, reference, show};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A line of the reference file: what it means and whether it is in force.
#[derive(Debug, PartialEq)]
enum Line {
    Header(String),
    Key { name: String, value: String, is_active: bool },
    Prose,
}

fn parse(line: &str) -> Line {
    let (text, is_active) = match line.strip_prefix("# ") {
        Some(text) => (text, false),
        None => (line, true),
    };
    if text.starts_with('[') && text.ends_with(']') && !text.contains(' ') {
        return Line::Header(text.trim_matches(['[', ']']).to_owned());
    }
    match text.split_once(" = ") {
        Some((name, value)) if name.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.')) => {
            Line::Key { name: name.to_owned(), value: value.to_owned(), is_active }
        }
        _ => Line::Prose,
    }
}

/// Value and whether it is active, by full path.
fn keys_of_reference_file() -> BTreeMap<String, (String, bool)> {
    let mut section = String::new();
    let mut keys = BTreeMap::new();
    for line in read("conf/forebay.toml").lines() {
        match parse(line) {
            Line::Header(name) => section = name,
            Line::Key { name, value, is_active } => {
                let before = keys.insert(format!("{section}.{name}"), (value, is_active));
                assert_eq!(before, None, "{section}.{name} is there twice");
            }
            Line::Prose => {}
        }
    }
    keys
}

/// What has a line of its own in the file: inherited keys and keys of inline tables are described in words.
fn own_keys() -> impl Iterator<Item = &'static KeyInfo> {
    reference().iter().filter(|key| key.inherited.is_none() && key.shape != Shape::Inline)
}

#[test]
fn the_reference_file_has_every_key_with_its_default_and_no_other() {
    let mut in_file = keys_of_reference_file();
    for key in own_keys() {
        let (value, is_active) =
            in_file.remove(&key.path()).unwrap_or_else(|| panic!("conf/forebay.toml lacks {}", key.path()));
        match key.default {
            Some(default) if !is_active => {
                assert_eq!(value, default, "the default of {}", key.path())
            }
            _ => {}
        }
    }
    assert_eq!(in_file, BTreeMap::new(), "keys in conf/forebay.toml that the program does not know");
}

#[test]
fn the_reference_file_names_the_keys_of_inline_tables() {
    let text = read("conf/forebay.toml");
    let tables: String = text.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
    for key in reference().iter().filter(|key| key.shape == Shape::Inline) {
        assert!(tables.contains(&format!(" {} = ", key.name)), "conf/forebay.toml does not show {}", key.path());
    }
}

#[test]
fn the_reference_file_is_right_when_everything_is_uncommented() {
    let uncommented: String = read("conf/forebay.toml")
        .lines()
        .flat_map(|line| {
            match parse(line) {
                // Examples of secrets' files do not exist here.
                Line::Key { name, value, .. } if value.starts_with("{ file") => {
                    format!("{name} = \"x\"\n")
                }
                Line::Key { name, value, .. } => format!("{name} = {value}\n"),
                Line::Header(_) => format!("{}\n", line.trim_start_matches("# ")),
                Line::Prose => String::from("\n"),
            }
            .chars()
            .collect::<Vec<_>>()
        })
        .collect();
    let errors = match load_str(&uncommented, "forebay.toml", Path::new("")) {
        Ok(_) => panic!("what rules out something else must be refused"),
        Err(found) => found.errors,
    };
    let known = [
        // The example leaves out either of the two.
        "there is already",
        "redis.service \"cache\" has a master_name, but no sentinels",
        "redis.service \"cache\" has a sentinel_tls, but no sentinels",
        "redis.service \"cache\" must have",
    ];
    for error in &errors {
        assert!(known.iter().any(|part| error.message.contains(part)), "{error}");
    }
}

#[test]
fn every_file_in_conf_loads() {
    let mut count = 0;
    for entry in std::fs::read_dir(repository("conf")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let loaded = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
            let shown = show(&loaded.config);
            // What is shown has *** for passwords, which is a password like any other.
            load_str(&shown, "shown", Path::new("")).unwrap_or_else(|errors| panic!("{}:\n{errors}", path.display()));
            count += 1;
        }
    }
    assert!(count >= 2, "conf/ holds forebay.toml and minimal.toml");
}

#[test]
fn every_example_loads_without_a_warning() {
    let examples = std::fs::read_dir(repository("conf/examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for path in examples.chain([repository("docker/forebay.toml")]) {
        // Their secrets are not here.
        let text: String = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| match line.split_once(" = { env = ").or_else(|| line.split_once(" = { file = ")) {
                Some((name, rest)) => format!("{name} = \"x\" {}\n", rest.split_once('}').unwrap().1),
                None => format!("{line}\n"),
            })
            .collect();
        let shown = path.display().to_string();
        let loaded = load_str(&text, &shown, Path::new("")).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.warnings, [], "{shown}");
        count += 1;
    }
    assert!(count >= 3, "conf/examples holds forum.toml and chat.toml");
}

#[test]
fn the_shipped_examples_have_no_warnings_and_default_values() {
    // As texts: who may read the files of a checkout is its owner's business.
    let load = |path| load_str(&read(path), path, &repository("conf")).unwrap();
    let loaded = load("conf/minimal.toml");
    assert_eq!(loaded.warnings, []);
    let reference = load("conf/forebay.toml");
    assert_eq!(reference.warnings, []);
    assert_eq!(reference.config, loaded.config, "the reference changes no default");
}

#[test]
fn the_docs_have_every_key() {
    let path = "docs/configuration.md";
    let old = read(path);
    let mut new = String::new();
    let mut shown = Vec::new();
    let mut is_table = false;
    for line in old.lines() {
        is_table &= line != "<!-- end -->";
        if !is_table {
            new.push_str(line);
            new.push('\n');
        }
        if let Some(section) = line.strip_prefix("<!-- keys: ").and_then(|rest| rest.strip_suffix(" -->")) {
            is_table = true;
            new.push_str(&table(section));
            shown.push(section.to_owned());
        }
    }
    for key in reference() {
        assert!(shown.iter().any(|section| section == key.section), "{path} has no table for {}", key.section);
    }
    if std::env::var_os("FOREBAY_WRITE_DOCS").is_some() {
        std::fs::write(repository(path), &new).unwrap();
        return;
    }
    assert!(old == new, "{path} is not what the program says; run this test with FOREBAY_WRITE_DOCS=1");
}

fn table(section: &str) -> String {
    let keys: Vec<_> = reference().iter().filter(|key| key.section == section && key.inherited.is_none()).collect();
    assert!(!keys.is_empty(), "docs/configuration.md speaks of {section}, which does not exist");
    let mut text = String::from("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in keys {
        let default = match key.default {
            Some(default) => format!("`{default}`"),
            None if key.is_required => "required".to_owned(),
            None => "-".to_owned(),
        };
        let mut meaning = key.doc.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        if key.needs_restart {
            meaning.push_str(" Restart.");
        }
        let form = key.form.replace('|', "\\|");
        text.push_str(&format!("| `{}` | {form} | {default} | {meaning} |\n", key.name));
    }
    text
}
