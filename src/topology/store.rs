//! What admins ordered about nodes and services, kept over restarts in `general.state_dir`.
//!
//! One small file for each kind, replaced as a whole: written beside, flushed, renamed, and the folder flushed. Nodes
//! are known by service, host and port, because names such as `pg1` move when the configuration's order changes.
//! Orders about what is not there now are kept: it may come back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::aside::Aside;
use super::events::EventLog;
use super::plan::Hold;

/// Whose orders a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    Redis,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres-nodes.json",
            Kind::Redis => "redis-nodes.json",
        }
    }
}

/// The orders in force and where they are kept.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    orders: Orders,
    /// Why the file must not be replaced: what it says is not known.
    barred: Option<String>,
    aside: Aside,
}

/// A share of reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Weight {
    /// As ordered.
    pub(super) is: u32,
    /// As the configuration had it then: one that has changed since is newer than the order.
    pub(super) instead_of: u32,
}

/// What is ordered about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) hold: Option<Hold>,
    pub(super) weight: Option<Weight>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Orders {
    version: u32,
    nodes: Vec<AboutNode>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paused: Vec<Paused>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AboutNode {
    /// Called `cluster` in version 1.
    #[serde(alias = "cluster")]
    service: String,
    host: String,
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<HeldState>,
    /// Who ordered the state.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<Weight>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HeldState {
    Draining,
    Detached,
}

/// A service whose failover is paused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paused {
    service: String,
    by: String,
}

const VERSION: u32 = 2;

impl Store {
    /// Reads the file in `state_dir`. One that is there and cannot be used is told of in the log and in `SHOW EVENTS`,
    /// and stays under a new name; the store starts empty then.
    pub(super) fn open(state_dir: &Path, kind: Kind, events: &EventLog) -> Self {
        let (store, damage) = Self::read(state_dir, kind);
        if let Some(damage) = damage {
            tracing::error!(damage, "the kept orders about nodes cannot be used");
            events.record("", 0, "state_damaged", "", &damage);
        }
        store
    }

