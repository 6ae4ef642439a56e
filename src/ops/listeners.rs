//! One connection to each database that clients listen in, for all of them: see [`crate::pg::listen`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Notification;

use super::Instance;
use crate::pg::listen::{News, Place, Wish, message};
use crate::pg::settings::quote_identifier;
use crate::topology::link::{Link, Login, words};

/// Longest attempt to connect, and longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(250);
/// After so long without a connection nobody waits for it any more.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// Between two looks whether the connection still leads to the primary.
const LOOK: Duration = Duration::from_millis(200);
/// A connection over which nobody listens is kept for so long.
const IDLE: Duration = Duration::from_secs(30);

/// A thread, and what it wants.
type Asked = (usize, Wish);

/// Which threads hear of a channel.
type Channels = Arc<Mutex<BTreeMap<String, BTreeSet<usize>>>>;

/// Listens wherever a thread wants it, until the instance ends.
pub(super) async fn keep(instance: Arc<Instance>, mut wishes: mpsc::UnboundedReceiver<(usize, Place, Wish)>) {
    let mut attendants: HashMap<Place, mpsc::UnboundedSender<Asked>> = HashMap::new();
    while let Some((worker, place, wish)) = wishes.recv().await {
        let attendant = attendants.entry(place).or_insert_with_key(|place| {
            let (asked, asks) = mpsc::unbounded_channel();
            let attendant = Attendant {
                instance: Arc::clone(&instance),
                place: place.clone(),
                channels: Channels::default(),
                asks,
            };
            tokio::task::spawn_local(attendant.attend());
            asked
        });
        // It ends with this task only.
        let _ = attendant.send((worker, wish));
    }
}

/// Of one database.
struct Attendant {
    instance: Arc<Instance>,
    place: Place,
    channels: Channels,
    asks: mpsc::UnboundedReceiver<Asked>,
}

/// How the use of a connection has ended.
enum Ended {
    Idle,
    Lost(String),
    /// Nobody can ask for anything any more.
    Over,
}

/// A connection that listens.
struct Listening {
    link: Link,
    /// Resolves when it is lost.
    lost: tokio::sync::oneshot::Receiver<()>,
    /// Where the primary was, and in which epoch.
    primary: (String, u16, u64),
}

impl Attendant {
    async fn attend(mut self) {
        let mut lost_at: Option<Instant> = None;
        let mut told = String::new();
        loop {
            if self.is_unused() && lost_at.is_none() {
                match self.asks.recv().await {
                    Some(asked) => self.take_without(asked),
                    None => return,
                }
            }
            let why = match self.open().await {
                Ok(mut listening) => {
                    told.clear();
                    let after_gap = lost_at.take().is_some();
                    self.tell_all(&News::Open { after_gap });
                    match self.serve(&mut listening).await {
                        Ended::Idle => {
                            self.tell_all(&News::Closed);
                            continue;
                        }
                        Ended::Over => return,
                        Ended::Lost(why) => why,
                    }
                }
                Err(why) => {
                    if self.is_unused() || lost_at.is_some_and(|at| at.elapsed() >= GIVEN_UP) {
                        self.tell_all(&News::Failed);
                    }
                    why
                }
            };
            if told != why {
                tracing::warn!(cluster = self.place.cluster, database = self.place.database, why, "nobody listens");
                told = why;
            }
            if self.is_unused() {
                lost_at = None;
                continue;
            }
            lost_at.get_or_insert_with(Instant::now);
            let until = sleep(RETRY);
            tokio::pin!(until);
            loop {
                tokio::select! {
                    () = &mut until => break,
                    asked = self.asks.recv() => match asked {
                        Some(asked) => self.take_without(asked),
                        None => return,
                    },
                }
            }
        }
    }

