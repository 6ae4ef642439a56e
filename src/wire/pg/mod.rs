//! PostgreSQL's frontend/backend protocol, 3.0 and 3.2.
//!
//! Everything here is a function from bytes to values or back. Bytes from outside never panic: each module parses with
//! slice patterns and `get`, and the lints below hold it to that. Relayed traffic only meets `frame` and, for the few
//! messages that must be understood, `message`; the rest serves logins, the console and errors.
//! Source: PostgreSQL's documentation, chapter "Frontend/Backend Protocol".

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod auth;
pub mod body;
pub mod build;
pub mod cancel_key;
pub mod frame;
pub mod md5;
pub mod message;
pub mod options;
pub mod rewrite;
pub mod scram;
pub mod sqlstate;
pub mod startup;

pub use body::Malformed;
pub use frame::{BadFrame, Frame, Frames, Head};
pub use sqlstate::{Severity, ToClient};
