//! Sockets: what every connection of ours has in common, whatever protocol it speaks.

pub mod aside;
pub mod certificate;
pub mod credentials;
mod dial;
mod end_point;
mod io;
mod listener;
mod stream;
pub mod tls;

pub use dial::{Target, dial, dial_encrypted, name_of};
pub use end_point::end_point;
pub use listener::{Accepted, Listener, bind};
pub use stream::{Detached, DetachedTcp, Endpoint, Stream, Tcp};
