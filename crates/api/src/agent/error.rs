//! The agent's error body: `{"error":{"code":"vm_exists","message":"…"}}` with the matching HTTP status.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal,)+) => {
        /// What went wrong, for programs. Each code belongs to one HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum AgentErrorCode { $($(#[$doc])* $name,)+ }

        impl AgentErrorCode {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The HTTP status that goes with the code.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

error_codes! {
    /// A path, query, header or body can't be understood, or a value is out of range.
    InvalidRequest = 400,
    /// The token is missing or wrong.
    Unauthorized = 401,
    /// There is no such call.
    NotFound = 404,
    /// There is no VM for the seat.
    VmNotFound = 404,
    /// The path exists, but not with this method.
    MethodNotAllowed = 405,
    /// There is a VM for the seat already.
    VmExists = 409,
    /// The decision is older than one already carried out; `seen` is the highest generation seen.
    StaleGeneration = 409,
    /// The body is larger than this call takes.
    TooLarge = 413,
    /// The body is not `application/json`.
    UnsupportedMediaType = 415,
    /// The image can't be had.
    ImageNotFound = 422,
    /// The call needs `Connection: Upgrade` and `Upgrade: tcp`.
    UpgradeRequired = 426,
    /// Too many wrong tokens from this address; try later.
    TooManyAttempts = 429,
    /// Something broke in the agent; the request id finds it in its log.
    Internal = 500,
    /// The VM could not be made or removed; the message says why.
    VmFailed = 500,
    /// Nothing answers in the VM.
    VmUnreachable = 502,
    /// Every place for a VM is taken.
    AtCapacity = 503,
    /// The worker takes no new VMs.
    Draining = 503,
    /// This host can't run VMs now (no KVM, no kernel, no network); the message says what to do.
    Unavailable = 503,
    /// The host's disk is full.
    NoSpace = 507,
}

/// Code and sentence.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AgentErrorDetail {
    /// For programs.
    pub code: AgentErrorCode,
    /// For people: what is wrong and what to do.
    pub message: String,
    /// With `stale_generation`: the highest generation seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<u64>,
    /// With `at_capacity`: how many VMs there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u32>,
    /// With `at_capacity`: how many VMs fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

/// The body of every error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AgentErrorBody {
    /// Code and sentence.
    pub error: AgentErrorDetail,
}

impl AgentErrorBody {
    /// The body for `code` with a sentence.
    pub fn new(code: AgentErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { error: AgentErrorDetail { code, message, seen: None, used: None, capacity: None } }
    }
}
