//! Replication slots made beforehand: a replica that is slow or away finds its log on whichever node is promoted.
//!
//! Each replica that uses a slot gets one of the same name on every other replica that may be promoted, and it is moved
//! on as the replica gets on. [`decide`] is pure. What we have made is on disk before it is made, so that nothing else
//! is ever dropped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::types::PgLsn;

use super::agent::{MAKE_SLOT, within};
use super::record::{At, file_name};
use crate::config::model::{FailoverMode, NodeRole};
use crate::topology::cluster::Watched;
use crate::topology::events::EventLog;
use crate::topology::link::{Kept, Link, position};
use crate::topology::lsn::Lsn;
use crate::topology::probe::Target;
use crate::topology::store::replace;

/// Between two looks.
const PACE: Duration = Duration::from_secs(10);
/// For so long the slots of a node that does not answer stay where they are; then they are dropped, because log that is
/// kept for a node that does not come back fills the disk.
const PATIENCE: Duration = Duration::from_secs(600);

/// A node as configured.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::topology) struct Place {
    at: At,
    target: Target,
    may_lead: bool,
}

/// What the task has to see to.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::topology) struct Wanted {
    places: Vec<Place>,
    /// Slots are to be there; otherwise none of ours.
    is_on: bool,
    /// Nothing is touched: a change of the primary is under way, or failover is paused.
    is_quiet: bool,
    /// The cluster is configured no more.
    is_last: bool,
}

impl Wanted {
    /// Of a cluster; `is_aside`: another process sees to them.
    pub(in crate::topology) fn of(watched: &Watched, is_aside: bool) -> Self {
        let places = watched.nodes.iter().map(|node| Place {
            at: node.at(),
            target: node.target.clone(),
            may_lead: node.conf.promote && node.conf.role != NodeRole::Replica,
        });
        Self {
            places: places.collect(),
            is_on: watched.plan.mode() == FailoverMode::Promote,
            is_quiet: is_aside || watched.plan.closed().is_some() || watched.plan.paused().is_some(),
            is_last: false,
        }
    }

    /// The cluster is gone, and so are its slots.
    pub(in crate::topology) fn end(&mut self) {
        (self.is_on, self.is_quiet, self.is_last) = (false, false, true);
    }
}

/// A slot that we have made, or are about to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    /// Where it is.
    at: At,
    slot: String,
    /// For whom.
    of: At,
}

/// A slot as it is on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    name: String,
    is_physical: bool,
    is_active: bool,
    /// The log from here on is kept; none if it was lost already.
    restart: Option<Lsn>,
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Answer {
    in_recovery: bool,
    /// `primary_slot_name`
    uses: String,
    /// The end of what it has.
    received: Option<Lsn>,
    slots: Vec<Slot>,
}

/// A node as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    at: At,
    may_lead: bool,
    answer: Option<Answer>,
    silent: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Make(Made),
    Advance(At, String, Lsn),
    Drop(Made),
}

/// What becomes of a slot that we have made.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Dropped,
    /// It is in use, or gone: not ours any more.
    Forgotten,
}

/// What there is to be done, and what we have made once it has begun.
fn decide(seen: &[Seen], made: &[Made], is_on: bool) -> (Vec<Act>, Vec<Made>) {
    let mut acts = Vec::new();
    let mut known = Vec::new();
    for own in made {
        match fate(seen, own, is_on) {
            Fate::Forgotten => {}
            fate => {
                if fate == Fate::Dropped {
                    acts.push(Act::Drop(own.clone()));
                }
                known.push(own.clone());
            }
        }
    }
    if !is_on {
        return (acts, known);
    }
    let replicas = || seen.iter().filter_map(|node| Some((node, node.answer.as_ref().filter(|a| a.in_recovery)?)));
    for (candidate, has) in replicas().filter(|(node, _)| node.may_lead) {
        for (replica, needs) in replicas().filter(|(node, needs)| node.at != candidate.at && !needs.uses.is_empty()) {
            let own = Made { at: candidate.at.clone(), slot: needs.uses.clone(), of: replica.at.clone() };
            let is_dropped = acts.iter().any(|act| matches!(act, Act::Drop(gone) if *gone == own));
            match has.slots.iter().find(|slot| slot.name == needs.uses) {
                None if !is_dropped => {
                    acts.push(Act::Make(own.clone()));
                    known.retain(|other| *other != own);
                    known.push(own);
                }
                // Another's slot of that name is moved on as well: it keeps log for this replica, and holds it back.
                Some(slot) if slot.is_physical && !slot.is_active && !is_dropped => {
                    if let (Some(restart), Some(received)) = (slot.restart, needs.received)
                        && received > restart
                    {
                        acts.push(Act::Advance(candidate.at.clone(), needs.uses.clone(), received));
                    }
                }
                _ => {}
            }
        }
    }
    (acts, known)
}

