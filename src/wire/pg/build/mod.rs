//! Writing what Forebay itself says: appended to a `Vec`, no message kept.
//!
//! Texts become C strings and end at their first NUL, so that no text can forge what follows it. Nothing here is
//! larger than a message that was received before, so that lengths fit their field.

mod client;
mod server;

pub use client::*;
pub use server::*;

use super::frame::HEAD;

/// Appends a message: its type, its length and what `body` writes.
#[inline]
fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    packet(out, body);
}

/// Appends a message without type byte, as the first packet is.
#[inline]
fn packet(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; HEAD - 1]);
    body(out);
    let length = length_field(out.len() - start);
    if let Some(field) = out.get_mut(start..).and_then(|sent| sent.first_chunk_mut::<4>()) {
        *field = length;
    }
}

/// A message of nothing but its head.
#[inline]
fn bare(out: &mut Vec<u8>, kind: u8) {
    out.extend([kind, 0, 0, 0, 4]);
}

#[inline]
fn length_field(length: usize) -> [u8; 4] {
    debug_assert!(i32::try_from(length).is_ok(), "a message of {length} bytes");
    i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes()
}

/// A count of the protocol. Lists longer than the field can tell are cut by the callers with `take`.
#[inline]
fn count(list: usize) -> [u8; 2] {
    u16::try_from(list).unwrap_or(u16::MAX).to_be_bytes()
}

#[inline]
fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(before_nul(text));
    out.push(0);
}

/// An Int32 length and the bytes.
#[inline]
fn value(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length_field(bytes.len()));
    out.extend_from_slice(bytes);
}

/// What a C string can hold of `text`.
#[inline]
pub(super) fn before_nul(text: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}
