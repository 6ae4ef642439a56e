//! Another process takes over while this one runs: the new one is started with the listening sockets, and clients follow
//! between two transactions. What cannot follow stays here until it ends.
//!
//! Until the new process has said that it serves, nothing has changed here and everything can be taken back. Nobody is
//! turned away: a listening socket that two processes have loses no connection when one of them closes it.

mod heir;
mod letter;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::mpsc;

pub use heir::{Heir, refuse};
use letter::{Answer, Letter, PROTOCOL};

use super::Instance;
use super::instance::Stop;
use crate::net::channel::{self, Receiver, Sender};
use crate::pg::accept::deliver_cancel;
use crate::{net, pg, redis};

/// Names the process whose heir a new one is: its parent.
const HEIR_OF: &str = "FOREBAY_HEIR_OF";
/// For the new process to read its configuration, look at the nodes and say that it serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a process that has said its last to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A client on its way to the new process.
#[derive(Debug)]
pub enum Departure {
    /// Of PostgreSQL.
    Postgres(net::Departure<pg::travel::Traveller>),
    /// Of Redis.
    Redis(net::Departure<redis::travel::Traveller>),
}

/// How this process was started, so that the next one is started the same way: by its path of that time, where a package
/// has put another program since.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Of this process.
    ///
    /// # Errors
    /// The system does not say.
    pub fn current() -> io::Result<Self> {
        Ok(Program { path: std::env::current_exe()?, arguments: std::env::args_os().skip(1).collect() })
    }
}

/// The process that has taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Its number.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// Starts the program anew and hands over. Returns once the new process accepts; clients follow after that, and the
/// process ends when none is left.
///
/// # Errors
/// Why not; this process goes on as before.
pub async fn upgrade(instance: &Arc<Instance>, by: &str) -> Result<Successor, String> {
    check(instance)?;
    if !instance.begin_upgrade() {
        return Err("another upgrade is under way".to_owned());
    }
    let config = instance.config.load_full();
    let done = async {
        instance.redis.stand_aside(true).await?;
        instance.monitor.stand_aside(true, &config.postgres).await?;
        Box::pin(hand_over(instance)).await
    };
    let done = done.await;
    match done {
        Ok(successor) => {
            let detail = format!("to version {}, process {}, by {by}", successor.version, successor.pid);
            instance.events.record("", 0, "upgraded", "", &detail);
            instance.stop(Stop::HandOver);
            Ok(successor)
        }
        Err(why) => {
            // It may have been reloaded meanwhile.
            let config = instance.config.load_full();
            let _ = instance.monitor.stand_aside(false, &config.postgres).await;
            let _ = instance.redis.stand_aside(false).await;
            instance.end_upgrade();
            instance.events.record("", 0, "upgrade_failed", "", &format!("{why}; by {by}"));
            Err(why)
        }
    }
}

fn check(instance: &Instance) -> Result<(), String> {
    if instance.stopping() != Stop::Run {
        return Err("the process is ending already".to_owned());
    }
    if std::process::id() == 1 {
        return Err("this is process 1, and its container ends with it: replace the container".to_owned());
    }
    let orders = instance.orders();
    if orders.all_paused || orders.suspended || !orders.paused.is_empty() {
        return Err("databases are paused, and clients that wait here would not hear of a RESUME there: RESUME first"
            .to_owned());
    }
    Ok(())
}

async fn hand_over(instance: &Arc<Instance>) -> Result<Successor, String> {
    let (ours, theirs) = UnixStream::pair().map_err(|e| format!("no socket for the new process: {e}"))?;
    let (sender, mut receiver) = channel::open(ours).map_err(|e| e.to_string())?;
    let doors = instance.sockets.copies().map_err(|e| format!("no copies of the listening sockets: {e}"))?;
    let program = &instance.program;
    let mut child = Command::new(&program.path)
        .args(&program.arguments)
        .env(HEIR_OF, std::process::id().to_string())
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", program.path.display()))?;
    tracing::info!(program = %program.path.display(), pid = child.id(), "upgrade: the new process was started");
    let ready = tokio::time::timeout(PATIENCE, async {
        // Who ends in the middle of it may have said why.
        let _ = introduce(instance, &sender, &doors).await;
        first_answer(&mut receiver).await
    });
    let begun = match ready.await {
        Ok(Ok(successor)) => begin(instance, &sender).await.map(|()| successor),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("the new process did not serve within {PATIENCE:?}")),
    };
    let successor = match begun {
        Ok(successor) => successor,
        Err(why) => {
            let _ = child.start_kill();
            let ended = child.wait().await.map_or_else(|e| e.to_string(), |status| status.to_string());
            tracing::error!(why, ended, "upgrade: the new process was given up");
            return Err(why);
        }
    };
    // Not before: a service manager would take the end of its main process for a failure.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::MainPid(successor.pid)]);
    drop(doors);
    instance.sockets.hand_on();
    // There is one upgrade at a time, and after this one none.
    if let Some(travellers) = instance.take_travellers() {
        tokio::task::spawn_local(see_off(Arc::clone(instance), sender, receiver, travellers, child));
    }
    instance.ask_all(|core| core.leave()).await;
    instance.ask_redis(|core| core.leave()).await;
    Ok(successor)
}