fn fate(seen: &[Seen], own: &Made, is_on: bool) -> Fate {
    let place = seen.iter().find(|node| node.at == own.at);
    let Some((place, host)) = place.and_then(|node| Some((node, node.answer.as_ref()?))) else { return Fate::Stays };
    let Some(slot) = host.slots.iter().find(|slot| slot.name == own.slot) else { return Fate::Forgotten };
    if slot.is_active {
        return Fate::Forgotten;
    }
    let replica = seen.iter().find(|node| node.at == own.of);
    let Some(replica) = replica.filter(|_| is_on && place.may_lead) else { return Fate::Dropped };
    let is_lost = slot.restart.is_none();
    let stays = match &replica.answer {
        None => replica.silent < PATIENCE,
        Some(needs) if !needs.in_recovery => false,
        // While it is led from one node to another it uses none.
        Some(needs) => needs.uses.is_empty() || needs.uses == own.slot,
    };
    if stays && !is_lost { Fate::Stays } else { Fate::Dropped }
}

/// The task of one cluster, and what it keeps.
pub(in crate::topology) struct Keeper {
    cluster: String,
    path: PathBuf,
    made: Vec<Made>,
    answered: HashMap<At, Instant>,
    begun: Instant,
    events: EventLog,
    /// What nodes have refused, as it was told.
    refused: HashMap<At, String>,
}

impl Keeper {
    pub(in crate::topology) fn open(state_dir: &Path, cluster: &str, events: EventLog) -> Self {
        let path = state_dir.join("failover").join(format!("{}.slots.json", file_name(cluster)));
        let read = std::fs::read(&path).ok();
        let made = read.and_then(|bytes| match serde_json::from_slice(&bytes) {
            Ok(made) => Some(made),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "which slots were made is not known any more");
                None
            }
        });
        let (answered, refused) = (HashMap::new(), HashMap::new());
        let made = made.unwrap_or_default();
        Self { cluster: cluster.to_owned(), path, made, answered, begun: Instant::now(), events, refused }
    }

    /// Runs until nobody wants anything any more.
    pub(in crate::topology) async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let present = wanted.borrow_and_update().clone();
            let is_idle = present.is_quiet || (!present.is_on && self.made.is_empty());
            if !is_idle {
                self.round(&present).await;
            }
            if present.is_last {
                return;
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = sleep(PACE), if !is_idle => {}
            }
        }
    }

    async fn round(&mut self, wanted: &Wanted) {
        let mut places = wanted.places.clone();
        // Slots on a node that is configured no more: it knows the same login.
        if let Some(any) = wanted.places.first() {
            for own in &self.made {
                if !places.iter().any(|place| place.at == own.at) {
                    let target = Target {
                        host: own.at.host.clone(),
                        port: own.at.port,
                        kept: Kept::default(),
                        ..any.target.clone()
                    };
                    places.push(Place { at: own.at.clone(), target, may_lead: false });
                }
            }
        }
        let links = look(&places).await;
        let now = Instant::now();
        let mut seen = Vec::new();
        for place in &places {
            let answer = links.get(&place.at).map(|(_, answer)| answer.clone());
            if answer.is_some() {
                self.answered.insert(place.at.clone(), now);
            }
            let silent = now.duration_since(*self.answered.get(&place.at).unwrap_or(&self.begun));
            // Nodes that are configured no more need no slots either.
            let is_left = !wanted.places.iter().any(|known| known.at == place.at);
            let answer = answer.map(|answer| if is_left { Answer { in_recovery: false, ..answer } } else { answer });
            seen.push(Seen { at: place.at.clone(), may_lead: place.may_lead, answer, silent });
        }
        let (acts, mut known) = decide(&seen, &self.made, wanted.is_on);
        // A node that is configured no more and does not answer is not asked for ever.
        let is_gone = |own: &Made| {
            let is_left = !wanted.places.iter().any(|place| place.at == own.at);
            is_left && seen.iter().any(|node| node.at == own.at && node.silent >= PATIENCE)
        };
        known.retain(|own| !is_gone(own));
        if !self.keep(known) {
            return;
        }
        for act in acts {
            let at = match &act {
                Act::Make(own) | Act::Drop(own) => own.at.clone(),
                Act::Advance(at, ..) => at.clone(),
            };
            let Some((place, (link, _))) = places.iter().find(|place| place.at == at).zip(links.get(&at)) else {
                continue;
            };
            let done = within(place.target.timeout, carry_out(link, &act)).await;
            self.note(&at, &act, done);
        }
    }

    fn note(&mut self, at: &At, act: &Act, done: Result<(), String>) {
        match (act, done) {
            (Act::Drop(own), Ok(())) => {
                let left = self.made.iter().filter(|other| *other != own).cloned().collect();
                self.keep(left);
            }
            (_, Ok(())) => drop(self.refused.remove(at)),
            (act, Err(why)) => {
                let detail = match act {
                    Act::Make(own) => {
                        format!("the replication slot \"{}\" could not be made beforehand: {why}", own.slot)
                    }
                    Act::Advance(_, slot, _) => format!("the replication slot \"{slot}\" could not be moved on: {why}"),
                    Act::Drop(own) => format!("the replication slot \"{}\" could not be dropped: {why}", own.slot),
                };
                if self.refused.get(at) != Some(&detail) {
                    self.events.record(&self.cluster, 0, "order_refused", &at.to_string(), &detail);
                    self.refused.insert(at.clone(), detail);
                }
            }
        }
    }

    /// Whether that is on disk now.
    fn keep(&mut self, made: Vec<Made>) -> bool {
        if made == self.made {
            return true;
        }
        let kept = serde_json::to_vec_pretty(&made).map_err(std::io::Error::from);
        match kept.and_then(|bytes| replace(&self.path, &bytes)) {
            Ok(()) => {
                self.made = made;
                true
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "no slots are made: what is made could not be kept");
                false
            }
        }
    }
}

