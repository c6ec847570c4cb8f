//! [`WorkerClient`]: a worker's seats as a [`Runtime`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clarateach_api::agent::{
    Drain, DrainBody, ImageBody, Revocations, SeatKeys, SessionAtSeat, SessionsBody, VmLogs, VmsBody,
    WatchBody, WorkerInfo,
};
use clarateach_ids::{Generation, InstallationId, SeatKey};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, ProgressFn, Revision, Runtime,
    RuntimeError, RuntimeKind, SeatPort, SharedRuntime,
};
use http::{HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::address::{ClientError, Target, WorkerAddress};
use crate::calls::{Answer, CALL_WITHIN, Calls};
use crate::refusal::{Subject, incompatible};
use crate::{Sighting, Worker, dial, prepare, trust, wire};

/// An agent holds a watch open for 30 s; after ten more it does not answer.
const WATCH_WITHIN: Duration = Duration::from_secs(40);
/// How long a watch that failed waits before it says so: doubled with each failure, up to the latter.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);
/// An answer that is no news and came sooner is a failure too.
const NO_NEWS_AFTER: Duration = Duration::from_secs(1);

/// No body.
const NOTHING: Option<&()> = None;

/// What was last heard of the worker.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    kind: Option<RuntimeKind>,
    room: Option<Capacity>,
}

/// One worker, over HTTP.
#[derive(Debug)]
pub struct WorkerClient {
    calls: Calls,
    target: Target,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    known: Mutex<Known>,
    failed_watches: AtomicU32,
}

impl WorkerClient {
    /// A client of the agent at `address`. Connects to nothing yet.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn new(address: WorkerAddress) -> Result<Self, ClientError> {
        let target = Target::parse(&address.address)?;
        let config = trust::client_config(&address.address, address.tls.as_ref())?;
        let tls = match address.tls {
            Some(_) => Some((Arc::new(config.clone()), target.name()?)),
            None => None,
        };
        let calls = Calls::new(&address, config)?;
        Ok(Self { calls, target, tls, known: Mutex::default(), failed_watches: AtomicU32::new(0) })
    }

    /// The same, for the control plane of an installation: the agent keeps its VMs apart from those of others.
    #[must_use]
    pub fn of(mut self, installation: &InstallationId) -> Self {
        self.calls.installation = HeaderValue::from_str(installation.as_str()).ok();
        self
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self, path: &str, subject: &Subject) -> Result<Answer, RuntimeError> {
        self.calls.call(Method::GET, path, NOTHING, CALL_WITHIN, subject, self.known().room).await
    }

    async fn ask_info(&self) -> Result<Sighting, RuntimeError> {
        let answer = self.get("/info", &Subject::default()).await?;
        let info: WorkerInfo = self.calls.parse(&answer.body)?;
        let kind = info.vmm.kind.parse::<RuntimeKind>().map_err(|_| {
            incompatible(&self.calls.address, &format!("vmm.kind: {:?} is no runtime", info.vmm.kind))
        })?;
        let room = Capacity { total: info.capacity, used: info.vm_count };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            Known { kind: Some(kind), room: Some(room) };
        let us = self.calls.installation.as_ref();
        let drained_by_us = info.drained_by.as_ref().is_some_and(|by| us.is_some_and(|us| by.as_str() == us));
        Ok(Sighting { info, drained_by_us, clock_skew: answer.skew, round_trip: answer.round_trip })
    }

    async fn ask_watch(&self, since: Revision) -> Result<Revision, RuntimeError> {
        let path = format!("/watch?since={}", since.0);
        let subject = Subject::default();
        let answer = self.calls.call(Method::GET, &path, NOTHING, WATCH_WITHIN, &subject, None).await?;
        let body: WatchBody = self.calls.parse(&answer.body)?;
        Ok(Revision(body.revision))
    }

    /// Whoever watches is let go, but not to come back at once.
    async fn pause(&self) {
        let failures = self.failed_watches.fetch_add(1, Ordering::Relaxed);
        let pause = PAUSE.saturating_mul(1 << failures.min(10)).min(PAUSE_AT_MOST);
        tokio::time::sleep(pause).await;
    }
}

fn seat_path(key: &SeatKey) -> String {
    format!("/vms/{}/{}", key.workshop, key.seat)
}

