//! Host-based rules: `pg_hba.conf` and `pg_ident.conf` as PostgreSQL 17 reads them, and what they decide.
//!
//! Two files become one value, [`Rules`], or a list of errors with file and line; never a part of them. What would mean
//! something else here than in PostgreSQL is refused with the way out: a rule that is misread lets somebody in.
//! The configuration reads the files ([`load`]), the login asks [`Rules::find`] once a connection.
//!
//! PostgreSQL's sides of it: chapters 20.1 and 20.2 of its manual, `hba.c`, and the view `pg_hba_file_rules`.

mod file;
mod ident;
mod ldap;
mod matching;
mod pattern;
mod rule;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

pub use file::{Disk, Files};
pub use ident::Mapping;
pub use ldap::{Entry, Ldap, Protection};
pub use matching::{Facts, Found, Interfaces, Peer};
pub use pattern::Pattern;

use super::diagnostic::Diagnostic;

/// Errors that are told of at a time.
const MOST_ERRORS: usize = 100;

/// The rules in force.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Of `pg_hba.conf` and what it includes, in order: the first that fits decides.
    pub rules: Vec<Rule>,
    /// Of `pg_ident.conf` and what it includes, in order.
    pub mappings: Vec<Mapping>,
}

/// One record of `pg_hba.conf`. Its `Display` is a record that means the same, but for a password, which it hides.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Where it stands.
    pub place: Place,
    /// Which connections it is about.
    pub connection: Connection,
    /// One of these has to fit.
    pub databases: Vec<DatabaseName>,
    /// One of these has to fit.
    pub users: Vec<UserName>,
    /// How the client proves who it is.
    pub method: Method,
    /// What else its certificate has to show.
    pub certificate: ClientCertificate,
    /// What of the certificate is the name.
    pub certificate_name: CertificateName,
    /// The map of `pg_ident.conf` between that name, or the operating system's, and the user.
    pub map: Option<String>,
    /// The directory; there with [`Method::Ldap`] and only then.
    pub ldap: Option<Arc<Ldap>>,
}

/// File and line, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As it was opened.
    pub file: Arc<str>,
    /// The first one, of a record that is continued.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The type of a record, and of all but `local` the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// Unix sockets.
    Local,
    /// TCP.
    Tcp(Encryption, Address),
}

/// What a record of TCP says about encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// `host`
    Any,
    /// `hostssl`
    Tls,
    /// `hostnossl`
    NoTls,
    /// `hostgssenc`: never here, GSSAPI is not spoken.
    Gss,
    /// `hostnogssenc`: always here.
    NoGss,
}

impl Encryption {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Encryption::Any => "host",
            Encryption::Tls => "hostssl",
            Encryption::NoTls => "hostnossl",
            Encryption::Gss => "hostgssenc",
            Encryption::NoGss => "hostnogssenc",
        }
    }
}

/// The address column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// `all`
    All,
    /// `samehost`: any address of this machine.
    SameHost,
    /// `samenet`: any address of a network that this machine is connected to.
    SameNet,
    /// A network; the mask is of the same family, and need not be a prefix.
    Network {
        /// Only the bits of the mask count.
        address: IpAddr,
        /// Ones where addresses have to be equal.
        mask: IpAddr,
    },
}

/// One name of the database column.
#[derive(Debug, Clone, PartialEq)]
pub enum DatabaseName {
    /// `all`
    All,
    /// `sameuser`: the database that is called as the user.
    SameUser,
    /// `replication`: physical replication, which has no database.
    Replication,
    /// A name.
    Name(String),
    /// `/regex`
    Pattern(Pattern),
}

/// One name of the user column.
#[derive(Debug, Clone, PartialEq)]
pub enum UserName {
    /// `all`
    All,
    /// A name.
    Name(String),
    /// `/regex`
    Pattern(Pattern),
}

/// The method column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Nothing is asked.
    Trust,
    /// Nobody comes in.
    Reject,
    /// MD5, or SCRAM for those whose password is a SCRAM verifier.
    Md5,
    /// The password as it is.
    Password,
    /// SCRAM.
    ScramSha256,
    /// The certificate is the login.
    Cert,
    /// The operating system knows who is at the other end of a Unix socket.
    Peer,
    /// A directory is asked whether the password is right.
    Ldap,
}

impl Method {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Method::Trust => "trust",
            Method::Reject => "reject",
            Method::Md5 => "md5",
            Method::Password => "password",
            Method::ScramSha256 => "scram-sha-256",
            Method::Cert => "cert",
            Method::Peer => "peer",
            Method::Ldap => "ldap",
        }
    }
}

/// `clientcert`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Not asked for.
    No,
    /// `verify-ca`: of a known authority.
    Known,
    /// `verify-full`, and always for `cert`: its name has to be the user's as well.
    Named,
}

/// `clientname`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// `CN`: the common name.
    Common,
    /// `DN`: the distinguished name, in the order and with the escapes of RFC 2253.
    Distinguished,
}

/// What reading brought: rules if there is no error.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    /// Of no use if there are errors.
    pub rules: Rules,
    /// In the order of the files.
    pub errors: Vec<Diagnostic>,
    /// What their author should look at.
    pub warnings: Vec<Diagnostic>,
}

