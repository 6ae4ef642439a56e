//! WAIT: how many replicas have what the client has written.
//!
//! A server counts from the last write of the connection that asks, while a client's writes go over connections that
//! it shares. So Forebay asks the primary as itself, once the client's writes are answered: the offset of that moment is
//! behind all of them, and a replica that has confirmed it has them. Nothing is written for this, nobody else hears of
//! it, and the client's user needs no right but that to WAIT.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::clients::Asked;
use super::connect::{Failure, Wanted, connect};
use super::core::Core;
use super::errors::Trouble;
use super::lane::Kind;
use super::own::{Own, OwnState, What};
use super::request::Taken;
use super::service::Service;
use super::session::Session;
use crate::wire::resp::command::Access;
use crate::wire::resp::{build, encode, integer, words};
use crate::worker::clock::now_ns;

/// A primary that has said nothing for so long may have been replaced, or the time be over.
const SILENCE: Duration = Duration::from_secs(1);
/// Longest time between two looks, ms. A confirmation that comes makes a look end early.
const LONGEST_LOOK: u64 = 100;
/// More replicas than there are: a WAIT for so many asks all of them for a confirmation, and ends with its time.
const ALL: &str = "2147483647";
/// A write of no key that moves the replication offset of its connection past everything before it, for WAITAOF. Unlike
/// that of other channels its message reaches no subscriber of a pattern.
const NO_OP: &[&str] = &["SPUBLISH", "__forebay:offset", ""];

/// Where the answer is put: the number of replicas, or `None` if the primary could not be asked.
pub(super) type Counted = RefCell<Option<Option<i64>>>;

/// One WAIT.
struct Question {
    /// [`crate::topology::redis::RedisNode::id`] of the primary.
    node: u64,
    wanted: Wanted,
    /// So many replicas are enough.
    enough: i64,
    /// ns
    until: u64,
    /// Dropped when nobody wants to know any more.
    answer: Weak<Counted>,
}

impl Question {
    /// ms
    fn left(&self) -> u64 {
        self.until.saturating_sub(now_ns()) / 1_000_000
    }

    /// The time is over, or nobody wants to know any more.
    fn is_over(&self) -> bool {
        self.left() == 0 || self.answer.strong_count() == 0
    }
}

impl Session {
    /// WAIT and WAITAOF, outside of transactions.
    pub(super) fn wait_for_replicas(&mut self, frame: &[u8]) -> Taken {
        let words: Vec<&[u8]> = words(frame).collect();
        let [name, replicas, timeout] = words.as_slice() else { return self.wait_for_files(frame) };
        if !name.eq_ignore_ascii_case(b"WAIT") {
            return self.wait_for_files(frame);
        }
        if let Some(wait) = self.before_answer() {
            return Taken::Wait(wait);
        }
        let (Some(enough), Some(timeout)) = (integer(replicas), integer(timeout).and_then(|ms| u64::try_from(ms).ok()))
        else {
            // The server says what is wrong with these, and waits for nothing.
            return match self.own {
                OwnState::None => self.send_shared(frame, Access::Pinned, Kind::Quick),
                _ => self.send_own(frame, What::Plain),
            };
        };
        if let Some(known) = self.replicated.filter(|known| *known >= enough) {
            // Nothing was written since, and what replicas have they keep.
            return self.answer_replicas(known);
        }
        if let Err(taken) = self.may(&["WAIT", "0", "0"], frame) {
            return taken;
        }
        let (node, wanted) = match self.service.control_wanted() {
            Ok(found) => found,
            Err(why) => return self.wait_for_primary(why),
        };
        let until = if timeout == 0 { u64::MAX } else { now_ns().saturating_add(timeout.saturating_mul(1_000_000)) };
        let answer: Rc<Counted> = Rc::default();
        let question = Question { node, wanted, enough, until, answer: Rc::downgrade(&answer) };
        let (core, service, client) = (Rc::clone(&self.core), Rc::clone(&self.service), Rc::clone(&self.client));
        tokio::task::spawn_local(async move {
            let counted = count(&core, &service, &question).await;
            if let Some(answer) = question.answer.upgrade() {
                *answer.borrow_mut() = Some(counted);
                client.wake();
            }
        });
        self.lane = None;
        self.asked = Asked::Replicas(answer, frame.to_vec());
        self.note_blocked(true);
        Taken::Done
    }

    /// The answer to WAIT.
    pub(super) fn answer_replicas(&mut self, count: i64) -> Taken {
        let mut reply = Vec::new();
        build::integer(&mut reply, count);
        self.answer_with(&reply)
    }

