//! VMs in Firecracker, controlled over its HTTP API; in a jail if there is a jailer.

mod api;
mod config;
mod host;
mod place;
mod sparse;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_runtime::{BoxedSeatStream, RuntimeKind};
use clarateach_seatproto::guest::CONTROL_VSOCK_PORT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use self::api::{Api, RateLimiter, TokenBucket};
pub use self::config::{FirecrackerConfig, JailerConfig, Rates};
use self::host::{Host, resolve};
use self::place::{
    API_SOCKET, INITRAMFS, KERNEL, Place, SNAPSHOT_MEMORY, SNAPSHOT_STATE, VSOCK_SOCKET, drive_name,
};
use super::cgroup::Limits;
use super::manifest::Manifest;
use super::spawn::{Launch, Spawned};
use super::staging::Staging;
use super::{OnSpawn, Snapshot, VmProcess, VmSpec, Vmm, VmmError, console, ending, preflight, process};

/// The argument on whose right the instance stands.
const NAME_FLAG: &str = "--id";
/// What the machine needs of a Linux guest; the caller's arguments come after it.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 reboot=k panic=1 pci=off i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd quiet";
/// The only interface.
const INTERFACE: &str = "eth0";
/// Each Firecracker has a vsock of its own on a socket of its own, so all guests can have the first address.
const GUEST_CID: u32 = 3;
/// From exec until its API answers; on a machine that starts fifty at once.
const UP_PATIENCE: Duration = Duration::from_secs(20);
/// For everything that is said until the guest runs.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// For the guest to accept a connection on its vsock.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that Firecracker may take beside the guest's memory: itself, and the page cache of its drives.
const OVERHEAD: u64 = 128 << 20;
/// Console output in bytes per second, where Firecracker can limit it.
const CONSOLE_RATE: u64 = 64 << 10;

/// The driver.
#[derive(Debug)]
pub struct FirecrackerVmm {
    config: FirecrackerConfig,
    host: OnceCell<Host>,
}

impl FirecrackerVmm {
    /// A driver; nothing is looked at before the first call.
    #[must_use]
    pub fn new(config: FirecrackerConfig) -> Self {
        Self { config, host: OnceCell::new() }
    }

    async fn host(&self) -> Result<&Host, VmmError> {
        self.host.get_or_try_init(|| Host::examine(&self.config)).await
    }

    fn place(&self, spec: &VmSpec) -> Place {
        // The jailer names jails after the file that it executes, links resolved.
        let program = preflight::program(&self.config.program, "").map(resolve);
        let program = program.unwrap_or_else(|_| self.config.program.clone());
        Place::of(spec, &program, self.config.jailer.as_ref())
    }

    /// Starts a Firecracker that has not been told anything yet. `files` are those it will be told of, by the names it
    /// will be told.
    async fn launch(
        &self,
        spec: &VmSpec,
        files: Vec<(OsString, PathBuf)>,
        spawned: OnSpawn<'_>,
    ) -> Result<Spawned, VmmError> {
        let host = self.host().await?;
        let place = self.place(spec);
        preflight::check(spec, &[place.api_socket(), place.vsock_socket()])?;
        let result = self.launch_in(&place, host, spec, &files, spawned);
        if result.is_err() {
            self.clear_after_failure(spec, None).await;
        }
        result
    }

    fn launch_in(
        &self,
        place: &Place,
        host: &Host,
        spec: &VmSpec,
        files: &[(OsString, PathBuf)],
        spawned: OnSpawn<'_>,
    ) -> Result<Spawned, VmmError> {
        let furnished = place.furnish(files, self.config.jailer.as_ref())?;
        // Warnings and errors only: what it prints goes to the console.
        let own = ["--api-sock", API_SOCKET, "--level", "Warning"].map(OsString::from);
        let (program, arguments) = match self.config.jailer.as_ref().zip(host.jailer.clone()) {
            None => {
                let mut arguments: Vec<OsString> = vec![NAME_FLAG.into(), spec.instance.clone().into()];
                arguments.extend(own);
                (host.program.clone(), arguments)
            }
            Some((config, jailer)) => {
                self.give_devices(spec, furnished.uid, config.gid)?;
                let mut arguments: Vec<OsString> = vec![NAME_FLAG.into(), spec.instance.clone().into()];
                for (flag, value) in [
                    ("--exec-file", host.program.clone().into_os_string()),
                    ("--uid", furnished.uid.to_string().into()),
                    ("--gid", config.gid.to_string().into()),
                    ("--chroot-base-dir", config.chroot_base.clone().into_os_string()),
                ] {
                    arguments.extend([flag.into(), value]);
                }
                arguments.push("--".into());
                arguments.extend(own);
                (jailer, arguments)
            }
        };
        let launch = Launch {
            program,
            arguments,
            directory: place.directory().to_owned(),
            limits: Limits {
                memory: (u64::from(spec.memory_mb) << 20) + OVERHEAD,
                cpu_percent: u64::from(spec.vcpus) * 100 + 20,
                pids: 32 + u64::from(spec.vcpus),
            },
            binds: furnished.binds,
            file_size: console::file_size_limit(spec),
        };
        launch.start(spec, spawned)
    }

