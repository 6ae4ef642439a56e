//! HELLO: protocol, login and name in one command, answered with what a server has answered to it.

use super::clients::Asked;
use super::errors::Trouble;
use super::lane::Kind;
use super::own::OwnState;
use super::request::Taken;
use super::session::{ReplyMode, Session};
use super::verbs::Proof;
use crate::wire::resp::command::Access;
use crate::wire::resp::{Version, build, words};

/// What a HELLO asks for.
struct Wish<'a> {
    version: Option<Version>,
    login: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl Session {
    /// HELLO
    pub(super) fn hello(&mut self, frame: &[u8]) -> Taken {
        let words: Vec<&[u8]> = words(frame).collect();
        if self.service.hello(Version::Resp2).is_some_and(|reply| reply.starts_with(b"-")) {
            let trouble = self.unknown(frame);
            return self.answer(&trouble);
        }
        let wish = match read(&words) {
            Ok(wish) => wish,
            Err(error) => return self.answer_with(&error),
        };
        if let Some((user, password)) = wish.login {
            match self.prove(user, password, frame, false) {
                Proof::Yes => {}
                Proof::Asked => return Taken::Done,
                Proof::Wait(taken) => return taken,
            }
        }
        if self.client.login.borrow().is_none() {
            return self.answer(&Trouble::HelloNoAuth);
        }
        let version = wish.version.unwrap_or(self.client.version.get());
        let Some(reply) = self.service.hello(version) else {
            // The first connection in this protocol brings what a server says to it.
            return self.fetch_hello(frame, version);
        };
        let reply = with_id(&reply, self.client.id);
        let taken = self.answer_with(&reply);
        if matches!(taken, Taken::Done) {
            self.client.version.set(version);
            self.lane = None;
            if let Some(name) = wish.name {
                *self.client.name.borrow_mut() = name.to_vec();
            }
            self.own_follows();
        }
        taken
    }

    /// The connection that the client has becomes what the client is: what is watched there stays so.
    pub(super) fn own_follows(&mut self) {
        let (version, login) = (self.client.version.get(), self.client.login.borrow().clone());
        match (&mut self.own, login) {
            (OwnState::Open(own), Some(login)) => own.follow(login, version),
            (own, _) => *own = OwnState::None,
        }
        self.count_pending();
    }

    fn fetch_hello(&mut self, frame: &[u8], version: Version) -> Taken {
        let before = self.client.version.replace(version);
        let lane = self.service.lane_for(&self.core, &self.client, Access::Pinned, Kind::Quick, 0);
        self.client.version.set(before);
        match lane {
            Ok(lane) => {
                let is_silent = self.reply != ReplyMode::On;
                let mut ping = Vec::new();
                crate::wire::resp::encode(&mut ping, &["PING"]);
                lane.push_special(&self.client, &ping, 1, super::lane::EntryKind::Greeting { is_silent });
                self.asked = Asked::Hello(frame.to_vec());
                self.lane = None;
                Taken::Done
            }
            Err(why) => self.wait_for_primary(why),
        }
    }
}

/// The user and the password in the words of a HELLO.
pub(super) fn login_in<'a>(words: &[&'a [u8]]) -> Option<(&'a [u8], &'a [u8])> {
    read(words).ok()?.login
}

fn read<'a>(words: &[&'a [u8]]) -> Result<Wish<'a>, Vec<u8>> {
    let mut wish = Wish { version: None, login: None, name: None };
    let Some((number, mut rest)) = words.get(1..).unwrap_or_default().split_first() else { return Ok(wish) };
    wish.version = Some(match *number {
        b"2" => Version::Resp2,
        b"3" => Version::Resp3,
        other if std::str::from_utf8(other).is_ok_and(|text| text.parse::<i64>().is_ok()) => {
            return Err(b"-NOPROTO unsupported protocol version\r\n".to_vec());
        }
        _ => return Err(b"-ERR Protocol version is not an integer or out of range\r\n".to_vec()),
    });
    loop {
        match rest {
            [] => return Ok(wish),
            [option, user, password, after @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                wish.login = Some((user, password));
                rest = after;
            }
            [option, name, after @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                if !is_name(name) {
                    return Err(
                        b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n".to_vec()
                    );
                }
                wish.name = Some(name);
                rest = after;
            }
            [option, ..] => {
                let text = format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option));
                let mut reply = Vec::new();
                build::error(&mut reply, text.as_bytes());
                return Err(reply);
            }
        }
    }
}

/// Whether a client may be called so.
pub(super) fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// A server's answer to HELLO, split before the number of the connection, which begins with its `:`.
pub(super) fn around_id(reply: &[u8]) -> Option<(&[u8], &[u8])> {
    const ID: &[u8] = b"$2\r\nid\r\n:";
    reply.split_at_checked(memchr::memmem::find(reply, ID)? + ID.len() - 1)
}

/// A server's answer to HELLO, with this client's number instead of that connection's.
fn with_id(reply: &[u8], id: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(reply.len() + 8);
    match around_id(reply) {
        Some((before, after)) => {
            out.extend_from_slice(before);
            build::integer(&mut out, i64::try_from(id).unwrap_or(i64::MAX));
            let end = memchr::memchr(b'\n', after).map_or(after.len(), |end| end + 1);
            out.extend_from_slice(after.get(end..).unwrap_or_default());
        }
        None => out.extend_from_slice(reply),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_its_own_number() {
        assert_eq!(
            with_id(b"%1\r\n$2\r\nid\r\n:7\r\n$1\r\nx\r\n:1\r\n", 4711),
            b"%1\r\n$2\r\nid\r\n:4711\r\n$1\r\nx\r\n:1\r\n"
        );
    }

    #[test]
    fn options_are_read_as_redis_reads_them() {
        let words = |line: &'static str| line.split(' ').map(str::as_bytes).collect::<Vec<_>>();
        let wish = read(&words("HELLO 3 AUTH u p SETNAME n")).expect("all right");
        assert_eq!(
            (wish.version, wish.login, wish.name),
            (Some(Version::Resp3), Some((b"u".as_slice(), b"p".as_slice())), Some(b"n".as_slice()))
        );
        for line in ["HELLO 4", "HELLO x", "HELLO 3 AUTH u", "HELLO 3 FOO", "HELLO 3 SETNAME"] {
            assert!(read(&words(line)).is_err(), "{line}");
        }
    }
}
