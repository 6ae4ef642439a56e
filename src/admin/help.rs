//! `SHOW HELP`: a notice as PgBouncer's, and rows for drivers.

use super::run::Notice;
use super::table::{Row, row};
use super::views::VIEWS;

/// Everything that is no view: its form, and what it does.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    ("EXPLAIN ROUTE [DATABASE name] statement", "where a statement would run, and why"),
    ("SET key = value", "change a key of the configuration until the next RELOAD"),
    ("RELOAD", "read the configuration file again"),
    ("PAUSE [db]", "hold new requests, and wait until every server connection is closed"),
    ("RESUME [db]", "end PAUSE, KILL or SUSPEND"),
    ("DISABLE db", "refuse new clients"),
    ("ENABLE db", "let them in again"),
    ("RECONNECT [db]", "replace server connections as they become free"),
    ("KILL [db]", "close clients and server connections now, and pause"),
    ("KILL_CLIENT id", "close one client"),
    ("SUSPEND", "hold new requests, and wait until no transaction runs; connections stay open"),
    (
        "SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]",
        "end now, when no transaction runs, or when the clients have left",
    ),
    ("UPGRADE", "start the program anew, and hand the clients over to it"),
    ("WAIT_CLOSE [db]", "wait until the connections that RECONNECT or a reload replaces are closed"),
    ("DETACH NODE node", "take a node out of service at once"),
    ("ATTACH NODE node [FORCE]", "put it back"),
    ("DRAIN NODE node", "let running work end, and start nothing new on it"),
    ("SET WEIGHT node = n", "a node's share of reads"),
    (
        "SWITCHOVER service [TO node] [MODE fast | clean] [DRAIN '5s'] [DRY RUN]",
        "make a replica the primary; clients only wait",
    ),
    ("FAILOVER cluster [TO node] [ALLOW DATA LOSS]", "the primary is lost: promote a replica now"),
    ("PROMOTE node [ALLOW DATA LOSS]", "the same, to this node"),
    ("PAUSE FAILOVER [service]", "go on with the present primary, whatever happens to the roles of nodes"),
    ("RESUME FAILOVER [service]", "follow changes of the primary again"),
    ("BAN 'address' [FOR '10m']", "refuse new connections of an address or a block of them"),
    ("UNBAN 'address'", "let an address, or all in a block, connect again"),
];

pub(super) fn rows() -> Vec<Row> {
    let views = VIEWS.iter().map(|view| row![format!("SHOW {}", view.name), view.about]);
    views.chain(COMMANDS.iter().map(|(form, about)| row![*form, *about])).collect()
}

pub(super) fn notice() -> Notice {
    let mut detail = String::new();
    for line in VIEWS.chunks(6) {
        let names: Vec<&str> = line.iter().map(|view| view.name).collect();
        detail.push_str(&format!("\n\tSHOW {}", names.join("|")));
    }
    for (form, _) in COMMANDS {
        detail.push_str(&format!("\n\t{form}"));
    }
    Notice { detail: Some(detail), ..Notice::info("Console usage") }
}
