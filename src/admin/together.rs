//! Commands that are not for one instance alone: all of several carry them out, or the one that leads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Rights;
use super::commands;
use super::errors::Refusal;
use super::run::{Answer, Caller, Notice};
use super::statement::Command;
use crate::ops::Instance;
use crate::topology::coordination::{Call, Coordination};
use crate::wire::pg::sqlstate::ToClient as _;

/// Whom a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Whoever was asked.
    One,
    /// Each instance.
    All,
    /// The one that leads.
    Leader,
}

fn scope(instance: &Instance, command: &Command) -> Scope {
    match command {
        Command::Pause(_)
        | Command::Resume(_)
        | Command::Disable(_)
        | Command::Enable(_)
        | Command::Reconnect(_)
        | Command::Kill(_)
        | Command::DetachNode(_)
        | Command::DrainNode(_)
        | Command::AttachNode { .. }
        | Command::SetWeight { .. }
        | Command::PauseFailover(_)
        | Command::ResumeFailover(_)
        | Command::Ban { .. }
        | Command::Unban(_) => Scope::All,
        Command::Switchover { service, to, .. } | Command::Failover { service, to, .. } => {
            let is_redis = match service.as_str() {
                "" => to.as_ref().is_some_and(|node| instance.redis.knows(node)),
                name => instance.config.load().redis.iter().any(|service| service.name == name),
            };
            if is_redis { Scope::One } else { Scope::Leader }
        }
        Command::Reload
        | Command::SetKey { .. }
        | Command::KillClient(_)
        | Command::Suspend
        | Command::WaitClose(_)
        | Command::Shutdown(_)
        | Command::Upgrade => Scope::One,
    }
}

/// What one instance asks of another.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    by: String,
    command: Command,
}

/// What it is answered with: messages beside the command tag, or why it was not done.
type Told = Result<Vec<String>, String>;

/// Runs a command of an admin wherever it belongs.
pub(super) async fn run(
    instance: &Arc<Instance>,
    others: &Coordination,
    caller: &Caller,
    command: &Command,
) -> Result<Answer, Refusal> {
    let view = others.view();
    match scope(instance, command) {
        Scope::Leader if !view.leads() => {
            let Some(leader) = view.leader().filter(|leader| *leader != view.me && view.lost.is_none()) else {
                // It says why this cannot be done here.
                return commands::run(instance, caller, command).await;
            };
            let told = ask(others, leader, caller, command).await;
            let notices = told.map_err(|why| Refusal::WrongState(format!("{}: {why}", view.name(leader))))?;
            Ok(notices.into_iter().map(Notice::info).fold(Answer::done(command.name()), Answer::with))
        }
        Scope::One | Scope::Leader => commands::run(instance, caller, command).await,
        Scope::All => {
            if let Some(why) = &view.lost {
                return Err(Refusal::WrongState(format!(
                    "this instance is cut off from the others, which would not hear of it: {why}"
                )));
            }
            let mut undo = Undo { instance, caller, command: undone_by(command) };
            let mut asked = JoinSet::new();
            for other in view.others() {
                let (others, other, name) = (others.clone(), other.to_owned(), view.name(other));
                let (caller, command) = (caller.clone(), command.clone());
                asked.spawn(async move {
                    let told = ask(&others, &other, &caller, &command).await;
                    told.err().map(|why| format!("{name}: {why}"))
                });
            }
            let here = commands::run(instance, caller, command).await;
            let elsewhere: Vec<String> = asked.join_all().await.into_iter().flatten().collect();
            undo.command = None;
            match here {
                Ok(answer) if elsewhere.is_empty() => Ok(answer),
                Ok(_) => Err(Refusal::WrongState(format!("done here, but not by all: {}", elsewhere.join("; ")))),
                Err(why) => Err(why),
            }
        }
    }
}

/// What takes back a command that is given up while it waits.
fn undone_by(command: &Command) -> Option<Command> {
    match command {
        Command::Pause(database) => Some(Command::Resume(database.clone())),
        _ => None,
    }
}

/// Takes a command back everywhere, unless it has ended.
struct Undo<'a> {
    instance: &'a Arc<Instance>,
    caller: &'a Caller,
    command: Option<Command>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some((command, others)) = self.command.take().zip(self.instance.coordination.clone()) else { return };
        let (here, caller, own) = (Arc::clone(self.instance), self.caller.clone(), command.clone());
        tokio::task::spawn_local(async move {
            // It may not have begun here, or was taken back already.
            drop(commands::run(&here, &caller, &own).await);
        });
        let view = others.view();
        for other in view.others().map(str::to_owned) {
            let (others, caller, command) = (others.clone(), self.caller.clone(), command.clone());
            tokio::task::spawn_local(async move {
                if let Err(why) = ask(&others, &other, &caller, &command).await {
                    tracing::warn!(instance = other, why, command = command.name(), "not taken back");
                }
            });
        }
    }
}

async fn ask(others: &Coordination, to: &str, caller: &Caller, command: &Command) -> Told {
    let asked = Asked { by: caller.name.clone(), command: command.clone() };
    let what = serde_json::to_string(&asked).map_err(|error| error.to_string())?;
    let answer = others.call(to, what).await?;
    serde_json::from_str::<Told>(&answer).map_err(|error| error.to_string())?
}

/// Does what other instances want, until the process ends.
pub(super) async fn serve(instance: Arc<Instance>, mut calls: mpsc::UnboundedReceiver<Call>) {
    while let Some(call) = calls.recv().await {
        let instance = Arc::clone(&instance);
        tokio::task::spawn_local(async move {
            let told = answer(&instance, &call.what).await;
            // Without an answer the caller is told that there is none.
            let _ = call.reply.send(serde_json::to_string(&told).unwrap_or_default());
        });
    }
}

async fn answer(instance: &Arc<Instance>, what: &str) -> Told {
    let asked: Asked = serde_json::from_str(what).map_err(|_| "it is of another version".to_owned())?;
    let database = instance.config.load().admin.database.clone();
    let caller = Caller { is_instance: true, ..Caller::new(&asked.by, Rights::Admin, &database) };
    tracing::info!(by = asked.by, command = asked.command.name(), "another instance passes on a command");
    match commands::run(instance, &caller, &asked.command).await {
        Ok(answer) => Ok(answer.notices.into_iter().map(|notice| notice.message).collect()),
        Err(why) => Err(why.message().into_owned()),
    }
}
