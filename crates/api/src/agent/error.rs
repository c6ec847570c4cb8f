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
    /// What is needed does not answer now; try again.
    Unavailable = 503,
    /// The image is damaged or no ext4 file system; make it again with rootfs-builder.
    RootfsUnusable = 422,
    /// There is no guest kernel on this worker.
    KernelNotFound = 503,
    /// The guest kernel is damaged or no ELF vmlinux.
    KernelUnusable = 503,
    /// The VMM's binary is missing or of another version than this agent knows.
    VmmUnusable = 503,
    /// This host can't run VMs with this VMM: no KVM, say.
    HostUnsuitable = 503,
    /// Something else on this host has the bridge's name or address.
    NetworkConflict = 503,
    /// The kernel or nft refused what a VM needs of the network.
    NetworkRefused = 500,
    /// The VMM ended before the guest was started.
    VmmExited = 500,
    /// The VMM refused what it was told.
    VmmRefused = 500,
    /// The VMM did not answer in time.
    VmmSilent = 504,
    /// The host's disk is full.
    NoSpace = 507,
}

impl AgentErrorCode {
    /// The code for a VM that could not be made for a reason with this code; [`Self::VmFailed`] for any other.
    #[must_use]
    pub fn of_reason(code: &str) -> Self {
        match code {
            "NO_SPACE" => Self::NoSpace,
            "IMAGE_NOT_FOUND" => Self::ImageNotFound,
            "ROOTFS_UNUSABLE" => Self::RootfsUnusable,
            "KERNEL_NOT_FOUND" => Self::KernelNotFound,
            "KERNEL_UNUSABLE" => Self::KernelUnusable,
            "VMM_UNUSABLE" => Self::VmmUnusable,
            "VMM_EXITED" => Self::VmmExited,
            "VMM_REFUSED" => Self::VmmRefused,
            "VMM_SILENT" => Self::VmmSilent,
            "HOST_UNSUITABLE" => Self::HostUnsuitable,
            "NETWORK_CONFLICT" => Self::NetworkConflict,
            "NETWORK_REFUSED" => Self::NetworkRefused,
            "RUNTIME_UNAVAILABLE" => Self::Unavailable,
            _ => Self::VmFailed,
        }
    }
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
