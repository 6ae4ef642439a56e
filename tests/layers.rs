//! Imports point down only: every `use crate::x` in `src/` must be an edge of the table below.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What each room may import, from the leaves up.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("sql", &[]),
    ("config", &["wire"]),
    ("net", &["config"]),
    ("pool", &[]),
    ("worker", &["net"]),
    ("guard", &["worker", "net", "config", "wire"]),
    ("topology", &["worker", "pool", "net", "config", "wire", "sql"]),
    ("pg", &["topology", "guard", "worker", "pool", "net", "config", "wire", "sql"]),
    ("redis", &["topology", "guard", "worker", "pool", "net", "config", "wire"]),
    ("ops", &["pg", "redis", "topology", "guard", "worker", "pool", "net", "config", "wire", "sql"]),
    ("admin", &["ops", "pg", "redis", "topology", "guard", "worker", "pool", "net", "config", "wire", "sql"]),
    ("import", &["config", "wire"]),
    ("init", &["topology", "net", "config"]),
    ("cli", &["admin", "ops", "init", "import", "config"]),
    ("main", &["cli"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn room(root: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(root).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms named after `crate::` in a file, in imports and in paths.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let names: Vec<&str> = match after.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
            None => vec![after],
        };
        for name in names {
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn imports_point_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "found only {} source files", files.len());
    let mut wrong = Vec::new();
    let mut edges = 0;
    for file in files {
        let room = room(&root, &file);
        if room == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room {room} is not in the table", file.display()));
            continue;
        };
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            edges += 1;
            let is_room = MAY_IMPORT.iter().any(|(name, _)| *name == import);
            if is_room && import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{}: {room} must not import {import}", file.display()));
            }
        }
    }
    assert!(edges > 100, "found only {edges} imports");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_has_outgrown_its_room() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let long: Vec<String> = files
        .iter()
        .map(|file| (file, std::fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 800)
        .map(|(file, lines)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "something wants to move out of:\n{}", long.join("\n"));
}
