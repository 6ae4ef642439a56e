//! What admins ordered about nodes, kept over restarts in `general.state_dir`.
//!
//! One small file, replaced as a whole: written beside, flushed, renamed, and the folder flushed. Nodes are known
//! by cluster, host and port, because the names `pg1`, `pg2` move when the configuration's order changes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Hold;

const FILE: &str = "postgres-nodes.json";

/// The orders in force and where they are kept.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    held: Vec<Held>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    cluster: String,
    host: String,
    port: u16,
    state: HeldState,
    by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HeldState {
    Draining,
    Detached,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    nodes: Vec<Held>,
}

const VERSION: u32 = 1;

impl Store {
    /// Reads the file in `state_dir`. The text is what to report when it is there and cannot be used; such a file
    /// is set aside under a new name, and the store starts empty.
    pub(super) fn open(state_dir: &Path) -> (Self, Option<String>) {
        let path = state_dir.join(FILE);
        let (held, damage) = match fs::read(&path) {
            Ok(bytes) => match parse(&bytes) {
                Ok(held) => (held, None),
                Err(why) => {
                    let lost = "nodes detached or drained earlier are in service again";
                    (Vec::new(), Some(format!("{}; {lost}", set_aside(&path, &why))))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
            Err(error) => {
                let told = format!("{}: {error}; nodes detached or drained earlier are not known", path.display());
                (Vec::new(), Some(told))
            }
        };
        (Self { path, held }, damage)
    }

    /// The order in force on a node.
    pub(super) fn hold(&self, cluster: &str, host: &str, port: u16) -> Option<Hold> {
        let held = self.held.iter().find(|held| held.is(cluster, host, port))?;
        let by = held.by.clone();
        Some(match held.state {
            HeldState::Draining => Hold::Drain { by },
            HeldState::Detached => Hold::Detach { by },
        })
    }

    /// Replaces the order on a node, on disk before it returns. Blocks for a flush of the disk.
    pub(super) fn set(&mut self, cluster: &str, host: &str, port: u16, hold: Option<&Hold>) -> io::Result<()> {
        let mut held = self.held.clone();
        held.retain(|held| !held.is(cluster, host, port));
        held.extend(hold.map(|hold| {
            let (state, by) = match hold {
                Hold::Drain { by } => (HeldState::Draining, by.clone()),
                Hold::Detach { by } => (HeldState::Detached, by.clone()),
            };
            Held { cluster: cluster.to_owned(), host: host.to_owned(), port, state, by }
        }));
        if held == self.held {
            return Ok(());
        }
        let document = Document { version: VERSION, nodes: held };
        replace(&self.path, &serde_json::to_vec_pretty(&document)?)?;
        self.held = document.nodes;
        Ok(())
    }
}

impl Held {
    fn is(&self, cluster: &str, host: &str, port: u16) -> bool {
        self.cluster == cluster && self.host == host && self.port == port
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Held>, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match document.version {
        VERSION => Ok(document.nodes),
        other => Err(format!("version {other}, this program knows {VERSION}")),
    }
}

/// Gives a file that cannot be used another name; the answer is what to report.
pub(super) fn set_aside(path: &Path, why: &str) -> String {
    let aside = path.with_extension("json.damaged");
    let kept = match fs::rename(path, &aside) {
        Ok(()) => format!("kept as {}", aside.display()),
        Err(error) => format!("could not be set aside: {error}"),
    };
    format!("{}: {why}; {kept}", path.display())
}

/// Replaces a file as a whole, on disk before it returns. It is for its owner only.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let beside = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn orders_outlive_the_process() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let (mut store, damage) = Store::open(dir.path());
        assert_eq!(damage, None, "a first start is no damage");
        store.set("main", "db1", 5432, Some(&Hold::Drain { by: by("ann") })).expect("written");
        store.set("main", "db2", 5432, Some(&Hold::Detach { by: by("bob") })).expect("written");
        store.set("main", "db1", 5432, None).expect("written");

        let (again, damage) = Store::open(dir.path());
        assert_eq!(damage, None);
        assert_eq!(again.hold("main", "db1", 5432), None, "taken back");
        assert_eq!(again.hold("main", "db2", 5432), Some(Hold::Detach { by: by("bob") }));
        assert_eq!(again.hold("main", "db2", 5433), None, "another server on that host");
        assert_eq!(again.hold("other", "db2", 5432), None, "another cluster");
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_told() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        for text in ["{", "", r#"{"version":2,"nodes":[]}"#, r#"{"version":1,"nodes":[{}]}"#] {
            fs::write(dir.path().join(FILE), text).expect("written");
            let (mut store, damage) = Store::open(dir.path());
            let told = damage.unwrap_or_else(|| panic!("{text:?} was taken for a state file"));
            assert!(told.contains("json.damaged"), "the report names the copy: {told}");
            let kept = fs::read_to_string(dir.path().join("postgres-nodes.json.damaged")).expect("the copy");
            assert_eq!(kept, text);
            store.set("main", "db1", 5432, Some(&Hold::Detach { by: by("ann") })).expect("starts afresh");
            assert!(Store::open(dir.path()).1.is_none());
        }
    }

    #[test]
    fn what_cannot_be_written_is_not_believed() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let occupied = dir.path().join("file");
        fs::write(&occupied, "").expect("written");
        let (mut store, _) = Store::open(&occupied);
        assert!(store.set("main", "db1", 5432, Some(&Hold::Detach { by: by("ann") })).is_err());
        assert_eq!(store.hold("main", "db1", 5432), None);
    }
}
