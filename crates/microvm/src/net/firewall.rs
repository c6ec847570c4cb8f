//! Keeping the firewall as it is meant to be.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value;
use tokio::sync::Mutex;

use super::foreign::Foreign;
use super::ruleset::{Design, NO_EGRESS};
use super::together::Together;
use super::{NetError, nft};

/// Our tables and the accepts in other people's chains.
#[derive(Debug)]
pub(crate) struct Firewall {
    design: Design,
    /// One transaction at a time; holds the hash of the tables as they were listed when they were last put in place.
    transaction: Mutex<Option<blake3::Hash>>,
    /// Who may connect to nowhere, as the set in the table has it.
    no_egress: Arc<RwLock<BTreeSet<Ipv4Addr>>>,
    /// Guests that are let out (or not).
    egress: Together<(Ipv4Addr, bool), NetError>,
}

impl Firewall {
    pub(crate) fn new(design: Design) -> Arc<Self> {
        Arc::new(Self {
            design,
            transaction: Mutex::new(None),
            no_egress: Arc::default(),
            egress: Together::default(),
        })
    }

    /// Guests that may connect to nowhere, for the nameserver.
    pub(crate) fn no_egress(&self) -> Arc<RwLock<BTreeSet<Ipv4Addr>>> {
        self.no_egress.clone()
    }

    /// These guests of an earlier process may connect to nowhere, whatever the tables say when they are next put in place.
    pub(crate) fn confine(&self, guests: impl Iterator<Item = Ipv4Addr>) {
        self.set_no_egress(|set| set.extend(guests));
    }

    /// Puts the tables in place. They are replaced in one transaction when this process didn't make them, or when
    /// somebody has changed them since: established connections stay open.
    pub(crate) async fn ensure(&self) -> Result<(), NetError> {
        let mut transaction = self.transaction.lock().await;
        if transaction.is_none() {
            nft::orphans_ended().await;
        }
        let there = self.list().await;
        if transaction.is_none_or(|meant| fingerprint(&there) != meant) {
            if transaction.is_some() {
                tracing::warn!(
                    table = self.design.table(),
                    "the firewall tables were changed or flushed: put back"
                );
            } else {
                self.set_no_egress(|set| set.extend(elements(&there)));
            }
            let no_egress = self.closed().clone();
            self.install(&mut transaction, &no_egress).await?;
        } else {
            self.mend_no_egress(&there).await?;
        }
        let foreign = self.foreign().await?;
        if let Some(batch) = foreign.mend(&self.design) {
            for place in &foreign.places {
                tracing::info!(chain = %place, bridge = self.design.bridge, "this chain drops by default: accepts for the bridge go in");
            }
            nft::apply("other tables' chains", &batch).await?;
        }
        Ok(())
    }

    /// Makes the tables anew. To be called in a transaction, whose hash it is given.
    async fn install(
        &self,
        transaction: &mut Option<blake3::Hash>,
        no_egress: &BTreeSet<Ipv4Addr>,
    ) -> Result<(), NetError> {
        nft::apply(&self.what(), &self.design.install(no_egress)).await?;
        *transaction = Some(fingerprint(&self.list().await));
        Ok(())
    }

    /// Has the set say again who may go nowhere, if somebody else has changed it. To be called in a transaction.
    async fn mend_no_egress(&self, there: &[Value]) -> Result<(), NetError> {
        let (shown, meant): (BTreeSet<_>, _) = (elements(there).into_iter().collect(), self.closed().clone());
        if shown == meant {
            return Ok(());
        }
        tracing::warn!(table = self.design.table(), "who may connect to nowhere was changed: put back");
        let add: Vec<_> = meant.difference(&shown).copied().collect();
        let remove: Vec<_> = shown.difference(&meant).copied().collect();
        nft::apply(&self.what(), &self.design.change_no_egress(&add, &remove)).await
    }

    /// Takes away everything that is ours.
    pub(crate) async fn remove(&self) -> Result<(), NetError> {
        let mut transaction = self.transaction.lock().await;
        if let Some(batch) = self.foreign().await?.withdraw() {
            nft::apply("other tables' chains", &batch).await?;
        }
        nft::apply(&self.what(), &self.design.uninstall()).await?;
        *transaction = None;
        self.set_no_egress(BTreeSet::clear);
        Ok(())
    }

    /// Lets a guest out or not. Costs nothing when the table says so already.
    pub(crate) async fn set_egress(self: &Arc<Self>, guest: Ipv4Addr, open: bool) -> Result<(), NetError> {
        if self.closed().contains(&guest) != open {
            return Ok(());
        }
        // A guest's last wish is what holds.
        let all = |wishes: Vec<(Ipv4Addr, bool)>| self.change(wishes.into_iter().collect());
        self.egress.run((guest, open), all).await
    }

