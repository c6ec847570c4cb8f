//! Who made which VM. Each control plane says which installation it is, sees its own VMs, and can't touch another's.

use std::collections::{BTreeMap, BTreeSet};

use clarateach_ids::{InstallationId, SeatKey};
use tokio::sync::Mutex;

use crate::app::App;
use crate::error::AgentError;

/// By seat, as `workshop/seat`; `None` until it has been read.
#[derive(Debug, Default)]
pub(crate) struct Owners(Mutex<Option<BTreeMap<String, InstallationId>>>);

impl App {
    /// Seats whose VMs other installations than `caller` made. What nobody is known to have made is everybody's.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) async fn seats_of_others(
        &self,
        caller: &InstallationId,
    ) -> Result<BTreeSet<String>, AgentError> {
        self.owners(|owners| {
            let others = owners.iter().filter(|(_, owner)| *owner != caller);
            (others.map(|(seat, _)| seat.clone()).collect(), false)
        })
        .await
    }

    /// Whether another installation than `caller` made a seat's VM.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) async fn is_of_another(
        &self,
        caller: &InstallationId,
        key: &SeatKey,
    ) -> Result<bool, AgentError> {
        self.owners(|owners| (owners.get(&key.to_string()).is_some_and(|owner| owner != caller), false)).await
    }

    /// Remembers that `caller` makes a seat's VM. False when another installation has.
    ///
    /// # Errors
    /// When it can't be remembered.
    pub(crate) async fn make_for(&self, caller: &InstallationId, key: &SeatKey) -> Result<bool, AgentError> {
        self.owners(|owners| match owners.get(&key.to_string()) {
            Some(owner) => (owner == caller, false),
            None => {
                owners.insert(key.to_string(), caller.clone());
                (true, true)
            }
        })
        .await
    }

    /// A seat's VM is gone.
    ///
    /// # Errors
    /// When it can't be remembered.
    pub(crate) async fn gone(&self, key: &SeatKey) -> Result<(), AgentError> {
        self.owners(|owners| ((), owners.remove(&key.to_string()).is_some())).await
    }

    /// Has `work` done with what is known; writes it down when it says so.
    async fn owners<R>(
        &self,
        work: impl FnOnce(&mut BTreeMap<String, InstallationId>) -> (R, bool),
    ) -> Result<R, AgentError> {
        let mut known = self.owners.0.lock().await;
        let mut owners = match known.take() {
            Some(owners) => owners,
            None => {
                // Of VMs that ended by themselves while nobody looked.
                let there = self.host.runtime().observe().await?;
                let there: BTreeSet<String> = there.iter().map(|vm| vm.key.to_string()).collect();
                let mut owners = self.state.owners()?;
                owners.retain(|seat, _| there.contains(seat));
                owners
            }
        };
        let (result, differs) = work(&mut owners);
        let written = if differs { self.state.set_owners(&owners) } else { Ok(()) };
        // What could not be written is read again.
        *known = written.is_ok().then_some(owners);
        written?;
        Ok(result)
    }
}
