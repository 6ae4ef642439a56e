//! Sockets: what every connection of ours has in common, whatever protocol it speaks.

pub mod aside;
pub mod certificate;
pub mod channel;
pub mod credentials;
mod dial;
mod doors;
mod end_point;
mod io;
mod listener;
mod passport;
mod stream;
pub mod tls;

pub use dial::{Target, dial, dial_encrypted, name_of};
pub use doors::Doors;
pub use end_point::end_point;
pub use listener::{Accepted, Listener, bind, bind_more};
pub use passport::{Departure, Passport};
pub use stream::{Detached, DetachedTcp, Endpoint, Stream, Tcp};
