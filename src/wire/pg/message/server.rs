//! What servers answer.

use crate::wire::pg::body::{Body, Malformed};

/// `C` of a server: the command tag, such as `INSERT 0 1`.
pub fn command_complete(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut body = Body::new("CommandComplete", body);
    let tag = body.cstr("a terminated command tag")?;
    body.end()?;
    Ok(tag)
}

/// Where a session stands between two queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: outside of a transaction block.
    Idle,
    /// `T`: inside of one.
    InTransaction,
    /// `E`: inside of one that failed; only its end is accepted.
    Failed,
}

impl TransactionStatus {
    /// The protocol's byte.
    #[inline]
    pub fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// `Z`
#[inline]
pub fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, Malformed> {
    match body {
        b"I" => Ok(TransactionStatus::Idle),
        b"T" => Ok(TransactionStatus::InTransaction),
        b"E" => Ok(TransactionStatus::Failed),
        _ => Err(Malformed { message: "ReadyForQuery", expected: "\"I\", \"T\" or \"E\"" }),
    }
}

/// `S` of a server: a parameter's name and value.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut body = Body::new("ParameterStatus", body);
    let name = body.cstr("a terminated parameter name")?;
    let value = body.cstr("a terminated value")?;
    body.end()?;
    Ok((name, value))
}

/// `K`: process id and secret. The secret's length is not checked: a server behind another pooler may give any.
pub fn backend_key_data(body: &[u8]) -> Result<(i32, &[u8]), Malformed> {
    let mut body = Body::new("BackendKeyData", body);
    let process_id = body.i32("a process id")?;
    if body.is_empty() {
        return Err(body.malformed("a secret key"));
    }
    Ok((process_id, body.rest()))
}

/// The fields of ErrorResponse and NoticeResponse, checked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a> {
    body: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads a body; `message` is the name that errors carry.
    pub fn read(message: &'static str, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new(message, bytes);
        while body.u8("a field type or the terminator")? != 0 {
            body.cstr("a terminated field value")?;
        }
        body.end()?;
        Ok(Fields { body: bytes })
    }

    /// Field types and values in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut body = Body::new("ErrorResponse", self.body);
        std::iter::from_fn(move || match body.u8("") {
            Ok(0) | Err(_) => None,
            Ok(kind) => body.cstr("").ok().map(|value| (kind, value)),
        })
    }

    /// The first field of a type.
    pub fn find(&self, kind: u8) -> Option<&'a [u8]> {
        self.iter().find(|&(found, _)| found == kind).map(|(_, value)| value)
    }

    /// `V`, which is never translated, or `S` of servers before 9.6.
    pub fn severity(&self) -> Option<&'a [u8]> {
        self.find(b'V').or_else(|| self.find(b'S'))
    }

    /// `C`: five characters.
    pub fn sqlstate(&self) -> Option<&'a [u8]> {
        self.find(b'C')
    }

    /// `M`: the primary message.
    pub fn message(&self) -> Option<&'a [u8]> {
        self.find(b'M')
    }
}

/// `R`: what a server asks for, or that it is content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// 0
    Ok,
    /// 3: the password as it is.
    Cleartext,
    /// 5, with the salt.
    Md5([u8; 4]),
    /// 10: the mechanisms offered, see [`mechanisms`].
    Sasl(&'a [u8]),
    /// 11: a challenge.
    SaslContinue(&'a [u8]),
    /// 12: the mechanism's outcome.
    SaslFinal(&'a [u8]),
    /// A code that we do not answer (Kerberos, GSSAPI, SSPI), with its data.
    Other(i32, &'a [u8]),
}

impl<'a> Authentication<'a> {
    /// Reads a body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new("Authentication", body);
        let code = body.i32("an authentication code")?;
        let request = match code {
            0 => Authentication::Ok,
            3 => Authentication::Cleartext,
            5 => Authentication::Md5(body.array("a salt of 4 bytes")?),
            10 => {
                let list = body.rest();
                while !body.cstr("a terminated list of mechanisms")?.is_empty() {}
                body.end()?;
                return Ok(Authentication::Sasl(list));
            }
            11 => return Ok(Authentication::SaslContinue(body.rest())),
            12 => return Ok(Authentication::SaslFinal(body.rest())),
            other => return Ok(Authentication::Other(other, body.rest())),
        };
        body.end()?;
        Ok(request)
    }
}

/// The names in the list of [`Authentication::Sasl`].
pub fn mechanisms(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == 0).take_while(|name| !name.is_empty())
}

/// `v`: the server speaks an older version, or knows not all extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation<'a> {
    /// The newest minor version of major version 3.
    pub minor: u16,
    /// Names of the extensions that the server does not know.
    pub extensions: Vec<&'a [u8]>,
}