    fn read(state_dir: &Path, kind: Kind) -> (Self, Option<String>) {
        let path = state_dir.join(kind.file());
        let mut store = Self { path, orders: Orders::none(), barred: None, aside: Aside::default() };
        let damage = match fs::read(&store.path) {
            Ok(bytes) => match parse(&bytes) {
                Ok(orders) => {
                    store.orders = orders;
                    return (store, None);
                }
                Err(why) => match set_aside(&store.path) {
                    Ok(aside) => format!("{why}; kept as {}", aside.display()),
                    Err(error) => {
                        let why = format!("{why}; it could not be set aside: {error}");
                        store.barred = Some(why.clone());
                        why
                    }
                },
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (store, None),
            Err(error) => {
                store.barred = Some(error.to_string());
                error.to_string()
            }
        };
        let told = format!("{}: {damage}; what was ordered earlier is not in force", store.path.display());
        (store, Some(told))
    }

    /// While it is set, another process keeps the orders.
    pub(super) fn yielding(mut self, aside: Aside) -> Self {
        self.aside = aside;
        self
    }

    /// The order in force on a node.
    pub(super) fn hold(&self, service: &str, host: &str, port: u16) -> Option<Hold> {
        self.about(service, host, port)?.hold()
    }

    /// The weight that was ordered.
    pub(super) fn weight(&self, service: &str, host: &str, port: u16) -> Option<Weight> {
        self.about(service, host, port)?.weight
    }

    /// Everything that is ordered about nodes of a service.
    pub(super) fn kept(&self, service: &str) -> Vec<Kept> {
        let of_service = self.orders.nodes.iter().filter(|about| about.service == service);
        of_service
            .map(|about| Kept { host: about.host.clone(), port: about.port, hold: about.hold(), weight: about.weight })
            .collect()
    }

    /// Who has paused the failover of a service.
    pub(super) fn paused(&self, service: &str) -> Option<&str> {
        let found = self.orders.paused.iter().find(|paused| paused.service == service)?;
        Some(&found.by)
    }

    fn about(&self, service: &str, host: &str, port: u16) -> Option<&AboutNode> {
        self.orders.nodes.iter().find(|about| about.is(service, host, port))
    }

    /// Replaces the order on a node, on disk before it returns. Blocks for a flush of the disk, as all of these do.
    pub(super) fn set_hold(&mut self, service: &str, host: &str, port: u16, hold: Option<&Hold>) -> Result<(), String> {
        let (state, by) = match hold {
            None => (None, ""),
            Some(Hold::Drain { by }) => (Some(HeldState::Draining), by.as_str()),
            Some(Hold::Detach { by }) => (Some(HeldState::Detached), by.as_str()),
        };
        self.change(|orders| {
            let about = orders.about_mut(service, host, port);
            about.state = state;
            about.by = by.to_owned();
        })
    }

    /// Replaces the weight of a node; `None` is the configuration's.
    pub(super) fn set_weight(
        &mut self,
        service: &str,
        host: &str,
        port: u16,
        weight: Option<Weight>,
    ) -> Result<(), String> {
        self.change(|orders| orders.about_mut(service, host, port).weight = weight)
    }

    /// Notes who has paused the failover of these services; `None`: they are not paused any more.
    pub(super) fn set_paused(&mut self, services: &[String], by: Option<&str>) -> Result<(), String> {
        self.change(|orders| {
            orders.paused.retain(|paused| !services.contains(&paused.service));
            let paused = |service: &String, by: &str| Paused { service: service.clone(), by: by.to_owned() };
            orders.paused.extend(by.into_iter().flat_map(|by| services.iter().map(move |s| paused(s, by))));
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut Orders)) -> Result<(), String> {
        self.aside.check()?;
        let mut orders = self.orders.clone();
        change(&mut orders);
        orders.nodes.retain(|about| about.state.is_some() || about.weight.is_some());
        if orders == self.orders {
            return Ok(());
        }
        let written = match &self.barred {
            Some(why) => Err(format!("{}: {why}", self.path.display())),
            None => serde_json::to_vec_pretty(&orders)
                .map_err(io::Error::from)
                .and_then(|bytes| replace(&self.path, &bytes))
                .map_err(|error| error.to_string()),
        };
        written.map_err(|why| format!("nothing changed: it could not be kept in general.state_dir: {why}"))?;
        self.orders = orders;
        Ok(())
    }
}

impl Orders {
    fn none() -> Self {
        Self { version: VERSION, nodes: Vec::new(), paused: Vec::new() }
    }

    /// What is ordered about a node: at the end of the list, and empty, if nothing was.
    fn about_mut(&mut self, service: &str, host: &str, port: u16) -> &mut AboutNode {
        let (mut known, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.nodes).into_iter().partition(|about| about.is(service, host, port));
        self.nodes = others;
        let new = || AboutNode {
            service: service.to_owned(),
            host: host.to_owned(),
            port,
            state: None,
            by: String::new(),
            weight: None,
        };
        self.nodes.push_mut(known.pop().unwrap_or_else(new))
    }
}

impl AboutNode {
    fn is(&self, service: &str, host: &str, port: u16) -> bool {
        self.service == service && self.host == host && self.port == port
    }

    fn hold(&self) -> Option<Hold> {
        let by = self.by.clone();
        Some(match self.state? {
            HeldState::Draining => Hold::Drain { by },
            HeldState::Detached => Hold::Detach { by },
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Orders, String> {
    let orders: Orders = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match orders.version {
        1..=VERSION => Ok(Orders { version: VERSION, ..orders }),
        other => Err(format!("version {other}, this program knows {VERSION}")),
    }
}

/// Renames a file to a name that no file has; the answer is that name.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let names = (1_u32..).map(|n| match n {
        1 => path.with_extension("json.damaged"),
        n => path.with_extension(format!("json.damaged.{n}")),
    });
    for aside in names.take(1000) {
        if fs::symlink_metadata(&aside).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::other("too many damaged files are there already"))
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

    fn open(folder: &Path) -> (Store, Option<String>) {
        Store::read(folder, Kind::Postgres)
    }

    fn detach(by: &str) -> Hold {
        Hold::Detach { by: by.to_owned() }
    }

    #[test]
    fn orders_outlive_the_process() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let (mut store, damage) = open(dir.path());
        assert_eq!(damage, None, "a first start is no damage");
        let weight = Weight { is: 3, instead_of: 1 };
        store.set_hold("main", "db1", 5432, Some(&Hold::Drain { by: "ann".to_owned() })).expect("written");
        store.set_hold("main", "db2", 5432, Some(&detach("bob"))).expect("written");
        store.set_weight("main", "db2", 5432, Some(weight)).expect("written");
        store.set_weight("main", "db3", 5432, Some(weight)).expect("written");
        store.set_hold("main", "db1", 5432, None).expect("written");
        store.set_paused(&["main".to_owned(), "other".to_owned()], Some("ann")).expect("written");
        store.set_paused(&["other".to_owned()], None).expect("written");

        let (again, damage) = open(dir.path());
        assert_eq!(damage, None);
        assert_eq!(again.hold("main", "db1", 5432), None, "taken back");
        assert_eq!(again.hold("main", "db2", 5432), Some(detach("bob")));
        assert_eq!(again.weight("main", "db2", 5432), Some(weight));
        assert_eq!(again.hold("main", "db2", 5433), None, "another server on that host");
        assert_eq!(again.hold("other", "db2", 5432), None, "another cluster");
        assert_eq!((again.paused("main"), again.paused("other")), (Some("ann"), None));
        let hosts: Vec<String> = again.kept("main").into_iter().map(|kept| kept.host).collect();
        assert_eq!(hosts, ["db2", "db3"], "no word about a node that nothing is ordered about");
        assert_eq!(Store::read(dir.path(), Kind::Redis).0.kept("main"), [], "each kind has a file of its own");
    }

    #[test]
    fn the_file_of_an_older_version_is_read() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let text =
            r#"{"version":1,"nodes":[{"cluster":"main","host":"db1","port":5432,"state":"detached","by":"ann"}]}"#;
        fs::write(dir.path().join("postgres-nodes.json"), text).expect("written");
        let (store, damage) = open(dir.path());
        assert_eq!((store.hold("main", "db1", 5432), damage), (Some(detach("ann")), None));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_told() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let damaged =
            ["{", "", r#"{"version":3,"nodes":[]}"#, r#"{"version":1,"nodes":[{}]}"#, r#"{"other":"program"}"#];
        for (n, text) in damaged.into_iter().enumerate() {
            fs::write(dir.path().join("postgres-nodes.json"), text).expect("written");
            let (mut store, damage) = open(dir.path());
            let told = damage.unwrap_or_else(|| panic!("{text:?} was taken for a state file"));
            let name = if n == 0 { String::new() } else { format!(".{}", n + 1) };
            let name = format!("postgres-nodes.json.damaged{name}");
            assert!(told.contains(&format!("{name};")), "the report names the copy: {told}");
            let kept = fs::read_to_string(dir.path().join(name)).expect("the copy");
            assert_eq!(kept, text, "and no earlier copy is lost by it");
            store.set_hold("main", "db1", 5432, Some(&detach("ann"))).expect("starts afresh");
            assert!(open(dir.path()).1.is_none());
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        fs::create_dir(dir.path().join("postgres-nodes.json")).expect("something that is no file");
        let (mut store, damage) = open(dir.path());
        assert!(damage.is_some());
        let refused = store.set_hold("main", "db1", 5432, Some(&detach("ann"))).expect_err("it would be lost");
        assert!(refused.contains("nothing changed"), "{refused}");
        assert_eq!(store.hold("main", "db1", 5432), None);
    }

    #[test]
    fn what_cannot_be_written_is_not_believed() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let (mut store, _) = open(dir.path());
        fs::create_dir(dir.path().join("postgres-nodes.json.new")).expect("in the way");
        assert!(store.set_hold("main", "db1", 5432, Some(&detach("ann"))).is_err());
        assert_eq!(store.hold("main", "db1", 5432), None);
    }
}
