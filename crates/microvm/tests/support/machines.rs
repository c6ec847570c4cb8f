//! A microVM runtime over a real VMM and a real network, in a network namespace of its own: QEMU with an emulated processor, or
//! whatever VMM is put in its place.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::SeatKey;
use clarateach_microvm::net::{HostNetwork, NetConfig, Network};
use clarateach_microvm::vmm::Vmm;
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
        let _ = leaks::run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(test());
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// The same, for tests with [`qemu`]: a kernel that has yet to be fetched is fetched first, since nothing can be from in there.
pub fn in_network_of_guests<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let _ = guest_kernel();
    in_own_network(test);
}

/// One installation on a host of its own.
pub struct Machines {
    pub root: TempDir,
    pub config: MicroVmConfig,
    pub network: Arc<HostNetwork>,
    pub vmm: Arc<dyn Vmm>,
}

pub fn possible() -> Result<(), &'static str> {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() {
        Err("it takes root for taps")
    } else if !runs("nft") {
        Err("nft is not installed")
    } else {
        Ok(())
    }
}

/// QEMU and all it needs, or nothing and a word why. Must be called in [`in_network_of_guests`].
pub async fn qemu(test: &str) -> Option<Machines> {
    let missing = possible().and_then(|()| {
        if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
            Err("qemu-system-x86_64 is not installed")
        } else if !crate::image::possible() {
            Err("there is no static /bin/busybox")
        } else {
            Ok(())
        }
    });
    if let Err(why) = missing {
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
    let root = directory();
    let images = root.path().join("images");
    fs::copy(&kernel.vmlinux, images.join("vmlinux")).expect("a kernel");
    symlink(&kernel.modules, images.join("modules")).expect("modules");
    let init = fs::read(&workspace).expect("the workspace");
    crate::image::write(&images.join("rootfs.ext4"), &crate::image::Init::Ours(&init));
    Some(Machines::new(root, workspace, emulated()))
}

/// QEMU with an emulated processor.
pub fn emulated() -> Arc<dyn Vmm> {
    Arc::new(QemuVmm::new(QemuConfig { accel: Accel::Tcg, ..QemuConfig::default() }))
}

pub fn directory() -> TempDir {
    let root = tempfile::Builder::new().prefix("ct").tempdir().expect("a directory");
    fs::create_dir(root.path().join("images")).expect("a directory");
    root
}

/// The configuration that tests use in a directory.
pub fn config(root: &Path, workspace: PathBuf) -> MicroVmConfig {
    MicroVmConfig {
        images_dir: root.join("images"),
        socket_dir: root.join("run"),
        state_dir: root.join("state"),
        capacity: 2,
        snapshots: false,
        default_memory_mb: 256,
        default_vcpus: 1,
        ..MicroVmConfig::new(OWNER.to_owned(), workspace)
    }
}

pub fn network() -> Arc<HostNetwork> {
    Arc::new(HostNetwork::new(NetConfig::new(OWNER)).expect("a network"))
}

impl Machines {
    pub fn new(root: TempDir, workspace: PathBuf, vmm: Arc<dyn Vmm>) -> Self {
        let config = config(root.path(), workspace);
        Self { root, config, network: network(), vmm }
    }

    pub async fn open(&self) -> MicroVmRuntime {
        MicroVmRuntime::open(self.config.clone(), self.vmm.clone(), self.network.clone()).await.expect("open")
    }

    fn state(&self) -> &Path {
        &self.config.state_dir
    }

    /// Everything of this installation that is there, but for the files that always are.
    pub async fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        if let Some(prefix) = self.prefix() {
            left.extend(leaks::processes(&prefix));
            left.extend(groups(&prefix));
        }
        left.extend(self.network.taps().await.expect("the taps").into_iter().map(|tap| format!("tap {tap}")));
        left.extend(closed_addresses().into_iter().map(|address| format!("firewall element {address}")));
        for own in ["vms", "bases"] {
            left.extend(leaks::files(&self.state().join(own)));
        }
        left.extend(leaks::files(&self.config.socket_dir));
        left
    }

    /// How the names of all of this installation's VMs begin, once there was one.
    fn prefix(&self) -> Option<String> {
        let journal = fs::read_to_string(self.state().join("journal")).ok()?;
        let at = journal.find("\"vm-")?;
        Some(journal[at + 1..at + 13].to_owned())
    }
}

/// Control groups of VMs of this installation.
fn groups(prefix: &str) -> Vec<String> {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
    let groups = roots.flat_map(|root| fs::read_dir(root.join("clarateach")).into_iter().flatten().flatten());
    let names = groups.map(|group| group.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).map(|name| format!("group {name}")).collect()
}

/// Guests' addresses that are elements of sets in the firewall.
fn closed_addresses() -> Vec<String> {
    let ruleset = leaks::run("nft", &["--json", "list", "ruleset"]);
    let ruleset: serde_json::Value = serde_json::from_str(&ruleset).expect("JSON");
    let sets = ruleset["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("set"));
    let elements = sets.filter_map(|set| set["elem"].as_array()).flatten();
    let addresses = elements.filter_map(|element| element.as_str());
    addresses.filter(|address| address.starts_with("192.168.100.")).map(str::to_owned).collect()
}

impl Drop for Machines {
    fn drop(&mut self) {
        for left in self.prefix().map(|prefix| leaks::processes(&prefix)).unwrap_or_default() {
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
        let _ = leaks::run("kill", &["-KILL", pid]);
    }

    async fn echo(&self, _key: &SeatKey) -> Option<u16> {
        None
    }

    async fn plant_foreign(&self) {
        for directory in [self.state(), &self.config.socket_dir] {
            fs::create_dir_all(directory).expect("a directory");
        }
        fs::create_dir_all(self.state().join("vms/vm-00000000-aaaaaaaaaaaa")).expect("a directory");
        let _ = leaks::run("ip", &["tuntap", "add", "dev", "ct0000000000001", "mode", "tap"]);
    }

    async fn foreign_is_untouched(&self) -> bool {
        let directory = self.state().join("vms/vm-00000000-aaaaaaaaaaaa");
        let there = directory.is_dir();
        fs::remove_dir(directory).expect("it is there");
        there && leaks::run("ip", &["-o", "link", "show"]).contains("ct0000000000001")
    }

    async fn leftovers(&self) -> Vec<String> {
        let all = Machines::leftovers(self).await;
        all.into_iter().filter(|left| !left.contains("vm-00000000-aaaaaaaaaaaa")).collect()
    }
}
