//! Both ends of a proxy: what `bind` and `server` say.

use super::lex::Line;
use super::words;
use crate::import::ImportError;
use crate::import::source::{check_host, endpoint, parts, port};

/// Ports of one `bind` at most: a range of more is not for databases.
const MOST_PORTS: u16 = 16;

/// Where clients connect.
#[derive(Debug, Clone, Default)]
pub(super) struct Bind {
    /// As Forebay writes them.
    pub addresses: Vec<String>,
    pub is_tls: bool,
    pub cert: Option<String>,
    pub ca: Option<String>,
    /// Clients must show a certificate.
    pub asks_certificate: bool,
    pub min_version: Option<&'static str>,
    /// Who connects sends a PROXY header.
    pub takes_proxy: bool,
    /// Words that become nothing, with why.
    pub left: Vec<(String, &'static str)>,
}

/// A server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub line: Line,
    pub name: String,
    /// A host, or the path of a socket.
    pub host: String,
    /// `None` if it is not said, or said in relation to the client's.
    pub port: Option<u16>,
    pub options: Options,
}

impl Server {
    /// The address alone, which variables of the environment may hide.
    pub(super) fn has_variable(&self) -> bool {
        self.host.contains('$') || self.line.word(2).contains('$')
    }
}

/// What `server` and `default-server` may say of a server.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub weight: Option<u32>,
    pub is_backup: bool,
    pub is_disabled: bool,
    pub max_connections: Option<u64>,
    pub is_tls: bool,
    pub verifies: Option<bool>,
    pub ca: Option<String>,
    pub cert: Option<String>,
    pub sends_proxy: bool,
    /// Words that become nothing, with why.
    pub left: Vec<(String, &'static str)>,
}

/// An address with its port, or range of ports.
fn address(text: &str) -> Result<Vec<String>, String> {
    let bare =
        ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"].iter().find_map(|start| text.strip_prefix(start)).unwrap_or(text);
    if let Some(path) = text.strip_prefix("unix@").or(text.starts_with('/').then_some(text)) {
        return Ok(vec![path.to_owned()]);
    }
    if bare.contains(['@', '$']) {
        return Err(format!("{} cannot be listened at here; write the address", crate::config::quote(text)));
    }
    let (host, ports) = bare.rsplit_once(':').ok_or_else(|| format!("{} has no port", crate::config::quote(text)))?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first)?, port(last)?);
    if last < first || last - first >= MOST_PORTS {
        return Err(format!("a range of ports may have {MOST_PORTS} at most"));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((first..=last)
        .map(|port| match host {
            "" | "*" | "0.0.0.0" => format!("*:{port}"),
            host => endpoint(host, port),
        })
        .collect())
}

/// `bind ADDRESS... [words]`. Addresses that cannot be are told in `left`.
pub(super) fn bind(line: &Line, base: &dyn Fn(&str) -> String) -> Result<Bind, ImportError> {
    let mut bind = Bind::default();
    for text in parts(line.word(1)) {
        bind.addresses.extend(address(text).map_err(|why| line.place.error(why))?);
    }
    if bind.addresses.is_empty() {
        return Err(line.place.error("bind must have an address, such as *:5432"));
    }
    let mut words = line.after(2).iter();
    while let Some(word) = words.next() {
        let mut next = || words.next().map(String::as_str).unwrap_or_default();
        match word.as_str() {
            "ssl" => bind.is_tls = true,
            "crt" => bind.cert = Some(base(next())),
            "ca-file" => bind.ca = Some(base(next())),
            "verify" => bind.asks_certificate = next() == "required",
            "ssl-min-ver" => bind.min_version = if next() == "TLSv1.3" { Some("1.3") } else { Some("1.2") },
            "accept-proxy" => bind.takes_proxy = true,
            "alpn" | "npn" | "ciphers" | "ciphersuites" | "curves" | "ecdhe" | "ssl-max-ver" => {
                let said = format!("{word} {}", next());
                bind.left.push((said, "rustls offers TLS 1.2 and 1.3 with safe ciphers only."));
            }
            word => match words::quiet(word) {
                Some(follow) => {
                    let mut said = vec![word.to_owned()];
                    said.extend((0..follow).map(|_| next().to_owned()));
                    bind.left.push((said.join(" "), "Forebay sets its sockets up itself."));
                }
                None => bind.left.push((word.to_owned(), "Forebay has nothing like it.")),
            },
        }
    }
    Ok(bind)
}

