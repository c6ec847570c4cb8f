//! A microVM runtime to test, over a world in which VMs are plain processes.

#![allow(dead_code, unreachable_pub, unused_imports)]

mod fakes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::SeatKey;
use clarateach_microvm::{MicroVmConfig, MicroVmRuntime};
use clarateach_runtime::conformance::Harness;
use clarateach_runtime::{ImageRef, Runtime};
use clarateach_testkit::{leaks, seat_binary};
use tempfile::TempDir;

pub use fakes::{Faults, World};

/// Images that look right: an empty file system, and an ELF file.
pub fn images(directory: &Path) {
    let options = clarateach_ext4::Options::new(64 << 20, b"base");
    clarateach_ext4::write_empty(&directory.join("rootfs.ext4"), options).expect("an image");
    std::fs::copy(std::env::current_exe().expect("this test"), directory.join("vmlinux")).expect("a kernel");
}

/// One installation in a directory of its own, in a world of its own.
pub struct Installation {
    pub root: TempDir,
    pub world: Arc<World>,
    pub config: MicroVmConfig,
}

impl Installation {
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let images_dir = root.path().join("images");
        std::fs::create_dir(&images_dir).expect("a directory");
        images(&images_dir);
        let workspace = seat_binary::workspace().expect("a workspace binary");
        let config = MicroVmConfig {
            images_dir,
            socket_dir: root.path().join("run"),
            state_dir: root.path().join("state"),
            capacity: 3,
            snapshots: false,
            default_disk_mb: 1024,
            ..MicroVmConfig::new("fakes".to_owned(), workspace.clone())
        };
        Self { root, world: World::new(workspace), config }
    }

    pub async fn open(&self) -> MicroVmRuntime {
        MicroVmRuntime::open(self.config.clone(), self.world.clone(), self.world.clone()).await.expect("open")
    }

    pub fn journal(&self) -> PathBuf {
        self.config.state_dir.join("journal")
    }

    /// Everything of this installation that is there, but for the files that always are.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.world.leftovers();
        for own in ["vms", "bases"] {
            left.extend(leaks::files(&self.config.state_dir.join(own)));
        }
        left.extend(leaks::files(&self.config.socket_dir));
        left
    }
}

#[async_trait]
impl Harness for Installation {
    async fn open(&self) -> Arc<dyn Runtime> {
        Arc::new(Installation::open(self).await)
    }

    fn image(&self) -> ImageRef {
        ImageRef("default".to_owned())
    }

    fn capacity(&self) -> u32 {
        self.config.capacity
    }

    async fn kill(&self, key: &SeatKey) {
        let lock = self.config.state_dir.clone();
        let instance = instance_of(&lock, key).expect("a VM in the journal");
        self.world.kill_from_outside(&instance);
    }

    async fn echo(&self, _key: &SeatKey) -> Option<u16> {
        None
    }

    async fn plant_foreign(&self) {
        self.world.plant_foreign();
        for directory in [&self.config.state_dir, &self.config.socket_dir] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        std::fs::create_dir_all(self.config.state_dir.join("vms/vm-00000000-aaaaaaaaaaaa"))
            .expect("a directory");
        std::fs::write(self.config.socket_dir.join("somebody-else"), b"x").expect("a file");
    }

    async fn foreign_is_untouched(&self) -> bool {
        let directory = self.config.state_dir.join("vms/vm-00000000-aaaaaaaaaaaa");
        let file = self.config.socket_dir.join("somebody-else");
        let there = directory.is_dir() && file.is_file();
        std::fs::remove_dir(directory).expect("it is there");
        std::fs::remove_file(file).expect("it is there");
        there && self.world.foreign_is_untouched()
    }

    async fn leftovers(&self) -> Vec<String> {
        let foreign =
            |left: &String| left.contains("vm-00000000-aaaaaaaaaaaa") || left.contains("somebody-else");
        Installation::leftovers(self).into_iter().filter(|left| !foreign(left)).collect()
    }
}

/// The newest instance of a seat, read from the journal as an operator would.
pub fn instance_of(state: &Path, key: &SeatKey) -> Option<String> {
    let journal = std::fs::read_to_string(state.join("journal")).ok()?;
    let lines = journal.lines().filter_map(|line| serde_json::from_str(&line[17..]).ok());
    let mut intents = lines.filter(|line: &serde_json::Value| {
        line["workshop"] == key.workshop.as_str() && line["seat"] == u32::from(key.seat)
    });
    intents.next_back()?["spec"]["instance"].as_str().map(str::to_owned)
}
