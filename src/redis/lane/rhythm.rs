//! Whether a lane writes now, or behind the replies to what it wrote last.
//!
//! A server that has work loses nothing if the next requests come with the replies to the last ones: it does those
//! meanwhile. In one write they cost it, and this program, far less than one by one. A lane with little to do, or to a
//! server that is far away, writes at once.

/// A lane whose last write carried so many commands has work enough for two writes in turn.
const BUSY: u64 = 8;
/// A server is near if it has once answered within this, ns.
const NEAR: u64 = 300_000;
/// Requests that do not wait for anything, bytes: they are worth a write of their own.
pub(super) const MUCH: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Rhythm {
    /// Commands in the last write.
    commands: u64,
    /// All of it was taken, and the server has said nothing since.
    is_unanswered: bool,
    /// When it went out, if nothing else was on its way, ns.
    alone_since: Option<u64>,
    /// The shortest time that the server has taken to answer, ns.
    quickest: u64,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { commands: 0, is_unanswered: false, alone_since: None, quickest: u64::MAX }
    }
}

impl Rhythm {
    /// Whether `unsent` bytes of requests wait for the server's next words.
    #[inline]
    pub fn waits(&self, unsent: usize) -> bool {
        self.is_unanswered && self.commands >= BUSY && self.quickest <= NEAR && unsent < MUCH
    }

    /// So many commands went out; the rest of the last of them, unless it `is_whole`, needs a further write, whatever the
    /// server says. `alone_since` is the time now if it owed nothing.
    pub fn wrote(&mut self, commands: u64, is_whole: bool, alone_since: Option<u64>) {
        (self.commands, self.is_unanswered, self.alone_since) = (commands, is_whole, alone_since);
    }

    /// The server has said something; `now` is asked for the time, ns.
    #[inline]
    pub fn heard(&mut self, now: impl FnOnce() -> u64) {
        self.is_unanswered = false;
        if let Some(since) = self.alone_since.take() {
            self.quickest = self.quickest.min(now().saturating_sub(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane whose server has once answered after so many ns, and that has just written so many commands.
    fn after(quickest: u64, commands: u64) -> Rhythm {
        let mut rhythm = Rhythm::default();
        rhythm.wrote(1, true, Some(1_000));
        rhythm.heard(|| 1_000 + quickest);
        rhythm.wrote(commands, true, None);
        rhythm
    }

    #[test]
    fn a_busy_lane_to_a_near_server_waits_for_replies() {
        let mut rhythm = after(NEAR, BUSY);
        assert!(rhythm.waits(0) && rhythm.waits(MUCH - 1));
        assert!(!rhythm.waits(MUCH), "that is worth a write of its own");
        rhythm.heard(|| panic!("nobody has to ask for the time"));
        assert!(!rhythm.waits(0), "the server has answered");
    }

    #[test]
    fn whoever_is_far_or_has_little_to_do_does_not_wait() {
        assert!(!after(NEAR + 1, BUSY).waits(1));
        assert!(!after(NEAR, BUSY - 1).waits(1));
        let mut unknown = Rhythm::default();
        unknown.wrote(BUSY, true, None);
        assert!(!unknown.waits(1), "nobody knows how near it is");
    }

    #[test]
    fn the_rest_of_a_request_is_not_kept_back() {
        let mut rhythm = after(NEAR, BUSY);
        rhythm.wrote(BUSY, false, None);
        assert!(!rhythm.waits(1), "the server may wait for it");
    }
}
