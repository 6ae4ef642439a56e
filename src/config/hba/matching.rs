//! Which rule a connection falls under.

use std::io;
use std::net::IpAddr;

use super::{Address, Connection, DatabaseName, Encryption, Method, Rule, Rules, UserName};

/// What is known of a connection before anybody has proved anything.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Where it comes from.
    pub peer: Peer,
    /// As the client named it; nobody for physical replication.
    pub database: Option<&'a str>,
    /// As the client named itself.
    pub user: &'a str,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket.
    Unix,
    /// TCP, with TLS or without.
    Tcp {
        /// IPv4 as IPv4, also on a socket of IPv6.
        address: IpAddr,
        /// Encrypted.
        has_tls: bool,
    },
}

/// This machine's own addresses with their netmasks.
pub type Interfaces<'a> = &'a dyn Fn() -> io::Result<Vec<(IpAddr, IpAddr)>>;

/// The rule of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<'a> {
    /// It goes by this one.
    Rule(&'a Rule),
    /// It is refused by this one.
    Rejected(&'a Rule),
    /// None is about it: it is refused.
    None,
}

impl Rules {
    /// The first rule that fits decides, whether or not the client then passes it.
    ///
    /// # Errors
    /// A rule needs the machine's own addresses, and they cannot be had. Whether it would have refused is not known then:
    /// nobody may be let in.
    pub fn find(&self, facts: &Facts<'_>, interfaces: Interfaces<'_>) -> io::Result<Found<'_>> {
        for rule in &self.rules {
            if rule.fits(facts, interfaces)? {
                return Ok(if rule.method == Method::Reject { Found::Rejected(rule) } else { Found::Rule(rule) });
            }
        }
        Ok(Found::None)
    }

    /// Whether whom the certificate or the operating system calls `system` may log in as `user` by this map; without a
    /// map the two have to be the same.
    pub fn lets(&self, map: Option<&str>, system: &str, user: &str) -> bool {
        match map {
            None => system == user,
            Some(map) => self.mappings.iter().any(|mapping| mapping.map == map && mapping.lets(system, user)),
        }
    }
}

impl Rule {
    fn fits(&self, facts: &Facts<'_>, interfaces: Interfaces<'_>) -> io::Result<bool> {
        let is_named = || {
            self.databases.iter().any(|name| name.fits(facts)) && self.users.iter().any(|name| name.fits(facts.user))
        };
        match (&self.connection, facts.peer) {
            (Connection::Local, Peer::Unix) => Ok(is_named()),
            (Connection::Tcp(encryption, address), Peer::Tcp { address: peer, has_tls }) => {
                // The names first: asking the system for its addresses costs more.
                Ok(encryption.fits(has_tls) && is_named() && address.fits(peer, interfaces)?)
            }
            _ => Ok(false),
        }
    }
}

impl Encryption {
    fn fits(self, has_tls: bool) -> bool {
        match self {
            Encryption::Any | Encryption::NoGss => true,
            Encryption::Tls => has_tls,
            Encryption::NoTls => !has_tls,
            Encryption::Gss => false,
        }
    }
}

impl DatabaseName {
    fn fits(&self, facts: &Facts<'_>) -> bool {
        match (self, facts.database) {
            (DatabaseName::Replication, database) => database.is_none(),
            // Nothing else is about physical replication, not even all.
            (_, None) => false,
            (DatabaseName::All, _) => true,
            (DatabaseName::SameUser, Some(database)) => database == facts.user,
            (DatabaseName::Name(name), Some(database)) => name == database,
            (DatabaseName::Pattern(pattern), Some(database)) => pattern.fits(database),
        }
    }
}

impl UserName {
    pub(super) fn fits(&self, user: &str) -> bool {
        match self {
            UserName::All => true,
            UserName::Name(name) => name == user,
            UserName::Pattern(pattern) => pattern.fits(user),
        }
    }
}

impl Address {
    fn fits(self, peer: IpAddr, interfaces: Interfaces<'_>) -> io::Result<bool> {
        Ok(match self {
            Address::All => true,
            Address::Network { address, mask } => is_within(peer, address, mask),
            Address::SameHost => interfaces()?.iter().any(|(address, _)| *address == peer),
            Address::SameNet => interfaces()?.iter().any(|(address, mask)| is_within(peer, *address, *mask)),
        })
    }
}

fn is_within(peer: IpAddr, address: IpAddr, mask: IpAddr) -> bool {
    match (peer, address, mask) {
        (IpAddr::V4(peer), IpAddr::V4(address), IpAddr::V4(mask)) => {
            (u32::from(peer) ^ u32::from(address)) & u32::from(mask) == 0
        }
        (IpAddr::V6(peer), IpAddr::V6(address), IpAddr::V6(mask)) => {
            (u128::from(peer) ^ u128::from(address)) & u128::from(mask) == 0
        }
        _ => false,
    }
}
