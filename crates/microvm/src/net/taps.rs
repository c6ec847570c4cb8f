//! The taps of this owner: coming, going, many at a time, and none twice.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, MutexGuard, PoisonError};

use nix::net::if_::if_nametoindex;
use tokio::sync::{Mutex, OwnedMutexGuard, RwLock, RwLockReadGuard, Semaphore};

use super::link::{Link, Links};
use super::tap;
use super::together::Together;
use super::{NetError, Slot, sysctl};

/// How many taps are removed in one go: others wait for the kernel's lock as long as that takes.
const SWEEP: usize = 64;
/// The interface group that taps are moved to when they are about to be removed: `ct` in ASCII.
const DOOMED: u32 = 0x6374_0000;
/// How many are made at a time. The kernel has one lock for all of it: with more, each takes longer, and all of them as long.
const COMING: usize = 2;

/// Makes and removes taps.
#[derive(Debug)]
pub(crate) struct Taps {
    links: Links,
    /// How their names begin.
    prefix: String,
    /// Guests whose taps this object attached and didn't detach.
    attached: std::sync::Mutex<HashSet<Ipv4Addr>>,
    /// One at a time may do something about an address. Never emptied: there are as many as addresses at most.
    places: std::sync::Mutex<HashMap<Ipv4Addr, Arc<Mutex<()>>>>,
    /// Taps that are being removed.
    leaving: Together<u32, NetError>,
    coming: Semaphore,
    /// Held for writing while taps are removed by the dozen, so that none is taken into use meanwhile.
    sweeping: RwLock<()>,
}

/// An address that nobody else does anything about.
#[derive(Debug)]
pub(crate) struct Reserved<'t> {
    _not_sweeping: RwLockReadGuard<'t, ()>,
    place: OwnedMutexGuard<()>,
}

impl Taps {
    pub(crate) fn new(links: Links, prefix: String) -> Self {
        Self {
            links,
            prefix,
            attached: std::sync::Mutex::default(),
            places: std::sync::Mutex::default(),
            leaving: Together::default(),
            coming: Semaphore::new(COMING),
            sweeping: RwLock::new(()),
        }
    }

    /// Those there are, attached or not, with their addresses.
    pub(crate) async fn list(&self) -> Result<Vec<(Ipv4Addr, Link)>, NetError> {
        let links = self.links.all().await?;
        Ok(links.into_iter().filter_map(|link| Some((self.address_of(&link)?, link))).collect())
    }

