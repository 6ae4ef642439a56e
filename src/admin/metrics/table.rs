//! The metrics: name, kind, help, labels, and where their numbers come from.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use prometheus_client::metrics::MetricType::{Counter, Gauge, Histogram};

use super::{MOST_POOLS, Metric, OTHERS, Samples, Source};
use crate::admin::facts::Facts;
use crate::admin::process;
use crate::pg::report::{ClientCounts, PoolReport, ServerCounts};
use crate::pg::stats::Totals;
use crate::pg::trace::Told;
use crate::topology::{Role, State};

/// One pool, or all of those that are not told apart.
pub(in crate::admin) struct Pool<'a> {
    service: Cow<'a, str>,
    database: Cow<'a, str>,
    user: Cow<'a, str>,
    clients: ClientCounts,
    servers: ServerCounts,
    by_target: (u64, u64),
    pins: Vec<(&'static str, usize)>,
    totals: Totals,
}

impl<'a> Pool<'a> {
    fn of(facts: &'a Facts, report: &PoolReport) -> Self {
        let service = facts.config.postgres.clusters.get(report.cluster).map_or("", |cluster| cluster.name.as_str());
        Pool {
            service: Cow::Borrowed(service),
            database: Cow::Owned(report.key.database.to_string()),
            user: Cow::Owned(report.key.user.to_string()),
            clients: report.clients,
            servers: report.servers,
            by_target: report.by_target,
            pins: report.pins.iter().map(|(reason, clients)| (*reason, *clients)).collect(),
            totals: report.totals.clone(),
        }
    }

    fn add(&mut self, other: Pool<'_>) {
        self.clients += other.clients;
        self.servers += other.servers;
        self.by_target = (self.by_target.0 + other.by_target.0, self.by_target.1 + other.by_target.1);
        self.totals.add(&other.totals);
        for (reason, clients) in other.pins {
            match self.pins.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, known)) => *known += clients,
                None => self.pins.push((reason, clients)),
            }
        }
    }

    fn labels(&self) -> Vec<Cow<'static, str>> {
        [&self.service, &self.database, &self.user].map(|label| Cow::Owned(label.to_string())).to_vec()
    }

    fn labels_and(&self, last: &'static str) -> Vec<Cow<'static, str>> {
        let mut labels = self.labels();
        labels.push(Cow::Borrowed(last));
        labels
    }
}

/// The pools as they are told.
pub(super) fn pools(facts: &Facts) -> Vec<Pool<'_>> {
    let mut pools = facts.pools.iter().map(|report| Pool::of(facts, report));
    let mut told: Vec<Pool<'_>> = pools.by_ref().take(MOST_POOLS).collect();
    let others = pools.reduce(|mut sum, pool| {
        sum.add(pool);
        sum
    });
    told.extend(others.map(|sum| Pool { service: "".into(), database: OTHERS.into(), user: OTHERS.into(), ..sum }));
    told
}

const POOL: &[&str] = &["service", "database", "user"];

