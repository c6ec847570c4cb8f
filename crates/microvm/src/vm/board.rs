//! What is published of every seat, who has which address, and how a seat's task is reached.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{Capacity, DesiredSeat, Revision, RuntimeError};
use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Phase, Vm};
use crate::config::Readiness;
use crate::images::Image;
use crate::net::Slot;

/// What an apply asks of a seat's task.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) desired: DesiredSeat,
    pub(crate) image: Image,
    /// What a guest boots that is told who it is over its control channel.
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) readiness: Readiness,
    /// When it came in.
    pub(crate) asked: std::time::Instant,
}

/// What can be asked of a seat's task.
#[derive(Debug)]
pub(crate) enum Request {
    /// Make it so. Answered when the wish is written down, with whether it takes a start.
    Apply { wish: Box<Wish>, reply: oneshot::Sender<Result<bool, RuntimeError>> },
    /// Remove everything up to this generation. Answered when nothing is left.
    Remove { generation: Generation, reply: oneshot::Sender<Result<(), RuntimeError>> },
    /// The same, unless this very generation has been begun. Answered with whether it was not.
    TakeBack { generation: Generation, reply: oneshot::Sender<Result<bool, RuntimeError>> },
    /// Have the guest switch off by itself. Answered when it has begun to, or can't, or there is none that runs.
    ShutDown { reply: oneshot::Sender<()> },
}

/// One seat.
#[derive(Debug)]
struct Entry {
    requests: mpsc::UnboundedSender<Request>,
    vm: Option<Published>,
    /// Wakes those who wait for this seat, and nobody else: fifty creates at once would otherwise wake each other with
    /// every step of each.
    changes: watch::Sender<()>,
}

impl Entry {
    fn new(requests: mpsc::UnboundedSender<Request>, vm: Option<Published>) -> Self {
        Self { requests, vm, changes: watch::Sender::new(()) }
    }
}

/// What there is of a seat.
#[derive(Debug)]
struct Published {
    vm: Vm,
    phase: Phase,
    slot: Slot,
    secret: SecretString,
}

/// All seats.
#[derive(Debug)]
pub(crate) struct Board {
    entries: Mutex<HashMap<SeatKey, Entry>>,
    /// Addresses of left-overs that are being removed, and by how many.
    swept: Mutex<HashMap<Ipv4Addr, usize>>,
    revision: watch::Sender<u64>,
    capacity: u32,
}

impl Board {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { entries: Mutex::default(), swept: Mutex::default(), revision: watch::Sender::new(1), capacity }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SeatKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swept(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, usize>> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, entry: Option<&Entry>) {
        if let Some(entry) = entry {
            entry.changes.send_replace(());
        }
        self.revision.send_modify(|revision| *revision += 1);
    }

    pub(crate) async fn watch(&self, since: Revision) -> Revision {
        let mut revision = self.revision.subscribe();
        match revision.wait_for(|revision| *revision > since.0).await {
            Ok(revision) => Revision(*revision),
            Err(_) => since,
        }
    }

    /// Changes of one seat; ends when nothing of it is left. None when there is nothing now.
    pub(crate) fn follow(&self, key: &SeatKey) -> Option<watch::Receiver<()>> {
        Some(self.lock().get(key)?.changes.subscribe())
    }

    /// Hands a request to a seat's task, which `start` starts if there is none.
    pub(crate) fn ask(
        &self,
        key: &SeatKey,
        request: Request,
        start: impl FnOnce(mpsc::UnboundedReceiver<Request>),
    ) {
        let mut entries = self.lock();
        let request = match entries.get(key) {
            None => request,
            // A task that was ended from outside takes no requests; its seat gets another.
            Some(entry) => match entry.requests.send(request) {
                Ok(()) => return,
                Err(refused) => refused.0,
            },
        };
        let (requests, received) = mpsc::unbounded_channel();
        // The receiver is at hand, so this can't fail.
        let _ = requests.send(request);
        match entries.get_mut(key) {
            Some(entry) => entry.requests = requests,
            None => {
                entries.insert(key.clone(), Entry::new(requests, None));
            }
        }
        start(received);
    }

    /// Whether there is anything of a seat, or somebody at work on it.
    pub(crate) fn knows(&self, key: &SeatKey) -> bool {
        self.lock().contains_key(key)
    }

    /// Adds a seat that an earlier process has made.
    pub(crate) fn adopt(
        &self,
        vm: Vm,
        phase: Phase,
        slot: Slot,
        secret: SecretString,
    ) -> mpsc::UnboundedReceiver<Request> {
        let (requests, received) = mpsc::unbounded_channel();
        let key = vm.key.clone();
        let vm = Some(Published { vm, phase, slot, secret });
        self.lock().insert(key, Entry::new(requests, vm));
        self.changed(None);
        received
    }

    /// Forgets a seat of which nothing is left, if nobody has asked for anything meanwhile.
    pub(crate) fn retire(&self, key: &SeatKey, requests: &mpsc::UnboundedReceiver<Request>) -> bool {
        let mut entries = self.lock();
        let idle = requests.is_empty() && entries.get(key).is_some_and(|entry| entry.vm.is_none());
        if idle {
            entries.remove(key);
        }
        idle
    }

