//! KVM and the VMM.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use super::Check;
use crate::config::{Accelerator, Config, VmmKind};
use crate::vmms;

const KVM: &str = "/dev/kvm";

pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let name = match config.vmm.kind {
        VmmKind::Firecracker => "firecracker",
        VmmKind::Qemu => "qemu",
    };
    // Runs the binary, and for KVM a guest: whether it really works is not to be seen from a file.
    let vmm = match vmms::vmm(config).version().await {
        Ok(version) => Check::ok(name, version),
        Err(error) => Check::broken(name, error.to_string(), fix(config.vmm.kind)),
    };
    vec![kvm(config), vmm]
}

fn fix(kind: VmmKind) -> &'static str {
    match kind {
        VmmKind::Firecracker => "sudo ./scripts/setup-firecracker.sh",
        VmmKind::Qemu => "sudo ./scripts/setup-firecracker.sh --vmm qemu",
    }
}

fn kvm(config: &Config) -> Check {
    const INSTALL: &str = "ls -la /dev/kvm\nmissing on GCP: the instance needs --enable-nested-virtualization (N1, N2 or C2)\n\
                           missing elsewhere: sudo apt install qemu-kvm, and virtualization switched on in the firmware\n\
                           without KVM: VMM=qemu QEMU_ACCEL=tcg";
    let emulated = config.vmm.kind == VmmKind::Qemu && config.vmm.accelerator != Accelerator::Kvm;
    let problem = match OpenOptions::new().read(true).write(true).open(KVM) {
        Ok(_) => return Check::ok("kvm", format!("{KVM} can be opened")),
        Err(error) if error.kind() == ErrorKind::NotFound => format!("KVM not available: there is no {KVM}"),
        Err(error) => format!("KVM not available: {KVM} can't be opened: {error}"),
    };
    match emulated {
        true if config.vmm.accelerator == Accelerator::Tcg => {
            Check::ok("kvm", format!("{problem}; not needed with QEMU_ACCEL=tcg"))
        }
        true => Check::warning("kvm", format!("{problem}; guests are emulated, which is slow"), INSTALL),
        false => Check::broken("kvm", problem, INSTALL),
    }
}
