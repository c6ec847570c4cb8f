//! Everything that a snapshot depends on.

use std::fs;

use clarateach_runtime::ImageRef;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::host::Host;
use crate::journal::Record;

/// VMs of one kind can be started from one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kind {
    image: ImageRef,
    vcpus: u32,
    memory_mb: u32,
    disk_mb: u32,
    base: String,
    kernel: String,
    kernel_args: String,
    initramfs: String,
    vmm: String,
    processor: String,
}

impl Kind {
    pub(crate) async fn of(host: &Host, record: &Record) -> Result<Self, Fault> {
        let spec = &record.spec;
        let initramfs = spec.initramfs.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        Ok(Self {
            image: record.image.clone(),
            vcpus: spec.vcpus,
            memory_mb: spec.memory_mb,
            disk_mb: record.disk_mb,
            base: record.base.clone(),
            kernel: host.check_kernel()?,
            kernel_args: spec.kernel_args.clone(),
            initramfs,
            vmm: host.vmm.version().await?,
            processor: processor(),
        })
    }

    /// Names its files.
    pub(crate) fn name(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        blake3::hash(&text).to_hex()[..32].to_owned()
    }

    /// Whether VMs that would have had this kind have the other now.
    pub(super) fn is_replaced_by(&self, other: &Self) -> bool {
        let shape = |kind: &Self| (kind.image.clone(), kind.vcpus, kind.memory_mb, kind.disk_mb);
        self != other && shape(self) == shape(other)
    }

    /// Whether a VM that is made now can have it.
    pub(super) async fn is_current(&self, host: &Host) -> bool {
        let image = host.images.find(&self.image).is_ok_and(|image| image.fingerprint == self.base);
        let kernel = host.check_kernel().is_ok_and(|kernel| kernel == self.kernel);
        let initramfs = std::path::Path::new(&self.initramfs).is_file();
        image
            && kernel
            && initramfs
            && self.processor == processor()
            && host.vmm.version().await.is_ok_and(|version| version == self.vmm)
    }
}

/// What guests see of the host's processor.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let telling = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"];
    let lines = first
        .lines()
        .filter(|line| line.split_once(':').is_some_and(|(key, _)| telling.contains(&key.trim())));
    let lines: Vec<&str> = lines.collect();
    blake3::hash(lines.join("\n").as_bytes()).to_hex()[..16].to_owned()
}
