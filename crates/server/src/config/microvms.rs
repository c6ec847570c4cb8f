//! The settings of microVM seats on this machine.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::{ConfigError, on_or_off, parsed, wrong};

/// Which VMM makes microVM seats here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmChoice {
    /// Firecracker if it can be used here, else QEMU if that can; none where there is no guest kernel or no root.
    Auto,
    /// None.
    Off,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// How QEMU makes a guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QemuAccel {
    /// KVM where it really works.
    Auto,
    /// KVM.
    Kvm,
    /// Emulation.
    Tcg,
}

/// MicroVM seats on this machine.
#[derive(Debug, Clone)]
pub struct MicroVms {
    /// `VMM`.
    pub vmm: VmmChoice,
    /// `IMAGES_DIR`: `vmlinux`, `rootfs.ext4`, other images as `NAME.ext4`.
    pub images_dir: PathBuf,
    /// `SOCKET_DIR`.
    pub socket_dir: PathBuf,
    /// `BRIDGE_NAME`.
    pub bridge: String,
    /// `BRIDGE_IP`: the bridge's own address, and the bits of its network's prefix.
    pub bridge_ip: (Ipv4Addr, u8),
    /// `CAPACITY`.
    pub capacity: u32,
    /// `FIRECRACKER_BIN`.
    pub firecracker_bin: PathBuf,
    /// `QEMU_BIN`.
    pub qemu_bin: PathBuf,
    /// `QEMU_ACCEL`.
    pub qemu_accel: QemuAccel,
    /// `SNAPSHOTS`.
    pub snapshots: bool,
}

impl MicroVms {
    pub(super) fn read(get: &impl Fn(&'static str) -> Option<String>) -> Result<Self, ConfigError> {
        let path = |name, default: &str| PathBuf::from(get(name).unwrap_or_else(|| default.to_owned()));
        Ok(Self {
            vmm: match get("VMM").as_deref() {
                None | Some("auto") => VmmChoice::Auto,
                Some("off") => VmmChoice::Off,
                Some("firecracker") => VmmChoice::Firecracker,
                Some("qemu") => VmmChoice::Qemu,
                Some(other) => return Err(wrong("VMM", other, "auto, off, firecracker or qemu")),
            },
            images_dir: path("IMAGES_DIR", "/var/lib/clarateach/images"),
            socket_dir: path("SOCKET_DIR", "/tmp/clarateach"),
            bridge: get("BRIDGE_NAME").unwrap_or_else(|| "clarateach0".to_owned()),
            bridge_ip: bridge_ip(&get("BRIDGE_IP").unwrap_or_else(|| "192.168.100.1/24".to_owned()))?,
            capacity: match parsed(get, "CAPACITY", "a whole number from 1 to 1023")?.unwrap_or(50) {
                capacity @ 1..=1023 => capacity,
                other => return Err(wrong("CAPACITY", &other.to_string(), "a whole number from 1 to 1023")),
            },
            firecracker_bin: path("FIRECRACKER_BIN", "firecracker"),
            qemu_bin: path("QEMU_BIN", "qemu-system-x86_64"),
            qemu_accel: match get("QEMU_ACCEL").as_deref() {
                None | Some("auto") => QemuAccel::Auto,
                Some("kvm") => QemuAccel::Kvm,
                Some("tcg") => QemuAccel::Tcg,
                Some(other) => return Err(wrong("QEMU_ACCEL", other, "auto, kvm or tcg")),
            },
            snapshots: get("SNAPSHOTS").is_none() || on_or_off(get, "SNAPSHOTS")?,
        })
    }
}

fn bridge_ip(text: &str) -> Result<(Ipv4Addr, u8), ConfigError> {
    let takes = "the bridge's own private address with its network's prefix length, such as 192.168.100.1/24";
    let split = text
        .split_once('/')
        .and_then(|(address, prefix)| Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?)));
    split
        .filter(|(address, prefix)| address.is_private() && (8..=30).contains(prefix))
        .ok_or_else(|| wrong("BRIDGE_IP", text, takes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<MicroVms, ConfigError> {
        MicroVms::read(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_documented_defaults() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.vmm, VmmChoice::Auto);
        assert_eq!(settings.bridge, "clarateach0");
        assert_eq!(settings.bridge_ip, (Ipv4Addr::new(192, 168, 100, 1), 24));
        assert_eq!((settings.capacity, settings.snapshots), (50, true));
        assert_eq!(settings.images_dir, PathBuf::from("/var/lib/clarateach/images"));
    }

    #[test]
    fn wrong_values_are_refused_with_the_variables_name() {
        for (name, value) in [
            ("VMM", "xen"),
            ("BRIDGE_IP", "192.168.100.1"),
            ("BRIDGE_IP", "8.8.8.8/24"),
            ("BRIDGE_IP", "192.168.100.1/31"),
            ("CAPACITY", "0"),
            ("CAPACITY", "1024"),
            ("QEMU_ACCEL", "yes"),
            ("SNAPSHOTS", "1"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().variable, name, "{name}={value}");
        }
    }
}
