//! The pool itself: idle, busy and opening connections by node, and two queues (for the primary, for any replica).
//!
//! Invariant: nobody waits in a queue while an idle connection of its class exists, unless the pool is paused. Every
//! connection is counted in exactly one of `idle`, `busy` and `opening` of its node, and holds one permit of the
//! node's budget, which is shared with this pool's siblings on other threads.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::waiter::Live;
use super::{Backoff, Class, Refusal, Waiter};

/// Waiters kept to be used again.
const SPARE: usize = 64;

/// Who waits for longer, ns, looks whether its client is still there.
const LOOKS_AFTER: u64 = 50_000_000;

/// What bounds a pool. Sizes are per node and over all threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections to one node.
    pub size: usize,
    /// Kept open to the primary.
    pub min_size: usize,
    /// On top of `size` once somebody has waited `reserve_after`.
    pub reserve_size: usize,
    /// ns
    pub reserve_after: u64,
    /// Waiting clients; more are refused.
    pub queue_length: usize,
    /// Threads that this pool is spread over: this thread opens its share first.
    pub homes: usize,
}

/// What a node may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeClass {
    /// Writes, and reads when no replica is fit.
    Primary,
    /// Reads.
    Replica,
    /// Nothing: down, lagging, detached or of doubtful role. Its connections are closed when they come back.
    Unfit,
}

/// How one of several replicas is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Fewest busy connections in proportion to the weight.
    LeastConnections,
    /// In turn, in proportion to the weight.
    RoundRobin,
    /// By this number: chance, or a hash of the client's address.
    Number(u64),
}

/// Answer of [`Pool::take`].
#[derive(Debug)]
pub enum Take<C> {
    /// Use it; give it back with [`Pool::put`] or [`Pool::closed`].
    Connection(C),
    /// Nothing idle: [`Pool::enqueue`].
    Wait,
}

/// Answer of [`Pool::put`].
#[derive(Debug)]
pub enum Put<C> {
    /// The longest waiter has it.
    Handed,
    /// It is idle.
    Idle,
    /// Not wanted any more: close it.
    Close(C),
}

/// Anything that waits in a pool: it must know its node.
pub trait Pooled {
    /// Index of the node in the pool's list.
    fn node(&self) -> usize;
}

#[derive(Debug)]
struct Slots<C> {
    class: NodeClass,
    weight: u32,
    idle: Vec<(C, u64)>,
    busy: usize,
    opening: usize,
    served: u64,
    backoff: Backoff,
    permits: Arc<AtomicUsize>,
}

/// Connections of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct SlotsCounts {
    pub idle: usize,
    pub busy: usize,
    pub opening: usize,
}

impl SlotsCounts {
    /// Connections in any state.
    pub fn total(&self) -> usize {
        self.idle + self.busy + self.opening
    }
}

/// Figures of a pool for the console.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Over all nodes.
    pub servers: SlotsCounts,
    /// Clients in the queue.
    pub waiting: usize,
    /// When the longest of them began to wait, ns; `None` if nobody waits.
    pub oldest: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Pool<C> {
    limits: Limits,
    nodes: Vec<Slots<C>>,
    queues: [VecDeque<Rc<Waiter<C>>>; 2],
    live: Rc<Live>,
    /// Waiters that are over, to be used again.
    spare: Vec<Rc<Waiter<C>>>,
    arrivals: u64,
    turn: u64,
    paused: bool,
}

impl<C: Pooled> Pool<C> {
    /// A pool without nodes; see [`Pool::set_node`].
    pub fn new(limits: Limits) -> Self {
        Pool {
            limits,
            nodes: Vec::new(),
            queues: Default::default(),
            live: Rc::default(),
            spare: Vec::new(),
            arrivals: 0,
            turn: 0,
            paused: false,
        }
    }

