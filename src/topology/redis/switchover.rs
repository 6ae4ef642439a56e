//! `SWITCHOVER` of a Redis service: another primary while clients only wait, and nothing acknowledged is lost.
//!
//! Writes are held; once the replicas have everything that the primary wrote, one of them is promoted (by a Sentinel,
//! so that they all agree; by ourselves where there is none), the old primary is made its replica at once instead of
//! the 8 s or more that Sentinels leave it writable, the new one is published, and writes go on to it. Until a replica
//! says that it is the primary, every failure leads back to the old one.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

use super::address::Address;
use super::answer;
use super::link::{Link, Meeting, ObjectionKind, Trouble};
use super::model::{HoldWrites, Planned};
use super::monitor::RedisMonitorHandle;
use super::node::Prober;
use super::plan::{Facts, Failure, Says};
use super::service::Watched;
use crate::config::model::Secret;
use crate::topology::model::{Role, State};

/// For a connection and for each answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at whether a replica has everything.
const CATCH_UP: Duration = Duration::from_millis(5);
/// Between two looks at whether a replica was promoted.
const PROMOTION: Duration = Duration::from_millis(20);
/// Sentinels learn a replica's priority by its INFO, which they read every 10 s.
const PRIORITIES: Duration = Duration::from_secs(15);
/// A Sentinel so impatient may hold the old primary for down in the middle of it.
const LEAST_DOWN_AFTER_MS: u64 = 100;
/// Clients that are asked about in one command.
const MOST_LISTED: usize = 1000;

/// The way out where the Sentinels are behind.
const SOON: &str = "that takes some seconds: try again then";

/// What is to be done, with every precondition fulfilled.
#[derive(Debug, Clone)]
pub(super) struct Course {
    primary: Party,
    /// Replicas that we would promote.
    candidates: Vec<Party>,
    /// Replicas that a Sentinel might: it knows neither of our limits nor of an admin's orders.
    eligible: Vec<Party>,
    /// The wanted one; without it, the Sentinels choose, or the first candidate is taken.
    wanted: Option<Party>,
    tls: Meeting,
    password: Option<Secret>,
    sentinels: Option<Sentinels>,
}

#[derive(Debug, Clone)]
struct Party {
    id: u64,
    name: String,
    address: Address,
    priority: u64,
}

#[derive(Debug, Clone)]
struct Sentinels {
    /// Those that are heard.
    at: Vec<Address>,
    tls: Meeting,
    password: Option<Secret>,
    primary_name: String,
}

