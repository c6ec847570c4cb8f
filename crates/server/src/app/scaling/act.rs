//! Looks, has the plan decide, and does it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clarateach_api::WorkerView;
use clarateach_gcp::fleet::plan::{Action, Limits, Situation, plan};
use clarateach_gcp::fleet::{Fleet as Machines, Found};
use clarateach_gcp::{Compute, GcpError, InstanceSpec, Kind, Patience, ResourceName};
use clarateach_store::{WorkerRecord, WorkerSource, WorkerWish};
use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::need::{self, Need};
use super::sight::{IDLE_LABEL, PROJECT_LABEL, Sight, Since, ZONE_LABEL};
use super::trouble::Troubles;
use crate::app::App;
use crate::config::Scaling;

/// Where agents listen.
const AGENT_PORT: u16 = 9090;
/// Other servers know after this time that a worker is drained, and place nothing on it any more.
const DRAINED_AFTER: Duration = Duration::from_secs(15);
const TOKEN_BYTES: usize = 32;

/// Why a step came to nothing, for people.
type Problem = String;

/// The one who looks after the fleet.
pub(super) struct Scaler {
    app: Arc<App>,
    settings: Scaling,
    is_mine: watch::Receiver<bool>,
    machines: Option<Machines>,
    since: BTreeMap<ResourceName, Since>,
    troubles: Troubles,
    /// Names that something else in the project has.
    taken: BTreeSet<ResourceName>,
}

