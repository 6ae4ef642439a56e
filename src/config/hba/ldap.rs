//! The options of the method `ldap`, as PostgreSQL has them: which directories are asked, and how.
//!
//! They are gathered while a record is read ([`Options::set`]) and looked at together at its end ([`Options::finish`]),
//! as an URL stands for several of them.

use std::sync::Arc;

use crate::config::model::Secret;
use crate::config::setting::quote;
use crate::wire::ldap::{Filter, Scope, is_attribute};

/// More would outlast every client's patience.
const MOST_SERVERS: usize = 16;

/// Which directories are asked, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Ldap {
    /// In the order in which they are tried; host names and addresses, of IPv6 without brackets.
    pub hosts: Vec<String>,
    /// Of all of them.
    pub port: u16,
    /// How connections to them are protected.
    pub protection: Protection,
    /// How the name of a user's entry is known.
    pub entry: Entry,
    /// Where `ldapbindpasswd` stands, if anywhere.
    pub secret_file: Option<Arc<str>>,
    /// The options as they were written, passwords masked.
    shown: Vec<String>,
}

/// How connections to a directory are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Not at all.
    Nothing,
    /// `ldaptls=1`: TLS is asked for on a connection in clear text.
    StartTls,
    /// `ldapscheme=ldaps`: TLS from the first byte on.
    Tls,
}

/// How the name is known as which a user's password is tried.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// It is made of the user's, between these two.
    Made {
        /// `ldapprefix`
        prefix: String,
        /// `ldapsuffix`
        suffix: String,
    },
    /// It is looked for.
    Found {
        /// `ldapbasedn`
        base: String,
        /// Only an URL can say something else than the subtree.
        scope: Scope,
        /// `ldapsearchfilter`, or what `ldapsearchattribute` stands for.
        filter: Filter,
        /// `ldapbinddn` and `ldapbindpasswd`: as whom. `None`: as nobody.
        searcher: Option<(String, Secret)>,
    },
}

impl Ldap {
    /// `name=value`, in the order in which they were written, passwords as `***`.
    pub fn options(&self) -> &[String] {
        &self.shown
    }

    /// What its author should look at, in words.
    pub(super) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Entry::Found { base, scope, filter, .. } = &self.entry {
            if !filter.names_the_user() {
                doubts.push(
                    "ldapsearchfilter finds an entry that is not of $username: whoever knows its password logs in as \
                     any user"
                        .to_owned(),
                );
            }
            if *scope == Scope::Base {
                let base = quote(base);
                doubts.push(format!("the scope base finds nothing but {base} itself; write sub in ldapurl"));
            }
        }
        let is_near = |host: &String| {
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        if self.protection == Protection::Nothing && !self.hosts.iter().all(is_near) {
            doubts.push(
                "passwords go to the LDAP server as they are over the network; write ldaptls=1, or ldapscheme=ldaps"
                    .to_owned(),
            );
        }
        doubts
    }
}

/// What was read of a record's options so far.
#[derive(Debug, Default)]
pub(super) struct Options {
    server: Option<String>,
    port: Option<u16>,
    is_ldaps: Option<bool>,
    start_tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<Secret>,
    secret_file: Option<Arc<str>>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: Option<Scope>,
    shown: Vec<String>,
}

