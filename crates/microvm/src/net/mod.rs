//! The network of this host's VMs.
//!
//! | module | what it does |
//! |---|---|
//! | `subnet`, [`slots`] | addresses, and which VM gets which: pure |
//! | `bridge`, `link`, `tap`, `taps`, `sysctl` | the bridge and the taps, by netlink, ioctl and `/proc/sys` |
//! | `ruleset`, `statement`, `foreign` | the firewall as data: our tables, and what other people's need |
//! | `firewall`, `nft` | putting it in place and keeping it there |
//! | `together` | doing at once what many ask for at once |
//! | `dns` | the guests' nameserver |
//! | `findings` | what is wrong with this host |
//! | `host` | [`HostNetwork`], which is all of these together |

mod bridge;
mod dns;
mod findings;
mod firewall;
mod foreign;
mod host;
mod link;
mod nft;
mod ping;
mod ruleset;
pub mod slots;
mod statement;
mod subnet;
mod sysctl;
mod tap;
mod taps;
mod together;

pub use self::findings::{Finding, FindingState};
pub use self::host::{HostNetwork, NetConfig};
pub use self::ping::ping;
pub use self::slots::Slots;
pub use self::subnet::{Subnet, SubnetError};
pub use self::tap::{give_tap, tap_name};

use std::net::Ipv4Addr;

use async_trait::async_trait;
use clarateach_ids::MacAddr;
use clarateach_runtime::{BoxedSeatStream, Egress};
use serde::{Deserialize, Serialize};

/// A VM's place in the network. Decided by the caller (see `slots`) and written down before anything is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The tap's name: unique on this host, at most 15 characters.
    pub tap: String,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// Where the guest may connect to.
    pub egress: EgressRule,
}

/// [`Egress`] as it is written down.
pub type EgressRule = Egress;

/// What the network failed at.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// Something on this host is in the way.
    #[error("{message}")]
    Host {
        /// What, and what to do.
        message: String,
    },
    /// The kernel or nft refused.
    #[error("{operation} {object}: {message}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// Why.
        message: String,
    },
}

/// Makes and removes what VMs need of the host's network. Every call is idempotent. A trait, so that what decides can be
/// tested where there is no root.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// The bridge's own address, which is the guests' gateway and nameserver, and its prefix length.
    fn gateway(&self) -> (Ipv4Addr, u8);

    /// Guests that an earlier process has made and that may connect to nowhere, told before [`Network::ensure`]: should
    /// somebody have flushed the firewall meanwhile, that closes them again at once.
    fn confine(&self, guests: &[Slot]);

    /// Makes or mends bridge, forwarding and firewall; fine when all is there already.
    ///
    /// # Errors
    /// [`NetError::Host`] when the bridge's name or address belongs to something else.
    async fn ensure(&self) -> Result<(), NetError>;

    /// Makes the tap of a slot and puts it on the bridge, isolated, its source address and MAC pinned, and **closed**: no
    /// frame passes until [`Network::open`]. [`give_tap`] keeps all but one user from opening the tap.
    ///
    /// # Errors
    /// What the kernel refused. Nothing is left of a tap that could not be made.
    async fn attach(&self, slot: &Slot) -> Result<(), NetError>;

    /// Lets frames pass: called when the guest knows who it is.
    ///
    /// # Errors
    /// What the kernel refused.
    async fn open(&self, slot: &Slot) -> Result<(), NetError>;

    /// Removes the tap and everything that was said of it in the firewall. Fine when there is nothing, and for a slot of
    /// another range or owner, of which only a tap of our own is removed.
    ///
    /// # Errors
    /// When something is left.
    async fn detach(&self, slot: &Slot) -> Result<(), NetError>;

    /// The taps on this host that this network made (told by name and bridge), whoever they belong to.
    ///
    /// # Errors
    /// When the kernel does not say.
    async fn taps(&self) -> Result<Vec<String>, NetError>;

    /// Removes taps and firewall elements of VMs that are not among `wanted`, many at a time. May go on while VMs come
    /// and go: what this object attached and didn't detach is spared, since `wanted` may be older.
    ///
    /// # Errors
    /// When something is left.
    async fn sweep(&self, wanted: &[Slot]) -> Result<usize, NetError>;

    /// Removes bridge, firewall table and nameserver; only when the caller ends for good (tests, uninstalling).
    ///
    /// # Errors
    /// When something is left.
    async fn remove(&self) -> Result<(), NetError>;

    /// Connects to a TCP port of a guest.
    ///
    /// # Errors
    /// As connect(2).
    async fn dial(&self, address: Ipv4Addr, port: u16) -> std::io::Result<BoxedSeatStream>;

    /// Whether the guest answers an ICMP echo within a second.
    ///
    /// # Errors
    /// When the question can't be asked.
    async fn ping(&self, address: Ipv4Addr) -> std::io::Result<bool>;
}
