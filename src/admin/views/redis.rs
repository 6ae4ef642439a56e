//! Redis services in the views of nodes and availability, and their checks.

use std::time::Duration;

use super::checks::{Checks, Grade, with_reason};
use super::nodes::{phase, with_pause};
use crate::admin::facts::Facts;
use crate::admin::table::{Row, row};
use crate::admin::time;
use crate::config::model::RedisService;
use crate::topology::redis::{Insight, RedisNode, ServiceView};
use crate::topology::{Role, State};

/// What Sentinels need besides `down-after-milliseconds` to have another primary: an election, a promotion, and word of
/// it; 0.9 to 1.4 s were measured with three of them.
const ELECTION: Duration = Duration::from_secs(2);
/// Clients that wait for an answer longer than this give up by themselves: redis-py's default.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections to a node, of all threads.
fn connections(facts: &Facts, service: &str, node: u64) -> Option<usize> {
    let report = facts.redis_services.iter().find(|report| report.name == service)?;
    report.connections.iter().find(|(id, _)| *id == node).map(|(_, count)| *count)
}

/// Clients that wait for a primary.
pub(super) fn queue(facts: &Facts) -> impl Iterator<Item = Row> {
    facts.redis_services.iter().map(|service| {
        let (served, timed_out, refused) = service.queue;
        row![&service.name, "", "", service.waiting, service.oldest_wait / 1_000_000, served, timed_out, refused]
    })
}

/// Clients that have a connection of their own.
pub(super) fn pins(facts: &Facts) -> impl Iterator<Item = Row> {
    facts.redis_clients.iter().filter_map(|client| {
        let since = time::with_zone(time::wall(client.active));
        Some(row![client.id, &client.service, &client.user, client.pin?, Some(since)])
    })
}

pub(super) fn nodes(facts: &Facts) -> impl Iterator<Item = Row> {
    facts.redis.services.iter().flat_map(|service| {
        service.nodes.iter().map(|node| {
            row![
                &service.name,
                "redis",
                &node.name,
                &node.host,
                node.port,
                node.role.to_string(),
                node.state.to_string(),
                node.weight,
                node.lag_bytes,
                node.lag_ms,
                node.position.map(|offset| offset.to_string()),
                None::<u32>,
                connections(facts, &service.name, node.id),
                time::precise(node.last_change),
                &node.reason,
            ]
        })
    })
}

pub(super) fn ha(facts: &Facts) -> impl Iterator<Item = Row> {
    facts.redis.services.iter().map(|service| {
        let conf = facts.config.redis.iter().find(|conf| conf.name == service.name);
        let has_sentinels = conf.is_some_and(|conf| !conf.sentinels.is_empty());
        let primary = service.primary.and_then(|node| service.nodes.get(node));
        row![
            &service.name,
            if has_sentinels { "sentinel" } else { "follow" },
            // Redis answers before its replicas have a write.
            "best_effort",
            service.epoch,
            primary.map(|node| node.name.clone()),
            None::<u32>,
            phase(primary.is_some(), service.epoch, service.paused.as_deref()),
            with_pause(service.paused.as_deref(), &service.name, guarantee(service, has_sentinels)),
        ]
    })
}

/// What holds now, in words.
fn guarantee(service: &ServiceView, has_sentinels: bool) -> String {
    let replicas = service.nodes.iter().filter(|node| node.role == Role::Replica && node.state == State::Up).count();
    let writes = match (service.primary, has_sentinels, replicas) {
        (None, _, _) => format!("writes wait, for redis.service.hold at the longest: {}", service.reason),
        (Some(_), _, 0) => "no replica is up: the loss of the primary loses the service".to_owned(),
        (Some(_), true, _) => "the loss of the primary is survived when the Sentinels promote a replica; what that \
             replica had not received is lost, and SHOW EVENTS tells how much"
            .to_owned(),
        (Some(_), false, _) => {
            "the loss of the primary is survived when somebody promotes a replica (SWITCHOVER works \
             while the primary is up); what that replica had not received is lost, and SHOW EVENTS tells how much"
                .to_owned()
        }
    };
    format!(
        "{writes}; a former primary that still accepts writes gets no traffic from Forebay, but clients that connect to \
         it directly are not fenced"
    )
}

