//! Redis: sessions of clients, the connections that they share, and what each command needs.
//!
//! Many clients share few pipelined connections, the lanes ([`lane`]): a client's task ([`session`]) cuts its bytes
//! into requests and appends them to a lane; the lane's task writes what a turn of the event loop has gathered, and
//! hands the replies to the clients' sockets. State that cannot be shared (WATCH, blocking, subscriptions) has a
//! connection of its own ([`own`]) for as long as it lasts. [`service`] knows the nodes and who has to wait.
//!
//! The order of one client's requests is kept: it has requests on one connection at a time, and changes to another
//! one only when all of them are answered.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod accept;
mod blocking;
mod client;
mod clients;
mod connect;
pub mod core;
mod errors;
mod expects;
mod hello;
mod lane;
mod login;
mod own;
mod own_replies;
mod place;
mod replicas;
pub mod report;
mod request;
mod service;
mod session;
pub mod shared;
mod stream;
mod subscriptions;
#[cfg(test)]
mod testing;
mod transaction;
pub mod travel;
mod unblock;
pub mod usage;
mod verbs;

pub use core::Core;
pub use service::Service;
pub use shared::{Control, Shared};