    /// Drives that a jailed VM writes to must belong to its user, and its tap opens to nobody else. Drives it only reads are
    /// shared, and stay as they are.
    fn give_devices(&self, spec: &VmSpec, uid: u32, gid: u32) -> Result<(), VmmError> {
        for drive in spec.drives.iter().filter(|drive| !drive.read_only) {
            std::os::unix::fs::chown(&drive.path, Some(uid), Some(gid)).map_err(|source| VmmError::Io {
                operation: "give to the jail",
                path: drive.path.clone(),
                source,
            })?;
        }
        if let Some(nic) = &spec.nic {
            crate::net::give_tap(&nic.tap, uid).map_err(|source| VmmError::Io {
                operation: "give to the jail the tap",
                path: PathBuf::from(&nic.tap),
                source,
            })?;
        }
        Ok(())
    }

    async fn bring_up<W, F>(
        &self,
        spec: &VmSpec,
        mut spawned: Spawned,
        work: W,
    ) -> Result<VmProcess, VmmError>
    where
        W: FnOnce(Api) -> F,
        F: Future<Output = Result<(), VmmError>>,
    {
        let socket = self.place(spec).api_socket();
        let up = Api::connect_when_up(&spec.instance, &socket);
        let result = match spawned.attempt("starting", "its API", UP_PATIENCE, up).await {
            Ok(api) => spawned.attempt("being set up", "its API", START_PATIENCE, work(api)).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(spawned.keep()),
            Err(error) => {
                let process = spawned.process.clone();
                drop(spawned);
                self.clear_after_failure(spec, Some(&process)).await;
                Err(error)
            }
        }
    }

    async fn clear_after_failure(&self, spec: &VmSpec, process: Option<&VmProcess>) {
        if let Err(left) = self.kill(spec, process).await {
            tracing::warn!(instance = %spec.instance, error = %left, "a VM that failed to start left something");
        }
    }

    /// What a VM's Firecracker is told before anything else, restored or not.
    async fn limit_console(&self, api: &mut Api) -> Result<(), VmmError> {
        if self.host().await?.number < (1, 16) {
            return Ok(());
        }
        let one_time_burst = Some(super::CONSOLE_LIMIT);
        let rate_limiter = TokenBucket { size: CONSOLE_RATE, one_time_burst, refill_time: 1000 };
        api.put("/serial", &api::Serial { rate_limiter }).await
    }

    async fn configure(&self, api: &mut Api, spec: &VmSpec) -> Result<(), VmmError> {
        let rates = self.config.rates;
        let machine =
            api::MachineConfiguration { vcpu_count: spec.vcpus, mem_size_mib: spec.memory_mb, smt: false };
        api.put("/machine-config", &machine).await?;
        let boot_args = format!("{KERNEL_ARGUMENTS} {}", spec.kernel_args);
        let source = api::BootSource {
            kernel_image_path: KERNEL.into(),
            initrd_path: spec.initramfs.as_ref().map(|_| INITRAMFS.into()),
            boot_args: boot_args.trim().to_owned(),
        };
        api.put("/boot-source", &source).await?;
        for drive in &spec.drives {
            let body = api::Drive {
                drive_id: drive.id.clone(),
                path_on_host: drive_name(&drive.id).into(),
                // The caller's arguments say what the root is.
                is_root_device: false,
                is_read_only: drive.read_only,
                // A guest's flush reaches the disk, where there is something to flush.
                cache_type: if drive.read_only { "Unsafe" } else { "Writeback" },
                rate_limiter: Some(RateLimiter {
                    bandwidth: Some(per_second(rates.disk_bytes)),
                    ops: Some(per_second(rates.disk_operations)),
                }),
            };
            api.put(&format!("/drives/{}", drive.id), &body).await?;
        }
        if let Some(nic) = &spec.nic {
            let limiter = Some(RateLimiter { bandwidth: Some(per_second(rates.network_bytes)), ops: None });
            let body = api::NetworkInterface {
                iface_id: INTERFACE,
                host_dev_name: nic.tap.clone(),
                guest_mac: nic.mac.to_string(),
                rx_rate_limiter: limiter.clone(),
                tx_rate_limiter: limiter,
            };
            api.put(&format!("/network-interfaces/{INTERFACE}"), &body).await?;
        }
        if spec.control {
            api.put("/vsock", &api::Vsock { guest_cid: GUEST_CID, uds_path: VSOCK_SOCKET }).await?;
        }
        api.put("/entropy", &api::Entropy {}).await?;
        Ok(())
    }
}

fn per_second(size: u64) -> TokenBucket {
    TokenBucket { size, one_time_burst: None, refill_time: 1000 }
}