impl Course {
    /// Looks at the preconditions.
    pub(super) fn plan(service: &Watched, to: Option<&str>) -> Result<Self, String> {
        let (plan, conf) = (&service.plan, &service.conf);
        if plan.is_switching() {
            return Err(format!("a switchover of {} is under way already", conf.name));
        }
        if let Some(by) = plan.paused() {
            let name = &conf.name;
            return Err(format!("failover of {name} is paused by {by}: RESUME FAILOVER {name} first"));
        }
        let primary = plan.primary().ok_or_else(|| format!("there is no primary to leave: {}", plan.reason()))?;
        let sentinels = if plan.configured() > 0 { Some(Sentinels::ready(service)?) } else { None };
        let party = |n: usize| {
            let (node, (address, name)) = (service.nodes.get(n)?, plan.node(n)?);
            let priority = node.answer().and_then(|answer| answer.settings.priority).unwrap_or(100);
            Some(Party { id: node.id, name: name.to_owned(), address: address.clone(), priority })
        };
        let standings = plan.standings();
        let obstacle = |n: usize| -> Option<String> {
            let (standing, node) = (standings.get(n)?, service.nodes.get(n)?);
            match (standing.role, standing.state) {
                (Role::Replica, State::Up) => {}
                (Role::Replica, state) => return Some(format!("it is {state}: {}", standing.reason)),
                (role, state) => return Some(format!("it is no replica but {role}, {state}")),
            }
            if sentinels.is_some() && party(n)?.priority == 0 {
                return Some("its replica-priority is 0, so that Sentinels never promote it".to_owned());
            }
            // Whether it has caught up is looked at while writes are held; just now it may only not have been seen.
            node.unfit().filter(|why| !why.starts_with("lag is not known")).map(str::to_owned)
        };
        let candidates: Vec<Party> =
            (0..service.nodes.len()).filter(|&n| n != primary && obstacle(n).is_none()).filter_map(party).collect();
        let wanted = match to {
            None => None,
            Some(to) => {
                let n = service.find(to).ok_or_else(|| format!("{} has no node \"{to}\"", conf.name))?;
                if n == primary {
                    return Err(format!("{to} is the primary already"));
                }
                if let Some(why) = obstacle(n) {
                    return Err(format!("{to} cannot be promoted: {why}"));
                }
                party(n)
            }
        };
        if candidates.is_empty() {
            let others = (0..service.nodes.len()).filter(|&n| n != primary);
            let why: Vec<String> =
                others.filter_map(|n| Some(format!("{}: {}", plan.node(n)?.1, obstacle(n)?))).collect();
            let why = if why.is_empty() { "it has no other node".to_owned() } else { why.join("; ") };
            return Err(format!("no replica of {} can be promoted: {why}", conf.name));
        }
        let is_linked = |n: &usize| {
            let linked = |facts: &Facts| matches!(facts.says, Says::Replica { linked: true, .. });
            standings.get(*n).is_some_and(|standing| standing.state != State::Down)
                && plan.facts(*n).is_some_and(linked)
        };
        let eligible = (0..service.nodes.len()).filter(is_linked).filter_map(party);
        let eligible: Vec<Party> = eligible.filter(|party| party.priority > 0).collect();
        // The choice is left to the Sentinels only where none is wrong.
        let wanted = wanted.or_else(|| {
            let is_free = sentinels.is_none() || eligible.len() > candidates.len();
            candidates.first().filter(|_| is_free).cloned()
        });
        let primary = party(primary).ok_or("no primary")?;
        let (tls, password) = (Meeting::clone(&service.meetings.nodes), conf.auth.clone());
        Ok(Self { primary, candidates, eligible, wanted, tls, password, sentinels })
    }

    /// What a dry run answers.
    pub(super) fn promise(&self) -> String {
        format!("a switchover {} is possible", self.way())
    }

    /// From which node to which.
    pub(super) fn way(&self) -> String {
        let to = match (&self.wanted, self.candidates.as_slice()) {
            (Some(only), _) | (None, [only]) => only.name.clone(),
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|party| party.name.as_str()).collect();
                format!("one of {} (the Sentinels choose)", names.join(", "))
            }
        };
        format!("from {} to {to}", self.primary.name)
    }

    /// Those that have to have everything before one of them is promoted.
    fn choosable(&self) -> Vec<Party> {
        match &self.wanted {
            Some(wanted) => vec![wanted.clone()],
            None => self.candidates.clone(),
        }
    }
}

impl Sentinels {
    fn ready(service: &Watched) -> Result<Self, String> {
        let plan = &service.plan;
        let (heard, majority, of) = (plan.heard_configured(), plan.majority(), plan.configured());
        if heard < majority {
            return Err(format!("only {heard} of {of} Sentinels are heard, {majority} have to agree"));
        }
        let primary = plan.primary();
        let mut at = Vec::new();
        for (address, configured, said) in plan.sentinels() {
            let Ok(naming) = said else { continue };
            if naming.in_failover {
                return Err(format!(
                    "Sentinel {address} has not finished the last change of the primary: it still leads the replicas \
                     to it; {SOON}"
                ));
            }
            if plan.place(&naming.primary) != primary {
                return Err(format!(
                    "Sentinel {address} still names {} as the primary, and has to hear of the last change; {SOON}",
                    naming.primary
                ));
            }
            if naming.down_after_ms < LEAST_DOWN_AFTER_MS {
                let ms = naming.down_after_ms;
                return Err(format!("down-after-milliseconds is {ms} at Sentinel {address}: set 1000 or more"));
            }
            if configured {
                at.push(address.clone());
            }
        }
        let conf = &service.conf;
        let primary_name = conf.master_name.clone().unwrap_or_default();
        let tls = Meeting::clone(&service.meetings.sentinels);
        Ok(Self { at, tls, password: conf.sentinel_password.clone(), primary_name })
    }
}

