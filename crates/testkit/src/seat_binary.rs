//! The static `workspace` binary that goes into seats.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The path of a static `workspace`: `WORKSPACE_BIN`, else what `scripts/build-workspace.sh` makes, which is run.
///
/// # Errors
/// Why there is none, with the script's words.
pub fn workspace() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(find_or_build).clone()
}

fn find_or_build() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("WORKSPACE_BIN").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let root = repository();
    if let Some(built) = built(&root).filter(|built| is_current(built, &root)) {
        return Ok(built);
    }
    let output = Command::new("bash")
        .arg("scripts/build-workspace.sh")
        .current_dir(&root)
        .output()
        .map_err(|error| format!("scripts/build-workspace.sh: {error}"))?;
    if !output.status.success() {
        return Err(format!("scripts/build-workspace.sh: {}", String::from_utf8_lossy(&output.stderr)));
    }
    built(&root).ok_or_else(|| "scripts/build-workspace.sh left nothing in target/guest".to_owned())
}

/// Not in target/debug: a plain `cargo build` puts a dynamic binary of the same name there.
fn built(root: &Path) -> Option<PathBuf> {
    let hosts = std::fs::read_dir(root.join("target/guest")).ok()?.flatten();
    hosts.map(|host| host.path().join("guest/workspace")).find(|path| path.is_file())
}

/// Asking cargo takes half a second, and every test is a process of its own.
fn is_current(built: &Path, root: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let Some(made) = changed(built) else { return false };
    let sources = ["crates/workspace", "crates/seatproto"].map(|folder| newest(&root.join(folder)));
    sources.into_iter().flatten().all(|source| source <= made)
}

fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let kind = entry.file_type().ok()?;
            if kind.is_dir() { newest(&entry.path()) } else { entry.metadata().ok()?.modified().ok() }
        })
        .max()
}

/// The root of this repository.
#[must_use]
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).map_or_else(|| own.to_owned(), Path::to_owned)
}
