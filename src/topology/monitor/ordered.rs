//! Changes of the primary as admins order them: what they have to fulfil before they begin.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Monitor;
use super::changes::{suspects, takes_writes};
use super::handle::Command;
use crate::config::model::NodeRole;
use crate::topology::clock::now_ns;
use crate::topology::cluster::{Watched, WatchedNode};
use crate::topology::coordination::Coordination;
use crate::topology::failover::conductor::Order;
use crate::topology::failover::demote;
use crate::topology::failover::hooks::Demote;
use crate::topology::failover::managers::{self, Seen};
use crate::topology::failover::record::{Job, Kind, Step};
use crate::topology::model::{Role, State};

/// A change of the primary as an admin orders it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Cluster, or empty: the one that `to` belongs to.
    pub cluster: String,
    /// Node to promote.
    pub to: Option<String>,
    /// A planned one, with the time that open transactions have; `None` if the primary is lost.
    pub drain: Option<Duration>,
    /// `MODE clean`: the old primary is restarted as a standby before.
    pub clean: bool,
    /// `ALLOW DATA LOSS`
    pub allow_loss: bool,
    /// Only say whether it could be done.
    pub dry_run: bool,
    /// Who.
    pub by: String,
}

impl Monitor {
    /// Looks whether another manager is at work before an admin's order is carried out.
    pub(super) fn consider(&self, change: Change, reply: oneshot::Sender<Result<String, String>>) {
        let cluster = match self.prepare(&change) {
            Err(why) => return drop(reply.send(Err(why))),
            Ok((cluster, _)) => cluster,
        };
        let watched = self.clusters.iter().find(|watched| watched.name == cluster);
        let suspects = watched.map(suspects).unwrap_or_default();
        let demoted =
            self.changes.get(&cluster).zip(watched).filter(|_| change.clean).and_then(|(changes, watched)| {
                let primary = watched.nodes.get(watched.plan.accepted()?)?;
                Some((primary.conf.name.clone(), primary.target.clone(), changes.hooks.demote.clone()))
            });
        let commands = self.commands.clone();
        tokio::task::spawn_local(async move {
            if let Some((name, target, how)) = demoted {
                if let Err(why) = demote::is_possible(&target, &how).await {
                    return drop(reply.send(Err(format!("{name} cannot be restarted as a standby: {why}"))));
                }
                if !change.dry_run {
                    demote::shorten(&target).await;
                }
            }
            let seen = managers::look(&suspects).await;
            if let Some(commands) = commands.upgrade() {
                // Whoever waits hears of a monitor that has stopped.
                let _ = commands.send(Command::Change { change, seen, reply });
            }
        });
    }

    /// Begins what an admin has ordered, or says why not. `seen` is of the nodes just now.
    pub(super) fn change(&mut self, change: &Change, seen: Seen, reply: oneshot::Sender<Result<String, String>>) {
        let prepared = self.prepare(change).and_then(|(cluster, job)| {
            self.aside.check()?;
            self.check_lead()?;
            let changes = self.changes.get_mut(&cluster).ok_or("no such cluster")?;
            changes.managers.take_instead(seen);
            match changes.managers.refusal() {
                Some(why) => Err(why),
                None => Ok((cluster, job)),
            }
        });
        match prepared {
            Err(why) => drop(reply.send(Err(why))),
            Ok((cluster, job)) if change.dry_run => drop(reply.send(Ok(self.promise(&cluster, &job)))),
            Ok((cluster, job)) => {
                let watched = self.clusters.iter().find(|watched| watched.name == cluster);
                let Some((changes, watched)) = self.changes.get(&cluster).zip(watched) else { return };
                let epoch = watched.plan.epoch();
                changes.begin(watched, Order::Begin { job, epoch, drain: change.drain, reply });
            }
        }
    }

    fn check_lead(&self) -> Result<(), String> {
        let Some(view) = self.coordination.as_ref().map(Coordination::view) else { return Ok(()) };
        match (view.leads(), &view.lost, view.leader()) {
            (true, ..) => Ok(()),
            (_, Some(why), _) => Err(format!("this instance is cut off from the others: {why}")),
            (_, _, Some(leader)) => Err(format!("{} leads: the order has to be given there", view.name(leader))),
            _ => Err("no instance leads just now: try again in some seconds".to_owned()),
        }
    }

