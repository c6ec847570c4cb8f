//! The one task that changes a seat.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{EnvironmentState, Reason, RuntimeError};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::life::{self, Begin, End, Written};
use super::{Adoption, Phase, Request, Wish};
use crate::error::Fault;
use crate::guest::control::Control;
use crate::host::Host;
use crate::journal::{Event, Record};

/// Between attempts to remove what could not be removed.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What a seat's task begins with.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A request that will come.
    Nothing,
    /// What an earlier process has written down.
    Adopted(Box<Record>, Adoption),
}

struct Running {
    cancel: CancellationToken,
    life: Pin<Box<dyn Future<Output = (Record, End)> + Send>>,
}

struct Seat {
    host: Arc<Host>,
    key: SeatKey,
    /// As it was when its life began; that which runs has its own.
    record: Option<Record>,
    running: Option<Running>,
    /// When to try again to remove what could not be removed, and how long to wait after that.
    retry: Option<(Instant, Duration)>,
}

/// Serves a seat until nothing is left of it and nobody asks for anything, or this process ends its work.
pub(crate) async fn run(
    host: Arc<Host>,
    key: SeatKey,
    mut requests: mpsc::UnboundedReceiver<Request>,
    origin: Origin,
) {
    let closing = host.closing.clone();
    let serve = async {
        let mut seat = Seat { host, key, record: None, running: None, retry: None };
        if let Origin::Adopted(record, adoption) = origin {
            seat.adopt(*record, adoption).await;
        }
        loop {
            if seat.record.is_none() && seat.host.board.retire(&seat.key, &requests) {
                return;
            }
            let retry = seat.retry.map(|(at, _)| at);
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => seat.handle(request).await,
                    None => return,
                },
                (record, end) = ended(&mut seat.running) => seat.ended(record, end).await,
                () = at(retry) => seat.try_again_to_remove().await,
            }
        }
    };
    // Dropped where it stands, as if the process had been killed: what runs goes on running.
    tokio::select! {
        () = closing.cancelled() => {}
        () = serve => {}
    }
}

