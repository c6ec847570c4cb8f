//! The network of VMs on this host, for real.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clarateach_ids::MacAddr;
use clarateach_runtime::{BoxedSeatStream, Egress};
use nix::net::if_::if_nametoindex;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::bridge::{Snapshot, Wanted};
use super::dns::Nameserver;
use super::findings::{self, Finding};
use super::firewall::Firewall;
use super::link::Links;
use super::ping::ping;
use super::ruleset::Design;
use super::subnet::Subnet;
use super::tap::{self, tap_name};
use super::taps::Taps;
use super::{NetError, Network, Slot, sysctl};

const DIAL: Duration = Duration::from_secs(2);
/// How often the network is looked at. It takes three runs of nft.
const TEND: Duration = Duration::from_secs(15);
/// What the network should be.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The bridge's name, clarateach0 unless told otherwise; it is also the firewall tables'.
    pub bridge: String,
    /// The bridge's own address, 192.168.100.1 unless told otherwise.
    pub address: Ipv4Addr,
    /// The length of the range's network part in bits, 24 unless told otherwise.
    pub prefix: u8,
    /// The installation's or agent's id, which marks what is ours.
    pub owner: String,
    /// The nameservers to relay to; the host's when there are none.
    pub upstreams: Option<Vec<IpAddr>>,
    /// Ranges that are closed to guests besides the private and special ones.
    pub closed: Vec<(Ipv4Addr, u8)>,
    /// Ranges that are open to guests although they are closed, such as a package mirror's private address.
    pub allowed: Vec<(Ipv4Addr, u8)>,
}

impl NetConfig {
    /// The defaults, for an owner.
    #[must_use]
    pub fn new(owner: impl Into<String>) -> Self {
        Self {
            bridge: "clarateach0".to_owned(),
            address: Ipv4Addr::new(192, 168, 100, 1),
            prefix: 24,
            owner: owner.into(),
            upstreams: None,
            closed: Vec::new(),
            allowed: Vec::new(),
        }
    }
}

/// Bridge, taps, firewall and nameserver by netlink and nftables, in the network namespace in which it was made.
pub struct HostNetwork {
    wanted: Wanted,
    links: Links,
    taps: Taps,
    firewall: Arc<Firewall>,
    nameserver: Arc<Nameserver>,
    /// One [`Network::ensure`] or [`Network::remove`] at a time; holds the lock that says that somebody lives here.
    alive: Mutex<Option<UnixListener>>,
}

impl fmt::Debug for HostNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostNetwork").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl HostNetwork {
    /// Opens the connection to the kernel, and touches nothing. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration can't be, or there is no connection to the kernel.
    pub fn new(config: NetConfig) -> Result<Self, NetError> {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &config.bridge;
        if !(1..=15).contains(&name.len()) || !name.chars().all(word) || name.trim_matches('.').is_empty() {
            let message = format!(
                "{name:?} is no name for a bridge (BRIDGE_NAME): 1 to 15 letters, digits, '-', '_' and '.' are"
            );
            return Err(NetError::Host { message });
        }
        let subnet = Subnet::new(config.address, config.prefix).map_err(|error| NetError::Host {
            message: format!("the bridge's address (BRIDGE_IP): {error}"),
        })?;
        let firewall = Firewall::new(Design {
            bridge: config.bridge.clone(),
            owner: config.owner.clone(),
            subnet,
            closed: config.closed,
            allowed: config.allowed,
        });
        let links = Links::open()?;
        Ok(Self {
            nameserver: Nameserver::new(subnet, config.upstreams.as_deref(), firewall.no_egress()),
            taps: Taps::new(links.clone(), tap::prefix(&config.owner)),
            links,
            firewall,
            alive: Mutex::new(None),
            wanted: Wanted {
                taps: tap::prefix(&config.owner),
                name: config.bridge,
                owner: config.owner,
                subnet,
            },
        })
    }

    /// The only slot that an address can have here: its tap and MAC follow from it.
    #[must_use]
    pub fn slot(&self, address: Ipv4Addr, egress: Egress) -> Slot {
        Slot { address, tap: tap_name(&self.wanted.owner, address), mac: MacAddr::of_ipv4(address), egress }
    }

    /// What has to go on as long as there are VMs: serves names to guests, and mends what somebody changed, until told not
    /// to. May begin before the bridge is there.
    pub async fn run(&self, cancel: CancellationToken) {
        tokio::join!(self.serve_dns(cancel.clone()), self.tend(cancel));
    }

    async fn tend(&self, cancel: CancellationToken) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(TEND) => {}
            }
            match self.ensure().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, "the network of VMs is not as it should be, and can't be mended");
                }
                Err(_) => {}
            }
        }
    }

    /// Serves names to guests on the bridge address, until told not to. May begin before the bridge is there.
    pub async fn serve_dns(&self, cancel: CancellationToken) {
        self.nameserver.clone().serve(cancel).await;
    }

    /// What an operator should know; changes nothing.
    ///
    /// # Errors
    /// When the kernel doesn't say what interfaces there are.
    pub async fn findings(&self) -> Result<Vec<Finding>, NetError> {
        let host = Snapshot::take(&self.links).await?;
        Ok(findings::look(&host, &self.wanted, &self.firewall).await)
    }

    /// The taps of this owner that a VMM holds.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub async fn taps_in_use(&self) -> Result<Vec<String>, NetError> {
        let taps = self.taps.list().await?;
        Ok(taps.into_iter().filter(|(_, link)| link.carrier).map(|(_, link)| link.name).collect())
    }

    /// The pins in the firewall hold for these names and addresses only.
    fn check(&self, slot: &Slot) -> Result<(), NetError> {
        let Slot { address, tap, mac, .. } = slot;
        if !self.wanted.subnet.in_pool(*address) {
            let message = format!("{address} is no address for a guest of {}", self.wanted.subnet);
            return Err(NetError::Host { message });
        }
        if self.slot(*address, slot.egress) != *slot {
            let message = format!(
                "{tap} and {mac} are not the tap and MAC of {address}: they were not made for this network"
            );
            return Err(NetError::Host { message });
        }
        Ok(())
    }

    fn bridge(&self) -> Result<u32, NetError> {
        if_nametoindex(self.wanted.name.as_str()).map_err(|_| NetError::Host {
            message: format!("the bridge {} is not there (any more)", self.wanted.name),
        })
    }

    /// Binds the name that a living agent holds for its bridge. It ends with the process, however that ends, and is
    /// one per network namespace, as the bridge is.
    fn lock(&self) -> io::Result<UnixListener> {
        let name = format!("clarateach/bridge/{}", self.wanted.name);
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
    }
}