    /// New limits; connections above them are closed as they come back.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds node `index`, or changes what it is used for. Returns idle connections that must be closed.
    /// `permits` counts the connections to this node over all threads.
    pub fn set_node(&mut self, index: usize, class: NodeClass, weight: u32, permits: &Arc<AtomicUsize>) -> Vec<C> {
        while self.nodes.len() <= index {
            self.nodes.push(Slots {
                class: NodeClass::Unfit,
                weight: 0,
                idle: Vec::new(),
                busy: 0,
                opening: 0,
                served: 0,
                backoff: Backoff::default(),
                permits: Arc::clone(permits),
            });
        }
        let Some(slots) = self.nodes.get_mut(index) else { return Vec::new() };
        slots.weight = weight;
        if slots.class == class {
            return Vec::new();
        }
        slots.class = class;
        slots.backoff.reset();
        let unused = if class == NodeClass::Unfit { self.close_idle(index) } else { Vec::new() };
        self.nodes.iter_mut().for_each(|n| n.served = 0);
        unused
    }

    /// Call after the last [`Pool::set_node`] of a change: reads wait for the primary while no replica is fit (and for
    /// whatever comes first while nothing is known), and idle connections that changed their class serve who waits.
    pub fn settle(&mut self, now: u64) {
        let [primary, replica] = &mut self.queues;
        let (from, to, class) = if self.nodes.iter().any(|n| n.class == NodeClass::Replica && n.weight > 0) {
            (primary, replica, Class::Replica)
        } else if self.nodes.iter().any(|n| n.class == NodeClass::Primary) {
            (replica, primary, Class::Primary)
        } else {
            return;
        };
        let (stay, go): (VecDeque<_>, VecDeque<_>) = from.drain(..).partition(|w| w.wish != Class::Replica);
        *from = stay;
        if !go.is_empty() {
            go.iter().for_each(|w| w.set_class(class));
            to.extend(go);
            to.make_contiguous().sort_by_key(|w| w.order);
        }
        self.serve_idle(now);
    }

    /// Wakes those who wait at `now` and have something to look at: their limit (`limit` ns) or their notice (after
    /// `notice` ns) is due, or they have waited for a while without looking at their client.
    pub fn call_waiting(&self, now: u64, limit: Option<u64>, notice: Option<u64>) {
        for waiter in self.queues.iter().flatten().filter(|w| w.is_waiting()) {
            let waited = now.saturating_sub(waiter.since);
            let is_due = limit.is_some_and(|limit| waited >= limit)
                || notice.is_some_and(|notice| waited >= notice && !waiter.is_noticed());
            if is_due || waited >= LOOKS_AFTER && !waiter.is_called() {
                waiter.call();
            }
        }
    }

    /// Takes an idle connection: the one that was used last, of the node that `choice` prefers.
    #[inline]
    pub fn take(&mut self, class: Class, choice: Choice) -> Take<C> {
        self.take_of(class, choice, 0)
    }

    /// As [`Pool::take`], of the replicas whose bits are set; 0 for any.
    #[inline]
    pub fn take_among(&mut self, nodes: u64, choice: Choice) -> Take<C> {
        self.take_of(Class::Replica, choice, nodes)
    }

    /// True if one of the replicas whose bits are set can serve at once.
    pub fn has_idle_among(&self, nodes: u64) -> bool {
        let serves = |n: &Slots<C>| n.class == NodeClass::Replica && n.weight > 0 && !n.idle.is_empty();
        self.nodes.iter().enumerate().any(|(place, n)| has_bit(nodes, place) && serves(n))
    }

    #[inline]
    fn take_of(&mut self, class: Class, choice: Choice, among: u64) -> Take<C> {
        if self.paused {
            return Take::Wait;
        }
        let Some(node) = self.choose(class, choice, among) else { return Take::Wait };
        let Some(slots) = self.nodes.get_mut(node) else { return Take::Wait };
        match slots.idle.pop() {
            Some((conn, _)) => {
                slots.busy += 1;
                slots.served += 1;
                Take::Connection(conn)
            }
            None => Take::Wait,
        }
    }

    /// Takes an idle connection of exactly this node.
    pub fn take_from(&mut self, node: usize) -> Take<C> {
        let Some(slots) = self.nodes.get_mut(node).filter(|_| !self.paused) else { return Take::Wait };
        let Some((conn, _)) = slots.idle.pop() else { return Take::Wait };
        slots.busy += 1;
        slots.served += 1;
        Take::Connection(conn)
    }

