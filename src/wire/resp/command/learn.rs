//! A server's own description of its commands, as it answers COMMAND.
//!
//! The reply is an array of commands, each an array: name, number of words, flags, first key, last key, step,
//! categories, tips, key specifications, subcommands; before Redis 7.0 it ends with the categories.
//! See <https://redis.io/docs/latest/commands/command/>.

use std::collections::HashSet;

use super::names::MOST_NAMES;
use super::table::ROWS;
use super::{Access, Command, Commands, Keys, Path};
use crate::wire::resp::{ReplyScan, number};

/// Longest reply that is looked at: Redis 7.0 sends 90 KB, every module a few more.
const LONGEST_REPLY: usize = 16 * 1024 * 1024;

/// Most commands and subcommands that are taken: with those that are kept in any case there is room for all.
const MOST_COMMANDS: usize = MOST_NAMES - ROWS.len();

/// A longer name is no command.
const LONGEST_NAME: usize = 128;

/// Place of the subcommands among the fields of a command.
const SUBCOMMANDS: u64 = 9;

/// First key, last key and step stand behind name, number of words and flags.
const KEYS: usize = 3;

/// Bytes that are no answer to COMMAND.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    /// The server answered with an error, for instance because the user may not ask.
    #[error("the server refused COMMAND: {0}")]
    Refused(String),
    /// Something else stands where this was expected.
    #[error("the answer to COMMAND has something else where {0} was expected")]
    Shape(&'static str),
    /// The reply ends in the middle, or has more in it than any server knows.
    #[error("the answer to COMMAND is cut off or too long")]
    Size,
}

/// What a server says about one command.
#[derive(Debug)]
pub(super) struct Seen {
    /// In small letters, a subcommand's as `container|name`.
    name: String,
    arity: i32,
    flags: Flags,
    keys: Keys,
    /// The subcommands follow.
    is_container: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Flags {
    writes: bool,
    reads: bool,
    is_fast: bool,
    blocks: bool,
    is_pubsub: bool,
    is_admin: bool,
}

/// Reads the bytes of a reply; subcommands follow their container.
///
/// # Errors
/// See [`BadTable`].
pub(super) fn read(reply: &[u8]) -> Result<Vec<Seen>, BadTable> {
    if reply.len() > LONGEST_REPLY {
        return Err(BadTable::Size);
    }
    let mut reader = Reader { rest: reply };
    if let [b'-', text @ ..] = reply {
        let (text, _) = number::crlf_line(text, 0).ok_or(BadTable::Size)?;
        return Err(BadTable::Refused(String::from_utf8_lossy(text).into_owned()));
    }
    let mut seen = Vec::new();
    for _ in 0..reader.list("a list of commands")? {
        reader.command(None, &mut seen)?;
    }
    Ok(seen)
}

/// The commands that the server has, by what `builtin` and its flags say together.
pub(super) fn merge(builtin: &Commands, seen: Vec<Seen>) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::with_capacity(seen.len() + 64);
    for seen in seen {
        let known = match seen.name.split_once('|') {
            Some((container, sub)) => builtin.find_sub(container.as_bytes(), sub.as_bytes()),
            None => builtin.find(seen.name.as_bytes()),
        };
        // Before Redis 7.0 a server lists no subcommands.
        if !seen.is_container && builtin.is_container(seen.name.as_bytes()) {
            commands.extend(builtin.iter().filter(|known| known.container() == Some(&seen.name)).cloned());
        }
        commands.push(match known {
            Some(known) => seen.agree(known),
            None => seen.alone(),
        });
    }
    // What Forebay carries out itself, or keeps from its clients, is so whatever the server shows.
    let kept = |known: &&Command| known.is_admin || matches!(known.path, Path::Session(_));
    for known in builtin.iter().filter(kept) {
        commands.extend(known.container().and_then(|name| builtin.find(name.as_bytes())).cloned());
        commands.push(known.clone());
    }
    let mut names = HashSet::new();
    commands.retain(|command| names.insert(command.name.clone()));
    commands
}

