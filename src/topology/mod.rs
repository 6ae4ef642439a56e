//! What is known about the PostgreSQL nodes: who is primary, who is up, how far each replica has come.
//!
//! One control thread probes every node ([`probe`]), feeds what it hears to pure decisions ([`plan`], [`lag`])
//! and hands immutable [`model::Snapshot`]s to the data threads. Nothing here changes a server.
//!
//! Rules that the rest of the program may rely on:
//! - [`model::ClusterView::primary`] is `Some` only while that node is up, writable, accepted and in service.
//! - A node that accepts writes and is not the accepted primary is fenced: it gets no traffic at all.
//! - An epoch belongs to one accepted (primary, timeline); it only grows while the process lives.

pub use crate::worker::clock;
pub mod acknowledged;
mod aside;
pub mod catalog;
mod cluster;
pub mod coordination;
pub mod events;
pub mod failover;
pub mod lag;
pub mod link;
pub mod lsn;
pub mod model;
pub mod monitor;
pub mod plan;
mod probe;
pub mod redis;
mod schedule;
mod store;

pub use events::{Event, EventLog};
pub use lag::{Limits, last_record_end};
pub use lsn::Lsn;
pub use model::{ClusterView, Freshness, NodeView, Role, Snapshot, State};
pub use monitor::{Monitor, MonitorHandle};
