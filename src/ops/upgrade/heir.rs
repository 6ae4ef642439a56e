//! The new process' side of an upgrade.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::letter::{Answer, Knowledge, Letter, PROTOCOL};
use super::{Departure, HEIR_OF};
use crate::net;
use crate::net::channel::{self, Receiver, Sender};
use crate::ops::Instance;
use crate::wire::pg::startup::Cancel;

/// For the nodes to say who is the primary, before clients are taken.
const LOOK: Duration = Duration::from_secs(10);
/// Between two looks whether they have.
const PACE: Duration = Duration::from_millis(10);

/// For [`refuse`], until the other process has let go.
static PARENT: Mutex<Option<UnixStream>> = Mutex::new(None);

/// Tells the process before this one, if there is one, why this one cannot serve.
pub fn refuse(why: &str) {
    if let Some(parent) = &*PARENT.lock().unwrap_or_else(PoisonError::into_inner) {
        // Without it, it sees this one end.
        let _ = channel::say(parent, &Answer::Failed(why.to_owned()));
    }
}

/// A process that was started to take over from another one.
#[derive(Debug)]
pub struct Heir(UnixStream);

/// A process that has heard what it has to know.
#[derive(Debug)]
pub struct Inheritance {
    sender: Sender,
    receiver: Receiver,
    knowledge: Knowledge,
    /// Listening sockets by address.
    pub(in crate::ops) doors: HashMap<String, Vec<OwnedFd>>,
}

/// A process that accepts and takes over the other one's clients.
#[derive(Debug)]
pub struct Take {
    sender: Sender,
    receiver: Receiver,
}

impl Heir {
    /// Whether this process is one: its parent has said so, and has left a socket as its standard input.
    ///
    /// # Errors
    /// It is one, and the socket cannot be had.
    pub fn of_parent() -> Option<io::Result<Self>> {
        let named = std::env::var(HEIR_OF).ok()?.parse::<u32>().ok()?;
        // A program that this one starts has the variable too, and another parent.
        let parent = rustix::process::getppid()?.as_raw_nonzero().get();
        (u32::try_from(parent) == Ok(named)).then(|| {
            let socket = rustix::stdio::stdin().as_fd().try_clone_to_owned()?;
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            let socket = UnixStream::from(socket);
            *PARENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket.try_clone()?);
            Ok(Heir(socket))
        })
    }

    /// Hears what the old process has to say. Must be called within a runtime.
    pub(in crate::ops) async fn hear(self) -> io::Result<Inheritance> {
        let (sender, mut receiver) = channel::open(self.0)?;
        let (mut knowledge, mut doors) = (Knowledge::default(), HashMap::<String, Vec<OwnedFd>>::new());
        loop {
            let Some((letter, sockets)) = receiver.receive().await? else {
                return Err(io::Error::other("the process before this one has ended"));
            };
            match letter {
                Letter::Hello { protocol: PROTOCOL, .. } => {}
                Letter::Hello { protocol, version } => {
                    let why =
                        format!("version {version} hands over by protocol {protocol}, this one by {PROTOCOL}: restart");
                    return Err(io::Error::other(why));
                }
                Letter::Listener(name) => doors.entry(name).or_default().extend(sockets),
                Letter::Knowledge(known) => knowledge = known,
                Letter::Introduced => break,
                Letter::Begin | Letter::Postgres(_) | Letter::Redis(_) => {
                    return Err(io::Error::other("the process before this one said what makes no sense yet"));
                }
            }
        }
        Ok(Inheritance { sender, receiver, knowledge, doors })
    }
}

impl Inheritance {
    /// Learns what the other process knows, and waits until the services have primaries.
    pub(in crate::ops) async fn look(&mut self, instance: &Instance) {
        std::mem::take(&mut self.knowledge).learn(instance);
        let has_primaries = || {
            let (postgres, redis) = (instance.monitor.snapshot(), instance.redis.snapshot());
            postgres.clusters.iter().all(|cluster| cluster.primary.is_some())
                && redis.services.iter().all(|service| service.primary.is_some())
        };
        let looked = tokio::time::timeout(LOOK, async {
            while !has_primaries() {
                tokio::time::sleep(PACE).await;
            }
        });
        if looked.await.is_err() {
            tracing::warn!("not every service has a primary: clients are taken over all the same, and wait");
        }
    }

    /// Says that this process serves, and waits until it is to accept: from then on the other one does not.
    pub(in crate::ops) async fn take(mut self, instance: &Instance) -> io::Result<Take> {
        let ready = Answer::Ready { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
        self.sender.send(&ready, &[]).await?;
        loop {
            match self.receiver.receive().await? {
                // What was ordered meanwhile.
                Some((Letter::Knowledge(knowledge), _)) => knowledge.learn(instance),
                Some((Letter::Begin, _)) => break,
                _ => return Err(io::Error::other("the process before this one goes on alone")),
            }
        }
        // The other process has to see it when this one does not listen any more.
        *PARENT.lock().unwrap_or_else(PoisonError::into_inner) = None;
        instance.set_predecessor(Some(rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get())));
        Ok(Take { sender: self.sender, receiver: self.receiver })
    }
}

impl Take {
    /// Takes clients over and passes on cancels, until the other process has ended.
    pub(in crate::ops) async fn run(mut self, instance: Arc<Instance>, mut cancels: mpsc::Receiver<Cancel>) {
        // A task of its own: whoever waits to be heard must not hear less.
        let passing_on = tokio::task::spawn_local(async move {
            while let Some(cancel) = cancels.recv().await {
                let secret = cancel.secret.as_bytes().to_vec();
                let answer = Answer::Cancel { process_id: cancel.process_id, secret };
                if self.sender.send(&answer, &[]).await.is_err() {
                    return;
                }
            }
        });
        let mut count = 0_u64;
        let event = loop {
            match self.receiver.receive().await {
                Ok(Some((letter, sockets))) => count += u64::from(take_in(&instance, letter, sockets)),
                Ok(None) => break "predecessor_ended",
                Err(error) => {
                    tracing::error!(%error, "the process before this one cannot be understood: its clients stay there");
                    break "predecessor_lost";
                }
            }
        };
        // Keys that nobody has go nowhere from now on.
        passing_on.abort();
        // Not before the last of them counts as a client here, or this process might end over them.
        instance.settled().await;
        instance.settled().await;
        instance.set_predecessor(None);
        let clients = if count == 1 { "1 client was".to_owned() } else { format!("{count} clients were") };
        instance.events.record("", 0, event, "", &format!("{clients} taken over"));
    }
}

/// True if a client goes on here.
fn take_in(instance: &Instance, letter: Letter, sockets: Vec<OwnedFd>) -> bool {
    let Some(socket) = sockets.into_iter().next() else { return false };
    match letter {
        Letter::Postgres(traveller) => {
            Departure::Postgres(net::Departure { traveller, socket }).arrive(instance);
        }
        Letter::Redis(traveller) => {
            Departure::Redis(net::Departure { traveller, socket }).arrive(instance);
        }
        _ => return false,
    }
    true
}