#[async_trait]
impl Network for HostNetwork {
    fn gateway(&self) -> (Ipv4Addr, u8) {
        (self.wanted.subnet.gateway(), self.wanted.subnet.prefix())
    }

    fn confine(&self, guests: &[Slot]) {
        let own = guests.iter().filter(|slot| self.check(slot).is_ok());
        self.firewall.confine(own.map(|slot| slot.address));
    }

    async fn ensure(&self) -> Result<(), NetError> {
        let mut alive = self.alive.lock().await;
        let mut others_alive = false;
        if alive.is_none() {
            match self.lock() {
                Ok(lock) => *alive = Some(lock),
                Err(error) => others_alive = error.kind() == io::ErrorKind::AddrInUse,
            }
        }
        let host = Snapshot::take(&self.links).await?;
        let plan = self.wanted.plan(&host, others_alive)?;
        sysctl::forward()?;
        // Before there is a bridge, so that there is no moment in which a guest isn't held back.
        self.firewall.ensure().await?;
        let bridge = self.wanted.carry_out(&plan, &self.links).await?;
        // A bridge that goes down or loses its address forgets its neighbours.
        let forgotten = plan.bring_up || plan.add_address;
        let slot = |address| self.slot(address, Egress::Internet);
        self.taps.mend(&host.links, bridge, forgotten, slot).await
    }

    async fn attach(&self, slot: &Slot) -> Result<(), NetError> {
        self.check(slot)?;
        let bridge = self.bridge()?;
        let reserved = self.taps.reserve(slot.address).await;
        self.firewall.set_egress(slot.address, slot.egress == Egress::Internet).await?;
        self.taps.attach(slot, bridge, reserved).await
    }

    async fn open(&self, slot: &Slot) -> Result<(), NetError> {
        self.check(slot)?;
        let index = if_nametoindex(slot.tap.as_str()).map_err(|error| NetError::Refused {
            operation: "open",
            object: slot.tap.clone(),
            message: error.to_string(),
        })?;
        self.links.set_up(index, &slot.tap, true).await
    }

    async fn detach(&self, slot: &Slot) -> Result<(), NetError> {
        // Made for another range or owner, whose settings were changed: the firewall says nothing of it.
        if self.check(slot).is_err() {
            return self.taps.detach_stranger(slot).await;
        }
        self.taps.detach(slot, self.bridge().ok()).await?;
        self.firewall.set_egress(slot.address, true).await?;
        self.taps.release(slot.address);
        Ok(())
    }

    async fn taps(&self) -> Result<Vec<String>, NetError> {
        Ok(self.taps.list().await?.into_iter().map(|(_, link)| link.name).collect())
    }

    async fn sweep(&self, wanted: &[Slot]) -> Result<usize, NetError> {
        let removed = self.taps.sweep(&wanted.iter().map(|slot| slot.address).collect()).await?;
        let (_paused, attached) = self.taps.pause().await;
        // One without a tap was detached, though its VM may still be about to be forgotten.
        let taps: HashSet<_> = self.taps.list().await?.into_iter().map(|(address, _)| address).collect();
        let nowhere =
            wanted.iter().filter(|slot| slot.egress == Egress::None && taps.contains(&slot.address));
        self.firewall.settle_no_egress(&nowhere.map(|slot| slot.address).collect(), &attached).await?;
        Ok(removed)
    }

    async fn remove(&self) -> Result<(), NetError> {
        let mut alive = self.alive.lock().await;
        self.taps.clear().await?;
        if let Some(link) = self.links.find(&self.wanted.name).await? {
            let host = Snapshot::take(&self.links).await?;
            // Refuses what isn't ours.
            self.wanted.plan(&host, alive.is_none() && self.lock().is_err())?;
            self.links.delete(link.index, &self.wanted.name).await?;
        }
        self.firewall.remove().await?;
        *alive = None;
        Ok(())
    }

    async fn dial(&self, address: Ipv4Addr, port: u16) -> io::Result<BoxedSeatStream> {
        let stream = tokio::time::timeout(DIAL, TcpStream::connect((address, port))).await??;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn ping(&self, address: Ipv4Addr) -> io::Result<bool> {
        ping(address).await
    }
}
