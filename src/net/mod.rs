//! Sockets: what every connection of ours has in common, whatever protocol it speaks.

pub mod certificate;
pub mod credentials;
mod dial;
mod listener;
mod stream;
pub mod tls;

pub use dial::{Target, dial};
pub use listener::{Accepted, Listener, bind};
pub use stream::{Detached, Endpoint, Stream};