/// Settings and slots, in one row for each slot, or one for none.
const LOOK: &str = "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'primary_slot_name') AS uses, \
     pg_catalog.pg_last_wal_receive_lsn() AS receive, pg_catalog.pg_last_wal_replay_lsn() AS replay, \
     slot.slot_name::pg_catalog.text AS name, slot.slot_type = 'physical' AS is_physical, slot.active AS is_active, \
     CASE WHEN slot.wal_status <> 'lost' THEN slot.restart_lsn END AS restart \
     FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_replication_slots AS slot ON true";

async fn look(places: &[Place]) -> HashMap<At, (Link, Answer)> {
    let mut asked = JoinSet::new();
    for place in places.iter().cloned() {
        asked.spawn(async move {
            let limit = place.target.timeout;
            let answer = within(limit, async {
                let link = Link::open(place.target.login(), limit).await?;
                let answer = ask(&link).await?;
                Ok((link, answer))
            });
            (place.at, answer.await)
        });
    }
    let mut answers = HashMap::new();
    while let Some(done) = asked.join_next().await {
        match done {
            Ok((at, Ok(answer))) => drop(answers.insert(at, answer)),
            Ok((at, Err(why))) => tracing::debug!(node = %at, why, "its slots could not be looked at"),
            Err(_) => {}
        }
    }
    answers
}

async fn ask(link: &Link) -> Result<Answer, tokio_postgres::Error> {
    let mut answer = Answer::default();
    for row in link.client.query(LOOK, &[]).await? {
        let position = |column| position(&row, column);
        answer.in_recovery = row.try_get("in_recovery")?;
        answer.uses = row.try_get::<_, Option<String>>("uses")?.unwrap_or_default();
        answer.received = position("receive")?.max(position("replay")?);
        if let Some(name) = row.try_get("name")? {
            let (is_physical, is_active) = (row.try_get("is_physical")?, row.try_get("is_active")?);
            answer.slots.push(Slot { name, is_physical, is_active, restart: position("restart")? });
        }
    }
    Ok(answer)
}