/// What has come of it.
struct Promotion {
    party: Party,
    facts: Facts,
    /// What has still to be done by somebody.
    remarks: Vec<String>,
}

/// Carries a course out, and ends it in the plan. Not to be cancelled.
pub(super) async fn run(
    handle: RedisMonitorHandle,
    service: String,
    course: Course,
    planned: Planned,
    by: String,
    hold: Arc<dyn HoldWrites>,
) -> Result<String, String> {
    let mut priorities = Priorities::default();
    let mut begun = Instant::now();
    let outcome = async {
        prepare(&course, &mut priorities).await?;
        if let Some(patience) = planned.patience {
            hold.drain(&service, patience).await?;
        }
        begun = Instant::now();
        let held = hold.hold(&service, planned.limit).await;
        held.map_err(|why| format!("writes could not be held: {why}"))?;
        let deadline = begun + planned.limit;
        arrived(&course, &service, hold.as_ref(), deadline).await?;
        change(&course, &priorities, deadline).await
    };
    let outcome = outcome.await;
    let (promoted, told, result) = match outcome {
        Ok(Promotion { party, facts, remarks }) => {
            let held = begun.elapsed();
            let mut text = format!(
                "{} is the primary now, {} was; writes were held for {:.3}s",
                party.name,
                course.primary.name,
                held.as_secs_f64()
            );
            for remark in remarks {
                text.push_str("; ");
                text.push_str(&remark);
            }
            (Some((party.id, facts)), ("switchover_done", format!("{text}, by {by}")), Ok(text))
        }
        Err(why) => {
            let text = format!("the switchover from {} was given up: {why}", course.primary.name);
            (None, ("switchover_undone", format!("{text}, by {by}")), Err(text))
        }
    };
    let ended = handle.end_switch(&service, promoted, told).await;
    // After the new view has been published, so that nothing is sent to the old primary any more.
    hold.release(&service);
    priorities.restore(&course).await;
    ended.and(result)
}

/// What can be done while writes still flow: checks that need a question, and the Sentinels' choice.
async fn prepare(course: &Course, priorities: &mut Priorities) -> Result<(), String> {
    if course.password.is_some() {
        let told = order(&course.primary.address, course, &["CONFIG", "GET", "masterauth"]).await;
        let is_empty = told.is_ok_and(|reply| answer::pairs(&reply).get("masterauth").is_some_and(|p| p.is_empty()));
        if is_empty {
            return Err(format!("{} has no masterauth, so that it could not follow another", course.primary.name));
        }
    }
    match (&course.sentinels, &course.wanted) {
        (Some(sentinels), Some(wanted)) => priorities.prefer(course, sentinels, wanted).await,
        _ => Ok(()),
    }
}

/// From here on writes are held.
async fn change(course: &Course, priorities: &Priorities, deadline: Instant) -> Result<Promotion, String> {
    let choosable = course.choosable();
    catch_up(course, &choosable, deadline).await?;
    match &course.sentinels {
        Some(sentinels) => fail_over(course, sentinels, priorities).await?,
        None => {
            let party = choosable.first().ok_or("no replica")?;
            let told = order(&party.address, course, &["REPLICAOF", "NO", "ONE"]).await;
            told.map_err(|trouble| format!("{} was not promoted: {trouble}", party.name))?;
        }
    }
    let (party, facts) = promoted(course, deadline).await?;
    let mut remarks = Vec::new();
    let mut followers = vec![&course.primary];
    if course.sentinels.is_none() {
        followers.extend(course.eligible.iter().filter(|other| other.id != party.id));
    }
    for follower in followers {
        if let Err(trouble) = follow(course, follower, &party.address).await {
            remarks.push(format!("{} could not be told to follow it: {trouble}", follower.name));
        }
    }
    Ok(Promotion { party, facts, remarks })
}

