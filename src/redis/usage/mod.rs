//! What a service's commands and keys are used for, on one thread: `SHOW COMMANDS` and `SHOW KEYS`.
//!
//! Every command is counted by its place in the table ([`Table`]), which is an addition. Everything else is looked at
//! for some of them only: each while they are few, then one of so many that a thread looks at some [`LOOKS`] in a tick
//! whatever the load. Which one is drawn by chance, since clients have rhythms; it counts for those that were passed
//! over. What was looked at has its time taken ([`Call`]) and its keys counted ([`Sketch`]), whose counts halve every
//! minute. Requests and replies of [`LARGE`] bytes and more are looked at beyond that ([`LargeKeys`]).
//!
//! Memory by service and thread: 64 bytes a command, and 600 more if it was used, 50 KiB with 30 of them; [`MOST_HOT`] and
//! 64 keys with some 100 bytes each, besides the [`LONGEST_KEY`] that are kept of a key: 90 KiB at the most.

mod large;
mod report;
mod sketch;
mod tally;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;

pub use self::large::{LARGE, LargeKey, LargeKeys};
pub use self::report::{HotKey, ServiceUsage, UsageReport, together};
pub use self::sketch::{Entry, KeyId, Sketch};
pub use self::tally::{Call, CommandReport, OTHERS, Ran, Table, Timed};
use crate::wire::resp::command::{Access, Command, Commands, Keys};
use crate::wire::resp::{ReplyScan, announced_words, words};
use crate::worker::clock::now_ns;

/// Keys whose use is counted, by service and thread.
const MOST_HOT: usize = 256;
/// Bytes that are kept of a key.
pub const LONGEST_KEY: usize = 128;
/// Words of a request among which keys are looked for.
const MOST_WORDS: usize = 128;
/// Commands that are looked at in a tick, when there are more.
const LOOKS: u32 = 20;
/// Commands that may be looked at in a row, after a quiet time.
const BURST: u32 = 2000;
/// Of how many commands one is looked at, at the least and at the most, when there are more than that.
const PERIODS: (u32, u32) = (4, 4096);
/// Counts of keys fade so often, ns, and to this share each time: by half in a minute.
const FADE: (u64, f64) = (5_000_000_000, 0.943_874_312_681_694);
/// Large requests and replies, and errors, that are looked at in a tick.
const EXTRA_LOOKS: u32 = 200;
/// What carries so much is looked at all the same, bytes: relaying it costs far more.
const HUGE: u64 = 64 * 1024;
/// Requests that are gone through in the time that a look takes.
const NEAR: u32 = 64;

/// See the module.
#[derive(Debug)]
pub struct Usage {
    table: RefCell<Rc<Table>>,
    /// Commands until one is looked at, and as many as were drawn.
    left: Cell<u32>,
    drawn: Cell<u32>,
    /// Commands that are looked at before any is passed over.
    tokens: Cell<u32>,
    /// One of so many is looked at when there are no tokens.
    period: Cell<u32>,
    /// Looked at since the last tick, and for how many those counted.
    looked: Cell<u32>,
    passed: Cell<u64>,
    random: Cell<u64>,
    /// Keys may be kept.
    counts_keys: Cell<bool>,
    /// What carries less is of no interest, bytes.
    least: Cell<u64>,
    extra: Cell<u32>,
    /// Errors that nobody looked at.
    missed_errors: Cell<u64>,
    hot: RefCell<Sketch>,
    large: RefCell<LargeKeys>,
    faded: Cell<u64>,
    seeds: Arc<RandomState>,
}