async fn ended(running: &mut Option<Running>) -> (Record, End) {
    match running {
        Some(running) => running.life.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// In the log when this returns, so that the next process undoes or goes on with what is about to be made, however this one
/// ends; on disk when [`on_disk`] says so. Gives the line's number.
fn log(host: &Host, record: &Record) -> Result<u64, RuntimeError> {
    host.journal.write(Event::Intended(Box::new(record.clone()))).map_err(|error| not_written(&error))
}

/// Returns when the next crash of the host leaves the seat's generation and line `number` of the log.
async fn on_disk(
    host: &Host,
    key: &SeatKey,
    generation: Generation,
    not_after: Option<Timestamp>,
    number: u64,
) -> Result<(), RuntimeError> {
    let admission = host.generations.admit_apply(key, generation, not_after);
    let (admitted, written) = tokio::join!(admission, host.journal.synced(number));
    admitted?;
    written.map_err(|error| not_written(&error))
}

fn not_written(error: &std::io::Error) -> RuntimeError {
    RuntimeError::Failed { operation: "write the wish down".to_owned(), message: error.to_string() }
}

impl Seat {
    async fn handle(&mut self, request: Request) {
        match request {
            Request::Apply { wish, reply } => {
                let outcome = self.apply(*wish).await;
                // Who asked may have gone: the wish stands.
                let _ = reply.send(outcome);
            }
            Request::Remove { generation, reply } => {
                let outcome = self.remove(generation).await;
                let _ = reply.send(outcome);
            }
            Request::TakeBack { generation, reply } => {
                let outcome = self.take_back(generation).await;
                let _ = reply.send(outcome);
            }
            Request::ShutDown { reply } => self.shut_down(reply),
        }
    }

    /// Not waited for here: that the VMM ends is seen by whoever watches it.
    fn shut_down(&self, reply: oneshot::Sender<()>) {
        let (Some(record), Some(_)) = (&self.record, &self.running) else { return };
        let (host, spec, key) = (Arc::clone(&self.host), record.spec.clone(), self.key.clone());
        tokio::spawn(async move {
            let asked = async {
                let stream = host.vmm.control(&spec).await.map_err(|error| error.to_string())?;
                Control::new(stream).shutdown().await.map_err(|error| error.to_string())
            };
            if let Err(why) = asked.await {
                tracing::warn!(%key, why, "a guest could not be told to switch off");
            }
            let _ = reply.send(());
        });
    }

    async fn adopt(&mut self, mut record: Record, adoption: Adoption) {
        match adoption {
            Adoption::TakeOver => self.live(record, Begin::TakeOver, None),
            Adoption::Keep => self.record = Some(record),
            Adoption::StartAgain => {
                record.phase = Phase::Restarting;
                self.note(&record, None);
                // One that runs would have the tap and the disk.
                life::clear(&self.host, &record).await;
                record.process = None;
                self.live(record, Begin::Again, None);
            }
            Adoption::Stop => {
                let reason = Reason::new("VMM_EXITED", "It has ended while its host's agent was not running");
                life::clear(&self.host, &record).await;
                record.phase = Phase::Stopped;
                self.settle(record, reason);
            }
            Adoption::Undo => {
                self.record = Some(record);
                self.try_again_to_remove().await;
            }
        }
    }

    fn stale(&self, given: Generation, seen: Generation) -> RuntimeError {
        RuntimeError::StaleGeneration { key: self.key.clone(), given, seen: seen.max(given) }
    }

    async fn apply(&mut self, wish: Wish) -> Result<bool, RuntimeError> {
        let given = wish.desired.generation;
        let host = self.host.clone();
        // A removal may have come while this wish waited for its turn.
        if !host.generations.is_wanted(&self.key, given) {
            let seen = host.generations.seen(&self.key).map_or(given, |seen| seen.generation);
            return Err(self.stale(given, seen));
        }
        let there = self.record.as_ref().map(|record| (record.generation, record.phase));
        match there {
            Some((there, _)) if there > given => return Err(self.stale(given, there)),
            Some((there, phase)) if there == given && phase != Phase::Removing && self.running.is_some() => {
                host.generations.admit_apply(&self.key, given, wish.desired.not_after).await?;
                host.board.publish(&self.key, |vm, _| vm.not_after = wish.desired.not_after);
                return Ok(false);
            }
            Some((there, Phase::Stopped)) if there == given => self.start_again(wish).await?,
            Some(_) => {
                host.generations.admit_apply(&self.key, given, wish.desired.not_after).await?;
                self.unmake().await?;
                self.make(wish).await?;
            }
            None => self.make(wish).await?,
        }
        Ok(true)
    }

    /// Chooses a place, writes the wish down and begins to fulfil it. Disk and tap are made while the wish goes to the
    /// host's disk, where it is before a VMM is started and before this returns.
    async fn make(&mut self, wish: Wish) -> Result<(), RuntimeError> {
        let host = self.host.clone();
        let began = std::time::Instant::now();
        let (key, generation, not_after) =
            (self.key.clone(), wish.desired.generation, wish.desired.not_after);
        // For a wish that is refused nothing is begun.
        if !host.generations.is_wanted(&key, generation) {
            host.generations.admit_apply(&key, generation, not_after).await?;
        }
        let record = host.plan(&wish)?;
        let number = log(&host, &record).inspect_err(|_| {
            host.images.release(&record.base);
            host.board.clear(&key);
        })?;
        let (tell, written) = oneshot::channel();
        self.live(record, Begin::New { asked: wish.asked }, Some(written));
        let mut on_disk = std::pin::pin!(on_disk(&host, &key, generation, not_after, number));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut on_disk => break outcome,
                (record, end) = ended(&mut self.running) => self.ended(record, end).await,
            }
        };
        match outcome {
            Ok(()) => {
                host.times.write_down.note(began.elapsed());
                // One that has failed meanwhile doesn't listen.
                let _ = tell.send(());
                Ok(())
            }
            Err(error) => {
                // It logs, and comes back to it by itself.
                let _ = self.unmake().await;
                Err(error)
            }
        }
    }

    async fn start_again(&mut self, wish: Wish) -> Result<(), RuntimeError> {
        let host = self.host.clone();
        let Some(record) = &self.record else { return Ok(()) };
        let mut record = record.clone();
        record.phase = Phase::Restarting;
        record.reason = None;
        record.process = None;
        record.not_after = wish.desired.not_after;
        record.secret = wish.desired.secret.expose_secret().to_owned();
        record.env = wish.desired.env.clone();
        self.host.refresh(&mut record);
        let number = log(&host, &record)?;
        on_disk(&host, &self.key, record.generation, record.not_after, number).await?;
        self.host.board.set_secret(&self.key, wish.desired.secret);
        self.host.board.publish(&self.key, |vm, phase| {
            *phase = Phase::Restarting;
            vm.state = EnvironmentState::Starting;
            vm.reason = None;
            vm.not_after = wish.desired.not_after;
        });
        self.live(record, Begin::Again, None);
        Ok(())
    }

    fn live(&mut self, record: Record, begin: Begin, written: Written) {
        let cancel = CancellationToken::new();
        let life = life::run(self.host.clone(), record.clone(), begin, written, cancel.clone());
        self.record = Some(record);
        self.retry = None;
        self.running = Some(Running { cancel, life: Box::pin(life) });
    }

    async fn ended(&mut self, mut record: Record, end: End) {
        self.running = None;
        match end {
            End::Died(reason) => {
                record.phase = Phase::Stopped;
                tracing::warn!(seat = %self.key, instance = record.instance(), reason = reason.message, "a VM has ended");
                self.settle(record, reason);
            }
            End::Failed(fault) if record.phase == Phase::Making => {
                tracing::warn!(seat = %self.key, code = fault.code, error = %fault, "a VM could not be made");
                self.fail(record, &fault).await;
            }
            End::Failed(fault) => {
                tracing::warn!(seat = %self.key, code = fault.code, error = %fault, "a VM could not be started again");
                record.phase = Phase::Stopped;
                self.settle(record, fault.reason());
            }
            // Who cancels says what follows.
            End::Cancelled => self.record = Some(record),
        }
    }

    /// Nothing but the record is kept of what could not be made.
    async fn fail(&mut self, mut record: Record, fault: &Fault) {
        if let Err(left) = life::undo(&self.host, &record).await {
            tracing::warn!(seat = %self.key, error = %left, "what was made of a VM could not be removed");
            self.record = Some(record);
            self.remove_later();
            return;
        }
        self.host.images.release(&record.base);
        record.phase = Phase::Failed;
        self.settle(record, fault.reason());
    }

    /// Writes down and shows a phase in which nothing runs.
    fn settle(&mut self, mut record: Record, reason: Reason) {
        record.process = None;
        record.reason = Some(reason.clone());
        self.note(&record, Some(reason));
        self.record = Some(record);
    }

    fn note(&self, record: &Record, reason: Option<Reason>) {
        let (phase, instance) = (record.phase, record.instance().to_owned());
        let event = Event::Phase { instance, phase, reason: reason.clone() };
        if let Err(error) = self.host.journal.write(event) {
            tracing::warn!(seat = %self.key, %error, "a VM's phase could not be written down");
        }
        self.host.board.publish(&self.key, |vm, shown| {
            *shown = phase;
            vm.state = super::phase::shown(phase, None);
            vm.reason = reason;
            vm.pid = None;
            vm.started = false;
        });
    }

    async fn remove(&mut self, generation: Generation) -> Result<(), RuntimeError> {
        match &self.record {
            Some(record) if record.generation <= generation => self.unmake().await,
            _ => Ok(()),
        }
    }

    /// In its turn among the wishes: what was begun before stays, and what comes later is refused.
    async fn take_back(&mut self, generation: Generation) -> Result<bool, RuntimeError> {
        let begun = |record: &Record| record.generation == generation && record.phase != Phase::Removing;
        if self.record.as_ref().is_some_and(begun) {
            return Ok(false);
        }
        self.host.generations.admit_remove(&self.key, generation).await?;
        self.remove(generation).await?;
        Ok(true)
    }

    /// Ends what runs, whatever step it is at, and removes everything.
    async fn unmake(&mut self) -> Result<(), RuntimeError> {
        if let Some(mut running) = self.running.take() {
            self.host.board.publish(&self.key, |vm, phase| {
                *phase = Phase::Removing;
                vm.state = EnvironmentState::Removing;
                vm.reason = None;
            });
            running.cancel.cancel();
            let (record, _) = running.life.as_mut().await;
            self.record = Some(record);
        }
        let Some(mut record) = self.record.take() else { return Ok(()) };
        let had_resources = record.phase != Phase::Failed;
        if had_resources {
            record.phase = Phase::Removing;
            self.note(&record, None);
            if let Err(fault) = life::undo(&self.host, &record).await {
                tracing::warn!(seat = %self.key, error = %fault, "a VM could not be removed");
                self.record = Some(record);
                self.remove_later();
                return Err(fault.runtime_error("remove the VM"));
            }
            self.host.images.release(&record.base);
        }
        // Should this not be written, the next process finds nothing to undo, and leaves alone who has the address then.
        let _ = self.host.journal.write(Event::Gone { instance: record.instance().to_owned() });
        self.retry = None;
        self.host.board.clear(&self.key);
        Ok(())
    }

    fn remove_later(&mut self) {
        let pause = self.retry.map_or(RETRY, |(_, pause)| (pause * 2).min(LONGEST_RETRY));
        self.retry = Some((Instant::now() + pause, pause));
    }

    async fn try_again_to_remove(&mut self) {
        // It logs, and comes back here by itself.
        let _ = self.unmake().await;
    }
}
