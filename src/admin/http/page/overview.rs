//! `/api/v1/overview`: everything that the status page shows, in one answer.
//!
//! Bounded, however many clients and pools there are: the data threads choose the foremost of their clients themselves
//! and copy only those, and lists end after [`MOST`] with their `total` beside them.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::admin::facts::{Facts, Needs};
use crate::admin::http::history::{SharedPast, Span, wall_ms};
use crate::admin::http::{health, json as rows_as_json};
use crate::admin::table::Table;
use crate::admin::{Caller, Rights, View, time, views};
use crate::ops::Instance;
use crate::ops::instance::Stop;
use crate::pg::report::PoolReport;
use crate::redis::report::ClientReport as RedisClient;

/// Entries of a list.
const MOST: usize = 100;
/// Events, the last ones.
const MOST_EVENTS: usize = 50;
/// Statements.
const MOST_STATEMENTS: usize = 20;

/// The whole answer. `since` adds the samples of the last 10 minutes that ended after that moment, ms since 1970.
pub(in crate::admin::http) async fn overview(
    instance: &Arc<Instance>,
    past: &SharedPast,
    caller: &Caller,
    since: Option<u64>,
) -> Json {
    let needs = Needs::POOLS | Needs::EVENTS | Needs::BANS | Needs::QUERIES;
    let mut facts = Facts::gather(instance, needs).await;
    let mut whole = Map::new();
    let mut put = |name: &str, value: Json| drop(whole.insert(name.to_owned(), value));
    past.borrow_mut().look_at_primaries(instance);
    put("instance", self::instance(instance, &facts));
    put("caller", json!({ "name": caller.name, "role": role(caller.rights) }));
    put("services", services(&facts, past));
    put("nodes", rows(&facts, "NODES"));
    put("pools", pools(&facts));
    put("queue", queue(&facts));
    put("events", events(&facts));
    put("bans", first(rows(&facts, "BANS"), MOST));
    put("statements", first(rows(&facts, "QUERIES"), MOST_STATEMENTS));
    clients(instance, &mut facts, &mut put).await;
    if let Some(since) = since {
        put("history", past.borrow().json(Span::Minutes, since));
    }
    Json::Object(whole)
}

fn role(rights: Rights) -> &'static str {
    match rights {
        Rights::NobodyIsAdmin => "nobody",
        Rights::Viewer => "viewer",
        Rights::Admin => "admin",
    }
}

fn instance(instance: &Instance, facts: &Facts) -> Json {
    let orders = &facts.orders;
    let not_ready = health::not_ready(instance);
    let state = match () {
        () if facts.stopping != Stop::Run => "stopping",
        () if orders.suspended => "suspended",
        () if orders.all_paused => "paused",
        () if not_ready.is_empty() => "ready",
        () => "not ready",
    };
    let started = instance.started.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "name": rows(facts, "INSTANCES").pointer("/0/instance"),
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "not_ready": not_ready,
        "now": wall_ms(),
        "started": millis(started),
        "paused": orders.paused,
        "disabled": orders.disabled,
        "good_config": instance.has_good_config(),
    })
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Rows of `SHOW HA`, with what the page needs to say what a command would do.
fn services(facts: &Facts, past: &SharedPast) -> Json {
    let failover = &facts.config.postgres.failover;
    let mut services = rows(facts, "HA");
    for row in services.as_array_mut().into_iter().flatten().filter_map(Json::as_object_mut) {
        let name = row.get("service").and_then(Json::as_str).unwrap_or_default().to_owned();
        let redis = facts.config.redis.iter().find(|conf| conf.name == name);
        let (kind, hold, drain) = match redis {
            Some(conf) => ("redis", conf.hold, conf.hold),
            None => ("postgres", failover.hold, failover.drain),
        };
        let without = past.borrow().without_primary(&name).map(millis);
        let paused_by = facts.snapshot.clusters.iter().find(|cluster| cluster.name == name);
        let paused_by = paused_by.map(|cluster| cluster.paused.clone()).or_else(|| {
            facts.redis.services.iter().find(|service| service.name == name).map(|service| service.paused.clone())
        });
        row.insert("kind".to_owned(), json!(kind));
        row.insert("hold_ms".to_owned(), json!(millis(hold)));
        row.insert("drain_ms".to_owned(), json!(millis(drain)));
        row.insert("without_primary_ms".to_owned(), json!(without));
        row.insert("failover_paused_by".to_owned(), json!(paused_by.flatten()));
    }
    services
}

