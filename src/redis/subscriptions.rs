//! What a client is subscribed to: kept while its connection is lost, and taken up again on the next one.

use std::collections::BTreeSet;

use super::connect::Failure;
use super::own::{Own, OwnState, What};
use super::session::Session;
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

impl Session {
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

    /// Takes up the subscriptions of a lost connection. True when there is nothing to take up.
    pub(super) fn resubscribe(&mut self) -> bool {
        if self.subscriptions.is_empty() || matches!(self.own, OwnState::Open(_)) {
            return true;
        }
        let lists = [
            ("SUBSCRIBE", &self.subscriptions.channels),
            ("PSUBSCRIBE", &self.subscriptions.patterns),
            ("SSUBSCRIBE", &self.subscriptions.shards),
        ];
        let mut requests = Vec::new();
        for (verb, names) in lists {
            for name in names {
                let mut request = Vec::new();
                encode(&mut request, &[verb.as_bytes(), name.as_slice()]);
                requests.push(request);
            }
        }
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
                for request in requests {
                    own.put(&request);
                    own.expect(What::Resubscribe, Some(request));
                }
                true
            }
            Err(_) => false,
        }
    }
}
