//! Keeps the published state true: the Engine's events as they come, everything anew whenever the connection was lost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptions, ListContainersOptions, ListVolumesOptions};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::probe::{self, Health};
use clarateach_runtime::{BoxedSeatStream, RuntimeError};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::container::{Container, Phase, WORKSPACE_PORT};
use crate::naming::{INSTALLATION, Labels, Role};
use crate::seats::Wish;
use crate::{EngineStanding, Inner};

const RECONNECT: Duration = Duration::from_millis(300);
const PING_EVERY: Duration = Duration::from_secs(5);
/// Events can't be missed, but what changes without one (a network pruned, a firewall flushed) can.
const LOOK_AGAIN_EVERY: u32 = 12;
const INSPECTIONS: usize = 8;
const DEADLINE_TICK: Duration = Duration::from_millis(500);

impl Inner {
    /// Follows the Engine until the runtime is dropped.
    pub(crate) async fn watch_engine(self: Arc<Self>) {
        loop {
            match self.follow().await {
                Ok(()) => {
                    self.stand(EngineStanding::Down(self.engine.unavailable("it went away").to_string()))
                }
                Err(error) => self.stand(EngineStanding::Down(error.to_string())),
            }
            sleep(RECONNECT).await;
        }
    }

    fn stand(&self, standing: EngineStanding) {
        let changed = self.standing.send_if_modified(|now| {
            let changed = std::mem::discriminant(now) != std::mem::discriminant(&standing);
            *now = standing.clone();
            changed
        });
        if changed {
            match &standing {
                EngineStanding::Down(why) => tracing::warn!(%why, "lost Docker"),
                _ => tracing::info!("Docker answers"),
            }
            self.seats.publish();
        }
    }

