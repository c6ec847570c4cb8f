//! What can be known before a VMM is started: a missing kernel told by its name is better than what a VMM prints.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{VmSpec, VmmError};

/// For a program that only has to say its version.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Checks the names and files of a VM, and removes sockets that an earlier VMM of this VM left in `sockets`.
pub(super) fn check(spec: &VmSpec, sockets: &[PathBuf]) -> Result<(), VmmError> {
    let named = !spec.instance.is_empty()
        && spec.instance.len() <= 40
        && spec
            .instance
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !named {
        return Err(invalid("name", &spec.instance, "1 to 40 characters of a-z, 0-9 and - are a name"));
    }
    kernel(&spec.kernel)?;
    for file in spec.initramfs.iter().chain(spec.drives.iter().map(|drive| &drive.path)) {
        File::open(file).map_err(|source| io_error("open", file, source))?;
    }
    if let Some(nic) = &spec.nic {
        // By the network namespace of this thread, which is what the VMM will have; /sys may be another's.
        nix::net::if_::if_nametoindex(nic.tap.as_str())
            .map_err(|errno| io_error("find the tap device", Path::new(&nic.tap), errno.into()))?;
    }
    for socket in sockets {
        remove_file(socket)?;
    }
    Ok(())
}

fn kernel(path: &Path) -> Result<(), VmmError> {
    let mut magic = [0_u8; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if magic == *b"\x7fELF" => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(io_error("open the kernel", path, error))
        }
        _ => Err(io_error(
            "read the kernel",
            path,
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not an uncompressed kernel (an ELF vmlinux); a distribution's vmlinuz has to be unpacked first",
            ),
        )),
    }
}

/// Removes a file; fine if there is none.
pub(super) fn remove_file(path: &Path) -> Result<(), VmmError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, source)),
        _ => Ok(()),
    }
}

/// Finds a program as a shell would, so that its absence can be told from other failures.
pub(super) fn program(name: &Path, advice: &str) -> Result<PathBuf, VmmError> {
    let runs = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = if name.components().count() > 1 {
        Some(name.to_owned()).filter(|path| runs(path))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| runs(path))
    };
    found.ok_or_else(|| VmmError::Program {
        program: name.display().to_string(),
        message: format!("there is no such program; {advice}"),
    })
}

/// Runs a program that is to answer at once, and gives what it printed; its words if it fails.
pub(super) async fn ask(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let answer = tokio::time::timeout(ANSWER_PATIENCE, command.output()).await;
    let output = answer
        .map_err(|_| format!("it did not answer {arguments:?} within {} s", ANSWER_PATIENCE.as_secs()))?
        .map_err(|error| format!("it could not be started: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{arguments:?} failed with {}: {printed} {}", output.status, words.trim()))
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> VmmError {
    VmmError::Io { operation, path: path.to_owned(), source }
}

fn invalid(what: &str, value: &str, rule: &str) -> VmmError {
    io_error(
        "use the instance",
        Path::new(value),
        io::Error::new(io::ErrorKind::InvalidInput, format!("not a {what}: {rule}")),
    )
}
