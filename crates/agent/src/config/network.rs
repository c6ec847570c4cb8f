//! The bridge's address and the network it stands for.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// What `BRIDGE_IP` takes.
pub(super) const TAKES: &str = "the bridge's own private IPv4 address with the network's prefix length from 8 to 30, \
                                such as 192.168.100.1/24";

/// An address in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The bridge's own address.
    pub address: Ipv4Addr,
    /// Bits of the network's prefix.
    pub prefix: u8,
}

impl Default for Subnet {
    fn default() -> Self {
        Self { address: Ipv4Addr::new(192, 168, 100, 1), prefix: 24 }
    }
}

impl Subnet {
    fn host_mask(self) -> u32 {
        u32::MAX >> self.prefix
    }

    /// How many guests find an address in it: all but network, broadcast and the bridge.
    #[must_use]
    pub fn guests(self) -> u32 {
        self.host_mask() - 2
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let subnet = Self { address: address.parse().map_err(drop)?, prefix: prefix.parse().map_err(drop)? };
        if !(8..=30).contains(&subnet.prefix) || prefix.starts_with(['+', '0']) {
            return Err(());
        }
        let host = subnet.address.to_bits() & subnet.host_mask();
        if host == 0 || host == subnet.host_mask() || !subnet.address.is_private() {
            return Err(());
        }
        Ok(subnet)
    }
}