/// `server NAME ADDRESS[:PORT] [words]`, on top of what `default-server` said.
pub(super) fn server(line: &Line, defaults: &Options, base: &dyn Fn(&str) -> String) -> Result<Server, ImportError> {
    let (name, text) = (line.word(1), line.word(2));
    if name.is_empty() || text.is_empty() {
        return Err(line.place.error("server must have a name and an address"));
    }
    let bare = ["ipv4@", "ipv6@", "tcp@"].iter().find_map(|start| text.strip_prefix(start)).unwrap_or(text);
    let (host, port) = match bare.strip_prefix("unix@").or(bare.starts_with('/').then_some(bare)) {
        Some(path) => (path.to_owned(), None),
        None if bare.contains('$') => (bare.to_owned(), None),
        None => host_and_port(bare).map_err(|why| line.place.error(why))?,
    };
    if !host.contains('$') {
        check_host(&host).map_err(|why| line.place.error(why))?;
    }
    let options = options(line, 3, defaults.clone(), base)?;
    Ok(Server { line: line.clone(), name: name.to_owned(), host, port, options })
}

/// `10.0.0.1:5432`, `[::1]:5432`, `::1:5432`, `db1`; a port with a sign is the client's plus that.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((host, rest)) = rest.split_once(']')
    {
        let number = rest.strip_prefix(':').filter(|number| !number.is_empty()).map(port).transpose()?;
        return Ok((host.to_owned(), number));
    }
    match text.rsplit_once(':') {
        Some((host, number)) if !number.starts_with(['+', '-']) && !number.is_empty() => {
            Ok((host.to_owned(), Some(port(number)?)))
        }
        Some((host, _)) => Ok((host.to_owned(), None)),
        None => Ok((text.to_owned(), None)),
    }
}

/// The words of `server` from the n-th on, or of `default-server`.
pub(super) fn options(
    line: &Line,
    from: usize,
    mut options: Options,
    base: &dyn Fn(&str) -> String,
) -> Result<Options, ImportError> {
    options.left.clear();
    let mut words = line.after(from).iter();
    while let Some(word) = words.next() {
        let mut next = || words.next().map(String::as_str).unwrap_or_default();
        let number = |text: &str| {
            let wrong = || line.place.error(format!("{word} must be a number (found {})", crate::config::quote(text)));
            text.parse::<u64>().map_err(|_| wrong())
        };
        match word.as_str() {
            "weight" => {
                let weight = number(next())?;
                options.weight = Some(u32::try_from(weight.min(256)).unwrap_or(256));
            }
            "maxconn" => options.max_connections = Some(number(next())?).filter(|most| *most > 0),
            "backup" => options.is_backup = true,
            "no-backup" => options.is_backup = false,
            "disabled" => options.is_disabled = true,
            "enabled" => options.is_disabled = false,
            "ssl" => options.is_tls = true,
            "no-ssl" => options.is_tls = false,
            "verify" => options.verifies = Some(next() == "required"),
            "ca-file" => options.ca = Some(base(next())),
            "crt" => options.cert = Some(base(next())),
            "send-proxy" | "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" | "check-send-proxy" => {
                options.sends_proxy = true;
            }
            word => match words::quiet(word) {
                Some(follow) => {
                    let mut said = vec![word.to_owned()];
                    said.extend((0..follow).map(|_| next().to_owned()));
                    let is_dns = word.starts_with("resolve") || word == "init-addr";
                    let why = if is_dns { words::DNS_WHY } else { words::QUIET_WHY };
                    options.left.push((said.join(" "), why));
                }
                None => options.left.push((word.to_owned(), "Forebay has nothing like it.")),
            },
        }
    }
    Ok(options)
}
