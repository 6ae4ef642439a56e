//! Whether a thread still accepts connections, or has left its listening sockets to another process.

use std::cell::Cell;

use tokio::sync::Notify;

/// See the module. Of one thread.
#[derive(Debug, Default)]
pub struct Doors {
    is_left: Cell<bool>,
    leads_on: Cell<bool>,
    told: Notify,
}

impl Doors {
    /// From here on the thread accepts nobody: whoever waits in [`Doors::left`] is told. Nobody is turned away by it,
    /// because the sockets stay open elsewhere.
    pub fn leave(&self) {
        self.is_left.set(true);
        self.leads_on.set(true);
        self.told.notify_waiters();
    }

    /// Whether another process accepts instead.
    pub fn is_left(&self) -> bool {
        self.is_left.get()
    }

    /// Whether clients can follow to that process.
    pub fn leads_on(&self) -> bool {
        self.leads_on.get()
    }

    /// The other process is gone: whoever is here stays here.
    pub fn lead_nowhere(&self) {
        self.leads_on.set(false);
    }

    /// Waits until another process accepts instead. Cancel-safe.
    pub async fn left(&self) {
        // Made before the look, it misses nothing.
        let told = self.told.notified();
        if !self.is_left() {
            told.await;
        }
    }
}
