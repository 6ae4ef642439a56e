//! `SHUTDOWN`.

use super::Admin;
use crate::admin::run::Answer;
use crate::admin::statement::command::Shutdown;
use crate::ops::instance::Stop;

impl Admin<'_> {
    /// Answered when nobody new gets in, before the rest is done: the session ends with the process.
    pub(super) async fn shutdown(&self, how: Shutdown) -> Answer {
        let (stop, what) = match how {
            Shutdown::Now => (Stop::Now, "now, "),
            Shutdown::WaitForServers => (Stop::WaitForServers, "when no transaction runs, "),
            Shutdown::WaitForClients => (Stop::WaitForClients, "when the clients have left, "),
        };
        self.record("shutdown", what);
        self.instance.close_doors().await;
        self.instance.stop(stop);
        Answer::done("SHUTDOWN")
    }
}