impl Seen {
    /// A command of the built-in table: the name decides, unless the server is more careful.
    fn agree(self, known: &Command) -> Command {
        let is_write = self.flags.writes || (known.access == Access::Read && !self.flags.reads);
        let is_blocking = self.flags.blocks && matches!(known.path, Path::Lane | Path::Slow);
        Command {
            name: self.name.into(),
            arity: self.arity,
            access: if is_write { Access::Write } else { known.access },
            path: if is_blocking { Path::Block } else { known.path },
            is_admin: known.is_admin,
            keys: known.keys,
        }
    }

    /// A command that only the server knows: a module's, or a newer one.
    fn alone(self) -> Command {
        let Flags { writes, reads, is_fast, blocks, is_pubsub, is_admin } = self.flags;
        Command {
            name: self.name.into(),
            arity: self.arity,
            access: if reads && !writes { Access::Read } else { Access::Write },
            // Neither reading nor writing, it may be about the connection itself.
            path: match () {
                () if is_pubsub || !(reads || writes) => Path::Own,
                () if blocks => Path::Block,
                () if is_fast => Path::Lane,
                () => Path::Slow,
            },
            is_admin,
            keys: self.keys,
        }
    }
}

/// Reads values from the front of the bytes.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// One command and, if it is not in a container itself, its subcommands.
    fn command(&mut self, container: Option<&str>, seen: &mut Vec<Seen>) -> Result<(), BadTable> {
        let fields = self.list("a command")?;
        match fields {
            // Nothing is known of a command that has gone while the server answered.
            0 => return Ok(()),
            1 | 2 => return Err(BadTable::Shape("name, number of words and flags")),
            _ => {}
        }
        let name = full_name(container, self.text("a command's name")?);
        let arity = i32::try_from(self.number("a number of words")?).map_err(|_| BadTable::Shape("a small number"))?;
        let flags = self.flags()?;
        let place = seen.len();
        if let Some(name) = &name {
            if place >= MOST_COMMANDS {
                return Err(BadTable::Size);
            }
            // 0 would fit no request at all.
            let arity = if arity == 0 { -1 } else { arity };
            seen.push(Seen { name: name.clone(), arity, flags, keys: Keys::None, is_container: false });
        }
        let (mut keys, mut left) = ([0; KEYS], 3..fields);
        for (key, _) in keys.iter_mut().zip(left.by_ref()) {
            *key = self.number_or_other()?;
        }
        for field in left {
            match &name {
                Some(name) if field == SUBCOMMANDS && container.is_none() => {
                    for _ in 0..self.list("a list of subcommands")? {
                        self.command(Some(name), seen)?;
                    }
                }
                _ => self.skip()?,
            }
        }
        let has_more = seen.len() > place + 1;
        if let Some(command) = seen.get_mut(place) {
            command.is_container = has_more;
            let [first, last, step] = keys;
            command.keys = Keys::described(first, last, step);
        }
        Ok(())
    }

    fn flags(&mut self) -> Result<Flags, BadTable> {
        let mut flags = Flags::default();
        for _ in 0..self.list("a list of flags")? {
            match self.text("a flag")? {
                b"write" => flags.writes = true,
                b"readonly" => flags.reads = true,
                b"fast" => flags.is_fast = true,
                b"blocking" => flags.blocks = true,
                b"pubsub" => flags.is_pubsub = true,
                b"admin" => flags.is_admin = true,
                _ => {}
            }
        }
        Ok(flags)
    }

    /// The number of values of the list or set that begins here.
    fn list(&mut self, expected: &'static str) -> Result<u64, BadTable> {
        match self.header()? {
            (b'*' | b'~', length) => Ok(number::parse(length).and_then(|length| length.try_into().ok()).unwrap_or(0)),
            (b'_', _) => Ok(0),
            _ => Err(BadTable::Shape(expected)),
        }
    }

    fn text(&mut self, expected: &'static str) -> Result<&'a [u8], BadTable> {
        match self.header()? {
            (b'+', text) => Ok(text),
            (b'$', length) => {
                let length = number::parse(length).and_then(|length| length.try_into().ok());
                let (text, rest) =
                    self.rest.split_at_checked(length.ok_or(BadTable::Shape(expected))?).ok_or(BadTable::Size)?;
                self.rest = rest.get(2..).ok_or(BadTable::Size)?;
                Ok(text)
            }
            _ => Err(BadTable::Shape(expected)),
        }
    }

    fn number(&mut self, expected: &'static str) -> Result<i64, BadTable> {
        match self.header()? {
            (b':', digits) => number::parse(digits).ok_or(BadTable::Shape(expected)),
            _ => Err(BadTable::Shape(expected)),
        }
    }

    /// A number, or 0 if something else stands there.
    fn number_or_other(&mut self) -> Result<i64, BadTable> {
        let before = self.rest;
        if let (b':', digits) = self.header()? {
            return Ok(number::parse(digits).unwrap_or(0));
        }
        self.rest = before;
        self.skip().map(|()| 0)
    }

    /// The next value's kind, and the rest of its line.
    fn header(&mut self) -> Result<(u8, &'a [u8]), BadTable> {
        let (line, len) = number::crlf_line(self.rest, 0).ok_or(BadTable::Size)?;
        self.rest = self.rest.get(len..).unwrap_or_default();
        line.split_first().map(|(kind, text)| (*kind, text)).ok_or(BadTable::Shape("a value"))
    }

    fn skip(&mut self) -> Result<(), BadTable> {
        let scanned = ReplyScan::default().scan(self.rest).map_err(|_| BadTable::Shape("a value"))?;
        self.rest = self.rest.get(scanned.used..).unwrap_or_default();
        if scanned.is_done { Ok(()) } else { Err(BadTable::Size) }
    }
}

