//! The double of Firecracker as the VMM of [`Machines`].

#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clarateach_microvm::Readiness;
use clarateach_microvm::vmm::Vmm;
use clarateach_microvm::vmm::firecracker::{FirecrackerConfig, FirecrackerVmm};
use clarateach_testkit::{seat_binary, skip};

use crate::machines::{Machines, directory, possible};

/// The double of Firecracker, whose guests answer ARP, ping and the control channel. Must be called in [`in_own_network`].
pub async fn doubles(test: &str) -> Option<Machines> {
    if let Err(why) = possible() {
        skip(test, why);
        return None;
    }
    let root = directory();
    crate::support::images(&root.path().join("images"));
    // Only looked at: the double runs nothing.
    let workspace = seat_binary::workspace().expect("a workspace binary");
    let vmm = double(root.path());
    let mut machines = Machines::new(root, workspace, vmm);
    machines.config.readiness = Readiness::Ping;
    Some(machines)
}

/// The driver, told to use the double.
pub fn double(root: &Path) -> Arc<dyn Vmm> {
    let config = FirecrackerConfig {
        program: double_program(),
        kvm: root.join("images/rootfs.ext4"),
        ..FirecrackerConfig::default()
    };
    Arc::new(FirecrackerVmm::new(config))
}

/// The example that cargo has built beside this test.
fn double_program() -> PathBuf {
    let own = std::env::current_exe().expect("this test");
    let profile = own.ancestors().nth(2).expect("target/debug");
    let program = profile.join("examples/firecracker_double");
    assert!(program.is_file(), "cargo build --example firecracker_double has not made {}", program.display());
    program
}
