//! Where a Redis server or a Sentinel is, as it is written in the configuration and as Sentinels tell it.

use std::fmt;

/// A host name or an address, and a port. Compared as it is written: two names of one server are two servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Without brackets, in small letters.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// From a host as a server tells it.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_ascii_lowercase(), port }
    }

    /// Reads `host`, `host:port`, `[::1]:port`. The configuration has checked its own; what others send may be `None`.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            // More than one colon without brackets is an IPv6 address alone.
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let port = port.map_or(Ok(default_port), str::parse).ok()?;
        (!host.is_empty()).then(|| Self::new(host, port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        for (text, host, port) in
            [("Cache-1:7000", "cache-1", 7000), ("s1", "s1", 26379), ("[::1]:7", "::1", 7), ("::1", "::1", 26379)]
        {
            assert_eq!(Address::parse(text, 26379), Some(Address::new(host, port)), "{text}");
        }
        for wrong in ["", ":1", "a:x", "a:70000", "[::1"] {
            assert_eq!(Address::parse(wrong, 1), None, "{wrong}");
        }
        assert_eq!(Address::new("::1", 7).to_string(), "[::1]:7");
    }
}
