//! What a client is subscribed to, and what else it has switched on: kept while its connection is lost, and taken up
//! again on the next one.

use std::collections::BTreeSet;

use super::connect::Failure;
use super::own::{Own, OwnState, What};
use super::session::Session;
use super::verbs::is_switched_on;
use crate::wire::resp::{Version, encode};

/// Channels, patterns and sharded channels that a client listens to.
#[derive(Debug, Clone, Default)]
pub(super) struct Subscriptions {
    pub(super) channels: BTreeSet<Vec<u8>>,
    pub(super) patterns: BTreeSet<Vec<u8>>,
    pub(super) shards: BTreeSet<Vec<u8>>,
}

impl Subscriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty() && self.shards.is_empty()
    }

    /// A subscribing or unsubscribing command was carried out.
    pub(super) fn follow(&mut self, request: &[u8]) {
        let mut words = crate::wire::resp::words(request);
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let adds = !verb.windows(5).any(|part| part == b"UNSUB");
        let set = match verb.first() {
            Some(b'P') => &mut self.patterns,
            Some(b'S') if verb.starts_with(b"SSUB") || verb.starts_with(b"SUNSUB") => &mut self.shards,
            _ => &mut self.channels,
        };
        let names: Vec<Vec<u8>> = words.map(<[u8]>::to_vec).collect();
        if adds {
            set.extend(names);
        } else if names.is_empty() {
            set.clear();
        } else {
            set.retain(|known| !names.contains(known));
        }
    }
}

/// What a client has switched on, by the requests that did: CLIENT TRACKING, CLIENT NO-TOUCH and, last, MONITOR.
#[derive(Debug, Clone, Default)]
pub(super) struct Switched(Vec<Vec<u8>>);

impl Switched {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client is told when keys change that it has read.
    fn tracks(&self) -> bool {
        self.0.iter().any(|request| is_tracking(request))
    }

    /// CLIENT TRACKING, CLIENT NO-TOUCH or MONITOR was carried out.
    pub(super) fn follow(&mut self, request: &[u8]) {
        let is_on = is_monitor(request) || is_switched_on(request);
        // Prefixes add up; all else is as it was said last.
        let adds = is_on && is_tracking(request) && crate::wire::resp::words(request).any(is_prefix);
        self.0.retain(|known| if adds { known != request } else { !is_same(known, request) });
        if is_on {
            self.0.push(request.to_vec());
        }
    }
}

fn is_monitor(request: &[u8]) -> bool {
    crate::wire::resp::words(request).next().is_some_and(|word| word.eq_ignore_ascii_case(b"MONITOR"))
}

fn is_tracking(request: &[u8]) -> bool {
    crate::wire::resp::words(request).nth(1).is_some_and(|word| word.eq_ignore_ascii_case(b"TRACKING"))
}

fn is_prefix(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"PREFIX")
}

/// Both switch the same.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    (is_monitor(one), is_tracking(one)) == (is_monitor(other), is_tracking(other))
}

impl Session {
    /// The server has forgotten which keys the client has read: any may have changed.
    pub(super) fn tell_flushed(&self) {
        if self.switched.tracks() && self.client.version.get() == Version::Resp3 {
            self.client.deliver(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
        }
    }

    /// Replies are RESP2 and messages may stand between them.
    pub(super) fn listens(&self, own: &Own) -> bool {
        !self.subscriptions.is_empty()
            || own.expects.front().is_some_and(|e| matches!(e.what, What::Subscribe | What::Resubscribe))
    }

    /// True if replies may be mixed with messages although the protocol has no sign for them.
    pub(super) fn is_in_subscribe_mode(&self) -> bool {
        self.client.version.get() == Version::Resp2
            && match &self.own {
                OwnState::Open(own) => self.listens(own),
                _ => !self.subscriptions.is_empty(),
            }
    }

    /// Takes up what was lost with a connection. True when there is nothing to take up.
    pub(super) fn resubscribe(&mut self) -> bool {
        let is_empty = self.subscriptions.is_empty() && self.switched.is_empty();
        if is_empty || matches!(self.own, OwnState::Open(_)) {
            return true;
        }
        let lists = [
            ("SUBSCRIBE", &self.subscriptions.channels),
            ("PSUBSCRIBE", &self.subscriptions.patterns),
            ("SSUBSCRIBE", &self.subscriptions.shards),
        ];
        // A subscriber may not switch anything any more, and behind MONITOR no reply can be told from what it shows.
        let (monitor, switches): (Vec<_>, Vec<_>) =
            self.switched.0.iter().cloned().partition(|request| is_monitor(request));
        let resume = |request: Vec<u8>| (What::Resume { monitors: is_monitor(&request) }, request);
        let mut requests: Vec<_> = switches.into_iter().map(resume).collect();
        for (verb, names) in lists {
            for name in names {
                let mut request = Vec::new();
                encode(&mut request, &[verb.as_bytes(), name.as_slice()]);
                requests.push((What::Resubscribe, request));
            }
        }
        requests.extend(monitor.into_iter().map(resume));
        if let OwnState::Opening(slot) = &self.own
            && let Some(Err(Failure::Refused(_))) = &*slot.borrow()
        {
            // It would wait for messages for ever.
            self.client.cut();
            return false;
        }
        if self.service.own_wanted(&self.client).is_err() {
            // However long that takes: the client has asked for nothing that could be refused.
            self.service.wait_quietly(&self.client);
            return false;
        }
        match self.open_own() {
            Ok(own) => {
                for (what, request) in requests {
                    own.put(&request);
                    own.expect(what, Some(request));
                }
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::testing::request;

    #[test]
    fn what_is_switched_on_is_what_has_to_be_said_again() {
        for (said, again) in [
            (&["CLIENT TRACKING ON", "CLIENT TRACKING OFF"][..], &[][..]),
            (&["CLIENT TRACKING ON", "client tracking on NOLOOP"], &["client tracking on NOLOOP"]),
            (&["CLIENT NO-TOUCH ON", "CLIENT TRACKING ON", "CLIENT NO-TOUCH OFF"], &["CLIENT TRACKING ON"]),
            (
                &["CLIENT TRACKING ON BCAST PREFIX a", "CLIENT NO-TOUCH ON", "CLIENT TRACKING ON BCAST PREFIX b"],
                &["CLIENT TRACKING ON BCAST PREFIX a", "CLIENT NO-TOUCH ON", "CLIENT TRACKING ON BCAST PREFIX b"],
            ),
            (&["CLIENT TRACKING ON BCAST PREFIX a", "CLIENT TRACKING OFF"], &[]),
            (&["CLIENT TRACKING ON", "MONITOR"], &["CLIENT TRACKING ON", "MONITOR"]),
        ] {
            let mut switched = Switched::default();
            for line in said {
                switched.follow(&request(line));
            }
            assert_eq!(switched.0, again.iter().map(|line| request(line)).collect::<Vec<_>>(), "{said:?}");
        }
    }
}
