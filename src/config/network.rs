//! Blocks of addresses, in the notation of CIDR.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::reader::Reader;
use super::setting::{At, Rules, Secrets, Setting, Value, list, quote};

/// Addresses that begin alike. IPv4 within IPv6 (`::ffff:10.0.0.1`) is IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Network(IpNet);

impl Network {
    /// Reads `10.0.0.0/8`, or a single address. What stands behind the prefix is dropped, as PostgreSQL does.
    pub fn parse(text: &str) -> Option<Self> {
        let read = match text.parse::<IpNet>() {
            Ok(block) => block,
            Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
        };
        Some(Network(canonical(read)?.trunc()))
    }

    /// The block of an address and those that share its first `length` bits.
    pub fn around(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(|block| Network(block.trunc()))
    }

    /// True if the address, an IPv4 one in either form, is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// True if all of the other block is in this one.
    pub fn covers(&self, other: &Network) -> bool {
        self.0.contains(&other.0)
    }

    /// The only address of the block; `None` if there are more.
    pub fn address(&self) -> Option<IpAddr> {
        (self.0.prefix_len() == self.0.max_prefix_len()).then(|| self.0.addr())
    }
}

/// IPv4 within IPv6 as IPv4. `None`: the block holds that and more, and cannot be told in one.
fn canonical(block: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = block else { return Some(block) };
    let Some(v4) = v6.addr().to_ipv4_mapped() else { return Some(block) };
    let length = v6.prefix_len().checked_sub(96)?;
    IpNet::new(v4.into(), length).ok()
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Network::parse(&text).ok_or_else(|| format!("\"{text}\" is no address and no block"))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address() {
            Some(address) => write!(f, "{address}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Setting for Vec<Network> {
    fn form(_: Rules) -> String {
        "list of address blocks".to_owned()
    }
    fn blank() -> Self {
        Vec::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        list(value, at, reader, |value, at, reader| {
            let text = <String as Setting>::parse(value, at, reader)?;
            let read = Network::parse(&text);
            if read.is_none() {
                let found = quote(&text);
                let what = "is no address block; write \"10.0.0.0/8\" or \"10.1.2.3\"";
                reader.error(value, format!("{}: {found} {what}", at.key));
            }
            read
        })
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(format!("[{}]", self.iter().map(|block| quote(&block.to_string())).collect::<Vec<_>>().join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Network {
        Network::parse(text).unwrap_or_else(|| panic!("{text} is a block"))
    }

    #[test]
    fn addresses_and_blocks_are_read_and_written_alike() {
        for (text, written) in [
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1", "::1"),
            ("2001:DB8::1/64", "2001:db8::/64"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ] {
            assert_eq!(block(text).to_string(), written, "{text}");
        }
        for wrong in ["", "lan", "10.0.0.0/33", "10.0.0/8", "10.0.0.1:80", "::/129", "10.0.0.0/-1", "::ffff:0.0.0.0/80"]
        {
            assert_eq!(Network::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_ipv4_address_is_found_in_either_form() {
        for address in ["10.9.9.9", "::ffff:10.9.9.9"] {
            assert!(block("10.0.0.0/8").contains(address.parse().unwrap()), "{address}");
            assert!(!block("::/0").contains(address.parse().unwrap()), "{address} is no IPv6 address");
        }
        assert!(block("2001:db8::/64").contains("2001:db8::ffff".parse().unwrap()));
        assert!(!block("2001:db8::/64").contains("2001:db8:0:1::".parse().unwrap()));
    }

    #[test]
    fn a_block_covers_what_is_not_larger() {
        assert!(block("10.0.0.0/8").covers(&block("10.1.0.0/16")));
        assert!(block("10.1.2.3").covers(&block("10.1.2.3")));
        assert!(!block("10.1.0.0/16").covers(&block("10.0.0.0/8")));
        assert!(!block("10.0.0.0/8").covers(&block("::/0")));
    }
}
