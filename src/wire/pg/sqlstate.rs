//! The SQLSTATEs that Forebay speaks and the one way by which an error reaches a client.
//!
//! Every error type with a client on its other side implements [`ToClient`]; sessions encode it with
//! [`write_error`] and never put sentences together themselves.

use std::borrow::Cow;

use super::build::{self, ErrorFields};

macro_rules! sqlstates {
    ($($name:ident = $code:literal, $condition:literal, $meaning:literal;)*) => {
        $(#[doc = concat!("`", $code, "` ", $condition, ": ", $meaning, ".")] pub const $name: &str = $code;)*

        /// Every code above with PostgreSQL's name of the condition, ordered by code.
        pub const TABLE: &[(&str, &str)] = &[$(($code, $condition)),*];
    };
}

// Source: PostgreSQL's documentation, appendix "PostgreSQL Error Codes".
sqlstates! {
    SUCCESSFUL_COMPLETION = "00000", "successful_completion", "notices that report no fault";
    WARNING = "01000", "warning", "notices that report a condition to look at";
    CONNECTION_EXCEPTION = "08000", "connection_exception", "the connection to a server broke in an unforeseen way";
    CANNOT_REACH_SERVER = "08001", "sqlclient_unable_to_establish_sqlconnection", "no server could be dialled";
    REJECTED_ESTABLISHMENT = "08004", "sqlserver_rejected_establishment_of_sqlconnection", "a server refused us";
    CONNECTION_FAILURE = "08006", "connection_failure", "the server was lost while nothing was at stake";
    RESOLUTION_UNKNOWN = "08007", "transaction_resolution_unknown", "a commit was in flight and its outcome is not known";
    PROTOCOL_VIOLATION = "08P01", "protocol_violation", "bytes that the protocol does not allow here";
    FEATURE_NOT_SUPPORTED = "0A000", "feature_not_supported", "legal, but not offered";
    CHARACTER_NOT_IN_REPERTOIRE = "22021", "character_not_in_repertoire", "text that is not UTF-8 where it must be";
    INVALID_PARAMETER_VALUE = "22023", "invalid_parameter_value", "a setting's value out of its range";
    ACTIVE_TRANSACTION = "25001", "active_sql_transaction", "not possible inside a transaction";
    READ_ONLY_TRANSACTION = "25006", "read_only_sql_transaction", "a replica refused a write; kept from clients";
    FAILED_TRANSACTION = "25P02", "in_failed_sql_transaction", "the transaction already failed";
    IDLE_IN_TRANSACTION_TIMEOUT = "25P03", "idle_in_transaction_session_timeout", "idle too long inside a transaction";
    TRANSACTION_TIMEOUT = "25P04", "transaction_timeout", "a transaction took too long";
    INVALID_STATEMENT_NAME = "26000", "invalid_sql_statement_name", "no prepared statement of that name";
    INVALID_AUTHORIZATION = "28000", "invalid_authorization_specification", "refused by ban, rule or allow list";
    INVALID_PASSWORD = "28P01", "invalid_password", "the login failed";
    INVALID_CURSOR_NAME = "34000", "invalid_cursor_name", "no portal of that name";
    INVALID_CATALOG_NAME = "3D000", "invalid_catalog_name", "unknown database";
    SERIALIZATION_FAILURE = "40001", "serialization_failure", "the transaction was lost and may be tried again";
    INSUFFICIENT_PRIVILEGE = "42501", "insufficient_privilege", "the console user may only look";
    SYNTAX_ERROR = "42601", "syntax_error", "a statement or option that cannot be read";
    UNDEFINED_OBJECT = "42704", "undefined_object", "an unknown setting or view";
    DUPLICATE_STATEMENT = "42P05", "duplicate_prepared_statement", "a prepared statement of that name exists";
    TOO_MANY_CONNECTIONS = "53300", "too_many_connections", "no slot left, or the queue is full";
    CONFIGURATION_LIMIT = "53400", "configuration_limit_exceeded", "a limit of the configuration was hit";
    PROGRAM_LIMIT = "54000", "program_limit_exceeded", "larger than the program allows";
    WRONG_STATE = "55000", "object_not_in_prerequisite_state", "not possible in the present state";
    QUERY_CANCELED = "57014", "query_canceled", "cancelled by the user or a time limit";
    ADMIN_SHUTDOWN = "57P01", "admin_shutdown", "the connection ends by decision, or its server was lost";
    CRASH_SHUTDOWN = "57P02", "crash_shutdown", "the server crashed";
    CANNOT_CONNECT_NOW = "57P03", "cannot_connect_now", "waited too long for a server";
    IDLE_SESSION_TIMEOUT = "57P05", "idle_session_timeout", "idle for too long";
    SYSTEM_ERROR = "58000", "system_error", "the operating system failed us";
    INTERNAL_ERROR = "XX000", "internal_error", "a fault of ours";
}

/// PostgreSQL's name of a condition, for logs and metrics; `None` for codes that are not ours.
pub fn condition(code: &str) -> Option<&'static str> {
    let at = TABLE.binary_search_by_key(&code, |&(known, _)| known).ok()?;
    TABLE.get(at).map(|&(_, name)| name)
}

