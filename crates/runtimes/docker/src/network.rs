//! One network per workshop: made with its first seat, gone with its last.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex as StdMutex, PoisonError};

use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use clarateach_ids::WorkshopId;
use clarateach_runtime::{Egress, RuntimeError};
use tokio::sync::Mutex;

use crate::engine::{Engine, status, words};
use crate::firewall::Firewall;
use crate::naming::{Naming, Role};

/// Docker's own pools hold about thirty networks, and are other people's too. Ours are cut from here.
const POOL: Subnet = Subnet { address: Ipv4Addr::new(10, 192, 0, 0), prefix: 12 };
/// 509 seats per workshop.
const PREFIX: u8 = 23;
/// How many candidates are offered before giving up: others may take one while we look.
const OFFERS: usize = 16;

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        Some(Self { address: address.parse().ok()?, prefix })
    }

    fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        self.address.to_bits() & mask == other.address.to_bits() & mask
    }
}

/// The networks of one installation.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// One change at a time: the Engine happily makes two networks with one name.
    change: Mutex<()>,
    known: StdMutex<HashSet<String>>,
}

impl Networks {
    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forget what was seen: the next [`Networks::ensure`] looks again.
    pub(crate) fn doubt(&self) {
        self.known().clear();
    }

    /// The name of the workshop's network, which is there when this returns, with the firewall in place.
    pub(crate) async fn ensure(
        &self,
        engine: &Engine,
        docker: &Docker,
        naming: &Naming,
        firewall: &Firewall,
        (workshop, egress): (&WorkshopId, Egress),
    ) -> Result<String, RuntimeError> {
        let name = naming.network(workshop, egress);
        if self.known().contains(&name) {
            return Ok(name);
        }
        let _change = self.change.lock().await;
        if self.known().contains(&name) {
            return Ok(name);
        }
        firewall.raise().await;
        let bridge = naming.bridge(workshop, egress);
        let networks =
            docker.list_networks(None).await.map_err(|error| engine.failure("list networks", &error))?;
        let there = networks.iter().any(|network| {
            network.name.as_deref() == Some(&name)
                && network.labels.as_ref().and_then(|labels| naming.workshop_of(labels)).as_ref()
                    == Some(workshop)
        });
        if !there {
            let taken: Vec<Subnet> = networks
                .iter()
                .filter_map(|network| network.ipam.as_ref()?.config.as_ref())
                .flatten()
                .filter_map(|config| Subnet::parse(config.subnet.as_deref()?))
                .chain(routes())
                .collect();
            create(engine, docker, naming, (workshop, egress), &taken).await?;
        }
        firewall.look_for(&bridge);
        self.known().insert(name.clone());
        Ok(name)
    }

    /// Removes the networks of workshops for which `in_use` says no, and the firewall with the last of all.
    pub(crate) async fn tidy(
        &self,
        engine: &Engine,
        docker: &Docker,
        naming: &Naming,
        firewall: &Firewall,
        in_use: impl Fn(&WorkshopId) -> bool,
    ) -> Result<(), RuntimeError> {
        let _change = self.change.lock().await;
        let options = ListNetworksOptions { filters: Some(naming.all(Role::Network)) };
        let networks = docker
            .list_networks(Some(options))
            .await
            .map_err(|error| engine.failure("list networks", &error))?;
        let (mut left, mut stuck) = (0, None);
        for network in networks {
            let (Some(id), Some(labels)) = (network.id, network.labels) else { continue };
            // The filter has matched our label, but that label may be all it has.
            let Some(workshop) = naming.workshop_of(&labels) else { continue };
            if in_use(&workshop) {
                left += 1;
                continue;
            }
            if let Some(name) = &network.name {
                self.known().remove(name);
            }
            match docker.remove_network(&id).await {
                Ok(()) => {}
                Err(error) if status(&error) == Some(404) => {}
                // The others are removed all the same.
                Err(error) => {
                    left += 1;
                    stuck =
                        Some(engine.failure(format!("remove the network of workshop {workshop}"), &error));
                }
            }
        }
        if left == 0 {
            firewall.lower().await;
        }
        stuck.map_or(Ok(()), Err)
    }
}