/// The checks of one service.
pub(super) fn check(checks: &mut Checks<'_>, conf: &RedisService, view: &ServiceView, insight: Option<&Insight>) {
    roles(checks, view);
    if let Some(insight) = insight.filter(|insight| insight.configured > 0) {
        sentinels(checks, conf, insight);
    }
    if conf.hold > PATIENCE {
        let detail = format!(
            "{:?}: clients give up by themselves after {PATIENCE:?} unless they are told to wait longer",
            conf.hold
        );
        checks.add("", "hold", Grade::Warning, detail);
    }
    for (n, node) in view.nodes.iter().enumerate() {
        let settings = insight.and_then(|insight| insight.settings.get(n)?.as_ref());
        self::node(checks, view.primary == Some(n), node);
        if view.primary == Some(n) {
            let (result, detail) = match settings.and_then(|settings| settings.min_replicas) {
                Some(0) => (
                    Grade::Warning,
                    "0: cut off from its replicas it goes on taking writes that a failover loses; with 1 it refuses them \
                     (NOREPLICAS), as a new primary does until a replica has found it, about a second after a crash"
                        .to_owned(),
                ),
                Some(at_least) => (Grade::Ok, format!("{at_least}: without so many replicas it takes no writes")),
                None => (Grade::Warning, "not known: Forebay's login may not run CONFIG GET".to_owned()),
            };
            checks.add(&node.name, "min_replicas_to_write", result, detail);
        } else if let Some(priority) = settings.and_then(|settings| settings.priority)
            && insight.is_some_and(|insight| insight.configured > 0)
        {
            let (result, detail) = match priority {
                0 => (Grade::Warning, "0: Sentinels never promote it".to_owned()),
                other => (Grade::Ok, other.to_string()),
            };
            checks.add(&node.name, "replica_priority", result, detail);
        }
    }
}

fn roles(checks: &mut Checks<'_>, view: &ServiceView) {
    match view.primary.and_then(|node| view.nodes.get(node)) {
        Some(primary) => checks.add("", "primary", Grade::Ok, format!("{} takes writes", primary.name)),
        None => checks.add("", "primary", Grade::Error, format!("no node takes writes: {}", view.reason)),
    }
    let others = view
        .nodes
        .iter()
        .enumerate()
        .filter(|(n, node)| node.role == Role::Primary && view.primary != Some(*n) && node.state != State::Down);
    let others: Vec<&str> = others.map(|(_, node)| node.name.as_str()).collect();
    match others.is_empty() {
        true => checks.add("", "one_primary", Grade::Ok, "no other node accepts writes"),
        false => {
            let detail = format!("{} also accepts writes: stop it or make it a replica", others.join(", "));
            checks.add("", "one_primary", Grade::Error, detail);
        }
    }
    let up = view.nodes.iter().filter(|node| node.role == Role::Replica && node.state == State::Up).count();
    let fit = view.nodes.iter().filter(|node| node.fit_for_reads).count();
    let (result, detail) = match (up, fit) {
        (0, _) => (Grade::Error, "no replica is up: the loss of the primary loses the service".to_owned()),
        (n, 0) => (Grade::Warning, format!("{n} up, none is fit for reads or for a switchover")),
        (1, _) => (Grade::Warning, "one replica is up: nothing is left to lose after it".to_owned()),
        (n, fit) => (Grade::Ok, format!("{n} replicas are up, {fit} fit for reads")),
    };
    checks.add("", "replicas", result, detail);
}

fn sentinels(checks: &mut Checks<'_>, conf: &RedisService, insight: &Insight) {
    let Insight { heard, configured, majority, .. } = *insight;
    let silent = insight.sentinels.iter().filter_map(|sentinel| {
        let why = sentinel.said.as_ref().err()?;
        Some(format!("{}: {why}", sentinel.address))
    });
    let silent: Vec<String> = silent.collect();
    let result = match () {
        () if heard < majority => Grade::Error,
        () if !silent.is_empty() => Grade::Warning,
        () => Grade::Ok,
    };
    let detail = format!("{heard} of {configured} in redis.service.sentinels are heard");
    checks.add("", "sentinels", result, with_reason(&detail, &silent.join("; ")));
    let Some(said) = insight.sentinels.iter().find_map(|sentinel| sentinel.said.as_ref().ok()) else { return };
    let known = said.other_sentinels + 1;
    let (result, detail) = match known {
        _ if said.quorum > known => (Grade::Error, "no failover can happen"),
        0..3 => (Grade::Warning, "fewer than three cannot lose one and still agree"),
        _ => (Grade::Ok, ""),
    };
    let counts = format!("{known} Sentinels know each other, the quorum is {}", said.quorum);
    checks.add("", "quorum", result, with_reason(&counts, detail));
    if configured < usize::try_from(known).unwrap_or(usize::MAX) {
        let detail =
            format!("{configured} of {known}: a majority is counted among those of the file; name all of them");
        checks.add("", "sentinels_configured", Grade::Warning, detail);
    }
    let down_after = Duration::from_millis(said.down_after_ms);
    let (result, detail) = match down_after + ELECTION > conf.hold {
        true => (
            Grade::Warning,
            format!(
                "{down_after:?}: with the election, clients wait longer than redis.service.hold ({:?}) for another \
                 primary and get errors; set down-after-milliseconds to {} or less",
                conf.hold,
                conf.hold.saturating_sub(ELECTION).max(Duration::from_secs(1)).as_millis()
            ),
        ),
        false => {
            (Grade::Ok, format!("{down_after:?}: another primary is there within redis.service.hold ({:?})", conf.hold))
        }
    };
    checks.add("", "down_after", result, detail);
}

