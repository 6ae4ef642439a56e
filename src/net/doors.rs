//! Whether a thread still accepts connections, or has left its listening sockets to another process.

use std::cell::Cell;

use tokio::sync::Notify;

/// See the module. Of one thread.
#[derive(Debug, Default)]
pub struct Doors {
    is_left: Cell<bool>,
    told: Notify,
}

impl Doors {
    /// From here on the thread accepts nobody: whoever waits in [`Doors::left`] is told. Nobody is turned away by it,
    /// because the sockets stay open elsewhere.
    pub fn leave(&self) {
        self.is_left.set(true);
        self.told.notify_waiters();
    }

    /// Whether another process accepts instead.
    pub fn is_left(&self) -> bool {
        self.is_left.get()
    }

    /// Waits for that. Cancel-safe.
    pub async fn left(&self) {
        // Made before the look, it misses nothing.
        let told = self.told.notified();
        if !self.is_left() {
            told.await;
        }
    }
}
