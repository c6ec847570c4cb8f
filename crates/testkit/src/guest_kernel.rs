//! A kernel that microVMs of tests boot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::seat_binary::repository;

/// A distribution's kernel, as `scripts/setup-qemu-kernel.sh` puts it into a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// The uncompressed kernel.
    pub vmlinux: PathBuf,
    /// The modules that go into the initramfs.
    pub modules: PathBuf,
}

/// The kernel in `CLARATEACH_TEST_KERNEL_DIR`, else the one in `target/guest-kernel`, which is fetched if it is not there.
/// None when it can't be had: tests that need it are skipped by name.
#[must_use]
pub fn guest_kernel() -> Option<GuestKernel> {
    static FOUND: OnceLock<Option<GuestKernel>> = OnceLock::new();
    FOUND.get_or_init(find_or_fetch).clone()
}

fn find_or_fetch() -> Option<GuestKernel> {
    if let Some(directory) = std::env::var_os("CLARATEACH_TEST_KERNEL_DIR").filter(|value| !value.is_empty())
    {
        return complete(Path::new(&directory));
    }
    let root = repository();
    let directory = root.join("target/guest-kernel");
    complete(&directory).or_else(|| fetch(&root, &directory))
}

fn complete(directory: &Path) -> Option<GuestKernel> {
    // The script's last act.
    let done = directory.join(".kernel.stamp").is_file();
    let kernel = GuestKernel { vmlinux: directory.join("vmlinux"), modules: directory.join("modules") };
    (done && kernel.vmlinux.is_file() && kernel.modules.is_dir()).then_some(kernel)
}

/// Every test is a process of its own, and several may come here at once: the lock lets one of them do it.
#[allow(clippy::print_stderr)]
fn fetch(root: &Path, directory: &Path) -> Option<GuestKernel> {
    std::fs::create_dir_all(directory).ok()?;
    let output = Command::new("flock")
        .arg(directory.join(".lock"))
        .arg(root.join("scripts/setup-qemu-kernel.sh"))
        .arg(directory)
        .output()
        .ok()?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    complete(directory)
}