/// What exists already is not made, what is in use is not dropped, and nothing moves back.
async fn carry_out(link: &Link, act: &Act) -> Result<(), tokio_postgres::Error> {
    const ADVANCE: &str = "SELECT pg_catalog.pg_replication_slot_advance(slot_name, $2) \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::pg_catalog.text AND NOT active AND restart_lsn < $2";
    const DROP: &str = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::pg_catalog.text AND NOT active";
    let client = &link.client;
    match act {
        Act::Make(own) => client.execute(MAKE_SLOT, &[&own.slot]).await.map(drop),
        Act::Advance(_, slot, to) => client.execute(ADVANCE, &[slot, &PgLsn::from(to.0)]).await.map(drop),
        Act::Drop(own) => client.execute(DROP, &[&own.slot]).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> At {
        At { host: "db".into(), port }
    }

    fn made(place: u16, of: u16) -> Made {
        Made { at: at(place), slot: format!("pg{of}"), of: at(of) }
    }

    fn slot(of: u16, restart: u64) -> Slot {
        Slot { name: format!("pg{of}"), is_physical: true, is_active: false, restart: Some(Lsn(restart)) }
    }

    /// A replica that uses its slot and has received up to `received`; the primary if that is 0.
    fn node(port: u16, received: u64, slots: &[Slot]) -> Seen {
        let is_replica = received > 0;
        let answer = Answer {
            in_recovery: is_replica,
            uses: if is_replica { format!("pg{port}") } else { String::new() },
            received: is_replica.then_some(Lsn(received)),
            slots: slots.to_vec(),
        };
        Seen { at: at(port), may_lead: true, answer: Some(answer), silent: Duration::ZERO }
    }

    fn silent(port: u16, silent: Duration) -> Seen {
        Seen { at: at(port), may_lead: true, answer: None, silent }
    }

    #[test]
    fn each_replica_gets_a_slot_on_each_other_one_that_may_be_promoted() {
        let mut seen = vec![node(1, 0, &[]), node(2, 50, &[]), node(3, 40, &[])];
        let (acts, known) = decide(&seen, &[], true);
        assert_eq!(acts, [Act::Make(made(2, 3)), Act::Make(made(3, 2))]);
        assert_eq!(known, [made(2, 3), made(3, 2)], "on disk before they are made");
        seen[2].may_lead = false;
        assert_eq!(decide(&seen, &[], true).0, [Act::Make(made(2, 3))]);
    }

    #[test]
    fn a_slot_is_moved_to_where_its_replica_is_and_never_back() {
        let seen = [node(1, 0, &[]), node(2, 50, &[slot(3, 10)]), node(3, 40, &[slot(2, 60)])];
        let own = [made(2, 3), made(3, 2)];
        let (acts, known) = decide(&seen, &own, true);
        assert_eq!(acts, [Act::Advance(at(2), "pg3".into(), Lsn(40))]);
        assert_eq!(known, own);
    }

    #[test]
    fn another_ones_slot_is_moved_on_and_never_dropped() {
        let seen = [node(1, 0, &[]), node(2, 50, &[slot(3, 10)]), node(3, 40, &[])];
        let (acts, known) = decide(&seen, &[made(3, 2)], true);
        assert!(acts.contains(&Act::Advance(at(2), "pg3".into(), Lsn(40))), "{acts:?}");
        assert!(!known.contains(&made(2, 3)), "it is not ours");
        assert_eq!(decide(&seen, &known, false).0, [], "nothing of ours is there");
    }

    #[test]
    fn without_a_use_ours_are_dropped() {
        let own = [made(2, 3)];
        let has = [slot(3, 10)];
        let dropped = |seen: &[Seen], is_on| decide(seen, &own, is_on).0.contains(&Act::Drop(made(2, 3)));
        let seen = [node(1, 0, &[]), node(2, 50, &has), node(3, 40, &[slot(2, 1)])];
        assert!(!dropped(&seen, true));
        assert!(dropped(&seen, false), "another mode");
        assert!(dropped(&seen[..2], true), "the replica was taken out of the configuration");
        assert!(dropped(&[node(2, 50, &has), node(3, 0, &[])], true), "it is the primary now");
        let mut kept = seen.clone();
        kept[1].may_lead = false;
        assert!(dropped(&kept, true), "the node is no candidate any more");
        let lost = Slot { restart: None, ..slot(3, 10) };
        assert!(dropped(&[node(2, 50, &[lost]), node(3, 40, &[])], true), "its log is gone, so it is made anew");
    }

    #[test]
    fn a_node_that_is_away_keeps_its_slots_for_a_while() {
        let own = [made(2, 3)];
        let has = [slot(3, 10)];
        let short = [node(2, 50, &has), silent(3, PATIENCE - Duration::from_secs(1))];
        assert_eq!(decide(&short, &own, true), (Vec::new(), own.to_vec()));
        let long = [node(2, 50, &has), silent(3, PATIENCE)];
        assert_eq!(decide(&long, &own, true).0, [Act::Drop(made(2, 3))]);
        let host_away = [silent(2, PATIENCE * 9), node(3, 40, &[])];
        assert_eq!(decide(&host_away, &own, false), (Vec::new(), own.to_vec()), "it is dropped when it can be");
    }

    #[test]
    fn a_slot_that_is_in_use_is_its_replicas_own() {
        let used = Slot { is_active: true, ..slot(3, 10) };
        let seen = [node(2, 0, &[used]), node(3, 40, &[])];
        assert_eq!(decide(&seen, &[made(2, 3)], true).1, []);
        assert_eq!(decide(&seen, &[made(2, 3)], false), (Vec::new(), Vec::new()), "not even in another mode");
    }

    #[test]
    fn a_replica_on_its_way_to_the_new_primary_finds_its_slot() {
        let mut seen = [node(2, 0, &[slot(3, 10)]), node(3, 40, &[])];
        if let Some(answer) = &mut seen[1].answer {
            answer.uses.clear();
        }
        assert_eq!(decide(&seen, &[made(2, 3)], true), (Vec::new(), vec![made(2, 3)]));
    }
}
