//! The range of addresses behind one bridge.

use std::fmt;
use std::net::Ipv4Addr;

/// How many of a range's first addresses are handed out at most: twice what a bridge has ports for, so that a class's
/// seats find `.10 + n` free, and few enough that every one of them can be pinned in the firewall beforehand.
const POOL: u32 = 2_046;

/// An IPv4 range and the bridge's own address in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    gateway: Ipv4Addr,
    prefix: u8,
}

/// Why a range can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// No room for guests, or for the internet.
    #[error("/{0} is no range for guests: /8 to /30 are")]
    Prefix(u8),
    /// The first or last address of a range stands for the range and for all in it.
    #[error("{0} is the network's or the broadcast address of its range, and no address for a bridge")]
    Gateway(Ipv4Addr),
    /// No place for hosts.
    #[error("{0} lies in a loopback, multicast, link-local or reserved range")]
    Special(Ipv4Addr),
}

impl Subnet {
    /// The range in which `gateway` lies.
    ///
    /// # Errors
    /// When no guests can live there.
    pub fn new(gateway: Ipv4Addr, prefix: u8) -> Result<Self, SubnetError> {
        if !(8..=30).contains(&prefix) {
            return Err(SubnetError::Prefix(prefix));
        }
        let first = gateway.octets()[0];
        if matches!(first, 0 | 127) || first >= 224 || gateway.is_link_local() {
            return Err(SubnetError::Special(gateway));
        }
        let subnet = Self { gateway, prefix };
        if gateway == subnet.network() || gateway == subnet.broadcast() {
            return Err(SubnetError::Gateway(gateway));
        }
        Ok(subnet)
    }

    /// The bridge's own address.
    #[must_use]
    pub const fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// The length of the network part, in bits.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The range's first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        network_of(self.gateway, self.prefix)
    }

    /// The range's last address.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network()) | !mask(self.prefix))
    }

    /// Whether an address lies in the range.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        network_of(address, self.prefix) == self.network()
    }

    /// Whether this range and another have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: Ipv4Addr, prefix: u8) -> bool {
        let shorter = self.prefix.min(prefix);
        network_of(self.gateway, shorter) == network_of(other, shorter)
    }

    /// Every address that a guest may get, lowest first: never the network's, the broadcast or the bridge's own.
    pub fn pool(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (network, gateway) = (u32::from(self.network()), self.gateway);
        let hosts = (u32::from(self.broadcast()) - network - 1).min(POOL);
        (1..=hosts)
            .map(move |offset| Ipv4Addr::from(network + offset))
            .filter(move |address| *address != gateway)
    }

    /// Whether a guest may get this address.
    #[must_use]
    pub fn in_pool(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network()));
        (1..=POOL).contains(&offset)
            && self.contains(address)
            && address != self.broadcast()
            && address != self.gateway
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn network_of(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) & mask(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(gateway: [u8; 4], prefix: u8) -> Subnet {
        Subnet::new(gateway.into(), prefix).unwrap()
    }

    #[test]
    fn ranges_without_room_are_refused() {
        assert_eq!(Subnet::new([10, 0, 0, 1].into(), 31), Err(SubnetError::Prefix(31)));
        assert_eq!(Subnet::new([10, 0, 0, 1].into(), 7), Err(SubnetError::Prefix(7)));
        let network = Ipv4Addr::new(192, 168, 100, 0);
        assert_eq!(Subnet::new(network, 24), Err(SubnetError::Gateway(network)));
        let broadcast = Ipv4Addr::new(192, 168, 100, 255);
        assert_eq!(Subnet::new(broadcast, 24), Err(SubnetError::Gateway(broadcast)));
        for special in [[127, 0, 0, 1], [169, 254, 1, 1], [224, 0, 0, 1], [0, 1, 2, 3], [255, 1, 1, 1]] {
            assert_eq!(Subnet::new(special.into(), 24), Err(SubnetError::Special(special.into())));
        }
    }

    #[test]
    fn overlap_is_symmetric_containment() {
        let ours = subnet([192, 168, 100, 1], 24);
        assert!(ours.overlaps([192, 168, 0, 0].into(), 16));
        assert!(ours.overlaps([192, 168, 100, 128].into(), 25));
        assert!(ours.overlaps([0, 0, 0, 0].into(), 0));
        assert!(!ours.overlaps([192, 168, 101, 0].into(), 24));
    }

    #[test]
    fn the_pool_leaves_out_what_is_no_guests_address() {
        let pool: Vec<_> = subnet([10, 0, 0, 2], 30).pool().collect();
        assert_eq!(pool, [Ipv4Addr::new(10, 0, 0, 1)]);
        assert_eq!(subnet([192, 168, 100, 1], 24).pool().count(), 253);
        assert_eq!(subnet([10, 0, 0, 1], 8).pool().count(), 2_045);
    }

    proptest! {
        #[test]
        fn pool_and_in_pool_agree(gateway: [u8; 4], prefix in 8_u8..=30, probe: u32) {
            let Ok(subnet) = Subnet::new(gateway.into(), prefix) else { return Ok(()) };
            let pool: std::collections::HashSet<_> = subnet.pool().collect();
            for address in &pool {
                prop_assert!(subnet.in_pool(*address));
                prop_assert!(subnet.contains(*address));
            }
            for probe in [Ipv4Addr::from(probe), subnet.gateway(), subnet.network(), subnet.broadcast()] {
                prop_assert_eq!(subnet.in_pool(probe), pool.contains(&probe));
            }
        }
    }
}
