//! Our own views of nodes, events, queues and availability.

use std::time::SystemTime;

use super::redis;
use crate::admin::facts::{Facts, Placed};
use crate::admin::table::{Row, Value, row};
use crate::admin::time;
use crate::config::model::{Durability, Failover, FailoverMode, ListenAddr};
use crate::ops::instance::Stop;
use crate::pg::queries::QueryReport;
use crate::topology::coordination::{Gate, Member};
use crate::topology::{ClusterView, Event, Role, State};
use crate::worker::permit::boottime_ns;

pub(super) fn nodes(facts: &Facts) -> Vec<Row> {
    let row = |Placed { c, cluster, n, node, .. }: Placed<'_>| {
        let of_cluster = facts.pools.iter().filter(|p| p.cluster == c);
        let connections: usize = of_cluster.filter_map(|p| p.by_node.get(n)).sum();
        row![
            &cluster.name,
            "postgres",
            &node.name,
            &node.host,
            node.port,
            node.role.to_string(),
            node.state.to_string(),
            node.weight,
            node.lag_bytes,
            node.lag_ms,
            node.position.map(|p| p.to_string()),
            node.timeline,
            connections,
            time::precise(node.last_change),
            &node.reason,
        ]
    };
    facts.nodes().map(row).chain(redis::nodes(facts)).collect()
}

pub(super) fn events(facts: &Facts) -> Vec<Row> {
    let row = |e: &Event| row![time::precise(e.time), &e.service, e.epoch, &e.event, &e.node, &e.detail];
    facts.events.iter().map(row).collect()
}

pub(super) fn queries(facts: &Facts) -> Vec<Row> {
    let ms = |ns: u64| Value::Thousandths(i64::try_from(ns / 1000).unwrap_or(i64::MAX));
    let row = |query: &QueryReport| {
        let figures = &query.figures;
        row![
            format!("{:016x}", query.fingerprint),
            &query.pool.database,
            &query.pool.user,
            if query.is_replica { "replica" } else { "primary" },
            figures.calls,
            ms(figures.time),
            ms(figures.time.checked_div(figures.calls).unwrap_or(0)),
            ms(figures.times.quantile(0.99).unwrap_or(0)),
            figures.rows,
            figures.errors,
            &query.text,
        ]
    };
    facts.queries.iter().map(row).collect()
}

pub(super) fn queue(facts: &Facts) -> Vec<Row> {
    let row = |pool: &crate::pg::report::PoolReport| {
        let service = facts.config.postgres.clusters.get(pool.cluster).map(|c| c.name.clone());
        row![
            service,
            &pool.key.database,
            &pool.key.user,
            pool.clients.waiting,
            pool.oldest.map_or(0, |since| facts.now.saturating_sub(since) / 1_000_000),
            pool.totals.served,
            pool.totals.timed_out,
            pool.totals.refused,
        ]
    };
    facts.pools.iter().map(row).chain(redis::queue(facts)).collect()
}

pub(super) fn ha(facts: &Facts) -> Vec<Row> {
    let failover = &facts.config.postgres.failover;
    let row = |cluster: &std::sync::Arc<ClusterView>| {
        let primary = cluster.primary.and_then(|p| cluster.nodes.get(p));
        row![
            &cluster.name,
            match failover.mode {
                FailoverMode::Follow => "follow",
                FailoverMode::Promote => "promote",
                FailoverMode::Off => "off",
            },
            match failover.durability {
                Durability::Bounded => "bounded",
                Durability::Strict => "strict",
                Durability::BestEffort => "best_effort",
            },
            cluster.epoch,
            primary.map(|p| p.name.clone()),
            primary.and_then(|p| p.timeline),
            match &cluster.closed {
                Some(_) => "changing",
                None => phase(cluster.primary.is_some(), cluster.epoch, cluster.paused.as_deref()),
            },
            with_pause(cluster.paused.as_deref(), &cluster.name, guarantee(cluster, failover)),
        ]
    };
    facts.snapshot.clusters.iter().map(row).chain(redis::ha(facts)).collect()
}

/// What a service is about: `paused` is who has paused its failover.
pub(super) fn phase(has_primary: bool, epoch: u64, paused: Option<&str>) -> &'static str {
    match (paused, has_primary, epoch) {
        (Some(_), _, _) => "paused",
        (None, true, _) => "serving",
        (None, false, 0) => "starting",
        (None, false, _) => "no_primary",
    }
}

/// A guarantee, and in front of it what a paused failover means for it.
pub(super) fn with_pause(paused: Option<&str>, service: &str, guarantee: String) -> String {
    match paused {
        Some(by) => format!(
            "failover is paused by {by}: after the loss of the primary writes wait until it is back, or until \
             RESUME FAILOVER {service}; otherwise: {guarantee}"
        ),
        None => guarantee,
    }
}

