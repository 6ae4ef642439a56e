//! To clients: logins, the console, errors and answers that a server's statement cache makes unnecessary.

use super::{bare, count, cstr, message, value};
use crate::wire::pg::message::TransactionStatus;
use crate::wire::pg::sqlstate::Severity;
use crate::wire::pg::startup::MAJOR;

fn authentication(out: &mut Vec<u8>, code: i32, data: impl FnOnce(&mut Vec<u8>)) {
    message(out, b'R', |out| {
        out.extend(code.to_be_bytes());
        data(out);
    });
}

/// The login is complete.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, |_| ());
}

/// Asks for the password as it is.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    authentication(out, 3, |_| ());
}

/// Asks for the password hashed with the user's name and `salt`.
pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, |out| out.extend(salt));
}

/// Offers SASL mechanisms, the preferred one first.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    authentication(out, 10, |out| {
        for mechanism in mechanisms {
            cstr(out, mechanism.as_bytes());
        }
        out.push(0);
    });
}

/// A SASL challenge.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 11, |out| out.extend_from_slice(data));
}

/// The outcome of a SASL exchange; AuthenticationOk follows.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 12, |out| out.extend_from_slice(data));
}

/// A parameter that the client is told about.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, b'S', |out| {
        cstr(out, name);
        cstr(out, value);
    });
}

/// What the client has to send to cancel: a secret of 4 bytes for protocol 3.0, up to 256 for 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) {
    message(out, b'K', |out| {
        out.extend(process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Goes on with 3.`minor` and without `extensions`. Carries the whole version number, as PostgreSQL's servers do and
/// libpq checks.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, minor: u16, extensions: &[impl AsRef<[u8]>]) {
    message(out, b'v', |out| {
        out.extend(MAJOR.to_be_bytes());
        out.extend(minor.to_be_bytes());
        // A startup packet holds a few thousand names at most.
        out.extend(u32::try_from(extensions.len()).unwrap_or(u32::MAX).to_be_bytes());
        for name in extensions {
            cstr(out, name.as_ref());
        }
    });
}

/// The next query may come.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    out.extend([b'Z', 0, 0, 0, 5, status.byte()]);
}

/// What an error or a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `S` and `V`
    pub severity: Severity,
    /// `C`: a SQLSTATE.
    pub code: &'a str,
    /// `M`
    pub message: &'a str,
    /// `D`
    pub detail: Option<&'a str>,
    /// `H`
    pub hint: Option<&'a str>,
}

/// An error; of severity FATAL the last message of a connection.
pub fn error_response(out: &mut Vec<u8>, fields: &ErrorFields<'_>) {
    message(out, b'E', |out| error_fields(out, fields));
}

/// A message beside the answers, which the client may show.
pub fn notice_response(out: &mut Vec<u8>, fields: &ErrorFields<'_>) {
    message(out, b'N', |out| error_fields(out, fields));
}

fn error_fields(out: &mut Vec<u8>, fields: &ErrorFields<'_>) {
    let severity = fields.severity.as_str();
    let all = [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(fields.code)),
        (b'M', Some(fields.message)),
        (b'D', fields.detail),
        (b'H', fields.hint),
    ];
    for (kind, text) in all {
        if let Some(text) = text {
            out.push(kind);
            cstr(out, text.as_bytes());
        }
    }
    out.push(0);
}

/// What somebody has notified.
pub fn notification_response(out: &mut Vec<u8>, process_id: i32, channel: &[u8], payload: &[u8]) {
    message(out, b'A', |out| {
        out.extend(process_id.to_be_bytes());
        cstr(out, channel);
        cstr(out, payload);
    });
}

/// Answers Parse.
pub fn parse_complete(out: &mut Vec<u8>) {
    bare(out, b'1');
}

/// Answers Bind.
pub fn bind_complete(out: &mut Vec<u8>) {
    bare(out, b'2');
}

/// Answers Close.
pub fn close_complete(out: &mut Vec<u8>) {
    bare(out, b'3');
}

/// Answers a Describe of what returns no rows.
pub fn no_data(out: &mut Vec<u8>) {
    bare(out, b'n');
}

/// Answers an empty query instead of CommandComplete.
pub fn empty_query_response(out: &mut Vec<u8>) {
    bare(out, b'I');
}

/// Ends a statement's answer.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |out| cstr(out, tag.as_bytes()));
}

/// The parameters of a statement.
pub fn parameter_description(out: &mut Vec<u8>, oids: &[u32]) {
    message(out, b't', |out| {
        out.extend(count(oids.len()));
        for oid in oids.iter().take(usize::from(u16::MAX)) {
            out.extend(oid.to_be_bytes());
        }
    });
}

/// Columns of the console: a name and its type, as text, belonging to no table.
pub fn row_description(out: &mut Vec<u8>, columns: &[(&str, u32)]) {
    message(out, b'T', |out| {
        out.extend(count(columns.len()));
        for (name, oid) in columns.iter().take(usize::from(u16::MAX)) {
            cstr(out, name.as_bytes());
            out.extend([0; 6]);
            out.extend(oid.to_be_bytes());
            out.extend(type_size(*oid).to_be_bytes());
            out.extend((-1i32).to_be_bytes());
            out.extend([0; 2]);
        }
    });
}

/// `pg_type.typlen` of the types that the console speaks; -1 is variable.
fn type_size(oid: u32) -> i16 {
    match oid {
        16 => 1,
        20 | 701 | 1114 | 1184 => 8,
        21 => 2,
        23 | 26 | 700 => 4,
        _ => -1,
    }
}

/// One row of text values; `None` is NULL.
pub fn data_row<T: AsRef<[u8]>>(out: &mut Vec<u8>, values: &[Option<T>]) {
    message(out, b'D', |out| {
        out.extend(count(values.len()));
        for item in values.iter().take(usize::from(u16::MAX)) {
            match item {
                Some(bytes) => value(out, bytes.as_ref()),
                None => out.extend((-1i32).to_be_bytes()),
            }
        }
    });
}