    /// Makes exactly these the guests that may connect to nowhere, but leaves `spared` as they are.
    pub(crate) async fn settle_no_egress(
        self: &Arc<Self>,
        wanted: &BTreeSet<Ipv4Addr>,
        spared: &HashSet<Ipv4Addr>,
    ) -> Result<(), NetError> {
        let there = self.closed().clone();
        let all = there.union(wanted).filter(|guest| !spared.contains(*guest));
        self.change(all.map(|guest| (*guest, !wanted.contains(guest))).collect()).await
    }

    /// Whether the tables are in place and unchanged since this process made them, or at least there.
    pub(crate) async fn standing(&self) -> bool {
        let meant = *self.transaction.lock().await;
        let there = self.list().await;
        meant.map_or(!there.is_empty(), |meant| fingerprint(&there) == meant)
    }

    pub(crate) async fn foreign(&self) -> Result<Foreign, NetError> {
        Ok(Foreign::read(&nft::ruleset().await?, &self.design))
    }

    pub(crate) fn design(&self) -> &Design {
        &self.design
    }

    /// Has the set say of some guests whether they may go out. In a task of its own: what it begins it ends, also when
    /// whoever asked doesn't wait for it. Should somebody have flushed the tables, they are put back with it.
    async fn change(self: &Arc<Self>, wishes: BTreeMap<Ipv4Addr, bool>) -> Result<(), NetError> {
        let firewall = self.clone();
        let change = async move {
            let mut transaction = firewall.transaction.lock().await;
            let there = firewall.closed().clone();
            let those = |wanted: bool| -> Vec<Ipv4Addr> {
                let changed =
                    |(guest, open): &(&Ipv4Addr, &bool)| **open == wanted && there.contains(*guest) == wanted;
                wishes.iter().filter(changed).map(|(guest, _)| *guest).collect()
            };
            let (add, remove) = (those(false), those(true));
            if add.is_empty() && remove.is_empty() {
                return Ok(());
            }
            let mut meant = there;
            meant.extend(&add);
            meant.retain(|guest| !remove.contains(guest));
            let batch = firewall.design.change_no_egress(&add, &remove);
            if let Err(error) = nft::apply(&firewall.what(), &batch).await {
                // Tables that this process has not made are not its to put back.
                if transaction.is_none() {
                    return Err(error);
                }
                tracing::warn!(%error, table = firewall.design.table(), "the firewall tables are made anew");
                firewall.install(&mut transaction, &meant).await?;
            }
            firewall.set_no_egress(|set| *set = meant);
            Ok(())
        };
        tokio::spawn(change).await.map_err(|error| NetError::Refused {
            operation: "change firewall",
            object: self.what(),
            message: error.to_string(),
        })?
    }

    fn closed(&self) -> RwLockReadGuard<'_, BTreeSet<Ipv4Addr>> {
        self.no_egress.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_no_egress(&self, change: impl FnOnce(&mut BTreeSet<Ipv4Addr>)) {
        change(&mut self.no_egress.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Both tables; nothing where one is missing.
    async fn list(&self) -> Vec<Value> {
        nft::table(&self.design.table()).await.unwrap_or_default()
    }

    fn what(&self) -> String {
        format!("table {}", self.design.table())
    }
}

/// What `no_egress` holds.
fn elements(objects: &[Value]) -> Vec<Ipv4Addr> {
    objects
        .iter()
        .filter_map(|object| object.get("set"))
        .filter(|set| set.get("name").and_then(Value::as_str) == Some(NO_EGRESS))
        .filter_map(|set| set.get("elem")?.as_array())
        .flatten()
        .filter_map(|element| element.as_str()?.parse().ok())
        .collect()
}

/// A hash of a listing that leaves out what changes by itself or by us: handles, counters, who may go nowhere.
fn fingerprint(objects: &[Value]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for object in objects {
        let mut object = object.clone();
        settle(&mut object);
        hasher.update(object.to_string().as_bytes());
    }
    hasher.finalize()
}

fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("handle");
            fields.remove("counter");
            if fields.get("name").and_then(Value::as_str) == Some(NO_EGRESS) {
                fields.remove("elem");
            }
            // A set's elements come in any order.
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_cached_key(Value::to_string);
            }
            fields.values_mut().for_each(settle);
        }
        Value::Array(values) => values.iter_mut().for_each(settle),
        _ => {}
    }
}
