//! Changing the primary ourselves: after a failure (`failover.mode = "promote"`) or because an admin wants it.
//!
//! What is decided is on disk before it is done ([`record`]), what is to be done next follows from that record and from
//! what the nodes say now ([`course`]), and every step may be done twice. So a process that is killed at any point goes
//! on where it was. [`conductor`] carries it out, with one [`agent`] a node.

pub(super) mod agent;
pub(super) mod conductor;
pub mod conninfo;
pub mod course;
pub(super) mod demote;
pub(super) mod detector;
pub mod doubt;
pub(super) mod heart;
pub mod hooks;
pub(super) mod led;
pub mod managers;
pub mod record;
mod resolving;
pub(super) mod settler;
pub(super) mod slots;
pub mod synchronous;
mod telling;
