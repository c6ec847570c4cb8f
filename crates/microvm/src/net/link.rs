//! Interfaces, addresses and routes of this network namespace, by rtnetlink.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::MacAddr;
use futures_util::{Stream, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Error, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::NetError;

/// Between attempts at a listing while another one is under way, and how many there are.
const BUSY: Duration = Duration::from_millis(2);
const ATTEMPTS: u32 = 500;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `tun`, `veth`, …; nothing for hardware.
    pub(crate) kind: String,
    /// The bridge it is a port of.
    pub(crate) bridge: Option<u32>,
    /// Whether, as a port, it can't reach other ports that are so too.
    pub(crate) isolated: bool,
    pub(crate) up: bool,
    /// Whether somebody is at the other end; for a tap: whether a VMM holds it.
    pub(crate) carrier: bool,
    pub(crate) alias: String,
    pub(crate) mac: Vec<u8>,
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// An IPv4 route to somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) index: u32,
    pub(crate) network: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// The connection to the kernel. It belongs to the network namespace of the thread that opened it.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    handle: Handle,
    /// One listing at a time: the kernel refuses a second one on the same socket with `EBUSY`.
    listing: Arc<Mutex<()>>,
}

impl Links {
    /// Opens it; must be called within a tokio runtime, which then carries it.
    pub(crate) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| NetError::Refused {
            operation: "open",
            object: "a netlink socket".to_owned(),
            message: error.to_string(),
        })?;
        tokio::spawn(connection);
        Ok(Self { handle, listing: Arc::default() })
    }

    /// All of something.
    async fn list<T, S>(&self, what: &str, ask: impl Fn() -> S) -> Result<Vec<T>, NetError>
    where
        S: Stream<Item = Result<T, Error>>,
    {
        let _turn = self.listing.lock().await;
        for _ in 0..ATTEMPTS {
            match ask().try_collect().await {
                // One goes on whose caller went away.
                Err(error) if errno(&error) == Some(libc::EBUSY) => sleep(BUSY).await,
                listed => return listed.map_err(|error| refused("list", what, &error)),
            }
        }
        Err(NetError::Refused {
            operation: "list",
            object: what.to_owned(),
            message: "an earlier listing does not end".to_owned(),
        })
    }

    pub(crate) async fn all(&self) -> Result<Vec<Link>, NetError> {
        let links: Vec<LinkMessage> = self.list("interfaces", || self.handle.link().get().execute()).await?;
        Ok(links.iter().map(Link::of).collect())
    }

    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, NetError> {
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        match found.try_next().await {
            Ok(link) => Ok(link.as_ref().map(Link::of)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(refused("look up", name, &error)),
        }
    }

    pub(crate) async fn addresses(&self) -> Result<Vec<Held>, NetError> {
        let all: Vec<AddressMessage> =
            self.list("addresses", || self.handle.address().get().execute()).await?;
        Ok(all.iter().filter_map(Held::of).collect())
    }

    /// Routes of all tables, but for those that lead nowhere and those that are broadcast addresses.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let every = || rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all: Vec<RouteMessage> =
            self.list("routes", || self.handle.route().get(every()).execute()).await?;
        Ok(all.iter().filter_map(Route::of).collect())
    }

    pub(crate) async fn add_bridge(&self, name: &str) -> Result<(), NetError> {
        let made = self.handle.link().add(LinkBridge::new(name).down().build()).execute().await;
        made.map_err(|error| refused("make bridge", name, &error))
    }

    /// Marks a bridge as ours. No spanning tree and no multicast snooping; a MAC that doesn't change with the ports.
    pub(crate) async fn claim_bridge(
        &self,
        index: u32,
        name: &str,
        mac: MacAddr,
        alias: &str,
    ) -> Result<(), NetError> {
        let settings = LinkMessageBuilder::<LinkBridge>::new(name).stp_state(BridgeStpState::Disabled);
        let settings = settings.mcast_snooping(false).build();
        let set = self.handle.link().change(settings).execute().await;
        set.map_err(|error| refused("set up bridge", name, &error))?;
        let own = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).alias(alias).build();
        self.handle.link().set(own).execute().await.map_err(|error| refused("mark bridge", name, &error))
    }

    pub(crate) async fn add_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetError> {
        let added = self.handle.address().add(index, IpAddr::V4(address), prefix).replace().execute().await;
        added.map_err(|error| refused("add address", address, &error))
    }

    pub(crate) async fn delete_address(&self, held: Held) -> Result<(), NetError> {
        let every = || self.handle.address().get().set_link_index_filter(held.index).execute();
        let all: Vec<AddressMessage> = self.list("addresses", every).await?;
        let Some(message) = all.into_iter().find(|message| Held::of(message) == Some(held)) else {
            return Ok(());
        };
        let deleted = self.handle.address().del(message).execute().await;
        deleted.map_err(|error| refused("remove address", held.address, &error))
    }

    pub(crate) async fn set_up(&self, index: u32, name: &str, up: bool) -> Result<(), NetError> {
        let link = LinkUnspec::new_with_index(index);
        let link = if up { link.up() } else { link.down() }.build();
        let operation = if up { "bring up" } else { "bring down" };
        self.handle.link().set(link).execute().await.map_err(|error| refused(operation, name, &error))
    }

    /// Makes a tap a port of the bridge: isolated from the other ports, and told where it is instead of learning. Tells the
    /// host its guest's MAC, so that it needn't ask a guest that is still booting, and wait a second to ask again. All of
    /// it is sent at once: the kernel does one after the other.
    pub(crate) async fn join(
        &self,
        tap: (u32, &str),
        bridge: u32,
        guest: (Ipv4Addr, MacAddr),
    ) -> Result<(), NetError> {
        let ((index, name), (address, mac)) = (tap, guest);
        let enslaved = LinkUnspec::new_with_index(index).controller(bridge).build();
        let enslaved = self.handle.link().set(enslaved).execute();
        let port = LinkBridgePort::new(index).isolated(true).learning(false).flood(false).mcast_flood(false);
        let port = self.handle.link().set_port(port.build()).execute();
        let entry = self.handle.neighbours().add_bridge(index, &mac.0).replace();
        let placed = entry.state(NeighbourState::Noarp).flags(NeighbourFlags::Controller).execute();
        let entry = self.handle.neighbours().add(bridge, IpAddr::V4(address)).link_layer_address(&mac.0);
        let noted = entry.state(NeighbourState::Permanent).replace().execute();
        let (enslaved, port, placed, noted) = tokio::join!(biased; enslaved, port, placed, noted);
        enslaved.map_err(|error| match errno(&error) {
            Some(libc::EXFULL | libc::ENOSPC) => NetError::Host {
                message: format!("{name} finds no place on the bridge: all of its 1,023 ports are taken"),
            },
            _ => refused("put on the bridge", name, &error),
        })?;
        port.map_err(|error| refused("isolate", name, &error))?;
        placed.map_err(|error| refused("place the MAC of", name, &error))?;
        noted.map_err(|error| refused("note neighbour", address, &error))
    }

    pub(crate) async fn delete_neighbour(&self, bridge: u32, address: Ipv4Addr) -> Result<(), NetError> {
        let mut request = self.handle.neighbours().add(bridge, IpAddr::V4(address));
        let message = request.message_mut().clone();
        match self.handle.neighbours().del(message).execute().await {
            Err(error) if !matches!(errno(&error), Some(libc::ENOENT | libc::ENODEV)) => {
                Err(refused("forget neighbour", address, &error))
            }
            _ => Ok(()),
        }
    }

    /// Fine when there is none.
    pub(crate) async fn delete(&self, index: u32, name: &str) -> Result<(), NetError> {
        match self.handle.link().del(index).execute().await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => Err(refused("remove", name, &error)),
            _ => Ok(()),
        }
    }

    /// Deletes many interfaces for the price of one: the kernel waits once for all processors to have let go of a whole
    /// group, and for every single one otherwise. Those that are gone already don't matter.
    pub(crate) async fn delete_many(&self, indices: &[u32], group: u32) -> Result<(), NetError> {
        if let [index] = indices {
            return self.delete(*index, "a tap").await;
        }
        let moves = indices.iter().map(|index| {
            let link = LinkUnspec::new_with_index(*index).link_group(group).build();
            self.handle.link().set(link).execute()
        });
        let moved = futures_util::future::join_all(moves).await.into_iter().filter(Result::is_ok).count();
        if moved == 0 {
            return Ok(());
        }
        let every = LinkUnspec::new_with_index(0).link_group(group).build();
        match self.handle.link().del_with_message(every).execute().await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => {
                Err(refused("remove", "a group of taps", &error))
            }
            _ => Ok(()),
        }
    }
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            bridge: None,
            isolated: false,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: false,
            alias: String::new(),
            mac: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Controller(bridge) => link.bridge = Some(*bridge).filter(|index| *index != 0),
                LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = kind_name(kind),
                            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                                link.isolated = port.contains(&InfoBridgePort::Isolated(true));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }

    /// Whether this is a tap.
    pub(crate) fn is_tap(&self) -> bool {
        self.kind == "tun"
    }
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Bridge => "bridge".to_owned(),
        InfoKind::Tun => "tun".to_owned(),
        other => other.to_string(),
    }
}

impl Held {
    fn of(message: &AddressMessage) -> Option<Self> {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })?;
        Some(Self { index: message.header.index, address: local, prefix: message.header.prefix_len })
    }
}

impl Route {
    fn of(message: &RouteMessage) -> Option<Self> {
        if !matches!(message.header.kind, RouteType::Unicast | RouteType::Local) {
            return None;
        }
        let mut route = Self {
            index: 0,
            network: Ipv4Addr::UNSPECIFIED,
            prefix: message.header.destination_prefix_length,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(network)) => route.network = *network,
                RouteAttribute::Oif(index) => route.index = *index,
                _ => {}
            }
        }
        Some(route)
    }
}

fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

fn refused(operation: &'static str, object: impl std::fmt::Display, error: &Error) -> NetError {
    let message = match errno(error) {
        Some(libc::EPERM) => "no right to: it takes root, or CAP_NET_ADMIN".to_owned(),
        Some(code) => std::io::Error::from_raw_os_error(code).to_string(),
        None => error.to_string(),
    };
    NetError::Refused { operation, object: object.to_string(), message }
}