impl Usage {
    /// Nothing was used yet. The threads of a service have the same `seeds`.
    pub fn new(counts_keys: bool, seeds: Arc<RandomState>) -> Self {
        let usage = Usage {
            table: RefCell::new(Rc::new(Table::new(Arc::new(Commands::builtin())))),
            left: Cell::new(1),
            drawn: Cell::new(1),
            tokens: Cell::new(BURST),
            period: Cell::new(PERIODS.0),
            looked: Cell::new(0),
            passed: Cell::new(0),
            // Never 0, of which nothing else comes.
            random: Cell::new(seeds.hash_one(now_ns()) | 1),
            counts_keys: Cell::new(true),
            least: Cell::new(LARGE),
            extra: Cell::new(EXTRA_LOOKS),
            missed_errors: Cell::new(0),
            hot: RefCell::new(Sketch::new(MOST_HOT)),
            large: RefCell::default(),
            faded: Cell::new(now_ns()),
            seeds,
        };
        usage.count_keys(counts_keys);
        usage
    }

    // === what is done for each command ===

    /// So many commands are sent in a row. True if one of them is to be looked at: the caller has to ask
    /// [`Usage::next_due`] for it. Otherwise they are passed over.
    #[inline]
    pub fn is_due(&self, commands: u32) -> bool {
        let left = self.left.get();
        if commands < left {
            self.left.set(left - commands);
        }
        commands >= left
    }

    /// Of so many commands in a row that are still to come, which one is looked at, the first being 0. It has to be looked
    /// at then, or none, and the rest is passed over.
    pub fn next_due(&self, commands: u32) -> Option<u32> {
        // The one that is drawn is the last of those that it counts for.
        self.is_due(commands).then(|| self.left.get() - 1)
    }

    /// A reply of fewer bytes is of no interest.
    #[inline]
    pub fn least(&self) -> u64 {
        self.least.get()
    }

    /// A request or a reply of so many bytes is to be looked at.
    #[inline]
    pub fn is_large(&self, bytes: u64) -> bool {
        bytes >= self.least.get()
    }

    /// The commands in force, and their counts.
    pub fn table(&self) -> Rc<Table> {
        Rc::clone(&self.table.borrow())
    }

    /// A command is sent, or answered here, on a way where nanoseconds do not matter. If it is looked at, the caller has
    /// to tell the end.
    pub fn note(&self, place: u16, ran: Ran, request: &[u8], db: u32) -> Option<Call> {
        self.table.borrow().count(place, ran);
        let is_due = self.is_due(1);
        if is_due || self.is_large(request.len() as u64) { self.look(is_due, place, request, db) } else { None }
    }

    /// What is due is not there.
    #[cold]
    pub fn look_at_none(&self) {
        self.draw();
    }

    // === what is done for some of them ===

    /// Looks at a request because it `is_due`, or because it is large: twice for both does no harm. If it was due, its time
    /// is to be taken.
    #[cold]
    #[inline(never)]
    pub fn look(&self, is_due: bool, place: u16, request: &[u8], db: u32) -> Option<Call> {
        let table = self.table();
        let now = now_ns();
        if self.counts_keys.get()
            && let Some(command) = table.commands().at(place)
            && command.keys != Keys::None
        {
            let size = request.len() as u64;
            let is_large = self.is_large(size) && self.may_look_further(size, 0);
            self.look_at_keys(is_due, is_large, command, request, db, now);
        }
        if !is_due {
            return None;
        }
        self.draw();
        Some(Call::new(table, place, now, request.len()))
    }

    fn look_at_keys(&self, is_due: bool, is_large: bool, command: &Command, request: &[u8], db: u32, now: u64) {
        let (size, is_write) = (request.len() as u64, command.access == Access::Write);
        if command.keys == Keys::FIRST {
            // Nearly all: there is nothing to be gathered.
            let Some(key) = words(request).nth(1) else { return };
            if is_due {
                self.count_use(key, db, is_write);
            }
            if is_large {
                self.count_large(key, db, size, command, now);
            }
            return;
        }
        let words: Vec<&[u8]> = words(request).take(MOST_WORDS).collect();
        let places = || command.keys.places(&words, announced_words(request));
        let keys = || places().filter_map(|at| words.get(at).copied());
        if is_due {
            keys().for_each(|key| self.count_use(key, db, is_write));
        }
        match (command.keys, keys().nth(1)) {
            _ if !is_large => {}
            (_, None) => keys().for_each(|key| self.count_large(key, db, size, command, now)),
            (Keys::Range { step: 2.., .. }, _) => places().for_each(|at| {
                if let (Some(key), Some(value)) = (words.get(at), words.get(at + 1)) {
                    self.count_large(key, db, value.len() as u64, command, now);
                }
            }),
            // Whose bytes these are, nobody knows.
            _ => {}
        }
    }

