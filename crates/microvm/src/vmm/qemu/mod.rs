//! VMs in QEMU: a `microvm` machine in KVM or, where that can't be used, emulated (TCG). Controlled over QMP.

mod accel;
mod arguments;
mod memory;
mod qmp;
mod tsc;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_runtime::{BoxedSeatStream, RuntimeKind};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use self::accel::Chosen;
pub(crate) use self::accel::kvm_advice;
use self::arguments::{Memory, Start, command_line, control_socket, qmp_socket};
use self::qmp::Qmp;
use super::cgroup::Limits;
use super::manifest::Manifest;
use super::spawn::{Launch, Spawned};
use super::staging::{self, Staging};
use super::{OnSpawn, Snapshot, VmProcess, VmSpec, Vmm, VmmError, console, ending, preflight, process};

/// The first release that this driver has been run with.
const OLDEST: (u32, u32) = (7, 2);
/// The argument on whose right the instance stands.
const NAME_FLAG: &str = "-name";
/// From exec to the first answer on QMP; on a machine that starts fifty at once.
const UP_PATIENCE: Duration = Duration::from_secs(30);
/// For everything that is said until the guest runs.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// For a migration to or from a file.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a migration.
const MIGRATION_PAUSE: Duration = Duration::from_millis(3);

/// How a guest's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// KVM if a guest really runs in it, else TCG: found out once by running one.
    #[default]
    Auto,
    /// Hardware.
    Kvm,
    /// Emulation: works everywhere, at a tenth of the speed or less.
    Tcg,
}

/// Where QEMU is and how it shall run.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// The binary; a bare name is looked for in PATH.
    pub program: PathBuf,
    /// How a guest's processor is made.
    pub accel: Accel,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self { program: "qemu-system-x86_64".into(), accel: Accel::Auto }
    }
}

/// The driver.
#[derive(Debug)]
pub struct QemuVmm {
    config: QemuConfig,
    host: OnceCell<Host>,
}

/// What has been found out about QEMU on this host.
#[derive(Debug, Clone)]
struct Host {
    program: PathBuf,
    version: String,
    accel: Chosen,
    sandbox: bool,
    tsc_khz: Option<u64>,
}

impl QemuVmm {
    /// A driver; nothing is looked at before the first call.
    #[must_use]
    pub fn new(config: QemuConfig) -> Self {
        Self { config, host: OnceCell::new() }
    }

    async fn host(&self) -> Result<&Host, VmmError> {
        self.host.get_or_try_init(|| Host::examine(&self.config)).await
    }

    /// Starts a machine, paused.
    async fn launch(
        &self,
        spec: &VmSpec,
        memory: Memory,
        incoming: bool,
        spawned: OnSpawn<'_>,
    ) -> Result<Spawned, VmmError> {
        let host = self.host().await?;
        preflight::check(spec, &[qmp_socket(spec), control_socket(spec)])?;
        let start =
            Start { memory, incoming, accel: host.accel, sandbox: host.sandbox, tsc_khz: host.tsc_khz };
        let launch = Launch {
            program: host.program.clone(),
            arguments: command_line(spec, &start),
            limits: limits(spec, host.accel),
            directory: PathBuf::from("/"),
            binds: Vec::new(),
            file_size: console::file_size_limit(spec),
        };
        launch.start(spec, spawned)
    }

    /// Runs `work` on a machine that has been started, and removes everything of it when that fails.
    async fn bring_up<W, F>(
        &self,
        spec: &VmSpec,
        mut spawned: Spawned,
        work: W,
    ) -> Result<VmProcess, VmmError>
    where
        W: FnOnce(Qmp) -> F,
        F: Future<Output = Result<(), VmmError>>,
    {
        let socket = qmp_socket(spec);
        let up = Qmp::connect_when_up(&spec.instance, &socket);
        let result = match spawned.attempt("starting", "QMP", UP_PATIENCE, up).await {
            Ok(qmp) => spawned.attempt("being set up", "QMP", START_PATIENCE, work(qmp)).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(spawned.keep()),
            Err(error) => {
                let process = spawned.process.clone();
                drop(spawned);
                if let Err(left) = self.kill(spec, Some(&process)).await {
                    tracing::warn!(instance = %spec.instance, error = %left, "a VM that failed to start left something");
                }
                Err(error)
            }
        }
    }
}

impl Host {
    async fn examine(config: &QemuConfig) -> Result<Self, VmmError> {
        let program = preflight::program(&config.program, "install qemu-system-x86 or set its path")?;
        let unusable =
            |message: String| VmmError::Program { program: program.display().to_string(), message };
        let words = preflight::ask(&program, &["--version"]).await.map_err(&unusable)?;
        let version = parse_version(&words)
            .ok_or_else(|| unusable(format!("it does not say which version of QEMU it is, but: {words}")))?;
        let (major, minor) = OLDEST;
        if version.0 < OLDEST {
            return Err(unusable(format!("it is QEMU {}; {major}.{minor} or newer is needed", version.1)));
        }
        let sandbox = preflight::ask(&program, &["-sandbox", "on", "--version"]).await.is_ok();
        let accel = accel::choose(&program, config.accel).await?;
        let version = format!("QEMU {} ({})", version.1, accel.name());
        let tsc_khz = match accel {
            Chosen::Tcg => tokio::task::spawn_blocking(tsc::measure_khz).await.unwrap_or_default(),
            Chosen::Kvm => None,
        };
        Ok(Self { program, version, accel, sandbox, tsc_khz })
    }
}

/// `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
fn parse_version(words: &str) -> Option<((u32, u32), String)> {
    let text = words.trim().strip_prefix("QEMU emulator version ")?;
    let text = text.split([' ', '\n']).next()?;
    let mut numbers = text.split('.').map(str::parse::<u32>);
    Some(((numbers.next()?.ok()?, numbers.next()?.ok()?), text.to_owned()))
}

