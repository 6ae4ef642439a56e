//! Addresses: where to listen, and where the nodes are.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::model::{Listen, ListenAddr, ListenRoute, Node, NodeRole};
use super::reader::Reader;
use super::setting::{At, Rules, Secrets, Setting, Value, found_type, list, quote};

/// A Unix socket's path must fit `sun_path` with its closing zero byte (`unix(7)`).
const LONGEST_SOCKET_PATH: usize = 107;

/// A host and, if written, a port. The host is a name, an address, or a folder that starts with `/`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint<'a> {
    pub host: &'a str,
    pub port: Option<u16>,
}

/// Reads `host`, `host:port`, `[::1]:port`, `/folder`, `/folder:port`. The error continues a sentence that
/// starts with the text.
pub(super) fn endpoint(text: &str) -> Result<Endpoint<'_>, String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has no closing bracket")?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err("has no IPv6 address between its brackets".to_owned());
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok(Endpoint { host, port: Some(port_number(port)?) }),
            None if rest.is_empty() => Ok(Endpoint { host, port: None }),
            None => Err("must have a colon and a port after the bracket".to_owned()),
        };
    }
    if text.starts_with('/') {
        return match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Endpoint { host, port: Some(port_number(port)?) })
            }
            _ => Ok(Endpoint { host: text, port: None }),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("is an IPv6 address; write it in brackets: \"[{text}]:PORT\""));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port_number(port)?)),
        None => (text, None),
    };
    check_host(host)?;
    Ok(Endpoint { host, port })
}

fn port_number(text: &str) -> Result<u16, String> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if is_number && port > 0 => Ok(port),
        _ => Err("must end with a port from 1 to 65535".to_owned()),
    }
}

/// Letters, digits, `.`, `-` and `_`: anything else is a typing error, and a resolver's answer would not say so.
fn check_host(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    match host.chars().find(|&c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))) {
        Some(c) => Err(format!("has {} in its host name", quote(&c.to_string()))),
        None => Ok(()),
    }
}

/// The text of an address, or an error at its position. A URL is refused unseen, as it may hold a password.
fn address_text<'v>(value: &'v Value<'_>, at: &At, form: &str, reader: &mut Reader<'_>) -> Option<&'v str> {
    match value.get_ref() {
        DeValue::String(text) if text.contains('@') || text.contains("://") => {
            reader.error(value, format!("{} must be {form}, not a URL", at.key));
            None
        }
        DeValue::String(text) if text.is_empty() => {
            reader.error(value, format!("{} must be {form} (found \"\")", at.key));
            None
        }
        DeValue::String(text) => Some(text),
        other => {
            reader.error(value, format!("{} must be {form} ({})", at.key, found_type(other)));
            None
        }
    }
}

/// Checks a `host:port` that is kept as text because it is resolved when it is dialled.
pub(super) fn check_endpoint(text: &str) -> Result<(), String> {
    if text.contains('@') || text.contains("://") {
        return Err("must hold \"host:port\", not a URL".to_owned());
    }
    match endpoint(text) {
        Ok(Endpoint { host, .. }) if host.starts_with('/') => {
            Err(format!("must hold \"host:port\", not a path (found {})", quote(text)))
        }
        Ok(_) => Ok(()),
        Err(why) => Err(format!("{} {why}", quote(text))),
    }
}

const LISTEN_FORM: &str = "\"host:port\", \":port\" for every address, or the path of a Unix socket";

/// A TCP address to listen at. A host name is asked for here, once; its IPv4 address is preferred.
fn tcp_address(text: &str, reader: &Reader<'_>) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix('*').unwrap_or(text).strip_prefix(':')
        && !port.contains(':')
    {
        return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port_number(port)?)));
    }
    let Endpoint { host, port } = endpoint(text)?;
    let port = port.ok_or("has no port; write \"host:port\"")?;
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return Ok(SocketAddr::from((address, port)));
    }
    let found = reader.resolve(host, port).map_err(|error| format!("cannot be resolved: {error}"))?;
    let preferred = found.iter().find(|address| address.is_ipv4()).or(found.first());
    preferred.copied().ok_or_else(|| "has no address".to_owned())
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_dir() {
        let folder = text.trim_end_matches('/');
        return Err(format!("is a folder; write the socket's path: \"{folder}/.s.PGSQL.6432\""));
    }
    if text.len() > LONGEST_SOCKET_PATH {
        return Err(format!("is longer than a socket's path may be ({LONGEST_SOCKET_PATH} bytes)"));
    }
    Ok(path.to_owned())
}