#[async_trait]
impl Runtime for WorkerClient {
    fn kind(&self) -> RuntimeKind {
        self.known().kind.unwrap_or(RuntimeKind::Firecracker)
    }

    async fn warnings(&self) -> Vec<String> {
        match self.ask_info().await {
            Ok(sighting) => sighting.info.warnings,
            // Whether it can be reached at all is another question.
            Err(_) => Vec::new(),
        }
    }

    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        let path = format!("/images/resolve?image={}", utf8_percent_encode(&image.0, NON_ALPHANUMERIC));
        let answer = self.get(&path, &Subject::image(image)).await?;
        Ok(ImageRef(self.calls.parse::<ImageBody>(&answer.body)?.image))
    }

    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        prepare::prepare(&self.calls, image, &*progress).await
    }

    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        let path = seat_path(&desired.key);
        let subject = Subject::make(&desired.key, desired.generation, Some(&desired.image));
        let body = wire::desired_vm(desired);
        let room = self.known().room;
        self.calls.call(Method::PUT, &path, Some(&body), CALL_WITHIN, &subject, room).await?;
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        let subject = Subject::default();
        let list = self.get("/vms", &subject);
        // The list does not say what makes VMs; whoever has asked for it wants to know that too.
        let answer =
            if self.known().kind.is_none() { tokio::join!(list, self.ask_info()).0? } else { list.await? };
        let body: VmsBody = self.calls.parse(&answer.body)?;
        let all = body.vms.into_iter().map(wire::environment).collect::<Result<Vec<_>, _>>();
        all.map_err(|why| incompatible(&self.calls.address, &why))
    }

    async fn watch(&self, since: Revision) -> Revision {
        let began = Instant::now();
        match self.ask_watch(since).await {
            Ok(revision) if revision != since || began.elapsed() >= NO_NEWS_AFTER => {
                self.failed_watches.store(0, Ordering::Relaxed);
                revision
            }
            Ok(_) => {
                self.pause().await;
                since
            }
            Err(error) => {
                tracing::debug!(%error, "watching a worker failed");
                self.pause().await;
                since
            }
        }
    }

    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        let path = format!("{}?generation={}", seat_path(key), generation.0);
        let subject = Subject::make(key, generation, None);
        self.calls.call(Method::DELETE, &path, NOTHING, CALL_WITHIN, &subject, None).await?;
        Ok(())
    }

    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        dial::dial(&self.calls, &self.target, self.tls.as_ref(), key, port).await
    }

    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        let answer = self.get(&format!("{}/logs", seat_path(key)), &Subject::seat(key)).await?;
        Ok(self.calls.parse::<VmLogs>(&answer.body)?.log)
    }

    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        let info = self.ask_info().await?.info;
        Ok(Capacity { total: info.capacity, used: info.vm_count })
    }
}

#[async_trait]
impl SharedRuntime for WorkerClient {
    async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<bool, RuntimeError> {
        let path = format!("{}?generation={}&unless_begun=true", seat_path(key), generation.0);
        let subject = Subject::make(key, generation, None);
        self.calls.delete_unless(&path, "vm_exists", &subject).await
    }
}

#[async_trait]
impl Worker for WorkerClient {
    async fn info(&self) -> Result<Sighting, RuntimeError> {
        self.ask_info().await
    }

    async fn set_keys(&self, keys: &SeatKeys) -> Result<(), RuntimeError> {
        let subject = Subject::default();
        self.calls.call(Method::PUT, "/keys", Some(keys), CALL_WITHIN, &subject, None).await?;
        Ok(())
    }

    async fn revoke(&self, sessions: &Revocations) -> Result<(), RuntimeError> {
        let subject = Subject::default();
        self.calls.call(Method::POST, "/revocations", Some(sessions), CALL_WITHIN, &subject, None).await?;
        Ok(())
    }

    async fn sessions(&self) -> Result<Vec<SessionAtSeat>, RuntimeError> {
        let answer = self.get("/sessions", &Subject::default()).await?;
        Ok(self.calls.parse::<SessionsBody>(&answer.body)?.sessions)
    }

    async fn drain(&self, draining: bool) -> Result<DrainBody, RuntimeError> {
        let (wish, subject) = (Drain { draining }, Subject::default());
        let answer =
            self.calls.call(Method::POST, "/drain", Some(&wish), CALL_WITHIN, &subject, None).await?;
        self.calls.parse(&answer.body)
    }
}