impl<'a> Negotiation<'a> {
    /// Reads a body. PostgreSQL sends the whole version number where the documentation says minor version: both are
    /// understood.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new("NegotiateProtocolVersion", body);
        let version = body.u32("a protocol version")?;
        if !matches!(version >> 16, 0 | 3) {
            return Err(body.malformed("a version of major version 3"));
        }
        let count = body.u32("the number of unsupported options")?;
        let mut extensions = Vec::new();
        for _ in 0..count {
            extensions.push(body.cstr("a terminated option name")?);
        }
        body.end()?;
        Ok(Negotiation { minor: version as u16, extensions })
    }
}

/// One column of `T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// As in the heading.
    pub name: &'a [u8],
    /// Its type.
    pub oid: u32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// `T`
pub fn row_description(body: &[u8]) -> Result<Vec<Column<'_>>, Malformed> {
    let mut body = Body::new("RowDescription", body);
    let count = body.u16("the number of columns")?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = body.cstr("a terminated column name")?;
        body.take(6, "table and column number")?;
        let oid = body.u32("a type")?;
        body.take(6, "type size and modifier")?;
        let format = body.u16("a format")? as i16;
        columns.push(Column { name, oid, format });
    }
    body.end()?;
    Ok(columns)
}

/// `D` of a server; `None` is NULL.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut body = Body::new("DataRow", body);
    let count = body.u16("the number of values")?;
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(body.value("a value")?);
    }
    body.end()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_has_three_states() {
        for status in [TransactionStatus::Idle, TransactionStatus::InTransaction, TransactionStatus::Failed] {
            assert_eq!(ready_for_query(&[status.byte()]), Ok(status));
        }
        for bad in [&b""[..], b"X", b"II"] {
            assert!(ready_for_query(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn error_fields_are_found_by_type() {
        let fields = Fields::read("ErrorResponse", b"SFEHLER\0VERROR\0C42P01\0Mno table\0Xnew\0\0").unwrap();
        assert_eq!(fields.severity(), Some(&b"ERROR"[..]));
        assert_eq!(fields.sqlstate(), Some(&b"42P01"[..]));
        assert_eq!(fields.message(), Some(&b"no table"[..]));
        assert_eq!(fields.find(b'H'), None);
        assert_eq!(fields.iter().count(), 5);
        for bad in [&b""[..], b"SERROR\0", b"SERROR", b"\0\0"] {
            assert!(Fields::read("ErrorResponse", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn authentication_requests_carry_their_data() {
        let parse = |code: u8, data: &'static [u8]| {
            let body = [&[0, 0, 0, code], data].concat();
            let body: &'static [u8] = body.leak();
            Authentication::read(body)
        };
        assert_eq!(parse(0, b""), Ok(Authentication::Ok));
        assert_eq!(parse(5, b"salt"), Ok(Authentication::Md5(*b"salt")));
        assert_eq!(parse(7, b"x"), Ok(Authentication::Other(7, b"x")));
        let Ok(Authentication::Sasl(list)) = parse(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0") else {
            panic!("a list of mechanisms");
        };
        assert_eq!(mechanisms(list).collect::<Vec<_>>(), [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]);
        for (code, bad) in [(0, &b"x"[..]), (5, b"sal"), (5, b"salty"), (10, b""), (10, b"A\0"), (10, b"\0A\0")] {
            assert!(parse(code, bad).is_err(), "{code} {bad:?}");
        }
    }

    #[test]
    fn negotiation_reads_minor_and_whole_versions() {
        for version in [[0, 0, 0, 2], [0, 3, 0, 2]] {
            let body = [&version[..], b"\0\0\0\x01_pq_.x\0"].concat();
            let negotiation = Negotiation::read(&body).unwrap();
            assert_eq!(negotiation, Negotiation { minor: 2, extensions: vec![b"_pq_.x"] });
        }
        assert!(Negotiation::read(b"\0\x04\0\0\0\0\0\0").is_err());
        assert!(Negotiation::read(b"\0\x03\0\0\xff\xff\xff\xff").is_err(), "a count beyond the body");
    }

    #[test]
    fn rows_are_read() {
        let body = b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
        assert_eq!(row_description(body), Ok(vec![Column { name: b"n", oid: 25, format: 0 }]));
        assert_eq!(data_row(b"\0\x02\xff\xff\xff\xff\0\0\0\x01x"), Ok(vec![None, Some(&b"x"[..])]));
        assert!(data_row(b"\0\x02\xff\xff\xff\xff").is_err());
    }
}
