//! The bridge: whether the one that is there may be used, and making one.
//!
//! What to do is decided from a snapshot of the host's interfaces, addresses and routes, without touching anything.

use std::net::Ipv4Addr;

use clarateach_ids::MacAddr;

use super::link::{Held, Link, Links, Route};
use super::subnet::Subnet;
use super::{NetError, sysctl};

/// What is on this host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Held>,
    pub(crate) routes: Vec<Route>,
}

/// What the bridge should be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) subnet: Subnet,
    /// How the names of our taps begin.
    pub(crate) taps: String,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The bridge that is there.
    pub(crate) index: Option<u32>,
    /// Whether it still has to be marked and set up.
    pub(crate) claim: bool,
    /// Addresses of an earlier setting.
    pub(crate) stale: Vec<Held>,
    pub(crate) add_address: bool,
    pub(crate) bring_up: bool,
}

impl Snapshot {
    pub(crate) async fn take(links: &Links) -> Result<Self, NetError> {
        Ok(Self {
            links: links.all().await?,
            addresses: links.addresses().await?,
            routes: links.routes().await?,
        })
    }

    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn name_of(&self, index: u32) -> &str {
        self.links.iter().find(|link| link.index == index).map_or("an interface", |link| &link.name)
    }

    /// What of another interface overlaps our range.
    pub(crate) fn clash(&self, wanted: &Wanted) -> Option<String> {
        let own = self.link(&wanted.name).map_or(0, |link| link.index);
        let subnet = wanted.subnet;
        let address = self
            .addresses
            .iter()
            .find(|held| held.index != own && subnet.overlaps(held.address, held.prefix));
        if let Some(held) = address {
            let name = self.name_of(held.index);
            return Some(format!("{name} has the address {}/{}", held.address, held.prefix));
        }
        // A default route, also one in two halves as VPNs make it, is no clash: ours is more specific.
        let route = self.routes.iter().find(|route| {
            route.prefix > 1 && route.index != own && subnet.overlaps(route.network, route.prefix)
        });
        route.map(|route| {
            format!("there is a route to {}/{} by {}", route.network, route.prefix, self.name_of(route.index))
        })
    }

    pub(crate) fn default_route(&self) -> Option<&str> {
        let default =
            self.routes.iter().find(|route| route.prefix == 0 && route.network == Ipv4Addr::UNSPECIFIED);
        default.map(|route| self.name_of(route.index))
    }
}

impl Wanted {
    /// What marks the bridge as ours.
    fn alias(&self) -> String {
        format!("clarateach {}", self.owner)
    }

    fn mac(&self) -> MacAddr {
        MacAddr::of_ipv4(self.subnet.gateway())
    }

    /// Decides what to do; `others_alive` tells whether another process holds the bridge's lock.
    pub(crate) fn plan(&self, host: &Snapshot, others_alive: bool) -> Result<Plan, NetError> {
        let (name, subnet) = (&self.name, self.subnet);
        let Some(link) = host.link(name) else {
            self.refuse_clash(host)?;
            return Ok(Plan {
                index: None,
                claim: true,
                stale: Vec::new(),
                add_address: true,
                bring_up: true,
            });
        };
        let refuse = |why: String| {
            let fix = "choose another name for the bridge (BRIDGE_NAME), or remove that interface";
            Err(NetError::Host { message: format!("the interface {name} {why}: {fix}") })
        };
        if link.kind != "bridge" {
            return refuse("is no bridge".to_owned());
        }
        let ports: Vec<&Link> = host.links.iter().filter(|port| port.bridge == Some(link.index)).collect();
        if let Some(port) = ports.iter().find(|port| !port.name.starts_with(&self.taps)) {
            return refuse(format!("is a bridge with a port that is not ours, {}", port.name));
        }
        let ours = link.alias == self.alias();
        if !ours && others_alive {
            return refuse(format!("is in use by another running ClaraTeach ({:?})", link.alias));
        }
        if !ours && !ports.is_empty() {
            return refuse("is a bridge with ports that somebody else made".to_owned());
        }
        let of_bridge = || host.addresses.iter().filter(|held| held.index == link.index);
        let has_address =
            of_bridge().any(|held| (held.address, held.prefix) == (subnet.gateway(), subnet.prefix()));
        let stale: Vec<Held> = of_bridge()
            .filter(|held| (held.address, held.prefix) != (subnet.gateway(), subnet.prefix()))
            .copied()
            .collect();
        if let Some(other) = stale.first() {
            // Of an earlier start with another setting.
            let abandoned = link.alias.starts_with("clarateach ") && ports.is_empty();
            if !abandoned {
                return refuse(format!(
                    "has an address that is not ours, {}/{}",
                    other.address, other.prefix
                ));
            }
        }
        if !has_address {
            self.refuse_clash(host)?;
        }
        let claim = !ours || link.mac != self.mac().0;
        Ok(Plan { index: Some(link.index), claim, stale, add_address: !has_address, bring_up: !link.up })
    }

    fn refuse_clash(&self, host: &Snapshot) -> Result<(), NetError> {
        let Some(clash) = host.clash(self) else { return Ok(()) };
        let message = format!(
            "the range {} of the bridge {} is taken on this host: {clash}; choose another one (BRIDGE_IP)",
            self.subnet, self.name
        );
        Err(NetError::Host { message })
    }

