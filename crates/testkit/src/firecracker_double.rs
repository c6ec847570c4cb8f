//! The double of Firecracker, an example of `crates/microvm`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::seat_binary::repository;

/// The path of the double; built if the test run has not built it.
///
/// # Panics
/// With cargo's words when it can't be built.
#[must_use]
pub fn path() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(find_or_build).clone()
}

/// A double with faults, as a program of its own in `dir`: see `crates/microvm/examples/firecracker_double` for the
/// faults. Drivers clear the environment of a VMM, so they can't be in it.
///
/// # Panics
/// When the file can't be written.
#[must_use]
pub fn with_faults(dir: &Path, faults: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let name: String = faults.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let script = dir.join(format!("firecracker-{name}"));
    let text = format!("#!/bin/sh\nexec '{}' --fault '{faults}' \"$@\"\n", path().display());
    std::fs::write(&script, text).expect("the script can be written");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))
        .expect("the script can be made executable");
    script
}

/// Cargo puts examples beside the directory that the test binary is in; it builds them with all tests, but not when a
/// single test target is asked for.
fn find_or_build() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let profile = own.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let built = profile.join("examples/firecracker_double");
    if built.is_file() {
        return built;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", "clarateach-microvm", "--example", "firecracker_double"])
        .arg("--target-dir")
        .arg(profile.parent().expect("a profile is in a target directory"))
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the double: {}", String::from_utf8_lossy(&output.stderr));
    built
}
