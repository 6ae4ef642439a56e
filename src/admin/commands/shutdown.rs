//! `SHUTDOWN`.

use super::Admin;
use crate::admin::run::Answer;
use crate::admin::statement::command::Shutdown;
use crate::ops::instance::Stop;

impl Admin<'_> {
    /// Answered before it is done: the session ends with the process.
    pub(super) fn shutdown(&self, how: Shutdown) -> Answer {
        let (stop, what) = match how {
            Shutdown::Now => (Stop::Now, "now, "),
            Shutdown::WaitForServers => (Stop::WaitForServers, "when no transaction runs, "),
            Shutdown::WaitForClients => (Stop::WaitForClients, "when the clients have left, "),
        };
        self.record("shutdown", what);
        self.instance.stop(stop);
        Answer::done("SHUTDOWN")
    }
}
