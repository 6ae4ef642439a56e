//! HAProxy's statistics as CSV, for everything that reads those: a frontend, a server a node, and a backend for each
//! PostgreSQL cluster and each Redis service.
//!
//! The columns are HAProxy's first 83 in its order, then ours. As there, every line ends with a comma. What has no equal
//! is left empty, never made up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use crate::admin::facts::{Facts, Needs};
use crate::pg::stats::Totals;
use crate::topology::model::HealthCounters;
use crate::topology::{Role, State};

/// What [`csv`] has to have.
pub(super) const NEEDS: Needs = Needs::POOLS;

/// HAProxy 2.6's `show stat`, up to the end of what all versions since 1.9 have.
const COLUMNS: &[&str] = &[
    "pxname",
    "svname",
    "qcur",
    "qmax",
    "scur",
    "smax",
    "slim",
    "stot",
    "bin",
    "bout",
    "dreq",
    "dresp",
    "ereq",
    "econ",
    "eresp",
    "wretr",
    "wredis",
    "status",
    "weight",
    "act",
    "bck",
    "chkfail",
    "chkdown",
    "lastchg",
    "downtime",
    "qlimit",
    "pid",
    "iid",
    "sid",
    "throttle",
    "lbtot",
    "tracked",
    "type",
    "rate",
    "rate_lim",
    "rate_max",
    "check_status",
    "check_code",
    "check_duration",
    "hrsp_1xx",
    "hrsp_2xx",
    "hrsp_3xx",
    "hrsp_4xx",
    "hrsp_5xx",
    "hrsp_other",
    "hanafail",
    "req_rate",
    "req_rate_max",
    "req_tot",
    "cli_abrt",
    "srv_abrt",
    "comp_in",
    "comp_out",
    "comp_byp",
    "comp_rsp",
    "lastsess",
    "last_chk",
    "last_agt",
    "qtime",
    "ctime",
    "rtime",
    "ttime",
    "agent_status",
    "agent_code",
    "agent_duration",
    "check_desc",
    "agent_desc",
    "check_rise",
    "check_fall",
    "check_health",
    "agent_rise",
    "agent_fall",
    "agent_health",
    "addr",
    "cookie",
    "mode",
    "algo",
    "conn_rate",
    "conn_rate_max",
    "conn_tot",
    "intercepted",
    "dcon",
    "dses",
];

/// Behind HAProxy's own.
const OURS: &[&str] = &["role", "state", "lag_bytes", "lag_ms"];

/// HAProxy's `type`.
const FRONTEND: u8 = 0;
const BACKEND: u8 = 1;
const SERVER: u8 = 2;

/// `/stats;csv`, `/haproxy?stats;csv` and what tools append to them.
pub(super) fn is_csv(path: &str, query: &str) -> bool {
    let is_page = |text: &str| {
        text.trim_start_matches('/').split(';').next().is_some_and(|page| page == "stats" || page.is_empty())
    };
    let asks = |text: &str| text.split(';').skip(1).any(|word| word == "csv");
    (is_page(path) && asks(path)) || (path.trim_start_matches('/') == "haproxy" && asks(query))
}

/// The whole text.
pub(super) fn csv(facts: &Facts) -> String {
    let mut out = String::from("# ");
    for name in COLUMNS.iter().chain(OURS) {
        let _ = write!(out, "{name},");
    }
    out.push('\n');
    for line in clusters(facts).into_iter().chain(services(facts)) {
        for name in COLUMNS.iter().chain(OURS) {
            out.push_str(&quoted(line.0.get(name).map_or("", String::as_str)));
            out.push(',');
        }
        out.push('\n');
    }
    out
}

/// As HAProxy quotes what would break a line.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"").replace(['\n', '\r'], " ")),
        false => text.to_owned(),
    }
}

/// The fields of a line that are known, by name.
#[derive(Default)]
struct Line(BTreeMap<&'static str, String>);

impl Line {
    fn new(service: &str, name: &str, kind: u8) -> Self {
        Line::default()
            .with("pxname", service)
            .with("svname", name)
            .with("type", kind)
            .with("pid", 1)
            .with("mode", "tcp")
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.insert(name, value.to_string());
        self
    }

    fn with_some(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

/// HAProxy's words. One that drains or is detached was taken out by hand.
fn status(state: State) -> &'static str {
    match state {
        State::Up => "UP",
        State::Down | State::Fenced => "DOWN",
        State::Draining => "DRAIN",
        State::Detached => "MAINT",
    }
}

/// A node of either protocol.
struct Node<'a> {
    name: &'a str,
    address: String,
    weight: u32,
    role: Role,
    state: State,
    reason: &'a str,
    changed: SystemTime,
    health: &'a HealthCounters,
    connections: Option<usize>,
    statements: Option<u64>,
    errors: Option<u64>,
    lag: (Option<u64>, Option<u64>),
}

impl Node<'_> {
    fn line(&self, service: &str) -> Line {
        let answered = self.health.last_success >= self.health.last_failure && self.health.last_success.is_some();
        let since = self.changed.elapsed().unwrap_or_default().as_secs();
        let is_backup = self.role == Role::Replica;
        Line::new(service, self.name, SERVER)
            .with("status", status(self.state))
            .with("weight", self.weight)
            .with("act", u8::from(!is_backup))
            .with("bck", u8::from(is_backup))
            .with("addr", &self.address)
            .with("lastchg", since)
            .with("chkfail", self.health.fail)
            .with("check_status", if answered { "L7OK" } else { "L7TOUT" })
            .with_some("check_duration", self.health.average().map(|average| average.as_millis()))
            .with("last_chk", self.reason)
            .with_some("scur", self.connections)
            .with_some("lbtot", self.statements)
            .with_some("eresp", self.errors)
            .with("role", self.role)
            .with("state", self.state)
            .with_some("lag_bytes", self.lag.0)
            .with_some("lag_ms", self.lag.1)
    }
}