    /// From here on, no sweep takes what belongs to the address.
    pub(crate) async fn reserve(&self, address: Ipv4Addr) -> Reserved<'_> {
        let not_sweeping = self.sweeping.read().await;
        let place = self.place(address).await;
        self.attached().insert(address);
        Reserved { _not_sweeping: not_sweeping, place }
    }

    /// Makes the tap of a slot and puts it on the bridge, down.
    pub(crate) async fn attach(
        &self,
        slot: &Slot,
        bridge: u32,
        reserved: Reserved<'_>,
    ) -> Result<(), NetError> {
        // Never closed.
        let _turn = self.coming.acquire().await;
        let (index, new, _place) = self.make(slot, reserved.place).await?;
        let joined = self.join(slot, index, bridge).await;
        // One that was there may be a running VM's.
        if joined.is_err() && new {
            let removed = tokio::join!(
                self.links.delete(index, &slot.tap),
                self.links.delete_neighbour(bridge, slot.address)
            );
            if let (Err(error), _) | (_, Err(error)) = removed {
                tracing::warn!(tap = slot.tap, %error, "a tap that could not be set up was not removed");
            }
        }
        joined
    }

    /// Removes the tap of a slot, if there is one, and what the host knows of its guest.
    pub(crate) async fn detach(&self, slot: &Slot, bridge: Option<u32>) -> Result<(), NetError> {
        let _place = self.place(slot.address).await;
        if let Ok(index) = if_nametoindex(slot.tap.as_str()) {
            let remove = |indices: Vec<u32>| async move { self.links.delete_many(&indices, DOOMED).await };
            self.leaving.run(index, remove).await?;
        }
        if let Some(bridge) = bridge {
            self.links.delete_neighbour(bridge, slot.address).await?;
        }
        Ok(())
    }

    /// Removes the tap of a slot that can't be here any more, if it is one of ours; another owner's or program's stays.
    pub(crate) async fn detach_stranger(&self, slot: &Slot) -> Result<(), NetError> {
        let _place = self.place(slot.address).await;
        if if_nametoindex(slot.tap.as_str()).is_err() {
            return Ok(());
        }
        let link = self.links.find(&slot.tap).await?;
        let Some(link) = link.filter(|link| self.address_of(link) == Some(slot.address)) else {
            return Ok(());
        };
        self.links.delete(link.index, &slot.tap).await?;
        if let Some(bridge) = link.bridge {
            self.links.delete_neighbour(bridge, slot.address).await?;
        }
        Ok(())
    }

    /// Sweeps may take what belongs to the address again.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        self.attached().remove(&address);
    }

    /// Puts the taps of running VMs back on a bridge that was taken away and made again, or that somebody has changed;
    /// `all` does so with those that look right, too.
    pub(crate) async fn mend(
        &self,
        links: &[Link],
        bridge: u32,
        all: bool,
        slot: impl Fn(Ipv4Addr) -> Slot + Send,
    ) -> Result<(), NetError> {
        for link in links {
            let lost = link.bridge.is_none() && link.carrier;
            let changed = link.bridge == Some(bridge) && (all || !link.isolated);
            if let Some(address) = self.address_of(link).filter(|_| lost || changed) {
                tracing::warn!(tap = link.name, "this tap was taken off the bridge, or changed: mended");
                let mended = self.join(&slot(address), link.index, bridge).await;
                // Its VM may have ended meanwhile.
                if mended.is_err() && if_nametoindex(link.name.as_str()) == Ok(link.index) {
                    return mended;
                }
            }
        }
        Ok(())
    }

    /// Removes all but the wanted ones and those that this object attached, and says how many.
    pub(crate) async fn sweep(&self, wanted: &HashSet<Ipv4Addr>) -> Result<usize, NetError> {
        self.remove(|address| wanted.contains(&address) || self.attached().contains(&address)).await
    }

    /// Removes all.
    pub(crate) async fn clear(&self) -> Result<(), NetError> {
        self.remove(|_| false).await?;
        self.attached().clear();
        Ok(())
    }

    /// Keeps taps from coming meanwhile, and tells which were attached by this object.
    pub(crate) async fn pause(&self) -> (impl Drop + '_, HashSet<Ipv4Addr>) {
        let paused = self.sweeping.write().await;
        (paused, self.attached().clone())
    }

    /// `spare` is asked again before each dozen.
    async fn remove(&self, spare: impl Fn(Ipv4Addr) -> bool + Send) -> Result<usize, NetError> {
        let mut removed = 0;
        for some in self.list().await?.chunks(SWEEP) {
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

    /// Makes the tap if there is none, closes it if it was left by a VM that is gone, and leaves one that a VMM holds.
    /// Gives its index, and whether it is new. The place goes along to the thread that makes it: whoever drops this
    /// future can remove the tap only when it has been made.
    async fn make(
        &self,
        slot: &Slot,
        place: OwnedMutexGuard<()>,
    ) -> Result<(u32, bool, OwnedMutexGuard<()>), NetError> {
        let refused = |error: &dyn fmt::Display| NetError::Refused {
            operation: "make tap",
            object: slot.tap.clone(),
            message: error.to_string(),
        };
        if if_nametoindex(slot.tap.as_str()).is_ok()
            && let Some(link) = self.links.find(&slot.tap).await?
        {
            if !link.is_tap() {
                return Err(refused(&"there is an interface of that name which is no tap"));
            }
            if link.up && !link.carrier {
                self.links.set_up(link.index, &slot.tap, false).await?;
            }
            return Ok((link.index, false, place));
        }
        let name = slot.tap.clone();
        let made = tokio::task::spawn_blocking(move || (tap::create(&name), place)).await;
        let (index, place) = made.map_err(|error| refused(&error))?;
        Ok((index.map_err(|error| refused(&error))?, true, place))
    }

    async fn join(&self, slot: &Slot, index: u32, bridge: u32) -> Result<(), NetError> {
        sysctl::disable_ipv6(&slot.tap)?;
        self.links.join((index, &slot.tap), bridge, (slot.address, slot.mac)).await
    }

    fn address_of(&self, link: &Link) -> Option<Ipv4Addr> {
        tap::address_of(&self.prefix, &link.name).filter(|_| link.is_tap())
    }

    async fn place(&self, address: Ipv4Addr) -> OwnedMutexGuard<()> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.entry(address).or_default().clone()
        };
        place.lock_owned().await
    }

    fn attached(&self) -> MutexGuard<'_, HashSet<Ipv4Addr>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
