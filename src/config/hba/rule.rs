//! One record of `pg_hba.conf`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::file::{Record, Word};
use super::ldap::Options;
use super::{
    Address, CertificateName, ClientCertificate, Connection, DatabaseName, Encryption, Method, Pattern, Rule, UserName,
};
use crate::config::setting::quote;
use crate::config::suggest::nearest;

const TYPES: [(&str, Option<Encryption>); 6] = [
    ("local", None),
    ("host", Some(Encryption::Any)),
    ("hostssl", Some(Encryption::Tls)),
    ("hostnossl", Some(Encryption::NoTls)),
    ("hostgssenc", Some(Encryption::Gss)),
    ("hostnogssenc", Some(Encryption::NoGss)),
];

const METHODS: [Method; 8] = [
    Method::Trust,
    Method::Reject,
    Method::Md5,
    Method::Password,
    Method::ScramSha256,
    Method::Cert,
    Method::Peer,
    Method::Ldap,
];

/// Methods of PostgreSQL that ask somebody whom Forebay does not ask.
const ELSEWHERE: &[&str] = &["ident", "gss", "sspi", "pam", "bsd", "radius", "oauth"];

/// Options of those.
const OPTIONS_ELSEWHERE: &[&str] = &["krb_realm", "include_realm", "compat_realm", "upn_username", "pamservice"];

/// Reads a record.
///
/// # Errors
/// The first thing that is wrong with it, in words.
pub(super) fn parse(record: &Record) -> Result<Rule, String> {
    let mut fields = record.fields.iter();
    let kind = &one(fields.next(), "the connection type")?.text;
    let Some((_, encryption)) = TYPES.iter().find(|(word, _)| word == kind) else {
        let guess = nearest(kind, TYPES.iter().map(|(word, _)| *word));
        let guess = guess.map_or(String::new(), |word| format!("; did you mean {word}?"));
        return Err(format!("invalid connection type {}{guess}", quote(kind)));
    };
    let databases = fields.next().ok_or("end of line before the database")?;
    let databases = databases.iter().map(database).collect::<Result<Vec<_>, _>>()?;
    let users = fields.next().ok_or("end of line before the user")?;
    let users = users.iter().map(user).collect::<Result<Vec<_>, _>>()?;
    let connection = match encryption {
        None => Connection::Local,
        Some(encryption) => {
            let field = one(fields.next(), "the address")?;
            let (address, has_mask) = address(field)?;
            let address = match (address, has_mask) {
                (Address::Network { address, .. }, false) => with_mask(address, one(fields.next(), "the netmask")?)?,
                (address, _) => address,
            };
            Connection::Tcp(*encryption, address)
        }
    };
    let method = method(one(fields.next(), "the authentication method")?, &connection)?;
    let mut rule = Rule {
        place: record.place.clone(),
        connection,
        databases,
        users,
        method,
        certificate: if method == Method::Cert { ClientCertificate::Named } else { ClientCertificate::No },
        certificate_name: CertificateName::Common,
        map: None,
        ldap: None,
    };
    let mut directory = Options::default();
    for word in fields.flatten() {
        option(&mut rule, &mut directory, word)?;
    }
    if method == Method::Ldap {
        rule.ldap = Some(Arc::new(directory.finish()?));
    }
    Ok(rule)
}

fn one<'a>(field: Option<&'a Vec<Word>>, what: &str) -> Result<&'a Word, String> {
    match field.map(Vec::as_slice) {
        Some([word]) => Ok(word),
        Some(_) => Err(format!("several values for {what}; write a line for each")),
        None => Err(format!("end of line before {what}")),
    }
}

fn database(word: &Word) -> Result<DatabaseName, String> {
    if word.is("all") {
        return Ok(DatabaseName::All);
    }
    if word.is("sameuser") {
        return Ok(DatabaseName::SameUser);
    }
    if word.is("replication") {
        return Ok(DatabaseName::Replication);
    }
    if word.is("samerole") || word.is("samegroup") {
        let role = &word.text;
        return Err(format!("{role} asks for members of roles, which Forebay does not know; list the databases"));
    }
    match word.text.strip_prefix('/') {
        Some(pattern) => Ok(DatabaseName::Pattern(Pattern::new(pattern)?)),
        None => Ok(DatabaseName::Name(word.text.clone())),
    }
}

/// Also the second name of a map.
pub(super) fn user(word: &Word) -> Result<UserName, String> {
    if word.is("all") {
        return Ok(UserName::All);
    }
    if word.text.starts_with('+') && !word.is_quoted {
        let role = quote(&word.text);
        return Err(format!(
            "{role} asks for members of a role, which Forebay does not know; list the users, or write a name \
             that begins with + in quotes"
        ));
    }
    match word.text.strip_prefix('/') {
        Some(pattern) => Ok(UserName::Pattern(Pattern::new(pattern)?)),
        None => Ok(UserName::Name(word.text.clone())),
    }
}

/// The address, and whether it needs no netmask in the next column.
fn address(word: &Word) -> Result<(Address, bool), String> {
    for (keyword, address) in [("all", Address::All), ("samehost", Address::SameHost), ("samenet", Address::SameNet)] {
        if word.is(keyword) {
            return Ok((address, true));
        }
    }
    let text = &word.text;
    let (host, length) = match text.split_once('/') {
        Some((host, length)) => (host, Some(length)),
        None => (text.as_str(), None),
    };
    let Ok(address) = host.parse::<IpAddr>() else {
        return Err(format!(
            "{} is no IP address; host names are not looked up, write an address block as 10.1.2.0/24 or ::1/128, \
             or all, samehost or samenet",
            quote(host)
        ));
    };
    let Some(length) = length else {
        return Ok((Address::Network { address, mask: address }, false));
    };
    let is_number = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let mask = length.parse().ok().filter(|_| is_number).and_then(|length| mask_of(address, length));
    let mask = mask.ok_or_else(|| format!("invalid CIDR mask in address {}", quote(text)))?;
    Ok((Address::Network { address, mask }, true))
}

