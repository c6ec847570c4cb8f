//! Does one thing: at once, or it is begun.

use std::collections::BTreeMap;
use std::time::Duration;

use clarateach_gcp::fleet::Fleet as Machines;
use clarateach_gcp::fleet::Found;
use clarateach_gcp::fleet::plan::Action;
use clarateach_gcp::{GcpError, ResourceName};
use clarateach_store::{WorkerRecord, WorkerSource, WorkerWish};
use secrecy::ExposeSecret;

use super::scaler::{Problem, Scaler, key};
use super::sight::{IDLE_LABEL, PROJECT_LABEL, Sight, ZONE_LABEL};
use super::underway::{Doing, What};
use crate::config::Scaling;

/// Where agents listen.
const AGENT_PORT: u16 = 9090;
/// Other servers know after this time that a worker is drained, and place nothing on it any more.
const DRAINED_AFTER: Duration = Duration::from_secs(15);
const TOKEN_BYTES: usize = 32;

impl Scaler {
    /// Does one thing. Whether it is done by now: false when it was begun, or when it is not its time yet.
    pub(super) async fn act(&mut self, action: &Action, sight: &Sight) -> Result<bool, Problem> {
        match action {
            Action::Create(zone) => self.create(zone, sight),
            Action::Start(name) => self.start(name, sight),
            Action::Register(name) => self.register(name, sight).await,
            Action::Drain(name) => self.drain(name, sight).await,
            Action::Undrain(name) => self.undrain(name, sight).await,
            Action::Delete(name) | Action::DeleteDisk(name) => self.delete(name, action, sight).await,
            Action::Forget(name) => self.forget(name, sight).await,
        }
    }

    /// A name that nothing of ours has: the same after a crash, so that what was begun before is not begun twice.
    fn free_name(&self, sight: &Sight) -> Option<ResourceName> {
        let names =
            (1..=100_000).filter_map(|n| format!("clarateach-{}-{n}", self.app.installation).parse().ok());
        let is_free = |name: &ResourceName| {
            !sight.found.contains_key(name)
                && !sight.records.contains_key(name)
                && !self.taken.contains(name)
                && !self.underway.is_at(name)
        };
        names.into_iter().find(is_free)
    }

    /// Has Google do something to a machine; [`Scaler::ended`] hears what came of it.
    fn begin<W>(&mut self, doing: Doing, work: impl FnOnce(Machines) -> W) -> Result<bool, Problem>
    where
        W: Future<Output = Result<bool, GcpError>> + Send + 'static,
    {
        let machines = self.machines.clone().ok_or("there is no client")?;
        if !self.underway.is_full() && !self.underway.is_at(&doing.name) {
            tracing::info!(worker = %doing.name, zone = %doing.zone, "{}", doing.what.begun());
            self.underway.begin(doing, work(machines));
        }
        Ok(false)
    }

    fn create(&mut self, zone: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        let name = self.free_name(sight).ok_or("no name is free")?;
        let Scaling { machine, seats_per_worker, .. } = &self.settings;
        let spec = machine.spec(name.clone(), agent_token()?.into(), *seats_per_worker);
        let zone = zone.clone();
        let doing =
            Doing { what: What::Create, name, zone: zone.clone(), key: key(&Action::Create(zone.clone())) };
        self.begin(doing, |machines| async move { machines.create(&zone, spec).await.map(|()| true) })
    }

    fn start(&mut self, name: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        let zone = sight.zone(name).ok_or_else(|| format!("{name}: its zone is not known"))?;
        let name = name.clone();
        let doing = Doing {
            what: What::Start,
            name: name.clone(),
            zone: zone.clone(),
            key: key(&Action::Start(name.clone())),
        };
        self.begin(doing, |machines| async move { machines.start(&zone, &name).await.map(|()| true) })
    }

