//! Who is the primary and what is being done about it, as it is on disk.
//!
//! One file a cluster in `general.state_dir`, replaced as a whole before the step that it describes. Nodes are known by
//! host and port, because names and places move when the configuration changes.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::doubt::Settled;
use crate::topology::aside::Aside;
use crate::topology::lsn::Lsn;
use crate::topology::store::{replace, set_aside};

const VERSION: u32 = 1;

/// A server, by where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct At {
    /// As in the configuration.
    pub host: String,
    /// As in the configuration.
    pub port: u16,
}

impl At {
    /// Where no server is.
    pub fn nobody() -> Self {
        Self { host: String::new(), port: 0 }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is decided about one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of PostgreSQL, `pg_control_system()`; `None` where the monitoring login may not see it.
    pub system_identifier: Option<u64>,
    /// Grows with each accepted primary.
    pub epoch: u64,
    /// The accepted primary.
    pub primary: At,
    /// The timeline that it writes.
    pub timeline: u32,
    /// Where that timeline began, if we began it.
    pub fork: Option<Lsn>,
    /// How the primary was when it was last looked at, for proofs after a restart.
    #[serde(default)]
    pub seen: Option<LastSeen>,
    /// What is under way.
    pub job: Option<Job>,
    /// Replicas whose upstream we have changed or will have to change: each is led to the primary as soon as no job
    /// needs it where it is.
    pub astray: Vec<Astray>,
    /// Nodes that could not be asked when the primary was changed: should they follow the one before, they are astray.
    pub unasked: Vec<At>,
    /// Nodes that we have made read-only: one takes writes again when it is the primary.
    pub read_only: Vec<At>,
    /// The primary may have been restarted as a standby, by us: it is promoted again when it says that it is one.
    #[serde(default)]
    pub demoted: bool,
    /// The primary before this one, if we have made this one.
    #[serde(default)]
    pub former: Option<At>,
    /// None of these becomes the primary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strays: Vec<Stray>,
    /// COMMITs to the primary before whose answers were lost, with what their clients are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_doubt: Vec<Settled>,
}

/// What a promotion has to know of a primary that cannot be asked any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastSeen {
    /// The end of what was safe on its disk.
    pub flushed: Lsn,
    /// What its commits waited for.
    pub synchronous: Awaited,
    /// How much more it may have acknowledged, bytes of log.
    #[serde(default)]
    pub unseen: u64,
}

/// What a commit on a primary waits for, as the primary said last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Awaited {
    /// `synchronous_standby_names`
    pub setting: String,
    /// As which the primary itself would be known if it were a standby; empty if it does not say. The same setting is
    /// often given to all nodes.
    pub own_name: String,
    /// Names of the standbys that a commit may have waited for, those that are no nodes of the cluster included
    /// (`pg_stat_replication`); empty for one that the login may not see.
    pub senders: Vec<String>,
}

/// A replica whose `primary_conninfo` is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Astray {
    /// The replica.
    pub at: At,
    /// Its `primary_conninfo` before. Holds a password, perhaps: the file is for its owner only.
    pub conninfo: String,
    /// Its `primary_slot_name` before; empty for none.
    pub slot: String,
    /// As which the primary knew it: what `synchronous_standby_names` may name.
    pub standby: String,
    /// The primary of that time.
    pub upstream: At,
}

/// A node that was promoted, or may be, beside a primary that went on or another that took its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stray {
    /// Which.
    pub at: At,
    /// How it came to that.
    pub how: Strayed,
}

/// See [`Stray`]. Once its server was restarted and it has replayed what the primary wrote, a node is no stray any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Strayed {
    /// It takes writes: if it says that it is in recovery, it was restarted.
    Promoted,
    /// It was told to promote and given up; until it is restarted it may still do so.
    Told {
        /// `pg_postmaster_start_time()` then, microseconds since 1970, if that is known.
        started: Option<i64>,
    },
}

/// A change of the primary that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Why there is one.
    pub kind: Kind,
    /// An admin's name; empty for Forebay itself.
    pub by: String,
    /// In words, what was seen or ordered.
    pub why: String,
    /// The replica that has to be promoted; the best one if `None`.
    pub to: Option<At>,
    /// `ALLOW DATA LOSS`
    pub allow_loss: bool,
    /// `MODE clean`
    #[serde(default)]
    pub is_clean: bool,
    /// Several instances: what is under way on the old primary reaches no client any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    /// Nothing listens where the primary did, so that it need not be waited for as long as a silent one.
    pub is_refused: bool,
    /// The last position of the old primary that was seen.
    pub known: Option<Lsn>,
    /// Nothing was written after it.
    #[serde(default)]
    pub is_exact: bool,
    /// How much more was acknowledged perhaps, bytes of log, as an earlier attempt knew.
    #[serde(default)]
    pub unseen: u64,
    /// How long before this job began that position was asked for, ms.
    #[serde(default)]
    pub known_ago_ms: Option<u64>,
    /// What commits on the old primary waited for, as last seen.
    pub synchronous: Awaited,
    /// How far it has come.
    pub step: Step,
}

