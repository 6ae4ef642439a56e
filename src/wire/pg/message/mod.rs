//! The few message bodies that Forebay opens, read in place.
//!
//! Every function takes a body (what follows the five bytes of head) and checks its whole layout, except where a part
//! is left to the server and documented so. Text is bytes: only the client and the server know its encoding.
//! Source: "Message Formats" in PostgreSQL's documentation.

mod client;
mod server;

pub use client::*;
pub use server::*;