    fn prepare(&self, change: &Change) -> Result<(String, Job), String> {
        let to = change.to.as_deref().map(|to| self.find_in(&change.cluster, to)).transpose()?;
        let place = match (&to, change.cluster.as_str()) {
            (Some((cluster, _)), _) => *cluster,
            (None, name) => {
                let known = self.clusters.iter().position(|watched| watched.name == name);
                known.ok_or_else(|| format!("no PostgreSQL cluster \"{name}\""))?
            }
        };
        let watched = self.clusters.get(place).ok_or("no such cluster")?;
        let to = to.map(|(_, node)| node);
        let (known, synchronous) = watched.last_of_primary();
        let kind = if change.drain.is_some() { Kind::Switchover } else { Kind::Ordered };
        let serving = watched.plan.primary();
        let accepted = watched.plan.accepted();
        let names = |node: usize| watched.nodes.get(node).map_or("?", |node| node.conf.name.as_str());
        let known_as = accepted.map_or("the primary", names);
        // Out of service by an admin's order, perhaps, and well all the same.
        let lives = watched.plan.closed().is_none() && accepted.is_some_and(|node| takes_writes(watched, node));
        let is_lost = watched.detector.verdict(now_ns()).is_some();
        // An admin may give up a promotion that does not end; whether this one may be, its task knows.
        if let Some(why) = watched.plan.closed().filter(|_| kind == Kind::Switchover || !watched.plan.is_cut()) {
            return Err(format!(
                "another change of the primary is under way: {why}; try again when SHOW EVENTS has its end"
            ));
        }
        match kind {
            Kind::Switchover if !lives => {
                return Err(format!("{known_as} is not in service: FAILOVER {} promotes another", watched.name));
            }
            Kind::Ordered if lives && !is_lost && !change.allow_loss => {
                return Err(format!(
                    "{known_as} is well: SWITCHOVER {} changes the primary without loss; ALLOW DATA LOSS promotes \
                     another all the same",
                    watched.name
                ));
            }
            _ => {}
        }
        if accepted.is_some() && to == accepted && serving.is_some() {
            return Err(format!("{known_as} is the primary already"));
        }
        let candidates: Vec<usize> = (0..watched.nodes.len()).filter(|&node| watched.is_candidate(node)).collect();
        match to {
            Some(node) if !candidates.contains(&node) => {
                return Err(format!("{} cannot be promoted: {}", names(node), obstacle(watched, node)));
            }
            None if candidates.is_empty() => {
                let others = (0..watched.nodes.len()).filter(|node| Some(*node) != accepted);
                let why: Vec<String> =
                    others.map(|node| format!("{}: {}", names(node), obstacle(watched, node))).collect();
                let why = if why.is_empty() { "it has no other node".to_owned() } else { why.join("; ") };
                return Err(format!("{} has no replica that can be promoted: {why}", watched.name));
            }
            _ => {}
        }
        let ordered = if kind == Kind::Switchover { "a switchover was ordered" } else { "a failover was ordered" };
        if change.clean && self.changes.get(&watched.name).is_none_or(|own| own.hooks.demote == Demote::Nobody) {
            return Err(format!("MODE clean has to restart {known_as} as a standby: {}", demote::WAY_OUT));
        }
        let step = match kind {
            Kind::Switchover if change.clean => Step::Preparing,
            Kind::Switchover => Step::Fencing,
            _ if lives => Step::Fencing,
            _ => Step::Freezing,
        };
        let job = Job {
            by: change.by.clone(),
            to: to.and_then(|node| watched.nodes.get(node)).map(WatchedNode::at),
            allow_loss: change.allow_loss,
            is_clean: change.clean,
            known,
            known_ago_ms: watched.known_ago_ms(now_ns()),
            synchronous,
            ..Job::new(kind, ordered.to_owned(), step)
        };
        Ok((watched.name.clone(), job))
    }

    fn promise(&self, cluster: &str, job: &Job) -> String {
        let what = match job.kind {
            Kind::Switchover if job.is_clean => "clean switchover",
            Kind::Switchover => "switchover",
            _ => "failover",
        };
        let to = job.to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
        let by = match self.changes.get(cluster).map(|changes| &changes.hooks.demote) {
            Some(Demote::Program(_)) if job.is_clean => "; demote_command would restart the old primary as a standby",
            Some(Demote::ThroughSql) if job.is_clean => "; the old primary would restart itself as a standby",
            _ => "",
        };
        format!("a {what} of {cluster}{to} is possible{by}")
    }

    fn find_in(&self, cluster: &str, node: &str) -> Result<(usize, usize), String> {
        if cluster.is_empty() {
            return self.find(node);
        }
        let place = self.clusters.iter().position(|watched| watched.name == cluster);
        let place = place.ok_or_else(|| format!("no PostgreSQL cluster \"{cluster}\""))?;
        let own = node.strip_prefix(cluster).and_then(|rest| rest.strip_prefix('.')).unwrap_or(node);
        let nodes = self.clusters.get(place).map(|watched| watched.nodes.as_slice()).unwrap_or_default();
        let found = nodes.iter().position(|known| known.conf.name == own);
        found.map(|node| (place, node)).ok_or_else(|| {
            let known: Vec<&str> = nodes.iter().map(|known| known.conf.name.as_str()).collect();
            format!("{cluster} has no node \"{node}\"; there are {}", known.join(", "))
        })
    }
}

fn obstacle(watched: &Watched, node: usize) -> String {
    let standing = watched.plan.standings().into_iter().nth(node);
    match standing {
        Some(standing) if standing.role == Role::Replica && standing.state == State::Up => {
            match watched.nodes.get(node).map(|node| (node.conf.promote, node.conf.role)) {
                Some((true, NodeRole::Replica)) => "role = \"replica\" in the configuration".to_owned(),
                Some((true, _)) if watched.plan.strayed(node).is_some() => {
                    "it was told to promote before; restart its server first".to_owned()
                }
                _ => "promote = false in the configuration".to_owned(),
            }
        }
        Some(standing) => format!("it is {}, {}: {}", standing.role, standing.state, standing.reason),
        None => "there is no such node".to_owned(),
    }
}
