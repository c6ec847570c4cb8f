//! Seats as plain child processes: for development where there is no Docker.
//!
//! **There is no isolation.** A learner is whoever runs the server. Seats listen on Unix sockets in a private
//! directory, are process groups of their own and outlive the server; the next server finds and adopts them.

mod place;
mod seats;
mod tree;

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::probe::{self, ProbePolicy};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, EnvironmentState, Generations, ImageRef,
    PrepareProgress, ProgressFn, Reason, Revision, Runtime, RuntimeError, RuntimeKind, SeatPort, tunnel,
};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::place::{Place, Places};
use crate::seats::{Running, Seat, Seats};

const LOG_TAIL: u64 = 64 * 1024;
const DEADLINE_TICK: Duration = Duration::from_millis(500);
/// How often an adopted workspace, which is no child of ours, is looked at.
const ADOPTED_TICK: Duration = Duration::from_millis(200);
/// What a seat gets of the server's own environment: nothing that could be a secret.
const PASSED_ON: [&str; 4] = ["PATH", "LANG", "LC_ALL", "TZ"];

/// What a [`ProcessRuntime`] needs to know.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// The `workspace` binary; it need not be static.
    pub workspace_bin: PathBuf,
    /// A directory of this runtime's own; made if it isn't there, and closed to others.
    pub state_dir: PathBuf,
    /// The most seats at once.
    pub capacity: u32,
    /// How often seats are asked whether they are well.
    pub probe: ProbePolicy,
}

impl ProcessConfig {
    /// With the usual probe.
    #[must_use]
    pub fn new(workspace_bin: PathBuf, state_dir: PathBuf, capacity: u32) -> Self {
        Self { workspace_bin, state_dir, capacity, probe: ProbePolicy::default() }
    }
}

#[derive(Debug)]
struct Inner {
    config: ProcessConfig,
    places: Places,
    generations: Generations,
    seats: Seats,
    closing: CancellationToken,
}

/// The process runtime. Dropping it leaves every seat running.
#[derive(Debug)]
pub struct ProcessRuntime {
    inner: Arc<Inner>,
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        self.inner.closing.cancel();
    }
}

impl ProcessRuntime {
    /// Opens the runtime and adopts the seats that still run. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the state directory can't be used, or belongs to somebody else.
    pub fn open(config: ProcessConfig) -> io::Result<Self> {
        let places = Places::open(&config.state_dir)?;
        let generations = Generations::open(&places.generations())?;
        let (seats, closing) = (Seats::new(), CancellationToken::new());
        let inner = Arc::new(Inner { config, places, generations, seats, closing });
        inner.adopt()?;
        let (weak, closing) = (Arc::downgrade(&inner), inner.closing.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = end_on_time(weak) => {}
            }
        });
        Ok(Self { inner })
    }
}

fn failed(operation: &str, error: &io::Error) -> RuntimeError {
    RuntimeError::Failed { operation: operation.to_owned(), message: error.to_string() }
}

fn check(desired: &DesiredSeat) -> Result<(), RuntimeError> {
    let refuse = |message: String| Err(RuntimeError::InvalidSpec { message });
    for (name, value) in &desired.env {
        if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("CLARATEACH_") {
            return refuse(format!("{name:?} can't be the name of an environment variable"));
        }
        if value.contains('\0') {
            return refuse(format!("the value of the environment variable {name} holds a NUL"));
        }
    }
    if desired.not_after.is_some_and(|at| at <= Timestamp::now()) {
        return refuse("the time it is to end has passed".to_owned());
    }
    Ok(())
}

impl Inner {
    /// Takes over what an earlier process has left.
    fn adopt(self: &Arc<Self>) -> io::Result<()> {
        let mut places = self.places.all()?;
        places.sort_by_key(|place| place.generation);
        for place in places {
            let not_after = self.generations.seen(&place.key).and_then(|seen| seen.not_after);
            let secret = place.secret();
            let reason = Reason::new("EXITED", "It has ended while the server was not running");
            let seat = Seat {
                place: place.clone(),
                secret: secret.clone().unwrap_or_else(|| String::new().into()),
                running: None,
                down: Some((EnvironmentState::Stopped, reason)),
                removing: false,
                not_after,
            };
            if let Some(older) = self.seats.lock().insert(place.key.clone(), seat) {
                self.discard(older.place);
            }
            if !self.generations.is_wanted(&place.key, place.generation) {
                self.discard(place);
            } else if let (Some(pid), Some(_)) = (tree::find(&place.directory), secret) {
                self.watch(&place, pid, None);
            }
        }
        Ok(())
    }

    /// Removes a make of a seat that nobody wants, in the background.
    fn discard(self: &Arc<Self>, place: Place) {
        let inner = self.clone();
        tokio::spawn(async move {
            let (key, generation) = (place.key.clone(), place.generation);
            if let Err(error) = inner.unmake(&key, generation).await {
                tracing::warn!(seat = %key, %error, "what is left of a seat could not be removed");
            }
        });
    }

