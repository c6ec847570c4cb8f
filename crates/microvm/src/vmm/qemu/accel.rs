//! Which accelerator QEMU can use here, found out by running a guest.
//!
//! That `/dev/kvm` opens proves little: where the host is itself a VM, it may be there without being able to run what
//! kernels consist of. So a guest of a few dozen bytes is run in KVM, which does what every kernel does in its first
//! millisecond (floating point, SSE, atomic exchange) and then counts to three million. Hardware does that in a few
//! milliseconds; an emulator behind `/dev/kvm` stops at the first or takes seconds for the second.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Accel;
use crate::vmm::VmmError;

/// Time for the probe, of which QEMU's own start takes the most: 0.1 to 0.5 s on a busy machine.
const PATIENCE: Duration = Duration::from_millis(2500);
/// What the probe's guest says when it is through, and the exit status that QEMU makes of it.
const DONE: u8 = 0x2a;
const EXIT_STATUS: i32 = ((DONE as i32) << 1) | 1;

/// What QEMU is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    Kvm,
    Tcg,
}

impl Chosen {
    /// As `-accel` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Settles a wish.
pub(super) async fn choose(program: &Path, wish: Accel) -> Result<Chosen, VmmError> {
    match wish {
        Accel::Tcg => Ok(Chosen::Tcg),
        Accel::Kvm => {
            kvm_opens().map_err(|error| VmmError::Host { message: kvm_advice(&error) })?;
            Ok(Chosen::Kvm)
        }
        Accel::Auto => match kvm_opens() {
            Ok(()) if probe(program, Chosen::Kvm).await => Ok(Chosen::Kvm),
            Ok(()) => {
                tracing::warn!(
                    "/dev/kvm opens but runs no guest, so QEMU emulates the processor (TCG), which is slow"
                );
                Ok(Chosen::Tcg)
            }
            Err(error) => {
                tracing::warn!(
                    "{}; until then QEMU emulates the processor (TCG), which is slow",
                    kvm_advice(&error)
                );
                Ok(Chosen::Tcg)
            }
        },
    }
}

pub(crate) fn kvm_opens() -> std::io::Result<()> {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map(|_| ())
}

/// What to do about a `/dev/kvm` that does not open.
pub(crate) fn kvm_advice(error: &std::io::Error) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "enable virtualisation in the firmware, or nested virtualisation if this host is itself a VM, and load \
             kvm_intel or kvm_amd"
        }
        std::io::ErrorKind::PermissionDenied => {
            "add this user to the group kvm (usermod -aG kvm USER) and log in again"
        }
        _ => "see dmesg",
    };
    format!("/dev/kvm can't be used ({error}): {advice}")
}

/// Whether the probe's guest comes to its end in time.
async fn probe(program: &Path, accel: Chosen) -> bool {
    let run = async {
        let mut file = tempfile::NamedTempFile::new().ok()?;
        file.write_all(&guest()).ok()?;
        let cpu = if accel == Chosen::Kvm { "host" } else { "max" };
        let mut command = Command::new(program);
        command.env_clear().args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-m", "16M"]);
        command.args(["-M", "microvm,x-option-roms=off", "-accel", accel.name(), "-cpu", cpu]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-kernel"]).arg(file.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().ok()?;
        let Ok(status) = tokio::time::timeout(PATIENCE, child.wait()).await else {
            let _ = child.kill().await;
            return None;
        };
        status.ok()?.code()
    };
    run.await == Some(EXIT_STATUS)
}

/// An ELF executable with a PVH entry point (`XEN_ELFNOTE_PHYS32_ENTRY`): entered in 32-bit protected mode, flat.
fn guest() -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const HEADERS: u32 = 52 + 2 * 32;
    const NOTE: u32 = 20;
    let entry = BASE + HEADERS + NOTE;
    let mut image = Vec::new();
    let mut put = |words: &[u32]| image.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let size = HEADERS + NOTE + u32::try_from(CODE.len()).unwrap_or_default();
    // e_ident: 32 bits, little endian, version 1.
    put(&[0x464c_457f, 0x0001_0101, 0, 0]);
    // Executable for i386; version; entry; program headers at 52, no sections; flags; sizes and counts.
    put(&[0x0003_0002, 1, entry, 52, 0, 0, 0x0020_0034, 0x0000_0002, 0]);
    // PT_LOAD, readable and executable: the whole file.
    put(&[1, 0, BASE, BASE, size, size, 5, 0x1000]);
    // PT_NOTE.
    put(&[4, HEADERS, BASE + HEADERS, BASE + HEADERS, NOTE, NOTE, 4, 4]);
    // The note: lengths of name and value, XEN_ELFNOTE_PHYS32_ENTRY, "Xen\0", the entry point.
    put(&[4, 4, 18, 0x006e_6558, entry]);
    image.extend(CODE);
    image
}

#[rustfmt::skip]
const CODE: &[u8] = &[
    0x0f, 0x20, 0xc0,                         // mov eax, cr0
    0x83, 0xe0, 0xfb,                         // and eax, ~4: no FPU emulation
    0x83, 0xc8, 0x02,                         // or eax, 2: monitor the coprocessor
    0x0f, 0x22, 0xc0,                         // mov cr0, eax
    0x0f, 0x20, 0xe0,                         // mov eax, cr4
    0x0d, 0x00, 0x06, 0x00, 0x00,             // or eax, 0x600: SSE
    0x0f, 0x22, 0xe0,                         // mov cr4, eax
    0x0f, 0x57, 0xc0,                         // xorps xmm0, xmm0
    0x0f, 0x11, 0x05, 0x00, 0x00, 0x20, 0x00, // movups [0x200000], xmm0
    0x9b,                                     // fwait
    0xf3, 0x0f, 0xb8, 0xc3,                   // popcnt eax, ebx
    0x0f, 0xc7, 0x0d, 0x00, 0x00, 0x20, 0x00, // cmpxchg8b [0x200000]
    0xb9, 0xc0, 0xc6, 0x2d, 0x00,             // mov ecx, 3000000
    0x49,                                     // dec ecx
    0x75, 0xfd,                               // jnz to dec
    0x66, 0xba, 0xf4, 0x00,                   // mov dx, 0xf4
    0xb0, DONE,                               // mov al, DONE
    0xee,                                     // out dx, al: QEMU ends
    0xf4,                                     // hlt
    0xeb, 0xfd,                               // jmp to hlt
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::preflight;

    #[tokio::test]
    async fn the_probe_comes_to_its_end_where_guests_run() {
        let Ok(program) = preflight::program(Path::new("qemu-system-x86_64"), "") else {
            return clarateach_testkit::skip(
                "the_probe_comes_to_its_end_where_guests_run",
                "no qemu-system-x86_64",
            );
        };
        assert!(probe(&program, Chosen::Tcg).await);
        assert!(!probe(Path::new("/bin/false"), Chosen::Tcg).await);
        assert!(!probe(Path::new("/nowhere/qemu"), Chosen::Tcg).await);
    }

    #[test]
    fn advice_fits_the_failure() {
        let advice = |kind: std::io::ErrorKind| kvm_advice(&kind.into());
        assert!(advice(std::io::ErrorKind::NotFound).contains("nested virtualisation"));
        assert!(advice(std::io::ErrorKind::PermissionDenied).contains("usermod -aG kvm"));
    }
}
