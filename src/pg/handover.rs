//! Pools that are spread over several threads: a thread whose clients wait in vain gets a connection from one that has
//! more than its share, or that has nobody waiting.
//!
//! Within a thread the order of arrival is strict. Between threads it is not, but no thread is left out: while one is
//! starving, each connection that comes back on a thread above its share goes to it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backend::{Backend, Line};
use super::core::Core;
use super::pool::{PgPool, PoolKey};
use super::prepare::Taught;
use super::registry::{Server, ServerState};
use super::settings::Settings;
use crate::net::Detached;
use crate::pool::{Class, Put};
use crate::worker::clock::now_ns;

/// A quiet connection between two threads.
struct Portable {
    stream: Detached,
    server: Server,
    settings: Arc<Settings>,
    taught: Taught,
    expires: u64,
    is_standby: bool,
}

fn slot(class: Class) -> usize {
    match class {
        Class::Primary => 0,
        Class::Replica => 1,
    }
}

impl Core {
    /// After somebody began to wait: tells the pool's other threads if nothing more can be opened here.
    pub(super) fn cry(&self, pool: &PgPool) {
        if pool.shared.homes.len() < 2 {
            return;
        }
        for class in [Class::Primary, Class::Replica] {
            let bit = 1 << (self.id % usize::BITS as usize);
            let Some(starving) = pool.shared.starving.get(slot(class)) else { continue };
            if !pool.state.borrow().is_starving(class) {
                if starving.load(Ordering::Relaxed) & bit != 0 {
                    starving.fetch_and(!bit, Ordering::Relaxed);
                }
                continue;
            }
            if starving.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                continue;
            }
            // Idle connections elsewhere would not come back on their own.
            for (home, _) in pool.shared.homes.iter().filter(|(home, _)| *home != self.id) {
                let key = pool.shared.key.clone();
                if let Some(worker) = self.shared.workers().get(*home) {
                    worker.post(move |core| core.lend_idle(&key, class));
                }
            }
        }
    }

    /// A connection is free here: true if it was wanted more elsewhere and has gone.
    pub(super) fn give_to_starving(self: &Rc<Self>, pool: &Rc<PgPool>, backend: Box<Backend>) -> Option<Box<Backend>> {
        let class = match self.class_of(pool, backend.entry.node) {
            Some(class) => class,
            None => return Some(backend),
        };
        let own = 1 << (self.id % usize::BITS as usize);
        let starving = pool.shared.starving.get(slot(class)).map_or(0, |s| s.load(Ordering::Relaxed)) & !own;
        if starving == 0 {
            return Some(backend);
        }
        {
            let state = pool.state.borrow();
            let counts = state.node_counts(backend.entry.node);
            let share = pool.config.borrow().settings.size.div_ceil(pool.shared.homes.len());
            let has_more = counts.idle + counts.busy > share;
            if state.is_wanted(class) && !has_more {
                return Some(backend);
            }
        }
        let Some((to, _)) = pool.shared.homes.iter().find(|(home, _)| starving & (1 << (home % 64)) != 0) else {
            return Some(backend);
        };
        // Counted out here and in there; the permit goes with the connection.
        pool.state.borrow_mut().left_for_sibling(backend.entry.node);
        self.send_over(pool, backend, *to);
        None
    }

    /// Somebody waits on another thread: what is idle here can help at once.
    fn lend_idle(self: &Rc<Self>, key: &PoolKey, class: Class) {
        let Some(pool) = self.pools.borrow().get(key).cloned() else { return };
        let own = 1 << (self.id % usize::BITS as usize);
        let starving = pool.shared.starving.get(slot(class)).map_or(0, |s| s.load(Ordering::Relaxed)) & !own;
        let Some((to, _)) = pool.shared.homes.iter().find(|(home, _)| starving & (1 << (home % 64)) != 0) else {
            return;
        };
        let idle = pool.state.borrow_mut().give_away(class);
        if let Some(backend) = idle {
            self.send_over(&pool, backend, *to);
        }
    }

    fn send_over(&self, pool: &PgPool, backend: Box<Backend>, to: usize) {
        self.servers.borrow_mut().remove(&backend.entry.id);
        let backend = *backend;
        let (node, permits) = (backend.entry.node, pool.state.borrow().permits(backend.entry.node));
        let give_up = move || {
            if let Some(permits) = permits {
                permits.fetch_sub(1, Ordering::Relaxed);
            }
        };
        let (Ok(stream), Ok(entry)) = (backend.stream.detach(), Rc::try_unwrap(backend.entry)) else {
            tracing::debug!(node, "a connection could not change its thread");
            return give_up();
        };
        let portable = Portable {
            stream,
            server: entry,
            settings: backend.settings,
            taught: backend.taught,
            expires: backend.expires,
            is_standby: backend.is_standby,
        };
        let key = pool.shared.key.clone();
        pool.stats.handed_over.update(|n| n + 1);
        match self.shared.workers().get(to) {
            Some(worker) => worker.post(move |core| core.take_over(&key, portable, give_up)),
            None => give_up(),
        }
    }

    fn take_over(self: &Rc<Self>, key: &PoolKey, portable: Portable, give_up: impl FnOnce()) {
        let pool = self.pools.borrow().get(key).cloned();
        let (Some(pool), Ok(stream)) = (pool, portable.stream.attach()) else { return give_up() };
        if !self.is_in_place(&pool, portable.server.node, &portable.server.target) {
            return give_up();
        }
        let entry = Rc::new(portable.server);
        entry.state.set(ServerState::Idle);
        self.servers.borrow_mut().insert(entry.id, Rc::clone(&entry));
        let backend = Box::new(Backend {
            stream: Line::new(stream, &entry),
            entry,
            track: Default::default(),
            out: Vec::new(),
            partial: Vec::new(),
            left: 0,
            settings: portable.settings,
            taught: portable.taught,
            unnamed_of: 0,
            retained: Vec::new(),
            expires: portable.expires,
            is_standby: portable.is_standby,
            is_dirty: false,
            instead: None,
            asked: Default::default(),
        });
        let put = pool.state.borrow_mut().adopt(backend, now_ns());
        if let Put::Close(backend) = put {
            self.forget(&backend);
        }
        self.cry(&pool);
    }
}
