//! What changes something. Every change leaves an event and a log line with the admin's name.

use std::sync::Arc;

use super::errors::Refusal;
use super::run::{Answer, Caller, Notice};
use super::servers;
use super::statement::Command;
use crate::config::{self, Change};
use crate::ops::Instance;
use crate::ops::instance::Stop;
use crate::pg::registry::Order;
use crate::topology::State;
use crate::wire::pg::sqlstate;

mod bans;
mod hold;
mod nodes;
mod shutdown;
pub(super) mod upgrade;

pub(super) use hold::GOODBYE;

/// Runs a command of an admin.
pub(super) async fn run(instance: &Arc<Instance>, caller: &Caller, command: &Command) -> Result<Answer, Refusal> {
    let by = Admin { instance, name: &caller.name };
    by.is_for_this_process(command)?;
    match command {
        Command::Reload => by.reload().await,
        Command::SetKey { key, value } => by.set_key(key, value).await,
        Command::Pause(database) => by.pause(database.as_deref()).await,
        Command::Resume(database) => by.resume(database.as_deref()).await,
        Command::Disable(database) => by.set_disabled(database, true).await,
        Command::Enable(database) => by.set_disabled(database, false).await,
        Command::Reconnect(database) => by.reconnect(database.as_deref()).await,
        Command::Kill(database) => by.kill(database.as_deref()).await,
        Command::KillClient(id) => by.kill_client(*id).await,
        Command::Suspend => by.suspend().await,
        Command::WaitClose(database) => by.wait_close(database.as_deref()).await,
        Command::Shutdown(how) => Ok(by.shutdown(*how).await),
        Command::Upgrade => by.upgrade().await,
        Command::DetachNode(node)
        | Command::DrainNode(node)
        | Command::AttachNode { node, .. }
        | Command::SetWeight { node, .. } => by.order(node, command).await,
        Command::Failover { service, to, allow_loss } => {
            by.failover(command.name(), service, to.as_deref(), *allow_loss).await
        }
        Command::Switchover { service, to, mode, drain, dry_run } => {
            by.switchover(service, to.as_deref(), *mode, *drain, *dry_run).await
        }
        Command::Ban { block, time } => by.ban(*block, *time),
        Command::Unban(block) => by.unban(*block),
        Command::PauseFailover(service) => by.set_failover_paused(service.as_deref(), true).await,
        Command::ResumeFailover(service) => by.set_failover_paused(service.as_deref(), false).await,
    }
}

/// Who gives an order to what.
struct Admin<'a> {
    instance: &'a Arc<Instance>,
    name: &'a str,
}

