//! What is known about the Redis nodes: which one takes writes, which replicas may be read, how far each has come.
//!
//! Rules that the rest of the program may rely on:
//! - [`ServiceView::primary`] is `Some` only while that node is up, says that it is the primary, and nothing (a
//!   Sentinel, another node, an admin) has cast a doubt on it. Writes wait while it is `None`.
//! - A node that says that it is the primary and is not [`ServiceView::primary`] is fenced: it gets no traffic at all.
//! - An epoch belongs to one accepted primary; it only grows while the process lives.
//!
//! [`RedisMonitor`] asks nodes and Sentinels, the pure [`plan`] decides, immutable [`RedisSnapshot`]s tell.

pub mod address;
mod answer;
mod link;
mod model;
pub mod monitor;
mod node;
pub mod plan;
mod sentinel;
mod service;
pub mod sign;
mod switchover;

pub use address::Address;
pub use model::{HoldWrites, Planned, RedisNode, RedisSnapshot, ServiceView};
pub use monitor::{RedisMonitor, RedisMonitorHandle};
pub use node::Settings;
pub use service::{Insight, SentinelSeen};
