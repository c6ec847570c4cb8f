//! Connections into seats: dialled, kept while idle, and used again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{RuntimeError, SeatPort};
use http::{Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::{Limits, Refusal, SeatRoute};

/// How long an idle connection to a workspace is kept; the workspace has no idle limit of its own.
const WORKSPACE_IDLE: Duration = Duration::from_secs(60);
/// The same for a learner's app: below the five seconds after which Node.js hangs up.
const APP_IDLE: Duration = Duration::from_secs(4);
/// Largest head of an answer, and the most that is read ahead of a slow client, in bytes.
const READ_AHEAD: usize = 64 * 1024;
/// Most headers in an answer.
const MAX_HEADERS: usize = 128;

type Sender = SendRequest<Body>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    key: SeatKey,
    generation: Generation,
    port: SeatPort,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

/// Idle connections by seat, make and port.
pub(crate) struct Upstreams {
    idle: Mutex<HashMap<Target, Vec<Idle>>>,
    limits: Limits,
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

/// A connection in use. [`Lent::give_back`] after the answer's last byte keeps it; dropped, it is closed.
pub(crate) struct Lent {
    sender: Sender,
    target: Target,
    upstreams: Arc<Upstreams>,
}

impl Upstreams {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), limits })
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Target, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `request` to `port` of the seat over a kept or a new connection.
    ///
    /// A kept connection may have died unnoticed. Then the request is sent once more over a new one, if it had not been
    /// sent at all, or if it has no body and changes nothing (RFC 9110 §9.2.2).
    pub(crate) async fn send(
        self: &Arc<Self>,
        route: &SeatRoute,
        port: SeatPort,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, Lent), Refusal> {
        let target = Target { key: route.key.clone(), generation: route.generation, port };
        let mut request = request;
        if let Some(mut sender) = self.take(&target) {
            let spare = spare(&request);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, self.lend(sender, target))),
                Err(mut failure) => {
                    self.idle().remove(&target);
                    request = match (failure.take_message(), spare) {
                        (Some(unsent), _) => unsent,
                        (None, Some(spare)) if is_hang_up(failure.error()) => spare,
                        _ => return Err(broken(&target, failure.error())),
                    };
                }
            }
        }
        let mut sender = self.dial(route, &target).await?;
        let response = sender.send_request(request).await.map_err(|error| broken(&target, &error))?;
        Ok((response, self.lend(sender, target)))
    }

    fn lend(self: &Arc<Self>, sender: Sender, target: Target) -> Lent {
        Lent { sender, target, upstreams: self.clone() }
    }

    fn take(&self, target: &Target) -> Option<Sender> {
        let mut idle = self.idle();
        let kept = idle.get_mut(target)?;
        while let Some(Idle { sender, since }) = kept.pop() {
            if sender.is_ready() && since.elapsed() < patience(target.port) {
                return Some(sender);
            }
        }
        None
    }

    async fn dial(&self, route: &SeatRoute, target: &Target) -> Result<Sender, Refusal> {
        let connect = async {
            let stream = route.runtime.dial(&target.key, target.port).await.map_err(|error| {
                tracing::debug!(seat = %target.key, port = ?target.port, %error, "dial failed");
                refusal_of(&error, target.port)
            })?;
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(READ_AHEAD)
                .max_headers(MAX_HEADERS)
                .title_case_headers(matches!(target.port, SeatPort::App(_)))
                .handshake::<_, Body>(TokioIo::new(stream))
                .await
                .map_err(|error| broken(target, &error))?;
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::trace!(%error, "a connection into a seat ended");
                }
            });
            Ok(sender)
        };
        match tokio::time::timeout(self.limits.dial_timeout, connect).await {
            Ok(sender) => sender,
            Err(_) => Err(Refusal::seat_unreachable("the seat took too long to answer; try again")),
        }
    }

    fn keep(&self, target: Target, sender: Sender) {
        let mut idle = self.idle();
        let kept = idle.entry(target).or_default();
        if kept.len() < self.limits.idle_connections {
            kept.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Closes what has been idle for long, or was closed by the seat.
    pub(crate) fn sweep(&self) {
        self.idle().retain(|target, kept| {
            kept.retain(|idle| idle.sender.is_ready() && idle.since.elapsed() < patience(target.port));
            !kept.is_empty()
        });
    }

    /// Closes idle connections to makes of the seat before `generation`.
    pub(crate) fn forget(&self, seat: &SeatKey, generation: Generation) {
        self.idle().retain(|target, _| target.key != *seat || target.generation >= generation);
    }

    /// Closes all idle connections.
    pub(crate) fn clear(&self) {
        self.idle().clear();
    }
}

impl Lent {
    /// Keeps the connection for the next request, once it is ready for one.
    pub(crate) fn give_back(self) {
        let Self { mut sender, target, upstreams } = self;
        if sender.is_ready() {
            return upstreams.keep(target, sender);
        }
        // The connection's own task notices the end of the answer a moment after us.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let ready = tokio::time::timeout(Duration::from_secs(1), sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                upstreams.keep(target, sender);
            }
        });
    }
}

const fn patience(port: SeatPort) -> Duration {
    match port {
        SeatPort::Workspace => WORKSPACE_IDLE,
        SeatPort::App(_) => APP_IDLE,
    }
}

/// A copy of a request that may be sent twice.
fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    let repeatable = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !repeatable || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// Whether the connection ended before any answer.
fn is_hang_up(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

fn broken(target: &Target, error: &hyper::Error) -> Refusal {
    tracing::debug!(seat = %target.key, port = ?target.port, %error, "a seat's answer is broken");
    match target.port {
        SeatPort::Workspace => Refusal::seat_unreachable("the seat gave no proper answer; try again"),
        SeatPort::App(port) => {
            Refusal::seat_unreachable(format!("what listens on port {port} gave no proper HTTP answer"))
        }
    }
}

fn refusal_of(error: &RuntimeError, port: SeatPort) -> Refusal {
    match (error, port) {
        (RuntimeError::Unavailable { .. }, _) => {
            Refusal::unavailable("what runs the seat does not answer now; try again in a moment")
        }
        (_, SeatPort::Workspace) => {
            Refusal::seat_unreachable("the seat does not answer; it may be restarting, try again in a moment")
        }
        (_, SeatPort::App(port)) => {
            Refusal::seat_unreachable(format!("nothing that can be previewed listens on port {port}"))
        }
    }
}
