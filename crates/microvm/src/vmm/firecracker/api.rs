//! Firecracker's HTTP API over its Unix socket, as far as it is needed: see `src/firecracker/swagger/firecracker.yaml` of
//! its source, version 1.16, for paths and fields.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::vmm::VmmError;

/// For calls that only change a setting.
const PATIENCE: Duration = Duration::from_secs(15);
/// For InstanceStart, which reads kernel and initramfs, and snapshots, which write or map the memory.
const SLOW_PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts to connect to a Firecracker that has just been started.
const PAUSE: Duration = Duration::from_millis(2);

/// A connection, on which one call follows the other.
pub(super) struct Api {
    instance: String,
    sender: SendRequest<Full<Bytes>>,
}

#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Api {
    /// Connects to a Firecracker that runs.
    pub(super) async fn connect(instance: &str, socket: &Path) -> Result<Self, VmmError> {
        let failed = |source| VmmError::Io { operation: "connect to", path: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).await.map_err(failed)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| failed(io::Error::other(error)))?;
        // Ends with the connection, which ends with the sender.
        tokio::spawn(connection);
        Ok(Self { instance: instance.to_owned(), sender })
    }

    /// Connects to a Firecracker that has just been started, as soon as it listens. The caller bounds the time.
    pub(super) async fn connect_when_up(instance: &str, socket: &Path) -> Result<Self, VmmError> {
        loop {
            match Self::connect(instance, socket).await {
                Err(VmmError::Io { source, .. })
                    if matches!(
                        source.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Sets something.
    pub(super) async fn put(&mut self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.call(Method::PUT, path, body, PATIENCE).await
    }

    /// Does something that may take long.
    pub(super) async fn put_slow(&mut self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.call(Method::PUT, path, body, SLOW_PATIENCE).await
    }

    /// Changes something.
    pub(super) async fn patch(&mut self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.call(Method::PATCH, path, body, PATIENCE).await
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<(), VmmError> {
        let call = format!("{method} {path}");
        let refused = |message: String| VmmError::Refused {
            instance: self.instance.clone(),
            call: call.clone(),
            message,
        };
        let body = serde_json::to_vec(body).map_err(|error| refused(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| refused(error.to_string()))?;
        let answer = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok((status, _))) if status.is_success() => Ok(()),
            Ok(Ok((status, body))) => {
                let words = serde_json::from_slice(&body).map(|fault: Fault| fault.fault_message);
                Err(refused(words.unwrap_or_else(|_| format!("{status} {}", String::from_utf8_lossy(&body)))))
            }
            Ok(Err(error)) => Err(refused(format!("the connection broke: {error}"))),
            Err(_) => {
                Err(VmmError::Silent { instance: self.instance.clone(), call, seconds: patience.as_secs() })
            }
        }
    }
}

/// PUT /machine-config.
#[derive(Serialize)]
pub(super) struct MachineConfiguration {
    pub(super) vcpu_count: u32,
    pub(super) mem_size_mib: u32,
    pub(super) smt: bool,
}

/// PUT /boot-source.
#[derive(Serialize)]
pub(super) struct BootSource {
    pub(super) kernel_image_path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) initrd_path: Option<PathBuf>,
    pub(super) boot_args: String,
}

/// PUT /drives/{drive_id}.
#[derive(Serialize)]
pub(super) struct Drive {
    pub(super) drive_id: String,
    pub(super) path_on_host: PathBuf,
    pub(super) is_root_device: bool,
    pub(super) is_read_only: bool,
    pub(super) cache_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_limiter: Option<RateLimiter>,
}

/// PUT /network-interfaces/{iface_id}.
#[derive(Serialize)]
pub(super) struct NetworkInterface {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: String,
    pub(super) guest_mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rx_rate_limiter: Option<RateLimiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tx_rate_limiter: Option<RateLimiter>,
}

/// How much may pass.
#[derive(Clone, Serialize)]
pub(super) struct RateLimiter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bandwidth: Option<TokenBucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ops: Option<TokenBucket>,
}

/// A bucket that holds `size` and is full again after `refill_time` milliseconds.
#[derive(Clone, Serialize)]
pub(super) struct TokenBucket {
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) one_time_burst: Option<u64>,
    pub(super) refill_time: u64,
}

/// PUT /vsock.
#[derive(Serialize)]
pub(super) struct Vsock {
    pub(super) guest_cid: u32,
    pub(super) uds_path: &'static str,
}

/// PUT /entropy.
#[derive(Serialize)]
pub(super) struct Entropy {}

/// PUT /serial, from 1.14 on; its rate limiter from 1.16 on.
#[derive(Serialize)]
pub(super) struct Serial {
    pub(super) rate_limiter: TokenBucket,
}

/// PUT /actions.
#[derive(Serialize)]
pub(super) struct Action {
    pub(super) action_type: &'static str,
}

/// PATCH /vm.
#[derive(Serialize)]
pub(super) struct VmState {
    pub(super) state: &'static str,
}

/// PUT /snapshot/create.
#[derive(Serialize)]
pub(super) struct SnapshotCreate {
    pub(super) snapshot_type: &'static str,
    pub(super) snapshot_path: PathBuf,
    pub(super) mem_file_path: PathBuf,
}

/// PUT /snapshot/load; network overrides from 1.12 on.
#[derive(Serialize)]
pub(super) struct SnapshotLoad {
    pub(super) snapshot_path: PathBuf,
    pub(super) mem_backend: MemoryBackend,
    pub(super) resume_vm: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) network_overrides: Vec<NetworkOverride>,
}

/// Where a snapshot's memory is.
#[derive(Serialize)]
pub(super) struct MemoryBackend {
    pub(super) backend_type: &'static str,
    pub(super) backend_path: PathBuf,
}

/// Another tap than the one that the snapshot has.
#[derive(Serialize)]
pub(super) struct NetworkOverride {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: String,
}
