//! One pool of server connections on one thread: idle connections by node, waiting clients, and the rules between
//! them. Knows no protocol and no clock: the connection is a type parameter, time is an argument.

mod backoff;
mod state;
mod waiter;

pub use backoff::Backoff;
pub use state::{Choice, Limits, NodeClass, Pool, PoolCounts, Pooled, Put, SlotsCounts, Stale, Take};
pub use waiter::{Class, Refusal, Waiter};