#[async_trait]
impl Vmm for FirecrackerVmm {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Firecracker
    }

    async fn version(&self) -> Result<String, VmmError> {
        Ok(self.host().await?.version.clone())
    }

    async fn start(&self, spec: &VmSpec, spawned: OnSpawn<'_>) -> Result<VmProcess, VmmError> {
        let mut files = drives(spec);
        files.push((KERNEL.into(), spec.kernel.clone()));
        files.extend(spec.initramfs.iter().map(|initramfs| (INITRAMFS.into(), initramfs.clone())));
        let started = self.launch(spec, files, spawned).await?;
        self.bring_up(spec, started, async |mut api: Api| {
            self.limit_console(&mut api).await?;
            self.configure(&mut api, spec).await?;
            api.put_slow("/actions", &api::Action { action_type: "InstanceStart" }).await
        })
        .await
    }

    async fn restore(
        &self,
        snapshot: &Snapshot,
        spec: &VmSpec,
        spawned: OnSpawn<'_>,
    ) -> Result<VmProcess, VmmError> {
        Manifest::check(snapshot, spec, &self.host().await?.version)?;
        let mut files = drives(spec);
        files.push((SNAPSHOT_STATE.into(), snapshot.dir.join("state")));
        files.push((SNAPSHOT_MEMORY.into(), snapshot.dir.join("memory")));
        let started = self.launch(spec, files, spawned).await?;
        self.bring_up(spec, started, async |mut api: Api| {
            self.limit_console(&mut api).await?;
            let overrides = spec
                .nic
                .iter()
                .map(|nic| api::NetworkOverride { iface_id: INTERFACE, host_dev_name: nic.tap.clone() });
            let load = api::SnapshotLoad {
                snapshot_path: SNAPSHOT_STATE.into(),
                mem_backend: api::MemoryBackend {
                    backend_type: "File",
                    backend_path: SNAPSHOT_MEMORY.into(),
                },
                resume_vm: true,
                network_overrides: overrides.collect(),
            };
            api.put_slow("/snapshot/load", &load).await
        })
        .await
    }

    async fn snapshot(&self, spec: &VmSpec, process: &VmProcess, dir: &Path) -> Result<Snapshot, VmmError> {
        let version = self.version().await?;
        let io_error =
            |source| VmmError::Io { operation: "write the snapshot", path: dir.to_owned(), source };
        if !self.is_alive(spec, process) {
            return Err(io_error(std::io::Error::other("its Firecracker does not run")));
        }
        let staging = Staging::begin(dir).map_err(io_error)?;
        let place = self.place(spec);
        let (inside, outside) = place.snapshot_dir(staging.path());
        let mut api = Api::connect(&spec.instance, &place.api_socket()).await?;
        api.patch("/vm", &api::VmState { state: "Paused" }).await?;
        let create = api::SnapshotCreate {
            snapshot_type: "Full",
            snapshot_path: inside.join("state"),
            mem_file_path: inside.join("memory"),
        };
        api.put_slow("/snapshot/create", &create).await?;
        Manifest::of(spec, &version).write(staging.path())?;
        let written = tokio::task::spawn_blocking(move || {
            for name in ["state", "memory"] {
                sparse::take(&outside.join(name), &staging.path().join(name))?;
            }
            staging.publish()
        });
        written.await.map_err(|error| io_error(std::io::Error::other(error)))?.map_err(io_error)?;
        Ok(Snapshot { dir: dir.to_owned(), spec: spec.clone(), vmm_version: version })
    }

    fn is_alive(&self, spec: &VmSpec, process: &VmProcess) -> bool {
        process.is_instance(NAME_FLAG, &spec.instance)
    }

    fn find(&self, instance: &str) -> Vec<VmProcess> {
        ending::find(NAME_FLAG, instance)
    }

    async fn wait(&self, process: &VmProcess) -> std::io::Result<()> {
        process::wait(process).await
    }

    async fn kill(&self, spec: &VmSpec, process: Option<&VmProcess>) -> Result<(), VmmError> {
        ending::kill(NAME_FLAG, &spec.instance, process).await?;
        self.place(spec).clear(spec)
    }

    async fn control(&self, spec: &VmSpec) -> std::io::Result<BoxedSeatStream> {
        let mut stream = UnixStream::connect(self.place(spec).vsock_socket()).await?;
        let handshake = connect_vsock(&mut stream);
        tokio::time::timeout(CONNECT_PATIENCE, handshake)
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)??;
        Ok(Box::new(stream))
    }
}

/// See docs/vsock.md of Firecracker: `CONNECT port`, answered by `OK host-port`, or closed if nobody listens.
async fn connect_vsock(stream: &mut UnixStream) -> std::io::Result<()> {
    stream.write_all(format!("CONNECT {CONTROL_VSOCK_PORT}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the line is the guest's.
    while answer.last() != Some(&b'\n') && answer.len() < 32 {
        let byte = stream.read_u8().await.map_err(|_| std::io::ErrorKind::ConnectionRefused)?;
        answer.push(byte);
    }
    if answer.starts_with(b"OK ") { Ok(()) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
}

fn drives(spec: &VmSpec) -> Vec<(OsString, PathBuf)> {
    spec.drives.iter().map(|drive| (drive_name(&drive.id), drive.path.clone())).collect()
}