fn with_mask(address: IpAddr, word: &Word) -> Result<Address, String> {
    let Ok(mask) = word.text.parse::<IpAddr>() else {
        let found = quote(&word.text);
        return Err(format!("invalid IP mask {found}; write the block as {address}/{}", width(address)));
    };
    if address.is_ipv4() != mask.is_ipv4() {
        return Err(format!("the address {address} and the mask {mask} are not of one family"));
    }
    Ok(Address::Network { address, mask })
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask_of(address: IpAddr, length: u32) -> Option<IpAddr> {
    let rest = width(address).checked_sub(length)?;
    Some(match address {
        IpAddr::V4(_) => Ipv4Addr::from(u32::MAX.checked_shl(rest).unwrap_or(0)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(u128::MAX.checked_shl(rest).unwrap_or(0)).into(),
    })
}

/// The length of the prefix that a mask is, if it is one.
pub(super) fn prefix(mask: IpAddr) -> Option<u32> {
    let length = match mask {
        IpAddr::V4(mask) => u32::from(mask).leading_ones(),
        IpAddr::V6(mask) => u128::from(mask).leading_ones(),
    };
    (mask_of(mask, length) == Some(mask)).then_some(length)
}

fn method(word: &Word, connection: &Connection) -> Result<Method, String> {
    let text = word.text.as_str();
    let is_local = *connection == Connection::Local;
    // On a Unix socket PostgreSQL takes ident for peer.
    if text == "ident" && is_local {
        return Ok(Method::Peer);
    }
    if text == "pam" {
        return Err("authentication method pam is not available: its modules would run inside of Forebay; use ldap, \
                    cert, or scram-sha-256 with postgres.auth_query"
            .into());
    }
    if ELSEWHERE.contains(&text) {
        return Err(format!(
            "authentication method {text} is not available; use scram-sha-256, cert, or peer on a Unix socket"
        ));
    }
    let Some(method) = METHODS.into_iter().find(|method| method.word() == text) else {
        let guess = nearest(text, METHODS.iter().map(|method| method.word()));
        let guess = guess.map_or(String::new(), |word| format!("; did you mean {word}?"));
        return Err(format!("invalid authentication method {}{guess}", quote(text)));
    };
    match (method, connection) {
        (Method::Peer, Connection::Tcp(..)) => Err("peer is for Unix sockets only: write it in a local record".into()),
        (Method::Cert, connection) if !matches!(connection, Connection::Tcp(Encryption::Tls, _)) => {
            Err("cert is for TLS only: write it in a hostssl record".into())
        }
        _ => Ok(method),
    }
}

fn option(rule: &mut Rule, directory: &mut Options, word: &Word) -> Result<(), String> {
    let text = word.text.as_str();
    let Some((name, value)) = text.split_once('=') else {
        // It may be a part of a password that lacks its quotes.
        let found = if rule.method == Method::Ldap { "***".to_owned() } else { quote(text) };
        return Err(format!("an option must be written as name=value (found {found})"));
    };
    let is_tls = matches!(rule.connection, Connection::Tcp(Encryption::Tls, _));
    match (name, value) {
        ("clientcert" | "clientname", _) if !is_tls => Err(format!("{name} is for hostssl records only")),
        ("clientcert", "verify-full") => {
            rule.certificate = ClientCertificate::Named;
            Ok(())
        }
        ("clientcert", "verify-ca") if rule.method == Method::Cert => {
            Err("clientcert may be verify-full only with the method cert".into())
        }
        ("clientcert", "verify-ca") => {
            rule.certificate = ClientCertificate::Known;
            Ok(())
        }
        ("clientname", "CN") => {
            rule.certificate_name = CertificateName::Common;
            Ok(())
        }
        ("clientname", "DN") => {
            rule.certificate_name = CertificateName::Distinguished;
            Ok(())
        }
        ("clientcert", _) => Err(format!("clientcert must be verify-ca or verify-full (found {})", quote(value))),
        ("clientname", _) => Err(format!("clientname must be CN or DN (found {})", quote(value))),
        ("map", _) if !matches!(rule.method, Method::Cert | Method::Peer) => {
            Err("map is for the methods cert and peer only".into())
        }
        ("map", _) => {
            // An empty one is none, as in PostgreSQL.
            rule.map = (!value.is_empty()).then(|| value.to_owned());
            Ok(())
        }
        _ if OPTIONS_ELSEWHERE.contains(&name) || name.starts_with("radius") => {
            Err(format!("option {name} belongs to a method that is not available"))
        }
        // Whatever the value is: of a password nothing is repeated.
        _ if name.starts_with("ldap") && rule.method != Method::Ldap => {
            Err(format!("option {name} is for the method ldap only"))
        }
        _ if directory.set(name, value, word.file.as_ref().unwrap_or(&rule.place.file))? => Ok(()),
        _ => {
            let ldap = if rule.method == Method::Ldap { ", and those of ldap" } else { "" };
            Err(format!("unknown option {}; there are clientcert, clientname and map{ldap}", quote(name)))
        }
    }
}