    /// Does what was planned, and gives the bridge's index.
    pub(crate) async fn carry_out(&self, plan: &Plan, links: &Links) -> Result<u32, NetError> {
        let name = self.name.as_str();
        if plan.index.is_none() {
            links.add_bridge(name).await?;
        }
        let index = match plan.index {
            Some(index) => index,
            None => links.find(name).await?.map(|link| link.index).ok_or_else(|| NetError::Refused {
                operation: "make bridge",
                object: name.to_owned(),
                message: "it went away again at once".to_owned(),
            })?,
        };
        if plan.claim {
            links.claim_bridge(index, name, self.mac(), &self.alias()).await?;
        }
        sysctl::harden_bridge(name)?;
        for held in &plan.stale {
            links.delete_address(*held).await?;
        }
        if plan.add_address {
            links.add_address(index, self.subnet.gateway(), self.subnet.prefix()).await?;
        }
        if plan.bring_up {
            links.set_up(index, name, true).await?;
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            name: "clarateach0".to_owned(),
            owner: "me".to_owned(),
            subnet: Subnet::new([192, 168, 100, 1].into(), 24).unwrap(),
            taps: "ctabcde".to_owned(),
        }
    }

    fn link(index: u32, name: &str, kind: &str) -> Link {
        let mac = MacAddr::of_ipv4([192, 168, 100, 1].into()).0.to_vec();
        Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            bridge: None,
            isolated: false,
            up: true,
            carrier: true,
            alias: String::new(),
            mac,
        }
    }

    fn bridge(alias: &str) -> Link {
        Link { alias: alias.to_owned(), ..link(5, "clarateach0", "bridge") }
    }

    fn port(name: &str) -> Link {
        Link { bridge: Some(5), ..link(9, name, "tun") }
    }

    fn held(index: u32, address: [u8; 4], prefix: u8) -> Held {
        Held { index, address: address.into(), prefix }
    }

    fn host(links: Vec<Link>, addresses: Vec<Held>) -> Snapshot {
        Snapshot { links, addresses, routes: Vec::new() }
    }

    const OURS: ([u8; 4], u8) = ([192, 168, 100, 1], 24);

    #[test]
    fn an_empty_host_gets_a_bridge() {
        let plan = wanted().plan(&Snapshot::default(), false).unwrap();
        assert_eq!(plan, Plan { index: None, claim: true, stale: vec![], add_address: true, bring_up: true });
    }

    #[test]
    fn a_bridge_that_is_right_is_left_alone() {
        let host = host(vec![bridge("clarateach me"), port("ctabcde1")], vec![held(5, OURS.0, OURS.1)]);
        let plan = wanted().plan(&host, true).unwrap();
        assert_eq!(
            plan,
            Plan { index: Some(5), claim: false, stale: vec![], add_address: false, bring_up: false }
        );
    }

    #[test]
    fn an_empty_bridge_is_adopted_and_mended() {
        let mut down = bridge("");
        down.up = false;
        let plan = wanted().plan(&host(vec![down], vec![]), false).unwrap();
        assert_eq!(
            plan,
            Plan { index: Some(5), claim: true, stale: vec![], add_address: true, bring_up: true }
        );
        assert!(
            wanted()
                .plan(&host(vec![bridge("clarateach dead")], vec![held(5, OURS.0, OURS.1)]), false)
                .is_ok()
        );
        let moved =
            wanted().plan(&host(vec![bridge("clarateach me")], vec![held(5, [10, 0, 0, 1], 24)]), false);
        assert_eq!(moved.unwrap().stale, [held(5, [10, 0, 0, 1], 24)]);
    }

    #[test]
    fn what_is_somebody_elses_is_refused() {
        let refused = |host: &Snapshot, alive| wanted().plan(host, alive).unwrap_err().to_string();
        let dummy = host(vec![link(5, "clarateach0", "dummy")], vec![]);
        assert!(refused(&dummy, false).contains("is no bridge"));
        let foreign = host(vec![bridge("clarateach me"), port("eth1")], vec![]);
        assert!(refused(&foreign, false).contains("eth1"));
        let theirs = host(vec![bridge("clarateach you"), port("ctabcde1")], vec![]);
        assert!(refused(&theirs, false).contains("somebody else"));
        assert!(refused(&host(vec![bridge("clarateach you")], vec![]), true).contains("another running"));
        let addressed = host(vec![bridge("")], vec![held(5, [10, 9, 8, 7], 24)]);
        assert!(refused(&addressed, false).contains("10.9.8.7/24"));
    }

    #[test]
    fn a_range_that_is_taken_is_refused() {
        let eth = vec![link(2, "eth0", "")];
        let clash = wanted().plan(&host(eth.clone(), vec![held(2, [192, 168, 100, 77], 24)]), false);
        let clash = clash.unwrap_err().to_string();
        assert!(clash.contains("eth0") && clash.contains("BRIDGE_IP"), "{clash}");
        let route = |network: [u8; 4], prefix| Snapshot {
            routes: vec![Route { index: 2, network: network.into(), prefix }],
            ..host(eth.clone(), vec![])
        };
        assert!(wanted().plan(&route([192, 168, 0, 0], 16), false).is_err());
        assert!(wanted().plan(&route([0, 0, 0, 0], 0), false).is_ok());
        assert!(wanted().plan(&route([128, 0, 0, 0], 1), false).is_ok());
        assert!(wanted().plan(&route([192, 168, 101, 0], 24), false).is_ok());
    }
}
