//! What each fuzz target does with its bytes. `bin/` gives them to libFuzzer, `tests/fuzz_corpus.rs` runs the corpora
//! through the same functions without it.
//!
//! A new target is a function in [`TARGETS`], a `[[bin]]` of the same name and a folder of seeds in `corpus/`; the test
//! of the corpora fails if one of them is missing.

mod doors;
mod imports;
mod pg;
mod resp;
mod scram;
mod settings;
mod statements;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

/// A target: never panics, whatever the bytes are, unless something is wrong with what it tries.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", settings::config),
    ("console", statements::console),
    ("hba", doors::hba),
    ("import", imports::import),
    ("ldap", doors::ldap),
    ("pg_frames", pg::frames),
    ("pg_messages", pg::messages),
    ("pg_startup", pg::startup),
    ("proxy", doors::proxy),
    ("resp_commands", resp::commands),
    ("resp_replies", resp::replies),
    ("resp_requests", resp::requests),
    ("scram_client", scram::client),
    ("scram_exchange", scram::exchange),
    ("scram_server", scram::server),
    ("sql", statements::sql),
    ("sql_catalog", statements::catalog),
];

/// A time is measured: libFuzzer runs the target, alone and again and again.
static IS_TIMED: AtomicBool = AtomicBool::new(false);

/// Runs one target for libFuzzer.
pub fn run(name: &str, data: &[u8]) {
    IS_TIMED.store(true, Relaxed);
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => target(data),
        None => panic!("there is no target named {name}"),
    }
}

/// Bytes taken off the front of a target's input, to decide by. Zeros when there are no more.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// A number from 0 to `most`.
    fn up_to(&mut self, most: usize) -> usize {
        let number = usize::from(self.byte()) << 8 | usize::from(self.byte());
        number % (most + 1)
    }

    /// Bytes up to a byte 0xff, which is in no UTF-8, or all.
    fn part(&mut self) -> &'a [u8] {
        let mut parts = self.0.splitn(2, |byte| *byte == 0xff);
        let part = parts.next().unwrap_or_default();
        self.0 = parts.next().unwrap_or_default();
        part
    }
}

/// Runs `work` and holds it to a time that grows with its input only: half a second and 50 us a byte of this thread, which
/// is a thousand times what it takes in a release build. Instrumented code is slow, and machines are shared.
fn bounded<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if !IS_TIMED.load(Relaxed) {
        return work();
    }
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let begin = now();
    let made = work();
    let (taken, most) = (now() - begin, std::time::Duration::from_micros(500_000 + 50 * bytes as u64));
    assert!(taken <= most, "{bytes} bytes took {taken:?}, more than {most:?}");
    made
}
