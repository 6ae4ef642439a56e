//! What clients say.

use crate::wire::pg::body::{Body, Malformed};

/// `Q`: the text of one or more statements.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut body = Body::new("Query", body);
    let text = body.cstr("a terminated query text")?;
    body.end()?;
    Ok(text)
}

/// `P`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty for the unnamed statement.
    pub name: &'a [u8],
    /// One statement's text.
    pub text: &'a [u8],
    /// The parameters' types as sent: four bytes each, see [`Parse::oids`].
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new("Parse", body);
        let name = body.cstr("a terminated statement name")?;
        let text = body.cstr("a terminated query text")?;
        let count = body.u16("the number of parameter types")?;
        let types = body.take(usize::from(count) * 4, "a type for each parameter")?;
        body.end()?;
        Ok(Parse { name, text, types })
    }

    /// The parameters' types; 0 leaves one to the server.
    pub fn oids(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        let (types, _) = self.types.as_chunks::<4>();
        types.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// `B`. Formats and values are the server's to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Empty for the unnamed portal.
    pub portal: &'a [u8],
    /// Empty for the unnamed statement.
    pub statement: &'a [u8],
    /// Where the rest begins in the body, in bytes.
    pub rest: usize,
}

impl<'a> Bind<'a> {
    /// Reads the front of a body; what follows the names need not be there yet.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new("Bind", bytes);
        let portal = body.cstr("a terminated portal name")?;
        let statement = body.cstr("a terminated statement name")?;
        Ok(Bind { portal, statement, rest: bytes.len() - body.rest().len() })
    }
}

/// What Describe and Close name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `S`
    Statement,
    /// `P`
    Portal,
}

impl Target {
    /// The protocol's byte.
    pub fn byte(self) -> u8 {
        match self {
            Target::Statement => b'S',
            Target::Portal => b'P',
        }
    }
}

/// `D`: its target and name, empty for the unnamed one.
pub fn describe(body: &[u8]) -> Result<(Target, &[u8]), Malformed> {
    target(Body::new("Describe", body))
}

/// `C`: its target and name, empty for the unnamed one.
pub fn close(body: &[u8]) -> Result<(Target, &[u8]), Malformed> {
    target(Body::new("Close", body))
}

fn target(mut body: Body<'_>) -> Result<(Target, &[u8]), Malformed> {
    let target = match body.u8("\"S\" or \"P\"")? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(body.malformed("\"S\" or \"P\"")),
    };
    let name = body.cstr("a terminated name")?;
    body.end()?;
    Ok((target, name))
}

/// `E` of a client
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Empty for the unnamed portal.
    pub portal: &'a [u8],
    /// 0 (or less) for all.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Reads a body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new("Execute", body);
        let portal = body.cstr("a terminated portal name")?;
        let max_rows = body.i32("the maximum number of rows")?;
        body.end()?;
        Ok(Execute { portal, max_rows })
    }
}

/// `p` in answer to a request for a password.
pub fn password(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut body = Body::new("PasswordMessage", body);
    let password = body.cstr("a terminated password")?;
    body.end()?;
    Ok(password)
}

/// `p` in answer to AuthenticationSASL: the mechanism chosen and its first data. The answers that follow (SASLResponse)
/// are nothing but data.
pub fn sasl_initial_response(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let mut body = Body::new("SASLInitialResponse", body);
    let mechanism = body.cstr("a terminated mechanism name")?;
    let data = body.value("the mechanism's data")?;
    body.end()?;
    Ok((mechanism, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_one_terminated_text() {
        assert_eq!(query(b"select 1\0"), Ok(&b"select 1"[..]));
        assert_eq!(query(b"\0"), Ok(&b""[..]));
        for bad in [&b""[..], b"select 1", b"select 1\0select 2\0"] {
            assert!(query(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parse_counts_its_types() {
        let parse = Parse::read(b"s1\0select $1\0\0\x02\0\0\0\x17\0\0\0\0").unwrap();
        assert_eq!((parse.name, parse.text), (&b"s1"[..], &b"select $1"[..]));
        assert_eq!(parse.oids().collect::<Vec<_>>(), [23, 0]);
        for bad in [&b"s1\0q\0\0\x02\0\0\0\x17\0\0\0"[..], b"s1\0q\0\0\x01\0\0\0\x17\0", b"s1\0q\0\0", b"s1\0q"] {
            assert!(Parse::read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bind_needs_only_its_names() {
        let bind = Bind::read(b"p\0s\0rest").unwrap();
        assert_eq!(bind, Bind { portal: b"p", statement: b"s", rest: 4 });
        assert!(Bind::read(b"p\0s").is_err());
    }

    #[test]
    fn describe_and_close_name_a_target() {
        assert_eq!(describe(b"Ss1\0"), Ok((Target::Statement, &b"s1"[..])));
        assert_eq!(close(b"P\0"), Ok((Target::Portal, &b""[..])));
        for bad in [&b""[..], b"S", b"Ss", b"X\0", b"S\0\0"] {
            assert!(describe(bad).is_err() && close(bad).is_err(), "{bad:?}");
        }
        assert_eq!(close(b"").unwrap_err().message, "Close");
    }
}
