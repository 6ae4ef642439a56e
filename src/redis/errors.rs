//! What Forebay itself has to say to a client, in words that clients know.

use std::fmt;
use std::time::Duration;

use crate::guard::Refused;
use crate::wire::resp::build;

/// Why a request is refused or a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// `max_clients`.
    TooManyClients,
    /// At the door: `[security]`.
    Refused(Refused),
    /// `client_tls.mode` asks for TLS, and the client speaks clear text.
    NeedsTls,
    /// Nothing may be said before AUTH.
    NoAuth,
    /// `HELLO` without AUTH.
    HelloNoAuth,
    /// The command is the administrator's.
    Admin(String),
    /// No primary within `hold`.
    NoPrimary { service: String, waited: Duration, why: String },
    /// As many as may wait do so.
    QueueFull { service: String, length: usize },
    /// A request that changes something was on its way when its connection was lost.
    Unknown(String),
    /// A request that was too large to be kept had not reached its server whole.
    NotSent(String),
    /// WAITAOF cannot count what the client has written, for the server's reason.
    Unproved(Vec<u8>),
    /// CLIENT UNBLOCK ... ERROR.
    Unblocked,
    /// The server refused the connection itself, in its own words.
    Server(Vec<u8>),
    /// The words do not fit the command.
    Arity(String),
    /// No such command: its name, and how its arguments begin.
    UnknownCommand(String, String),
    /// No such subcommand.
    Subcommand(String, String),
    /// Anything that Redis says as `-ERR`.
    Err(&'static str),
    /// EXEC with arguments.
    ExecArity,
    /// EXEC before AUTH.
    ExecNoAuth,
    /// EXEC of a transaction in which a command was refused.
    ExecAbort,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::TooManyClients => f.write_str("ERR max number of clients reached"),
            Trouble::Refused(why) if why.is_about_the_address() => write!(f, "NOPERM {why}"),
            Trouble::Refused(why) => write!(f, "ERR {why}"),
            Trouble::NeedsTls => f.write_str("NOAUTH this service takes TLS connections only"),
            Trouble::NoAuth => f.write_str("NOAUTH Authentication required."),
            Trouble::HelloNoAuth => f.write_str(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time",
            ),
            Trouble::Admin(name) => write!(
                f,
                "NOPERM the command '{name}' is for administrators; redis.service.admin_commands can allow it"
            ),
            Trouble::NoPrimary { service, waited, why } => {
                let waited = waited.as_millis();
                write!(f, "LOADING service {service} has had no primary for {waited} ms ({why}); try again")
            }
            Trouble::QueueFull { service, length } => write!(
                f,
                "LOADING service {service} has no primary and {length} clients wait already (queue_length); try again"
            ),
            Trouble::Unknown(why) => write!(f, "UNKNOWN it is not known whether the command was carried out: {why}"),
            Trouble::NotSent(why) => write!(
                f,
                "LOADING the command was not carried out, its connection was lost before all of it was sent: {why}; \
                 try again"
            ),
            Trouble::Unproved(line) => write!(
                f,
                "NOPERM what was written before cannot be counted without the right to SPUBLISH to __forebay:offset ({})",
                String::from_utf8_lossy(line)
            ),
            Trouble::Unblocked => f.write_str("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            Trouble::Server(line) => write!(f, "{}", String::from_utf8_lossy(line)),
            Trouble::Arity(name) => write!(f, "ERR wrong number of arguments for '{name}' command"),
            Trouble::UnknownCommand(name, arguments) => {
                write!(f, "ERR unknown command '{name}', with args beginning with: {arguments}")
            }
            Trouble::Subcommand(name, sub) => {
                write!(f, "ERR unknown subcommand '{sub}'. Try {} HELP.", name.to_ascii_uppercase())
            }
            Trouble::Err(text) => write!(f, "ERR {text}"),
            Trouble::ExecArity => {
                f.write_str("EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command")
            }
            Trouble::ExecNoAuth => {
                f.write_str("EXECABORT Transaction discarded because of: NOAUTH Authentication required.")
            }
            Trouble::ExecAbort => f.write_str("EXECABORT Transaction discarded because of previous errors."),
        }
    }
}

impl Trouble {
    /// Appends the reply.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            // The server's bytes need not be text.
            Trouble::Server(line) => build::error(out, line),
            other => build::error(out, other.to_string().as_bytes()),
        }
    }
}