/// Waits until every command that waits for an element is known to do so. One that is still on its way would take an
/// element that is there already, and the replicas might not hear of that.
async fn arrived(course: &Course, service: &str, hold: &dyn HoldWrites, deadline: Instant) -> Result<(), String> {
    let mut link: Option<Link> = None;
    loop {
        let sent = hold.blocked(service).await;
        if sent.is_empty() {
            return Ok(());
        }
        let asked = async {
            if link.is_none() {
                link = Some(Link::open(&course.primary.address, &course.tls, course.password.as_ref(), TIMEOUT).await?);
            }
            match &mut link {
                Some(link) => blocked_clients(link, &sent).await,
                None => Ok(HashSet::new()),
            }
        };
        match asked.await {
            Ok(blocked) if sent.iter().all(|number| blocked.contains(number)) => return Ok(()),
            Ok(_) if Instant::now() >= deadline => {
                return Err("commands that block were on their way to the primary for too long".to_owned());
            }
            Ok(_) => sleep(CATCH_UP).await,
            // Before Redis 6.2, whose lists name nobody in particular: they are taken for arrived.
            Err(Trouble::Objected(objection)) if objection.kind == ObjectionKind::Other => return Ok(()),
            Err(trouble) => return Err(format!("{} does not say who is blocked: {trouble}", course.primary.name)),
        }
    }
}

/// Which of these clients of a server wait in a blocking command.
async fn blocked_clients(link: &mut Link, numbers: &[u64]) -> Result<HashSet<u64>, Trouble> {
    let mut blocked = HashSet::new();
    for some in numbers.chunks(MOST_LISTED) {
        let some: Vec<String> = some.iter().map(u64::to_string).collect();
        let words: Vec<&str> = ["CLIENT", "LIST", "ID"].into_iter().chain(some.iter().map(String::as_str)).collect();
        let reply = link.ask(&words, TIMEOUT).await?;
        let text = answer::text(&reply).unwrap_or_default();
        for line in text.lines() {
            let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
            if field("flags=").is_some_and(|flags| flags.contains('b')) {
                blocked.extend(field("id=").and_then(|number| number.parse::<u64>().ok()));
            }
        }
    }
    Ok(blocked)
}

/// Waits until every replica that may be chosen has what the primary had written when nothing was under way any more.
async fn catch_up(course: &Course, replicas: &[Party], deadline: Instant) -> Result<(), String> {
    let mut primary = Prober::new(course.primary.address.clone(), Meeting::clone(&course.tls), course.password.clone());
    let wrote = primary.probe().await.map_err(|failure| unasked(&course.primary, &failure))?;
    if !matches!(wrote.facts.says, Says::Primary { .. }) {
        return Err(format!("{} says that it is a replica now", course.primary.name));
    }
    let offset = wrote.facts.offset;
    let mut waits = JoinSet::new();
    for replica in replicas.iter().cloned() {
        let mut prober = Prober::new(replica.address.clone(), Meeting::clone(&course.tls), course.password.clone());
        waits.spawn(async move {
            loop {
                match prober.probe().await {
                    Ok(answer) if answer.facts.offset >= offset => return Ok(()),
                    Ok(_) => sleep(CATCH_UP).await,
                    Err(failure) => return Err(unasked(&replica, &failure)),
                }
            }
        });
    }
    while let Some(waited) = before(deadline, waits.join_next()).await? {
        waited.unwrap_or_else(|_| Err("a replica could not be asked".to_owned()))?;
    }
    Ok(())
}

fn unasked(party: &Party, failure: &Failure) -> String {
    match failure {
        Failure::Down(why) | Failure::Busy(why) => format!("{} cannot be asked: {why}", party.name),
        Failure::Stalled => format!("{} could not be asked: Forebay itself was held up", party.name),
    }
}

