//! Sockets: what every connection of ours has in common, whatever protocol it speaks.

mod dial;
mod listener;
mod stream;

pub use dial::{Target, dial};
pub use listener::{Accepted, Listener, bind};
pub use stream::{Detached, Endpoint, Stream};
