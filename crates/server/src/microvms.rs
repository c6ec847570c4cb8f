//! MicroVM seats on this machine: finds out whether they can be had, and puts their parts together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clarateach_ids::InstallationId;
use clarateach_microvm::net::{HostNetwork, NetConfig};
use clarateach_microvm::vmm::Vmm;
use clarateach_microvm::vmm::firecracker::{FirecrackerConfig, FirecrackerVmm};
use clarateach_microvm::vmm::qemu::{Accel, QemuConfig, QemuVmm};
use clarateach_microvm::{MicroVmConfig, MicroVmRuntime};
use clarateach_runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::config::{MicroVms, QemuAccel, VmmChoice};

/// What the runtime needs besides its settings.
pub(crate) struct Place<'a> {
    pub(crate) installation: &'a InstallationId,
    /// The static `workspace`.
    pub(crate) workspace_bin: PathBuf,
    /// A directory of the runtime's own.
    pub(crate) state_dir: PathBuf,
    /// Ends the nameserver; VMs go on.
    pub(crate) stop: CancellationToken,
}

/// The runtime, or none where nobody asked for one and none can be had; says why in the log.
pub(crate) async fn open(settings: &MicroVms, place: Place<'_>) -> Option<Arc<dyn Runtime>> {
    let asked = matches!(settings.vmm, VmmChoice::Firecracker | VmmChoice::Qemu);
    if settings.vmm == VmmChoice::Off {
        return None;
    }
    if !asked && !may_be_had(&settings.images_dir) {
        tracing::debug!("no microVMs: there is no guest kernel, or this is not root");
        return None;
    }
    match assemble(settings, place).await {
        Ok(runtime) => Some(runtime),
        Err(problem) => {
            tracing::error!("no microVM runtime: {problem}");
            None
        }
    }
}

fn may_be_had(images: &Path) -> bool {
    rustix::process::geteuid().is_root() && images.join("vmlinux").is_file()
}

async fn assemble(settings: &MicroVms, place: Place<'_>) -> Result<Arc<dyn Runtime>, String> {
    let vmm = vmm(settings).await?;
    let (address, prefix) = settings.bridge_ip;
    let owner = place.installation.to_string();
    let network = HostNetwork::new(NetConfig {
        bridge: settings.bridge.clone(),
        address,
        prefix,
        ..NetConfig::new(&*owner)
    })
    .map_err(|error| with_causes(&error))?;
    let network = Arc::new(network);
    let config = MicroVmConfig {
        images_dir: settings.images_dir.clone(),
        socket_dir: settings.socket_dir.clone(),
        state_dir: place.state_dir,
        capacity: settings.capacity,
        snapshots: settings.snapshots,
        ..MicroVmConfig::new(owner, place.workspace_bin)
    };
    let runtime =
        MicroVmRuntime::open(config, vmm, network.clone()).await.map_err(|error| with_causes(&error))?;
    tokio::spawn(async move { network.run(place.stop).await });
    Ok(Arc::new(runtime))
}

/// The VMM that was asked for, else the first that can be used here.
async fn vmm(settings: &MicroVms) -> Result<Arc<dyn Vmm>, String> {
    let firecracker = || -> Arc<dyn Vmm> {
        let program = settings.firecracker_bin.clone();
        Arc::new(FirecrackerVmm::new(FirecrackerConfig { program, ..FirecrackerConfig::default() }))
    };
    let qemu = || -> Arc<dyn Vmm> {
        let accel = match settings.qemu_accel {
            QemuAccel::Auto => Accel::Auto,
            QemuAccel::Kvm => Accel::Kvm,
            QemuAccel::Tcg => Accel::Tcg,
        };
        Arc::new(QemuVmm::new(QemuConfig { program: settings.qemu_bin.clone(), accel }))
    };
    let candidates = match settings.vmm {
        VmmChoice::Firecracker => vec![firecracker()],
        VmmChoice::Qemu => vec![qemu()],
        VmmChoice::Auto | VmmChoice::Off => vec![firecracker(), qemu()],
    };
    let mut problems = Vec::new();
    for vmm in candidates {
        match vmm.version().await {
            Ok(version) => {
                tracing::info!(version, "microVM seats are made by");
                return Ok(vmm);
            }
            Err(error) => problems.push(format!("{}: {}", vmm.kind(), with_causes(&error))),
        }
    }
    Err(problems.join("; "))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}
