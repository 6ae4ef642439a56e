//! Where a statement may run, as far as the statement and the pool's settings decide it. Pure: the sessions and
//! `EXPLAIN ROUTE` ask the same function.

use super::errors::Trouble;
use super::pool::PoolConfig;
use crate::config::model::{ListenRoute, PoolMode};
use crate::sql::{Hint, Kind};

/// Where a statement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// On the primary only.
    Primary,
    /// On any replica, by the wish of the client.
    Replica,
    /// On a replica that shows what the client wrote before, else on the primary.
    FreshReplica,
    /// Anywhere, but no replica is fit now: on the primary.
    Any,
}

/// Whose wish sent a statement, or the transaction that it begins, to a replica: it may be a write after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Of the statement.
    Hint,
    /// `SET forebay.route`
    Session,
    /// As the client connected: the listener's route, or an option.
    Connection,
}

impl Wish {
    /// Why a replica has refused a write, and the way out. `is_kept`: the client keeps its connection to the replica.
    pub fn way_out(self, is_kept: bool) -> &'static str {
        match (self, is_kept) {
            (Wish::Hint, false) => {
                "the hint \"forebay: replica\" sent this transaction to a replica; to write, begin one without it"
            }
            (Wish::Session, false) => {
                "this session's own forebay.route = 'replica' sent the transaction to a replica; to write, end it and \
                 SET forebay.route = 'auto'"
            }
            (Wish::Connection, false) => {
                "this client connected for replicas only (the listener's route, or the option forebay.route); to write, \
                 end the transaction and SET forebay.route = 'auto', or connect to a listener that takes writes"
            }
            (Wish::Hint, true) => {
                "the hint \"forebay: replica\" gave this session a replica, and it keeps its connection; to write, \
                 connect again and begin without it"
            }
            (Wish::Session, true) => {
                "this session's own forebay.route = 'replica' gave it a replica, and it keeps its connection; to write, \
                 connect again and leave forebay.route at 'auto'"
            }
            (Wish::Connection, true) => {
                "this client connected for replicas only (the listener's route, or the option forebay.route); to write, \
                 connect to a listener that takes writes"
            }
        }
    }
}

/// The setting that is the client's wish where its statements run.
pub const ROUTE: &str = "forebay.route";

/// The route that a client names, in any case.
///
/// # Errors
/// [`Trouble::BadSetting`] with what is accepted.
pub fn named(value: &str) -> Result<ListenRoute, Trouble> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(ListenRoute::Auto),
        "primary" => Ok(ListenRoute::Primary),
        "replica" => Ok(ListenRoute::Replica),
        _ => {
            let accepted = "auto, primary and replica";
            Err(Trouble::BadSetting { name: ROUTE, value: value.to_owned(), accepted })
        }
    }
}

/// Whether a pool sends reads to replicas by itself.
pub fn splits(config: &PoolConfig) -> bool {
    // A session keeps its first connection: only one that can do everything serves.
    config.split && config.mode != PoolMode::Session
}

/// The way of a statement that begins outside a transaction. `hint` is the statement's, `route` the session's.
pub fn way(hint: Option<Hint>, route: ListenRoute, split: bool, is_read: bool, has_replicas: bool) -> Way {
    let wanted = match hint {
        Some(Hint::Primary) => ListenRoute::Primary,
        Some(Hint::Replica) => ListenRoute::Replica,
        None => route,
    };
    match wanted {
        ListenRoute::Primary => Way::Primary,
        ListenRoute::Replica if has_replicas => Way::Replica,
        ListenRoute::Auto if split && is_read && has_replicas => Way::FreshReplica,
        ListenRoute::Replica => Way::Any,
        ListenRoute::Auto if split && is_read => Way::Any,
        ListenRoute::Auto => Way::Primary,
    }
}

/// Of a statement that begins a transaction: whether it must be serializable, and whether it is declared read-only.
pub fn begin_of(kind: &Kind) -> (bool, bool) {
    match kind {
        Kind::Begin { read_only, serializable } => (*serializable, *read_only == Some(true)),
        _ => (false, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ListenRoute::{Auto, Primary, Replica};

    #[test]
    fn a_hint_wins_over_the_session_and_the_session_over_the_split() {
        for (hint, route, split, is_read, expected) in [
            (None, Auto, true, true, Way::FreshReplica),
            (None, Auto, true, false, Way::Primary),
            (None, Auto, false, true, Way::Primary),
            (None, Primary, true, true, Way::Primary),
            (None, Replica, false, false, Way::Replica),
            (Some(Hint::Primary), Replica, true, true, Way::Primary),
            (Some(Hint::Replica), Primary, false, false, Way::Replica),
        ] {
            assert_eq!(way(hint, route, split, is_read, true), expected, "{hint:?} {route:?} {split} {is_read}");
        }
    }

    #[test]
    fn without_a_fit_replica_everything_goes_to_the_primary() {
        assert_eq!(way(None, Auto, true, true, false), Way::Any);
        assert_eq!(way(None, Replica, true, true, false), Way::Any);
        assert_eq!(way(None, Auto, true, false, false), Way::Primary);
    }
}