fn key(action: &Action) -> String {
    match action {
        Action::Create(_) => "create".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Whether it takes Google a while.
const fn is_slow(action: &Action) -> bool {
    !matches!(action, Action::Register(_) | Action::Drain(_) | Action::Undrain(_))
}

impl Scaler {
    pub(super) fn new(app: Arc<App>, settings: Scaling, is_mine: watch::Receiver<bool>) -> Self {
        let (since, troubles, taken) = (BTreeMap::new(), Troubles::default(), BTreeSet::new());
        Self { app, settings, is_mine, machines: None, since, troubles, taken }
    }

    /// Looks at everything once, and does what is quick and one thing that is slow. Whether that was done: then the rest is
    /// to be decided anew.
    pub(super) async fn round(&mut self) -> bool {
        let looked = self.look().await;
        let now = Instant::now();
        let (sight, need) = match looked {
            Ok(seen) => {
                self.troubles.worked("look");
                seen
            }
            Err(problem) => {
                self.troubles.failed("look", problem, now);
                self.post(None);
                return false;
            }
        };
        let waiting = need.waiting;
        let (workers, dismissed) = sight.workers(&mut self.since, need.unplaced == 0, now);
        let limits = Limits {
            min: self.settings.min,
            max: self.settings.max,
            idle: self.settings.idle,
            seats_per_worker: self.settings.seats_per_worker,
            zones: self.settings.zones.clone(),
        };
        let situation = match &self.machines {
            Some(machines) => Situation {
                waiting,
                exhausted: machines.exhausted(now),
                over_quota: machines.is_over_quota(now),
            },
            None => Situation { waiting, ..Situation::default() },
        };
        let mut actions = plan(&limits, &situation, &workers);
        actions.extend(dismissed.into_iter().filter_map(|name| {
            let there = sight.found.contains_key(&name);
            let is_tombstone = sight.records.get(&name).is_some_and(|r| r.wish == WorkerWish::Forgotten);
            match (there, is_tombstone) {
                (true, _) => Some(Action::Delete(name)),
                (false, true) => Some(Action::Forget(name)),
                (false, false) => None,
            }
        }));
        let keys: BTreeSet<String> = actions.iter().map(key).collect();
        self.troubles.keep(|tried| keys.contains(tried) || (tried == "create" && situation.over_quota));
        self.post(Some(u32::try_from(sight.found.len()).unwrap_or(u32::MAX)));
        // What learners wait for first.
        actions.sort_by_key(|action| match action {
            Action::Register(_) | Action::Drain(_) | Action::Undrain(_) => 0,
            Action::Start(_) => 1,
            Action::Create(_) => 2,
            Action::Forget(_) => 3,
            Action::Delete(_) | Action::DeleteDisk(_) => 4,
        });
        let mut slow = false;
        for action in actions {
            if !*self.is_mine.borrow() {
                return false;
            }
            let key = key(&action);
            if !self.troubles.may_try(&key, Instant::now()) || (slow && is_slow(&action)) {
                continue;
            }
            match self.act(&action, &sight).await {
                Ok(done) => {
                    self.troubles.worked(&key);
                    slow |= done && is_slow(&action);
                }
                Err(problem) => {
                    self.troubles.failed(&key, problem, Instant::now());
                    // A zone that is empty is known by now, and another one may be tried at once.
                    slow |= matches!(action, Action::Create(_)) && self.is_elsewhere_left(&action);
                }
            }
        }
        self.post(None);
        slow
    }

    /// Whether a machine that could not be had in one zone may be had in another one.
    fn is_elsewhere_left(&mut self, action: &Action) -> bool {
        let (Action::Create(zone), Some(machines)) = (action, &self.machines) else { return false };
        let exhausted = machines.exhausted(Instant::now());
        if !exhausted.contains(zone) {
            return false;
        }
        // Said by the machines themselves, for as long as it holds.
        self.troubles.worked("create");
        self.settings.zones.iter().any(|zone| !exhausted.contains(zone))
    }

    fn post(&self, machines: Option<u32>) {
        let mut problems: BTreeSet<String> = self.troubles.messages().collect();
        if let Some(made) = &self.machines {
            problems.extend(made.troubles(Instant::now()));
        }
        self.app.scaling.post(machines, problems);
    }

    /// What there is, and how many seats find no room.
    async fn look(&mut self) -> Result<(Sight, Need), Problem> {
        let store = |error: clarateach_store::StoreError| format!("the database: {error}");
        let all = self.app.store.workers().await.map_err(store)?;
        let project = &self.settings.place.project;
        let ours = all.iter().filter(|record| {
            record.source == WorkerSource::Gcp && record.labels.get(PROJECT_LABEL) == Some(project)
        });
        let records: BTreeMap<ResourceName, WorkerRecord> =
            ours.filter_map(|record| Some((record.id.parse().ok()?, record.clone()))).collect();
        if self.machines.is_none() {
            self.machines = Some(self.open(&records).map_err(|error| error.one_line())?);
        }
        let Some(machines) = &self.machines else { return Err("there is no client".to_owned()) };
        let found = machines.look().await.map_err(|error| error.one_line())?;
        self.app.fleet.sync().await.map_err(store)?;
        self.app.fleet.read_placements(None).await.map_err(store)?;
        // Before the room is counted: a machine that comes in between is one that is still to come, not one that is
        // there and has no room.
        let answering = self.answering();
        let need = need::need(&self.app, &need::kinds(&all)).await.map_err(store)?;
        let seats = self.app.fleet.seats_by_worker();
        Ok((Sight { records, found, seats, answering }, need))
    }

    /// Workers that have said who they are, or that they want nothing of this server.
    fn answering(&self) -> BTreeSet<String> {
        let answers = |view: &WorkerView| match view.state.as_str() {
            "starting" | "suspect" | "lost" => false,
            "alive" => view.worker_id.is_some(),
            _ => true,
        };
        self.app.fleet.views().into_iter().filter(answers).map(|view| view.id).collect()
    }

    fn client(&self) -> Result<Compute, GcpError> {
        let Scaling { endpoint, place, credentials, .. } = &self.settings;
        Compute::new(endpoint.clone(), place.clone(), Arc::clone(credentials), Patience::default())
    }

    fn open(&self, records: &BTreeMap<ResourceName, WorkerRecord>) -> Result<Machines, GcpError> {
        // Machines in zones that the settings don't name any more are looked after too.
        let mut zones = self.settings.zones.clone();
        for zone in records.values().filter_map(|record| record.labels.get(ZONE_LABEL)?.parse().ok()) {
            if !zones.contains(&zone) {
                zones.push(zone);
            }
        }
        Ok(Machines::new(self.client()?, self.app.installation.to_string(), zones))
    }

    /// Does one thing. Whether it was done: false when it is not its time yet.
    async fn act(&mut self, action: &Action, sight: &Sight) -> Result<bool, Problem> {
        match action {
            Action::Create(zone) => self.create(zone, sight).await,
            Action::Start(name) => self.start(name, sight).await,
            Action::Register(name) => self.register(name, sight).await,
            Action::Drain(name) => self.drain(name, sight).await,
            Action::Undrain(name) => self.undrain(name, sight).await,
            Action::Delete(name) | Action::DeleteDisk(name) => self.delete(name, sight).await,
            Action::Forget(name) => self.forget(name, sight).await,
        }
    }

    /// A name that nothing of ours has: the same after a crash, so that what was begun before is not begun twice.
    fn free_name(&self, sight: &Sight) -> Option<ResourceName> {
        let names =
            (1..=100_000).filter_map(|n| format!("clarateach-{}-{n}", self.app.installation).parse().ok());
        let is_free = |name: &ResourceName| {
            !sight.found.contains_key(name) && !sight.records.contains_key(name) && !self.taken.contains(name)
        };
        names.into_iter().find(is_free)
    }

    async fn create(&mut self, zone: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        let name = self.free_name(sight).ok_or("no name is free")?;
        let mut spec = InstanceSpec::new(name.clone(), self.settings.machine_type.clone());
        spec.spot = self.settings.spot;
        spec.agent_token = Some(agent_token()?.into());
        spec.startup = Some(self.settings.agent.clone());
        let agent_env = format!("CAPACITY={}", self.settings.seats_per_worker);
        spec.metadata.insert("clarateach-agent-env".to_owned(), agent_env);
        let machines = self.machines.as_mut().ok_or("there is no client")?;
        tracing::info!(worker = %name, %zone, "a worker is made");
        match machines.create(zone, spec, Instant::now()).await {
            Ok(()) => Ok(true),
            Err(error) => {
                if error.kind() == Kind::AlreadyExists {
                    // Ours is seen at the next look; anything else keeps its name.
                    self.taken.insert(name);
                    return Ok(true);
                }
                Err(error.one_line())
            }
        }
    }

    async fn start(&mut self, name: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
        let zone = sight.zone(name).ok_or_else(|| format!("{name}: its zone is not known"))?;
        let machines = self.machines.as_mut().ok_or("there is no client")?;
        tracing::info!(worker = %name, %zone, "the worker is started again");
        machines.start(&zone, name, Instant::now()).await.map_err(|error| error.one_line())?;
        Ok(true)
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
    async fn delete(&self, name: &ResourceName, sight: &Sight) -> Result<bool, Problem> {
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
        let machines = self.machines.as_ref().ok_or("there is no client")?;
        let gone = machines.delete(&zone, name).await.map_err(|error| error.one_line())?;
        tracing::info!(worker = %name, %zone, gone, "the worker's machine was deleted");
        Ok(gone)
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
