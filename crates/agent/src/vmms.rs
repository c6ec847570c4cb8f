//! The VMM that the settings ask for.

use std::sync::Arc;

use clarateach_microvm::vmm::firecracker::{FirecrackerConfig, FirecrackerVmm};
use clarateach_microvm::vmm::qemu::{Accel, QemuConfig, QemuVmm};
use clarateach_microvm::vmm::Vmm;

use crate::config::{Accelerator, VmmKind, VmmSettings};

/// Nothing is looked at before its first call.
pub(crate) fn vmm(settings: &VmmSettings) -> Arc<dyn Vmm> {
    match settings.kind {
        VmmKind::Firecracker => Arc::new(FirecrackerVmm::new(FirecrackerConfig {
            program: settings.firecracker_bin.clone(),
            jailer: settings.jailer_bin.clone(),
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