/// How grave a message is; `Fatal` and above end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Severity {
    Debug,
    Log,
    Info,
    Notice,
    Warning,
    Error,
    Fatal,
    Panic,
}

impl Severity {
    /// As it stands in the fields `S` and `V`: never translated by us.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Debug => "DEBUG",
            Severity::Log => "LOG",
            Severity::Info => "INFO",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
        }
    }

    /// Reads field `V`, or `S` of a server that does not translate; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"DEBUG" => Severity::Debug,
            b"LOG" => Severity::Log,
            b"INFO" => Severity::Info,
            b"NOTICE" => Severity::Notice,
            b"WARNING" => Severity::Warning,
            b"ERROR" => Severity::Error,
            b"FATAL" => Severity::Fatal,
            b"PANIC" => Severity::Panic,
            _ => return None,
        })
    }
}

/// What a client may read of an error. What it may not read belongs into `Display` or the log.
pub trait ToClient {
    /// Whether the connection survives.
    fn severity(&self) -> Severity;
    /// One of this module's constants.
    fn sqlstate(&self) -> &'static str;
    /// The primary message: one line, no capital at the start, no full stop, as PostgreSQL's own.
    fn message(&self) -> Cow<'_, str>;
    /// More about what happened.
    fn detail(&self) -> Option<Cow<'_, str>> {
        None
    }
    /// The way out.
    fn hint(&self) -> Option<Cow<'_, str>> {
        None
    }
}

/// Appends `error` as an ErrorResponse.
pub fn write_error(out: &mut Vec<u8>, error: &(impl ToClient + ?Sized)) {
    let (message, detail, hint) = (error.message(), error.detail(), error.hint());
    build::error_response(
        out,
        &ErrorFields {
            severity: error.severity(),
            code: error.sqlstate(),
            message: &message,
            detail: detail.as_deref(),
            hint: hint.as_deref(),
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pg::message::Fields;

    struct Full;

    impl ToClient for Full {
        fn severity(&self) -> Severity {
            Severity::Fatal
        }
        fn sqlstate(&self) -> &'static str {
            TOO_MANY_CONNECTIONS
        }
        fn message(&self) -> Cow<'_, str> {
            "the queue is full".into()
        }
        fn hint(&self) -> Option<Cow<'_, str>> {
            Some("raise pool.size".into())
        }
    }

    #[test]
    fn an_error_carries_its_fields() {
        let mut out = Vec::new();
        write_error(&mut out, &Full as &dyn ToClient);
        assert_eq!(out.first(), Some(&b'E'));
        let fields = Fields::read("ErrorResponse", &out[5..]).unwrap();
        let found: Vec<_> =
            fields.iter().map(|(kind, value)| (kind as char, std::str::from_utf8(value).unwrap())).collect();
        assert_eq!(
            found,
            [('S', "FATAL"), ('V', "FATAL"), ('C', "53300"), ('M', "the queue is full"), ('H', "raise pool.size"),]
        );
    }

    #[test]
    fn the_table_is_ordered_and_well_formed() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0), "codes must ascend without repeats");
        for (code, name) in TABLE {
            assert_eq!(code.len(), 5, "{code}");
            assert!(code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()), "{code}");
            assert_eq!(condition(code), Some(*name));
        }
        assert_eq!(condition("99999"), None);
        assert_eq!(condition(RESOLUTION_UNKNOWN), Some("transaction_resolution_unknown"));
    }

    #[test]
    fn severities_survive_a_round_trip() {
        for severity in [
            Severity::Debug,
            Severity::Log,
            Severity::Info,
            Severity::Notice,
            Severity::Warning,
            Severity::Error,
            Severity::Fatal,
            Severity::Panic,
        ] {
            assert_eq!(Severity::parse(severity.as_str().as_bytes()), Some(severity));
        }
        assert_eq!(Severity::parse(b"FEHLER"), None);
        assert!(Severity::Fatal > Severity::Error);
    }
}
