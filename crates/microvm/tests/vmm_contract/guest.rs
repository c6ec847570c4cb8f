//! A guest for QEMU: a distribution kernel, and an initramfs whose first process is `guest_init.rs`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules in the order in which they can be loaded; those that a kernel doesn't have are built in.
const MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
];

pub(crate) struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Guest {
    /// Builds the initramfs into `dir`; or says what is missing.
    pub(crate) fn build(dir: &Path) -> Result<Self, String> {
        let found = clarateach_testkit::guest_kernel();
        let found = found.ok_or("no kernel for QEMU guests, see CLARATEACH_TEST_KERNEL_DIR")?;
        let init = dir.join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vmm_contract/guest_init.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc)
            .args([
                "--edition=2024",
                "-O",
                "-Ctarget-feature=+crt-static",
                "-Cpanic=abort",
                "-Cstrip=symbols",
                "-o",
            ])
            .arg(&init)
            .arg(source)
            .output();
        match built {
            Ok(output) if output.status.success() => {}
            Ok(output) => panic!("guest_init.rs: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => return Err(format!("no rustc to build a guest with: {error}")),
        }
        let initramfs = dir.join("initramfs");
        fs::write(&initramfs, archive(&init, &found.modules)).unwrap();
        Ok(Self { kernel: found.vmlinux, initramfs })
    }
}

/// A newc archive, see the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
fn archive(init: &Path, modules: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let mut order = String::new();
    for dir in ["dev", "proc", "sys", "modules"] {
        entry(&mut out, dir, 0o40755, &[], (0, 0));
    }
    entry(&mut out, "dev/console", 0o20600, &[], (5, 1));
    for name in MODULES {
        let Ok(content) = fs::read(modules.join(format!("{name}.ko"))) else { continue };
        entry(&mut out, &format!("modules/{name}.ko"), 0o100_644, &content, (0, 0));
        writeln!(order, "{name}.ko").unwrap();
    }
    entry(&mut out, "modules/order", 0o100_644, order.as_bytes(), (0, 0));
    entry(&mut out, "init", 0o100_755, &fs::read(init).unwrap(), (0, 0));
    entry(&mut out, "TRAILER!!!", 0, &[], (0, 0));
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
    let inode = u32::try_from(out.len()).unwrap();
    let size = u32::try_from(content.len()).unwrap();
    let length = u32::try_from(name.len() + 1).unwrap();
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, length, 0];
    out.extend(b"070701");
    for field in fields {
        out.extend(format!("{field:08X}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    pad(out);
    out.extend(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
