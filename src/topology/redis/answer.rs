//! What servers and Sentinels answer, taken apart. Pure: replies in, facts out.

use std::collections::HashMap;

use super::address::Address;
use super::link::Reply;
use super::plan::{Listed, Naming, Says};

/// The text of a reply; `None` for what is no text, or no UTF-8.
pub(super) fn text(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::SimpleString(bytes) | Reply::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn number(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Integer(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

/// The parts of a list; nothing for what is no list.
pub(super) fn list(reply: &Reply) -> &[Reply] {
    match reply {
        Reply::Array(parts) => parts,
        _ => &[],
    }
}

/// `ROLE`: what the node says it is, and its replication offset. See <https://redis.io/docs/latest/commands/role/>.
pub(super) fn role(reply: &Reply) -> Option<(Says, u64)> {
    match list(reply) {
        [kind, offset, replicas] if text(kind) == Some("master") => {
            Some((Says::Primary { replicas: list(replicas).len() }, number(offset)?))
        }
        [kind, host, port, link, offset] if text(kind) == Some("slave") => {
            let upstream = Address::new(text(host)?, u16::try_from(number(port)?).ok()?);
            // -1 before the first synchronisation.
            Some((Says::Replica { upstream, linked: text(link) == Some("connected") }, number(offset).unwrap_or(0)))
        }
        _ => None,
    }
}

/// `INFO`: the lines `name:value`.
pub(super) fn info(reply: &Reply) -> HashMap<&str, &str> {
    let lines = text(reply).unwrap_or_default().lines();
    lines.filter_map(|line| line.split_once(':')).collect()
}

/// A list of names and values by turns, as Sentinels and CONFIG GET describe things.
pub(super) fn pairs(reply: &Reply) -> HashMap<&str, &str> {
    let parts = list(reply).chunks_exact(2);
    parts.filter_map(|pair| if let [name, value] = pair { Some((text(name)?, text(value)?)) } else { None }).collect()
}

fn address(of: &HashMap<&str, &str>) -> Option<Address> {
    Some(Address::new(of.get("ip")?, of.get("port")?.parse().ok()?))
}

/// `SENTINEL get-master-addr-by-name`, `SENTINEL master` and `SENTINEL replicas` of one moment.
///
/// The address is taken from the first: the second goes on naming the old primary after a promotion, already with the
/// new epoch, until the Sentinel that leads the failover has ended it.
pub(super) fn naming(primary: &Reply, described: &Reply, replicas: &Reply) -> Option<Naming> {
    let [host, port] = list(primary) else { return None };
    let of = pairs(described);
    let count = |name: &str| of.get(name).and_then(|n| n.parse().ok()).unwrap_or(0);
    Some(Naming {
        config_epoch: of.get("config-epoch")?.parse().ok()?,
        primary: Address::new(text(host)?, u16::try_from(number(port)?).ok()?),
        replicas: list(replicas).iter().filter_map(listed).collect(),
        in_failover: of.get("flags").is_some_and(|flags| flags.contains("failover_in_progress")),
        quorum: count("quorum"),
        other_sentinels: count("num-other-sentinels"),
        down_after_ms: count("down-after-milliseconds"),
    })
}

fn listed(reply: &Reply) -> Option<Listed> {
    let of = pairs(reply);
    let flags = of.get("flags").copied().unwrap_or_default();
    let trouble = flags.split(',').find(|flag| matches!(*flag, "s_down" | "o_down" | "disconnected"));
    Some(Listed {
        address: address(&of)?,
        trouble: trouble.map(str::to_owned),
        priority: of.get("slave-priority").and_then(|n| n.parse().ok()),
        announced: of.get("replica-announced").is_none_or(|told| *told != "0"),
    })
}

/// `SENTINEL sentinels`: where the others are.
pub(super) fn sentinels(reply: &Reply) -> Vec<Address> {
    list(reply).iter().filter_map(|one| address(&pairs(one))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::BulkString(text.as_bytes().to_vec())
    }
    fn bulks(words: &str) -> Reply {
        Reply::Array(words.split(' ').map(bulk).collect())
    }

    #[test]
    fn roles_are_read() {
        let primary = Reply::Array(vec![bulk("master"), Reply::Integer(42), Reply::Array(vec![bulks("h 1 41")])]);
        assert_eq!(role(&primary), Some((Says::Primary { replicas: 1 }, 42)));
        let replica = |link, offset| {
            Reply::Array(vec![bulk("slave"), bulk("H"), Reply::Integer(7), bulk(link), Reply::Integer(offset)])
        };
        let says = |linked| Says::Replica { upstream: Address::new("h", 7), linked };
        assert_eq!(role(&replica("connected", 41)), Some((says(true), 41)));
        assert_eq!(role(&replica("connect", -1)), Some((says(false), 0)), "never synchronised");
        assert_eq!(role(&bulks("sentinel mymaster")), None, "a Sentinel is no node");
    }

    #[test]
    fn the_address_is_not_taken_from_the_description() {
        let described = bulks(
            "name m ip 127.0.0.1 port 1 config-epoch 3 flags master,failover_in_progress quorum 2 \
             num-other-sentinels 2 down-after-milliseconds 1500",
        );
        let replicas = Reply::Array(vec![
            bulks("ip 127.0.0.1 port 2 flags slave slave-priority 100"),
            bulks("ip 127.0.0.1 port 3 flags slave,s_down,disconnected slave-priority 0 replica-announced 0"),
        ]);
        let naming = naming(&bulks("127.0.0.1 2"), &described, &replicas).expect("complete");
        assert_eq!((naming.config_epoch, naming.primary.port, naming.in_failover), (3, 2, true));
        assert_eq!((naming.quorum, naming.other_sentinels, naming.down_after_ms), (2, 2, 1500));
        assert_eq!(naming.replicas.iter().map(|r| r.trouble.as_deref()).collect::<Vec<_>>(), [None, Some("s_down")]);
        assert_eq!(naming.replicas.iter().map(|r| r.priority).collect::<Vec<_>>(), [Some(100), Some(0)]);
    }
}
