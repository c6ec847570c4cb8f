//! What judges the images: e2fsck, debugfs and the kernel's own ext4.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test binary uses its own part"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clarateach_ext4::{Options, Summary, Writer};

/// Says that a test can't run here; a run that must be complete fails when the file it names has lines.
pub fn skip(name: &str, reason: &str) {
    println!("skipped: {name}: {reason}");
    if let Some(file) = std::env::var_os("CLARATEACH_SKIP_FILE") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{name}: {reason}").unwrap();
    }
}

/// Whether e2fsprogs are installed; says so if they are not.
pub fn have_e2fsprogs(test: &str) -> bool {
    let there = Command::new("e2fsck").arg("-V").output().is_ok_and(|out| out.status.success());
    if !there {
        skip(test, "e2fsck is not installed (apt install e2fsprogs)");
    }
    there
}

/// Whether loop mounts work here; says so if they do not.
pub fn can_mount(test: &str) -> bool {
    if !have_e2fsprogs(test) {
        return false;
    }
    if rustix_is_root() && Path::new("/dev/loop-control").exists() {
        return true;
    }
    skip(test, "mounting needs root and /dev/loop-control");
    false
}

fn rustix_is_root() -> bool {
    let out = Command::new("id").arg("-u").output().unwrap();
    out.stdout == b"0\n"
}

/// Builds an image in `dir`.
pub fn build(dir: &Path, options: Options, fill: impl FnOnce(&mut Writer)) -> (PathBuf, Summary) {
    let path = dir.join("image.ext4");
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let mut writer = Writer::new(file, options).unwrap();
    fill(&mut writer);
    let (_, summary) = writer.finish().unwrap();
    (path, summary)
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

/// Asserts that e2fsck finds nothing at all to say about an image.
pub fn fsck(image: &Path) {
    let out = Command::new("e2fsck").arg("-fn").arg(image).env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let quiet =
        text.lines().all(|line| line.starts_with("Pass ") || line.contains(" files (") || line.is_empty());
    let errors = String::from_utf8_lossy(&out.stderr);
    let errors: Vec<_> = errors.lines().filter(|line| !line.starts_with("e2fsck 1.")).collect();
    assert!(out.status.success() && quiet && errors.is_empty(), "{}: {text}{errors:?}", out.status);
}

/// What debugfs prints for a request.
pub fn debugfs(image: &Path, request: &str) -> String {
    let out = run(Command::new("debugfs").args(["-R", request]).arg(image));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A mounted image, unmounted when dropped.
pub struct Mount {
    pub at: PathBuf,
    image: PathBuf,
}

impl Mount {
    pub fn new(image: &Path, dir: &Path, options: &str) -> Self {
        let at = dir.join("mnt");
        fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-t", "ext4", "-o", options]).arg(image).arg(&at));
        Self { at, image: image.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status().is_ok_and(|status| status.success());
        if !done && !std::thread::panicking() {
            panic!("{} is still mounted", self.at.display());
        }
        if done {
            wait_until_detached(&self.image);
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
