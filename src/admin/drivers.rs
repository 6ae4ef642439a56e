//! What drivers and monitors ask of any server when they connect: session parameters and a few functions. The answers
//! exist to please them; nothing in the console depends on a parameter.

use std::borrow::Cow;
use std::time::SystemTime;

use super::run::Caller;
use super::statement::{Expression, Item};
use super::table::{Column, Kind, Table, Value};
use super::time;

/// The PgBouncer whose console this one is like: tools look for this number.
pub(super) const PGBOUNCER: &str = "1.25.2";
/// The Pgpool-II whose views these are like.
pub(super) const PGPOOL: &str = "4.7.0";

/// `SHOW VERSION`, `version()`.
pub(super) fn version() -> String {
    format!("PgBouncer {PGBOUNCER} (Forebay {})", env!("CARGO_PKG_VERSION"))
}

/// `server_version`: its front is what libpq makes a number of.
pub(super) fn server_version() -> String {
    format!("{PGBOUNCER}/forebay")
}

/// A session parameter.
struct Parameter {
    name: &'static str,
    value: &'static str,
    /// How ParameterStatus calls it, if clients are told of changes.
    reported: Option<&'static str>,
    is_fixed: bool,
}

const fn free(name: &'static str, value: &'static str) -> Parameter {
    Parameter { name, value, reported: None, is_fixed: false }
}

const fn reported(name: &'static str, value: &'static str, reported: &'static str) -> Parameter {
    Parameter { name, value, reported: Some(reported), is_fixed: false }
}

const fn fixed(name: &'static str, value: &'static str) -> Parameter {
    Parameter { name, value, reported: None, is_fixed: true }
}

const PARAMETERS: &[Parameter] = &[
    reported("client_encoding", "UTF8", "client_encoding"),
    reported("datestyle", "ISO", "DateStyle"),
    reported("timezone", "GMT", "TimeZone"),
    reported("standard_conforming_strings", "on", "standard_conforming_strings"),
    reported("application_name", "", "application_name"),
    reported("intervalstyle", "postgres", "IntervalStyle"),
    free("default_transaction_isolation", "read committed"),
    free("transaction_isolation", "read committed"),
    free("default_transaction_read_only", "off"),
    free("transaction_read_only", "off"),
    free("default_transaction_deferrable", "off"),
    free("extra_float_digits", "2"),
    free("statement_timeout", "0"),
    free("lock_timeout", "0"),
    free("transaction_timeout", "0"),
    free("idle_in_transaction_session_timeout", "0"),
    free("idle_session_timeout", "0"),
    free("search_path", "\"$user\", public"),
    free("client_min_messages", "notice"),
    free("bytea_output", "hex"),
    free("synchronous_commit", "on"),
    free("row_security", "on"),
    free("jit", "off"),
    free("geqo", "on"),
    fixed("server_version", ""),
    fixed("server_encoding", "UTF8"),
    fixed("integer_datetimes", "on"),
    fixed("in_hot_standby", "off"),
    fixed("is_superuser", ""),
    fixed("session_authorization", ""),
    fixed("max_identifier_length", "63"),
];

fn find(name: &str) -> Option<&'static Parameter> {
    let name = match name.to_ascii_lowercase().as_str() {
        "transaction isolation level" => "transaction_isolation".to_owned(),
        "time zone" => "timezone".to_owned(),
        other => other.to_owned(),
    };
    PARAMETERS.iter().find(|p| p.name == name)
}

/// The parameter that is called so, in any case and also in the forms of several words.
pub(super) fn parameter_named(name: &str) -> Option<&'static str> {
    find(name).map(|p| p.name)
}

/// What a session has for a parameter.
pub(super) fn value(caller: &Caller, name: &str) -> String {
    if let Some(set) = caller.parameters.get(name) {
        return set.clone();
    }
    match name {
        "server_version" => server_version(),
        "is_superuser" => if caller.rights == super::Rights::Admin { "on" } else { "off" }.to_owned(),
        "session_authorization" => caller.name.clone(),
        _ => find(name).map(|p| p.value.to_owned()).unwrap_or_default(),
    }
}

/// Sets a parameter for the session; `None` is its default. Answers what ParameterStatus has to say, if anything.
///
/// # Errors
/// The parameter cannot be changed, or not to this.
pub(super) fn set(caller: &mut Caller, name: &str, to: Option<&str>) -> Result<Option<(&'static str, String)>, String> {
    let Some(parameter) = find(name) else { return Ok(None) };
    if parameter.is_fixed {
        return Err(format!("parameter \"{name}\" cannot be changed"));
    }
    if parameter.name == "client_encoding" {
        let wanted: String = to.unwrap_or("UTF8").chars().filter(char::is_ascii_alphanumeric).collect();
        return match wanted.to_ascii_uppercase().as_str() {
            "UTF8" | "UNICODE" | "SQLASCII" => Ok(None),
            _ => Err("the console speaks UTF8 only".to_owned()),
        };
    }
    match to {
        Some(value) => {
            // As long as PostgreSQL's longest identifier is plenty for all of them but search_path.
            let value: String = value.chars().take(256).collect();
            caller.parameters.insert(parameter.name, value);
        }
        None => drop(caller.parameters.remove(parameter.name)),
    }
    Ok(parameter.reported.map(|reported| (reported, value(caller, parameter.name))))
}

/// Forgets everything that [`set`] was told. Answers what ParameterStatus has to say.
pub(super) fn reset_all(caller: &mut Caller) -> Vec<(&'static str, String)> {
    let set = std::mem::take(&mut caller.parameters);
    let told = set.keys().filter_map(|name| Some((find(name)?.reported?, value(caller, name))));
    told.collect()
}

/// ParameterStatus of a login: PgBouncer's, and what drivers miss in them.
pub(super) fn at_login(caller: &Caller) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("server_version", server_version()),
        ("server_encoding", "UTF8".to_owned()),
        ("integer_datetimes", "on".to_owned()),
        ("is_superuser", value(caller, "is_superuser")),
    ];
    all.extend(PARAMETERS.iter().filter_map(|p| Some((p.reported?, value(caller, p.name)))));
    all
}

/// The columns of a SELECT.
pub(super) fn columns(items: &[Item]) -> Cow<'static, [Column]> {
    let kind = |expression: &Expression| match expression {
        Expression::Number(n) if i32::try_from(*n).is_err() => Kind::Int8,
        Expression::Number(_) | Expression::BackendPid => Kind::Int4,
        Expression::Bool(_) | Expression::IsInRecovery => Kind::Bool,
        _ => Kind::Text,
    };
    items.iter().map(|item| Column { name: item.name.clone().into(), kind: kind(&item.expression) }).collect()
}

/// The one row of a SELECT.
pub(super) fn select(caller: &Caller, items: &[Item]) -> Table {
    let field = |item: &Item| match &item.expression {
        Expression::Number(number) => Value::from(*number),
        Expression::Text(text) => Value::from(text),
        Expression::Bool(truth) => Value::from(*truth),
        Expression::Null => Value::Null,
        Expression::Version => Value::from(version()),
        Expression::CurrentDatabase => Value::from(&caller.database),
        Expression::CurrentUser => Value::from(&caller.name),
        Expression::CurrentSchema => Value::from("public"),
        Expression::Now => Value::from(time::precise(SystemTime::now())),
        Expression::BackendPid => Value::from(caller.process_id),
        Expression::IsInRecovery => Value::from(false),
        Expression::Setting(name) => parameter_named(name).map(|name| value(caller, name)).into(),
    };
    Table { columns: columns(items), rows: vec![items.iter().map(field).collect()] }
}