impl Options {
    /// Takes an option that stands in `file`. `Ok(false)`: it is none of LDAP's.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn set(&mut self, name: &str, value: &str, file: &Arc<str>) -> Result<bool, String> {
        match name {
            "ldapurl" => self.url(value).map_err(|why| format!("cannot read ldapurl {}: {why}", quote(value)))?,
            "ldapserver" => self.server = Some(value.to_owned()),
            "ldapport" => {
                let port = value.parse().ok().filter(|port| *port != 0);
                self.port =
                    Some(port.ok_or_else(|| format!("ldapport must be from 1 to 65535 (found {})", quote(value)))?);
            }
            "ldapscheme" => {
                self.is_ldaps = Some(match value {
                    "ldap" => false,
                    "ldaps" => true,
                    _ => return Err(format!("ldapscheme must be ldap or ldaps (found {})", quote(value))),
                });
            }
            "ldaptls" => {
                self.start_tls = match value {
                    "1" => true,
                    "0" => false,
                    _ => return Err(format!("ldaptls must be 1 or 0 (found {})", quote(value))),
                };
            }
            "ldapprefix" => self.prefix = Some(value.to_owned()),
            "ldapsuffix" => self.suffix = Some(value.to_owned()),
            "ldapbasedn" => self.base = Some(value.to_owned()),
            "ldapbinddn" => self.bind_dn = Some(value.to_owned()),
            "ldapbindpasswd" => {
                self.bind_password = Some(Secret(value.to_owned()));
                self.secret_file = Some(Arc::clone(file));
            }
            "ldapsearchattribute" => self.attribute = Some(value.to_owned()),
            "ldapsearchfilter" => self.filter = Some(value.to_owned()),
            _ => return Ok(false),
        }
        let value = if name == "ldapbindpasswd" && !value.is_empty() { "***" } else { value };
        self.shown.push(format!("{name}={value}"));
        Ok(true)
    }

    /// `ldap[s]://host[:port]/basedn[?[attribute][?[scope][?[filter]]]]` (RFC 4516)
    fn url(&mut self, url: &str) -> Result<(), String> {
        let (scheme, rest) = url.split_once("://").ok_or("it must begin with ldap:// or ldaps://")?;
        self.is_ldaps = Some(match scheme {
            "ldap" => false,
            "ldaps" => true,
            _ => return Err(format!("its scheme must be ldap or ldaps (found {})", quote(scheme))),
        });
        let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (host, None),
        };
        if let Some(port) = port {
            let port = port.parse().ok().filter(|port| *port != 0);
            self.port = Some(port.ok_or("its port must be from 1 to 65535")?);
        }
        if !host.is_empty() {
            self.server = Some(decoded(host)?);
        }
        let mut parts = rest.split('?');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        if let Some(base) = next() {
            self.base = Some(decoded(base)?);
            // Without a word about it a URL means the entry that it names.
            self.scope = Some(Scope::Base);
        }
        if let Some(attributes) = next() {
            let first = attributes.split(',').next().unwrap_or_default();
            self.attribute = Some(decoded(first)?);
        }
        if let Some(scope) = next() {
            self.scope = Some(match scope {
                "base" => Scope::Base,
                "one" | "onelevel" => Scope::One,
                "sub" | "subtree" => Scope::Subtree,
                _ => return Err(format!("its scope must be base, one or sub (found {})", quote(scope))),
            });
        }
        if let Some(filter) = next() {
            self.filter = Some(decoded(filter)?);
        }
        match next() {
            Some(extension) => Err(format!("extensions are not known (found {})", quote(extension))),
            None => Ok(()),
        }
    }

    /// All of them together.
    ///
    /// # Errors
    /// What is wrong with them, in words; what PostgreSQL refuses is refused.
    pub(super) fn finish(self) -> Result<Ldap, String> {
        let is_ldaps = self.is_ldaps == Some(true);
        let protection = match (is_ldaps, self.start_tls) {
            (true, true) => return Err("cannot use ldaptls together with ldaps, which is TLS already".into()),
            (true, false) => Protection::Tls,
            (false, true) => Protection::StartTls,
            (false, false) => Protection::Nothing,
        };
        let is_made = self.prefix.is_some() || self.suffix.is_some();
        let is_found = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let entry = match (is_made, self.base) {
            (true, _) if is_found => {
                return Err("cannot mix ldapprefix or ldapsuffix, which make the name of an entry, with ldapbasedn, \
                            ldapbinddn, ldapbindpasswd, ldapsearchattribute or ldapsearchfilter, which look for it"
                    .into());
            }
            (true, _) => {
                Entry::Made { prefix: self.prefix.unwrap_or_default(), suffix: self.suffix.unwrap_or_default() }
            }
            (false, None) => {
                return Err("authentication method ldap needs ldapbasedn, ldapprefix or ldapsuffix".into());
            }
            (false, Some(base)) => {
                let filter = match (self.attribute, self.filter) {
                    (Some(_), Some(_)) => {
                        return Err("cannot use ldapsearchattribute together with ldapsearchfilter".into());
                    }
                    (None, Some(text)) => Filter::parse(&text)
                        .map_err(|why| format!("ldapsearchfilter {}: the filter {why}", quote(&text)))?,
                    (attribute, None) => {
                        let attribute = attribute.unwrap_or_else(|| "uid".to_owned());
                        if !is_attribute(&attribute) {
                            let found = quote(&attribute);
                            return Err(format!("ldapsearchattribute must be one attribute (found {found})"));
                        }
                        Filter::of_attribute(&attribute)
                    }
                };
                Entry::Found {
                    base,
                    scope: self.scope.unwrap_or(Scope::Subtree),
                    filter,
                    searcher: searcher(self.bind_dn, self.bind_password)?,
                }
            }
        };
        let hosts = hosts(self.server.as_deref().unwrap_or_default())?;
        let port = self.port.unwrap_or(if is_ldaps { 636 } else { 389 });
        Ok(Ldap { hosts, port, protection, entry, secret_file: self.secret_file, shown: self.shown })
    }
}

/// A name without a password would log in as nobody, on servers that let it (RFC 4513, section 5.1.2).
fn searcher(name: Option<String>, password: Option<Secret>) -> Result<Option<(String, Secret)>, String> {
    let name = name.filter(|name| !name.is_empty());
    match (name, password.filter(|password| !password.0.is_empty())) {
        (Some(name), Some(password)) => Ok(Some((name, password))),
        (None, None) => Ok(None),
        (Some(_), None) => Err("ldapbinddn needs ldapbindpasswd; without both, the search is made as nobody".into()),
        (None, Some(_)) => Err("ldapbindpasswd needs ldapbinddn".into()),
    }
}

fn hosts(servers: &str) -> Result<Vec<String>, String> {
    let host = |text: &str| {
        let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let is_v6 = inside.parse::<std::net::Ipv6Addr>().is_ok();
        let is_name = inside.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        match is_v6 || (is_name && inside.len() == text.len()) {
            true => Ok(inside.to_owned()),
            false if text.contains(':') => {
                Err(format!("ldapserver {} must be a host alone; write ldapport for the port", quote(text)))
            }
            false => Err(format!("ldapserver {} is no host", quote(text))),
        }
    };
    let hosts = servers.split_ascii_whitespace().map(host).collect::<Result<Vec<_>, _>>()?;
    match hosts.len() {
        0 => {
            Err("authentication method ldap needs ldapserver, or a host in ldapurl; DNS is not asked for servers"
                .into())
        }
        1..=MOST_SERVERS => Ok(hosts),
        many => Err(format!("ldapserver has {many} hosts, of which {MOST_SERVERS} are tried")),
    }
}

/// Without `%2c` and the like.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("{} is no text", quote(text));
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let digits = piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        bytes.push(digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(wrong)?);
        bytes.extend_from_slice(piece.get(2..).unwrap_or_default().as_bytes());
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(wrong)
}
