//! Asking one Redis node how it is: one kept connection, one write a probe.

use std::time::{Duration, Instant};

use super::address::Address;
use super::answer;
use super::link::{Link, Meeting, Objection, ObjectionKind, Reply, Trouble};
use super::plan::{Facts, Failure, Says};
use crate::config::model::Secret;
use crate::worker::clock::now_ns;

/// For the connection, the login and each answer. A stopped process counts as down after this.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// For an answer of a node that was the primary a moment ago: a long command keeps it from answering, clients have to wait
/// for that anyway, and whether it has failed is the Sentinels' to say.
const PATIENCE: Duration = Duration::from_secs(3);
/// A time-out that was noticed so much too late was our own stall.
const HELD_UP: Duration = Duration::from_millis(500);
/// Between two looks at what changes seldom.
const SELDOM: Duration = Duration::from_millis(900);

/// What a node said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) facts: Facts,
    pub(super) settings: Settings,
    /// There and back.
    pub(super) round_trip: Duration,
}

/// What changes seldom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `min-replicas-to-write`; `None` when the login may not see it.
    pub min_replicas: Option<u64>,
    /// `replica-priority`, of a replica.
    pub priority: Option<u64>,
    /// `redis_version`
    pub version: Option<String>,
    /// `run_id`
    pub run_id: Option<String>,
}

/// The kept connection to one node.
#[derive(Debug)]
pub(super) struct Prober {
    address: Address,
    tls: Meeting,
    password: Option<Secret>,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    link: Link,
    settings: Settings,
    /// When `settings` were asked for; `None` makes the next probe ask.
    looked: Option<Instant>,
    was_primary: bool,
}

impl Prober {
    pub(super) fn new(address: Address, tls: Meeting, password: Option<Secret>) -> Self {
        Self { address, tls, password, session: None }
    }

    /// Asks once. A connection that turns out to be dead is replaced within the same probe: that it was closed (by
    /// CLIENT KILL, which every promotion sends) says nothing about the server now.
    ///
    /// Not cancel safe: a dropped probe may leave an answer behind; drop the prober with it.
    pub(super) async fn probe(&mut self) -> Result<Answer, Failure> {
        let begun = Instant::now();
        if let Some(mut session) = self.session.take().filter(|session| !session.link.is_outdated(&self.tls)) {
            match session.ask().await {
                Ok(answered) => {
                    self.session = Some(session);
                    return answered;
                }
                Err(Trouble::Broken(_)) => {}
                Err(trouble) => return Err(failure(trouble, "no answer", begun)),
            }
        }
        let begun = Instant::now();
        let opened = Link::open(&self.address, &self.tls, self.password.as_ref(), TIMEOUT).await;
        let link = opened.map_err(|trouble| failure(trouble, "no connection", begun))?;
        let mut session = Session { link, settings: Settings::default(), looked: None, was_primary: false };
        let begun = Instant::now();
        let answered = session.ask().await.map_err(|trouble| failure(trouble, "no answer", begun))?;
        self.session = Some(session);
        answered
    }
}

fn failure(trouble: Trouble, what: &str, begun: Instant) -> Failure {
    match trouble {
        Trouble::Silent(limit) | Trouble::NoHandshake(limit) if begun.elapsed() > limit + HELD_UP => Failure::Stalled,
        Trouble::Silent(limit) => Failure::Down(format!("{what} within {limit:?}")),
        Trouble::NoHandshake(_) => Failure::Down(trouble.to_string()),
        Trouble::Broken(why) => Failure::Down(why),
        Trouble::Objected(objection) => objected(&objection),
    }
}

fn objected(objection: &Objection) -> Failure {
    let text = &objection.text;
    match objection.kind {
        ObjectionKind::Busy => Failure::Busy(text.clone()),
        ObjectionKind::Login => Failure::Down(format!("it refuses Forebay's login (redis.service.auth): {text}")),
        // ROLE and INFO are answered in all of these; whoever refuses them is of no use.
        ObjectionKind::Loading
        | ObjectionKind::Misconfigured
        | ObjectionKind::WithoutPrimary
        | ObjectionKind::Other => Failure::Down(text.clone()),
    }
}

impl Session {
    /// `Err` when the connection is of no use any more.
    async fn ask(&mut self) -> Result<Result<Answer, Failure>, Trouble> {
        let (asked_ns, begun) = (now_ns(), Instant::now());
        let often: [&[&str]; 2] = [&["ROLE"], &["INFO", "replication"]];
        // One section each: several at once are an error before Redis 7.
        let seldom: [&[&str]; 3] =
            [&["INFO", "persistence"], &["INFO", "server"], &["CONFIG", "GET", "min-replicas-to-write"]];
        let looks = self.looked.is_none_or(|looked| looked.elapsed() >= SELDOM);
        let requests: Vec<&[&str]> = often.into_iter().chain(seldom.into_iter().filter(|_| looks)).collect();
        let limit = if self.was_primary { PATIENCE } else { TIMEOUT };
        let replies = self.link.ask_all(&requests, limit).await?;
        let round_trip = begun.elapsed();
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or_else(|| Err(Objection::new("no answer")));
        let (role, replication) = match (next(), next()) {
            (Ok(role), Ok(replication)) => (role, replication),
            (Err(objection), _) | (_, Err(objection)) => return Ok(Err(objected(&objection))),
        };
        if looks {
            let (persistence, server, min_replicas) = (next(), next(), next());
            self.looked = Some(begun);
            if persistence.as_ref().is_ok_and(|reply| answer::info(reply).get("loading") == Some(&"1")) {
                self.looked = None;
                return Ok(Err(Failure::Down("it is loading its data from disk".to_owned())));
            }
            self.settings = settings(server.ok().as_ref(), min_replicas.ok().as_ref());
        }
        let Some((says, offset)) = answer::role(&role) else {
            return Ok(Err(Failure::Down("it is no Redis node: ROLE says neither master nor slave".to_owned())));
        };
        self.was_primary = matches!(says, Says::Primary { .. });
        let of = answer::info(&replication);
        let own = |name: &str| of.get(name).map(|&value| value.to_owned());
        self.settings.priority = of.get("slave_priority").and_then(|n| n.parse().ok());
        let facts = Facts {
            says,
            offset,
            replid: own("master_replid"),
            replid2: own("master_replid2").filter(|id| id.bytes().any(|byte| byte != b'0')),
            second_offset: of.get("second_repl_offset").and_then(|n| n.parse().ok()),
            run_id: self.settings.run_id.clone(),
            asked_ns,
        };
        Ok(Ok(Answer { facts, settings: self.settings.clone(), round_trip }))
    }
}

fn settings(server: Option<&Reply>, min_replicas: Option<&Reply>) -> Settings {
    let server = server.map(answer::info).unwrap_or_default();
    let min_replicas = min_replicas.map(answer::pairs).unwrap_or_default();
    Settings {
        min_replicas: min_replicas.get("min-replicas-to-write").and_then(|n| n.parse().ok()),
        priority: None,
        version: server.get("redis_version").map(|&version| version.to_owned()),
        run_id: server.get("run_id").map(|&id| id.to_owned()),
    }
}