/// What holds now, in words: nothing is promised that the configuration does not make sure of.
fn guarantee(cluster: &ClusterView, failover: &Failover) -> String {
    let replicas = cluster.nodes.iter().filter(|n| n.role == Role::Replica && n.state == State::Up).count();
    let lost = match failover.durability {
        Durability::Strict => "nothing that synchronous_standby_names made the primary wait for is lost".to_owned(),
        Durability::Bounded => {
            format!(
                "at most {} bytes of what the primary wrote are lost, those of its last moment by an estimate",
                failover.max_lost_bytes
            )
        }
        Durability::BestEffort => "what the best replica does not have is lost".to_owned(),
    };
    let waits = "after the loss of the primary writes wait until it is back or an admin decides";
    let unproven = failover.durability == Durability::Strict && !cluster.is_synchronous;
    let promotes = match (&cluster.objection, cluster.candidates) {
        (Some(why), _) => format!("{waits}: {why}"),
        (None, 0) => format!("{waits}: no replica may be promoted"),
        (None, _) if unproven => format!(
            "{waits}: durability is strict, and without synchronous_standby_names on the primary nothing proves where \
             its commits are"
        ),
        (None, _) => format!("the loss of the primary is survived: Forebay promotes a replica, and {lost}"),
    };
    let writes = match (cluster.primary, failover.mode, replicas) {
        (None, ..) if cluster.closed.is_some() => "the primary is being changed: writes wait",
        (None, _, _) => "there is no primary: writes wait, for failover.hold at the longest",
        (Some(_), FailoverMode::Off, _) => {
            "the roles of the start are kept: after the loss of the primary writes wait until it is back"
        }
        (Some(_), _, 0) => "no replica is up: the loss of the primary loses the service",
        (Some(_), FailoverMode::Promote, _) => &promotes,
        (Some(_), _, _) => {
            "the loss of the primary is survived when another node is promoted, which Forebay does not do itself: \
             writes wait until then, and what a promotion loses is decided by whoever promotes"
        }
    };
    let reads = match replicas {
        0 => "; reads need the primary",
        1 => "; reads survive the loss of one of the two nodes",
        _ => "; reads survive the loss of any one node",
    };
    let fence = "; a former primary that still accepts writes gets no traffic from Forebay, but clients that connect to it directly are not fenced";
    format!("{writes}{}{fence}", if cluster.primary.is_some() || replicas > 0 { reads } else { "" })
}

/// All instances that decide together; where there is no coordination, this one, with its gate open unless it ends.
pub(super) fn instances(facts: &Facts) -> Vec<Row> {
    let epoch = facts.snapshot.clusters.iter().map(|c| c.epoch).max();
    let is_closed = facts.snapshot.clusters.iter().any(|cluster| cluster.closed.is_some());
    let gate = match facts.stopping {
        Stop::Run if is_closed => "closed",
        Stop::Run => "open",
        _ => "closing",
    };
    let now = time::precise(SystemTime::now());
    let Some(view) = &facts.others else {
        let listen = facts.config.postgres.listen.first().map(|listen| match &listen.addr {
            ListenAddr::Tcp(addr) => addr.to_string(),
            ListenAddr::Unix(path) => path.display().to_string(),
        });
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = format!("{}:{}", host.trim(), std::process::id());
        return vec![row![name, listen, env!("CARGO_PKG_VERSION"), "yes", epoch, gate, None::<u64>, now]];
    };
    let left_ms = view.until_ns.saturating_sub(boottime_ns()) / 1_000_000;
    let clusters = || facts.snapshot.clusters.iter().map(|cluster| cluster.name.as_str());
    let row = |(id, member): (&str, Option<Member>)| {
        let leads = if view.leader() == Some(id) { "yes" } else { "no" };
        let acks = || clusters().filter_map(|cluster| view.ack(cluster, id));
        let (epoch, gate, left) = match id == view.me {
            true => (epoch, Some(if view.lost.is_some() { "cut off" } else { gate }), Some(left_ms)),
            false => (acks().map(|ack| ack.epoch).max(), acks().map(|ack| ack.gate).max().map(Gate::name), None),
        };
        let (address, version) = member.map(|member| (member.address, member.version)).unzip();
        row![view.name(id), address, version, leads, epoch, gate, left, now.clone()]
    };
    let mut rows: Vec<Row> = view.members().map(row).collect();
    if view.members().all(|(id, _)| id != view.me) {
        rows.push(row((&view.me, None)));
    }
    rows
}