/// Everything that the new process has to have before it can serve.
async fn introduce(instance: &Instance, sender: &Sender, doors: &[(String, Vec<OwnedFd>)]) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    sender.send(&Letter::Hello { protocol: PROTOCOL, version }, &[]).await?;
    for (name, sockets) in doors {
        for some in sockets.chunks(channel::MOST_SOCKETS) {
            sender.send(&Letter::Listener(name.clone()), some).await?;
        }
    }
    sender.send(&Letter::Knowledge(letter::Knowledge::of(instance)), &[]).await?;
    sender.send(&Letter::Introduced, &[]).await
}

/// From here on the new process accepts, with what has been ordered since it was told of all.
async fn begin(instance: &Instance, sender: &Sender) -> Result<(), String> {
    check(instance)?;
    let last = async {
        sender.send(&Letter::Knowledge(letter::Knowledge::of(instance)), &[]).await?;
        sender.send(&Letter::Begin, &[]).await
    };
    last.await.map_err(|e| format!("the new process has ended: {e}"))
}

async fn first_answer(receiver: &mut Receiver) -> Result<Successor, String> {
    match receiver.receive().await {
        Ok(Some((Answer::Ready { pid, version }, _))) => Ok(Successor { pid, version }),
        Ok(Some((Answer::Failed(why), _))) => Err(format!("the new process cannot serve: {why}")),
        Ok(Some((Answer::Cancel { .. }, _))) => Err("the new process said what makes no sense yet".to_owned()),
        Ok(None) => Err("the new process ended before it could serve; the log has its reason".to_owned()),
        Err(e) => Err(format!("the new process cannot be understood: {e}")),
    }
}

/// Sends clients to the new process as they become free, and carries out cancels of those that are here, until this
/// process ends.
async fn see_off(
    instance: Arc<Instance>,
    sender: Sender,
    mut receiver: Receiver,
    mut travellers: mpsc::UnboundedReceiver<Departure>,
    mut child: Child,
) {
    let mut is_there = true;
    loop {
        tokio::select! {
            departure = travellers.recv() => {
                let Some(departure) = departure else { return };
                if is_there {
                    is_there = follow(&instance, &sender, departure).await;
                } else {
                    departure.arrive(&instance);
                }
                instance.travelling.fetch_sub(1, Ordering::Relaxed);
            }
            answer = receiver.receive(), if is_there => match answer {
                Ok(Some((Answer::Cancel { process_id, secret }, _))) => {
                    deliver_cancel(&instance.shared, process_id, &secret);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    let ended = match tokio::time::timeout(LAST_WORDS, child.wait()).await {
                        Ok(ended) => ended.map_or_else(|e| e.to_string(), |status| status.to_string()),
                        Err(_) => "it lives, and does not listen".to_owned(),
                    };
                    tracing::error!(ended, "the new process has ended: clients that are here stay here");
                    instance.events.record("", 0, "successor_lost", "", &ended);
                    is_there = false;
                    instance.ask_all(|core| core.stay()).await;
                    instance.ask_redis(|core| core.stay()).await;
                }
            },
        }
    }
}

/// False if the new process is gone: the client stays.
async fn follow(instance: &Instance, sender: &Sender, departure: Departure) -> bool {
    let (letter, socket) = match departure {
        Departure::Postgres(client) => (Letter::Postgres(client.traveller), client.socket),
        Departure::Redis(client) => (Letter::Redis(client.traveller), client.socket),
    };
    let sockets = [socket];
    let sent = sender.send(&letter, &sockets).await;
    let [socket] = sockets;
    if sent.is_err() {
        let departure = match letter {
            Letter::Postgres(traveller) => Departure::Postgres(net::Departure { traveller, socket }),
            Letter::Redis(traveller) => Departure::Redis(net::Departure { traveller, socket }),
            _ => return false,
        };
        departure.arrive(instance);
    }
    sent.is_ok()
}

impl Departure {
    /// The client goes on in this process.
    fn arrive(self, instance: &Instance) {
        match self {
            Departure::Postgres(client) => {
                if let Some(worker) = instance.shared.workers().first() {
                    worker.post(move |core| client.arrive(core));
                }
            }
            Departure::Redis(client) => {
                if let Some(worker) = instance.redis_shared.workers().first() {
                    worker.post(move |core| client.arrive(core));
                }
            }
        }
    }
}