impl Admin<'_> {
    /// Leaves a row in `SHOW EVENTS` and a log line.
    fn record(&self, event: &str, what: &str) {
        self.instance.events.record_planned("", 0, event, "", &format!("{what}by {}", self.name));
    }

    async fn reload(&self) -> Result<Answer, Refusal> {
        // Recorded by the instance, with the name.
        let changes = self.instance.reload(self.name).await.map_err(Refusal::BadConfig)?;
        Ok(told_of(&changes, Answer::done("RELOAD")))
    }

    async fn set_key(&self, key: &str, value: &str) -> Result<Answer, Refusal> {
        let config = self.instance.config.load_full();
        let new = config::set(&config, key, value).map_err(Refusal::BadValue)?;
        let changes = self.instance.apply(new, self.name).await;
        self.record("setting_changed", &format!("{key} = {value}, "));
        Ok(told_of(&changes, Answer::done(format!("SET {key}={value}"))))
    }

    async fn kill_client(&self, id: u64) -> Result<Answer, Refusal> {
        let answers = self
            .instance
            .ask_all(move |core| {
                let client = core.clients.borrow().get(&id).cloned();
                client.map(|client| {
                    client.tell(Order::End(GOODBYE));
                    format!("client {id}, user {} of database {}, ", client.user, client.database)
                })
            })
            .await;
        let known = answers.into_iter().flatten().next();
        let known =
            known.or_else(|| self.instance.shared.consoles.end(id).then(|| format!("session {id} of the console, ")));
        let known = known.ok_or(Refusal::NoClient(id))?;
        self.record("client_killed", &known);
        Ok(Answer::done("KILL_CLIENT"))
    }

    /// Whether there is a database of this name: configured, used before, or, where any name is passed on, on a server.
    /// What is said beside the answer if no server could be asked for it.
    async fn know(&self, what: &'static str, name: &str) -> Result<Option<Notice>, Refusal> {
        let config = self.instance.config.load_full();
        if name == config.admin.database || name == "pgbouncer" {
            return Err(Refusal::OwnDatabase(what));
        }
        let pg = &config.postgres;
        let unknown = || Refusal::NoDatabase(name.to_owned());
        let found = pg.database(name).ok_or_else(unknown)?;
        let is_fixed = found.entry.is_some_and(|e| e.name == name || e.dbname.is_some());
        let is_used = || self.instance.shared.pools().iter().any(|p| *p.key.database == *name && p.was_used());
        if is_fixed || is_used() || self.instance.orders().paused.contains(name) {
            return Ok(None);
        }
        let Some(cluster) = pg.clusters.get(found.cluster) else { return Ok(None) };
        let snapshot = self.instance.monitor.snapshot();
        let view = snapshot.clusters.get(found.cluster);
        let up: Vec<usize> = view.map_or(Vec::new(), |view| {
            let up = view.nodes.iter().enumerate().filter(|(_, n)| n.state == State::Up).map(|(n, _)| n);
            let mut up: Vec<usize> = up.collect();
            up.sort_by_key(|n| view.primary != Some(*n));
            up
        });
        match servers::has_database(cluster, &up, name).await {
            Some(false) => Err(unknown()),
            Some(true) => Ok(None),
            // A server that cannot be asked is a reason to pause a database, not one to refuse it.
            None => Ok(Some(Notice::warning(
                sqlstate::WARNING,
                format!(
                    "whether there is a database {name} is not known: no client has used it, and no server of {} answers",
                    cluster.name
                ),
            ))),
        }
    }

    async fn know_if_named(&self, what: &'static str, name: Option<&str>) -> Result<Option<Notice>, Refusal> {
        match name {
            Some(name) => self.know(what, name).await,
            None => Ok(None),
        }
    }

    /// Two processes: nothing is ordered that one of them would not hear of, or could not keep to.
    fn is_for_this_process(&self, command: &Command) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal::WrongState(why));
        match command {
            Command::Upgrade | Command::Shutdown(_) | Command::KillClient(_) => Ok(()),
            _ if self.instance.is_upgrading() => {
                refuse(format!("an upgrade is under way: {} has to be said to the new process", command.name()))
            }
            Command::Pause(_) | Command::Suspend | Command::Switchover { dry_run: false, .. } => {
                match self.instance.predecessor() {
                    Some(process) => refuse(format!(
                        "process {process}, which this one has replaced, still serves clients that could not follow, and \
                         would not hear of {}: wait until it ends (general.upgrade_grace), or end it by SIGTERM",
                        command.name()
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn is_ending(&self) -> Result<(), Refusal> {
        match self.instance.stopping() {
            Stop::Run => Ok(()),
            _ => Err(Refusal::WrongState("the process is shutting down".to_owned())),
        }
    }
}

/// `database app, ` or `all databases, `.
fn named(database: Option<&str>) -> String {
    database.map_or_else(|| "all databases, ".to_owned(), |name| format!("database {name}, "))
}

/// A notice for each change, a warning for those that wait for a restart.
fn told_of(changes: &[Change], mut answer: Answer) -> Answer {
    for change in changes {
        let what = format!("{}: {} -> {}", change.key, change.from, change.to);
        answer = answer.with(match change.needs_restart {
            true => Notice::warning(sqlstate::WARNING, format!("{what} takes effect at the next start")),
            false => Notice::info(what),
        });
    }
    answer
}