/// Kinds of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The primary is lost, as the detector found.
    Failover,
    /// The primary is lost, as an admin said: it is not waited for.
    Ordered,
    /// The primary is well and steps down.
    Switchover,
    /// The primary was restarted as a standby for a switchover that was undone, and takes writes again.
    Return,
    /// Somebody else has promoted another, which all instances have to accept together.
    Followed,
}

/// Steps of a job, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Replicas are made to connect to the old primary anew: one that can proves that it lives.
    Witnessing,
    /// Replicas stop receiving, so that none of them gets any further.
    Freezing,
    /// The old primary of a switchover stops taking writes.
    Fencing,
    /// `MODE clean`: a candidate is chosen while the old primary is still as it was.
    Preparing,
    /// `MODE clean`: the old primary is told whom to follow, and is being restarted as a standby.
    Demoting {
        /// Who will be promoted.
        candidate: At,
    },
    /// `MODE clean`: the candidate has to have exactly what the old primary has.
    Comparing {
        /// Who will be promoted.
        candidate: At,
    },
    /// The candidate replays what it has to have.
    CatchingUp {
        /// Who will be promoted.
        candidate: At,
        /// Up to here.
        target: Lsn,
    },
    /// From here on there is no way back: the candidate may have been told.
    Promoting {
        /// Who.
        candidate: At,
        /// Where its new timeline begins, or earlier.
        from: Lsn,
    },
    /// The old primary stays; what was changed is changed back.
    Undoing {
        /// For whoever asks.
        why: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Witnessing => f.write_str("asks the replicas whether the primary lives"),
            Step::Freezing => f.write_str("stops the replicas from receiving"),
            Step::Fencing => f.write_str("stops the old primary from taking writes"),
            Step::Preparing => f.write_str("chooses whom to promote"),
            Step::Demoting { candidate } => write!(f, "restarts the old primary as a standby of {candidate}"),
            Step::Comparing { candidate } => write!(f, "waits until {candidate} has all that the old primary has"),
            Step::CatchingUp { candidate, target } => write!(f, "waits until {candidate} has replayed up to {target}"),
            Step::Promoting { candidate, from } => write!(f, "promotes {candidate}, which has everything up to {from}"),
            Step::Undoing { why } => write!(f, "is undone: {why}"),
        }
    }
}

impl Job {
    /// A job of Forebay's own, with nothing known of the primary.
    pub fn new(kind: Kind, why: String, step: Step) -> Self {
        Self {
            kind,
            by: String::new(),
            why,
            to: None,
            allow_loss: false,
            is_clean: false,
            is_cut: false,
            is_refused: false,
            known: None,
            is_exact: false,
            unseen: 0,
            known_ago_ms: None,
            synchronous: Awaited::default(),
            step,
        }
    }

    /// What is under way on the old primary is taken away from its clients.
    pub fn cuts(&self) -> bool {
        self.is_cut || self.is_promoting()
    }

    /// There is no way back any more.
    pub fn is_promoting(&self) -> bool {
        self.promotion().is_some()
    }

    /// Who may have been told to promote, and where its new timeline begins, or earlier.
    pub fn promotion(&self) -> Option<(&At, Lsn)> {
        match &self.step {
            Step::Promoting { candidate, from } => Some((candidate, *from)),
            _ => None,
        }
    }
}

impl Record {
    /// The first record of a cluster, or one that follows another's promotion.
    pub fn accepted(primary: At, timeline: u32, epoch: u64, system_identifier: Option<u64>) -> Self {
        Self {
            system_identifier,
            epoch,
            primary,
            timeline,
            fork: None,
            seen: None,
            job: None,
            astray: Vec::new(),
            unasked: Vec::new(),
            read_only: Vec::new(),
            demoted: false,
            former: None,
            strays: Vec::new(),
            in_doubt: Vec::new(),
        }
    }