    /// Nobody listens to anything.
    fn is_unused(&self) -> bool {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// True if nobody has heard of the channel before.
    fn add(&self, worker: usize, channel: &str) -> bool {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = channels.entry(channel.to_owned()).or_default();
        workers.insert(worker);
        workers.len() == 1
    }

    /// True if nobody hears of the channel any more.
    fn remove(&self, worker: usize, channel: &str) -> bool {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(workers) = channels.get_mut(channel) else { return false };
        workers.remove(&worker);
        let is_last = workers.is_empty();
        if is_last {
            channels.remove(channel);
        }
        is_last
    }

    /// A wish while there is no connection.
    fn take_without(&self, (worker, wish): Asked) {
        match wish {
            Wish::Open => {}
            Wish::Listen(channel) => drop(self.add(worker, &channel)),
            Wish::Unlisten(channel) => drop(self.remove(worker, &channel)),
            // There is nothing that could be passed on.
            Wish::Sync(client) => self.tell(worker, News::Synced(client)),
        }
    }

    fn tell(&self, worker: usize, news: News) {
        let place = self.place.clone();
        if let Some(worker) = self.instance.workers().get(worker) {
            worker.post(move |core| core.hear(&place, news));
        }
    }

    fn tell_all(&self, news: &News) {
        for worker in 0..self.instance.workers().len() {
            self.tell(worker, news.clone());
        }
    }

    /// The primary's place now.
    fn primary(&self) -> Option<(String, u16, u64)> {
        let snapshot = self.instance.monitor.snapshot();
        let view = snapshot.clusters.iter().find(|view| view.name == self.place.cluster)?;
        let node = view.nodes.get(view.primary?)?;
        Some((node.host.clone(), node.port, view.epoch))
    }

    async fn open(&self) -> Result<Listening, String> {
        let config = self.instance.config.load_full();
        let conf = config.postgres.clusters.iter().find(|conf| conf.name == self.place.cluster);
        let conf = conf.ok_or("the cluster is not configured any more")?;
        let primary = self.primary().ok_or("no primary is known")?;
        let login = Login {
            host: &primary.0,
            port: primary.1,
            user: &conf.monitor_user,
            password: &conf.monitor_password,
            previous_password: &conf.monitor_previous_password,
            database: &self.place.database,
            tls: &conf.tls,
        };
        let (instance, place, channels) = (Arc::clone(&self.instance), self.place.clone(), Arc::clone(&self.channels));
        let pass_on = move |heard: Notification| pass_on(&instance, &place, &channels, &heard);
        let opened = timeout(PATIENCE, Link::open_listening(login, PATIENCE, pass_on)).await;
        let (link, lost) = opened.map_err(|_| "no connection in time")?.map_err(|error| words(&error))?;
        let listening = Listening { link, lost, primary };
        let listen = |channel: &String| format!("LISTEN {};", quote_identifier(channel));
        let all: String = self.channels.lock().unwrap_or_else(PoisonError::into_inner).keys().map(listen).collect();
        listening.run(&all).await?;
        Ok(listening)
    }

    async fn serve(&mut self, listening: &mut Listening) -> Ended {
        let mut unused = Instant::now();
        loop {
            tokio::select! {
                asked = self.asks.recv() => {
                    let Some(first) = asked else { return Ended::Over };
                    if let Err(why) = self.take_all(first, listening).await {
                        return Ended::Lost(why);
                    }
                }
                _ = &mut listening.lost => return Ended::Lost("the connection was lost".to_owned()),
                () = sleep(LOOK) => {
                    if self.primary().is_none_or(|now| now != listening.primary) {
                        return Ended::Lost("the primary has changed".to_owned());
                    }
                }
            }
            if !self.is_unused() {
                unused = Instant::now();
            } else if unused.elapsed() > IDLE {
                return Ended::Idle;
            }
        }
    }

    /// Everything that is wanted by now, in one round trip.
    async fn take_all(&mut self, first: Asked, listening: &Listening) -> Result<(), String> {
        let mut sql = String::new();
        let mut answers = Vec::new();
        let mut next = Some(first);
        let mut is_synced = false;
        while let Some((worker, wish)) = next {
            match wish {
                Wish::Open => answers.push((worker, News::Open { after_gap: false })),
                Wish::Listen(channel) => {
                    if self.add(worker, &channel) {
                        sql.push_str(&format!("LISTEN {};", quote_identifier(&channel)));
                    }
                    answers.push((worker, News::Listens(channel)));
                }
                Wish::Unlisten(channel) => {
                    if self.remove(worker, &channel) {
                        sql.push_str(&format!("UNLISTEN {};", quote_identifier(&channel)));
                    }
                }
                Wish::Sync(client) => {
                    is_synced = true;
                    answers.push((worker, News::Synced(client)));
                }
            }
            next = self.asks.try_recv().ok();
        }
        let done = if sql.is_empty() && !is_synced { Ok(()) } else { listening.run(&sql).await };
        for (worker, news) in answers {
            // With the connection lost whoever listens is told later, and the others need not wait for that.
            if done.is_ok() || matches!(news, News::Synced(_)) {
                self.tell(worker, news);
            }
        }
        done
    }
}

impl Listening {
    /// Also without a statement: whatever was notified before comes before its answer.
    async fn run(&self, sql: &str) -> Result<(), String> {
        let done = timeout(PATIENCE, self.link.client.batch_execute(sql)).await;
        done.map_err(|_| "no answer in time".to_owned())?.map_err(|error| words(&error))
    }
}

fn pass_on(instance: &Instance, place: &Place, channels: &Channels, heard: &Notification) {
    let channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(workers) = channels.get(heard.channel()) else { return };
    let message = message(heard.process_id(), heard.channel(), heard.payload());
    for worker in workers.iter().filter_map(|worker| instance.workers().get(*worker)) {
        let (place, channel, message) = (place.clone(), heard.channel().to_owned(), Arc::clone(&message));
        worker.post(move |core| core.hear(&place, News::Heard { channel, message }));
    }
}
