//! Commands that hold, release, replace or close what belongs to a database, or to all of them.
//!
//! Those that wait ask the data threads again and again until nothing is left to wait for. What they began is taken
//! back when they are dropped before that: by Ctrl-C, or when the admin's connection is lost.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Admin, named};
use crate::admin::errors::Refusal;
use crate::admin::run::Answer;
use crate::ops::Instance;
use crate::pg::Core;
use crate::pg::pool::PgPool;
use crate::pg::registry::Order;
use crate::pool::Refusal as Turned;

/// Told to clients that an admin closes.
pub(in crate::admin) const GOODBYE: &str = "terminating connection due to administrator command";
/// Between two looks at what is left.
const STEP: Duration = Duration::from_millis(20);

/// Takes back a hold that was not completed.
struct Undo<'a> {
    instance: &'a Arc<Instance>,
    hold: Option<Hold>,
}

enum Hold {
    Paused(Option<String>),
    Suspended,
}

impl Undo<'_> {
    fn keep(mut self) {
        self.hold = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let what = match self.hold.take() {
            None => return,
            Some(Hold::Paused(database)) => {
                self.instance.order(|orders| match &database {
                    Some(name) => drop(orders.paused.remove(name)),
                    None => orders.all_paused = false,
                });
                named(database.as_deref())
            }
            Some(Hold::Suspended) => {
                self.instance.order(|orders| orders.suspended = false);
                named(None)
            }
        };
        self.instance.events.record("", 0, "resumed", "", &format!("{what}its PAUSE or SUSPEND was given up"));
    }
}

/// The pools of a database, or all of them.
fn pools_of(core: &Rc<Core>, database: Option<&str>) -> Vec<Rc<PgPool>> {
    let mut pools = core.all_pools();
    pools.retain(|pool| database.is_none_or(|name| *pool.shared.key.database == *name));
    pools
}

