//! Whom failures and connections are counted for.

use std::net::{IpAddr, Ipv6Addr};

use crate::config::Network;

/// Bits of an IPv6 address that are its network's: behind them everybody chooses his own.
const NETWORK: u8 = 64;

/// An IPv4 address, or the /64 of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    /// Whom an address, in its canonical form, counts for.
    pub(super) fn of(address: IpAddr) -> Self {
        Source(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - u32::from(NETWORK)))).into(),
        })
    }

    /// All of its addresses; `None` never happens, as every address has a block of that length.
    pub(super) fn block(self) -> Option<Network> {
        Network::around(self.0, if self.0.is_ipv4() { 32 } else { NETWORK })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("2001:db8::1").block().unwrap().to_string(), "2001:db8::/64");
        assert_eq!(source("10.0.0.1").block().unwrap().to_string(), "10.0.0.1");
    }
}
