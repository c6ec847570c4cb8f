//! What microVMs are made from.

use std::path::Path;
use std::process::{Command, Stdio};

use clarateach_testkit::docker::{TinyImage, available};
use clarateach_testkit::guest_kernel::guest_kernel;
use clarateach_testkit::seat_binary;
use tempfile::TempDir;

use crate::server_binary;

const IMAGE: &str = "clarateach-test-e2e";

/// Kernel, modules and a root filesystem made by rootfs-builder from a Docker image.
///
/// # Errors
/// Why there are none here.
///
/// # Panics
/// When rootfs-builder fails.
pub fn microvm_images() -> Result<TempDir, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    let there = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if let Some(missing) = ["qemu-system-x86_64", "nft"].into_iter().find(|program| !there(program)) {
        return Err(format!("there is no {missing}"));
    }
    let kernel = guest_kernel().ok_or("there is no guest kernel")?;
    let workspace = seat_binary::workspace()?;
    available()?;
    TinyImage::BUSYBOX.import(IMAGE)?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let link = |from: &Path, name: &str| std::os::unix::fs::symlink(from, dir.path().join(name));
    link(&kernel.vmlinux, "vmlinux")
        .and_then(|()| link(&kernel.modules, "modules"))
        .map_err(|e| e.to_string())?;
    let builder = Command::new(server_binary().with_file_name("rootfs-builder"))
        .args(["--image", IMAGE, "--size", "64M", "--output"])
        .arg(dir.path().join("rootfs.ext4"))
        .env("WORKSPACE_BIN", workspace)
        .output()
        .map_err(|error| format!("rootfs-builder: {error}"))?;
    assert!(builder.status.success(), "{}", String::from_utf8_lossy(&builder.stderr));
    Ok(dir)
}
