//! The command line of QEMU for a VM: a `microvm` machine with virtio-mmio devices, and nothing that is not named here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clarateach_seatproto::guest::CONTROL_PORT_NAME;
use serde_json::json;

use super::accel::Chosen;
use crate::vmm::{Drive, VmSpec};

/// What the machine needs of a Linux guest; the caller's arguments come after it.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 reboot=t panic=1 i8042.noaux i8042.nokbd quiet";
/// Under TCG the guest's clock and its processor run at unrelated speeds: calibrating the one by the other, and checking
/// that the timer interrupt works, takes long and sometimes never ends. See [`super::tsc`].
const TCG_KERNEL_ARGUMENTS: &str = "no_timer_check lpj=4000000 tsc=reliable";
/// MiB of translated code that TCG keeps. Left alone it takes up to a gigabyte.
const TCG_CACHE_MB: u32 = 128;

/// Where a machine's memory comes from.
pub(super) enum Memory {
    /// Nowhere: anonymous shared memory, which a snapshot can read out.
    Fresh,
    /// A snapshot's file, mapped privately: what the guest doesn't write stays shared by all VMs of that snapshot.
    Copied(PathBuf),
}

/// How the machine begins.
pub(super) struct Start {
    pub(super) memory: Memory,
    /// Whether it waits for the state of another one.
    pub(super) incoming: bool,
    pub(super) accel: Chosen,
    pub(super) sandbox: bool,
    /// Frequency of the counter that the guest sees, in kilohertz, where it can't find that out.
    pub(super) tsc_khz: Option<u64>,
}

/// The QMP socket of a VM.
pub(super) fn qmp_socket(spec: &VmSpec) -> PathBuf {
    spec.run_dir.join("qmp.sock")
}

/// The control socket of a VM.
pub(super) fn control_socket(spec: &VmSpec) -> PathBuf {
    spec.run_dir.join("control.sock")
}

/// All arguments. The machine is the same for the same spec, whatever its paths, or a snapshot would not fit.
pub(super) fn command_line(spec: &VmSpec, start: &Start) -> Vec<OsString> {
    let mut line = Line::default();
    line.add(["-name", &spec.instance]);
    // Paused, until the caller has written down that it is there.
    line.flags(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-S"]);
    if start.sandbox {
        line.add(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    }
    // PIT and PIC stay: without them, kernels that have no paravirtual clock (under TCG none has) stop at their timer.
    line.add([
        "-M",
        "microvm,x-option-roms=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off,memory-backend=memory",
    ]);
    match start.accel {
        Chosen::Kvm => line.add(["-accel", "kvm"]).add(["-cpu", "host"]),
        Chosen::Tcg => {
            line.add(["-accel", &format!("tcg,thread=single,tb-size={TCG_CACHE_MB}")]).add(["-cpu", "max"])
        }
    };
    line.add(["-smp", &spec.vcpus.to_string()]).add(["-m", &format!("{}M", spec.memory_mb)]);
    line.memory(spec, &start.memory).boot(spec, start);
    // Through the descriptor that QEMU was started with: the console is opened once, for appending, by whoever starts it.
    line.add(["-chardev", "file,id=console,path=/proc/self/fd/1,append=on"]);
    line.add(["-serial", "chardev:console"]);
    for drive in &spec.drives {
        line.drive(drive);
    }
    if let Some(nic) = &spec.nic {
        line.object("-netdev", &json!({
            "type": "tap", "id": "net", "ifname": nic.tap, "script": "no", "downscript": "no", "vhost": false,
        }));
        line.add(["-device", &format!("virtio-net-device,netdev=net,mac={}", nic.mac)]);
    }
    line.add(["-device", "virtio-rng-device"]);
    if spec.control {
        line.socket("control", &control_socket(spec));
        line.add(["-device", "virtio-serial-device,max_ports=2"]);
        line.add(["-device", &format!("virtserialport,chardev=control,name={CONTROL_PORT_NAME}")]);
    }
    line.socket("qmp", &qmp_socket(spec)).add(["-mon", "chardev=qmp,mode=control"]);
    if start.incoming {
        line.add(["-incoming", "defer"]);
    }
    line.0
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, arguments: [&str; 2]) -> &mut Self {
        self.0.extend(arguments.map(OsString::from));
        self
    }

    fn flags<const N: usize>(&mut self, arguments: [&str; N]) -> &mut Self {
        self.0.extend(arguments.map(OsString::from));
        self
    }

    /// An option in its JSON form, in which a path may contain anything.
    fn object(&mut self, option: &str, value: &serde_json::Value) -> &mut Self {
        self.add([option, &value.to_string()])
    }

    /// A listening Unix socket. `-chardev` has no JSON form: commas in a path are doubled.
    fn socket(&mut self, id: &str, path: &Path) -> &mut Self {
        let path = path.display().to_string().replace(',', ",,");
        self.add(["-chardev", &format!("socket,id={id},path={path},server=on,wait=off")])
    }

    fn memory(&mut self, spec: &VmSpec, memory: &Memory) -> &mut Self {
        let size = u64::from(spec.memory_mb) << 20;
        let backend = match memory {
            Memory::Fresh => {
                json!({ "qom-type": "memory-backend-memfd", "id": "memory", "size": size, "share": true })
            }
            Memory::Copied(file) => json!({
                "qom-type": "memory-backend-file", "id": "memory", "size": size, "mem-path": file, "share": false,
            }),
        };
        self.object("-object", &backend)
    }

    fn boot(&mut self, spec: &VmSpec, start: &Start) -> &mut Self {
        self.0.extend(["-kernel".into(), spec.kernel.clone().into()]);
        if let Some(initramfs) = &spec.initramfs {
            self.0.extend(["-initrd".into(), initramfs.clone().into()]);
        }
        let mut arguments = KERNEL_ARGUMENTS.to_owned();
        if start.accel == Chosen::Tcg {
            arguments = format!("{arguments} {TCG_KERNEL_ARGUMENTS}");
        }
        if let Some(khz) = start.tsc_khz {
            arguments = format!("{arguments} tsc_early_khz={khz}");
        }
        self.add(["-append", format!("{arguments} {}", spec.kernel_args).trim()])
    }

    fn drive(&mut self, drive: &Drive) -> &mut Self {
        let node = format!("drive-{}", drive.id);
        self.object("-blockdev", &json!({
            "driver": "raw",
            "node-name": node,
            "read-only": drive.read_only,
            "discard": if drive.read_only { "ignore" } else { "unmap" },
            // Many VMs read one base; nobody else opens an upper drive.
            "file": { "driver": "file", "filename": drive.path, "locking": if drive.read_only { "off" } else { "auto" } },
        }));
        // By itself, QEMU stops a machine when the host's disk is full, and nobody would let it go on.
        let device = format!("virtio-blk-device,drive={node},id=disk-{},werror=report", drive.id);
        self.add(["-device", &device])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stops_no_machine() {
        let mut line = Line::default();
        line.drive(&Drive { id: "upper".to_owned(), path: PathBuf::from("/x"), read_only: false });
        let device = line.0.pop().unwrap().into_string().unwrap();
        assert!(device.split(',').any(|option| option == "werror=report"), "{device}");
    }
}
