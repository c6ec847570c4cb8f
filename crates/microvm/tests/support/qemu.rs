//! A microVM runtime over real virtual machines: QEMU with an emulated processor, in a network namespace of its own.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::SeatKey;
use clarateach_microvm::net::{HostNetwork, NetConfig, Network};
use clarateach_microvm::vmm::qemu::{Accel, QemuConfig, QemuVmm};
use clarateach_microvm::{MicroVmConfig, MicroVmRuntime};
use clarateach_runtime::conformance::Harness;
use clarateach_runtime::{ImageRef, Runtime};
use clarateach_testkit::{guest_kernel, leaks, seat_binary, skip};
use tempfile::TempDir;

use crate::support::instance_of;

const OWNER: &str = "conformance";

/// Runs a test in a network namespace of its own; all that it starts is in it too.
pub fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        leaks_run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(test());
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn leaks_run(program: &str, arguments: &[&str]) -> String {
    leaks::run(program, arguments)
}

/// One installation on a host of its own.
pub struct Machines {
    pub root: TempDir,
    pub config: MicroVmConfig,
    pub network: Arc<HostNetwork>,
    pub vmm: Arc<QemuVmm>,
}

/// Everything that is needed, or nothing and a word why. Must be called in [`in_own_network`].
pub async fn machines(test: &str) -> Option<Machines> {
    let why = if !rustix::process::geteuid().is_root() {
        Some("it takes root for taps")
    } else if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        Some("qemu-system-x86_64 is not installed")
    } else if Command::new("nft").arg("--version").output().is_err() {
        Some("nft is not installed")
    } else if !crate::image::possible() {
        Some("there is no static /bin/busybox")
    } else {
        None
    };
    if let Some(why) = why {
        skip(test, why);
        return None;
    }
    let Some(kernel) = guest_kernel() else {
        skip(test, "no guest kernel could be fetched by scripts/setup-qemu-kernel.sh");
        return None;
    };
    let workspace = match seat_binary::workspace() {
        Ok(workspace) => workspace,
        Err(why) => {
            skip(test, &why);
            return None;
        }
    };
    let root = tempfile::Builder::new().prefix("ct").tempdir().expect("a directory");
    let images_dir = root.path().join("images");
    fs::create_dir(&images_dir).expect("a directory");
    fs::copy(&kernel.vmlinux, images_dir.join("vmlinux")).expect("a kernel");
    symlink(&kernel.modules, images_dir.join("modules")).expect("modules");
    let init = fs::read(&workspace).expect("the workspace");
    crate::image::write(&images_dir.join("rootfs.ext4"), &crate::image::Init::Ours(&init));
    let config = MicroVmConfig {
        images_dir,
        socket_dir: root.path().join("run"),
        state_dir: root.path().join("state"),
        capacity: 2,
        snapshots: false,
        default_memory_mb: 256,
        default_vcpus: 1,
        ..MicroVmConfig::new(OWNER.to_owned(), workspace)
    };
    let network = HostNetwork::new(NetConfig::new(OWNER)).expect("a network");
    let vmm = QemuVmm::new(QemuConfig { accel: Accel::Tcg, ..QemuConfig::default() });
    Some(Machines { root, config, network: Arc::new(network), vmm: Arc::new(vmm) })
}

impl Machines {
    pub async fn open(&self) -> MicroVmRuntime {
        MicroVmRuntime::open(self.config.clone(), self.vmm.clone(), self.network.clone()).await.expect("open")
    }

    fn state(&self) -> &Path {
        &self.config.state_dir
    }

    /// Everything of this installation that is there, but for the files that always are.
    pub async fn leftovers(&self) -> Vec<String> {
        let root = self.root.path().display().to_string();
        let mut left = leaks::processes(&root);
        left.extend(self.network.taps().await.expect("the taps").into_iter().map(|tap| format!("tap {tap}")));
        for own in ["vms", "bases"] {
            left.extend(leaks::files(&self.state().join(own)));
        }
        left.extend(leaks::files(&self.config.socket_dir));
        left.extend(self.groups());
        left
    }

    /// Control groups of VMs of this installation.
    fn groups(&self) -> Vec<String> {
        let journal = fs::read_to_string(self.state().join("journal")).unwrap_or_default();
        let Some(at) = journal.find("\"vm-") else { return Vec::new() };
        let prefix = &journal[at + 1..at + 13];
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
        let groups =
            roots.flat_map(|root| fs::read_dir(root.join("clarateach")).into_iter().flatten().flatten());
        let names = groups.map(|group| group.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(prefix)).map(|name| format!("group {name}")).collect()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for left in leaks::processes(&self.root.path().display().to_string()) {
            let pid = left.split(' ').nth(1).unwrap_or_default();
            let _ = Command::new("kill").args(["-KILL", pid]).output();
        }
    }
}

#[async_trait]
impl Harness for Machines {
    async fn open(&self) -> Arc<dyn Runtime> {
        Arc::new(Machines::open(self).await)
    }

    fn image(&self) -> ImageRef {
        ImageRef("default".to_owned())
    }

    fn capacity(&self) -> u32 {
        self.config.capacity
    }

    async fn kill(&self, key: &SeatKey) {
        let instance = instance_of(self.state(), key).expect("a VM in the journal");
        let found = leaks::processes(&instance);
        let pid = found.first().and_then(|line| line.split(' ').nth(1)).expect("its VMM");
        leaks_run("kill", &["-KILL", pid]);
    }

    async fn echo(&self, _key: &SeatKey) -> Option<u16> {
        None
    }

    async fn plant_foreign(&self) {
        for directory in [self.state(), &self.config.socket_dir] {
            fs::create_dir_all(directory).expect("a directory");
        }
        fs::create_dir_all(self.state().join("vms/vm-00000000-aaaaaaaaaaaa")).expect("a directory");
        leaks_run("ip", &["tuntap", "add", "dev", "ct0000000000001", "mode", "tap"]);
    }

    async fn foreign_is_untouched(&self) -> bool {
        let directory = self.state().join("vms/vm-00000000-aaaaaaaaaaaa");
        let there = directory.is_dir();
        fs::remove_dir(directory).expect("it is there");
        there && leaks_run("ip", &["-o", "link", "show"]).contains("ct0000000000001")
    }

    async fn leftovers(&self) -> Vec<String> {
        let all = Machines::leftovers(self).await;
        all.into_iter().filter(|left| !left.contains("vm-00000000-aaaaaaaaaaaa")).collect()
    }
}
