//! The host whose VMs are real: `clarateach_microvm` with the VMM and the network that the settings ask for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clarateach_api::agent::{BridgeView, ImageView, VmmView};
use clarateach_ids::{Generation, SeatKey};
use clarateach_microvm::guest::kernel;
use clarateach_microvm::net::{HostNetwork, NetConfig, NetError, Network as _};
use clarateach_microvm::vmm::Vmm;
use clarateach_microvm::{CreateError, CreateRequest, MicroVmConfig, MicroVmRuntime, PhaseTimes, Until};
use clarateach_runtime::{DesiredSeat, Environment, ImageRef, SharedRuntime};
use secrecy::SecretString;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, Network, Readiness};
use crate::host::{Details, Facts, Host, MakeError, PhaseTime};
use crate::start::StartError;
use crate::state::State;
use crate::vmms;

/// The image of VMs that name none, as `clarateach_microvm` calls it.
const DEFAULT_IMAGE: &str = "default";
const DEFAULT_FILE: &str = "rootfs.ext4";

/// VMs on this host.
pub struct MicroVms {
    runtime: Arc<MicroVmRuntime>,
    vmm: Arc<dyn Vmm>,
    bridge: BridgeView,
    images: std::path::PathBuf,
    kernel_version: Option<String>,
    _nameserver: DropGuard,
}

impl std::fmt::Debug for MicroVms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MicroVms").field("bridge", &self.bridge).finish_non_exhaustive()
    }
}

/// What the network is told.
pub(crate) fn net_config(network: &Network, owner: &str) -> NetConfig {
    NetConfig {
        bridge: network.bridge.clone(),
        address: network.subnet.address,
        prefix: network.subnet.prefix,
        ..NetConfig::new(owner)
    }
}

/// Opens the state and, with it, the host's VMs: those that an earlier agent has left go on.
///
/// # Errors
/// See [`StartError`].
pub async fn open(config: &Config) -> Result<(State, Arc<dyn Host>), StartError> {
    let state = State::open(&config.places.state)?;
    let owner = state.owner()?;
    let workspace = clarateach_runtime::workspace_bin::find(config.places.workspace_bin.as_deref()).map_err(|error| {
        StartError::Host(format!(
            "WORKSPACE_BIN: no workspace binary ({error}); build it with scripts/build-workspace.sh and put it beside \
             this executable, or set WORKSPACE_BIN"
        ))
    })?;
    if !workspace.is_static {
        return Err(StartError::Host(format!(
            "WORKSPACE_BIN: {} is dynamically linked and can't run in a VM; build the static one with \
             scripts/build-workspace.sh",
            workspace.path.display()
        )));
    }
    tracing::info!(path = %workspace.path.display(), "VMs get this workspace binary");
    let vmm = vmms::vmm(config);
    let network = HostNetwork::new(net_config(&config.network, owner.as_str()))
        .map_err(|error| StartError::Host(with_causes(&error)))?;
    let network = Arc::new(network);
    let microvm = MicroVmConfig {
        images_dir: config.places.images.clone(),
        socket_dir: config.places.sockets.clone(),
        state_dir: config.places.state.clone(),
        capacity: config.vmm.capacity,
        readiness: readiness(config.vmm.readiness),
        snapshots: config.vmm.snapshots,
        ..MicroVmConfig::new(owner.to_string(), workspace.path)
    };
    match vmm.version().await {
        Ok(version) => tracing::info!(version, "VMM"),
        // VMs that run are looked after all the same; new ones are refused with this reason.
        Err(error) => tracing::error!(cause = with_causes(&error), "the VMM can't be used; see agent doctor"),
    }
    let runtime = MicroVmRuntime::open(microvm, Arc::clone(&vmm), network.clone())
        .await
        .map_err(|error| StartError::Host(with_causes(&error)))?;
    runtime.set_draining(state.is_draining());
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move { network.run(stop).await }
    });
    let kernel_path = runtime.kernel();
    let kernel = tokio::task::spawn_blocking(move || kernel::inspect(&kernel_path)).await;
    let host = MicroVms {
        runtime: Arc::new(runtime),
        vmm,
        bridge: BridgeView {
            name: config.network.bridge.clone(),
            address: config.network.subnet.to_string(),
        },
        images: config.places.images.clone(),
        kernel_version: kernel.ok().and_then(Result::ok).map(|kernel| kernel.version),
        _nameserver: stop.drop_guard(),
    };
    Ok((state, Arc::new(host)))
}