impl Setting for ListenAddr {
    fn form(_: Rules) -> String {
        "address".to_owned()
    }
    fn blank() -> Self {
        ListenAddr::Unix(PathBuf::new())
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let text = address_text(value, at, LISTEN_FORM, reader)?;
        let read = if text.starts_with('/') {
            socket_path(text).map(ListenAddr::Unix)
        } else {
            tcp_address(text, reader).map(ListenAddr::Tcp)
        };
        read.map_err(|why| reader.error(value, format!("{}: {} {why}", at.key, quote(text)))).ok()
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl std::fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddr::Tcp(address) => write!(f, "{address}"),
            ListenAddr::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Setting for Vec<ListenAddr> {
    fn form(_: Rules) -> String {
        "list of addresses".to_owned()
    }
    fn blank() -> Self {
        Vec::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        list(value, at, reader, ListenAddr::parse)
    }
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String> {
        Some(list_literal(self, |address| address.literal(rules, secrets)))
    }
}

impl Setting for Vec<SocketAddr> {
    fn form(_: Rules) -> String {
        "list of host:port".to_owned()
    }
    fn blank() -> Self {
        Vec::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        list(value, at, reader, |value, at, reader| {
            let text = address_text(value, at, "\"host:port\"", reader)?;
            let read = tcp_address(text, reader);
            read.map_err(|why| reader.error(value, format!("{}: {} {why}", at.key, quote(text)))).ok()
        })
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(list_literal(self, |address| Some(quote(&address.to_string()))))
    }
}

impl Setting for Vec<Listen> {
    fn form(_: Rules) -> String {
        "list of addresses or tables".to_owned()
    }
    fn blank() -> Self {
        Vec::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        list(value, at, reader, |value, at, reader| match value.get_ref() {
            DeValue::Table(table) => {
                let errors = reader.error_count();
                let listen = reader.section::<Listen>(table, value, &at.place);
                (reader.error_count() == errors).then_some(listen)
            }
            _ => ListenAddr::parse(value, at, reader).map(|addr| Listen { addr, route: ListenRoute::Auto }),
        })
    }
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String> {
        Some(list_literal(self, |listen| {
            let addr = listen.addr.literal(rules, secrets)?;
            match listen.route {
                ListenRoute::Auto => Some(addr),
                route => Some(format!("{{ addr = {addr}, route = {} }}", route.literal(rules, secrets)?)),
            }
        }))
    }
}

impl Setting for Vec<Node> {
    fn form(_: Rules) -> String {
        "list of addresses or tables".to_owned()
    }
    fn blank() -> Self {
        Vec::new()
    }
    /// Nodes without a name are `pg1`, `pg2`, ... by their place in the list.
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let mut nodes = list(value, at, reader, |value, at, reader| match value.get_ref() {
            DeValue::Table(table) => {
                let errors = reader.error_count();
                let node = reader.section::<Node>(table, value, &at.place);
                if let Err(why) = check_node_host(&node.host)
                    && !node.host.is_empty()
                {
                    let place = format!("{}.host", at.place);
                    reader.error_in(&place, format!("{}.host {why}", at.key));
                }
                (reader.error_count() == errors).then_some(node)
            }
            _ => node_from_text(value, at, reader),
        })?;
        for (i, node) in nodes.iter_mut().enumerate() {
            if node.name.is_empty() {
                node.name = format!("pg{}", i + 1);
            }
        }
        Some(nodes)
    }
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String> {
        Some(list_literal(self, |node| {
            Some(format!(
                "{{ name = {}, host = {}, port = {}, weight = {}, role = {}, promote = {} }}",
                quote(&node.name),
                quote(&node.host),
                node.port,
                node.weight,
                node.role.literal(rules, secrets)?,
                node.promote
            ))
        }))
    }
}

fn node_from_text(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Node> {
    let form = "\"host:port\", \"/socket/folder:port\" or a table { host = \"...\", port = 5432 }";
    let text = address_text(value, at, form, reader)?;
    match endpoint(text) {
        Ok(Endpoint { host, port }) => Some(Node {
            name: String::new(),
            host: host.to_owned(),
            port: port.unwrap_or(5432),
            weight: 1,
            role: NodeRole::Auto,
            promote: true,
        }),
        Err(why) => {
            reader.error(value, format!("{}: {} {why}", at.key, quote(text)));
            None
        }
    }
}

/// A host alone, as in a node's table: there an IPv6 address needs no brackets, and a port has its own key.
fn check_node_host(host: &str) -> Result<(), String> {
    if host.contains('@') || host.contains("://") {
        return Err("must be a host name or an address, not a URL".to_owned());
    }
    if host.starts_with('/') || host.parse::<Ipv6Addr>().is_ok() {
        return Ok(());
    }
    if host.contains(':') {
        return Err(format!("must be a host alone (found {}); write the port as port = 5432", quote(host)));
    }
    check_host(host).map_err(|why| format!("{why} (found {})", quote(host)))
}

/// `[a, b]`
fn list_literal<T>(values: &[T], literal: impl Fn(&T) -> Option<String>) -> String {
    format!("[{}]", values.iter().filter_map(literal).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<(&str, Option<u16>)> {
        endpoint(text).ok().map(|e| (e.host, e.port))
    }

    #[test]
    fn endpoints_are_hosts_addresses_and_socket_folders() {
        assert_eq!(read("db1:5433"), Some(("db1", Some(5433))));
        assert_eq!(read("db1"), Some(("db1", None)));
        assert_eq!(read("127.0.0.1:1"), Some(("127.0.0.1", Some(1))));
        assert_eq!(read("[::1]:5432"), Some(("::1", Some(5432))));
        assert_eq!(read("[::1]"), Some(("::1", None)));
        assert_eq!(read("/run/pg:5432"), Some(("/run/pg", Some(5432))));
        assert_eq!(read("/run/pg"), Some(("/run/pg", None)));
        for wrong in ["", ":5432", "db1:", "db1:0", "db1:65536", "db1:+1", "::1", "[::1", "[::1]5", "a b", "a:1:2"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_bare_ipv6_address_is_told_about_brackets() {
        assert!(endpoint("::1").unwrap_err().contains("[::1]:PORT"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = endpoint(&text);
        }
    }
}