    /// One connection's life: Ok when the stream of events ended.
    async fn follow(self: &Arc<Self>) -> Result<(), RuntimeError> {
        self.engine.ping().await?;
        let docker = self.engine.docker()?;
        // From a moment ago: nothing falls between the look around and the stream.
        let since = Timestamp::now().as_second() - 2;
        let filters = HashMap::from([
            ("label".to_owned(), vec![format!("{INSTALLATION}={}", self.installation)]),
            ("type".to_owned(), vec!["container".to_owned()]),
        ]);
        let options =
            EventsOptions { since: Some(since.to_string()), filters: Some(filters), ..Default::default() };
        let (heard, mut events) = mpsc::channel(1024);
        let listening = {
            let docker = docker.clone();
            tokio::spawn(async move {
                let mut stream = Box::pin(docker.events(Some(options)));
                while let Some(Ok(event)) = stream.next().await {
                    if heard.send(event).await.is_err() {
                        return;
                    }
                }
            })
        };
        let _listening = tokio_util::task::AbortOnDropHandle::new(listening);
        self.look_around().await?;
        self.stand(EngineStanding::Up);
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pings, mut misses) = (0u32, 0);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.note(event),
                    None => return Ok(()),
                },
                _ = ping.tick() => {
                    match self.engine.ping().await {
                        Ok(()) => misses = 0,
                        Err(error) if misses >= 1 => return Err(error),
                        Err(_) => misses += 1,
                    }
                    pings += 1;
                    if pings.is_multiple_of(LOOK_AGAIN_EVERY) {
                        self.look_around().await?;
                    }
                }
            }
        }
    }

    fn note(self: &Arc<Self>, event: EventMessage) {
        if event.typ != Some(EventMessageTypeEnum::CONTAINER) {
            return;
        }
        let action = event.action.unwrap_or_default();
        let ending = matches!(action.as_str(), "die" | "destroy" | "oom");
        if !ending && !matches!(action.as_str(), "start" | "create" | "rename" | "update") {
            return;
        }
        let labels: Labels = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
        let Some((key, _)) = self.naming.seat_of(&labels) else { return };
        if let Some(seat) = self.seats.lock().get_mut(&key)
            && seat.busy
        {
            seat.missed_death |= ending;
            return;
        }
        let inner = self.clone();
        self.tasks.spawn(async move { inner.refresh(&key).await });
    }

    /// Asks the Engine for everything of ours, and sees to what nobody wants.
    async fn look_around(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let docker = self.engine.docker()?;
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.naming.all(Role::Seat)),
            ..Default::default()
        };
        let listed = docker
            .list_containers(Some(options))
            .await
            .map_err(|error| self.engine.failure("list containers", &error))?;
        let ids = listed.into_iter().filter_map(|container| container.id);
        let containers: Vec<Container> = stream::iter(ids)
            .map(|id| {
                let docker = docker.clone();
                async move { self.inspect(&docker, &id).await }
            })
            .buffer_unordered(INSPECTIONS)
            .try_filter_map(|container| async move { Ok(container) })
            .try_collect()
            .await?;
        let options = ListVolumesOptions { filters: Some(self.naming.all(Role::Seat)) };
        let disks = docker
            .list_volumes(Some(options))
            .await
            .map_err(|error| self.engine.failure("list volumes", &error))?
            .volumes
            .unwrap_or_default();
        let mut found: BTreeMap<SeatKey, Found> = BTreeMap::new();
        for container in containers {
            found.entry(container.key.clone()).or_default().container(container);
        }
        for disk in disks {
            if let Some((key, generation)) = self.naming.seat_of(&disk.labels) {
                found.entry(key).or_default().disk(generation);
            }
        }
        let mut vanished: HashSet<SeatKey> = HashSet::new();
        for (key, seat) in self.seats.lock().iter() {
            if !seat.busy && seat.failure.is_none() && !found.contains_key(key) {
                vanished.insert(key.clone());
            }
        }
        for key in vanished {
            self.refresh(&key).await;
        }
        for (key, found) in found {
            self.settle(&key, found);
        }
        self.retry_what_failed_for_want_of_an_engine();
        self.firewall.check().await;
        // What can't be tidied now is tried again; it is no reason to give up what is known of everybody's seats.
        for tidied in [self.tidy_networks(&docker).await, self.tidy_tools(&docker).await] {
            if let Err(error) = tidied {
                tracing::warn!(%error, "something is left of seats that are gone; it is tried again");
            }
        }
        Ok(())
    }

    /// Writes down what was found of one seat, and starts to remove what nobody wants of it.
    fn settle(self: &Arc<Self>, key: &SeatKey, found: Found) {
        if self.seats.lock().get(key).is_some_and(|seat| seat.busy) {
            return;
        }
        let newest = found.container.as_ref().map(|container| container.generation).max(found.disk);
        self.saw(key, found.container, found.disk);
        let unwanted = newest.filter(|newest| !self.generations.is_wanted(key, *newest)).or(found.older);
        if let Some(generation) = unwanted {
            tracing::info!(seat = %key, %generation, "removing what is left of a seat");
            self.end(key, generation);
        }
    }

    /// Wishes everything up to `generation` away, on the runtime's own account.
    fn end(self: &Arc<Self>, key: &SeatKey, generation: Generation) {
        if let Some(seat) = self.seats.lock().get_mut(key)
            && !seat.busy
        {
            seat.wish(Wish::Remove(generation));
        }
        self.drive(key);
    }

    fn retry_what_failed_for_want_of_an_engine(self: &Arc<Self>) {
        let again: Vec<SeatKey> = {
            let map = self.seats.lock();
            map.iter()
                .filter(|(_, seat)| !seat.busy)
                .filter(|(_, seat)| match (&seat.failure, &seat.wish) {
                    (Some(_), Wish::Remove(_)) => true,
                    (Some(failure), _) => failure.unavailable,
                    (None, _) => false,
                })
                .map(|(key, _)| key.clone())
                .collect()
        };
        for key in again {
            self.drive(&key);
        }
    }

    /// Ends environments whose time is up, whether or not anybody tells us to.
    pub(crate) async fn watch_deadlines(self: Arc<Self>) {
        let mut tick = interval(DEADLINE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = Timestamp::now();
            let over: Vec<(SeatKey, Generation)> = {
                let map = self.seats.lock();
                map.iter()
                    .filter(|(_, seat)| !seat.busy && !matches!(seat.wish, Wish::Remove(_)))
                    .filter(|(key, seat)| self.not_after(key, seat).is_some_and(|at| at <= now))
                    .map(|(key, seat)| (key.clone(), seat.generation()))
                    .collect()
            };
            for (key, generation) in over {
                tracing::info!(seat = %key, "its time is up");
                self.end(&key, generation);
            }
        }
    }

    /// What the last apply said, else what the container's label says.
    fn not_after(&self, key: &SeatKey, seat: &crate::seats::Seat) -> Option<Timestamp> {
        match self.generations.seen(key) {
            Some(seen) if seen.generation == seat.generation() => seen.not_after,
            _ => seat.container.as_ref().and_then(|container| container.not_after),
        }
    }

    /// Writes down a seat's container, and probes it when it has just been started.
    pub(crate) fn saw(
        self: &Arc<Self>,
        key: &SeatKey,
        container: Option<Container>,
        disk: Option<Generation>,
    ) {
        let target = container.clone();
        let Some(stop) = self.seats.saw(key, container, disk) else { return };
        let Some(container) = target else { return };
        let Phase::Running(address) = container.phase else { return };
        let dial = move || async move {
            let stream = TcpStream::connect((address, WORKSPACE_PORT)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxedSeatStream)
        };
        let (inner, key) = (Arc::downgrade(self), key.clone());
        let (id, started_at) = (container.id, container.started_at);
        let report = move |health: Health| {
            if let Some(inner) = inner.upgrade() {
                inner.seats.heard(&key, &id, &started_at, health);
            }
        };
        let policy = self.probe;
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = probe::watch(dial, container.secret, policy, report) => {}
            }
        });
    }
}

/// What was found of one seat.
#[derive(Default)]
struct Found {
    container: Option<Container>,
    disk: Option<Generation>,
    /// The newest of what a crash left of earlier makes.
    older: Option<Generation>,
}

impl Found {
    fn container(&mut self, container: Container) {
        let there = self.container.as_ref().map(|there| there.generation);
        if there.is_none_or(|there| there < container.generation) {
            self.older = self.older.max(there);
            self.container = Some(container);
        } else {
            self.older = self.older.max(Some(container.generation));
        }
    }

    fn disk(&mut self, generation: Generation) {
        let newest = self.container.as_ref().map(|container| container.generation).max(self.disk);
        if newest.is_some_and(|newest| generation < newest) {
            self.older = self.older.max(Some(generation));
        }
        self.disk = self.disk.max(Some(generation));
    }
}