    /// The node for one request, `None` if none of the class can take it at once. A replica without an idle
    /// connection is passed over for one that has one, but is given one to open by [`Pool::to_open`].
    fn choose(&mut self, class: Class, choice: Choice, among: u64) -> Option<usize> {
        match class {
            Class::Primary => self.nodes.iter().position(|n| n.class == NodeClass::Primary && !n.idle.is_empty()),
            Class::Replica => {
                self.turn = self.turn.wrapping_add(1);
                let fit = |place: usize, n: &Slots<C>| {
                    n.class == NodeClass::Replica && n.weight > 0 && (among == 0 || has_bit(among, place))
                };
                let best = pick(&self.nodes, choice, fit)?;
                if self.nodes.get(best).is_some_and(|n| !n.idle.is_empty()) {
                    return Some(best);
                }
                pick(&self.nodes, choice, |place, n| fit(place, n) && !n.idle.is_empty())
            }
        }
    }

    /// True when [`Pool::take`] passed over a replica that should have served: it wants a connection of its own.
    pub fn wants_spread(&self, choice: Choice, now: u64) -> Option<usize> {
        let best = pick(&self.nodes, choice, |_, n| n.class == NodeClass::Replica && n.weight > 0)?;
        let slots = self.nodes.get(best)?;
        (slots.idle.is_empty() && slots.opening == 0 && slots.backoff.is_over(now) && self.has_room(slots, now))
            .then_some(best)
    }

    /// Joins the queue; `None` when it is full.
    pub fn enqueue(&mut self, class: Class, now: u64) -> Option<Rc<Waiter<C>>> {
        let wish = class;
        let class = match wish {
            Class::Replica if !self.has_replicas() && self.has_primary() => Class::Primary,
            other => other,
        };
        self.queues.iter_mut().for_each(forget_leavers);
        if self.waiting() >= self.limits.queue_length {
            return None;
        }
        self.arrivals += 1;
        let waiter = Waiter::new(wish, class, now, self.arrivals, Rc::clone(&self.live));
        let waiter = match self.spare.pop() {
            Some(mut spare) => match Rc::get_mut(&mut spare) {
                Some(place) => {
                    *place = waiter;
                    spare
                }
                None => Rc::new(waiter),
            },
            None => Rc::new(waiter),
        };
        self.queue(class).push_back(Rc::clone(&waiter));
        Some(waiter)
    }

    /// Takes back a waiter whose wait is over, so that the next one costs no allocation.
    pub fn recycle(&mut self, waiter: Rc<Waiter<C>>) {
        if self.spare.len() < SPARE && Rc::strong_count(&waiter) == 1 {
            self.spare.push(waiter);
        }
    }

    /// True if nothing more can be opened for `class` now, whoever waits.
    pub fn is_full(&self, class: Class) -> bool {
        let most = self.limits.size + self.limits.reserve_size;
        self.of_class(class).all(|n| n.permits.load(Ordering::Relaxed) >= most)
    }

    /// Gives a connection back after use: to the longest waiter if there is one.
    #[inline]
    pub fn put(&mut self, conn: C, now: u64) -> Put<C> {
        let Some(slots) = self.nodes.get_mut(conn.node()) else { return Put::Close(conn) };
        let over = slots.permits.load(Ordering::Relaxed) > self.limits.size + self.limits.reserve_size;
        let class = match slots.class {
            NodeClass::Primary => Class::Primary,
            NodeClass::Replica => Class::Replica,
            NodeClass::Unfit => return self.drop_busy(conn),
        };
        if over {
            return self.drop_busy(conn);
        }
        if self.live.of(class).get() > 0
            && !self.paused
            && let Some(waiter) = self.next_waiter(class)
        {
            if let Some(slots) = self.nodes.get_mut(conn.node()) {
                slots.served += 1;
            }
            waiter.grant(Ok(conn));
            return Put::Handed;
        }
        if let Some(slots) = self.nodes.get_mut(conn.node()) {
            slots.busy -= 1;
            slots.idle.push((conn, now));
        }
        Put::Idle
    }