    /// CLIENT UNBLOCK ends a WAIT. Answers whether there was one.
    pub(super) fn end_wait(&mut self, by_error: bool) -> bool {
        if !matches!(self.asked, Asked::Replicas(..)) {
            return false;
        }
        self.asked = Asked::Nothing;
        self.note_blocked(false);
        // Nothing is on its way while it waits: each is answered at once.
        let _ = match by_error {
            true => self.answer(&Trouble::Unblocked),
            false => self.answer_replicas(0),
        };
        true
    }

    /// WAITAOF: only a server knows what is on disk, and says it of the connection that asks.
    fn wait_for_files(&mut self, frame: &[u8]) -> Taken {
        let own = match self.open_own() {
            Ok(own) => own,
            Err(taken) => return taken,
        };
        let mut no_op = Vec::new();
        encode(&mut no_op, NO_OP);
        own.send(&no_op, What::Offset);
        own.send(frame, What::Replicated);
        self.note_blocked(true);
        self.count_pending();
        Taken::Done
    }
}

/// Asks until enough replicas have confirmed the primary's offset of now, or the time is over. `None`: the primary could
/// not be asked.
async fn count(core: &Rc<Core>, service: &Rc<Service>, question: &Question) -> Option<i64> {
    let mut own = match service.take_spare(question.node, &question.wanted) {
        Some(own) => own,
        None => match connect(core, &question.wanted).await {
            Ok(opened) => Own::new(question.node, question.wanted.clone(), opened),
            Err(Failure::Refused(line)) => {
                tracing::warn!(service = %service.name, reason = %String::from_utf8_lossy(&line),
                    "the primary cannot be asked for its replicas");
                return Some(0);
            }
            Err(failure) => {
                service.doubt(core, question.node, &failure.to_string());
                return None;
            }
        },
    };
    let (mut wanted, mut have, mut look) = (None, 0, 1);
    loop {
        let mut request = Vec::new();
        if wanted.is_some() {
            encode(&mut request, &["WAIT", ALL, &look.to_string()]);
        }
        encode(&mut request, &["INFO", "replication"]);
        let replies = 1 + usize::from(wanted.is_some());
        let mut asking = Box::pin(own.ask(&request, replies));
        let replies = loop {
            match core.wheel.timeout(Some(SILENCE), asking.as_mut()).await {
                Ok(Ok(replies)) => break replies,
                Err(_) if !question.is_over() && !service.is_replaced(question.node) => {}
                // What replicas are known to have they have, whatever has become of the primary.
                _ => return Some(have),
            }
        };
        drop(asking);
        let info = replies.last().map(|info| String::from_utf8_lossy(info).into_owned()).unwrap_or_default();
        let Some(offset) = offset(&info) else { return Some(have) };
        have = confirmed(&info, *wanted.get_or_insert(offset));
        if have >= question.enough || question.is_over() {
            service.give_spare(own);
            return Some(have);
        }
        if replies.len() > 1 && replies.first().is_some_and(|reply| reply.starts_with(b"-")) {
            // Forebay's own user may not WAIT: replicas confirm once in a second all the same.
            core.wheel.sleep(Duration::from_millis(look)).await;
        }
        // 0 would be for ever.
        look = (look * 2).min(LONGEST_LOOK).min(question.left()).max(1);
    }
}

/// The primary's replication offset in its INFO.
fn offset(info: &str) -> Option<i64> {
    info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.parse().ok())
}

/// How many replicas have confirmed an offset: those that WAIT would count.
fn confirmed(info: &str, wanted: i64) -> i64 {
    let has = |line: &&str| {
        let Some((name, about)) = line.split_once(':') else { return false };
        let number = name.strip_prefix("slave").is_some_and(|number| number.parse::<u32>().is_ok());
        let field = |key: &str| about.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
        number
            && field("state") == Some("online")
            && field("offset").and_then(|offset| offset.parse::<i64>().ok()).is_some_and(|offset| offset >= wanted)
    };
    i64::try_from(info.lines().filter(has).count()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_count_that_are_online_and_have_confirmed_the_offset() {
        let info = "$300\r\n# Replication\r\nrole:master\r\nconnected_slaves:4\r\n\
            slave0:ip=::1,port=1,state=online,offset=90,lag=0\r\nslave1:ip=h,port=2,state=online,offset=89,lag=1\r\n\
            slave2:ip=h,port=3,state=wait_bgsave,offset=95,lag=0\r\nslave13:ip=h,port=4,state=online,offset=100,lag=0\r\n\
            slaves_waiting_psync:0\r\nmaster_repl_offset:90\r\nsecond_repl_offset:-1\r\n";
        assert_eq!(offset(info), Some(90));
        assert_eq!([89, 90, 91, 101].map(|wanted| confirmed(info, wanted)), [3, 2, 1, 0]);
        assert_eq!(offset("-NOPERM no\r\n"), None);
    }
}
