//! `[postgres.pool]` and `[postgres.routing]`, and the same keys inside a database or a user.

use std::time::Duration;

use super::{Key, key, section};
use crate::config::model::{
    Balance, Consistency, Database, PoolMode, PoolOverrides, PoolSettings, Postgres, RoutingOverrides, RoutingSettings,
    User,
};
use crate::config::setting::words;

words! {
    PoolMode { Transaction = "transaction", Session = "session", Statement = "statement" }
    Consistency { Session = "session", Eventual = "eventual", Primary = "primary" }
    Balance { LeastConnections = "least_connections", RoundRobin = "round_robin", Random = "random", Source = "source" }
}

/// A section in which pool and routing keys may be written for itself alone.
pub(in crate::config) trait Inherits: Sized {
    fn pool(&self) -> &PoolOverrides;
    fn pool_mut(&mut self) -> &mut PoolOverrides;
    fn routing(&self) -> &RoutingOverrides;
    fn routing_mut(&mut self) -> &mut RoutingOverrides;
}

macro_rules! inherits {
    ($($type:ident),*) => {$(
        impl Inherits for $type {
            fn pool(&self) -> &PoolOverrides {
                &self.pool
            }
            fn pool_mut(&mut self) -> &mut PoolOverrides {
                &mut self.pool
            }
            fn routing(&self) -> &RoutingOverrides {
                &self.routing
            }
            fn routing_mut(&mut self) -> &mut RoutingOverrides {
                &mut self.routing
            }
        }
    )*};
}
inherits!(Database, User);

