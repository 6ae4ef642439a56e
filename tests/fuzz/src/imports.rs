//! Files of PgBouncer, Pgpool-II and HAProxy.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use forebay::config;
use forebay::config::hba::Files;
use forebay::import::{self, Tool};

use super::Choices;

/// The only files that there are: the first, and the one that it may name.
struct Two<'a>([(&'static str, &'a [u8]); 2]);

impl Files for Two<'_> {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        let found = self.0.iter().find(|(name, _)| file.file_name().is_some_and(|is| is == *name));
        found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// Knows every name, and never asks the network.
fn resolve(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
}

/// The first byte says whose files they are. Either an error with a place, or a configuration that is accepted.
pub(super) fn import(data: &[u8]) {
    let mut choices = Choices(data);
    let (tool, names) = match choices.byte() % 3 {
        0 => (Tool::PgBouncer, ["pgbouncer.ini", "userlist.txt"]),
        1 => (Tool::Pgpool, ["pgpool.conf", "pool_passwd"]),
        _ => (Tool::HaProxy, ["haproxy.cfg", "more.cfg"]),
    };
    let (first, second) = (choices.part(), choices.part());
    let [one, other] = names;
    let files = Two([(one, first), (other, second)]);
    let mut paths = vec![PathBuf::from(one)];
    paths.extend((!second.is_empty()).then(|| PathBuf::from(other)));
    match super::bounded(8 * data.len(), || import::import(tool, &paths, &files, resolve)) {
        Ok(made) => {
            let loaded = config::load_resolved(&made.text, "made.toml", Path::new("/"), resolve);
            if let Err(errors) = loaded {
                panic!("what was made is refused:\n{errors}\n{}", made.text);
            }
            assert!(made.notes.iter().all(|note| !note.is_empty()));
        }
        Err(error) => {
            let text = if error.file.ends_with(one) { first } else { second };
            let lines = String::from_utf8_lossy(text).lines().count();
            assert!(error.line <= lines, "{error}");
            assert!(!error.what.is_empty());
        }
    }
}