/// Reads both files, and all that they include. Nothing is asked of the network.
pub fn load(hba_file: &Path, ident_file: Option<&Path>, files: &dyn Files) -> Read {
    let mut read = Read::default();
    let records = file::read(hba_file, files, &mut read.errors);
    let had_errors = !read.errors.is_empty();
    for record in &records {
        match rule::parse(record) {
            Ok(rule) => {
                let doubts = rule.ldap.iter().flat_map(|ldap| ldap.doubts());
                read.warnings.extend(doubts.map(|message| at(&rule.place, message)));
                read.rules.rules.push(rule);
            }
            Err(message) => report(&mut read.errors, &record.place, message),
        }
    }
    if records.is_empty() && !had_errors {
        let message = "it holds no rule, so nobody could log in".to_owned();
        read.errors.push(at(&Place { file: hba_file.display().to_string().into(), line: 0 }, message));
    }
    if let Some(ident_file) = ident_file {
        for record in file::read(ident_file, files, &mut read.errors) {
            match ident::parse(&record, &mut read.warnings) {
                Ok(mapping) => read.rules.mappings.push(mapping),
                Err(message) => report(&mut read.errors, &record.place, message),
            }
        }
    }
    for rule in &read.rules.rules {
        let Some(map) = &rule.map else { continue };
        if ident_file.is_none() {
            let message = format!("map={map} needs a file of maps; name it as postgres.ident_file");
            report(&mut read.errors, &rule.place, message);
        } else if !read.rules.mappings.iter().any(|mapping| mapping.map == *map) {
            read.warnings.push(at(&rule.place, format!("there is no map {map:?}: this rule lets nobody in")));
        }
    }
    read
}

/// Adds an error. What is found twice, in a file that is included twice, is told once; of very many the first are enough.
fn report(errors: &mut Vec<Diagnostic>, place: &Place, message: String) {
    let error = at(place, message);
    if errors.len() < MOST_ERRORS && !errors.contains(&error) {
        errors.push(error);
    }
}

fn at(place: &Place, message: String) -> Diagnostic {
    Diagnostic { file: place.file.to_string(), line: place.line, column: 0, message }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.connection_type(), self.database_list(), self.user_list())?;
        if let Connection::Tcp(_, address) = &self.connection {
            write!(f, " {address}")?;
        }
        f.write_str(" ")?;
        f.write_str(self.method.word())?;
        for option in self.options() {
            write!(f, " {}", quoted(&option, false))?;
        }
        Ok(())
    }
}

impl Rule {
    /// `local`, `host`, ...
    pub fn connection_type(&self) -> &'static str {
        match &self.connection {
            Connection::Local => "local",
            Connection::Tcp(encryption, _) => encryption.word(),
        }
    }

    /// The database column, with quotes where they are needed.
    pub fn database_list(&self) -> String {
        let name = |name: &DatabaseName| match name {
            DatabaseName::All => "all".to_owned(),
            DatabaseName::SameUser => "sameuser".to_owned(),
            DatabaseName::Replication => "replication".to_owned(),
            DatabaseName::Name(name) => quoted(name, true),
            DatabaseName::Pattern(pattern) => quoted(&pattern.to_string(), false),
        };
        self.databases.iter().map(name).collect::<Vec<_>>().join(",")
    }

    /// The user column, with quotes where they are needed.
    pub fn user_list(&self) -> String {
        self.users.iter().map(UserName::to_string).collect::<Vec<_>>().join(",")
    }

    /// `name=value`, those that say more than the method does.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        match self.certificate {
            ClientCertificate::Named if self.method != Method::Cert => options.push("clientcert=verify-full".into()),
            ClientCertificate::Known => options.push("clientcert=verify-ca".into()),
            _ => {}
        }
        if self.certificate_name == CertificateName::Distinguished {
            options.push("clientname=DN".into());
        }
        options.extend(self.map.iter().map(|map| format!("map={map}")));
        options.extend(self.ldap.iter().flat_map(|ldap| ldap.options()).cloned());
        options
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserName::All => f.write_str("all"),
            UserName::Name(name) => f.write_str(&quoted(name, true)),
            UserName::Pattern(pattern) => f.write_str(&quoted(&pattern.to_string(), false)),
        }
    }
}

impl Address {
    /// Nobody but this machine has such an address.
    pub fn is_of_this_machine(self) -> bool {
        match self {
            Address::Network { address: IpAddr::V4(address), mask } => {
                let least = rule::prefix(mask).is_some_and(|length| length >= 8);
                least && address.is_loopback()
            }
            Address::Network { address, mask } => rule::prefix(mask) == Some(128) && address.is_loopback(),
            Address::SameHost => true,
            Address::All | Address::SameNet => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::All => f.write_str("all"),
            Address::SameHost => f.write_str("samehost"),
            Address::SameNet => f.write_str("samenet"),
            Address::Network { address, mask } => match rule::prefix(*mask) {
                Some(length) => write!(f, "{address}/{length}"),
                None => write!(f, "{address} {mask}"),
            },
        }
    }
}

/// A word of the file. A name that would mean something else without quotes gets them.
fn quoted(text: &str, is_name: bool) -> String {
    const WORDS: &[&str] = &["all", "sameuser", "samerole", "samegroup", "replication"];
    let is_plain =
        !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || matches!(c, ',' | '"' | '#' | '\\'));
    let is_word = is_name && (WORDS.contains(&text) || text.starts_with(['+', '/']));
    if is_plain && !is_word && !text.starts_with('@') {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
