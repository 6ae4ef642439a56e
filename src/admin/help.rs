//! `SHOW HELP`: a notice as PgBouncer's, and rows for drivers.

use super::run::Notice;
use super::table::{Row, row};
use super::views::named;

/// What belongs together, in the order in which somebody new needs it; tools of others find their views by name.
pub(super) struct Topic {
    title: &'static str,
    views: &'static [&'static str],
    /// Everything that is no view: its form, and what it does.
    pub(super) commands: &'static [(&'static str, &'static str)],
}

pub(super) const TOPICS: &[Topic] = &[
    Topic {
        title: "nodes and failover",
        views: &["NODES", "HA", "HA CHECKS", "EVENTS", "INSTANCES"],
        commands: &[
            (
                "SWITCHOVER service [TO node] [MODE fast | clean] [DRAIN '5s'] [DRY RUN]",
                "make a replica the primary; clients only wait",
            ),
            ("FAILOVER cluster [TO node] [ALLOW DATA LOSS]", "the primary is lost: promote a replica now"),
            ("PROMOTE node [ALLOW DATA LOSS]", "the same, to this node"),
            ("PAUSE FAILOVER [service]", "go on with the present primary, whatever happens to the roles of nodes"),
            ("RESUME FAILOVER [service]", "follow changes of the primary again"),
            ("DRAIN NODE node", "let running work end, and start nothing new on it"),
            ("DETACH NODE node", "take a node out of service at once"),
            ("ATTACH NODE node [FORCE]", "put it back"),
            ("SET WEIGHT node = n", "a node's share of reads"),
        ],
    },
    Topic {
        title: "clients and their statements",
        views: &["POOLS", "QUEUE", "CLIENTS", "SERVERS", "PINS", "QUERIES"],
        commands: &[
            ("EXPLAIN ROUTE [DATABASE name] statement", "where a statement would run, and why"),
            ("KILL_CLIENT id", "close one client"),
        ],
    },
    Topic { title: "commands and keys of Redis", views: &["COMMANDS", "KEYS"], commands: &[] },
    Topic {
        title: "pausing and replacing connections",
        views: &["DATABASES", "STATE"],
        commands: &[
            ("PAUSE [db]", "hold new requests, and wait until every server connection is closed"),
            ("RESUME [db]", "end PAUSE, KILL or SUSPEND"),
            ("DISABLE db", "refuse new clients"),
            ("ENABLE db", "let them in again"),
            ("RECONNECT [db]", "replace server connections as they become free"),
            ("WAIT_CLOSE [db]", "wait until the connections that RECONNECT or a reload replaces are closed"),
            ("KILL [db]", "close clients and server connections now, and pause"),
            ("SUSPEND", "hold new requests, and wait until no transaction runs; connections stay open"),
        ],
    },
    Topic {
        title: "who may connect",
        views: &["BANS", "HBA", "USERS"],
        commands: &[
            ("BAN 'address' [FOR '10m']", "refuse new connections of an address or a block of them"),
            ("UNBAN 'address'", "let an address, or all in a block, connect again"),
        ],
    },
    Topic {
        title: "configuration and process",
        views: &["CONFIG", "VERSION", "MEM", "HELP"],
        commands: &[
            ("SET key = value", "change a key of the configuration until the next RELOAD"),
            ("RELOAD", "read the configuration file again"),
            ("UPGRADE", "start the program anew, and hand the clients over to it"),
            (
                "SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]",
                "end now, when no transaction runs, or when the clients have left",
            ),
        ],
    },
    Topic {
        title: "for tools of PgBouncer",
        views: &[
            "STATS",
            "STATS_TOTALS",
            "STATS_AVERAGES",
            "TOTALS",
            "LISTS",
            "SOCKETS",
            "ACTIVE_SOCKETS",
            "PEERS",
            "PEER_POOLS",
            "DNS_HOSTS",
            "DNS_ZONES",
        ],
        commands: &[],
    },
    Topic {
        title: "for tools of Pgpool-II",
        views: &[
            "POOL_NODES",
            "POOL_PROCESSES",
            "POOL_POOLS",
            "POOL_BACKEND_STATS",
            "POOL_HEALTH_CHECK_STATS",
            "POOL_CACHE",
            "POOL_VERSION",
        ],
        commands: &[],
    },
];

pub(super) fn rows() -> Vec<Row> {
    let of = |topic: &'static Topic| {
        let views = topic.views.iter().filter_map(|name| named(name));
        let views = views.map(|view| row![format!("SHOW {}", view.name), view.about, topic.title]);
        views.chain(topic.commands.iter().map(|(form, about)| row![*form, *about, topic.title]))
    };
    TOPICS.iter().flat_map(of).collect()
}

pub(super) fn notice() -> Notice {
    let mut detail = String::new();
    for topic in TOPICS {
        detail.push_str(&format!("\n\t-- {}", topic.title));
        for names in topic.views.chunks(6) {
            detail.push_str(&format!("\n\tSHOW {}", names.join("|")));
        }
        for (form, _) in topic.commands {
            detail.push_str(&format!("\n\t{form}"));
        }
    }
    Notice { detail: Some(detail), ..Notice::info("Console usage") }
}