fn clusters(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    for (c, cluster) in facts.snapshot.clusters.iter().enumerate() {
        let service = cluster.name.as_str();
        let pools: Vec<_> = facts.pools.iter().filter(|pool| pool.cluster == c).collect();
        let (totals, averages) = facts.totals(pools.iter().copied());
        let clients: usize = pools.iter().map(|p| p.clients.all()).sum();
        let waiting: usize = pools.iter().map(|pool| pool.clients.waiting).sum();
        lines.push(
            Line::new(service, "FRONTEND", FRONTEND)
                .with("status", "OPEN")
                .with("scur", clients)
                .with("slim", facts.config.postgres.max_clients)
                .with("stot", totals.logins)
                .with("bin", totals.received)
                .with("bout", totals.sent)
                .with("req_tot", totals.queries)
                .with("req_rate", averages.queries)
                .with("dcon", 0),
        );
        for (n, node) in cluster.nodes.iter().enumerate() {
            let of_node = totals.by_node.get(n).copied().unwrap_or_default();
            let statements =
                [of_node.selects, of_node.inserts, of_node.updates, of_node.deletes, of_node.ddl, of_node.other];
            let node = Node {
                name: &node.name,
                address: format!("{}:{}", node.host, node.port),
                weight: node.weight,
                role: node.role,
                state: node.state,
                reason: &node.reason,
                changed: node.last_change,
                health: &node.health,
                connections: Some(pools.iter().filter_map(|pool| pool.by_node.get(n)).sum()),
                statements: Some(statements.iter().sum()),
                errors: Some(of_node.errors + of_node.fatals + of_node.panics),
                lag: (node.lag_bytes, node.lag_ms),
            };
            lines.push(node.line(service));
        }
        let active: usize = pools.iter().map(|pool| pool.servers.active).sum();
        lines.push(
            backend(service, cluster.primary.is_some())
                .with("qcur", waiting)
                .with("scur", active)
                .with("bin", totals.received)
                .with("bout", totals.sent)
                .with("wredis", totals.rerouted)
                .with("econ", 0)
                .with("act", cluster.nodes.iter().filter(|node| node.state == State::Up).count())
                .with("bck", 0)
                .with("qtime", averages.wait_time / 1000)
                .with("rtime", averages.query_time / 1000)
                .with("ttime", averages.xact_time / 1000)
                .with("dreq", refused(&totals)),
        );
    }
    lines
}

fn refused(totals: &Totals) -> u64 {
    totals.refused + totals.timed_out
}

fn backend(service: &str, has_primary: bool) -> Line {
    Line::new(service, "BACKEND", BACKEND).with("status", if has_primary { "UP" } else { "DOWN" })
}

fn services(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    for service in &facts.redis.services {
        let name = service.name.as_str();
        let report = facts.redis_services.iter().find(|report| report.name == name);
        let (primary, replica, own) = report.map_or((0, 0, 0), |report| report.requests);
        lines.push(
            Line::new(name, "FRONTEND", FRONTEND)
                .with("status", "OPEN")
                .with_some("scur", report.map(|report| report.clients))
                .with("req_tot", primary + replica + own),
        );
        for node in &service.nodes {
            let connections = report.and_then(|report| report.connections.iter().find(|(id, _)| *id == node.id));
            let node = Node {
                name: &node.name,
                address: format!("{}:{}", node.host, node.port),
                weight: node.weight,
                role: node.role,
                state: node.state,
                reason: &node.reason,
                changed: node.last_change,
                health: &node.health,
                connections: connections.map(|(_, count)| *count),
                statements: None,
                errors: None,
                lag: (node.lag_bytes, node.lag_ms),
            };
            lines.push(node.line(name));
        }
        let (_, timed_out, refused) = report.map_or((0, 0, 0), |report| report.queue);
        lines.push(
            backend(name, service.primary.is_some())
                .with_some("qcur", report.map(|report| report.waiting))
                .with("wretr", report.map_or(0, |report| report.moved))
                .with("dreq", timed_out + refused)
                .with("act", service.nodes.iter().filter(|node| node.state == State::Up).count())
                .with("bck", 0),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_haproxys_83_columns() {
        assert_eq!((COLUMNS.len(), COLUMNS[0], COLUMNS[82]), (83, "pxname", "dses"));
    }

    #[test]
    fn the_paths_that_tools_know_are_known() {
        for (path, query) in
            [("/stats;csv", ""), ("/;csv", ""), ("/stats;csv;norefresh", ""), ("/haproxy", "stats;csv")]
        {
            assert!(is_csv(path, query), "{path}?{query}");
        }
        for (path, query) in [("/stats", ""), ("/", ""), ("/metrics", "stats;csv"), ("/x;csv", "")] {
            assert!(!is_csv(path, query), "{path}?{query}");
        }
    }

    #[test]
    fn a_field_cannot_break_its_line() {
        assert_eq!(quoted("a, \"b\"\nc"), "\"a, \"\"b\"\" c\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
