//! How the primary sees each replica: the two columns of `SHOW POOL_NODES` that Pgpool-II takes from
//! `pg_stat_replication`.
//!
//! Nothing in PostgreSQL says which sender feeds which receiver. Both ends know the replica's name
//! (`application_name`) and its slot, so these are compared, and then the address. Who is not told apart by them shows
//! nothing: an empty field is better than the state of another replica.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::{Client, Error};

use crate::admin::servers;
use crate::ops::Instance;
use crate::topology::State;

/// The stream to one replica, in PostgreSQL's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Stream {
    /// `streaming`, `catchup`, ...
    pub(super) state: String,
    /// `async`, `sync`, `potential` or `quorum`.
    pub(super) sync_state: String,
}

/// What a node told, by what it is to others.
#[derive(Debug, Default)]
struct Told {
    port: i32,
    senders: Vec<Sender>,
    receiver: Option<Receiver>,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sender {
    name: String,
    slot: Option<String>,
    address: Option<String>,
    stream: Stream,
}

/// What a replica tells of its WAL receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Receiver {
    /// `key=value` with blanks in between and nothing quoted, which is how `pg_stat_wal_receiver` has it.
    conninfo: String,
    slot: Option<String>,
    /// Where it receives from; hidden by servers before 11.
    from_port: Option<i32>,
    /// Where we reached the replica: not always the address that the primary sees.
    address: Option<String>,
}

/// Asks every node that is there; the answer is by cluster and node.
pub(in crate::admin) async fn streams(instance: &Arc<Instance>) -> BTreeMap<(usize, usize), Stream> {
    let config = instance.config.load_full();
    let snapshot = instance.monitor.snapshot();
    let is_there = |c: usize, n: usize| {
        let conf = config.postgres.clusters.get(c);
        let view = snapshot.clusters.get(c).filter(|view| conf.is_some_and(|conf| conf.name == view.name));
        view.and_then(|view| view.nodes.get(n)).is_some_and(|node| node.state != State::Down)
    };
    let mut told = servers::ask_all(&config, is_there, tell).await;
    let mut found = BTreeMap::new();
    for (c, view) in snapshot.clusters.iter().enumerate() {
        let Some(Ok(primary)) = view.primary.and_then(|primary| told.remove(&(c, primary))) else { continue };
        let receivers = told.range((c, 0)..=(c, usize::MAX));
        let receivers = receivers.filter_map(|((_, n), told)| Some((*n, told.as_ref().ok()?.receiver.as_ref()?)));
        let receivers: Vec<_> =
            receivers.filter(|(_, receiver)| receiver.from_port.is_none_or(|port| port == primary.port)).collect();
        found.extend(paired(&primary.senders, &receivers).map(|(n, sender)| ((c, n), sender.stream.clone())));
    }
    found
}

/// Each receiver with its sender, where there is exactly one for either.
fn paired<'a>(senders: &'a [Sender], receivers: &[(usize, &Receiver)]) -> impl Iterator<Item = (usize, &'a Sender)> {
    receivers.iter().filter_map(|&(n, receiver)| {
        let alike = |sender: &Sender, receiver: &Receiver| receiver.is_fed_by(sender);
        let near = |sender: &Sender, receiver: &Receiver| {
            receiver.is_fed_by(sender) && sender.address.is_some() && sender.address == receiver.address
        };
        let only = |fits: &dyn Fn(&Sender, &Receiver) -> bool| {
            let mut candidates = senders.iter().filter(|sender| fits(sender, receiver));
            let sender = candidates.next().filter(|_| candidates.next().is_none())?;
            let claims = receivers.iter().filter(|(_, other)| fits(sender, other)).count();
            (claims == 1).then_some(sender)
        };
        Some((n, only(&alike).or_else(|| only(&near))?))
    })
}

impl Receiver {
    /// Nothing that both ends know speaks against it.
    fn is_fed_by(&self, sender: &Sender) -> bool {
        self.slot == sender.slot && self.calls_itself(&sender.name)
    }

    fn calls_itself(&self, name: &str) -> bool {
        let info = format!(" {} ", self.conninfo);
        let key = if info.contains(" application_name=") { "application_name" } else { "fallback_application_name" };
        info.contains(&format!(" {key}={name} "))
    }
}