/// What must not take any longer.
async fn before<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, String> {
    let late = || "a replica did not have everything in time".to_owned();
    timeout_at(deadline.into(), work).await.map_err(|_| late())
}

/// Has a Sentinel carry out a failover: one that has just answered, since one that hangs might do so at any later time.
async fn fail_over(course: &Course, sentinels: &Sentinels, priorities: &Priorities) -> Result<(), String> {
    let mut left = sentinels.clone();
    let mut refused = None;
    loop {
        let (address, mut link) = match ready(course, &left, &priorities.are).await {
            Ok(ready) => ready,
            Err(why) => return Err(refused.unwrap_or(why)),
        };
        match link.ask(&["SENTINEL", "FAILOVER", &sentinels.primary_name], TIMEOUT).await {
            Ok(_) => return Ok(()),
            Err(trouble) => {
                let why = format!("Sentinel {address}: {trouble}");
                // It may have begun all the same, or another has: two at once are worse than none.
                if !matches!(&trouble, Trouble::Objected(_)) || why.contains("INPROG") {
                    return Err(why);
                }
                left.at.retain(|other| *other != address);
                refused = Some(why);
            }
        }
    }
}

/// The first Sentinel that answers, agrees on the present primary and knows these priorities, and a connection to it.
/// All are asked at once: one that hangs delays nobody.
async fn ready(course: &Course, sentinels: &Sentinels, priorities: &[(Party, u64)]) -> Result<(Address, Link), String> {
    let mut asked = JoinSet::new();
    for address in sentinels.at.iter().cloned() {
        let (primary, sentinels, priorities) = (course.primary.address.clone(), sentinels.clone(), priorities.to_vec());
        asked.spawn(async move {
            match agrees(&address, &primary, &sentinels, &priorities).await {
                Ok(link) => Ok((address, link)),
                Err(why) => Err(format!("Sentinel {address} {why}")),
            }
        });
    }
    let mut why = Vec::new();
    while let Some(answered) = asked.join_next().await {
        match answered {
            Ok(Ok(ready)) => return Ok(ready),
            Ok(Err(reason)) => why.push(reason),
            Err(_) => {}
        }
    }
    Err(if why.is_empty() { "no Sentinel is heard".to_owned() } else { why.join("; ") })
}

/// Asks one Sentinel for its state.
async fn agrees(
    sentinel: &Address,
    primary: &Address,
    sentinels: &Sentinels,
    priorities: &[(Party, u64)],
) -> Result<Link, String> {
    let name = sentinels.primary_name.as_str();
    let asked = async {
        let mut link = Link::open(sentinel, &sentinels.tls, sentinels.password.as_ref(), TIMEOUT).await?;
        let state: [&[&str]; 3] = [
            &["SENTINEL", "get-master-addr-by-name", name],
            &["SENTINEL", "master", name],
            &["SENTINEL", "replicas", name],
        ];
        let replies = link.ask_all(&state, TIMEOUT).await?;
        Ok::<_, Trouble>((link, replies))
    };
    let (link, replies) = asked.await.map_err(|trouble| format!("does not answer: {trouble}"))?;
    let naming = match replies.as_slice() {
        [Ok(primary), Ok(described), Ok(replicas)] => answer::naming(primary, described, replicas),
        _ => None,
    };
    let naming = naming.ok_or("does not tell its state")?;
    if naming.primary != *primary {
        return Err(format!("names {} as the primary", naming.primary));
    }
    if naming.in_failover {
        return Err("carries out a failover".to_owned());
    }
    let knows = |(party, priority): &(Party, u64)| {
        let listed = naming.replicas.iter().find(|listed| listed.address == party.address);
        listed.is_some_and(|listed| listed.priority == Some(*priority))
    };
    match priorities.iter().all(knows) {
        true => Ok(link),
        false => Err("has not learned whom to prefer".to_owned()),
    }
}

