//! PostgreSQL: logins, sessions, the relay between a client and a server, and routing.
//!
//! `accept` and `login` bring a client to its home thread; `session` is its life there: `request` finds out what it
//! wants, `forward` and `answer` move the bytes, `release` ends the use of a connection. `core` is what a thread has,
//! `shared` what all threads have.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod accept;
mod acknowledge;
mod admission;
mod answer;
pub mod backend;
pub mod cancel;
mod connect;
pub mod consoles;
mod control;
pub mod core;
pub mod doubt;
pub mod errors;
mod forward;
pub mod fresh;
mod handover;
mod ldap;
pub mod listen;
pub mod login;
mod look;
pub mod lookup;
mod memory;
pub mod orders;
pub mod pool;
mod prepare;
pub mod queries;
pub mod registry;
mod release;
mod replicate;
pub mod report;
mod request;
mod review;
pub mod route;
mod server_login;
mod session;
pub mod settings;
pub mod shared;
pub mod stats;
pub mod trace;
mod track;
pub mod travel;
mod wait;
mod watch;
mod welcome;

pub use core::Core;
pub use shared::{Control, Shared};