fn node(checks: &mut Checks<'_>, is_primary: bool, node: &RedisNode) {
    let result = match node.state {
        State::Up => Grade::Ok,
        State::Draining | State::Detached => Grade::Warning,
        State::Down | State::Fenced => Grade::Error,
    };
    let reason = if node.state == State::Up { "" } else { &node.reason };
    checks.add(&node.name, "state", result, with_reason(&node.state.to_string(), reason));
    if node.role == Role::Replica && !is_primary {
        let part = |n: Option<u64>, unit: &str| n.map_or(format!("? {unit}"), |n| format!("{n} {unit}"));
        let lag = format!("{}, {} behind", part(node.lag_bytes, "bytes"), part(node.lag_ms, "ms"));
        let (result, reason) =
            if node.fit_for_reads { (Grade::Ok, "") } else { (Grade::Warning, node.reason.as_str()) };
        checks.add(&node.name, "lag", result, with_reason(&lag, reason));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::topology::redis::plan::Naming;
    use crate::topology::redis::{Address, SentinelSeen, Settings};

    fn service() -> RedisService {
        let text = "[[redis.service]]\nname = \"cache\"\nlisten = [\"127.0.0.1:6380\"]\nsentinels = [\"s1\", \"s2\", \"s3\"]\n\
                    master_name = \"m\"\n";
        crate::config::load_str(text, "f.toml", Path::new("")).expect("accepted").config.redis.remove(0)
    }

    fn node(name: &str, role: Role) -> RedisNode {
        RedisNode {
            id: 1,
            name: name.to_owned(),
            host: "10.0.0.1".to_owned(),
            port: 6379,
            weight: 1,
            role,
            state: State::Up,
            lag_bytes: (role == Role::Replica).then_some(3),
            lag_ms: (role == Role::Replica).then_some(1),
            position: Some(42),
            last_change: std::time::SystemTime::UNIX_EPOCH,
            reason: String::new(),
            fit_for_reads: role == Role::Replica,
            round_trip: None,
            fresh: Arc::default(),
            suspicion: Arc::default(),
            health: crate::topology::model::HealthCounters::default(),
        }
    }

    fn view() -> ServiceView {
        ServiceView {
            name: "cache".to_owned(),
            epoch: 1,
            primary: Some(0),
            nodes: vec![node("redis1", Role::Primary), node("redis2", Role::Replica), node("redis3", Role::Replica)],
            reason: String::new(),
            paused: None,
            wanted_fresh: Arc::default(),
        }
    }

    fn insight(down_after_ms: u64, quorum: u64, heard: usize) -> Insight {
        let naming = Naming {
            config_epoch: 1,
            primary: Address::new("10.0.0.1", 6379),
            replicas: Vec::new(),
            in_failover: false,
            quorum,
            other_sentinels: 2,
            down_after_ms,
        };
        let seen = |n: usize| SentinelSeen {
            address: Address::new(&format!("s{n}"), 26_379),
            configured: true,
            said: if n < heard { Ok(naming.clone()) } else { Err("refused".to_owned()) },
        };
        let mut settings = Settings { min_replicas: Some(0), ..Settings::default() };
        let primary = settings.clone();
        settings.priority = Some(0);
        Insight {
            service: "cache".to_owned(),
            sentinels: (0..3).map(seen).collect(),
            configured: 3,
            heard,
            majority: 2,
            settings: vec![Some(primary), Some(settings), None],
        }
    }

    /// `check node result`, of those that are not ok.
    fn complaints(view: &ServiceView, insight: &Insight) -> Vec<String> {
        let mut checks = Checks::of("cache");
        check(&mut checks, &service(), view, Some(insight));
        let told = checks.into_rows().into_iter().map(|row| {
            let text = |n: usize| row[n].text(crate::admin::table::Kind::Text).unwrap_or_default().into_owned();
            (text(3), format!("{} {} {}", text(2), text(1), text(3)))
        });
        told.filter(|(result, _)| result != "ok").map(|(_, told)| told).collect()
    }

    #[test]
    fn what_would_hurt_is_told() {
        let usual = ["min_replicas_to_write redis1 warning", "replica_priority redis2 warning"];
        assert_eq!(complaints(&view(), &insight(1500, 2, 3)), usual);
        for (insight, more) in [
            (insight(30_000, 2, 3), "down_after  warning"),
            (insight(1500, 4, 3), "quorum  error"),
            (insight(1500, 2, 2), "sentinels  warning"),
            (insight(1500, 2, 1), "sentinels  error"),
        ] {
            assert_eq!(complaints(&view(), &insight), [&[more], &usual[..]].concat());
        }
        let mut lost = view();
        lost.primary = None;
        lost.reason = "redis1 is fenced".to_owned();
        let told = complaints(&lost, &insight(1500, 2, 3));
        assert!(told.starts_with(&["primary  error".to_owned(), "one_primary  error".to_owned()]), "{told:?}");
    }

    #[test]
    fn the_guarantee_is_in_words() {
        assert!(guarantee(&view(), true).contains("when the Sentinels promote a replica"));
        let mut lost = view();
        lost.primary = None;
        lost.reason = "redis1 is fenced".to_owned();
        assert!(
            guarantee(&lost, true).starts_with("writes wait, for redis.service.hold at the longest: redis1 is fenced")
        );
    }
}
