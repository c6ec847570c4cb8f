//! One network per workshop: made with its first seat, gone with its last.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex as StdMutex, PoisonError};

use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use clarateach_ids::WorkshopId;
use clarateach_runtime::{Egress, RuntimeError};
use tokio::sync::{Mutex, OnceCell};

use crate::engine::{Engine, status, words};
use crate::firewall::{Firewall, resolvers};
use crate::naming::{Naming, Role};

/// Docker's own pools hold about thirty networks, and are other people's too. Ours are cut from here.
const POOL: Subnet = Subnet { address: Ipv4Addr::new(10, 192, 0, 0), prefix: 12 };
/// 509 seats per workshop.
const PREFIX: u8 = 23;
/// How many candidates are offered before giving up: others may take one while we look.
const OFFERS: usize = 16;

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// How networks are called whose seats ask the host's name servers themselves.
///
/// An Engine up to 20.10 starts its own resolver in every container of a network that somebody made, and execs itself
/// and iptables a dozen times for it (moby/moby#40516): a quarter of the processor time of a start. It doesn't where the
/// name of the network is not one that people could have chosen, as `bridge`, or one that starts so.
const PLAIN: &str = "container:";
/// The API of Engine 20.10, the last on which that was measured.
const DEAR_API: (u32, u32) = (1, 41);

/// Whether an Engine with this version of the API pays dearly for its resolver.
fn is_dear(api: &str) -> bool {
    let version =
        api.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.is_some_and(|version: (u32, u32)| version <= DEAR_API)
}

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
    /// Networks by the names of their bridges.
    known: StdMutex<HashMap<String, String>>,
    plain: OnceCell<bool>,
}

impl Networks {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forget what was seen: the next [`Networks::ensure`] looks again.
    pub(crate) fn doubt(&self) {
        self.known().clear();
    }

    /// The id of the workshop's network, which is there when this returns, with the firewall in place.
    pub(crate) async fn ensure(
        &self,
        engine: &Engine,
        docker: &Docker,
        naming: &Naming,
        firewall: &Firewall,
        (workshop, egress): (&WorkshopId, Egress),
    ) -> Result<String, RuntimeError> {
        let bridge = naming.bridge(workshop, egress);
        if let Some(known) = self.known().get(&bridge) {
            return Ok(known.clone());
        }
        let _change = self.change.lock().await;
        if let Some(known) = self.known().get(&bridge) {
            return Ok(known.clone());
        }
        firewall.raise().await;
        let networks =
            docker.list_networks(None).await.map_err(|error| engine.failure("list networks", &error))?;
        // By its bridge: what it is called depends on the Engine that it was made on.
        let there = networks.iter().find(|network| {
            network.options.as_ref().and_then(|options| options.get(BRIDGE_NAME)) == Some(&bridge)
                && network.labels.as_ref().and_then(|labels| naming.workshop_of(labels)).as_ref()
                    == Some(workshop)
        });
        let id = match there.and_then(|network| network.id.clone()) {
            Some(id) => id,
            None => {
                let taken: Vec<Subnet> = networks
                    .iter()
                    .filter_map(|network| network.ipam.as_ref()?.config.as_ref())
                    .flatten()
                    .filter_map(|config| Subnet::parse(config.subnet.as_deref()?))
                    .chain(routes())
                    .collect();
                let plain = egress == Egress::Internet && self.plain(engine, docker).await?;
                let name = naming.network(workshop, egress);
                let name = if plain { format!("{PLAIN}{name}") } else { name };
                create(engine, docker, naming, (workshop, egress), name, &taken).await?
            }
        };
        firewall.look_for(&bridge);
        self.known().insert(bridge, id.clone());
        Ok(id)
    }

    /// Whether seats are better off without the Engine's own resolver, see [`PLAIN`].
    async fn plain(&self, engine: &Engine, docker: &Docker) -> Result<bool, RuntimeError> {
        let ask = async {
            let version = docker
                .version()
                .await
                .map_err(|error| engine.failure("ask for the Engine's version", &error))?;
            // Without the resolver a seat asks the host's name servers: there have to be some that it can reach.
            Ok(version.api_version.is_some_and(|api| is_dear(&api)) && !resolvers().is_empty())
        };
        self.plain.get_or_try_init(|| ask).await.copied()
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
            self.known().retain(|_, known| *known != id);
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
    name: String,
    taken: &[Subnet],
) -> Result<String, RuntimeError> {
    let operation = format!("create the network of workshop {workshop}");
    let mut refusal = "every subnet of 10.192.0.0/12 is taken".to_owned();
    for subnet in free_subnets(workshop, taken).take(OFFERS) {
        let ipam =
            IpamConfig { subnet: Some(format!("{}/{}", subnet.address, PREFIX)), ..Default::default() };
        let options = HashMap::from([
            (BRIDGE_NAME.to_owned(), naming.bridge(workshop, egress)),
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
            Ok(made) => return Ok(made.id),
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
    fn engines_after_20_10_keep_their_resolver() {
        for (api, dear) in [("1.40", true), ("1.41", true), ("1.42", false), ("2.0", false), ("", false)] {
            assert_eq!(is_dear(api), dear, "{api}");
        }
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
