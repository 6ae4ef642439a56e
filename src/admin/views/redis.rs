//! Redis services in the views of nodes and availability, and their checks.

use std::time::Duration;

use super::checks::{Checks, Grade, with_reason};
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
                None::<usize>,
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
            match (primary, service.epoch) {
                (Some(_), _) => "serving",
                (None, 0) => "starting",
                (None, _) => "no_primary",
            },
            guarantee(service, has_sentinels),
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
                    "0: cut off from its replicas it goes on taking writes that a failover loses; set 1".to_owned(),
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