    /// Something is under way, or something that was changed has to be put right.
    pub fn is_unsettled(&self) -> bool {
        let is_out_of_place = !self.astray.is_empty() || !self.unasked.is_empty();
        self.job.is_some() || is_out_of_place || self.demoted || self.read_only.contains(&self.primary)
    }
}

/// Keeps the record of one cluster. Several instances will share one (etcd); a single one has a file.
pub trait Keep {
    /// Replaces the record; when this returns, it survives a crash.
    ///
    /// # Errors
    /// Why it could not be kept: what it describes must not be done.
    fn write(&mut self, record: &Record) -> Result<(), String>;
}

/// A record in a file.
#[derive(Debug)]
pub struct InFile {
    path: PathBuf,
    aside: Aside,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<R> {
    version: u32,
    record: R,
}

impl InFile {
    /// The record of `cluster` in `state_dir`, and what is to be reported of a file that cannot be used: it is set
    /// aside.
    pub fn open(state_dir: &Path, cluster: &str) -> (Self, Option<Record>, Option<String>) {
        let path = state_dir.join("failover").join(format!("{}.json", file_name(cluster)));
        let (record, damage) = match fs::read(&path) {
            Ok(bytes) => match parse(&bytes) {
                Ok(record) => (Some(record), None),
                Err(why) => {
                    let kept = match set_aside(&path) {
                        Ok(aside) => format!("kept as {}", aside.display()),
                        Err(error) => format!("could not be set aside: {error}"),
                    };
                    let lost = "who was the primary before is not known";
                    (None, Some(format!("{}: {why}; {kept}; {lost}", path.display())))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, None),
            Err(error) => (None, Some(format!("{}: {error}; who was the primary before is not known", path.display()))),
        };
        (Self { path, aside: Aside::default() }, record, damage)
    }

    /// For a cluster whose record is elsewhere.
    pub(in crate::topology) fn unused() -> Self {
        Self { path: PathBuf::new(), aside: Aside::default() }
    }

    /// While it is set, another process keeps the record.
    pub(in crate::topology) fn yielding(mut self, aside: Aside) -> Self {
        self.aside = aside;
        self
    }
}

impl Keep for InFile {
    fn write(&mut self, record: &Record) -> Result<(), String> {
        if self.aside.is_set() {
            return Ok(());
        }
        replace(&self.path, &written(record)?).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

/// As it is kept.
pub(super) fn written(record: &Record) -> Result<Vec<u8>, String> {
    serde_json::to_vec_pretty(&Document { version: VERSION, record }).map_err(|error| error.to_string())
}

pub(super) fn parse(bytes: &[u8]) -> Result<Record, String> {
    let document: Document<Record> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match document.version {
        VERSION => Ok(document.record),
        other => Err(format!("version {other}, this program knows {VERSION}")),
    }
}

/// A cluster may be called anything; a file may not.
pub(in crate::topology) fn file_name(cluster: &str) -> String {
    let mut name = String::new();
    for byte in cluster.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let at = |port| At { host: "db".into(), port };
        let step = Step::CatchingUp { candidate: at(2), target: Lsn(77) };
        Record {
            job: Some(Job {
                is_refused: true,
                known: Some(Lsn(80)),
                ..Job::new(Kind::Failover, "refused".into(), step)
            }),
            astray: vec![Astray {
                at: at(3),
                conninfo: "host=db port=1".into(),
                slot: "s".into(),
                standby: "b".into(),
                upstream: at(1),
            }],
            ..Record::accepted(at(1), 4, 7, Some(99))
        }
    }

    #[test]
    fn a_record_outlives_the_process() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let (mut keep, none, damage) = InFile::open(dir.path(), "a/b");
        assert_eq!((none, damage), (None, None), "a first start is no damage");
        keep.write(&record()).expect("written");
        assert_eq!(InFile::open(dir.path(), "a/b").1, Some(record()));
        assert_eq!(InFile::open(dir.path(), "a%2Fb").1, None, "another cluster");
    }

    #[test]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder for the test");
        let (mut keep, ..) = InFile::open(dir.path(), "main");
        keep.write(&record()).expect("written");
        let mode = fs::metadata(dir.path().join("failover/main.json")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "it holds passwords of replication: {mode:o}");
    }

    #[test]
    fn a_damaged_record_is_set_aside_and_told() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        InFile::open(dir.path(), "main").0.write(&record()).expect("written");
        fs::write(dir.path().join("failover/main.json"), "{").expect("written");
        let (_, found, damage) = InFile::open(dir.path(), "main");
        assert_eq!(found, None);
        assert!(damage.expect("told").contains("json.damaged"));
    }
}
