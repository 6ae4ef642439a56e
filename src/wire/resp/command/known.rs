//! The table that requests are judged by.

use super::names::{Names, Place};
use super::table::ROWS;
use super::{Command, Keys, learn};

/// All commands that are known, found by name. Made once and shared; looking one up allocates nothing.
#[derive(Debug, Clone)]
pub struct Commands {
    commands: Vec<Command>,
    names: Names,
}

impl Commands {
    /// The commands that are known without asking a server: Redis 7.0 to 8.4 and Valkey.
    pub fn builtin() -> Commands {
        let rows = ROWS.iter().map(|row| Command {
            name: row.name.into(),
            arity: row.arity,
            access: row.access,
            path: row.path,
            is_admin: row.is_admin,
            keys: Keys::of(row),
        });
        Commands::new(rows.collect())
    }

    /// The commands of one server, modules' included: `reply` is what it answered to COMMAND, in RESP2 or RESP3. What
    /// the built-in table says about a name counts for more than the server's flags, except where the server is more
    /// careful.
    ///
    /// # Errors
    /// The bytes are no table of commands, or the server refused.
    pub fn learn(reply: &[u8]) -> Result<Commands, learn::BadTable> {
        let seen = learn::read(reply)?;
        Ok(Commands::new(learn::merge(&Commands::builtin(), seen)))
    }

    /// A subcommand is named `container|name`; the first of two that have the same name counts.
    fn new(commands: Vec<Command>) -> Commands {
        let mut names = Names::new();
        let tops = commands.iter().enumerate().filter(|(_, command)| !command.name.contains('|'));
        for (index, command) in tops {
            names.add(Place::Top, command.name.as_bytes(), index);
        }
        for (index, command) in commands.iter().enumerate() {
            let Some((container, sub)) = command.name.split_once('|') else { continue };
            if let Some(container) = names.become_container(container.as_bytes()) {
                names.add(Place::In(container), sub.as_bytes(), index);
            }
        }
        Commands { commands, names }
    }

    /// What a request is: the command that its first word names, or the subcommand that its second word names if the
    /// first is a container. `None`: nobody knows, so that it has to be taken for the worst.
    ///
    /// 60 instructions for GET and SET, 69 for the longest name without a list, 177 for CONFIG GET (callgrind, release
    /// build, `judge GET` less `nothing GET` of tests/bench/resp_timing.rs).
    #[inline]
    pub fn judge(&self, name: &[u8], second: Option<&[u8]>) -> Option<&Command> {
        self.judge_at(name, second).map(|(_, command)| command)
    }

    /// The same, with the command's place among all: a number below [`Commands::len`].
    #[inline]
    pub fn judge_at(&self, name: &[u8], second: Option<&[u8]>) -> Option<(u16, &Command)> {
        let found = self.names.find(Place::Top, name)?;
        let command = self.commands.get(found.index as usize)?;
        if found.is_container { self.judge_within(found.index, command, second) } else { Some((found.index, command)) }
    }

