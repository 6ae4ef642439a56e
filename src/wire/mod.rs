//! The protocols as bytes: pure parsing and writing, without sockets, clocks or allocation on the hot path.

pub mod ldap;
pub mod pg;
pub mod proxy;
pub mod resp;
