//! The configuration.

use std::net::SocketAddr;
use std::path::Path;

use forebay::config;

/// Knows one name, and never asks the network.
fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    match host {
        "localhost" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
        _ => Err(std::io::Error::other("no such host")),
    }
}

fn load(text: &str) -> Result<config::Loaded, config::Diagnostics> {
    // Secrets in files are looked for from here, where none are.
    config::load_resolved(text, "f.toml", Path::new("/proc/self/task"), resolve)
}

/// A text is refused with errors that have a place, or it can be shown and read again with the same meaning.
pub(super) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let loaded = match super::bounded(text.len(), || load(text)) {
        Ok(loaded) => loaded.config,
        Err(found) => {
            assert!(!found.errors.is_empty());
            for error in found.errors.iter().chain(&found.warnings) {
                let lines = text.lines().count() + 1;
                assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error}");
                assert!(!error.message.is_empty());
            }
            return;
        }
    };
    let shown = config::show(&loaded);
    let again = match load(&shown) {
        Ok(again) => again.config,
        Err(errors) => panic!("what was shown is refused:\n{errors}\n{shown}"),
    };
    assert_eq!(config::show(&again), shown, "it is shown otherwise than it was read");
    // Secrets are stars there; everything else is as it was.
    for change in config::diff(&loaded, &again) {
        assert!(change.from.contains("***") || change.to.contains("***"), "{change:?} in\n{shown}");
    }
    assert_eq!(config::diff(&loaded, &loaded), []);
    let rows = config::rows(&loaded);
    assert!(rows.len() > 50);
}