    #[cold]
    fn judge_within<'a>(
        &'a self,
        index: u16,
        container: &'a Command,
        second: Option<&[u8]>,
    ) -> Option<(u16, &'a Command)> {
        match second {
            Some(sub) => {
                let index = self.names.find(Place::In(index), sub)?.index;
                self.commands.get(index as usize).map(|command| (index, command))
            }
            // COMMAND alone is a command; CONFIG alone is none.
            None => Some((index, container)).filter(|(_, container)| container.arity_fits(1)),
        }
    }

    /// The command of this name, whatever the case of its letters; a container too.
    pub fn find(&self, name: &[u8]) -> Option<&Command> {
        self.commands.get(self.names.find(Place::Top, name)?.index as usize)
    }

    /// The same, with its place.
    pub fn place(&self, name: &[u8]) -> Option<(u16, &Command)> {
        let index = self.names.find(Place::Top, name)?.index;
        Some((index, self.at(index)?))
    }

    /// A subcommand, as `GET` of `CONFIG`.
    pub fn find_sub(&self, name: &[u8], sub: &[u8]) -> Option<&Command> {
        let container = self.names.find(Place::Top, name)?;
        self.commands.get(self.names.find(Place::In(container.index), sub)?.index as usize)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The command at a place that [`Commands::judge_at`] has told.
    pub fn at(&self, place: u16) -> Option<&Command> {
        self.commands.get(usize::from(place))
    }

    /// The command of this name has subcommands.
    pub fn is_container(&self, name: &[u8]) -> bool {
        self.names.find(Place::Top, name).is_some_and(|found| found.is_container)
    }

    /// All of them, by their places.
    pub fn iter(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Access, Path, Verb};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_found_in_any_case() {
        let commands = Commands::builtin();
        let mut names = HashSet::new();
        for row in ROWS {
            assert!(names.insert(row.name), "{} stands twice", row.name);
            assert_eq!(row.name, row.name.to_ascii_lowercase());
            for spelling in [row.name.to_owned(), row.name.to_ascii_uppercase()] {
                let found = match spelling.split_once('|') {
                    Some((name, sub)) => commands.find_sub(name.as_bytes(), sub.as_bytes()),
                    None => commands.find(spelling.as_bytes()),
                };
                assert_eq!(found.map(|command| &*command.name), Some(row.name), "{spelling}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_name_is_none() {
        let commands = Commands::builtin();
        for name in [
            "",
            "g",
            "ge",
            "gett",
            "get\0",
            "get ",
            "g\u{65}t\u{301}",
            "GEORADIUSBYMEMBER_R",
            "georadiusbymember_rox",
            "zrevrangebyscore0",
            "config|get",
            "CONFIG GET",
            "\0\0\0",
            "GE\u{7f}",
            "georadiusbymember\u{0}",
        ] {
            assert_eq!(commands.find(name.as_bytes()), None, "{name:?}");
        }
        // Letters differ from other bytes by the same bit as from their capitals.
        for row in ROWS.iter().filter(|row| !row.name.contains('|')) {
            for at in 0..row.name.len() {
                let mut name = row.name.as_bytes().to_vec();
                name[at] ^= 0x20;
                let is_letter = row.name.as_bytes()[at].is_ascii_lowercase();
                assert_eq!(commands.find(&name).is_some(), is_letter, "{}", name.escape_ascii());
            }
        }
    }

    #[test]
    fn a_container_is_judged_by_its_subcommand() {
        let commands = Commands::builtin();
        let judged = |name: &str, second: Option<&str>| {
            commands.judge(name.as_bytes(), second.map(str::as_bytes)).map(|command| command.name.to_string())
        };
        assert_eq!(judged("CONFIG", Some("Get")).as_deref(), Some("config|get"));
        assert_eq!(judged("config", None), None);
        assert_eq!(judged("config", Some("gets")), None);
        assert_eq!(judged("command", None).as_deref(), Some("command"));
        assert_eq!(judged("command", Some("COUNT")).as_deref(), Some("command|count"));
        assert_eq!(judged("command", Some("nothing")), None);
        assert_eq!(judged("get", Some("config")).as_deref(), Some("get"));
        assert_eq!(judged("client", Some("maint_notifications")).as_deref(), Some("client|maint_notifications"));
        assert_eq!(judged("cluster", Some("count-failure-reports")).as_deref(), Some("cluster|count-failure-reports"));
        assert_eq!(judged("graph.query", Some("x")), None);
    }

    #[test]
    fn names_decide_where_flags_mislead() {
        let commands = Commands::builtin();
        for (name, access, path) in [
            ("get", Access::Read, Path::Lane),
            ("publish", Access::Write, Path::Lane),
            ("eval", Access::Write, Path::Slow),
            ("eval_ro", Access::Pinned, Path::Slow),
            ("pfcount", Access::Pinned, Path::Lane),
            ("wait", Access::Write, Path::Session(Verb::Wait)),
            ("waitaof", Access::Write, Path::Session(Verb::Wait)),
            ("xread", Access::Read, Path::MayBlock),
            ("xreadgroup", Access::Write, Path::MayBlock),
            ("blmpop", Access::Write, Path::Block),
            ("sort", Access::Write, Path::Slow),
            ("scan", Access::Pinned, Path::Lane),
            ("keys", Access::Pinned, Path::Slow),
            ("time", Access::Pinned, Path::Lane),
            ("hgetall", Access::Read, Path::Slow),
            ("flushall", Access::Write, Path::Slow),
        ] {
            let command = commands.find(name.as_bytes()).expect(name);
            assert_eq!((command.access, command.path, command.is_admin), (access, path, false), "{name}");
        }
        for (name, sub) in [("config", "set"), ("client", "pause"), ("acl", "setuser"), ("cluster", "meet")] {
            assert!(commands.find_sub(name.as_bytes(), sub.as_bytes()).expect(sub).is_admin, "{name} {sub}");
        }
    }
}