    /// Gives a seat its place: room among the VMs and an address that no other has, chosen by `choose` from those that
    /// are not taken. What was published of the seat before is replaced.
    ///
    /// # Errors
    /// [`RuntimeError::AtCapacity`].
    pub(crate) fn reserve(
        &self,
        key: &SeatKey,
        secret: SecretString,
        choose: impl FnOnce(&HashSet<Ipv4Addr>) -> Option<(Slot, Vm)>,
    ) -> Result<Slot, RuntimeError> {
        let mut entries = self.lock();
        let others = entries.iter().filter(|(other, _)| *other != key);
        let others: Vec<&Published> = others.filter_map(|(_, entry)| entry.vm.as_ref()).collect();
        let at_capacity = RuntimeError::AtCapacity {
            used: u32::try_from(others.len()).unwrap_or(u32::MAX),
            total: self.capacity,
        };
        if others.len() >= self.capacity as usize {
            return Err(at_capacity);
        }
        let mut taken: HashSet<Ipv4Addr> = others
            .iter()
            .filter(|other| other.phase.holds_address())
            .map(|other| other.slot.address)
            .collect();
        taken.extend(self.swept().keys());
        let (slot, vm) = choose(&taken).ok_or(at_capacity)?;
        let entry = entries.get_mut(key).map(|entry| {
            entry.vm = Some(Published { vm, phase: Phase::Making, slot: slot.clone(), secret });
            &*entry
        });
        self.changed(entry);
        Ok(slot)
    }

    /// Changes what is published of a seat.
    pub(crate) fn publish(&self, key: &SeatKey, change: impl FnOnce(&mut Vm, &mut Phase)) {
        let mut entries = self.lock();
        let entry = entries.get_mut(key).map(|entry| {
            if let Some(published) = &mut entry.vm {
                change(&mut published.vm, &mut published.phase);
            }
            &*entry
        });
        self.changed(entry);
    }

    /// What the seat's workspace asks of callers from now on.
    pub(crate) fn set_secret(&self, key: &SeatKey, secret: SecretString) {
        if let Some(published) = self.lock().get_mut(key).and_then(|entry| entry.vm.as_mut()) {
            published.secret = secret;
        }
    }

    /// Publishes that there is nothing of a seat any more.
    pub(crate) fn clear(&self, key: &SeatKey) {
        let mut entries = self.lock();
        let entry = entries.get_mut(key).map(|entry| {
            entry.vm = None;
            &*entry
        });
        self.changed(entry);
    }

    /// Takes an address out of use while a left-over that has it is removed; false when a VM has it.
    pub(crate) fn begin_sweep(&self, address: Ipv4Addr) -> bool {
        let entries = self.lock();
        let mut others = entries.values().filter_map(|entry| entry.vm.as_ref());
        let free = !others.any(|other| other.phase.holds_address() && other.slot.address == address);
        if free {
            *self.swept().entry(address).or_default() += 1;
        }
        free
    }

    pub(crate) fn end_sweep(&self, address: Ipv4Addr) {
        let mut swept = self.swept();
        if let Some(count) = swept.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                swept.remove(&address);
            }
        }
    }

    /// Whether a VM is here with its address, and no other has it but such as are being removed too.
    pub(crate) fn has_to_itself(&self, instance: &str, address: Ipv4Addr) -> bool {
        let entries = self.lock();
        let all = entries.values().filter_map(|entry| entry.vm.as_ref());
        let holders = all.filter(|vm| vm.phase.holds_address() && vm.slot.address == address);
        let (own, others): (Vec<_>, Vec<_>) = holders.partition(|holder| holder.vm.instance == instance);
        !own.is_empty() && others.iter().all(|other| other.phase == Phase::Removing)
    }

    pub(crate) fn all(&self) -> Vec<Vm> {
        self.lock()
            .values()
            .filter_map(|entry| entry.vm.as_ref())
            .map(|published| published.vm.clone())
            .collect()
    }

    pub(crate) fn get(&self, key: &SeatKey) -> Option<Vm> {
        self.lock().get(key)?.vm.as_ref().map(|published| published.vm.clone())
    }

    /// A VM, its phase and its secret, for a dial.
    pub(crate) fn dialled(&self, key: &SeatKey) -> Option<(Vm, Phase, SecretString)> {
        let entries = self.lock();
        let published = entries.get(key)?.vm.as_ref()?;
        Some((published.vm.clone(), published.phase, published.secret.clone()))
    }

    /// The slots of all VMs that hold their address.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let entries = self.lock();
        let all = entries.values().filter_map(|entry| entry.vm.as_ref());
        all.filter(|published| published.phase.holds_address())
            .map(|published| published.slot.clone())
            .collect()
    }

    /// The names of all VMs.
    pub(crate) fn instances(&self) -> HashSet<String> {
        self.all().into_iter().map(|vm| vm.instance).collect()
    }

    pub(crate) fn capacity(&self) -> Capacity {
        let used = self.lock().values().filter(|entry| entry.vm.is_some()).count();
        Capacity { total: self.capacity, used: u32::try_from(used).unwrap_or(u32::MAX) }
    }

    /// Whether there is room for a seat.
    ///
    /// # Errors
    /// [`RuntimeError::AtCapacity`].
    pub(crate) fn room(&self, key: &SeatKey) -> Result<(), RuntimeError> {
        let entries = self.lock();
        let others = entries.iter().filter(|(other, entry)| *other != key && entry.vm.is_some()).count();
        if others < self.capacity as usize {
            return Ok(());
        }
        let used = u32::try_from(others).unwrap_or(u32::MAX);
        Err(RuntimeError::AtCapacity { used, total: self.capacity })
    }
}
