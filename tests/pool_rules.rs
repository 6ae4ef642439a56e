//! The rules between idle connections, waiting clients and nodes, without sockets or a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use forebay::pool::{Choice, Class, Limits, NodeClass, Pool, Pooled, Put, Take, Waiter};
use proptest::prelude::*;

#[derive(Debug, PartialEq)]
struct Conn {
    node: usize,
    id: u32,
}

impl Pooled for Conn {
    fn node(&self) -> usize {
        self.node
    }
}

fn limits(size: usize) -> Limits {
    Limits { size, min_size: 0, reserve_size: 0, reserve_after: 0, queue_length: usize::MAX, homes: 1 }
}

/// A pool with a primary (node 0) and `replicas`.
fn pool(size: usize, replicas: usize) -> Pool<Conn> {
    let mut pool = Pool::new(limits(size));
    for node in 0..=replicas {
        let class = if node == 0 { NodeClass::Primary } else { NodeClass::Replica };
        pool.set_node(node, class, 1, &Arc::new(AtomicUsize::new(0)));
    }
    pool
}

fn open(pool: &mut Pool<Conn>, id: u32) {
    let node = pool.to_open(0).expect("a connection is wanted");
    pool.opened(Conn { node, id }, 0);
}

fn served(waiter: &Waiter<Conn>) -> Option<Conn> {
    match waiter.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(conn)) => Some(conn),
        _ => None,
    }
}

#[test]
fn a_freed_connection_goes_to_the_longest_waiter() {
    let mut pool = pool(1, 0);
    let first = pool.enqueue(Class::Primary, 1).unwrap();
    open(&mut pool, 7);
    let conn = served(&first).expect("the new connection serves who waits");
    let waiters: Vec<_> = (2..6).map(|now| pool.enqueue(Class::Primary, now).unwrap()).collect();
    assert_eq!(pool.to_open(9), None, "the pool is at its size");
    let mut conn = conn;
    for waiter in &waiters {
        assert!(matches!(pool.put(conn, 9), Put::Handed));
        conn = served(waiter).expect("strictly in order of arrival");
    }
    assert!(matches!(pool.put(conn, 9), Put::Idle));
}

#[test]
fn who_leaves_the_queue_is_passed_over_and_costs_no_connection() {
    let mut pool = pool(1, 0);
    let first = pool.enqueue(Class::Primary, 1).unwrap();
    open(&mut pool, 1);
    let conn = served(&first).unwrap();
    let gone = pool.enqueue(Class::Primary, 2).unwrap();
    let last = pool.enqueue(Class::Primary, 3).unwrap();
    assert!(gone.leave().is_none());
    assert_eq!(pool.counts().waiting, 1);
    pool.put(conn, 4);
    assert!(served(&last).is_some());
}

#[test]
fn a_full_queue_refuses() {
    let mut pool = pool(1, 0);
    pool.set_limits(Limits { queue_length: 2, ..limits(1) });
    let _a = pool.enqueue(Class::Primary, 1).unwrap();
    let _b = pool.enqueue(Class::Primary, 1).unwrap();
    assert!(pool.enqueue(Class::Primary, 1).is_none());
}

#[test]
fn reads_wait_for_the_primary_when_the_last_replica_is_gone_in_order_of_arrival() {
    let mut pool = pool(1, 1);
    let write = pool.enqueue(Class::Primary, 1).unwrap();
    let read = pool.enqueue(Class::Replica, 2).unwrap();
    let later = pool.enqueue(Class::Primary, 3).unwrap();
    pool.set_node(1, NodeClass::Unfit, 1, &Arc::default());
    pool.settle(4);
    open(&mut pool, 1);
    let mut conn = served(&write).expect("first come");
    for waiter in [&read, &later] {
        pool.put(conn, 5);
        conn = served(waiter).expect("then in order, reads among them");
    }
}

#[test]
fn a_paused_pool_serves_nobody_and_a_resumed_one_serves_all() {
    let mut pool = pool(1, 0);
    let first = pool.enqueue(Class::Primary, 1).unwrap();
    open(&mut pool, 1);
    let conn = served(&first).unwrap();
    pool.set_paused(true, 2);
    let waiter = pool.enqueue(Class::Primary, 3).unwrap();
    pool.put(conn, 4);
    assert!(served(&waiter).is_none());
    assert!(matches!(pool.take(Class::Primary, Choice::LeastConnections), Take::Wait));
    pool.set_paused(false, 5);
    assert!(served(&waiter).is_some());
}

#[test]
fn weights_share_the_reads() {
    let mut pool: Pool<Conn> = Pool::new(limits(10));
    for (node, weight) in [(0, 1), (1, 1), (2, 3)] {
        let class = if node == 0 { NodeClass::Primary } else { NodeClass::Replica };
        pool.set_node(node, class, weight, &Arc::default());
    }
    for node in [1, 2] {
        pool.start(node);
        pool.opened(Conn { node, id: 0 }, 0);
    }
    let mut counts = [0; 3];
    for _ in 0..400 {
        let Take::Connection(conn) = pool.take(Class::Replica, Choice::RoundRobin) else { panic!("idle connections") };
        counts[conn.node] += 1;
        pool.put(conn, 0);
    }
    assert!((295..=305).contains(&counts[2]), "three of four reads go to the node of weight 3: {counts:?}");
}

proptest! {
    /// Whatever happens in whatever order, connections are neither lost nor counted twice, and nobody waits while a
    /// connection of his class is idle.
    #[test]
    fn connections_are_conserved(steps in proptest::collection::vec(0u8..6, 1..200)) {
        let permits = Arc::new(AtomicUsize::new(0));
        let mut pool: Pool<Conn> = Pool::new(limits(3));
        pool.set_node(0, NodeClass::Primary, 1, &permits);
        let (mut held, mut waiters, mut opening, mut now) = (Vec::new(), Vec::new(), 0u32, 0);
        for step in steps {
            now += 1;
            match step {
                0 => match pool.take(Class::Primary, Choice::LeastConnections) {
                    Take::Connection(conn) => held.push(conn),
                    Take::Wait => waiters.extend(pool.enqueue(Class::Primary, now)),
                },
                1 => if pool.to_open(now).is_some() { opening += 1 },
                2 => if opening > 0 { opening -= 1; pool.opened(Conn { node: 0, id: now as u32 }, now); },
                3 => if opening > 0 { opening -= 1; pool.open_failed(0, now); },
                4 => if let Some(conn) = held.pop() { pool.put(conn, now); },
                _ => if held.pop().is_some() { pool.closed(0); },
            }
            waiters.retain(|w| match served(w) {
                Some(conn) => { held.push(conn); false }
                None => true,
            });
            let counts = pool.counts();
            prop_assert_eq!(counts.servers.busy, held.len());
            prop_assert_eq!(counts.servers.opening, opening as usize);
            prop_assert_eq!(counts.waiting, waiters.len());
            let all = counts.servers.busy + counts.servers.idle + counts.servers.opening;
            prop_assert_eq!(permits.load(Ordering::Relaxed), all);
            prop_assert!(all <= 3, "never more than the size");
            prop_assert!(counts.servers.idle == 0 || waiters.is_empty(), "nobody waits beside an idle connection");
        }
    }
}
