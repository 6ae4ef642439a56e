//! What was counted of each command: exactly how often, and of those that were looked at how long they took.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::wire::resp::command::Commands;
use crate::worker::times::Durations;

/// What a command that is in no table is called.
pub const OTHERS: &str = "other";

/// Where a command ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// On a shared connection to the primary.
    Primary,
    /// On a shared connection to a replica.
    Replica,
    /// On a connection of the client's own.
    Own,
    /// Nowhere: Forebay has answered it.
    Here,
}

impl Ran {
    /// Of a shared connection.
    #[inline]
    pub fn shared(is_primary: bool) -> Self {
        if is_primary { Ran::Primary } else { Ran::Replica }
    }
}

/// What those that were looked at have taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timed {
    /// How many.
    pub count: u64,
    /// From being handed to the connection to the end of the reply, ns.
    pub time: u64,
    /// Its distribution.
    pub times: Durations,
    /// Bytes of their requests.
    pub bytes_in: u64,
    /// Bytes of their replies.
    pub bytes_out: u64,
}

impl Timed {
    /// Adds what another thread has.
    pub fn add(&mut self, other: &Timed) {
        self.count += other.count;
        self.time = self.time.saturating_add(other.time);
        self.times += other.times;
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
    }
}

/// One command, in a line of the cache of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tally {
    /// By [`Ran`].
    calls: [Cell<u64>; 4],
    errors: Cell<u64>,
    timed: RefCell<Option<Box<Timed>>>,
}

/// A copy of what is known of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandReport {
    /// As Redis names it, in small letters: `get`, `config|get`.
    pub name: Box<str>,
    /// How often, by [`Ran`].
    pub calls: [u64; 4],
    /// How often the server answered with an error.
    pub errors: u64,
    /// See [`Timed`].
    pub timed: Timed,
}

/// The table of commands that is in force, with the counts of each command: one more than there are commands, the last
/// is for all that are in no table.
#[derive(Debug)]
pub struct Table {
    commands: Arc<Commands>,
    tallies: Box<[Tally]>,
}

impl Table {
    /// All counts are 0.
    pub fn new(commands: Arc<Commands>) -> Self {
        let tallies = (0..=commands.len()).map(|_| Tally::default()).collect();
        Table { commands, tallies }
    }

    /// The same counts, by another table of commands; those of commands that it has not go to the others.
    pub fn renewed(&self, commands: Arc<Commands>) -> Self {
        let new = Table::new(commands);
        for report in self.reports() {
            let place = match report.name.split_once('|') {
                Some((name, sub)) => new.commands.judge_at(name.as_bytes(), Some(sub.as_bytes())),
                None => new.commands.place(report.name.as_bytes()),
            };
            let Some(tally) = new.tally(place.map_or(new.others(), |(place, _)| place)) else { continue };
            for (mine, theirs) in tally.calls.iter().zip(report.calls) {
                mine.update(|n| n + theirs);
            }
            tally.errors.update(|n| n + report.errors);
            if report.timed.count > 0 {
                tally.timed.borrow_mut().get_or_insert_default().add(&report.timed);
            }
        }
        new
    }

    /// The commands themselves.
    #[inline]
    pub fn commands(&self) -> &Arc<Commands> {
        &self.commands
    }

    /// The place of whatever is no command of the table.
    pub fn others(&self) -> u16 {
        u16::try_from(self.commands.len()).unwrap_or(u16::MAX)
    }

    #[inline]
    fn tally(&self, place: u16) -> Option<&Tally> {
        self.tallies.get(usize::from(place))
    }

    /// The command at this place was sent, or answered.
    #[inline]
    pub fn count(&self, place: u16, ran: Ran) {
        if let Some(calls) = self.tally(place).and_then(|tally| tally.calls.get(ran as usize)) {
            calls.set(calls.get() + 1);
        }
    }

    /// Servers have answered it with errors.
    pub fn count_errors(&self, place: u16, errors: u64) {
        if let Some(tally) = self.tally(place) {
            tally.errors.update(|n| n + errors);
        }
    }

    fn time(&self, place: u16, took: u64, bytes_in: u64, bytes_out: u64) {
        let Some(tally) = self.tally(place) else { return };
        let mut timed = tally.timed.borrow_mut();
        let timed = timed.get_or_insert_default();
        timed.count += 1;
        timed.time = timed.time.saturating_add(took);
        timed.times.add(took, 1);
        timed.bytes_in = timed.bytes_in.saturating_add(bytes_in);
        timed.bytes_out = timed.bytes_out.saturating_add(bytes_out);
    }

    /// Copies of what was ever used.
    pub fn reports(&self) -> Vec<CommandReport> {
        let names = self.commands.iter().map(|command| command.name.clone()).chain([OTHERS.into()]);
        let report = |(name, tally): (Box<str>, &Tally)| CommandReport {
            name,
            calls: std::array::from_fn(|i| tally.calls.get(i).map_or(0, Cell::get)),
            errors: tally.errors.get(),
            timed: tally.timed.borrow().as_deref().cloned().unwrap_or_default(),
        };
        let is_used = |report: &CommandReport| report.calls.iter().any(|calls| *calls > 0) || report.errors > 0;
        names.zip(&self.tallies).map(report).filter(is_used).collect()
    }
}

/// A command that is on its way, and looked at.
#[derive(Debug)]
pub struct Call {
    table: Rc<Table>,
    place: u16,
    since: u64,
    bytes_in: u64,
}

impl Call {
    /// It leaves now, ns.
    pub fn new(table: Rc<Table>, place: u16, since: u64, bytes_in: usize) -> Self {
        Call { table, place, since, bytes_in: bytes_in as u64 }
    }

    /// The server has answered with an error.
    pub fn fail(&self) {
        self.table.count_errors(self.place, 1);
    }

    /// All of the reply has come, ns.
    pub fn end(&self, now: u64, bytes_out: u64) {
        self.table.time(self.place, now.saturating_sub(self.since), self.bytes_in, bytes_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(table: &Table, name: &str) -> u16 {
        table.commands().place(name.as_bytes()).expect("known").0
    }

    #[test]
    fn counts_stay_when_the_table_becomes_another_one() {
        let table = Rc::new(Table::new(Arc::new(Commands::builtin())));
        let (get, set) = (place(&table, "get"), place(&table, "set"));
        let (config, _) = table.commands().judge_at(b"CONFIG", Some(b"GET")).expect("known");
        (0..3).for_each(|_| table.count(get, Ran::Replica));
        table.count(set, Ran::Primary);
        table.count(config, Ran::Primary);
        table.count(table.others(), Ran::Own);
        table.count_errors(get, 2);
        Call::new(Rc::clone(&table), get, 100, 30).end(1100, 70);
        let entry = "*6\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n";
        let learned = Commands::learn(format!("*1\r\n{entry}").as_bytes()).expect("a table");
        let table = table.renewed(Arc::new(learned));
        let told: Vec<_> = table.reports().into_iter().map(|r| (r.name.to_string(), r.calls, r.errors)).collect();
        // SET is not in the server's table any more.
        let expected = [("get", [0, 3, 0, 0], 2), ("other", [2, 0, 1, 0], 0)];
        assert_eq!(told, expected.map(|(name, calls, errors)| (name.to_owned(), calls, errors)));
        let timed = &table.reports()[0].timed;
        assert_eq!((timed.count, timed.time, timed.bytes_in, timed.bytes_out), (1, 1000, 30, 70));
    }
}
