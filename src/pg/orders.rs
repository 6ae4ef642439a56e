//! What an admin has ordered about databases: paused, suspended, disabled.
//!
//! The control thread owns the orders and hands every data thread a copy of the whole; a thread makes its pools agree
//! with it, and so do pools that are made later. Telling the same twice changes nothing.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::pool::PgPool;
use crate::worker::clock::now_ns;

/// Orders in force. Databases are called as clients call them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// `PAUSE` without a name.
    pub all_paused: bool,
    /// `SUSPEND`: as paused, but server connections stay open.
    pub suspended: bool,
    /// `PAUSE db`, `KILL db`.
    pub paused: BTreeSet<String>,
    /// `DISABLE db`
    pub disabled: BTreeSet<String>,
}

impl Orders {
    /// New requests for this database wait.
    pub fn holds(&self, database: &str) -> bool {
        self.suspended || self.is_paused(database)
    }

    /// Held, and its server connections are closed as they become free.
    pub fn is_paused(&self, database: &str) -> bool {
        self.all_paused || self.paused.contains(database)
    }

    /// No new clients.
    pub fn is_disabled(&self, database: &str) -> bool {
        self.disabled.contains(database)
    }
}

impl Core {
    /// Takes new orders and makes every pool of this thread agree with them.
    pub fn set_orders(self: &Rc<Self>, orders: Rc<Orders>) {
        *self.orders.borrow_mut() = Rc::clone(&orders);
        for pool in self.all_pools() {
            self.follow_orders(&pool, &orders);
        }
    }

    pub(super) fn follow_orders(self: &Rc<Self>, pool: &Rc<PgPool>, orders: &Orders) {
        let database = &pool.shared.key.database;
        pool.is_disabled.set(orders.is_disabled(database));
        let holds = orders.holds(database);
        pool.shared.paused.store(holds, Ordering::Relaxed);
        let was_held = pool.state.borrow().is_paused();
        if was_held != holds {
            pool.state.borrow_mut().set_paused(holds, now_ns());
        }
        if orders.is_paused(database) {
            self.reconnect(pool);
        } else if was_held && !holds {
            self.open_wanted(pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_pool_is_held_but_keeps_its_connections() {
        let orders = Orders { suspended: true, ..Orders::default() };
        assert!(orders.holds("app") && !orders.is_paused("app"));
    }

    #[test]
    fn an_order_by_name_concerns_that_database_alone() {
        let orders =
            Orders { paused: ["app".to_owned()].into(), disabled: ["old".to_owned()].into(), ..Orders::default() };
        assert!(orders.holds("app") && !orders.holds("other"));
        assert!(orders.is_disabled("old") && !orders.is_disabled("app"));
    }
}
