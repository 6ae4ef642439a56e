//! Data threads: one per core, each with a current-thread runtime of its own, a clock and a timer wheel.
//!
//! A worker knows nothing of what runs on it: its state type is a parameter, and other threads reach it by posting
//! closures to its inbox. Nothing is shared between workers on the query path.

pub mod clock;
pub mod permit;
mod thread;
pub mod times;
mod wheel;

pub use thread::{Jobs, Remote, inbox, spawn};
pub use wheel::{Elapsed, TICK, TimerId, Wheel};
