//! Clients and server connections one by one.

use std::collections::BTreeMap;

use crate::admin::facts::Facts;
use crate::admin::table::{Row, Value, row};
use crate::admin::time;
use crate::pg::registry::{ClientState, ServerState};
use crate::pg::report::{ClientReport, ServerReport};

/// What PgBouncer shows as an address in memory: ours are numbers that are never used again.
fn pointer(id: u64) -> String {
    if id == 0 { String::new() } else { format!("{id:#014x}") }
}

fn client(facts: &Facts, client: &ClientReport, state: &'static str) -> Row {
    let waited = match client.state {
        ClientState::Waiting => facts.now.saturating_sub(client.since) / 1000,
        ClientState::Idle | ClientState::Active => 0,
    };
    row![
        "C",
        &client.user,
        &client.database,
        "none",
        state,
        &client.peer.0,
        client.peer.1,
        &client.local.0,
        client.local.1,
        time::with_zone(client.connected),
        time::with_zone(time::wall(client.since)),
        waited / 1_000_000,
        waited % 1_000_000,
        0,
        pointer(client.id),
        pointer(client.link),
        0,
        client.tls.map(|cipher| cipher.to_string()).unwrap_or_default(),
        &client.application_name,
        client.prepared,
        client.id,
    ]
}

fn server(server: &ServerReport, applications: &BTreeMap<u64, &str>, state: &'static str) -> Row {
    let application = applications.get(&server.client).copied().unwrap_or_default();
    row![
        "S",
        &server.user,
        &server.database,
        "none",
        state,
        &server.peer.0,
        server.peer.1,
        &server.local.0,
        server.local.1,
        time::with_zone(server.connected),
        time::with_zone(time::wall(server.since)),
        0,
        0,
        server.close_needed,
        pointer(server.id),
        pointer(server.client),
        server.process_id,
        server.tls.map(|cipher| cipher.to_string()).unwrap_or_default(),
        application.to_owned(),
        server.prepared,
        server.id,
    ]
}

fn all_clients(facts: &Facts) -> impl Iterator<Item = &ClientReport> {
    facts.clients.iter().chain(&facts.consoles)
}

pub(super) fn clients(facts: &Facts) -> Vec<Row> {
    all_clients(facts).map(|c| client(facts, c, c.state.as_str())).collect()
}

/// What each client calls itself.
fn applications(facts: &Facts) -> BTreeMap<u64, &str> {
    facts.clients.iter().map(|c| (c.id, c.application_name.as_str())).collect()
}

pub(super) fn servers(facts: &Facts) -> Vec<Row> {
    let applications = applications(facts);
    facts.servers.iter().map(|s| server(s, &applications, s.state.as_str())).collect()
}

pub(super) fn sockets(facts: &Facts) -> Vec<Row> {
    with_buffers(facts, |_| true, |_| true)
}

pub(super) fn active_sockets(facts: &Facts) -> Vec<Row> {
    with_buffers(facts, |c| c.state != ClientState::Idle, |s| s.state != ServerState::Idle)
}

/// How many columns speak of the buffers.
pub(super) const BUFFERS: usize = 7;

/// Nothing is buffered for a socket between two turns of the event loop, so the columns of the buffers are 0.
fn with_buffers(
    facts: &Facts,
    which_clients: impl Fn(&ClientReport) -> bool,
    which_servers: impl Fn(&ServerReport) -> bool,
) -> Vec<Row> {
    let client_state = |state| match state {
        ClientState::Idle | ClientState::Active => "cl_active",
        ClientState::Waiting => "cl_waiting",
    };
    let server_state = |state| match state {
        ServerState::New => "sv_login",
        ServerState::Idle => "sv_idle",
        ServerState::Active => "sv_active",
        ServerState::Tested => "sv_tested",
        ServerState::BeingCanceled => "sv_being_canceled",
    };
    let applications = applications(facts);
    let clients = all_clients(facts).filter(|c| which_clients(c)).map(|c| client(facts, c, client_state(c.state)));
    let servers = facts.servers.iter().filter(|s| which_servers(s));
    let servers = servers.map(|s| server(s, &applications, server_state(s.state)));
    let buffers = || std::iter::repeat_n(Value::from(0), BUFFERS);
    clients.chain(servers).map(|row| row.into_iter().chain(buffers()).collect()).collect()
}

pub(super) fn pins(facts: &Facts) -> Vec<Row> {
    let pinned = facts.clients.iter().filter_map(|c| Some((c, c.pin?)));
    let row = |(c, reason): (&ClientReport, &'static str)| {
        let since = (c.linked > 0).then(|| time::with_zone(time::wall(c.linked)));
        row![c.id, &c.database, &c.user, reason, since]
    };
    pinned.map(row).chain(super::redis::pins(facts)).collect()
}