/// Removes bridge, taps and firewall rules of an agent with these settings. What it made of VMs stays in its state
/// directory, and it makes its network again when it is started.
///
/// # Errors
/// See [`StartError`]: among others when an agent runs with this state directory, or a VM's tap is in use.
pub async fn remove_network(config: &Config) -> Result<(), StartError> {
    let host = |error: NetError| StartError::Host(with_causes(&error));
    let state = State::open(&config.places.state)?;
    let network = HostNetwork::new(net_config(&config.network, state.owner()?.as_str())).map_err(host)?;
    let in_use = network.taps_in_use().await.map_err(host)?;
    if let Some(tap) = in_use.first() {
        return Err(StartError::Host(format!(
            "{} VMs of this agent are running (one has the tap {tap}): start the agent and delete them first",
            in_use.len()
        )));
    }
    network.remove().await.map_err(host)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}

fn readiness(setting: Readiness) -> clarateach_microvm::Readiness {
    match setting {
        Readiness::Health => clarateach_microvm::Readiness::Health,
        Readiness::Ping => clarateach_microvm::Readiness::Ping,
    }
}

#[async_trait]
impl Host for MicroVms {
    fn runtime(&self) -> Arc<dyn SharedRuntime> {
        self.runtime.clone()
    }

    fn default_image(&self) -> ImageRef {
        ImageRef(DEFAULT_IMAGE.to_owned())
    }

    fn secret(&self, key: &SeatKey) -> Option<(Generation, SecretString)> {
        self.runtime.secret(key)
    }

    async fn make(&self, wish: DesiredSeat, wanted: Option<Readiness>) -> Result<Environment, MakeError> {
        let request = CreateRequest { desired: wish, readiness: wanted.map(readiness) };
        let created = self.runtime.create(request, Until::Started).await;
        let made = created.map_err(|error| match error {
            CreateError::Refused(error) => MakeError::Refused(error),
            CreateError::Unable { reason } => MakeError::Unable(reason),
            CreateError::Draining => MakeError::Draining,
            CreateError::Failed { reason, .. } => MakeError::Failed(reason),
            CreateError::Removed => MakeError::Removed,
        })?;
        if made.fresh { Ok(made.vm.environment()) } else { Err(MakeError::Exists) }
    }

    fn details(&self, key: &SeatKey) -> Option<Details> {
        let vm = self.runtime.vm(key)?;
        Some(Details {
            image: vm.image,
            vcpus: vm.vcpus,
            memory_mb: vm.memory_mb,
            disk_mb: vm.disk_mb,
            created_at: vm.created_at,
            not_after: vm.not_after,
        })
    }

    fn drain(&self, draining: bool) {
        self.runtime.set_draining(draining);
    }

    fn times(&self) -> Vec<PhaseTime> {
        let phase =
            |t: PhaseTimes| PhaseTime { phase: t.phase, count: t.count, sum: t.sum, buckets: t.buckets };
        self.runtime.times().into_iter().map(phase).collect()
    }

    async fn facts(&self) -> Facts {
        let version = self.vmm.version().await;
        let directory = self.images.clone();
        let images = tokio::task::spawn_blocking(move || images(&directory)).await.unwrap_or_default();
        Facts {
            vmm: VmmView {
                kind: self.vmm.kind().as_str().to_owned(),
                version: version.as_ref().ok().cloned(),
                problem: version.err().map(|error| error.to_string()),
            },
            bridge: Some(self.bridge.clone()),
            images,
            kernel_version: self.kernel_version.clone(),
        }
    }

    async fn shut_down(&self, patience: Duration) -> usize {
        self.runtime.shut_down(patience).await
    }

    async fn close(&self) {}
}

/// The images in a directory: `rootfs.ext4` is the default one, others are called as their files without `.ext4`.
fn images(directory: &Path) -> Vec<ImageView> {
    let mut images = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        let Some(image) = name.strip_suffix(".ext4").filter(|_| metadata.is_file() && !name.starts_with('.'))
        else {
            continue;
        };
        let default = name == DEFAULT_FILE;
        let image = if default { DEFAULT_IMAGE } else { image };
        images.push(ImageView { image: image.to_owned(), bytes: metadata.len(), default });
    }
    images.sort_by(|a, b| a.image.cmp(&b.image));
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_listed_as_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["rootfs.ext4", "python.ext4", ".draft.ext4", "vmlinux", "x.ext4.tmp"] {
            std::fs::write(dir.path().join(name), b"1234").unwrap();
        }
        std::fs::create_dir(dir.path().join("folder.ext4")).unwrap();
        let found = images(dir.path());
        let names: Vec<_> = found.iter().map(|image| (image.image.as_str(), image.default)).collect();
        assert_eq!(names, [("default", true), ("python", false)]);
        assert_eq!(found[0].bytes, 4);
        assert!(images(&dir.path().join("none")).is_empty());
    }
}
