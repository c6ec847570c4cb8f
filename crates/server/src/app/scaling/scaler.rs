//! Looks, has the plan decide, and has it done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use clarateach_api::WorkerView;
use clarateach_gcp::fleet::Fleet as Machines;
use clarateach_gcp::fleet::plan::{Action, Limits, Situation, plan};
use clarateach_gcp::fleet::shortage::Shortages;
use clarateach_gcp::{Compute, GcpError, Kind, Patience, ResourceName};
use clarateach_store::{WorkerRecord, WorkerSource, WorkerWish};
use tokio::sync::watch;

use super::need::{self, Need};
use super::sight::{PROJECT_LABEL, Sight, Since, ZONE_LABEL};
use super::trouble::Troubles;
use super::underway::{Doing, Ended, Underway, What};
use super::unhelped::Unhelped;
use crate::app::App;
use crate::config::Scaling;

/// Why a step came to nothing, for people.
pub(super) type Problem = String;

/// The one who looks after the fleet.
pub(super) struct Scaler {
    pub(super) app: Arc<App>,
    pub(super) settings: Scaling,
    is_mine: watch::Receiver<bool>,
    pub(super) machines: Option<Machines>,
    pub(super) underway: Underway,
    pub(super) since: BTreeMap<ResourceName, Since>,
    unhelped: Unhelped,
    troubles: Troubles,
    shortages: Shortages,
    /// Names that something else in the project has.
    pub(super) taken: BTreeSet<ResourceName>,
}

/// What an action is to [`Troubles`]: machines that are to be made are all alike.
pub(super) fn key(action: &Action) -> String {
    match action {
        Action::Create(_) => "create".to_owned(),
        other => format!("{other:?}"),
    }
}

impl Scaler {
    pub(super) fn new(app: Arc<App>, settings: Scaling, is_mine: watch::Receiver<bool>) -> Self {
        Self {
            app,
            settings,
            is_mine,
            machines: None,
            underway: Underway::default(),
            since: BTreeMap::new(),
            unhelped: Unhelped::default(),
            troubles: Troubles::default(),
            shortages: Shortages::default(),
            taken: BTreeSet::new(),
        }
    }

    /// Looks at everything once, does what is quick, and begins what takes Google a while.
    pub(super) async fn round(&mut self) {
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
                return;
            }
        };
        let actions = self.decide(&sight, need, now);
        let keys: BTreeSet<String> = actions.iter().map(key).collect();
        let over_quota = self.shortages.is_over_quota(now);
        self.troubles.keep(|tried| keys.contains(tried) || (tried == "create" && over_quota));
        self.post(Some(u32::try_from(sight.found.len()).unwrap_or(u32::MAX)));
        for action in actions {
            if !*self.is_mine.borrow() {
                return;
            }
            let key = key(&action);
            if !self.troubles.may_try(&key, Instant::now()) {
                continue;
            }
            match self.act(&action, &sight).await {
                Ok(true) => self.troubles.worked(&key),
                Ok(false) => {}
                Err(problem) => self.troubles.failed(&key, problem, Instant::now()),
            }
        }
        self.post(None);
    }

    /// What is to be done, in the order that learners wait for it.
    fn decide(&mut self, sight: &Sight, need: Need, now: Instant) -> Vec<Action> {
        let (workers, dismissed) = sight.workers(&mut self.since, need.unplaced == 0, now);
        let limits = Limits {
            min: self.settings.min,
            max: self.settings.max,
            idle: self.settings.idle,
            seats_per_worker: self.settings.seats_per_worker,
            zones: self.settings.zones.clone(),
        };
        let situation = Situation {
            waiting: need.waiting,
            exhausted: self.shortages.exhausted(now),
            over_quota: self.shortages.is_over_quota(now),
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
        actions.sort_by_key(|action| match action {
            Action::Register(_) | Action::Drain(_) | Action::Undrain(_) => 0,
            Action::Start(_) => 1,
            Action::Create(_) => 2,
            Action::Forget(_) => 3,
            Action::Delete(_) | Action::DeleteDisk(_) => 4,
        });
        actions
    }

    /// Waits until something that takes Google a while has ended, and heeds what came of it.
    pub(super) async fn ended(&mut self) {
        let Ended { doing: Doing { what, name, zone, key }, outcome } = self.underway.ended().await;
        let now = Instant::now();
        if what != What::Delete {
            self.shortages.heed(&zone, &outcome, now);
        }
        match outcome {
            Ok(true) => {
                tracing::info!(worker = %name, %zone, "{}", what.done());
                self.troubles.worked(&key);
            }
            Ok(false) => {
                let problem =
                    format!("{name}: Google says that it is deleted, and part of it is still there");
                self.troubles.failed(&key, problem, now);
            }
            Err(error) => match (what, error.kind()) {
                // Ours is seen at the next look; anything else keeps its name.
                (What::Create, Kind::AlreadyExists) => {
                    self.taken.insert(name);
                }
                // Said by the shortages, for as long as they hold; another zone may be tried at once.
                (What::Create, Kind::ZoneExhausted) => self.troubles.worked(&key),
                _ => self.troubles.failed(&key, error.one_line(), now),
            },
        }
        self.post(None);
    }

    fn post(&self, machines: Option<u32>) {
        let now = Instant::now();
        let mut problems: BTreeSet<String> = self.troubles.messages().collect();
        problems.extend(self.shortages.messages(now));
        problems.extend(self.unhelped.message(now));
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
        let mut found = machines.look().await.map_err(|error| error.one_line())?;
        self.underway.expect(&mut found);
        self.app.fleet.sync().await.map_err(store)?;
        self.app.fleet.read_placements(None).await.map_err(store)?;
        // Before the room is counted: a machine that comes in between is one that is still to come, not one that is
        // there and has no room.
        let answering = self.answering();
        let need = need::need(&self.app, &need::kinds(&all), &mut self.unhelped).await.map_err(store)?;
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

    pub(super) fn client(&self) -> Result<Compute, GcpError> {
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
}