async fn create(
    engine: &Engine,
    docker: &Docker,
    naming: &Naming,
    (workshop, egress): (&WorkshopId, Egress),
    taken: &[Subnet],
) -> Result<(), RuntimeError> {
    let name = naming.network(workshop, egress);
    let operation = format!("create the network of workshop {workshop}");
    let mut refusal = "every subnet of 10.192.0.0/12 is taken".to_owned();
    for subnet in free_subnets(workshop, taken).take(OFFERS) {
        let ipam =
            IpamConfig { subnet: Some(format!("{}/{}", subnet.address, PREFIX)), ..Default::default() };
        let options = HashMap::from([
            ("com.docker.network.bridge.name".to_owned(), naming.bridge(workshop, egress)),
            ("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned()),
        ]);
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(egress == Egress::None),
            attachable: Some(false),
            enable_ipv6: Some(false),
            ipam: Some(Ipam { config: Some(vec![ipam]), ..Default::default() }),
            options: Some(options),
            labels: Some(naming.network_labels(workshop)),
            ..Default::default()
        };
        match docker.create_network(request).await {
            Ok(_) => return Ok(()),
            Err(error) if is_overlap(&error) => words(&error).clone_into(&mut refusal),
            Err(error) => return Err(engine.failure(operation, &error)),
        }
    }
    Err(RuntimeError::Failed { operation, message: refusal })
}

fn is_overlap(error: &bollard::errors::Error) -> bool {
    words(error).to_ascii_lowercase().contains("overlap")
}

/// Free subnets of the pool, from a place of the workshop's own on, so that a subnet isn't used again at once.
fn free_subnets(workshop: &WorkshopId, taken: &[Subnet]) -> impl Iterator<Item = Subnet> {
    let count = 1u32 << (PREFIX - POOL.prefix);
    let hash = blake3::hash(workshop.as_str().as_bytes());
    let start = u32::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1], 0, 0]);
    (0..count)
        .map(move |step| {
            let index = start.wrapping_add(step) % count;
            let address = POOL.address.to_bits() + (index << (32 - u32::from(PREFIX)));
            Subnet { address: Ipv4Addr::from_bits(address), prefix: PREFIX }
        })
        .filter(|candidate| !taken.iter().any(|other| other.overlaps(*candidate)))
}

/// Where this host already sends packets, the default route aside: `/proc/net/route`, see proc_net(5).
fn routes() -> Vec<Subnet> {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Hexadecimal in the byte order of the machine.
            let address = u32::from_str_radix(fields.get(1)?, 16).ok()?.swap_bytes();
            let mask = u32::from_str_radix(fields.get(7)?, 16).ok()?.swap_bytes();
            let prefix = u8::try_from(mask.leading_ones()).ok().filter(|prefix| *prefix > 0)?;
            Some(Subnet { address: Ipv4Addr::from_bits(address), prefix })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::parse(text).unwrap()
    }

    #[test]
    fn overlaps_are_seen_from_both_sides() {
        for (a, b, overlap) in [
            ("10.192.0.0/12", "10.200.4.0/23", true),
            ("10.200.4.0/23", "10.200.5.255/32", true),
            ("10.200.4.0/23", "10.200.6.0/23", false),
            ("0.0.0.0/0", "10.200.6.0/23", true),
        ] {
            assert_eq!(subnet(a).overlaps(subnet(b)), overlap);
            assert_eq!(subnet(b).overlaps(subnet(a)), overlap);
        }
    }

    #[test]
    fn what_others_use_is_never_offered() {
        let workshop = WorkshopId::random();
        let taken = [subnet("10.192.0.0/13"), subnet("10.200.0.0/16")];
        let free: Vec<Subnet> = free_subnets(&workshop, &taken).collect();
        assert_eq!(free.len(), (8 - 1) * 128);
        assert!(free.iter().all(|offer| offer.overlaps(POOL) && !taken.iter().any(|t| t.overlaps(*offer))));
        assert_eq!(free_subnets(&workshop, &[POOL]).count(), 0);
    }
}
