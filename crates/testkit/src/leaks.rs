//! What a test has left behind on the host.

use std::path::Path;
use std::process::Command;

/// Everything in the Docker Engine with this label, as `kind name`.
///
/// # Panics
/// When the `docker` command fails: then nobody knows.
#[must_use]
pub fn docker(label: &str) -> Vec<String> {
    let filter = format!("label={label}");
    let kinds: [(&str, &[&str], &str); 3] = [
        ("container", &["ps", "--all"], "{{.Names}}"),
        ("volume", &["volume", "ls"], "{{.Name}}"),
        ("network", &["network", "ls"], "{{.Name}}"),
    ];
    let mut left = Vec::new();
    for (kind, command, format) in kinds {
        let arguments = [command, &["--filter", &filter, "--format", format]].concat();
        left.extend(run("docker", &arguments).lines().map(|name| format!("{kind} {name}")));
    }
    left
}

/// Network interfaces of the host whose names start with `prefix`.
#[must_use]
pub fn interfaces(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).map(|name| format!("interface {name}")).collect()
}

/// Processes in whose command line `text` occurs, zombies aside.
#[must_use]
pub fn processes(text: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut left = Vec::new();
    for entry in entries {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if pid != std::process::id() && command.contains(text) {
            left.push(format!("process {pid} {}", command.trim()));
        }
    }
    left
}

/// Everything below `directory`, without the directory itself.
#[must_use]
pub fn files(directory: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        left.push(format!("file {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            left.extend(files(&path));
        }
    }
    left
}

/// Runs a command to its end and gives what it printed.
///
/// # Panics
/// With the command's words when it fails.
#[must_use]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