/// The name under which a command is kept; `None` if none can be typed so. Redis puts the container's name in front of
/// a subcommand's, a module need not.
fn full_name(container: Option<&str>, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|name| (1..=LONGEST_NAME).contains(&name.len()))?;
    let name = name.to_ascii_lowercase();
    match (container, name.split_once('|')) {
        (None, None) => Some(name),
        (None, Some(_)) => None,
        (Some(container), None) => Some(format!("{container}|{name}")),
        (Some(container), Some((first, sub))) => (container == first && !sub.is_empty()).then_some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verb;
    use super::*;
    use proptest::prelude::*;

    /// A command as RESP2 and as RESP3 has it, in the order of the fields; subcommands are encoded already.
    fn entry(set: char, name: &str, arity: i32, flags: &[&str], subcommands: &[String]) -> String {
        let mut text = format!("*10\r\n${}\r\n{name}\r\n:{arity}\r\n{set}{}\r\n", name.len(), flags.len());
        flags.iter().for_each(|flag| text += &format!("+{flag}\r\n"));
        text += &format!(":1\r\n:1\r\n:1\r\n{set}1\r\n+@read\r\n*0\r\n");
        text += if set == '~' { "~1\r\n%1\r\n+begin\r\n*0\r\n" } else { "*1\r\n*2\r\n+begin\r\n*0\r\n" };
        text + &format!("*{}\r\n{}", subcommands.len(), subcommands.concat())
    }

    fn reply(set: char) -> Vec<u8> {
        let subcommands = [
            entry(set, "config|get", -3, &["admin"], &[]),
            entry(set, "config|set", -4, &["admin"], &[]),
            entry(set, "config|dance", 2, &[], &[]),
        ];
        let entries = [
            entry(set, "get", 2, &["readonly", "fast"], &[]),
            entry(set, "lrange", 4, &["write"], &[]),
            entry(set, "publish", 3, &["pubsub", "fast"], &[]),
            entry(set, "wait", 3, &[], &[]),
            entry(set, "xread", -4, &["readonly", "blocking"], &[]),
            entry(set, "incr", 2, &["write", "blocking"], &[]),
            entry(set, "strlen", 2, &["fast"], &[]),
            entry(set, "config", -2, &[], &subcommands),
            entry(set, "GRAPH.Query", -2, &["readonly"], &[]),
            entry(set, "graph.peek", 0, &["readonly", "fast"], &[]),
            entry(set, "graph.wait", 2, &["write", "blocking"], &[]),
            entry(set, "graph.config", -2, &["admin"], &[]),
            "*-1\r\n".to_owned(),
        ];
        format!("*{}\r\n{}", entries.len(), entries.concat()).into_bytes()
    }

    #[test]
    fn a_server_adds_what_it_has_and_takes_away_what_it_has_not() {
        for set in ['*', '~'] {
            let commands = Commands::learn(&reply(set)).expect("a table");
            let judged = |name: &str, second: Option<&str>| {
                let command = commands.judge(name.as_bytes(), second.map(str::as_bytes))?;
                Some((command.arity, command.access, command.path, command.is_admin))
            };
            let expected = [
                ("get", (2, Access::Read, Path::Lane, false)),
                ("lrange", (4, Access::Write, Path::Slow, false)),
                ("publish", (3, Access::Write, Path::Lane, false)),
                ("wait", (3, Access::Write, Path::Session(Verb::Wait), false)),
                ("xread", (-4, Access::Read, Path::MayBlock, false)),
                ("incr", (2, Access::Write, Path::Block, false)),
                ("strlen", (2, Access::Write, Path::Lane, false)),
                ("Graph.QUERY", (-2, Access::Read, Path::Slow, false)),
                ("graph.peek", (-1, Access::Read, Path::Lane, false)),
                ("graph.wait", (2, Access::Write, Path::Block, false)),
                ("graph.config", (-2, Access::Write, Path::Own, true)),
            ];
            for (name, command) in expected {
                assert_eq!(judged(name, None), Some(command), "{name}");
            }
            assert_eq!(judged("config", Some("get")), Some((-3, Access::Pinned, Path::Lane, false)));
            assert_eq!(judged("config", Some("set")), Some((-4, Access::Write, Path::Own, true)));
            assert_eq!(judged("config", Some("dance")), Some((2, Access::Write, Path::Own, false)));
            assert_eq!(judged("config", Some("rewrite")).map(|command| command.3), Some(true), "refused all the same");
            assert_eq!(judged("set", None), None, "renamed away");
            assert_eq!(judged("client", Some("setinfo")).map(|c| c.2), Some(Path::Session(Verb::Client)));
            assert_eq!(judged("multi", None).map(|c| c.2), Some(Path::Session(Verb::Multi)));
        }
    }

    #[test]
    fn an_old_server_keeps_the_subcommands_that_it_does_not_list() {
        let entry = "*7\r\n$6\r\nobject\r\n:-2\r\n*1\r\n+readonly\r\n:2\r\n:2\r\n:1\r\n*0\r\n";
        let commands = Commands::learn(format!("*1\r\n{entry}").as_bytes()).expect("a table");
        let encoding = commands.judge(b"object", Some(b"encoding")).expect("known");
        assert_eq!((encoding.access, encoding.path), (Access::Read, Path::Lane));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let refused = Commands::learn(b"-NOPERM no right\r\n").expect_err("refused");
        assert_eq!(refused, BadTable::Refused("NOPERM no right".to_owned()));
        for bytes in ["", "*", "*1\r\n", "*2\r\n*0\r\n", "*1\r\n*3\r\n$3\r\nget", "*9999999999999\r\n"] {
            assert_eq!(Commands::learn(bytes.as_bytes()).expect_err(bytes), BadTable::Size, "{bytes:?}");
        }
        for bytes in ["+OK\r\n", "*1\r\n:1\r\n", "*1\r\n*1\r\n+get\r\n", "*1\r\n*3\r\n:1\r\n:1\r\n*0\r\n", "\r\n"] {
            assert!(matches!(Commands::learn(bytes.as_bytes()), Err(BadTable::Shape(_))), "{bytes:?}");
        }
        let whole = reply('~');
        for end in 0..whole.len() {
            assert!(Commands::learn(&whole[..end]).is_err(), "cut off at {end}");
        }
    }

    #[test]
    fn no_nesting_makes_it_deeper() {
        let mut deep = String::new();
        for _ in 0..50_000 {
            deep += "*10\r\n+a\r\n:1\r\n*0\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*1\r\n";
        }
        assert_eq!(Commands::learn(format!("*1\r\n{deep}").as_bytes()).err(), Some(BadTable::Size));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Commands::learn(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), "[-+:*~%|$_0-9a\r\n]"), 1..6),
            set in prop::sample::select(vec!['*', '~']),
        ) {
            let mut bytes = reply(set);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte.as_bytes()[0];
            }
            let _ = Commands::learn(&bytes);
        }
    }
}