impl Admin<'_> {
    /// Runs `look` on every thread for the pools of `database` and adds up what it answers.
    async fn each(
        &self,
        database: Option<&str>,
        look: impl Fn(&Rc<Core>, &Rc<PgPool>) -> usize + Clone + Send + 'static,
    ) -> usize {
        let database = database.map(str::to_owned);
        let job = move |core: &Rc<Core>| {
            pools_of(core, database.as_deref()).iter().map(|pool| look(core, pool)).sum::<usize>()
        };
        self.instance.ask_all(job).await.into_iter().sum()
    }

    pub(super) async fn pause(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        self.is_ending()?;
        let orders = self.instance.orders();
        if orders.all_paused || orders.suspended {
            return Err(Refusal::WrongState("already suspended/paused".to_owned()));
        }
        let doubt = self.know_if_named("PAUSE", database).await?;
        let was_paused = database.is_some_and(|name| orders.paused.contains(name));
        self.instance.set_paused(database, true);
        self.record("paused", &format!("PAUSE of {}", named(database)));
        let hold = (!was_paused).then(|| Hold::Paused(database.map(str::to_owned)));
        let undo = Undo { instance: self.instance, hold };
        loop {
            let left = self.each(database, |core, pool| {
                // One that was being opened when the order came.
                if pool.state.borrow().counts().servers.idle > 0 {
                    core.reconnect(pool);
                }
                pool.state.borrow().counts().servers.total()
            });
            if left.await == 0 {
                undo.keep();
                return Ok(Answer::done("PAUSE").beside(doubt));
            }
            let orders = self.instance.orders();
            if !database.map_or(orders.all_paused, |name| orders.is_paused(name)) {
                undo.keep();
                return Err(Refusal::WrongState("RESUME has ended the pause before it was complete".to_owned()));
            }
            tokio::time::sleep(STEP).await;
        }
    }

    pub(super) async fn resume(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        self.is_ending()?;
        let orders = self.instance.orders();
        match database {
            Some(name) if !orders.paused.contains(name) => {
                self.know("RESUME", name).await?;
                let why = match orders.holds(name) {
                    true => format!("database {name} is held with all others: RESUME without a name lets them go"),
                    false => format!("database {name} is not paused"),
                };
                return Err(Refusal::WrongState(why));
            }
            None if !orders.all_paused && !orders.suspended && orders.paused.is_empty() => {
                return Err(Refusal::WrongState("nothing is paused or suspended".to_owned()));
            }
            _ => {}
        }
        self.instance.set_paused(database, false);
        self.record("resumed", &format!("RESUME of {}", named(database)));
        Ok(Answer::done("RESUME"))
    }

    pub(super) async fn suspend(&self) -> Result<Answer, Refusal> {
        self.is_ending()?;
        let orders = self.instance.orders();
        if orders.all_paused || orders.suspended {
            return Err(Refusal::WrongState("already suspended/paused".to_owned()));
        }
        if !orders.paused.is_empty() {
            return Err(Refusal::WrongState("cannot suspend with paused databases".to_owned()));
        }
        self.instance.order(|orders| orders.suspended = true);
        self.record("suspended", &format!("SUSPEND of {}", named(None)));
        let undo = Undo { instance: self.instance, hold: Some(Hold::Suspended) };
        loop {
            let busy = self.each(None, |_, pool| {
                let servers = pool.state.borrow().counts().servers;
                servers.busy + servers.opening
            });
            if busy.await == 0 {
                undo.keep();
                return Ok(Answer::done("SUSPEND"));
            }
            if !self.instance.orders().suspended {
                undo.keep();
                return Err(Refusal::WrongState("RESUME has ended the suspension before it was complete".to_owned()));
            }
            tokio::time::sleep(STEP).await;
        }
    }

    pub(super) async fn set_disabled(&self, database: &str, disabled: bool) -> Result<Answer, Refusal> {
        let (tag, event) = if disabled { ("DISABLE", "disabled") } else { ("ENABLE", "enabled") };
        let is_known = !disabled && self.instance.orders().is_disabled(database);
        let doubt = if is_known { None } else { self.know(tag, database).await? };
        self.instance.order(|orders| match disabled {
            true => drop(orders.disabled.insert(database.to_owned())),
            false => drop(orders.disabled.remove(database)),
        });
        self.record(event, &named(Some(database)));
        Ok(Answer::done(tag).beside(doubt))
    }

    pub(super) async fn reconnect(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        let doubt = self.know_if_named("RECONNECT", database).await?;
        self.each(database, |core, pool| {
            core.reconnect(pool);
            0
        })
        .await;
        self.record("reconnected", &named(database));
        Ok(Answer::done("RECONNECT").beside(doubt))
    }

    /// Clients first: a server connection in use is closed by the end of its client.
    pub(super) async fn kill(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        let doubt = self.know_if_named("KILL", database).await?;
        self.instance.set_paused(database, true);
        let killed = self.each(database, |core, pool| {
            let clients = pool.clients.get();
            core.end_clients(pool, Order::End(GOODBYE));
            pool.state.borrow_mut().refuse_all(&Turned::Closed(GOODBYE));
            core.reconnect(pool);
            clients
        });
        let killed = killed.await;
        self.record("killed", &format!("{killed} clients of {}", named(database)));
        Ok(Answer::done("KILL").beside(doubt))
    }

    pub(super) async fn wait_close(&self, database: Option<&str>) -> Result<Answer, Refusal> {
        self.know_if_named("WAIT_CLOSE", database).await?;
        loop {
            let left = self.each(database, |core, pool| {
                let key = &pool.shared.key;
                let is_old = |s: &&Rc<crate::pg::registry::Server>| {
                    s.close_needed.get() && s.database == key.database && s.user == key.user
                };
                core.servers.borrow().values().filter(is_old).count()
            });
            if left.await == 0 {
                return Ok(Answer::done("WAIT_CLOSE"));
            }
            tokio::time::sleep(STEP).await;
        }
    }
}
