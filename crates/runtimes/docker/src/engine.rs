//! The connection to the Docker Engine, and what its errors mean.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error};
use clarateach_runtime::RuntimeError;

/// Creating a container on a loaded machine with a cold disk takes long; longer than this is a hang.
const REQUEST_SECONDS: u64 = 120;
const PING: Duration = Duration::from_secs(5);

/// Where the Engine listens when `DOCKER_HOST` doesn't say otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// An Engine that may come and go.
#[derive(Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    docker: Mutex<Option<Docker>>,
}

impl Engine {
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self { socket, docker: Mutex::new(None) }
    }

    /// A handle to the Engine. Every request makes its own connection, so a handle never goes stale.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] when there is not even a socket.
    pub(crate) fn docker(&self) -> Result<Docker, RuntimeError> {
        let mut docker = self.docker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(docker) = docker.as_ref() {
            return Ok(docker.clone());
        }
        let socket = self.socket.to_string_lossy();
        let made = Docker::connect_with_unix(&socket, REQUEST_SECONDS, API_DEFAULT_VERSION)
            .map_err(|error| self.unavailable(&error.to_string()))?;
        Ok(docker.insert(made).clone())
    }

    /// # Errors
    /// [`RuntimeError::Unavailable`] when the Engine doesn't answer in time.
    pub(crate) async fn ping(&self) -> Result<(), RuntimeError> {
        let docker = self.docker()?;
        match tokio::time::timeout(PING, docker.ping()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.unavailable(&error.to_string())),
            Err(_) => Err(self.unavailable(&format!("no answer within {} s", PING.as_secs()))),
        }
    }

    pub(crate) fn unavailable(&self, why: &str) -> RuntimeError {
        let socket = self.socket.display();
        let message = if why.to_ascii_lowercase().contains("permission denied") {
            format!("Docker at {socket} refuses this user: add it to the group docker, or run as root")
        } else {
            format!("Docker does not answer at {socket} ({why}); start it, and everything goes on by itself")
        };
        RuntimeError::Unavailable { message }
    }

    /// What an Engine's error means for whoever asked for `operation`.
    pub(crate) fn failure(&self, operation: impl Into<String>, error: &Error) -> RuntimeError {
        match error {
            Error::DockerResponseServerError { message, .. } => {
                RuntimeError::Failed { operation: operation.into(), message: message.clone() }
            }
            Error::DockerStreamError { error } => {
                RuntimeError::Failed { operation: operation.into(), message: error.clone() }
            }
            Error::JsonDataError { .. } | Error::JsonSerdeError { .. } | Error::StrParseError { .. } => {
                RuntimeError::Failed { operation: operation.into(), message: error.to_string() }
            }
            other => self.unavailable(&other.to_string()),
        }
    }
}

/// The status code of an Engine's refusal.
pub(crate) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What an Engine's refusal says.
pub(crate) fn words(error: &Error) -> &str {
    match error {
        Error::DockerResponseServerError { message, .. } => message,
        _ => "",
    }
}

/// The Engine's socket as `DOCKER_HOST` has it.
///
/// # Errors
/// A sentence when it names something other than a Unix socket: seats are reached by their addresses on this machine.
pub fn socket_from_environment() -> Result<PathBuf, String> {
    match std::env::var("DOCKER_HOST") {
        Err(_) => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Ok(host) if host.is_empty() => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Ok(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => Err("DOCKER_HOST takes unix:///path/to/docker.sock: seats run on this machine".to_owned()),
        },
    }
}