    /// The reply to a request has had so many bytes.
    #[cold]
    pub fn look_at_reply(&self, request: &[u8], db: u32, bytes: u64) {
        if !self.is_large(bytes) {
            return;
        }
        let table = self.table();
        let mut all = words(request);
        let (name, second) = (all.next().unwrap_or_default(), all.next());
        let Some(command) = table.commands().judge(name, second) else { return };
        let words: Vec<&[u8]> = words(request).take(MOST_WORDS).collect();
        let mut keys = command.keys.places(&words, announced_words(request)).filter_map(|at| words.get(at));
        if let (Some(key), None) = (keys.next(), keys.next()) {
            self.count_large(key, db, bytes, command, now_ns());
        }
    }

    /// A request so large that it goes on as it comes has begun: of its words some are there, and it will have so many
    /// bytes at least.
    pub fn look_at_beginning(&self, place: u16, words: &[&[u8]], db: u32, bytes: u64) {
        let table = self.table();
        let Some(command) = table.commands().at(place) else { return };
        let mut keys = command.keys.places(words, words.len()).filter_map(|at| words.get(at));
        if let (Some(key), None) = (keys.next(), keys.next()) {
            self.count_large(key, db, bytes, command, now_ns());
        }
    }

    /// There is time to look at something beyond what is due, behind so many others that have to be gone through first,
    /// or it carries so much that this does not matter.
    pub fn may_look_further(&self, bytes: u64, behind: u32) -> bool {
        let left = self.extra.get();
        self.extra.set(left.saturating_sub(1 + behind / NEAR));
        left > 0 || bytes >= HUGE && behind < NEAR
    }

    /// A server has answered a request with an error; `None` if there is no time to look at which.
    pub fn fail(&self, request: Option<&[u8]>) {
        let Some(request) = request else { return self.missed_errors.update(|n| n + 1) };
        let table = self.table.borrow();
        let mut words = words(request);
        let (name, second) = (words.next().unwrap_or_default(), words.next());
        let place = table.commands().judge_at(name, second).map_or(table.others(), |(place, _)| place);
        table.count_errors(place, 1 + self.missed_errors.take());
    }

    /// The answer to EXEC has come, behind which were these requests: MULTI, commands, EXEC. Its errors are those of the
    /// commands.
    pub fn fail_within(&self, block: &[u8], reply: &[u8]) {
        let Some((b"*", rest)) = reply.split_at_checked(1) else { return };
        if memchr::memmem::find(rest, b"\n-").is_none() {
            return;
        }
        let Some(end) = memchr::memchr(b'\n', reply) else { return };
        let mut rest = reply.get(end + 1..).unwrap_or_default();
        let mut requests = super::session::first_request(block).map(|(_, behind)| behind).unwrap_or_default();
        while let Some((request, behind)) = super::session::first_request(requests) {
            let Ok(scanned) = ReplyScan::default().scan(rest) else { return };
            if !scanned.is_done || !self.may_look_further(0, 0) {
                return;
            }
            if rest.first() == Some(&b'-') {
                self.fail(Some(request));
            }
            rest = rest.get(scanned.used..).unwrap_or_default();
            requests = behind;
        }
    }

    fn id(&self, key: &[u8], db: u32) -> KeyId {
        KeyId { db, hash: self.seeds.hash_one(key) }
    }

