//! Which address a VM gets: a pure choice, made before anything is touched.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::subnet::{Subnet, SubnetError};

/// How many ports a Linux bridge has (`BR_MAX_PORTS` in the kernel's net/bridge/br_private.h, less the unused zero).
pub const BRIDGE_PORTS: u32 = 1_023;

/// Seat n's address is the range's plus this plus n, when it is free.
const SEAT_OFFSET: u32 = 10;

/// The addresses of one bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    subnet: Subnet,
}

/// Why there can't be so many VMs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// The range itself can't be used.
    #[error("{0}")]
    Subnet(SubnetError),
    /// No VMs, which nobody means.
    #[error("a capacity of 0 leaves nothing to do: 1 to {BRIDGE_PORTS} VMs fit on a bridge")]
    None,
    /// A bridge's limit.
    #[error("a capacity of {0} is more than the {BRIDGE_PORTS} ports a Linux bridge has")]
    Ports(u32),
    /// The range's limit.
    #[error(
        "a capacity of {capacity} does not fit into {subnet}, which has {room} addresses for guests: take a shorter prefix"
    )]
    Range {
        /// What was asked for.
        capacity: u32,
        /// The range.
        subnet: Subnet,
        /// How many guests it holds.
        room: u32,
    },
}

impl Slots {
    /// The addresses behind a bridge with the address `gateway/prefix`.
    ///
    /// # Errors
    /// When `capacity` guests don't fit into the range or on a bridge.
    pub fn new(gateway: Ipv4Addr, prefix: u8, capacity: u32) -> Result<Self, SlotsError> {
        let subnet = Subnet::new(gateway, prefix).map_err(SlotsError::Subnet)?;
        if capacity == 0 {
            return Err(SlotsError::None);
        }
        if capacity > BRIDGE_PORTS {
            return Err(SlotsError::Ports(capacity));
        }
        let room = u32::try_from(subnet.pool().count()).unwrap_or(u32::MAX);
        if capacity > room {
            return Err(SlotsError::Range { capacity, subnet, room });
        }
        Ok(Self { subnet })
    }

    /// The address for a VM of seat `seat`: the range's first plus 10 plus the seat's number when it is free
    /// (192.168.100.11 for seat 1), else the lowest free one; none when all are taken.
    #[must_use]
    pub fn choose(&self, seat: u32, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let own = u32::from(self.subnet.network())
            .checked_add(SEAT_OFFSET)
            .and_then(|base| base.checked_add(seat))
            .map(Ipv4Addr::from)
            .filter(|address| self.subnet.in_pool(*address));
        own.into_iter().chain(self.subnet.pool()).find(|address| !taken.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);

    #[test]
    fn seats_get_their_number_when_it_is_free() {
        let slots = Slots::new(GATEWAY, 24, 50).unwrap();
        let mut taken = HashSet::new();
        assert_eq!(slots.choose(1, &taken), Some(Ipv4Addr::new(192, 168, 100, 11)));
        taken.insert(Ipv4Addr::new(192, 168, 100, 11));
        assert_eq!(slots.choose(1, &taken), Some(Ipv4Addr::new(192, 168, 100, 2)));
        assert_eq!(slots.choose(2, &taken), Some(Ipv4Addr::new(192, 168, 100, 12)));
        assert_eq!(slots.choose(245, &taken), Some(Ipv4Addr::new(192, 168, 100, 2)), "no broadcast address");
        assert_eq!(slots.choose(u32::MAX, &taken), Some(Ipv4Addr::new(192, 168, 100, 2)));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Slots::new(GATEWAY, 24, 253).is_ok());
        assert!(matches!(Slots::new(GATEWAY, 24, 254), Err(SlotsError::Range { room: 253, .. })));
        assert!(Slots::new(GATEWAY, 16, 1_023).is_ok());
        assert_eq!(Slots::new(GATEWAY, 16, 1_024), Err(SlotsError::Ports(1_024)));
        assert_eq!(Slots::new(GATEWAY, 24, 0), Err(SlotsError::None));
        assert!(matches!(Slots::new(GATEWAY, 31, 1), Err(SlotsError::Subnet(_))));
    }

    proptest! {
        /// Whatever comes and goes, no two live VMs share an address, none gets one that is no guest's, and there is
        /// one as long as fewer than `capacity` are there.
        #[test]
        fn no_two_guests_share_an_address(
            gateway: [u8; 4],
            prefix in 16_u8..=29,
            capacity in 1_u32..=300,
            steps in prop::collection::vec((any::<bool>(), 0_u32..400), 1..400),
        ) {
            let Ok(slots) = Slots::new(gateway.into(), prefix, capacity) else { return Ok(()) };
            let subnet = Subnet::new(gateway.into(), prefix).unwrap();
            let mut taken = HashSet::new();
            let mut order = Vec::new();
            for (come, seat) in steps {
                if come && order.len() < capacity as usize {
                    let address = slots.choose(seat, &taken).expect("there is room");
                    prop_assert!(subnet.in_pool(address));
                    prop_assert!(taken.insert(address));
                    order.push(address);
                } else if !order.is_empty() {
                    let gone = order.swap_remove(seat as usize % order.len());
                    taken.remove(&gone);
                }
            }
        }

        #[test]
        fn the_seats_own_address_comes_first(seat in 0_u32..240) {
            let slots = Slots::new(GATEWAY, 24, 50).unwrap();
            let own = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 100, 10)) + seat);
            prop_assert_eq!(slots.choose(seat, &HashSet::new()), Some(own));
            let lowest = slots.choose(seat, &HashSet::from([own])).unwrap();
            prop_assert_eq!(lowest, Ipv4Addr::new(192, 168, 100, 2));
        }
    }
}