/// The question to one node. A login that is not in `pg_monitor` is told nothing that could be compared.
async fn tell(client: &Client) -> Result<Told, Error> {
    let own = client
        .query_one(
            "select pg_catalog.current_setting('port')::int4, receiver.conninfo, receiver.slot_name, \
             (pg_catalog.to_jsonb(receiver) ->> 'sender_port')::int4, pg_catalog.host(pg_catalog.inet_server_addr()) \
             from pg_catalog.pg_stat_get_wal_receiver() as receiver",
            &[],
        )
        .await?;
    let rows = client
        .query(
            "select r.application_name, s.slot_name::text, pg_catalog.host(r.client_addr), r.state, r.sync_state \
             from pg_catalog.pg_stat_replication r \
             left join pg_catalog.pg_replication_slots s on s.active_pid = r.pid \
             where r.state is not null and s.slot_type is distinct from 'logical'",
            &[],
        )
        .await?;
    let sender = |row: &tokio_postgres::Row| {
        Ok(Sender {
            name: row.try_get(0)?,
            slot: row.try_get(1)?,
            address: row.try_get(2)?,
            stream: Stream { state: row.try_get(3)?, sync_state: row.try_get(4)? },
        })
    };
    let receiver = match own.try_get::<_, Option<String>>(1)? {
        Some(conninfo) => {
            Some(Receiver { conninfo, slot: own.try_get(2)?, from_port: own.try_get(3)?, address: own.try_get(4)? })
        }
        None => None,
    };
    Ok(Told { port: own.try_get(0)?, senders: rows.iter().map(sender).collect::<Result<_, Error>>()?, receiver })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(name: &str, slot: Option<&str>, address: &str, state: &str) -> Sender {
        let stream = Stream { state: state.into(), sync_state: "async".into() };
        Sender { name: name.into(), slot: slot.map(Into::into), address: Some(address.into()), stream }
    }

    fn receiver(names: &str, slot: Option<&str>, address: &str) -> Receiver {
        Receiver {
            conninfo: format!("user=replicator host=10.0.0.1 port=5432 {names} sslmode=prefer"),
            slot: slot.map(Into::into),
            from_port: Some(5432),
            address: Some(address.into()),
        }
    }

    const NAMELESS: &str = "fallback_application_name=walreceiver";

    /// The states that are found for the receivers.
    fn states<'a>(senders: &'a [Sender], receivers: &[Receiver]) -> Vec<(usize, &'a str)> {
        let receivers: Vec<_> = receivers.iter().enumerate().collect();
        paired(senders, &receivers).map(|(n, sender)| (n, sender.stream.state.as_str())).collect()
    }

    #[test]
    fn replicas_are_told_apart_by_name_slot_or_address() {
        let by_name = [sender("pg3", None, "::1", "catchup"), sender("pg2", None, "::1", "streaming")];
        let named = |name: &str| receiver(&format!("application_name={name} {NAMELESS}"), None, "::1");
        assert_eq!(states(&by_name, &[named("pg2"), named("pg3")]), [(0, "streaming"), (1, "catchup")]);

        let by_slot = [
            sender("walreceiver", Some("b"), "::1", "catchup"),
            sender("walreceiver", Some("a"), "::1", "streaming"),
            sender("walreceiver", None, "::1", "startup"),
        ];
        let slotted = |slot| receiver(NAMELESS, slot, "::1");
        let found = states(&by_slot, &[slotted(Some("a")), slotted(None), slotted(Some("b"))]);
        assert_eq!(found, [(0, "streaming"), (1, "startup"), (2, "catchup")]);

        let by_address =
            [sender("walreceiver", None, "10.0.0.2", "streaming"), sender("walreceiver", None, "10.0.0.3", "catchup")];
        let at = |address| receiver(NAMELESS, None, address);
        assert_eq!(states(&by_address, &[at("10.0.0.3"), at("10.0.0.2")]), [(0, "catchup"), (1, "streaming")]);
    }

    #[test]
    fn who_cannot_be_told_apart_has_no_state() {
        let two = [sender("walreceiver", None, "::1", "streaming"), sender("walreceiver", None, "::1", "catchup")];
        let nameless = || receiver(NAMELESS, None, "::1");
        assert_eq!(states(&two, &[nameless(), nameless()]), []);
        assert_eq!(states(&two, &[nameless()]), [], "the other may be one that is not configured");
        assert_eq!(states(&two[..1], &[nameless(), nameless()]), [], "one of them streams from elsewhere");
        assert_eq!(states(&two, &[]), []);
    }

    #[test]
    fn a_name_is_the_one_that_the_primary_was_told() {
        let named = receiver("application_name=pg2 fallback_application_name=pg3", None, "::1");
        assert!(named.calls_itself("pg2"));
        assert!(!named.calls_itself("pg3"), "the fallback is not used");
        assert!(!named.calls_itself("pg"), "half a name is another one");
        assert!(receiver(NAMELESS, None, "::1").calls_itself("walreceiver"));
        assert!(receiver("application_name=two words", None, "::1").calls_itself("two words"));
    }
}
