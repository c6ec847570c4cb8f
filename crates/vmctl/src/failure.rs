//! Why a command did not do what it was to do, and the exit code that says so.

use clarateach_gcp::{GcpError, Kind};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Google says no, or nothing.
    #[error("{}{}", .0.one_line(), hint(.0.kind()))]
    Gcp(#[from] GcpError),
    /// The command line or the environment is wrong.
    #[error("{0}")]
    Usage(String),
    /// It is not there.
    #[error("{0}")]
    NotFound(String),
    /// Something is in the way.
    #[error("{0}")]
    Exists(String),
    /// Nobody said yes.
    #[error("{0}")]
    NotConfirmed(String),
    /// There is no /dev/kvm.
    #[error("{0}")]
    NoKvm(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
    /// A program that was run says so itself.
    #[error("{program} ended with status {status}")]
    Program {
        /// Its name.
        program: String,
        /// Its exit status.
        status: u8,
    },
    /// Ctrl-C.
    #[error(
        "interrupted; what Google has begun goes on there: look with `vmctl list`, or run the same command again to go on"
    )]
    Interrupted,
}

fn hint(kind: Kind) -> &'static str {
    match kind {
        Kind::QuotaExceeded => {
            "\n  The project may have no more of it: delete what is not needed, or ask for more at \
             https://console.cloud.google.com/iam-admin/quotas"
        }
        Kind::ZoneExhausted => "\n  Try another --zone of the region, another --machine-type, or later",
        Kind::Forbidden => {
            "\n  The account needs the role Compute Instance Admin (roles/compute.instanceAdmin.v1)"
        }
        _ => "",
    }
}

impl Failure {
    /// See `vmctl --help`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Gcp(error) => match error.kind() {
                Kind::NotFound => 3,
                Kind::AlreadyExists => 4,
                Kind::Unauthorized => 5,
                Kind::QuotaExceeded => 6,
                Kind::ZoneExhausted => 7,
                _ if matches!(error, GcpError::BadName(_)) => 2,
                _ => 1,
            },
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Exists(_) => 4,
            Self::NotConfirmed(_) => 8,
            Self::NoKvm(_) => 9,
            Self::Other(_) => 1,
            Self::Program { status, .. } => *status,
            Self::Interrupted => 130,
        }
    }
}