/// Waits until a replica says that it is the primary. Each is asked by itself: one that hangs delays nobody.
async fn promoted(course: &Course, deadline: Instant) -> Result<(Party, Facts), String> {
    let mut waits = JoinSet::new();
    for party in course.eligible.iter().cloned() {
        let mut prober = Prober::new(party.address.clone(), Meeting::clone(&course.tls), course.password.clone());
        waits.spawn(async move {
            loop {
                if let Ok(answer) = prober.probe().await
                    && matches!(answer.facts.says, Says::Primary { .. })
                {
                    return (party, answer.facts);
                }
                sleep(PROMOTION).await;
            }
        });
    }
    match timeout_at(deadline.into(), waits.join_next()).await {
        Ok(Some(Ok(promoted))) => Ok(promoted),
        _ => Err("no replica was promoted in time; should that still happen, it is followed".to_owned()),
    }
}

/// Makes a node a replica of another; its clients, which may think that they write, are cut off.
async fn follow(course: &Course, node: &Party, upstream: &Address) -> Result<(), Trouble> {
    let told = async {
        let mut link = Link::open(&node.address, &course.tls, course.password.as_ref(), TIMEOUT).await?;
        link.ask(&["REPLICAOF", &upstream.host, &upstream.port.to_string()], TIMEOUT).await?;
        // Subscribers too: what is published from now on is counted, and heard first, on the new primary.
        link.ask(&["CLIENT", "KILL", "TYPE", "pubsub"], TIMEOUT).await?;
        link.ask(&["CLIENT", "KILL", "TYPE", "normal"], TIMEOUT).await.map(drop)
    };
    // Writes wait meanwhile.
    timeout(TIMEOUT, told).await.unwrap_or(Err(Trouble::Silent(TIMEOUT)))
}

async fn order(to: &Address, course: &Course, words: &[&str]) -> Result<super::link::Reply, Trouble> {
    let mut link = Link::open(to, &course.tls, course.password.as_ref(), TIMEOUT).await?;
    link.ask(words, TIMEOUT).await
}

/// Priorities that were changed for the moment: what each was, and what each is now.
#[derive(Debug, Default)]
struct Priorities {
    were: Vec<(Party, u64)>,
    are: Vec<(Party, u64)>,
}

impl Priorities {
    /// Makes `wanted` the one that Sentinels choose, and waits until one of them knows.
    async fn prefer(&mut self, course: &Course, sentinels: &Sentinels, wanted: &Party) -> Result<(), String> {
        let others = || course.eligible.iter().filter(|party| party.id != wanted.id);
        if others().all(|other| other.priority > wanted.priority) {
            return Ok(());
        }
        let mut changes = vec![(wanted.clone(), 1)];
        changes.extend(others().filter(|other| other.priority <= 1).map(|other| (other.clone(), 100)));
        for (party, priority) in &changes {
            let set = ["CONFIG", "SET", "replica-priority", &priority.to_string()];
            let told = order(&party.address, course, &set).await;
            told.map_err(|trouble| format!("the replica-priority of {} was not set: {trouble}", party.name))?;
            self.were.push((party.clone(), party.priority));
        }
        self.are = changes;
        let deadline = Instant::now() + PRIORITIES;
        while let Err(why) = ready(course, sentinels, &self.are).await {
            if Instant::now() >= deadline {
                return Err(format!("no Sentinel has learned within {PRIORITIES:?} whom to prefer: {why}"));
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Puts back what was. A promotion has written the present values to the node's configuration file: that too.
    async fn restore(self, course: &Course) {
        for (party, priority) in self.were {
            let set = ["CONFIG", "SET", "replica-priority", &priority.to_string()];
            if let Err(trouble) = order(&party.address, course, &set).await {
                let node = party.name;
                tracing::warn!(node, priority, %trouble, "the replica-priority could not be put back");
            } else if let Err(trouble) = order(&party.address, course, &["CONFIG", "REWRITE"]).await {
                // Without a file there is nothing to put right.
                tracing::debug!(node = party.name, %trouble, "the configuration file was not rewritten");
            }
        }
    }
}