/// `labels!["a", name]`: values of labels, borrowed for ever or owned.
macro_rules! labels {
    ($($value:expr),* $(,)?) => { vec![$(Cow::<'static, str>::from($value)),*] };
}

/// Service, kind, node, role, state, lag in bytes and in ms, of every node of both protocols.
struct Node {
    labels: [String; 3],
    role: Role,
    state: State,
    weight: u32,
    lag_bytes: Option<u64>,
    lag_ms: Option<u64>,
    probes: (u64, u64),
}

fn nodes(facts: &Facts) -> Vec<Node> {
    let postgres = facts.nodes().map(|placed| Node {
        labels: [placed.cluster.name.clone(), "postgres".to_owned(), placed.node.name.clone()],
        role: placed.node.role,
        state: placed.node.state,
        weight: placed.node.weight,
        lag_bytes: placed.node.lag_bytes,
        lag_ms: placed.node.lag_ms,
        probes: (placed.node.health.success, placed.node.health.fail),
    });
    let redis = facts.redis.services.iter().flat_map(|service| {
        service.nodes.iter().map(|node| Node {
            labels: [service.name.clone(), "redis".to_owned(), node.name.clone()],
            role: node.role,
            state: node.state,
            weight: node.weight,
            lag_bytes: node.lag_bytes,
            lag_ms: node.lag_ms,
            probes: (node.health.success, node.health.fail),
        })
    });
    postgres.chain(redis).collect()
}

impl Node {
    fn labels(&self) -> Vec<Cow<'static, str>> {
        self.labels.iter().map(|label| Cow::Owned(label.clone())).collect()
    }

    fn labels_and(&self, last: impl Into<Cow<'static, str>>) -> Vec<Cow<'static, str>> {
        let mut labels = self.labels();
        labels.push(last.into());
        labels
    }
}

const NODE: &[&str] = &["service", "kind", "node"];

/// The last label's value, and the number of a pool that is told under it.
type Of<T> = (&'static str, fn(&Pool<'_>) -> T);

/// A level for each pool.
fn each_pool(source: &Source<'_>, samples: &mut Samples, levels: &[Of<usize>]) {
    for pool in &source.pools {
        for (label, level) in levels {
            samples.level(pool.labels_and(label), level(pool) as f64);
        }
    }
}

/// Counters for each pool.
fn counts(source: &Source<'_>, samples: &mut Samples, counters: &[Of<u64>]) {
    for pool in &source.pools {
        for (label, count) in counters {
            samples.count(pool.labels_and(label), count(pool));
        }
    }
}

/// Errors that servers answered with.
fn of_servers(pool: &Pool<'_>) -> u64 {
    pool.totals.by_node.iter().map(|node| node.errors + node.fatals + node.panics).sum()
}

/// In the order of the page.
pub(super) static METRICS: &[Metric] = &[
    Metric {
        name: "forebay_build_info",
        kind: Gauge,
        about: "Always 1; the version is a label",
        labels: &["version"],
        samples: |_, samples| samples.level(labels![env!("CARGO_PKG_VERSION")], 1.0),
    },
    Metric {
        name: "forebay_node_up",
        kind: Gauge,
        about: "1 if the node takes traffic",
        labels: NODE,
        samples: |source, samples| {
            for node in nodes(source.facts) {
                samples.level(node.labels(), f64::from(u8::from(node.state == State::Up)));
            }
        },
    },
    Metric {
        name: "forebay_node_role",
        kind: Gauge,
        about: "1 for the role that the node says it has, 0 for the others",
        labels: &["service", "kind", "node", "role"],
        samples: |source, samples| {
            for node in nodes(source.facts) {
                for role in [Role::Primary, Role::Replica, Role::Unknown] {
                    samples.level(node.labels_and(role.to_string()), f64::from(u8::from(node.role == role)));
                }
            }
        },
    },
    Metric {
        name: "forebay_node_state",
        kind: Gauge,
        about: "1 for the state of the node, 0 for the others",
        labels: &["service", "kind", "node", "state"],
        samples: |source, samples| {
            for node in nodes(source.facts) {
                for state in [State::Up, State::Down, State::Draining, State::Detached, State::Fenced] {
                    samples.level(node.labels_and(state.to_string()), f64::from(u8::from(node.state == state)));
                }
            }
        },
    },
    Metric {
        name: "forebay_node_weight",
        kind: Gauge,
        about: "Share of reads",
        labels: NODE,
        samples: |source, samples| {
            for node in nodes(source.facts) {
                samples.level(node.labels(), f64::from(node.weight));
            }
        },
    },
    Metric {
        name: "forebay_node_lag_bytes",
        kind: Gauge,
        about: "Bytes that the replica has not replayed of what the primary has written; absent while not known",
        labels: NODE,
        samples: |source, samples| {
            for node in nodes(source.facts) {
                if let Some(bytes) = node.lag_bytes {
                    samples.level(node.labels(), bytes as f64);
                }
            }
        },
    },
    Metric {
        name: "forebay_node_lag_seconds",
        kind: Gauge,
        about: "Time since the replica had replayed everything; absent while not known",
        labels: NODE,
        samples: |source, samples| {
            for node in nodes(source.facts) {
                if let Some(ms) = node.lag_ms {
                    samples.level(node.labels(), ms as f64 / 1e3);
                }
            }
        },
    },
    Metric {
        name: "forebay_node_probes_total",
        kind: Counter,
        about: "Health checks by their result",
        labels: &["service", "kind", "node", "result"],
        samples: |source, samples| {
            for node in nodes(source.facts) {
                let (success, fail) = node.probes;
                samples.count(node.labels_and("success"), success);
                samples.count(node.labels_and("failure"), fail);
            }
        },
    },
    Metric {
        name: "forebay_service_has_primary",
        kind: Gauge,
        about: "1 while the service has a primary that takes writes",
        labels: &["service", "kind"],
        samples: |source, samples| {
            for cluster in &source.facts.snapshot.clusters {
                let has_primary = f64::from(u8::from(cluster.primary.is_some()));
                samples.level(labels![cluster.name.clone(), "postgres"], has_primary);
            }
            for service in &source.facts.redis.services {
                let has_primary = f64::from(u8::from(service.primary.is_some()));
                samples.level(labels![service.name.clone(), "redis"], has_primary);
            }
        },
    },
    Metric {
        name: "forebay_clients",
        kind: Gauge,
        about: "Clients that are logged in, by state; those of Redis have no database and no user",
        labels: &["service", "database", "user", "state"],
        samples: |source, samples| {
            each_pool(
                source,
                samples,
                &[
                    ("idle", |pool| pool.clients.idle),
                    ("active", |pool| pool.clients.active),
                    ("waiting", |pool| pool.clients.waiting),
                ],
            );
            for service in &source.facts.redis_services {
                let state = |state| labels![service.name.clone(), "", "", state];
                samples.level(state("active"), service.clients.saturating_sub(service.waiting) as f64);
                samples.level(state("waiting"), service.waiting as f64);
            }
        },
    },
    Metric {
        name: "forebay_client_waiting",
        kind: Gauge,
        about: "Clients in the queue: for a server connection, or for a primary",
        labels: POOL,
        samples: |source, samples| {
            for pool in &source.pools {
                samples.level(pool.labels(), pool.clients.waiting as f64);
            }
            for service in &source.facts.redis_services {
                samples.level(labels![service.name.clone(), "", ""], service.waiting as f64);
            }
        },
    },
    Metric {
        name: "forebay_client_connections",
        kind: Gauge,
        about: "Client connections, logged in or not, by protocol",
        labels: &["kind"],
        samples: |source, samples| {
            samples.level(labels!["postgres"], source.facts.connections as f64);
            samples.level(labels!["redis"], source.instance.redis_shared.clients() as f64);
        },
    },
    Metric {
        name: "forebay_client_connections_max",
        kind: Gauge,
        about: "Client connections that are let in at a time: postgres.max_clients",
        labels: &["kind"],
        samples: |source, samples| {
            samples.level(labels!["postgres"], source.facts.config.postgres.max_clients as f64);
        },
    },
    Metric {
        name: "forebay_server_connections",
        kind: Gauge,
        about: "Connections to servers by state; those of Redis are shared",
        labels: &["service", "database", "user", "state"],
        samples: |source, samples| {
            each_pool(
                source,
                samples,
                &[
                    ("active", |pool| pool.servers.active),
                    ("idle", |pool| pool.servers.idle),
                    ("tested", |pool| pool.servers.tested),
                    ("login", |pool| pool.servers.login),
                    ("being_canceled", |pool| pool.servers.being_canceled),
                ],
            );
            for service in &source.facts.redis_services {
                let open: usize = service.connections.iter().map(|(_, count)| count).sum();
                samples.level(labels![service.name.clone(), "", "", "shared"], open as f64);
            }
        },
    },
    Metric {
        name: "forebay_pool_size",
        kind: Gauge,
        about: "Server connections that the pool may have to each node: pool.size",
        labels: POOL,
        samples: |source, samples| {
            for (pool, report) in source.pools.iter().zip(&source.facts.pools) {
                samples.level(pool.labels(), report.settings.size as f64);
            }
        },
    },
    Metric {
        name: "forebay_queue_wait_seconds",
        kind: Histogram,
        about: "How long clients waited for a server connection, of those that had to",
        labels: POOL,
        samples: |source, samples| {
            for pool in &source.pools {
                samples.times(pool.labels(), &pool.totals.wait_times, pool.totals.wait_time);
            }
        },
    },
    Metric {
        name: "forebay_queue_clients_total",
        kind: Counter,
        about: "Clients that left the queue: served, timed_out (queue_timeout), or refused (it was full)",
        labels: &["service", "database", "user", "outcome"],
        samples: |source, samples| {
            let outcomes: &[Of<u64>] = &[
                ("served", |pool| pool.totals.served),
                ("timed_out", |pool| pool.totals.timed_out),
                ("refused", |pool| pool.totals.refused),
            ];
            counts(source, samples, outcomes);
            for service in &source.facts.redis_services {
                let (served, timed_out, refused) = service.queue;
                for (outcome, count) in [("served", served), ("timed_out", timed_out), ("refused", refused)] {
                    samples.count(labels![service.name.clone(), "", "", outcome], count);
                }
            }
        },
    },
    Metric {
        name: "forebay_query_seconds",
        kind: Histogram,
        about: "From a query, or the end of its wait for a server connection, to the end of its answer",
        labels: POOL,
        samples: |source, samples| {
            for pool in &source.pools {
                samples.times(pool.labels(), &pool.totals.query_times, pool.totals.query_time);
            }
        },
    },
    Metric {
        name: "forebay_transaction_seconds",
        kind: Histogram,
        about: "From the first query of a transaction, or the end of its wait, to its end",
        labels: POOL,
        samples: |source, samples| {
            for pool in &source.pools {
                samples.times(pool.labels(), &pool.totals.xact_times, pool.totals.xact_time);
            }
        },
    },
    Metric {
        name: "forebay_queries_total",
        kind: Counter,
        about: "Statements that were run, by the role of the node at the time",
        labels: &["service", "database", "user", "target"],
        samples: |source, samples| {
            let targets: &[Of<u64>] = &[("primary", |pool| pool.by_target.0), ("replica", |pool| pool.by_target.1)];
            counts(source, samples, targets);
        },
    },
    Metric {
        name: "forebay_rerouted_total",
        kind: Counter,
        about: "Statements that a replica refused and the primary ran",
        labels: POOL,
        samples: |source, samples| {
            for pool in &source.pools {
                samples.count(pool.labels(), pool.totals.rerouted);
            }
        },
    },
    Metric {
        name: "forebay_fresh_reads_total",
        kind: Counter,
        about: "Reads behind a client's own write, by who had replayed it (read your writes): a replica, or only the primary",
        labels: &["service", "database", "user", "target"],
        samples: |source, samples| {
            let targets: &[Of<u64>] = &[("replica", |pool| pool.totals.fresh), ("primary", |pool| pool.totals.stale)];
            counts(source, samples, targets);
        },
    },
    Metric {
        name: "forebay_logins_total",
        kind: Counter,
        about: "Clients that have logged in",
        labels: POOL,
        samples: |source, samples| {
            for pool in &source.pools {
                samples.count(pool.labels(), pool.totals.logins);
            }
        },
    },
    Metric {
        name: "forebay_errors_total",
        kind: Counter,
        about: "Errors that clients were answered with: of the server, of Forebay, or because the queue took too long or was full",
        labels: &["service", "database", "user", "kind"],
        samples: |source, samples| {
            let kinds: &[Of<u64>] = &[
                ("server", of_servers),
                ("forebay", |pool| pool.totals.errors.saturating_sub(of_servers(pool))),
                ("queue_timeout", |pool| pool.totals.timed_out),
                ("queue_full", |pool| pool.totals.refused),
            ];
            counts(source, samples, kinds);
            for service in &source.facts.redis_services {
                let (_, timed_out, refused) = service.queue;
                let kinds =
                    [("unknown_outcome", service.unknown), ("queue_timeout", timed_out), ("queue_full", refused)];
                for (kind, count) in kinds {
                    samples.count(labels![service.name.clone(), "", "", kind], count);
                }
            }
        },
    },
    Metric {
        name: "forebay_bytes_total",
        kind: Counter,
        about: "Bytes from clients (received) and to them (sent), on PostgreSQL's connections",
        labels: &["service", "database", "user", "direction"],
        samples: |source, samples| {
            let directions: &[Of<u64>] =
                &[("received", |pool| pool.totals.received), ("sent", |pool| pool.totals.sent)];
            counts(source, samples, directions);
        },
    },
    Metric {
        name: "forebay_failovers_total",
        kind: Counter,
        about: "Times that another node became the primary, whoever promoted it",
        labels: &["service"],
        samples: |source, samples| {
            let served = source.instance.events.served();
            for name in services(source.facts) {
                samples.count(labels![name.clone()], served.get(&name).map_or(0, |served| served.failovers));
            }
        },
    },
    Metric {
        name: "forebay_failover_gap_seconds",
        kind: Histogram,
        about: "How long a service had no primary, each time",
        labels: &["service"],
        samples: |source, samples| {
            let known = source.instance.events.served();
            for name in services(source.facts) {
                let served = known.get(&name).copied().unwrap_or_default();
                let without = u64::try_from(served.without.as_nanos()).unwrap_or(u64::MAX);
                samples.times(labels![name], &served.gaps, without);
            }
        },
    },
    Metric {
        name: "forebay_pins",
        kind: Gauge,
        about: "Clients that keep a server connection beyond their transaction, by reason",
        labels: &["service", "database", "user", "reason"],
        samples: |source, samples| {
            for pool in &source.pools {
                // So that there is something to add up while there are none.
                if pool.pins.is_empty() {
                    samples.level(pool.labels_and(""), 0.0);
                }
                for (reason, clients) in &pool.pins {
                    samples.level(pool.labels_and(reason), *clients as f64);
                }
            }
        },
    },
    Metric {
        name: "forebay_auth_failures_total",
        kind: Counter,
        about: "Logins that failed, of all protocols",
        labels: &[],
        samples: |source, samples| samples.count(labels![], source.instance.shared.guard.failures()),
    },
    Metric {
        name: "forebay_ldap_failures_total",
        kind: Counter,
        about: "Questions about a login that an LDAP server left without an answer",
        labels: &[],
        samples: |source, samples| samples.count(labels![], source.instance.shared.directories.failures()),
    },
    Metric {
        name: "forebay_bans",
        kind: Gauge,
        about: "Addresses that are refused",
        labels: &[],
        samples: |source, samples| samples.level(labels![], source.facts.bans.len() as f64),
    },
    Metric {
        name: "forebay_refused_connections_total",
        kind: Counter,
        about: "Connections that were refused at the door: banned, not allowed, too many",
        labels: &[],
        samples: |source, samples| samples.count(labels![], source.instance.shared.guard.refused()),
    },
    Metric {
        name: "forebay_redis_commands_total",
        kind: Counter,
        about: "Redis commands: on connections that are shared, to the primary or to replicas, and on connections of a client's own",
        labels: &["service", "class"],
        samples: |source, samples| {
            for service in &source.facts.redis_services {
                let (primary, replica, own) = service.requests;
                for (class, count) in [("primary", primary), ("replica", replica), ("own", own)] {
                    samples.count(labels![service.name.clone(), class], count);
                }
            }
        },
    },
    Metric {
        name: "forebay_redis_commands_per_write",
        kind: Gauge,
        about: "Commands that left in one write to a server, on average since the start; 0 before the first",
        labels: &["service"],
        samples: |source, samples| {
            for service in &source.facts.redis_services {
                let (commands, writes) = service.batching;
                let each = if writes == 0 { 0.0 } else { commands as f64 / writes as f64 };
                samples.level(labels![service.name.clone()], each);
            }
        },
    },
    Metric {
        name: "forebay_redis_moved_total",
        kind: Counter,
        about: "Redis commands that ran again elsewhere, because they provably had not run",
        labels: &["service"],
        samples: |source, samples| {
            for service in &source.facts.redis_services {
                samples.count(labels![service.name.clone()], service.moved);
            }
        },
    },
    Metric {
        name: "forebay_otlp_sent_total",
        kind: Counter,
        about: "Traced statements, and exports of the metrics, that the collector of [telemetry] has accepted",
        labels: &["signal"],
        samples: |source, samples| {
            for (signal, told) in telemetry(source) {
                samples.count(labels![signal], told.sent.load(Ordering::Relaxed));
            }
        },
    },
    Metric {
        name: "forebay_otlp_dropped_total",
        kind: Counter,
        about: "The same that were lost: too many waited, or the collector was away for too long or refused them",
        labels: &["signal"],
        samples: |source, samples| {
            for (signal, told) in telemetry(source) {
                samples.count(labels![signal], told.dropped.load(Ordering::Relaxed));
            }
        },
    },
    Metric {
        name: "forebay_config_reload_success",
        kind: Gauge,
        about: "1 if the configuration file could be used when it was read last",
        labels: &[],
        samples: |source, samples| samples.level(labels![], f64::from(u8::from(source.instance.has_good_config()))),
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Gauge,
        about: "When the process started, in seconds since 1970",
        labels: &[],
        samples: |source, samples| {
            let since = source.instance.started.duration_since(UNIX_EPOCH).unwrap_or_default();
            samples.level(labels![], since.as_secs_f64());
        },
    },
    Metric {
        name: "process_cpu_seconds_total",
        kind: Counter,
        about: "Processor time of the process",
        labels: &[],
        samples: |_, samples| samples.amount(labels![], process::cpu_time().as_secs_f64()),
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Gauge,
        about: "Memory of the process that is not swapped out",
        labels: &[],
        samples: |_, samples| samples.level(labels![], process::resident_memory() as f64),
    },
    Metric {
        name: "process_open_fds",
        kind: Gauge,
        about: "Open files and sockets",
        labels: &[],
        samples: |_, samples| samples.level(labels![], process::open_files() as f64),
    },
    Metric {
        name: "process_max_fds",
        kind: Gauge,
        about: "Files and sockets that may be open",
        labels: &[],
        samples: |_, samples| samples.level(labels![], process::most_files() as f64),
    },
];

/// Traces and metrics.
fn telemetry<'a>(source: &'a Source<'_>) -> [(&'static str, &'a Told); 2] {
    let spans = &source.instance.shared.spans;
    [("traces", &spans.traces), ("metrics", &spans.metrics)]
}

/// Clusters and Redis services.
fn services(facts: &Facts) -> Vec<String> {
    let clusters = facts.snapshot.clusters.iter().map(|cluster| cluster.name.clone());
    clusters.chain(facts.redis.services.iter().map(|service| service.name.clone())).collect()
}
