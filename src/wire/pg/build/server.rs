//! To servers: logins, cancels and what the relay adds of its own.

use super::{bare, count, cstr, message, packet, value};
use crate::wire::pg::message::Target;
use crate::wire::pg::startup::{CANCEL_CODE, MAJOR, SSL_CODE};

/// Begins a session with protocol 3.`minor` (0 or 2). `params` holds `user` and `database` too; parameters without a
/// name cannot be sent and are left out.
pub fn startup_message<'a>(out: &mut Vec<u8>, minor: u16, params: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
    packet(out, |out| {
        out.extend(MAJOR.to_be_bytes());
        out.extend(minor.to_be_bytes());
        for (name, value) in params {
            if !super::before_nul(name).is_empty() {
                cstr(out, name);
                cstr(out, value);
            }
        }
        out.push(0);
    });
}

/// Asks for TLS; the server answers one byte, `S` or `N`.
pub fn ssl_request(out: &mut Vec<u8>) {
    packet(out, |out| out.extend(SSL_CODE.to_be_bytes()));
}

/// Cancels what the server's process runs; sent on a connection of its own.
pub fn cancel_request(out: &mut Vec<u8>, process_id: i32, secret: &[u8]) {
    packet(out, |out| {
        out.extend(CANCEL_CODE.to_be_bytes());
        out.extend(process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Answers a request for a password: as it is, or hashed by [`crate::wire::pg::md5::response`].
pub fn password_message(out: &mut Vec<u8>, password: &[u8]) {
    message(out, b'p', |out| cstr(out, password));
}

/// Chooses a SASL mechanism and begins it.
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, b'p', |out| {
        cstr(out, mechanism.as_bytes());
        value(out, data);
    });
}

/// Answers a SASL challenge.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'p', |out| out.extend_from_slice(data));
}

/// Runs statements by the simple protocol.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, b'Q', |out| cstr(out, text));
}

/// Prepares a statement.
pub fn parse(out: &mut Vec<u8>, name: &[u8], text: &[u8], oids: impl ExactSizeIterator<Item = u32>) {
    message(out, b'P', |out| {
        cstr(out, name);
        cstr(out, text);
        out.extend(count(oids.len()));
        for oid in oids.take(usize::from(u16::MAX)) {
            out.extend(oid.to_be_bytes());
        }
    });
}

/// Binds a prepared statement without parameters; values come as text.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8]) {
    message(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, statement);
        // Formats of parameters, parameters, formats of results: none.
        out.extend([0; 6]);
    });
}

/// Executes a portal to its end.
pub fn execute(out: &mut Vec<u8>, portal: &[u8]) {
    message(out, b'E', |out| {
        cstr(out, portal);
        out.extend([0; 4]);
    });
}

/// Frees a prepared statement or a portal.
pub fn close(out: &mut Vec<u8>, target: Target, name: &[u8]) {
    message(out, b'C', |out| {
        out.push(target.byte());
        cstr(out, name);
    });
}

/// Asks what a prepared statement or a portal takes and gives.
pub fn describe(out: &mut Vec<u8>, target: Target, name: &[u8]) {
    message(out, b'D', |out| {
        out.push(target.byte());
        cstr(out, name);
    });
}

/// Ends a series of extended messages; the server answers ReadyForQuery.
pub fn sync(out: &mut Vec<u8>) {
    bare(out, b'S');
}

/// Ends the session.
pub fn terminate(out: &mut Vec<u8>) {
    bare(out, b'X');
}
