//! What a file may say, what is refused, and where the finger points.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::*;

/// The shortest file that is accepted, to which tests add.
const BASE: &str = "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"127.0.0.1:5432\"]\n\
    [[postgres.user]]\nname = \"app\"\npassword = \"app\"\n";

/// Knows one name, and never asks the network.
fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    match host {
        "localhost" => {
            Ok(vec![SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)), SocketAddr::from(([127, 0, 0, 1], port))])
        }
        _ => Err(std::io::Error::other("no such host")),
    }
}

fn try_load(text: &str) -> Result<Loaded, Diagnostics> {
    read(text, "f.toml", reader::Reader::new(Path::new(""), resolve), None)
}

#[track_caller]
fn accepted(text: &str) -> Config {
    match try_load(text) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{text}\nwas refused:\n{errors}"),
    }
}

#[track_caller]
fn errors(text: &str) -> Vec<String> {
    match try_load(text) {
        Ok(_) => panic!("{text}\nwas accepted"),
        Err(found) => found.errors.iter().map(ToString::to_string).collect(),
    }
}

/// `line` appended to the base is refused with exactly these errors, whose line numbers count from the appended text.
#[track_caller]
fn refused(lines: &str, expected: &[&str]) {
    let offset = BASE.lines().count();
    let expected: Vec<_> = expected
        .iter()
        .map(|error| {
            let (line, rest) = error.split_once(':').expect("LINE:COL: message");
            format!("f.toml:{}:{rest}", line.parse::<usize>().expect("a line number") + offset)
        })
        .collect();
    assert_eq!(errors(&format!("{BASE}{lines}")), expected);
}

#[track_caller]
fn warnings(lines: &str) -> Vec<String> {
    let loaded = try_load(&format!("{BASE}{lines}")).unwrap_or_else(|errors| panic!("{lines}: {errors}"));
    let offset = BASE.lines().count();
    let relative = loaded
        .warnings
        .into_iter()
        .map(|warning| format!("{}:{}: {}", warning.line as i64 - offset as i64, warning.column, warning.message));
    relative.collect()
}

mod coordination;
mod files;
mod hba;
mod names;
mod places;
mod redis;
mod values;
mod views;
