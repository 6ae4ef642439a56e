//! Server connections whose node is not what it was when they were made.
//!
//! A connection knows its node by the place in the cluster, and a reload may give that place to another server. Each
//! new picture of the nodes is therefore held against every connection before a pool acts on it.
//!
//! Whom a connection serves may go on with it until it comes back, unless the node is detached or another primary takes
//! its place: that is at once.

use std::rc::Rc;

use super::cancel;
use super::core::Core;
use super::pool::PgPool;
use super::registry::Server;
use crate::net::Target;
use crate::pool::Stale;
use crate::topology::{NodeView, State};

impl Core {
    /// Looks at every connection of this thread. Those to a server that is no longer at their place serve nobody else,
    /// those to a detached node are taken away from their clients.
    pub(super) fn review_servers(self: &Rc<Self>) {
        let servers: Vec<Rc<Server>> = self.servers.borrow().values().cloned().collect();
        let mut pools: Vec<Rc<PgPool>> = Vec::new();
        for server in servers {
            let Some(pool) = self.pool_of(&server) else { continue };
            // Made for reads on a replica that has been promoted since: from now on it carries writes.
            if server.primary_of.get().is_none() {
                server.primary_of.set(self.epoch_led_by(&pool, server.node));
            }
            let is_superseded = self.is_superseded(&pool, &server);
            if is_superseded || self.state_of(&pool, &server) == Some(State::Detached) {
                self.cut(&server);
            }
            if !is_superseded && self.is_in_place(&pool, server.node, &server.target)
                || server.close_needed.replace(true)
            {
                continue;
            }
            if !pools.iter().any(|known| Rc::ptr_eq(known, &pool)) {
                pools.push(pool);
            }
        }
        for pool in pools {
            let is_over = |needed: bool| if needed { Stale::Yes } else { Stale::No };
            let closed = pool.state.borrow_mut().take_stale(|backend, _| is_over(backend.entry.close_needed.get()));
            closed.iter().for_each(|backend| self.forget(backend));
        }
    }

    /// Takes a connection away from the client that it serves, and cancels what it runs. One that serves nobody is
    /// closed as its pool wants it.
    fn cut(self: &Rc<Self>, server: &Rc<Server>) {
        if let Some(client) = self.clients.borrow().get(&server.client.get())
            && !server.is_cut.replace(true)
        {
            server.is_guarded.set(true);
            cancel::send(self, server, None);
            client.call();
        }
    }

    /// The epoch, if the node is its primary.
    pub(super) fn epoch_led_by(&self, pool: &PgPool, node: usize) -> Option<u64> {
        self.view(pool).filter(|view| view.primary == Some(node)).map(|view| view.epoch)
    }

    /// It led to a primary that is none any more: what it still acknowledges would be lost.
    pub(super) fn is_superseded(&self, pool: &PgPool, server: &Server) -> bool {
        let Some(view) = self.view(pool) else { return false };
        server.primary_of.get().is_some_and(|epoch| epoch <= view.cut_epoch) && view.primary != Some(server.node)
    }

    /// Connections of this thread to a node that have a client's work.
    pub fn busy_on(&self, host: &str, port: u16) -> usize {
        let pools = self.pools.borrow();
        let of_pool = |pool: &Rc<PgPool>| {
            let Some(view) = self.view(pool) else { return 0 };
            let at = view.nodes.iter().position(|node| node.host == host && node.port == port);
            at.map_or(0, |node| pool.state.borrow().node_counts(node).busy)
        };
        pools.values().map(of_pool).sum()
    }

    fn state_of(&self, pool: &PgPool, server: &Server) -> Option<State> {
        let view = self.view(pool)?;
        view.nodes.get(server.node).filter(|node| is_at(node, &server.target)).map(|node| node.state)
    }

    /// True if `target` is the server at place `node` of the pool's cluster.
    pub(super) fn is_in_place(&self, pool: &PgPool, node: usize, target: &Target) -> bool {
        self.view(pool).is_some_and(|view| view.nodes.get(node).is_some_and(|node| is_at(node, target)))
    }
}

fn is_at(node: &NodeView, target: &Target) -> bool {
    node.host == target.host && node.port == target.port
}