    /// Watches a workspace until it ends, and asks whether it is well.
    fn watch(self: &Arc<Self>, place: &Place, pid: i32, child: Option<Child>) {
        let stop = CancellationToken::new();
        self.seats.with(place, |seat| {
            let running = Running { pid, health: None, _watch: stop.clone().drop_guard() };
            seat.running = Some(running);
            seat.down = None;
        });
        let secret = self.seats.lock().get(&place.key).map(|seat| seat.secret.clone());
        let Some(secret) = secret else { return };
        let (inner, place, closing) = (Arc::downgrade(self), place.clone(), self.closing.clone());
        let policy = self.config.probe;
        tokio::spawn(async move {
            let socket = place.socket.clone();
            let dial = move || {
                let socket = socket.clone();
                async move { Ok(Box::new(UnixStream::connect(socket).await?) as BoxedSeatStream) }
            };
            let (told, about) = (inner.clone(), place.clone());
            let report = move |health| {
                let Some(inner) = told.upgrade() else { return };
                inner.seats.with(&about, |seat| {
                    if let Some(running) = seat.running.as_mut().filter(|running| running.pid == pid) {
                        running.health = Some(health);
                    }
                });
            };
            tokio::select! {
                () = closing.cancelled() => {}
                () = stop.cancelled() => {}
                () = probe::watch(dial, secret, policy, report) => {}
                reason = ended(pid, child) => {
                    let Some(inner) = inner.upgrade() else { return };
                    inner.seats.with(&place, |seat| {
                        if seat.running.as_ref().is_some_and(|running| running.pid == pid) {
                            seat.running = None;
                            seat.down = Some((EnvironmentState::Stopped, reason));
                        }
                    });
                }
            }
        });
    }

    /// Starts a seat's workspace on the disk that is there, or on a new one.
    async fn make(self: &Arc<Self>, desired: &DesiredSeat) -> Result<(), RuntimeError> {
        let place = self.places.of(&desired.key, desired.generation);
        let seat = Seat {
            place: place.clone(),
            secret: desired.secret.clone(),
            running: None,
            down: None,
            removing: false,
            not_after: desired.not_after,
        };
        self.seats.lock().insert(desired.key.clone(), seat);
        self.seats.publish();
        match self.start(desired, &place).await {
            Ok(child) => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
                self.watch(&place, pid, Some(child));
            }
            Err(error) => {
                let reason = failed("start the workspace", &error).reason();
                self.seats.with(&place, |seat| seat.down = Some((EnvironmentState::Failed, reason)));
            }
        }
        Ok(())
    }

    async fn start(&self, desired: &DesiredSeat, place: &Place) -> io::Result<Child> {
        let (place, secret) = (place.clone(), desired.secret.clone());
        let (place, log) = tokio::task::spawn_blocking(move || {
            // What a workspace that died has left running would hold its ports and files.
            tree::end(&place.directory)?;
            place.furnish(&secret)?;
            let log = place.log()?;
            Ok::<_, io::Error>((place, log))
        })
        .await??;
        let mut command = std::process::Command::new(&self.config.workspace_bin);
        command.arg0(tree::title(&place.directory)).arg("serve").env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .envs(&desired.env)
            .env("CLARATEACH_LISTEN", format!("unix:{}", place.socket.display()))
            .env("CLARATEACH_SECRET", desired.secret.expose_secret())
            .env("CLARATEACH_ROOT", place.disk())
            .env("CLARATEACH_UID", "self")
            .env("CLARATEACH_PORTS", "tree")
            .env(tree::MARKER, &place.directory)
            .current_dir(place.disk())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the server is not meant for the seats.
            .process_group(0);
        Command::from(command).spawn()
    }

    /// Ends and removes what there is of a seat up to `generation`.
    async fn unmake(self: &Arc<Self>, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        let doomed = |place: &Place| place.key == *key && place.generation <= generation;
        let places = self.places.all().map_err(|error| failed("look for the seat's directories", &error))?;
        if let Some(seat) = self.seats.lock().get_mut(key).filter(|seat| doomed(&seat.place)) {
            seat.removing = true;
            seat.running = None;
        }
        self.seats.publish();
        for place in places.into_iter().filter(|place| doomed(place)) {
            let clear = tokio::task::spawn_blocking(move || {
                tree::end(&place.directory)?;
                place.clear()
            });
            let outcome = clear.await.map_err(io::Error::from).and_then(|outcome| outcome);
            outcome.map_err(|error| failed("remove the seat", &error))?;
        }
        {
            let mut map = self.seats.lock();
            if map.get(key).is_some_and(|seat| doomed(&seat.place)) {
                map.remove(key);
            }
        }
        self.seats.publish();
        Ok(())
    }

    fn room(&self, key: &SeatKey) -> Result<(), RuntimeError> {
        let map = self.seats.lock();
        let (used, total) = (u32::try_from(map.len()).unwrap_or(u32::MAX), self.config.capacity);
        if used >= total && !map.contains_key(key) {
            return Err(RuntimeError::AtCapacity { used, total });
        }
        Ok(())
    }

    fn stale(&self, key: &SeatKey, given: Generation) -> RuntimeError {
        let seen = self.generations.seen(key).map_or(given, |seen| seen.generation);
        RuntimeError::StaleGeneration { key: key.clone(), given, seen: seen.max(given) }
    }

    async fn apply(self: &Arc<Self>, desired: DesiredSeat) -> Result<(), RuntimeError> {
        let (key, generation) = (desired.key.clone(), desired.generation);
        let _turn = self.seats.change(&key).await;
        // A removal may have come while this apply waited for its turn.
        if !self.generations.is_wanted(&key, generation) {
            return Err(self.stale(&key, generation));
        }
        self.room(&key)?;
        match self.seats.generation(&key) {
            Some(there) if there > generation => return Err(self.stale(&key, generation)),
            Some(there) if there < generation => self.unmake(&key, there).await?,
            Some(_) => {
                let mut map = self.seats.lock();
                if let Some(seat) = map.get_mut(&key).filter(|seat| seat.running.is_some()) {
                    seat.not_after = desired.not_after;
                    return Ok(());
                }
            }
            None => {}
        }
        self.make(&desired).await
    }

    fn dial_target(&self, key: &SeatKey) -> Result<(PathBuf, SecretString), RuntimeError> {
        let map = self.seats.lock();
        let seat = map.get(key).ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
        if seat.running.is_none() {
            return Err(RuntimeError::Unreachable {
                key: key.clone(),
                message: "it is not running".to_owned(),
            });
        }
        Ok((seat.place.socket.clone(), seat.secret.clone()))
    }
}

