//! The Redis protocol, RESP2 and RESP3, as bytes: where requests and replies begin and end.
//!
//! Relayed bytes are cut here and nowhere else. The scanners keep their place when a message is incomplete and never
//! look at the same bytes of a value twice; no nesting makes them deeper. See <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod build;
pub mod command;
mod inline;
mod number;
mod reply;
mod request;
mod words;

pub use build::Version;
pub use inline::{Unbalanced, encode, split};
pub use number::parse as integer;
pub use reply::{BadReply, ReplyScan, Scanned};
pub use request::{Bounds, Found, ProtocolError, Request, RequestScan, Span};
pub use words::{Words, announced_words, words};

/// Longest line of a header, a number, or an inline command, bytes: as in Redis (`PROTO_INLINE_MAX_SIZE`).
pub const LONGEST_LINE: usize = 64 * 1024;