    fn drop_busy(&mut self, conn: C) -> Put<C> {
        self.closed(conn.node());
        Put::Close(conn)
    }

    /// A busy connection was closed.
    pub fn closed(&mut self, node: usize) {
        if let Some(slots) = self.nodes.get_mut(node) {
            slots.busy -= 1;
            slots.permits.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The node to open a connection to now, if one is wanted and allowed. The caller reports back with
    /// [`Pool::opened`] or [`Pool::open_failed`], and calls again until `None`.
    pub fn to_open(&mut self, now: u64) -> Option<usize> {
        for class in [Class::Primary, Class::Replica] {
            let waiting = self.live.of(class).get();
            let opening: usize = self.of_class(class).map(|n| n.opening).sum();
            if waiting > opening
                && !self.paused
                && let Some(node) = self.emptiest(class, now)
            {
                return self.start(node);
            }
        }
        let short =
            |n: &Slots<C>| n.idle.len() + n.busy + n.opening < self.limits.min_size.div_ceil(self.limits.homes.max(1));
        let node =
            self.nodes.iter().position(|n| n.class == NodeClass::Primary && short(n) && self.may_open(n, now))?;
        if self.paused { None } else { self.start(node) }
    }

    /// Opens one to `node` although nobody waits for it (see [`Pool::wants_spread`]).
    pub fn start(&mut self, node: usize) -> Option<usize> {
        let slots = self.nodes.get_mut(node)?;
        slots.opening += 1;
        slots.permits.fetch_add(1, Ordering::Relaxed);
        Some(node)
    }

    fn emptiest(&self, class: Class, now: u64) -> Option<usize> {
        let wanted = match class {
            Class::Primary => NodeClass::Primary,
            Class::Replica => NodeClass::Replica,
        };
        self.nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| n.class == wanted && self.may_open(n, now))
            .min_by_key(|(_, n)| n.busy + n.opening + n.idle.len())
            .map(|(i, _)| i)
    }

    fn may_open(&self, slots: &Slots<C>, now: u64) -> bool {
        slots.backoff.is_over(now)
            && (!slots.backoff.is_in_trouble() || slots.opening == 0)
            && self.has_room(slots, now)
    }

    fn has_room(&self, slots: &Slots<C>, now: u64) -> bool {
        let reserve = match self.oldest() {
            Some(since) if now.saturating_sub(since) >= self.limits.reserve_after => self.limits.reserve_size,
            _ => 0,
        };
        slots.permits.load(Ordering::Relaxed) < self.limits.size + reserve
    }

    /// A connection asked for by [`Pool::to_open`] is there: it serves the longest waiter or becomes idle.
    pub fn opened(&mut self, conn: C, now: u64) -> Put<C> {
        if let Some(slots) = self.nodes.get_mut(conn.node()) {
            slots.opening -= 1;
            slots.busy += 1;
            slots.backoff.reset();
        }
        self.put(conn, now)
    }

    /// A connection asked for by [`Pool::to_open`] could not be made.
    pub fn open_failed(&mut self, node: usize, now: u64) {
        if let Some(slots) = self.nodes.get_mut(node) {
            slots.opening -= 1;
            slots.permits.fetch_sub(1, Ordering::Relaxed);
            slots.backoff.fail(now);
        }
    }

    /// A connection that another thread hands over joins this pool with its permit.
    pub fn adopt(&mut self, conn: C, now: u64) -> Put<C> {
        if let Some(slots) = self.nodes.get_mut(conn.node()) {
            slots.busy += 1;
        }
        self.put(conn, now)
    }

    /// An idle connection leaves for another thread and keeps its permit. `None` if somebody here needs it.
    pub fn give_away(&mut self, class: Class) -> Option<C> {
        if self.paused || self.live.of(class).get() > 0 {
            return None;
        }
        let wanted = match class {
            Class::Primary => NodeClass::Primary,
            Class::Replica => NodeClass::Replica,
        };
        let slots = self.nodes.iter_mut().filter(|n| n.class == wanted).max_by_key(|n| n.idle.len())?;
        slots.idle.pop().map(|(conn, _)| conn)
    }

    /// A busy connection leaves for another thread and keeps its permit.
    pub fn left_for_sibling(&mut self, node: usize) {
        if let Some(slots) = self.nodes.get_mut(node) {
            slots.busy -= 1;
        }
    }

    /// The counter of connections to a node over all threads.
    pub fn permits(&self, node: usize) -> Option<Arc<AtomicUsize>> {
        self.nodes.get(node).map(|n| Arc::clone(&n.permits))
    }

    /// True if somebody waits for `class`.
    pub fn is_wanted(&self, class: Class) -> bool {
        self.live.of(class).get() > 0
    }

    /// Holds every request from now on / lets them go again.
    pub fn set_paused(&mut self, paused: bool, now: u64) {
        self.paused = paused;
        self.serve_idle(now);
    }

    /// True between `PAUSE` and `RESUME`.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Takes idle connections that `is_stale` names (connection, idle since), but leaves `min_size` to the primary.
    pub fn take_stale(&mut self, mut is_stale: impl FnMut(&mut C, u64) -> Stale) -> Vec<C> {
        let keep = self.limits.min_size.div_ceil(self.limits.homes.max(1));
        let mut out = Vec::new();
        for slots in &mut self.nodes {
            let floor = if slots.class == NodeClass::Primary { keep } else { 0 };
            let mut i = 0;
            while let Some((conn, since)) = slots.idle.get_mut(i) {
                let close = match is_stale(conn, *since) {
                    Stale::No => false,
                    Stale::Unused => slots.idle.len() + slots.busy > floor,
                    Stale::Yes => true,
                };
                if close {
                    out.push(slots.idle.remove(i).0);
                    slots.permits.fetch_sub(1, Ordering::Relaxed);
                } else {
                    i += 1;
                }
            }
        }
        out
    }

    /// Takes every idle connection of a node, to be closed.
    pub fn close_idle(&mut self, node: usize) -> Vec<C> {
        let Some(slots) = self.nodes.get_mut(node) else { return Vec::new() };
        slots.permits.fetch_sub(slots.idle.len(), Ordering::Relaxed);
        slots.idle.drain(..).map(|(conn, _)| conn).collect()
    }

    /// Refuses everybody who waits.
    pub fn refuse_all(&mut self, why: &Refusal) {
        for queue in &mut self.queues {
            for waiter in queue.drain(..).filter(|w| w.is_waiting()) {
                waiter.grant(Err(why.clone()));
            }
        }
    }

    /// The node is reported healthy: attempts need not wait for the back-off.
    pub fn retry_now(&mut self, node: usize) {
        if let Some(slots) = self.nodes.get_mut(node) {
            slots.backoff.reset();
        }
    }

    fn serve_idle(&mut self, now: u64) {
        for node in 0..self.nodes.len() {
            while !self.paused {
                let Some(slots) = self.nodes.get_mut(node) else { break };
                let class = match slots.class {
                    NodeClass::Primary => Class::Primary,
                    NodeClass::Replica => Class::Replica,
                    NodeClass::Unfit => break,
                };
                if slots.idle.is_empty() || self.live.of(class).get() == 0 {
                    break;
                }
                let Take::Connection(conn) = self.take_from(node) else { break };
                let _ = self.put(conn, now);
            }
        }
    }

    fn next_waiter(&mut self, class: Class) -> Option<Rc<Waiter<C>>> {
        let queue = self.queue(class);
        while let Some(waiter) = queue.pop_front() {
            if waiter.is_waiting() {
                return Some(waiter);
            }
        }
        None
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<Rc<Waiter<C>>> {
        let [primary, replica] = &mut self.queues;
        match class {
            Class::Primary => primary,
            Class::Replica => replica,
        }
    }

    fn of_class(&self, class: Class) -> impl Iterator<Item = &Slots<C>> {
        let wanted = match class {
            Class::Primary => NodeClass::Primary,
            Class::Replica => NodeClass::Replica,
        };
        self.nodes.iter().filter(move |n| n.class == wanted)
    }

    /// True if some replica may serve reads.
    pub fn has_replicas(&self) -> bool {
        self.nodes.iter().any(|n| n.class == NodeClass::Replica && n.weight > 0)
    }

    /// True if somebody waits.
    pub fn is_waited_for(&self) -> bool {
        self.waiting() > 0
    }

    /// True if some node may serve everything.
    pub fn has_primary(&self) -> bool {
        self.nodes.iter().any(|n| n.class == NodeClass::Primary)
    }

    /// True if somebody waits for `class` and nothing is being opened for it.
    pub fn is_starving(&self, class: Class) -> bool {
        self.live.of(class).get() > 0 && self.of_class(class).all(|n| n.opening == 0)
    }

    fn waiting(&self) -> usize {
        self.live.of(Class::Primary).get() + self.live.of(Class::Replica).get()
    }

    fn oldest(&self) -> Option<u64> {
        self.queues.iter().filter_map(|q| q.iter().find(|w| w.is_waiting())).map(|w| w.since).min()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// What a node may be used for.
    pub fn node_class(&self, node: usize) -> NodeClass {
        self.nodes.get(node).map_or(NodeClass::Unfit, |n| n.class)
    }

    /// Figures of one node.
    pub fn node_counts(&self, node: usize) -> SlotsCounts {
        self.nodes
            .get(node)
            .map(|n| SlotsCounts { idle: n.idle.len(), busy: n.busy, opening: n.opening })
            .unwrap_or_default()
    }

    /// Figures over all nodes.
    pub fn counts(&self) -> PoolCounts {
        let mut servers = SlotsCounts::default();
        for n in &self.nodes {
            servers.idle += n.idle.len();
            servers.busy += n.busy;
            servers.opening += n.opening;
        }
        PoolCounts { servers, waiting: self.waiting(), oldest: self.oldest() }
    }

    /// Every idle connection.
    pub fn idle(&self) -> impl Iterator<Item = &C> {
        self.nodes.iter().flat_map(|n| n.idle.iter().map(|(conn, _)| conn))
    }
}

/// Verdict of the caller of [`Pool::take_stale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Keep it.
    No,
    /// Idle for too long: close it unless `min_size` wants it.
    Unused,
    /// Broken or too old: close it.
    Yes,
}

fn forget_leavers<C>(queue: &mut VecDeque<Rc<Waiter<C>>>) {
    while queue.front().is_some_and(|w| !w.is_waiting()) {
        queue.pop_front();
    }
}

fn has_bit(nodes: u64, place: usize) -> bool {
    u32::try_from(place).ok().and_then(|place| nodes.checked_shr(place)).is_some_and(|rest| rest & 1 == 1)
}

/// The node that `choice` prefers among those that are `fit`.
fn pick<C>(nodes: &[Slots<C>], choice: Choice, fit: impl Fn(usize, &Slots<C>) -> bool) -> Option<usize> {
    let candidates = || nodes.iter().enumerate().filter(|(place, n)| fit(*place, n));
    match choice {
        Choice::LeastConnections => candidates()
            .min_by_key(|(_, n)| (scaled(n.busy as u64, n.weight), scaled(n.served, n.weight)))
            .map(|(i, _)| i),
        Choice::RoundRobin => candidates().min_by_key(|(_, n)| scaled(n.served, n.weight)).map(|(i, _)| i),
        Choice::Number(number) => {
            let total: u64 = candidates().map(|(_, n)| u64::from(n.weight)).sum();
            let mut left = number.checked_rem(total)?;
            candidates()
                .find(|(_, n)| {
                    let weight = u64::from(n.weight);
                    let here = left < weight;
                    left = left.saturating_sub(weight);
                    here
                })
                .map(|(i, _)| i)
        }
    }
}

/// `count / weight` as a fixed-point number, so that a node of weight 2 gets twice the share.
fn scaled(count: u64, weight: u32) -> u64 {
    (count << 16) / u64::from(weight.max(1))
}