/// Returns why, once the process has ended.
async fn ended(pid: i32, child: Option<Child>) -> Reason {
    if let Some(mut child) = child {
        return match child.wait().await {
            Ok(status) => exit(status),
            Err(error) => Reason::new("EXITED", format!("Its workspace has ended: {error}")),
        };
    }
    if let Ok(handle) = tree::handle(pid) {
        while !tree::has_ended(&handle) {
            tokio::time::sleep(ADOPTED_TICK).await;
        }
    }
    Reason::new("EXITED", "Its workspace has ended")
}

fn exit(status: ExitStatus) -> Reason {
    let message = match (status.code(), status.signal()) {
        (Some(code), _) => format!("Its workspace has exited with code {code}"),
        (None, Some(signal)) => format!("Its workspace was ended by signal {signal}"),
        (None, None) => "Its workspace has ended".to_owned(),
    };
    Reason::new("EXITED", message)
}

async fn end_on_time(inner: Weak<Inner>) {
    let mut tick = interval(DEADLINE_TICK);
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let now = Timestamp::now();
        let over: Vec<Place> = {
            let map = inner.seats.lock();
            let over = |seat: &&Seat| !seat.removing && seat.not_after.is_some_and(|at| at <= now);
            map.values().filter(over).map(|seat| seat.place.clone()).collect()
        };
        for place in over {
            tracing::info!(seat = %place.key, "its time is up");
            inner.discard(place);
        }
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn warnings(&self) -> Vec<String> {
        vec![
            "Development, no isolation: learners are whoever runs the server, on this machine".to_owned(),
            "Images, processors, memory, disk and egress are not applied to plain processes".to_owned(),
        ]
    }

    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        Ok(image.clone())
    }

    async fn prepare(&self, _image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        progress(PrepareProgress { step: "Plain processes need no image".to_owned(), bytes: None });
        Ok(())
    }

    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        check(&desired)?;
        self.inner.room(&desired.key)?;
        let (key, generation) = (&desired.key, desired.generation);
        self.inner.generations.admit_apply(key, generation, desired.not_after).await?;
        let inner = self.inner.clone();
        // To its end, also when the caller gives up: nothing half-made is forgotten.
        tokio::spawn(async move { inner.apply(desired).await })
            .await
            .map_err(io::Error::from)
            .map_err(|error| failed("start the seat", &error))?
    }

    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        Ok(self.inner.seats.environments())
    }

    async fn watch(&self, since: Revision) -> Revision {
        self.inner.seats.changed(since).await
    }

    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        self.inner.generations.admit_remove(key, generation).await?;
        let (inner, key) = (self.inner.clone(), key.clone());
        let removal = tokio::spawn(async move {
            let _turn = inner.seats.change(&key).await;
            inner.unmake(&key, generation).await
        });
        removal.await.map_err(io::Error::from).map_err(|error| failed("remove the seat", &error))?
    }

    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        let (socket, secret) = self.inner.dial_target(key)?;
        let unreachable =
            |error: io::Error| RuntimeError::Unreachable { key: key.clone(), message: error.to_string() };
        let stream: BoxedSeatStream = Box::new(UnixStream::connect(socket).await.map_err(unreachable)?);
        match port {
            SeatPort::Workspace => Ok(stream),
            SeatPort::App(port) => tunnel::through(stream, &secret, port).await.map_err(unreachable),
        }
    }

    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        let place = self.inner.seats.lock().get(key).map(|seat| seat.place.clone());
        let place = place.ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
        place.log_tail(LOG_TAIL).map_err(|error| failed("read the seat's log", &error))
    }

    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        let used = u32::try_from(self.inner.seats.lock().len()).unwrap_or(u32::MAX);
        Ok(Capacity { total: self.inner.config.capacity, used })
    }
}
