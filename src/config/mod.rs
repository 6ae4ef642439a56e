//! The configuration: read from TOML, checked as a whole, and handed to the rest of the program as one value.
//!
//! [`load`] is the only way to a [`Config`]: what it returns has passed every check, so that nothing below asks
//! again. All errors of a file are reported together, each with its position and a way out. The tables in `keys/`
//! define every key once; see `keys.rs`.

mod address;
mod check;
mod diagnostic;
mod exposed;
pub mod hba;
mod keys;
pub mod model;
mod network;
mod numbers;
mod reader;
mod secret;
mod setting;
mod suggest;
mod units;
mod verifier;
mod view;

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use toml::de::DeTable;
use zeroize::Zeroizing;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use keys::{KeyInfo, Shape, reference};
pub use model::*;
pub use network::Network;
pub use reader::Resolve;
pub use setting::quote;
pub use units::duration;
pub use view::{Change, ConfigRow, diff, rows, set, show};

/// An accepted file.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What its author should look at, in file order.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks a file. Secrets in files of their own are looked for from the file's folder. Host names of
/// listeners are resolved, so this may wait for DNS; call it outside of data threads.
///
/// # Errors
/// Every error of the file, in file order; only the first when it is not TOML.
pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| Diagnostics {
        errors: vec![Diagnostic {
            file: file.clone(),
            line: 0,
            column: 0,
            message: format!("cannot read it: {error}"),
        }],
        warnings: Vec::new(),
    })?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    read(&text, &file, reader::Reader::new(base_dir, by_system), Some(path))
}

/// Reads and checks a text as if it stood in the file `file_name` in the folder `base_dir`.
///
/// # Errors
/// As [`load`].
pub fn load_str(text: &str, file_name: &str, base_dir: &Path) -> Result<Loaded, Diagnostics> {
    load_resolved(text, file_name, base_dir, by_system)
}

/// As [`load_str`], with another way from a listener's host name to addresses: tests ask no network.
///
/// # Errors
/// As [`load`].
pub fn load_resolved(text: &str, file_name: &str, base_dir: &Path, resolve: Resolve) -> Result<Loaded, Diagnostics> {
    read(text, file_name, reader::Reader::new(base_dir, resolve), None)
}

/// The system's way from a host name to addresses: waits for DNS.
///
/// # Errors
/// The resolver's.
pub fn by_system(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Vec::from_iter)
}

/// `path` is where the text was read, if it was.
fn read(text: &str, file: &str, mut reader: reader::Reader<'_>, path: Option<&Path>) -> Result<Loaded, Diagnostics> {
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            let message = match (error.message(), text.get(span.clone())) {
                ("duplicate key", Some(key)) => format!("{key} is written twice; keep one"),
                (message, _) => format!("this is not TOML: {message}"),
            };
            reader.error_at(span.start, message);
            let (errors, warnings) = reader.finish(file, text);
            return Err(Diagnostics { errors, warnings });
        }
    };
    let config = config(root.get_ref(), &mut reader);
    if let Some((offset, key)) = reader.clear_secret()
        && let Some(why) = path.and_then(exposed::by_others)
    {
        let message = format!("{key} stands here, and {why}, or take it from {{ file = \"...\" }}");
        reader.warning_at(offset, message);
    }
    let (errors, warnings) = reader.finish(file, text);
    if errors.is_empty() { Ok(Loaded { config, warnings }) } else { Err(Diagnostics { errors, warnings }) }
}

fn config(root: &DeTable<'_>, reader: &mut reader::Reader<'_>) -> Config {
    reader.refuse_unknown_sections(root);
    let mut config = Config {
        general: reader.one(root),
        admin: Admin { users: reader.many(root), ..reader.one(root) },
        postgres: Postgres {
            pool: reader.one(root),
            routing: reader.one(root),
            failover: reader.one(root),
            clusters: reader.many(root),
            databases: reader.many(root),
            users: reader.many(root),
            ..reader.one(root)
        },
        redis: reader.many(root),
        security: reader.one(root),
        notify: reader.one(root),
        telemetry: reader.one(root),
        coordination: Some(reader.one::<Coordination>(root)).filter(|c| !c.etcd.is_empty()),
        secret_variables: BTreeSet::new(),
    };
    check::complete_and_check(&mut config, reader);
    config.secret_variables = reader.take_secret_variables();
    config
}

#[cfg(test)]
mod tests;
