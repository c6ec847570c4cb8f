//! Bodies of requests, as strict as Firecracker is: unknown fields are refused. Fields are those of version 1.16.

// Fields that the double makes nothing of are there so that it takes them.
#![allow(dead_code)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootSource {
    pub(crate) kernel_image_path: PathBuf,
    pub(crate) initrd_path: Option<PathBuf>,
    pub(crate) boot_args: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineConfiguration {
    pub(crate) vcpu_count: u8,
    pub(crate) mem_size_mib: usize,
    #[serde(default)]
    pub(crate) smt: bool,
    pub(crate) cpu_template: Option<String>,
    #[serde(default)]
    pub(crate) track_dirty_pages: bool,
    pub(crate) huge_pages: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drive {
    pub(crate) drive_id: String,
    pub(crate) is_root_device: bool,
    pub(crate) partuuid: Option<String>,
    pub(crate) cache_type: Option<CacheType>,
    pub(crate) is_read_only: Option<bool>,
    pub(crate) path_on_host: Option<PathBuf>,
    pub(crate) rate_limiter: Option<RateLimiter>,
    pub(crate) io_engine: Option<IoEngine>,
    pub(crate) socket: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub(crate) enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub(crate) enum IoEngine {
    Sync,
    Async,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkInterface {
    pub(crate) iface_id: String,
    pub(crate) host_dev_name: String,
    pub(crate) guest_mac: Option<String>,
    pub(crate) mtu: Option<u16>,
    pub(crate) rx_rate_limiter: Option<RateLimiter>,
    pub(crate) tx_rate_limiter: Option<RateLimiter>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimiter {
    pub(crate) bandwidth: Option<TokenBucket>,
    pub(crate) ops: Option<TokenBucket>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenBucket {
    pub(crate) size: u64,
    pub(crate) one_time_burst: Option<u64>,
    pub(crate) refill_time: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vsock {
    pub(crate) vsock_id: Option<String>,
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: PathBuf,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entropy {
    pub(crate) rate_limiter: Option<RateLimiter>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serial {
    pub(crate) serial_out_path: Option<PathBuf>,
    pub(crate) rate_limiter: Option<TokenBucket>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Balloon {
    pub(crate) amount_mib: u32,
    pub(crate) deflate_on_oom: bool,
    #[serde(default)]
    pub(crate) stats_polling_interval_s: u16,
    #[serde(default)]
    pub(crate) free_page_hinting: bool,
    #[serde(default)]
    pub(crate) free_page_reporting: bool,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logger {
    pub(crate) level: Option<String>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) show_level: Option<bool>,
    pub(crate) show_log_origin: Option<bool>,
    pub(crate) module: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Action {
    pub(crate) action_type: ActionType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum ActionType {
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmState {
    pub(crate) state: VmStateKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum VmStateKind {
    Paused,
    Resumed,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotCreate {
    #[serde(default)]
    pub(crate) snapshot_type: SnapshotType,
    pub(crate) snapshot_path: PathBuf,
    pub(crate) mem_file_path: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum SnapshotType {
    #[default]
    Full,
    Diff,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotLoad {
    pub(crate) snapshot_path: PathBuf,
    pub(crate) mem_file_path: Option<PathBuf>,
    pub(crate) mem_backend: Option<MemoryBackend>,
    #[serde(default)]
    pub(crate) enable_diff_snapshots: bool,
    #[serde(default)]
    pub(crate) track_dirty_pages: bool,
    #[serde(default)]
    pub(crate) resume_vm: bool,
    #[serde(default)]
    pub(crate) network_overrides: Vec<NetworkOverride>,
    pub(crate) vsock_override: Option<VsockOverride>,
    #[serde(default)]
    pub(crate) clock_realtime: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryBackend {
    pub(crate) backend_type: BackendType,
    pub(crate) backend_path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum BackendType {
    File,
    Uffd,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkOverride {
    pub(crate) iface_id: String,
    pub(crate) host_dev_name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VsockOverride {
    pub(crate) uds_path: PathBuf,
}
