//! What each command means for somebody who shares connections between clients.
//!
//! [`Commands`] is made once, from the table that is built in or from what a server says about itself, and asked for
//! every request. A name decides before a flag does: what Redis hides from COMMAND, or says otherwise than a proxy needs
//! it, stands in the table.

mod keys;
mod known;
mod learn;
mod names;
mod table;

pub use keys::Keys;
pub use known::Commands;
pub use learn::BadTable;

/// What a command does to the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only reads, and means the same on every node that has the data: a replica can answer.
    Read,
    /// Only reads, but what it says belongs to one node (cursors, access times, scripts that were loaded): the primary
    /// answers, and it may be run twice.
    Pinned,
    /// Changes something, or nobody knows: the primary answers, and it must not run twice.
    Write,
}

/// How a command has to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// On a shared connection.
    Lane,
    /// On a shared connection for what may take long or answer much.
    Slow,
    /// It blocks its connection until it is answered: on one of its own, which is clean again then.
    Block,
    /// As [`Path::Block`] if the word BLOCK stands among its options, otherwise as [`Path::Lane`].
    MayBlock,
    /// Nobody knows what it does to its connection: on one of its own, which must be reset before others share it.
    Own,
    /// Changes the client's own session, or is answered without a server.
    Session(Verb),
}

/// Commands that Forebay itself carries out or watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Auth,
    Hello,
    Select,
    Ping,
    Quit,
    Reset,
    Client,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Subscribe,
    Psubscribe,
    Ssubscribe,
    Unsubscribe,
    Punsubscribe,
    Sunsubscribe,
    Monitor,
    Wait,
    Script,
    /// SCRIPT KILL, FUNCTION KILL
    Kill,
}

/// One command, or one subcommand of a container such as CONFIG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// In small letters; a subcommand's has its container's in front, `config|get`.
    pub name: Box<str>,
    /// Number of words, the command's own included; negative: at least as many.
    pub arity: i32,
    /// What it does to the data.
    pub access: Access,
    /// How it has to be carried out.
    pub path: Path,
    /// Belongs to the administrator: refused to ordinary clients.
    pub is_admin: bool,
    /// Where its keys stand.
    pub keys: Keys,
}

impl Command {
    /// It has no effect that a second run would add to: after a connection was lost it may be sent again.
    pub fn may_run_twice(&self) -> bool {
        self.access != Access::Write && !matches!(self.path, Path::Own | Path::Session(_))
    }

    /// The number of words, the command's own included, is one that a server accepts.
    pub fn arity_fits(&self, words: usize) -> bool {
        let named = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { words >= named } else { words == named }
    }

    /// This request may hold its connection until something happens. `arguments` are the words behind the command's
    /// name; only [`Path::MayBlock`] looks at them, and never at the keys behind STREAMS.
    pub fn is_blocking_now<'a>(&self, arguments: impl IntoIterator<Item = &'a [u8]>) -> bool {
        match self.path {
            Path::Block => true,
            Path::MayBlock => block_option(arguments).is_some(),
            _ => false,
        }
    }

    /// The command that this is a subcommand of.
    pub fn container(&self) -> Option<&str> {
        self.name.split_once('|').map(|(container, _)| container)
    }
}

/// Which of the words behind XREAD or XREADGROUP is the option BLOCK. Options are read as Redis does: what belongs to
/// one is skipped, so that a group may be called BLOCK.
pub fn block_option<'a>(arguments: impl IntoIterator<Item = &'a [u8]>) -> Option<usize> {
    let mut words = arguments.into_iter().enumerate();
    while let Some((place, word)) = words.next() {
        let arguments = match word.to_ascii_uppercase().as_slice() {
            b"BLOCK" => return Some(place),
            b"STREAMS" => return None,
            b"GROUP" => 2,
            b"COUNT" | b"CLAIM" => 1,
            _ => 0,
        };
        for _ in 0..arguments {
            words.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(line: &str) -> bool {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (name, arguments) = words.split_first().expect("a name");
        let commands = Commands::builtin();
        commands.judge(name, None).expect("a known command").is_blocking_now(arguments.iter().copied())
    }

    #[test]
    fn only_an_option_block_makes_a_stream_read_wait() {
        for line in [
            "XREAD BLOCK 0 STREAMS s $",
            "xread count 1 block 10 streams s $",
            "XREADGROUP GROUP STREAMS BLOCK BLOCK 5 STREAMS s >",
            "XREADGROUP GROUP g c COUNT 5 NOACK BLOCK 0 STREAMS s >",
            "BLPOP k 0",
        ] {
            assert!(blocks(line), "{line}");
        }
        for line in [
            "XREAD STREAMS BLOCK 0",
            "XREAD COUNT 10 STREAMS a BLOCK 0 0",
            "XREADGROUP GROUP BLOCK BLOCK STREAMS BLOCK >",
            "XREADGROUP GROUP g BLOCK COUNT BLOCK STREAMS s >",
            "XREADGROUP GROUP",
            "XREAD",
            "GET BLOCK",
        ] {
            assert!(!blocks(line), "{line}");
        }
    }

    #[test]
    fn words_are_counted_as_redis_counts_them() {
        let commands = Commands::builtin();
        let get = commands.find(b"get").expect("known");
        assert_eq!([1, 2, 3].map(|words| get.arity_fits(words)), [false, true, false]);
        let set = commands.find(b"set").expect("known");
        assert_eq!([2, 3, 9].map(|words| set.arity_fits(words)), [false, true, true]);
        let config_get = commands.find_sub(b"config", b"get").expect("known");
        assert_eq!([2, 3, 4].map(|words| config_get.arity_fits(words)), [false, true, true]);
    }

    #[test]
    fn only_what_changes_nothing_may_run_twice() {
        let commands = Commands::builtin();
        for name in ["get", "xread", "scan", "pfcount", "eval_ro", "dbsize", "sort_ro"] {
            assert!(commands.find(name.as_bytes()).expect(name).may_run_twice(), "{name}");
        }
        for name in ["set", "publish", "eval", "getex", "blpop", "subscribe", "wait", "exec", "sort", "debug"] {
            assert!(!commands.find(name.as_bytes()).expect(name).may_run_twice(), "{name}");
        }
    }
}