/// The busiest first.
fn pools(facts: &Facts) -> Json {
    let mut pools: Vec<&PoolReport> = facts.pools.iter().collect();
    pools.sort_by_key(|pool| Reverse((pool.clients.waiting, pool.clients.all())));
    let row = |pool: &&PoolReport| {
        json!({
            "service": facts.config.postgres.clusters.get(pool.cluster).map(|cluster| cluster.name.as_str()),
            "database": *pool.key.database,
            "user": *pool.key.user,
            "mode": views::pools::mode(pool.mode),
            "size": pool.settings.size,
            "clients": { "idle": pool.clients.idle, "active": pool.clients.active, "waiting": pool.clients.waiting },
            "servers": { "active": pool.servers.active, "idle": pool.servers.idle, "all": pool.servers.all() },
            "pinned": pool.pins.values().sum::<usize>(),
            "oldest_wait_ms": pool.oldest.map(|since| facts.now.saturating_sub(since) / 1_000_000),
            "paused": pool.is_paused,
            "disabled": pool.is_disabled,
        })
    };
    json!({ "total": pools.len(), "rows": pools.iter().take(MOST).map(row).collect::<Vec<_>>() })
}

/// Those where somebody waits or has waited.
fn queue(facts: &Facts) -> Json {
    let count = |row: &Json, name: &str| row.get(name).and_then(Json::as_u64).unwrap_or(0);
    let mut queue = rows(facts, "QUEUE");
    if let Some(rows) = queue.as_array_mut() {
        rows.retain(|row| ["waiting", "served", "timed_out", "refused"].iter().any(|name| count(row, name) > 0));
        rows.sort_by_key(|row| Reverse((count(row, "waiting"), count(row, "timed_out") + count(row, "refused"))));
    }
    first(queue, MOST)
}

/// The last ones, the newest first.
fn events(facts: &Facts) -> Json {
    let mut events = rows(facts, "EVENTS");
    if let Some(rows) = events.as_array_mut() {
        rows.reverse();
    }
    first(events, MOST_EVENTS)
}

/// Those who wait, work, or were active last, and those who keep a connection.
async fn clients(instance: &Arc<Instance>, facts: &mut Facts, put: &mut impl FnMut(&str, Json)) {
    let by_thread =
        instance.ask_all(|core| (core.report_foremost_clients(MOST), core.report_pinned_clients(MOST))).await;
    let redis = instance.ask_redis(|core| core.report_foremost_clients(MOST)).await;
    let (foremost, pinned): (Vec<_>, Vec<_>) = by_thread.into_iter().unzip();
    let totals: usize = facts.pools.iter().map(|pool| pool.pins.values().sum::<usize>()).sum();
    facts.redis_clients = redis.into_iter().flatten().collect();
    facts.redis_clients.sort_by_key(RedisClient::place);
    facts.clients = pinned.into_iter().flatten().collect();
    let pins = rows(facts, "PINS");
    put("pins", with_total(pins, MOST, totals));
    facts.clients = foremost.into_iter().flatten().collect();
    facts.clients.sort_by_key(crate::pg::report::ClientReport::place);
    let all: usize = facts.pools.iter().map(|pool| pool.clients.all()).sum();
    put("clients", with_total(rows(facts, "CLIENTS"), MOST, all + facts.consoles.len()));
    let all: usize = facts.redis_services.iter().map(|service| service.clients).sum();
    let row = |client: &RedisClient| {
        let idle = Duration::from_nanos(facts.now.saturating_sub(client.active));
        json!({
            "id": client.id,
            "service": client.service,
            "user": client.user,
            "db": client.db,
            "addr": client.addresses.0.0,
            "port": client.addresses.0.1,
            "name": client.name,
            "connected": time::with_zone(client.connected),
            "idle_ms": millis(idle),
            "in_flight": client.in_flight,
            "pin": client.pin,
        })
    };
    put("redis_clients", with_total(facts.redis_clients.iter().map(row).collect(), MOST, all));
}

/// The rows of a view.
fn rows(facts: &Facts, name: &str) -> Json {
    views::named(name).map_or_else(|| json!([]), |view| table(facts, view))
}

fn table(facts: &Facts, view: &'static View) -> Json {
    rows_as_json::rows(&Table { columns: std::borrow::Cow::Borrowed(view.columns), rows: (view.rows)(facts) })
}

/// The first entries of a list, and how many there are.
fn first(list: Json, most: usize) -> Json {
    let total = list.as_array().map_or(0, Vec::len);
    with_total(list, most, total)
}

/// As `first`, of a list that is not whole.
fn with_total(mut list: Json, most: usize, total: usize) -> Json {
    if let Some(rows) = list.as_array_mut() {
        rows.truncate(most);
    }
    let shown = list.as_array().map_or(0, Vec::len);
    json!({ "total": total.max(shown), "rows": list })
}
