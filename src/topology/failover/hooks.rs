//! Programs of the administrator that are run around a change of the primary.
//!
//! What they are told stands in the environment, under the names that Pgpool-II's placeholders have in its
//! documentation. Their last line on standard error is told on.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, Command};

use super::record::At;

/// How long a program may take before it is killed.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The same for those that copy data.
pub const LONG_PATIENCE: Duration = Duration::from_secs(3600);
/// How long the last words of one that has failed are waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// So many bytes of what a program says are kept.
const KEPT: usize = 8 * 1024;

/// How a primary is restarted as a standby.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Demote {
    /// Not at all.
    #[default]
    Nobody,
    /// `demote_command`
    Program(Vec<String>),
    /// `COPY ... TO PROGRAM`
    ThroughSql,
}

/// The programs of `[postgres.failover]`; an empty list is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// `fence_command`
    pub fence: Vec<String>,
    /// `validate_command`
    pub validate: Vec<String>,
    /// `rejoin_command`
    pub rejoin: Vec<String>,
    /// `demote_method` with `demote_command`
    pub demote: Demote,
}

/// One node, as a program is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Place in the configuration, from 0.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// Where.
    pub at: At,
}

/// What a program is told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    variables: Vec<(String, String)>,
}

impl Told {
    /// About a cluster in an epoch.
    pub fn about(cluster: &str, epoch: u64) -> Self {
        Self::default().with("FOREBAY_CLUSTER", cluster).with("FOREBAY_EPOCH", &epoch.to_string())
    }

    /// One variable more. What cannot be in an environment is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.replace('\0', "")));
        self
    }

    /// The node that failed or steps down: Pgpool-II's `%d %h %p`, and `%P %N %S`.
    #[must_use]
    pub fn failed(self, node: &Named) -> Self {
        self.node("FAILED_NODE", node).node("OLD_PRIMARY_NODE", node)
    }

    /// The node that takes its place: Pgpool-II's `%m %H %r`.
    #[must_use]
    pub fn new_main(self, node: &Named) -> Self {
        self.node("NEW_MAIN_NODE", node)
    }

    fn node(self, prefix: &str, node: &Named) -> Self {
        self.with(&format!("{prefix}_ID"), &node.id.to_string())
            .with(&format!("{prefix}_NAME"), &node.name)
            .with(&format!("{prefix}_HOST"), &node.at.host)
            .with(&format!("{prefix}_PORT"), &node.at.port.to_string())
    }
}

/// Variables of the environment that no program gets. The environment is the whole process's, so this is too; what was
/// a secret once stays hidden when the configuration does not name it any more.
static HIDDEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Keeps variables of the environment, from which secrets were taken, from all programs that are started from now on.
pub fn hide(names: &BTreeSet<String>) {
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).extend(names.iter().cloned());
}

/// Runs a program to its end.
///
/// # Errors
/// It could not be started, took longer than `patience` (and was killed), or ended with another status than 0: in words.
pub async fn run(argv: &[String], told: &Told, patience: Duration) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    for name in HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        command.env_remove(name);
    }
    let started = command
        .args(arguments)
        .envs(told.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|error| format!("{program} could not be started: {error}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let said = Arc::new(Mutex::new(Vec::new()));
    let listening = child.stderr.take().map(|from| tokio::spawn(listen(from, Arc::clone(&said))));
    let status = match tokio::time::timeout(patience, child.wait()).await {
        Err(_) => {
            if let Some(group) = group {
                // With whatever it has started: none of it may do its work after the failover has gone on.
                let _ = kill_process_group(group, Signal::KILL);
            }
            return Err(format!("{program} took longer than {patience:?} and was killed"));
        }
        Ok(status) => status.map_err(|error| format!("{program}: {error}"))?,
    };
    if status.success() {
        return Ok(());
    }
    if let Some(listening) = listening {
        // What it has left running may keep its standard error open, and goes on being read.
        let _ = tokio::time::timeout(LAST_WORDS, listening).await;
    }
    let said = String::from_utf8_lossy(&said.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{program} ended with {status}: {}", last.trim()))
}

/// Keeps the end of what somebody says, until there is no more.
async fn listen(mut from: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut chunk = [0; 1024];
    while let Ok(n) = from.read(&mut chunk).await
        && n > 0
    {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(chunk.get(..n).unwrap_or_default());
        let excess = said.len().saturating_sub(KEPT);
        said.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_program_is_told_of_the_nodes_by_its_environment() {
        let at = |port| At { host: "db".into(), port };
        let old = Named { id: 0, name: "pg1".into(), at: at(1) };
        let new = Named { id: 2, name: "pg3".into(), at: at(3) };
        let told = Told::about("main", 7).failed(&old).new_main(&new);
        let script = "echo \"$FOREBAY_CLUSTER $FOREBAY_EPOCH $FAILED_NODE_ID $OLD_PRIMARY_NODE_HOST:$FAILED_NODE_PORT \
                      $NEW_MAIN_NODE_NAME $NEW_MAIN_NODE_PORT\" >&2; exit 4";
        let error = run(&shell(script), &told, PATIENCE).await.expect_err("it ends with 4");
        assert_eq!(error, "/bin/sh ended with exit status: 4: main 7 0 db:1 pg3 3");
        assert_eq!(run(&shell("exit 0"), &told, PATIENCE).await, Ok(()));
        assert_eq!(run(&[], &told, PATIENCE).await, Ok(()), "none is configured");
    }

    #[tokio::test]
    async fn a_program_does_not_get_the_variables_that_secrets_were_taken_from() {
        // Cargo sets these for every test.
        let script = "echo \"$CARGO_PKG_NAME,$CARGO_PKG_DESCRIPTION,$CARGO_PKG_VERSION\" >&2; exit 1";
        hide(&["CARGO_PKG_NAME", "CARGO_PKG_DESCRIPTION"].map(str::to_owned).into());
        hide(&BTreeSet::new());
        let error = run(&shell(script), &Told::default(), PATIENCE).await.expect_err("it ends with 1");
        assert_eq!(error, format!("/bin/sh ended with exit status: 1: ,,{}", env!("CARGO_PKG_VERSION")));
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_is_not_waited_for() {
        let begun = std::time::Instant::now();
        assert_eq!(run(&shell("sleep 30 & exit 0"), &Told::default(), PATIENCE).await, Ok(()));
        let error = run(&shell("sleep 30 & echo no >&2; exit 3"), &Told::default(), PATIENCE).await;
        assert_eq!(error, Err("/bin/sh ended with exit status: 3: no".to_owned()));
        assert!(begun.elapsed() < PATIENCE);
    }

    #[tokio::test]
    async fn a_program_is_killed_with_what_it_has_started() {
        let limit = Duration::from_millis(200);
        let file = std::env::temp_dir().join(format!("forebay-hook-{}", std::process::id()));
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let error = run(&shell(&script), &Told::default(), limit).await.expect_err("it hangs");
        assert!(error.contains("and was killed"), "{error}");
        let child = std::fs::read_to_string(&file).expect("its child was started");
        std::fs::remove_file(&file).expect("it is there");
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        for _ in 0..1000 {
            if !runs() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("its child goes on");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let limit = Duration::from_millis(50);
        let error = run(&shell("exec sleep 60"), &Told::default(), limit).await.expect_err("it hangs");
        assert!(error.contains("and was killed"), "{error}");
        let missing = run(&["/no/such/program".to_owned()], &Told::default(), limit).await.expect_err("it is missing");
        assert!(missing.contains("could not be started"), "{missing}");
    }
}
