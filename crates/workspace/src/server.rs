//! The seat as a whole: its parts, its routes, its end.

use std::{io, rc::Rc, time::Duration};

use http::{HeaderValue, Method, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Config, Secret},
    events::{self, Events},
    files::{self, Files},
    http::{Answer, Listener, Refusal, Request, RequestBody, Stream, json_bytes},
    learner::Learner,
    pid1,
    ports::{self, Ports},
    terminal::{self, Terminals},
};

/// For a client to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a seat can't be served.
#[derive(Debug, Error)]
pub enum SeatError {
    /// The workspace directory can't be made or opened.
    #[error("the workspace directory {path}: {source}")]
    Root {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Becoming the learner failed.
    #[error("acting as uid {uid}: {source}")]
    Learner {
        /// The learner's uid.
        uid: u32,
        /// Why.
        source: io::Error,
    },
    /// The address can't be listened on.
    #[error("listening on {listen}: {source}")]
    Listen {
        /// The address.
        listen: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel's random numbers, signals or clock failed.
    #[error("starting: {0}")]
    Start(#[from] io::Error),
}

/// Everything in a seat.
#[derive(Debug)]
pub struct Seat {
    config: Config,
    secret: Secret,
    pub(crate) terminals: Terminals,
    pub(crate) files: Files,
    pub(crate) ports: Ports,
    pub(crate) events: Events,
}

impl Seat {
    /// Makes the workspace directory the learner's and starts the threads that act as the learner.
    ///
    /// # Errors
    /// [`SeatError`] says which directory, uid or resource.
    pub fn prepare(config: Config) -> Result<Rc<Seat>, SeatError> {
        let learner = Rc::new(Learner::find(&config));
        files::give_to_learner(&config.root, &learner)
            .map_err(|source| SeatError::Root { path: config.root.clone(), source })?;
        if learner.drops {
            let groups: Vec<_> = learner.groups.iter().map(|g| rustix::process::Gid::from_raw(*g)).collect();
            rustix::thread::set_thread_groups(&groups)
                .map_err(|e| SeatError::Learner { uid: learner.uid, source: e.into() })?;
        }
        let files = Files::open(config.root.clone(), &learner)
            .map_err(|source| SeatError::Learner { uid: learner.uid, source })?;
        let terminals = Terminals::new(learner.clone(), config.root.clone())
            .map_err(|e| SeatError::Start(io::Error::other(e)))?;
        let ports = Ports::new(config.ports, learner.uid);
        let secret = config.secret.clone();
        Ok(Rc::new(Seat { config, secret, terminals, files, ports, events: Events::default() }))
    }

    /// Serves until SIGTERM or SIGINT, then ends every process of the seat. Calls `listening` once connections are
    /// taken. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn serve(self: Rc<Seat>, listening: impl FnOnce()) -> Result<(), SeatError> {
        let mut children = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listen = &self.config.listen;
        let listener = Listener::bind(listen)
            .await
            .map_err(|source| SeatError::Listen { listen: format!("{listen:?}"), source })?;
        self.ports.own_port_is(listener.port());
        listening();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(stream) => {
                        tokio::task::spawn_local(self.clone().connection(stream));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: those in use come back.
                        crate::say(&format!("accepting a connection: {error}"));
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                _ = children.recv() => {
                    for (pid, status) in pid1::reap() {
                        self.terminals.child_ended(pid, status);
                    }
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        if let crate::config::Listen::Unix(path) = listen {
            let _ = std::fs::remove_file(path);
        }
        pid1::end_all().await;
        Ok(())
    }

    async fn connection(self: Rc<Seat>, stream: Stream) {
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let seat = self.clone();
            async move {
                let (head, incoming) = request.into_parts();
                let (body, rest) = RequestBody::new(incoming);
                let answer = seat.answer(Request::from_parts(head, body)).await;
                rest.discard().await;
                Ok::<_, std::convert::Infallible>(answer.unwrap_or_else(Refusal::into_response))
            }
        });
        // Errors here are connections that the other side broke off.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }

    async fn answer(self: Rc<Seat>, request: Request) -> Answer {
        let path = request.uri().path().to_owned();
        if path == "/health" && matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(json_bytes(StatusCode::OK, (&br#"{"status":"ok"}"#[..]).into()));
        }
        let offered = request.headers().get(clarateach_seatproto::SECRET_HEADER).map(HeaderValue::as_bytes);
        if !offered.is_some_and(|o| self.secret.matches(o)) {
            let message = "this seat is reached through its gateway only";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message));
        }
        match path.split('/').nth(1).unwrap_or_default() {
            "terminal" | "terminals" => terminal::route(self, &path, request).await,
            "files" | "raw" | "archive" => files::route(self, &path, request).await,
            "ports" | "tunnel" => ports::route(self, &path, request).await,
            "events" => events::route(self, &request).await,
            _ => Err(Refusal::not_found(path)),
        }
    }
}

/// Refuses any method but the one a route takes.
pub(crate) fn expect_method(request: &Request, method: &Method) -> Result<(), Refusal> {
    if request.method() == method {
        return Ok(());
    }
    let message = format!("this takes {method}");
    Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message))
}

/// Whether a request asks to upgrade its connection to `protocol`.
pub(crate) fn wants_upgrade(request: &Request, protocol: &str) -> bool {
    has_token(request, &header::UPGRADE, protocol) && has_token(request, &header::CONNECTION, "upgrade")
}

/// Whether a comma-separated header holds a word.
pub(crate) fn has_token(request: &Request, name: &header::HeaderName, token: &str) -> bool {
    request
        .headers()
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|value: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}
