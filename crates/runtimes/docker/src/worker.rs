//! Makes and unmakes one seat at a time: each seat has at most one worker, and a worker goes on until the seat is as
//! was last wished.
//!
//! Every step can be cut off by a crash on either side and is safe to repeat: names follow from the seat and its
//! generation, and what is there is asked of the Engine, not remembered.

use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveVolumeOptions,
};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{DesiredSeat, RuntimeError};
use tokio::time::{Instant, sleep};

use crate::Inner;
use crate::container::{Container, Phase, Plan};
use crate::engine::{status, words};
use crate::image;
use crate::seats::{Failure, Wish};

/// How long a removal that somebody else has begun may take.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(30);

/// What the Engine has of one seat.
#[derive(Default)]
struct Survey {
    containers: Vec<(Generation, ContainerSummary)>,
    disks: Vec<(Generation, String)>,
}

impl Inner {
    /// Starts a worker for the seat unless one is at it.
    pub(crate) fn drive(self: &Arc<Self>, key: &SeatKey) {
        {
            let mut map = self.seats.lock();
            match map.get_mut(key) {
                Some(seat) if !seat.busy => seat.busy = true,
                _ => return,
            }
        }
        let (inner, key) = (self.clone(), key.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = inner.closing.cancelled() => {}
                () = inner.work(&key) => {}
            }
        });
    }

    async fn work(self: &Arc<Self>, key: &SeatKey) {
        loop {
            let Some((wish, turn)) = self.seats.lock().get(key).map(|seat| (seat.wish.clone(), seat.turn))
            else {
                return;
            };
            let outcome = match &wish {
                Wish::Keep(desired) => self.make(desired, turn).await,
                Wish::Remove(generation) => self.unmake(key, *generation).await,
                Wish::Unknown => Ok(()),
            };
            let mut missed_death = false;
            {
                let mut map = self.seats.lock();
                let Some(seat) = map.get_mut(key) else { return };
                if seat.turn != turn {
                    continue;
                }
                seat.busy = false;
                seat.failure = outcome.as_ref().err().map(Failure::from);
                let newer = |there: Generation| matches!(&wish, Wish::Remove(up_to) if there > *up_to);
                let nothing_newer = !seat.container.as_ref().is_some_and(|c| newer(c.generation));
                match (&wish, &outcome) {
                    (Wish::Remove(_), Ok(())) if nothing_newer => {
                        map.remove(key);
                    }
                    (Wish::Remove(_), Ok(())) => seat.wish = Wish::Unknown,
                    _ => missed_death = std::mem::take(&mut seat.missed_death),
                }
            }
            self.seats.publish();
            if let Err(error) = &outcome {
                tracing::warn!(seat = %key, %error, "a seat is not as it should be");
            }
            if missed_death {
                self.refresh(key).await;
            }
            return;
        }
    }

    async fn survey(&self, docker: &Docker, key: &SeatKey) -> Result<Survey, RuntimeError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.naming.of_seat(key)),
            ..Default::default()
        };
        let containers = docker
            .list_containers(Some(options))
            .await
            .map_err(|error| self.engine.failure("list containers", &error))?
            .into_iter()
            .filter_map(|container| {
                let (_, generation) = self.naming.seat_of(container.labels.as_ref()?)?;
                Some((generation, container))
            })
            .collect();
        let options = ListVolumesOptions { filters: Some(self.naming.of_seat(key)) };
        let disks = docker
            .list_volumes(Some(options))
            .await
            .map_err(|error| self.engine.failure("list volumes", &error))?
            .volumes
            .unwrap_or_default()
            .into_iter()
            .filter_map(|volume| Some((self.naming.seat_of(&volume.labels)?.1, volume.name)))
            .collect();
        Ok(Survey { containers, disks })
    }

    /// Looks at one seat again, unless a worker is at it, who will look by itself.
    pub(crate) async fn refresh(self: &Arc<Self>, key: &SeatKey) {
        let outcome = async {
            let docker = self.engine.docker()?;
            let survey = self.survey(&docker, key).await?;
            let newest = survey.containers.iter().max_by_key(|(generation, _)| *generation);
            let container = match newest.and_then(|(_, container)| container.id.as_deref()) {
                Some(id) => self.inspect(&docker, id).await?,
                None => None,
            };
            let disk = survey.disks.iter().map(|(generation, _)| *generation).max();
            Ok::<_, RuntimeError>((container, disk))
        };
        match outcome.await {
            Ok((container, disk)) => {
                let nothing = container.is_none() && disk.is_none();
                {
                    let map = self.seats.lock();
                    match map.get(key) {
                        Some(seat) if seat.busy => return,
                        None if nothing => return,
                        _ => {}
                    }
                }
                if nothing { self.seats.forget(key) } else { self.saw(key, container, disk) }
            }
            Err(error) => tracing::debug!(seat = %key, %error, "could not look at a seat"),
        }
    }

    /// One of our containers as it is now; none if it is gone.
    pub(crate) async fn inspect(&self, docker: &Docker, id: &str) -> Result<Option<Container>, RuntimeError> {
        match docker.inspect_container(id, None).await {
            Ok(found) => Ok(Container::read(&self.naming, found)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.engine.failure("inspect a container", &error)),
        }
    }

    /// Brings the seat to its wished generation. Ok also when overtaken: the caller looks.
    async fn make(self: &Arc<Self>, desired: &DesiredSeat, turn: u64) -> Result<(), RuntimeError> {
        let key = &desired.key;
        let docker = self.engine.docker()?;
        // The watcher has looked, and found nothing of a seat that is new here: one question less per seat.
        let new = self.seats.lock().get_mut(key).is_some_and(|seat| std::mem::take(&mut seat.new));
        let survey = if new { Survey::default() } else { self.survey(&docker, key).await? };
        if let Some((seen, _)) = survey.containers.iter().find(|(there, _)| *there > desired.generation) {
            let (given, seen) = (desired.generation, *seen);
            return Err(RuntimeError::StaleGeneration { key: key.clone(), given, seen });
        }
        self.remove_all(&docker, &survey, |there| there < desired.generation).await?;
        let own = survey.containers.into_iter().find(|(there, _)| *there == desired.generation);
        if let Some(id) = own.and_then(|(_, container)| container.id)
            && let Some(container) = self.inspect(&docker, &id).await?
        {
            match container.phase {
                Phase::Running(_) => {
                    self.saw(key, Some(container), None);
                    return Ok(());
                }
                Phase::Removing => self.remove_container(&docker, &id).await?,
                Phase::Created | Phase::Ended(_) => {
                    if self.start_again(&docker, desired, &id).await? {
                        return Ok(());
                    }
                }
            }
        }
        if self.seats.overtaken(key, turn) {
            return Ok(());
        }
        // Twice: the network or the tools may have been removed behind our back, which only the start finds out.
        match self.create(&docker, desired, turn).await {
            Err(RuntimeError::Failed { operation, message }) if is_missing_part(&message) => {
                tracing::info!(seat = %key, %operation, %message, "making network and tools anew");
                self.networks.doubt();
                self.tools.doubt().await;
                self.create(&docker, desired, turn).await
            }
            outcome => outcome,
        }
    }

    /// Starts an ended container in place. False when it can't ever start again and was removed, disk aside.
    async fn start_again(
        self: &Arc<Self>,
        docker: &Docker,
        desired: &DesiredSeat,
        id: &str,
    ) -> Result<bool, RuntimeError> {
        let target = (&desired.key.workshop, desired.egress);
        self.networks.ensure(&self.engine, docker, &self.naming, &self.firewall, target).await?;
        let _permit = self.starts.acquire().await;
        match docker.start_container(id, None).await {
            Ok(()) => {
                let container = self.inspect(docker, id).await?;
                self.saw(&desired.key, container, None);
                Ok(true)
            }
            Err(error) if status(&error) == Some(404) || is_missing_part(words(&error)) => {
                self.networks.doubt();
                self.tools.doubt().await;
                self.remove_container(docker, id).await?;
                Ok(false)
            }
            Err(error) => Err(self.engine.failure("start the container again", &error)),
        }
    }

    async fn create(
        self: &Arc<Self>,
        docker: &Docker,
        desired: &DesiredSeat,
        turn: u64,
    ) -> Result<(), RuntimeError> {
        let key = &desired.key;
        let quiet: clarateach_runtime::ProgressFn = Arc::new(|_| {});
        let facts = image::prepare(&self.engine, docker, &desired.image, &quiet).await?;
        let target = (&key.workshop, desired.egress);
        let (tools, network) = tokio::try_join!(
            self.tools.ensure(&self.engine, docker, &self.naming, &desired.image),
            self.networks.ensure(&self.engine, docker, &self.naming, &self.firewall, target),
        )?;
        let plan = Plan {
            naming: &self.naming,
            desired,
            workdir: &facts.workdir,
            tools: &tools,
            network: &network,
            host_cpus: self.host_cpus(docker).await?,
        };
        let _permit = self.starts.acquire().await;
        if self.seats.overtaken(key, turn) {
            return Ok(());
        }
        let id = self.create_container(docker, &plan).await?;
        // A wish that came meanwhile need not wait for a start.
        if self.seats.overtaken(key, turn) {
            return Ok(());
        }
        if let Err(error) = docker.start_container(&id, None).await {
            let failure = self.engine.failure("start the container", &error);
            if !matches!(failure, RuntimeError::Unavailable { .. }) {
                self.remove_container(docker, &id).await?;
            }
            return Err(failure);
        }
        let container = self.inspect(docker, &id).await?;
        self.saw(key, container, None);
        Ok(())
    }

    async fn create_container(&self, docker: &Docker, plan: &Plan<'_>) -> Result<String, RuntimeError> {
        let desired = plan.desired;
        let mut name = self.naming.seat(&desired.key, desired.generation);
        for _ in 0..3 {
            let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
            match docker.create_container(Some(options), plan.body()).await {
                Ok(created) => return Ok(created.id),
                Err(error) if status(&error) == Some(409) => {
                    let there = docker.inspect_container(&name, None).await.ok();
                    let id = there.as_ref().and_then(|there| there.id.clone());
                    let own = there.and_then(|there| Container::read(&self.naming, there));
                    match (own, id) {
                        // Left by a create whose answer never arrived.
                        (Some(own), _) if own.key == desired.key && own.generation == desired.generation => {
                            return Ok(own.id);
                        }
                        // Somebody else's: it keeps the name.
                        (_, Some(_)) => name.push_str("-x"),
                        // Gone in the meantime.
                        (_, None) => sleep(Duration::from_millis(50)).await,
                    }
                }
                Err(error) => return Err(self.engine.failure("create the container", &error)),
            }
        }
        Err(RuntimeError::Failed {
            operation: "create the container".to_owned(),
            message: format!("others have taken its name {name}"),
        })
    }

    /// Removes everything of the seat up to `generation`, and what it was the last to share.
    async fn unmake(self: &Arc<Self>, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        let docker = self.engine.docker()?;
        let survey = self.survey(&docker, key).await?;
        self.remove_all(&docker, &survey, |there| there <= generation).await?;
        let newer = survey.containers.iter().any(|(there, _)| *there > generation);
        if newer {
            return Ok(());
        }
        self.saw(key, None, None);
        if let Some(seat) = self.seats.lock().get_mut(key)
            && matches!(seat.wish, Wish::Remove(_))
        {
            seat.gone = true;
        }
        if !self.seats.has_seats_of(&key.workshop) {
            self.tidy_networks(&docker).await?;
        }
        if self.seats.is_empty() {
            self.tidy_tools(&docker).await?;
        }
        Ok(())
    }

    pub(crate) async fn tidy_networks(&self, docker: &Docker) -> Result<(), RuntimeError> {
        let in_use = |workshop: &_| self.seats.has_seats_of(workshop);
        self.networks.tidy(&self.engine, docker, &self.naming, &self.firewall, in_use).await
    }

    pub(crate) async fn tidy_tools(&self, docker: &Docker) -> Result<(), RuntimeError> {
        self.tools.tidy(&self.engine, docker, &self.naming, || self.seats.is_empty()).await
    }

    async fn remove_all(
        &self,
        docker: &Docker,
        survey: &Survey,
        doomed: impl Fn(Generation) -> bool,
    ) -> Result<(), RuntimeError> {
        for (_, container) in survey.containers.iter().filter(|(there, _)| doomed(*there)) {
            if let Some(id) = &container.id {
                self.remove_container(docker, id).await?;
            }
        }
        for (_, disk) in survey.disks.iter().filter(|(there, _)| doomed(*there)) {
            self.remove_disk(docker, disk).await?;
        }
        // A disk that was made with a container between the two lists of the survey.
        for (generation, container) in survey.containers.iter().filter(|(there, _)| doomed(*there)) {
            let labels = container.labels.as_ref();
            if let Some((key, _)) = labels.and_then(|labels| self.naming.seat_of(labels)) {
                self.remove_disk(docker, &self.naming.seat(&key, *generation)).await?;
            }
        }
        Ok(())
    }

    async fn remove_container(&self, docker: &Docker, id: &str) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        loop {
            let options = RemoveContainerOptions { force: true, v: true, link: false };
            match docker.remove_container(id, Some(options)).await {
                Ok(()) => return Ok(()),
                Err(error) if status(&error) == Some(404) => return Ok(()),
                // Somebody is at it already.
                Err(error) if status(&error) == Some(409) && Instant::now() < deadline => {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(self.engine.failure("remove the container", &error)),
            }
        }
    }

    async fn remove_disk(&self, docker: &Docker, name: &str) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        loop {
            match docker.remove_volume(name, None::<RemoveVolumeOptions>).await {
                Ok(()) => return Ok(()),
                Err(error) if status(&error) == Some(404) => return Ok(()),
                // Its container is on its way out.
                Err(error) if status(&error) == Some(409) && Instant::now() < deadline => {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(self.engine.failure("remove the seat's disk", &error)),
            }
        }
    }
}

/// Whether an Engine's words say that the network or a volume of a container is not there.
fn is_missing_part(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    (message.contains("network") && message.contains("not found"))
        || message.contains("no such network")
        || message.contains("no such volume")
        || message.contains("no such container")
}
