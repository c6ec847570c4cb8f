//! What goes into VMs: kernel, root file system, workspace binary.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use clarateach_microvm::guest::kernel;

use super::Check;
use crate::config::{Config, Readiness, VmmKind};

/// Where the superblock begins, and within it the magic number and its value: Documentation/filesystems/ext4/super.rst.
const SUPERBLOCK: u64 = 1024;
const MAGIC_AT: usize = 0x38;
const MAGIC: [u8; 2] = [0x53, 0xef];

pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![kernel(config).await, rootfs(config)];
    checks.push(workspace(config));
    checks
}

async fn kernel(config: &Config) -> Check {
    let path = config.places.images.join("vmlinux");
    let fix = match config.vmm.kind {
        VmmKind::Firecracker => "sudo ./scripts/setup-firecracker.sh",
        VmmKind::Qemu => "sudo ./scripts/setup-firecracker.sh --vmm qemu",
    };
    let looked_at = path.clone();
    match tokio::task::spawn_blocking(move || kernel::inspect(&looked_at)).await {
        Ok(Ok(found)) => Check::ok("kernel", format!("{}: Linux {}", path.display(), found.version)),
        Ok(Err(_)) if !path.exists() => {
            Check::broken("kernel", format!("{} is not there", path.display()), fix)
        }
        Ok(Err(error)) => Check::broken("kernel", error.to_string(), fix),
        Err(error) => {
            Check::broken("kernel", format!("{} could not be looked at: {error}", path.display()), fix)
        }
    }
}

fn rootfs(config: &Config) -> Check {
    let path = config.places.images.join("rootfs.ext4");
    let fix = format!(
        "scripts/build-workspace-image.sh\n./rootfs-builder --image clarateach-workspace --output {}",
        path.display()
    );
    match ext4_bytes(&path) {
        Ok(bytes) => Check::ok("rootfs", format!("{}: ext4, {} MiB", path.display(), bytes >> 20)),
        Err(problem) => Check::broken("rootfs", format!("{} {problem}", path.display()), fix),
    }
}

/// The size of an ext4 file system.
fn ext4_bytes(path: &Path) -> Result<u64, String> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => "is not there".to_owned(),
        _ => format!("can't be read: {error}"),
    })?;
    let metadata = file.metadata().map_err(|error| format!("can't be read: {error}"))?;
    let mut superblock = [0; 1024];
    let read = file.seek(SeekFrom::Start(SUPERBLOCK)).and_then(|_| file.read_exact(&mut superblock));
    if !metadata.is_file() || read.is_err() || superblock[MAGIC_AT..MAGIC_AT + 2] != MAGIC {
        return Err("is no ext4 file system".to_owned());
    }
    Ok(metadata.len())
}

fn workspace(config: &Config) -> Check {
    let fix = "scripts/build-workspace.sh, and put the binary beside the agent or set WORKSPACE_BIN";
    match clarateach_runtime::workspace_bin::find(config.places.workspace_bin.as_deref()) {
        Ok(found) if found.is_static => Check::ok("workspace", format!("{}: static", found.path.display())),
        Ok(found) => {
            let message = format!("{} is dynamically linked, so it can't run in a VM", found.path.display());
            Check::broken("workspace", message, fix)
        }
        Err(error) if config.vmm.readiness == Readiness::Health => {
            Check::broken("workspace", format!("no workspace binary: {error}"), fix)
        }
        Err(error) => Check::broken("workspace", format!("no workspace binary: {error}"), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_file_system_is_told_from_anything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rootfs.ext4");
        assert!(ext4_bytes(&path).unwrap_err().contains("not there"));
        std::fs::write(&path, b"short").unwrap();
        assert!(ext4_bytes(&path).unwrap_err().contains("no ext4"));
        let mut image = vec![0; 4096];
        image[1024 + MAGIC_AT..1024 + MAGIC_AT + 2].copy_from_slice(&MAGIC);
        std::fs::write(&path, image).unwrap();
        assert_eq!(ext4_bytes(&path), Ok(4096));
        assert!(ext4_bytes(dir.path()).is_err());
    }
}
