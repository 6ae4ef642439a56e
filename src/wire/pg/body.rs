//! Reading a message body front to back, bounds-checked, without copying.

use std::borrow::Cow;

use super::sqlstate::{self, Severity, ToClient};

/// A message body that does not have the layout its type demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message} message: expected {expected}")]
pub struct Malformed {
    /// The protocol's name of the message.
    pub message: &'static str,
    /// What should have stood where parsing stopped.
    pub expected: &'static str,
}

impl ToClient for Malformed {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
    fn sqlstate(&self) -> &'static str {
        sqlstate::PROTOCOL_VIOLATION
    }
    fn message(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}

/// What is left of a body. Each call takes its value off the front or says what was expected there.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    message: &'static str,
    left: &'a [u8],
}

impl<'a> Body<'a> {
    /// Starts at the front of `bytes`; `message` is the name that errors carry.
    #[inline]
    pub fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Body { message, left: bytes }
    }

    /// Bytes up to a NUL, which is consumed and not returned.
    #[inline]
    pub fn cstr(&mut self, expected: &'static str) -> Result<&'a [u8], Malformed> {
        // Most names are empty, for which a call would cost more than the look.
        let end = match self.left.first() {
            Some(0) => 0,
            _ => memchr::memchr(0, self.left).ok_or(self.malformed(expected))?,
        };
        let (text, rest) = self.left.split_at_checked(end).ok_or(self.malformed(expected))?;
        self.left = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    /// `N` bytes as they are.
    #[inline]
    pub fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.left.split_first_chunk::<N>().ok_or(self.malformed(expected))?;
        self.left = rest;
        Ok(*head)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, expected: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(expected).map(|[byte]| byte)
    }

    /// A big-endian Int16, read as unsigned: the protocol's counts go up to 65535.
    #[inline]
    pub fn u16(&mut self, expected: &'static str) -> Result<u16, Malformed> {
        self.array(expected).map(u16::from_be_bytes)
    }

    /// A big-endian Int32.
    #[inline]
    pub fn i32(&mut self, expected: &'static str) -> Result<i32, Malformed> {
        self.array(expected).map(i32::from_be_bytes)
    }

    /// A big-endian Int32, read as unsigned: object identifiers.
    #[inline]
    pub fn u32(&mut self, expected: &'static str) -> Result<u32, Malformed> {
        self.array(expected).map(u32::from_be_bytes)
    }

    /// `len` bytes.
    #[inline]
    pub fn take(&mut self, len: usize, expected: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.left.split_at_checked(len).ok_or(self.malformed(expected))?;
        self.left = rest;
        Ok(head)
    }

    /// An Int32 length and that many bytes; `None` for length -1.
    #[inline]
    pub fn value(&mut self, expected: &'static str) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32(expected)? {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| self.malformed(expected))?;
                self.take(len, expected).map(Some)
            }
        }
    }

    /// Everything that is left.
    #[inline]
    pub fn rest(self) -> &'a [u8] {
        self.left
    }

    /// Demands that nothing is left.
    #[inline]
    pub fn end(self) -> Result<(), Malformed> {
        match self.left {
            [] => Ok(()),
            _ => Err(self.malformed("the end of the message")),
        }
    }

    /// An error at this place.
    #[inline]
    pub fn malformed(&self, expected: &'static str) -> Malformed {
        Malformed { message: self.message, expected }
    }

    /// Whether everything was taken.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_off_the_front() {
        let mut body = Body::new("Test", b"ab\0\x00\x05\xff\xff\xff\xff\x00\x00\x00\x02hix");
        assert_eq!(body.cstr("a name").unwrap(), b"ab");
        assert_eq!(body.u16("a count").unwrap(), 5);
        assert_eq!(body.value("a value").unwrap(), None);
        assert_eq!(body.value("a value").unwrap(), Some(&b"hi"[..]));
        assert_eq!(body.end().unwrap_err().to_string(), "malformed Test message: expected the end of the message");
        assert_eq!(body.u8("a byte").unwrap(), b'x');
        assert!(body.is_empty());
    }

    #[test]
    fn short_bodies_name_what_was_missing() {
        assert!(Body::new("T", b"no nul").cstr("a name").is_err());
        assert!(Body::new("T", b"\0\0\0").i32("a number").is_err());
        assert!(Body::new("T", b"\0\0\0\x05hi").value("a value").is_err());
        assert!(Body::new("T", b"\xff\xff\xff\xfehi").value("a value").is_err(), "length -2");
    }
}