    fn count_use(&self, key: &[u8], db: u32, is_write: bool) {
        let weight = f64::from(self.drawn.get());
        self.hot.borrow_mut().add(self.id(key, db), weight, is_write, || (beginning(key), key.len()));
    }

    fn count_large(&self, key: &[u8], db: u32, bytes: u64, command: &Command, now: u64) {
        if !self.is_large(bytes) {
            return;
        }
        let id = self.id(key, db);
        let mut large = self.large.borrow_mut();
        let make =
            || LargeKey { id, key: beginning(key), len: key.len(), bytes, command: command.name.clone(), seen: now };
        large.add(id, bytes, now, make);
        self.least.set(large.least());
    }

    /// Draws which command is looked at next.
    fn draw(&self) {
        self.looked.update(|n| n.saturating_add(1));
        self.passed.update(|n| n + u64::from(self.drawn.get()));
        let tokens = self.tokens.get();
        self.tokens.set(tokens.saturating_sub(1));
        if tokens == 0 && self.looked.get().is_multiple_of(2 * LOOKS) {
            // Much more comes than in the tick before.
            self.period.update(|period| (period * 2).min(PERIODS.1));
        }
        let gap = if tokens > 0 { 1 } else { self.gap() };
        self.left.set(gap);
        self.drawn.set(gap);
    }

    /// By chance, `period` on average: xorshift64 (Marsaglia, 2003).
    fn gap(&self) -> u32 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        let widest = u64::from(self.period.get()) * 2 - 1;
        u32::try_from(1 + (x >> 16) % widest).unwrap_or(1)
    }

    // === from time to time ===

    /// Every 100 ms.
    pub fn tick(&self, now: u64) {
        self.extra.set(EXTRA_LOOKS);
        let looked = self.looked.take();
        self.tokens.update(|tokens| (tokens + LOOKS.saturating_sub(looked)).min(BURST));
        let passed = self.passed.take();
        let period = u32::try_from(passed / u64::from(LOOKS)).unwrap_or(u32::MAX).clamp(PERIODS.0, PERIODS.1);
        self.period.set(period);
        // Who has drawn much when there was much to do would wait for ever now.
        let wanted = if self.tokens.get() > 0 { 1 } else { period * 2 };
        let left = self.left.get();
        if left > wanted {
            self.drawn.set(self.drawn.get() - left + wanted);
            self.left.set(wanted);
        }
        if now.saturating_sub(self.faded.get()) >= FADE.0 {
            let times = now.saturating_sub(self.faded.replace(now)) / FADE.0;
            self.hot.borrow_mut().fade(FADE.1.powi(i32::try_from(times).unwrap_or(i32::MAX)));
            let mut large = self.large.borrow_mut();
            large.forget_old(now);
            if self.counts_keys.get() {
                self.least.set(large.least());
            }
        }
    }

    /// Keys are counted from now on, or none is, and what is there of them goes.
    pub fn count_keys(&self, counts: bool) {
        if self.counts_keys.replace(counts) && !counts {
            self.hot.borrow_mut().clear();
            *self.large.borrow_mut() = LargeKeys::default();
        }
        self.least.set(if counts { self.large.borrow().least() } else { u64::MAX });
    }

    /// The servers have said which commands they know.
    pub fn set_commands(&self, commands: Arc<Commands>) {
        let mut table = self.table.borrow_mut();
        *table = Rc::new(table.renewed(commands));
    }

    /// Copies of everything.
    pub fn report(&self, service: &str) -> UsageReport {
        let hot = self.hot.borrow();
        UsageReport {
            service: service.to_owned(),
            commands: self.table.borrow().reports(),
            hot: hot.entries().map(|(id, entry)| (id, entry.clone())).collect(),
            total: hot.total(),
            floor: hot.floor(),
            large: self.large.borrow().all().to_vec(),
        }
    }
}

/// What is kept of a key.
fn beginning(key: &[u8]) -> Box<[u8]> {
    key.get(..LONGEST_KEY).unwrap_or(key).into()
}

#[cfg(test)]
mod tests;