/// What QEMU needs beside the guest's memory: its code cache under TCG, device state, buffers, the page cache of its
/// drives; half a processor for its own threads; up to 64 threads of its I/O pool.
fn limits(spec: &VmSpec, accel: Chosen) -> Limits {
    let overhead = match accel {
        Chosen::Kvm => 256,
        Chosen::Tcg => 512,
    };
    Limits {
        memory: (u64::from(spec.memory_mb) + overhead) << 20,
        cpu_percent: u64::from(spec.vcpus) * 100 + 50,
        pids: 96 + u64::from(spec.vcpus),
    }
}

#[async_trait]
impl Vmm for QemuVmm {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Qemu
    }

    async fn version(&self) -> Result<String, VmmError> {
        Ok(self.host().await?.version.clone())
    }

    async fn start(&self, spec: &VmSpec, spawned: OnSpawn<'_>) -> Result<VmProcess, VmmError> {
        let started = self.launch(spec, Memory::Fresh, false, spawned).await?;
        self.bring_up(spec, started, async |mut qmp: Qmp| qmp.call("cont", json!({})).await.map(|_| ())).await
    }

    async fn restore(
        &self,
        snapshot: &Snapshot,
        spec: &VmSpec,
        spawned: OnSpawn<'_>,
    ) -> Result<VmProcess, VmmError> {
        Manifest::check(snapshot, spec, &self.host().await?.version)?;
        let state = state(&snapshot.dir, false)?;
        let memory = memory::memory_file(&snapshot.dir).map_or(Memory::Fresh, Memory::Copied);
        let started = self.launch(spec, memory, true, spawned).await?;
        self.bring_up(spec, started, async |mut qmp: Qmp| {
            prepare_migration(&mut qmp).await?;
            qmp.send_fd("state", state.as_fd()).await?;
            qmp.call("migrate-incoming", json!({ "uri": "fd:state" })).await?;
            migrated(&mut qmp, spec, "migrate-incoming").await?;
            qmp.call("cont", json!({})).await.map(|_| ())
        })
        .await
    }

    async fn snapshot(&self, spec: &VmSpec, process: &VmProcess, dir: &Path) -> Result<Snapshot, VmmError> {
        let version = self.version().await?;
        let io_error =
            |source| VmmError::Io { operation: "write the snapshot", path: dir.to_owned(), source };
        let staging = Staging::begin(dir).map_err(io_error)?;
        let mut qmp = Qmp::connect(&spec.instance, &qmp_socket(spec)).await?;
        qmp.call("stop", json!({})).await?;
        prepare_migration(&mut qmp).await?;
        let state = state(staging.path(), true)?;
        qmp.send_fd("state", state.as_fd()).await?;
        qmp.call("migrate", json!({ "uri": "fd:state" })).await?;
        migrated(&mut qmp, spec, "migrate").await?;
        // Where a migration has ended, QEMU says "postmigrate" and stays paused.
        Manifest::of(spec, &version).write(staging.path())?;
        let pid = process.pid;
        let written = tokio::task::spawn_blocking(move || {
            memory::copy_memory(pid, staging.path())?;
            staging.publish().map_err(|source| VmmError::Io {
                operation: "publish",
                path: PathBuf::from("snapshot"),
                source,
            })
        });
        written.await.map_err(|error| io_error(std::io::Error::other(error)))??;
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
        preflight::remove_file(&qmp_socket(spec))?;
        preflight::remove_file(&control_socket(spec))
    }

    async fn control(&self, spec: &VmSpec) -> std::io::Result<BoxedSeatStream> {
        Ok(Box::new(UnixStream::connect(control_socket(spec)).await?))
    }
}

/// Opens the file that a machine's state goes to or comes from.
fn state(dir: &Path, create: bool) -> Result<std::fs::File, VmmError> {
    let path = memory::state_file(dir);
    let file = if create { staging::create(&path) } else { std::fs::File::open(&path) };
    file.map_err(|source| VmmError::Io { operation: "open", path, source })
}

/// Leaves memory out that is in a file of its own, and doesn't throttle what goes to a file.
async fn prepare_migration(qmp: &mut Qmp) -> Result<(), VmmError> {
    let capabilities = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
    qmp.call("migrate-set-capabilities", capabilities).await?;
    qmp.call("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 })).await?;
    Ok(())
}

/// Waits for the end of a migration.
async fn migrated(qmp: &mut Qmp, spec: &VmSpec, call: &str) -> Result<(), VmmError> {
    let look = async {
        loop {
            let info = qmp.call("query-migrate", json!({})).await?;
            match info["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let message = info["error-desc"].as_str().unwrap_or("the state does not fit").to_owned();
                    return Err(VmmError::Refused {
                        instance: spec.instance.clone(),
                        call: call.to_owned(),
                        message,
                    });
                }
                _ => tokio::time::sleep(MIGRATION_PAUSE).await,
            }
        }
    };
    tokio::time::timeout(MIGRATION_PATIENCE, look).await.unwrap_or_else(|_| {
        Err(VmmError::Silent {
            instance: spec.instance.clone(),
            call: call.to_owned(),
            seconds: MIGRATION_PATIENCE.as_secs(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_qemu_prints_them() {
        let debian =
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022";
        assert_eq!(parse_version(debian), Some(((7, 2), "7.2.22".into())));
        assert_eq!(parse_version("QEMU emulator version 10.0.0\n"), Some(((10, 0), "10.0.0".into())));
        assert_eq!(parse_version("BusyBox v1.35.0"), None);
        assert!((10, 0) > OLDEST && (6, 2) < OLDEST);
    }
}
