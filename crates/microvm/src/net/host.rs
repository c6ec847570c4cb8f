//! The network of VMs on this host, for real.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_ids::MacAddr;
use clarateach_runtime::{BoxedSeatStream, Egress};
use nix::net::if_::if_nametoindex;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use super::bridge::{Snapshot, Wanted};
use super::dns::Nameserver;
use super::findings::{self, Finding};
use super::firewall::Firewall;
use super::link::{Link, Links};
use super::ping::ping;
use super::ruleset::Design;
use super::subnet::Subnet;
use super::tap::{self, tap_name};
use super::together::Together;
use super::{NetError, Network, Slot, sysctl};

const DIAL: Duration = Duration::from_secs(2);
/// How often the network is looked at. It takes three runs of nft.
const TEND: Duration = Duration::from_secs(15);
/// How many taps are removed in one go: others wait for the kernel's lock as long as that takes.
const SWEEP: usize = 64;
/// With more at a time each takes longer, and all of them as long.
const COMING: usize = 2;
/// The interface group that taps are moved to when they are about to be removed: `ct` in ASCII.
const DOOMED: u32 = 0x6374_0000;

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
    firewall: Firewall,
    nameserver: Arc<Nameserver>,
    /// One [`Network::ensure`] or [`Network::remove`] at a time; holds the lock that says that somebody lives here.
    alive: Mutex<Option<UnixListener>>,
    /// Guests that this object attached and didn't detach.
    attached: std::sync::Mutex<HashSet<Ipv4Addr>>,
    /// Taps that are being removed.
    leaving: Together<u32, NetError>,
    /// How many taps are made at a time: the kernel has one lock for all of it.
    coming: Semaphore,
    /// Held for writing while taps are removed by the hundred, so that none is taken into use meanwhile.
    sweeping: RwLock<()>,
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
        Ok(Self {
            nameserver: Nameserver::new(subnet, config.upstreams.as_deref(), firewall.no_egress()),
            links: Links::open()?,
            firewall,
            alive: Mutex::new(None),
            attached: std::sync::Mutex::default(),
            leaving: Together::default(),
            coming: Semaphore::new(COMING),
            sweeping: RwLock::new(()),
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

    async fn our_taps(&self) -> Result<Vec<Link>, NetError> {
        let links = self.links.all().await?;
        let ours = |link: &Link| link.is_tap() && tap::address_of(&self.wanted.taps, &link.name).is_some();
        Ok(links.into_iter().filter(ours).collect())
    }

    /// Binds the name that a living agent holds for its bridge. It ends with the process, however that ends, and is
    /// one per network namespace, as the bridge is.
    fn lock(&self) -> io::Result<UnixListener> {
        let name = format!("clarateach/bridge/{}", self.wanted.name);
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
    }

    /// Makes the tap if there is none, closes it if it was left by a VM that is gone, and leaves one that a VMM holds.
    /// Gives its index, and whether it is new.
    async fn make_tap(&self, slot: &Slot) -> Result<(u32, bool), NetError> {
        let refused = |operation, error: &dyn fmt::Display| NetError::Refused {
            operation,
            object: slot.tap.clone(),
            message: error.to_string(),
        };
        if if_nametoindex(slot.tap.as_str()).is_ok()
            && let Some(link) = self.links.find(&slot.tap).await?
        {
            if !link.is_tap() {
                return Err(refused("make tap", &"there is an interface of that name which is no tap"));
            }
            if link.up && !link.carrier {
                self.links.set_up(link.index, &slot.tap, false).await?;
            }
            return Ok((link.index, false));
        }
        let name = slot.tap.clone();
        let made = tokio::task::spawn_blocking(move || tap::create(&name)).await;
        let index = made
            .map_err(|error| refused("make tap", &error))?
            .map_err(|error| refused("make tap", &error))?;
        Ok((index, true))
    }

    fn attached(&self) -> MutexGuard<'_, HashSet<Ipv4Addr>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the taps of running VMs back on a bridge that was taken away and made again, or that somebody has changed.
    async fn mend_ports(&self, links: &[Link], bridge: u32, all: bool) -> Result<(), NetError> {
        for link in links.iter().filter(|link| link.is_tap()) {
            let lost = link.bridge.is_none() && link.carrier;
            let changed = link.bridge == Some(bridge) && (all || !link.isolated);
            if let Some(address) = tap::address_of(&self.wanted.taps, &link.name).filter(|_| lost || changed)
            {
                tracing::warn!(tap = link.name, "this tap was taken off the bridge, or changed: mended");
                let mended = self.attach_tap(&self.slot(address, Egress::Internet), link.index, bridge).await;
                // Its VM may have ended meanwhile.
                if mended.is_err() && if_nametoindex(link.name.as_str()) == Ok(link.index) {
                    return mended;
                }
            }
        }
        Ok(())
    }

    /// Removes our taps but for some, and says how many; `spare` is asked again before each hundred.
    async fn remove_taps(&self, spare: impl Fn(Ipv4Addr) -> bool + Send) -> Result<usize, NetError> {
        let all = self.our_taps().await?;
        let named: Vec<(Ipv4Addr, &Link)> = all
            .iter()
            .filter_map(|link| Some((tap::address_of(&self.wanted.taps, &link.name)?, link)))
            .collect();
        let mut removed = 0;
        for some in named.chunks(SWEEP) {
            let _sweeping = self.sweeping.write().await;
            let some: Vec<_> = some.iter().filter(|(address, _)| !spare(*address)).collect();
            let indices: Vec<u32> = some.iter().map(|(_, link)| link.index).collect();
            self.links.delete_many(&indices, DOOMED).await?;
            for (address, link) in some {
                if let Some(bridge) = link.bridge {
                    self.links.delete_neighbour(bridge, *address).await?;
                }
            }
            removed += indices.len();
        }
        Ok(removed)
    }

    async fn attach_tap(&self, slot: &Slot, index: u32, bridge: u32) -> Result<(), NetError> {
        sysctl::disable_ipv6(&slot.tap)?;
        self.links.enslave((index, &slot.tap), bridge, slot.mac).await?;
        self.links.add_neighbour(bridge, slot.address, slot.mac).await
    }
}

#[async_trait]
impl Network for HostNetwork {
    fn gateway(&self) -> (Ipv4Addr, u8) {
        (self.wanted.subnet.gateway(), self.wanted.subnet.prefix())
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
        self.mend_ports(&host.links, bridge, plan.bring_up || plan.add_address).await
    }

    async fn attach(&self, slot: &Slot) -> Result<(), NetError> {
        self.check(slot)?;
        let _not_sweeping = self.sweeping.read().await;
        let bridge = self.bridge()?;
        self.attached().insert(slot.address);
        self.firewall.set_egress(slot.address, slot.egress == Egress::Internet).await?;
        // Never closed.
        let _turn = self.coming.acquire().await;
        let (index, new) = self.make_tap(slot).await?;
        let attached = self.attach_tap(slot, index, bridge).await;
        // One that was there may be a running VM's.
        if attached.is_err()
            && new
            && let Err(error) = self.links.delete(index, &slot.tap).await
        {
            tracing::warn!(tap = slot.tap, %error, "a tap that could not be set up was not removed");
        }
        attached
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
        self.check(slot)?;
        if let Ok(index) = if_nametoindex(slot.tap.as_str()) {
            let remove = |indices: Vec<u32>| async move { self.links.delete_many(&indices, DOOMED).await };
            self.leaving.run(index, remove).await?;
        }
        if let Ok(bridge) = self.bridge() {
            self.links.delete_neighbour(bridge, slot.address).await?;
        }
        self.firewall.set_egress(slot.address, true).await?;
        self.attached().remove(&slot.address);
        Ok(())
    }

    async fn taps(&self) -> Result<Vec<String>, NetError> {
        Ok(self.our_taps().await?.into_iter().map(|link| link.name).collect())
    }

    async fn sweep(&self, wanted: &[Slot]) -> Result<usize, NetError> {
        let keep: HashSet<Ipv4Addr> = wanted.iter().map(|slot| slot.address).collect();
        let removed =
            self.remove_taps(|address| keep.contains(&address) || self.attached().contains(&address)).await?;
        let nowhere =
            wanted.iter().filter(|slot| slot.egress == Egress::None).map(|slot| slot.address).collect();
        let _sweeping = self.sweeping.write().await;
        let spared = self.attached().clone();
        self.firewall.settle_no_egress(&nowhere, &spared).await?;
        Ok(removed)
    }

    async fn remove(&self) -> Result<(), NetError> {
        let mut alive = self.alive.lock().await;
        self.remove_taps(|_| false).await?;
        if let Some(link) = self.links.find(&self.wanted.name).await? {
            let host = Snapshot::take(&self.links).await?;
            // Refuses what isn't ours.
            self.wanted.plan(&host, alive.is_none() && self.lock().is_err())?;
            self.links.delete(link.index, &self.wanted.name).await?;
        }
        self.firewall.remove().await?;
        self.attached().clear();
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
