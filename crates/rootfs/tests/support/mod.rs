//! What the tests of rootfs-builder share: images made on the spot, and judges of what came out.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test code, of which each test uses its own part"
)]

pub mod compare;
pub mod layer;
pub mod oci;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Says that a test can't run here; a run that must be complete fails when the file it names has lines.
pub fn skip(name: &str, reason: &str) {
    println!("skipped: {name}: {reason}");
    if let Some(file) = std::env::var_os("CLARATEACH_SKIP_FILE") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{name}: {reason}").unwrap();
    }
}

/// Whether a program is installed; says so if it is not.
pub fn have(test: &str, program: &str, package: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&paths)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|directory| directory.join(program).is_file());
    if !there {
        skip(test, &format!("{program} is not installed (apt install {package})"));
    }
    there
}

/// Whether loop mounts work here; says so if they do not.
pub fn can_mount(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root || !Path::new("/dev/loop-control").exists() {
        skip(test, "mounting needs root and /dev/loop-control");
        return false;
    }
    have(test, "e2fsck", "e2fsprogs")
}

/// Runs a command that must succeed; what it printed.
pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{text}{errors}", out.status);
    text.into_owned()
}

/// Asserts that e2fsck finds nothing at all to say about an image.
pub fn fsck(image: &Path) {
    let out = Command::new("e2fsck").arg("-fn").arg(image).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let quiet =
        text.lines().all(|line| line.starts_with("Pass ") || line.contains(" files (") || line.is_empty());
    assert!(out.status.success() && quiet, "{}: {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
}

/// A mount, taken down when dropped.
pub struct Mount {
    pub at: PathBuf,
    image: Option<PathBuf>,
}

impl Mount {
    /// Mounts an image in a new directory in `dir`.
    pub fn image(image: &Path, dir: &Path, options: &str) -> Self {
        let at = dir.join(format!("mnt-{options}"));
        fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-t", "ext4", "-o", &format!("loop,{options}")]).arg(image).arg(&at));
        Self { at, image: Some(image.to_owned()) }
    }

    /// Mounts layers upon one another, the lowest first.
    pub fn overlay(layers: &[PathBuf], dir: &Path) -> Self {
        let at = dir.join("overlay");
        fs::create_dir_all(&at).unwrap();
        let lower: Vec<_> = layers.iter().rev().map(|layer| layer.to_str().unwrap().to_owned()).collect();
        let options = format!("ro,lowerdir={}", lower.join(":"));
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at));
        Self { at, image: None }
    }

    /// Mounts a small filesystem in memory.
    pub fn tmpfs(dir: &Path, options: &str) -> Self {
        let at = dir.join("tmpfs");
        fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "-o", options]).arg(&at));
        Self { at, image: None }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status().is_ok_and(|status| status.success());
        if !done && !std::thread::panicking() {
            panic!("{} is still mounted", self.at.display());
        }
        if let Some(image) = self.image.as_ref().filter(|_| done) {
            wait_until_detached(image);
        }
    }
}

/// Waits until no loop device holds an image any more: the next mount would share it, and be as read-only as it.
fn wait_until_detached(image: &Path) {
    let attached = || {
        fs::read_dir("/sys/block").unwrap().filter_map(Result::ok).any(|device| {
            let backing = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
            Path::new(backing.trim_end()) == image
        })
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while attached() {
        assert!(std::time::Instant::now() < deadline, "{} is still attached", image.display());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A directory for one test: outputs, and a cache of its own.
pub struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory that outputs go to, with nothing else in it.
    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// The builder in a directory of its own: in cargo's there may be a workspace binary beside it, or not.
    pub fn executable(&self) -> PathBuf {
        let path = self.path("bin").join("rootfs-builder");
        if !path.exists() {
            let built = env!("CARGO_BIN_EXE_rootfs-builder");
            fs::create_dir_all(self.path("bin")).unwrap();
            fs::hard_link(built, &path).or_else(|_| fs::copy(built, &path).map(drop)).unwrap();
        }
        path
    }

    /// `rootfs-builder --image … --output …` with a cache of its own and no workspace binary.
    pub fn builder(&self, image: &str, output: &Path) -> Command {
        let mut command = Command::new(self.executable());
        command.arg("--image").arg(image).arg("--output").arg(output);
        command.env("CLARATEACH_CACHE_DIR", self.path("cache")).env_remove("WORKSPACE_BIN");
        command.env("LC_ALL", "C");
        command
    }
}

/// Asserts that the builder refused with an exit code and one line that contains all of `parts`.
pub fn refused(out: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "more than a line: {text}");
    assert!(text.starts_with("rootfs-builder: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(out.stdout.is_empty());
}

/// Names in a directory.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
