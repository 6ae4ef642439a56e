//! What Sentinels publish while they judge. Pure: a channel and a message in, a [`Sign`] out.
//!
//! Messages have no replay and no order between Sentinels: a sign makes Forebay careful or makes it look, what is
//! believed comes from polls. Formats: <https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/>,
//! section "Pub/Sub messages", and `sentinelEvent` in Redis' `sentinel.c`.

use super::address::Address;

/// Something that a Sentinel has noticed or begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// What.
    pub what: What,
    /// The primary that it is about; `None` for what is about no primary by itself.
    pub about: Option<Address>,
}

/// See [`Sign`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Enough Sentinels hold the primary for down, or a failover of it has begun or goes on; the event's name.
    Endangered(String),
    /// This Sentinel was elected to carry the failover out, or an operator made it do so.
    Elected,
    /// This Sentinel votes for another to carry a failover out.
    Voted,
    /// The primary is not held for down any more.
    Recovered,
    /// The failover was given up; the event's name.
    Aborted(String),
    /// Another address from now on.
    Switched {
        /// The new primary.
        to: Address,
    },
    /// Something else has changed: worth a look.
    Other,
}

/// Reads a message of the service that the Sentinels call `name`; `None` if it is about another, or nothing to act on.
pub fn read(name: &str, channel: &str, message: &str) -> Option<Sign> {
    let words: Vec<&str> = message.split(' ').collect();
    if let "+vote-for-leader" | "+new-epoch" = channel {
        let what = if channel == "+vote-for-leader" { What::Voted } else { What::Other };
        // One Sentinel may watch several services: these two say nothing about which.
        return Some(Sign { what, about: None });
    }
    if channel == "+switch-master" {
        let [of, from_host, from_port, to_host, to_port] = words.as_slice() else { return None };
        let about = Some(Address::new(from_host, from_port.parse().ok()?));
        let to = Address::new(to_host, to_port.parse().ok()?);
        return (*of == name).then_some(Sign { what: What::Switched { to }, about });
    }
    // `master NAME HOST PORT ...` or `KIND ID HOST PORT @ NAME HOST PORT`.
    let (of, host, port) = match words.as_slice() {
        ["master", of, host, port, ..] => (of, host, port),
        [_, _, _, _, "@", of, host, port, ..] => (of, host, port),
        _ => return None,
    };
    let is_about_primary = words.first() == Some(&"master");
    let about = Some(Address::new(host, port.parse().ok()?));
    if *of != name {
        return None;
    }
    let what = match channel {
        "+odown" | "+try-failover" if is_about_primary => What::Endangered(channel.to_owned()),
        "-odown" if is_about_primary => What::Recovered,
        "+elected-leader" => What::Elected,
        "+selected-slave" | "+promoted-slave" => What::Endangered(channel.to_owned()),
        _ if channel.starts_with("+failover-state-") => What::Endangered(channel.to_owned()),
        _ if channel.starts_with("-failover-abort") => What::Aborted(channel.to_owned()),
        "+sdown" | "-sdown" if !is_about_primary => return None,
        _ => What::Other,
    };
    Some(Sign { what, about })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let at = |port| Some(Address::new("127.0.0.1", port));
        let endangered = |name: &str| What::Endangered(name.to_owned());
        for (channel, message, expected) in [
            ("+odown", "master m 127.0.0.1 1 #quorum 2/2", Some((endangered("+odown"), at(1)))),
            ("-odown", "master m 127.0.0.1 1", Some((What::Recovered, at(1)))),
            ("+odown", "master other 127.0.0.1 1 #quorum 2/2", None),
            ("+try-failover", "master m 127.0.0.1 1", Some((endangered("+try-failover"), at(1)))),
            ("+elected-leader", "master m 127.0.0.1 1", Some((What::Elected, at(1)))),
            ("+vote-for-leader", "1f0d 7", Some((What::Voted, None))),
            (
                "+failover-state-wait-promotion",
                "slave 127.0.0.1:2 127.0.0.1 2 @ m 127.0.0.1 1",
                Some((endangered("+failover-state-wait-promotion"), at(1))),
            ),
            (
                "-failover-abort-not-elected",
                "master m 127.0.0.1 1",
                Some((What::Aborted("-failover-abort-not-elected".to_owned()), at(1))),
            ),
            (
                "+switch-master",
                "m 127.0.0.1 1 127.0.0.1 2",
                Some((What::Switched { to: Address::new("127.0.0.1", 2) }, at(1))),
            ),
            ("+sdown", "slave 127.0.0.1:2 127.0.0.1 2 @ m 127.0.0.1 1", None),
            ("+sdown", "master m 127.0.0.1 1", Some((What::Other, at(1)))),
            ("+config-update-from", "sentinel ab 127.0.0.1 5 @ m 127.0.0.1 1", Some((What::Other, at(1)))),
            ("whatever", "", None),
        ] {
            let expected = expected.map(|(what, about)| Sign { what, about });
            assert_eq!(read("m", channel, message), expected, "{channel} {message}");
        }
    }
}