    /// Makes a machine known; its agent's token is in its metadata.
    async fn register(&self, name: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        let missing = |what: &str| format!("{name} can't be registered: it has no {what}");
        let found = sight.found.get(name).ok_or_else(|| missing("machine"))?;
        let Found { zone, internal_ip, agent_token, .. } = found;
        let ip = internal_ip.as_ref().ok_or_else(|| missing("internal address"))?;
        let token = agent_token.as_ref().ok_or_else(|| missing("agent's token in its metadata"))?;
        let labels = BTreeMap::from([
            (ZONE_LABEL.to_owned(), zone.to_string()),
            (PROJECT_LABEL.to_owned(), self.settings.place.project.clone()),
        ]);
        let record = WorkerRecord {
            id: name.to_string(),
            address: format!("{ip}:{AGENT_PORT}"),
            token_sealed: self.app.fleet.seal_token(token.expose_secret()),
            public_url: None,
            labels,
            capacity: None,
            tls: None,
            source: WorkerSource::Gcp,
            wish: WorkerWish::Active,
            kind: None,
            created_at: self.app.clock.now(),
        };
        let put = self.app.fleet.put(record).await;
        put.map_err(|error| format!("{name} can't be registered: {}", error.message))?;
        tracing::info!(worker = %name, %zone, "a worker was made");
        Ok(true)
    }

    async fn mark(&self, name: &ResourceName, sight: &Sight, idle: bool) -> Result<(), Problem> {
        let Some(mut record) = sight.records.get(name).cloned() else { return Ok(()) };
        if idle {
            record.labels.insert(IDLE_LABEL.to_owned(), "true".to_owned());
        } else {
            record.labels.remove(IDLE_LABEL);
        }
        self.app.fleet.put(record).await.map_err(|error| format!("{name}: {}", error.message))
    }

    async fn drain(&self, name: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        self.mark(name, sight, true).await?;
        let drained = self.app.fleet.drain(name.as_str(), true).await;
        drained.map_err(|error| format!("{name} can't be drained: {}", error.message))?;
        tracing::info!(worker = %name, "the worker has had no seats for a while; it is drained");
        Ok(true)
    }

    async fn undrain(&self, name: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        let undrained = self.app.fleet.drain(name.as_str(), false).await;
        undrained.map_err(|error| format!("{name} can't be used again: {}", error.message))?;
        self.mark(name, sight, false).await?;
        Ok(true)
    }

    /// Deletes a machine that has no seats, and that nobody can give any by now.
    async fn delete(&mut self, name: &ResourceName, action: &Action, sight: &Sight) -> Result<bool, Problem> {
        let record = sight.records.get(name).filter(|record| record.wish != WorkerWish::Forgotten);
        if record.is_some() && self.app.leases.are_shared() {
            let draining = self.since.get(name).and_then(|since| since.draining);
            let known = draining.is_some_and(|at| at.elapsed() >= DRAINED_AFTER);
            let runs = self.since.get(name).is_some_and(|since| since.running.is_some());
            if runs && !known {
                return Ok(false);
            }
        }
        let read = self.app.fleet.read_placements(None).await;
        read.map_err(|error| format!("the database: {error}"))?;
        if self.app.fleet.seats_by_worker().get(name.as_str()).is_some_and(|seats| *seats > 0) {
            return Ok(false);
        }
        let zone = sight.zone(name).ok_or_else(|| format!("{name}: its zone is not known"))?;
        let name = name.clone();
        let doing = Doing { what: What::Delete, name: name.clone(), zone: zone.clone(), key: key(action) };
        self.begin(doing, |machines| async move { machines.delete(&zone, &name).await })
    }

    /// Strikes a worker off the register of which the API says that neither instance nor disk is there.
    async fn forget(&self, name: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        let zone = sight.zone(name).ok_or_else(|| format!("{name}: its zone is not known"))?;
        // Asked for by name: a list that left it out takes nobody's seats.
        let compute = self.client().map_err(|error| error.one_line())?.in_zone(zone);
        let instance = compute.instance(name).await.map_err(|error| error.one_line())?;
        let disk = compute.disk(name).await.map_err(|error| error.one_line())?;
        if instance.is_some() || disk.is_some() {
            return Ok(false);
        }
        if sight.seats_on(name) > 0 {
            let given_up = self.app.fleet.forget(name.as_str(), true).await;
            given_up.map_err(|error| format!("{name} can't be struck off: {}", error.message))?;
        }
        let removed = self.app.store.remove_worker(name.as_str()).await;
        removed.map_err(|error| format!("{name} can't be struck off: {error}"))?;
        self.app.fleet.sync().await.map_err(|error| format!("the database: {error}"))?;
        tracing::info!(worker = %name, "nothing is left of the worker");
        Ok(true)
    }
}

/// What an agent is to ask of callers: 256 bits, in hexadecimal.
fn agent_token() -> Result<String, Problem> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| format!("the operating system gives no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