/// A section and its overrides from one table: the section itself, the same keys without defaults for whoever
/// inherits them, and the merge.
macro_rules! inherited {
    (
        $type:ident = $path:literal, $overrides:ident through $part:ident $part_mut:ident, $own_keys:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident : $kind:ty = $default:literal $([$($rule:ident($($arg:expr),*)),+])? ;
            )*
        }
    ) => {
        section! {
            One $type = $path {
                $($(#[doc = $doc])+ $field: $kind = $default $([$($rule($($arg),*)),+])?;)*
            }
        }

        /// The keys of the section as a database or a user may have them.
        pub(super) fn $own_keys<T: Inherits>() -> Vec<Key<T>> {
            let mut keys = vec![$(
                key!(
                    T, $field, $kind, [], [], concat!($($doc, "\n"),+),
                    |t: &mut T, v| t.$part_mut().$field = Some(v), |t: &T| t.$part().$field.as_ref()
                )
                $($(.$rule($($arg),*))+)?
            ),*];
            for key in &mut keys {
                key.inherited = Some($path);
            }
            keys
        }

        impl $type {
            /// These settings with what `overrides` sets put over them.
            pub fn with(&self, overrides: &$overrides) -> Self {
                Self {
                    $($field: overrides.$field.clone().unwrap_or_else(|| self.$field.clone()),)*
                }
            }
        }
    };
}

inherited! {
    PoolSettings = "postgres.pool", PoolOverrides through pool pool_mut, pool_keys {
        /// transaction gives the server connection back at the end of each transaction, session when the client
        /// leaves, statement after each statement (transaction blocks are refused).
        mode: PoolMode = "\"transaction\"";
        /// Server connections to one node for one database and user. Two to four for each core of the server is
        /// plenty; more make a busy server slower. The sum of all pools must fit max_connections.
        size: usize = "20" [at_least(1)];
        /// Connections kept open to the primary even when idle. Raise it where the first clients after a quiet
        /// time must not wait for logins.
        min_size: usize = "0";
        /// Extra connections that are opened when a client has waited for `reserve_after`.
        reserve_size: usize = "0";
        /// How long a client waits before the reserve is opened.
        reserve_after: Duration = "\"5s\"";
        /// Clients of one pool that may keep a server connection for what they left on it (`SHOW PINS`). A statement that
        /// would make one more is refused (53400), so that the others still find connections.
        max_pinned: Option<usize> = "\"unlimited\"";
        /// A client that waits longer for a server connection gets an error (57P03); off waits for ever.
        queue_timeout: Option<Duration> = "\"30s\"";
        /// Clients that may wait in one pool; one more is refused at once (53300). Set it where a fast error is
        /// better than a long wait.
        queue_length: Option<usize> = "\"unlimited\"";
        /// A client that has waited this long is told so by a NOTICE.
        queue_notice: Option<Duration> = "\"5s\"";
        /// How long connecting and logging in to a server may take.
        connect_timeout: Duration = "\"5s\"" [at_least(1)];
        /// A server connection that nobody used for this long is closed.
        server_idle_timeout: Option<Duration> = "\"10m\"";
        /// A server connection older than this is closed when it is free; each goes up to 10 % earlier, so that
        /// not all go at once.
        server_lifetime: Option<Duration> = "\"1h\"";
        /// How long a client may take to log in.
        client_login_timeout: Option<Duration> = "\"15s\"";
        /// A client that sends nothing for this long outside of a transaction is closed.
        client_idle_timeout: Option<Duration> = "\"off\"";
        /// A statement that runs longer is cancelled and its client closed. A net for runaways: prefer the
        /// server's statement_timeout, which only fails the statement.
        query_timeout: Option<Duration> = "\"off\"";
        /// A transaction that is open longer is ended and its client closed.
        transaction_timeout: Option<Duration> = "\"off\"";
        /// A client that is idle inside of a transaction for longer is closed. Set it where applications forget
        /// to commit: each such client holds a server connection.
        idle_in_transaction_timeout: Option<Duration> = "\"off\"";
        /// Prepared statements kept on one server connection; the one not used for longest gives way. 0 is as 1: unlike
        /// PgBouncer's 0 it never breaks clients that prepare.
        prepared_statements: usize = "500";
    }
}

inherited! {
    RoutingSettings = "postgres.routing", RoutingOverrides through routing routing_mut, routing_keys {
        /// Whether reads may run on replicas.
        split: bool = "true";
        /// session: a client sees its own writes; eventual: a read may be as old as `max_lag`; primary: every
        /// read runs on the primary.
        consistency: Consistency = "\"session\"";
        /// How long a read waits for a replica that shows what its client has written, before the primary answers. Off is
        /// not at all: the fastest answer, at the primary's expense.
        read_wait: Option<Duration> = "\"off\"";
        /// A replica further behind than this gets no reads; off sets no limit.
        max_lag: Option<Duration> = "\"10s\"" [zero_is_refused()];
        /// The same in bytes of write-ahead log.
        max_lag_bytes: Option<u64> = "\"unlimited\"" [at_least(1)];
        /// How one of several fit replicas is chosen. source keeps a client's address on one node.
        balance: Balance = "\"least_connections\"";
        /// Functions (name or schema.name) that are reads although the catalog calls them volatile.
        read_functions: Vec<String> = "[]";
        /// Functions that are writes although the catalog does not say so.
        write_functions: Vec<String> = "[]";
    }
}

/// What a function does is a matter of its database, whoever calls it.
pub(super) fn routing_keys_of_a_user<T: Inherits>() -> Vec<Key<T>> {
    let mut keys = routing_keys();
    keys.retain(|key| !matches!(key.name, "read_functions" | "write_functions"));
    keys
}

impl Postgres {
    /// The pool keys for a client: `[postgres.pool]`, then its database's entry (by name, else `*`), then its
    /// user's.
    pub fn pool_for(&self, database: &str, user: &str) -> PoolSettings {
        let entry = self.database(database).and_then(|found| found.entry);
        let settings = entry.map_or_else(|| self.pool.clone(), |entry| self.pool.with(&entry.pool));
        self.user(user).map_or_else(|| settings.clone(), |user| settings.with(&user.pool))
    }

    /// The routing keys for a client, inherited as in [`Postgres::pool_for`].
    pub fn routing_for(&self, database: &str, user: &str) -> RoutingSettings {
        let entry = self.database(database).and_then(|found| found.entry);
        let settings = entry.map_or_else(|| self.routing.clone(), |entry| self.routing.with(&entry.routing));
        self.user(user).map_or_else(|| settings.clone(), |user| settings.with(&user.routing))
    }
}
