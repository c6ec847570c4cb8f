//! What can go wrong, with the codes that docs/microvm.md lists.

use std::io;
use std::path::PathBuf;

use clarateach_runtime::{Reason, RuntimeError};

use crate::net::NetError;
use crate::vm::Vm;
use crate::vmm::VmmError;

/// Why a [`crate::MicroVmRuntime`] can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory can't be made, read or written.
    #[error("{operation} {path}")]
    Directory {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A directory is somebody else's, so what lies in it can't be trusted.
    #[error("{path} belongs to user {uid}: give it to user {wanted}, or set another directory")]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Whose it should be.
        wanted: u32,
    },
    /// Another process serves this state directory.
    #[error("{path} is in use by another process: one agent at a time per state directory")]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
    /// Sockets would not fit into the directory's path.
    #[error("{path} is too long for sockets, by {surplus} bytes: set a shorter directory")]
    LongSocketDirectory {
        /// The socket directory.
        path: PathBuf,
        /// Bytes too many.
        surplus: usize,
    },
    /// The network could not be set up.
    #[error("setting up the network")]
    Network(#[from] NetError),
}

impl OpenError {
    pub(crate) fn directory(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Directory { operation, path, source }
    }
}

/// Why a VM could not be made or started: a code for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A file operation that failed; a full disk has a code of its own.
    pub(crate) fn io(code: &'static str, what: impl std::fmt::Display, error: &io::Error) -> Self {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Self::new(if full { "NO_SPACE" } else { code }, format!("{what}: {error}"))
    }

    pub(crate) fn reason(&self) -> Reason {
        Reason::new(self.code, self.message.clone())
    }

    /// As the trait has it.
    pub(crate) fn runtime_error(self, operation: &str) -> RuntimeError {
        RuntimeError::Failed { operation: operation.to_owned(), message: self.message }
    }
}

impl From<VmmError> for Fault {
    fn from(error: VmmError) -> Self {
        let code = match &error {
            VmmError::Program { .. } => "VMM_UNUSABLE",
            VmmError::Exited { .. } => "VMM_EXITED",
            VmmError::Refused { .. } => "VMM_REFUSED",
            VmmError::Silent { .. } => "VMM_SILENT",
            VmmError::Host { .. } => "HOST_UNSUITABLE",
            VmmError::Io { source, .. } => return Self::io("VMM_FAILED", &error, source),
        };
        Self::new(code, error.to_string())
    }
}

impl From<NetError> for Fault {
    fn from(error: NetError) -> Self {
        let code = match &error {
            NetError::Host { .. } => "NETWORK_CONFLICT",
            NetError::Refused { .. } => "NETWORK_REFUSED",
        };
        Self::new(code, error.to_string())
    }
}

/// Why [`crate::MicroVmRuntime::create`] gives no VM.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The wish was refused; nothing was made.
    #[error(transparent)]
    Refused(#[from] RuntimeError),
    /// This host can't make it; nothing was made.
    #[error("{}", .reason.message)]
    Unable {
        /// Why, with one of the codes of docs/microvm.md.
        reason: Reason,
    },
    /// This host takes no new VMs at present.
    #[error("this host is being drained and takes no new VMs")]
    Draining,
    /// It could not be made; what was made of it is undone, and a record says why until it is removed.
    #[error("{}", .reason.message)]
    Failed {
        /// Why, with one of the codes of docs/microvm.md.
        reason: Reason,
        /// The record.
        vm: Box<Vm>,
    },
    /// It was removed before it was there.
    #[error("it was removed while it was made")]
    Removed,
}

impl From<Fault> for CreateError {
    fn from(fault: Fault) -> Self {
        Self::Unable { reason: fault.reason() }
    }
}

impl CreateError {
    /// As the trait has it.
    pub(crate) fn into_runtime_error(self) -> RuntimeError {
        match self {
            Self::Refused(error) => error,
            other => RuntimeError::Unavailable { message: other.to_string() },
        }
    }
}
