//! The VMM that the settings ask for.

use std::sync::Arc;

use clarateach_microvm::vmm::Vmm;
use clarateach_microvm::vmm::firecracker::{FirecrackerConfig, FirecrackerVmm, JailerConfig};
use clarateach_microvm::vmm::qemu::{Accel, QemuConfig, QemuVmm};

use crate::config::{Accelerator, Config, VmmKind};

/// Nothing is looked at before its first call.
pub(crate) fn vmm(config: &Config) -> Arc<dyn Vmm> {
    let settings = &config.vmm;
    match settings.kind {
        VmmKind::Firecracker => Arc::new(FirecrackerVmm::new(FirecrackerConfig {
            program: settings.firecracker_bin.clone(),
            jailer: settings.jailer_bin.clone().map(|program| JailerConfig {
                program,
                // Beside the drives, which are linked into the jails.
                chroot_base: config.places.state.join("jails"),
                uid_base: settings.jailer_uid_base,
                gid: settings.jailer_uid_base,
            }),
            ..FirecrackerConfig::default()
        })),
        VmmKind::Qemu => Arc::new(QemuVmm::new(QemuConfig {
            program: settings.qemu_bin.clone(),
            accel: match settings.accelerator {
                Accelerator::Auto => Accel::Auto,
                Accelerator::Kvm => Accel::Kvm,
                Accelerator::Tcg => Accel::Tcg,
            },
        })),
    }
}
