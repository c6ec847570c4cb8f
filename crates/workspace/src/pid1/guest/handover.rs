//! From booting to running: who becomes process 1, and what the server is started with.

use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::Command,
};

use clarateach_seatproto::guest::{GuestConfig, WORKSPACE_PORT};
use nix::unistd::{ForkResult, fork, setsid};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{GuestError, Never, channel::Channel, root::Upper};
use crate::pid1::oom::protect_from_oom;

/// This program, even when its file is gone with the initramfs.
const OURSELVES: &str = "/proc/self/exe";
/// What the image may bring.
const INIT: &str = "/sbin/init";
/// Longest `NAME=value` that execve(2) takes: MAX_ARG_STRLEN, 32 pages, with its NUL.
const LONGEST: usize = 128 << 10;
/// The control channel's descriptors, for [`super::serving`].
pub(super) const CONTROL_VARIABLE: &str = "CLARATEACH_CONTROL";
/// The upper drive's descriptor, likewise.
pub(super) const UPPER_VARIABLE: &str = "CLARATEACH_UPPER";
/// For an image's own init.
const INIT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether the learner's variables can be variables.
pub(super) fn check(config: &GuestConfig) -> Result<(), GuestError> {
    let refuse = |message: String| Err(GuestError::Refused(message));
    if config.secret.is_empty() || config.secret.contains('\0') || config.secret.len() > LONGEST / 2 {
        return refuse("the secret is empty, too long, or holds a NUL".to_owned());
    }
    for (name, value) in &config.env {
        if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("CLARATEACH_") {
            return refuse(format!("{name:?} can't be the name of an environment variable"));
        }
        if value.contains('\0') || name.len() + value.len() + 2 > LONGEST {
            return refuse(format!("the value of {name} holds a NUL or is longer than 128 KiB"));
        }
    }
    Ok(())
}

/// Executes the server in our place; or, if the image has an init of its own, that, with the server as a child.
pub(super) fn to_server(channel: &Channel, upper: Option<&Upper>, config: &GuestConfig) -> GuestError {
    let control = match channel.hand_over() {
        Ok(control) => control,
        Err(error) => return GuestError::during("handing the control channel over")(error),
    };
    let mut server = Command::new(OURSELVES);
    server
        .arg0("workspace")
        .arg("guest")
        .env_clear()
        .envs(&config.env)
        .env("CLARATEACH_LISTEN", format!("tcp:0.0.0.0:{WORKSPACE_PORT}"))
        .env("CLARATEACH_ROOT", "/workspace")
        .env("CLARATEACH_UID", "1000")
        .env("CLARATEACH_SECRET", &config.secret)
        .env(CONTROL_VARIABLE, control);
    if let Some(Upper(handle)) = upper {
        if let Err(error) = fcntl_setfd(handle, FdFlags::empty()) {
            return GuestError::during("handing the upper drive over")(error);
        }
        server.env(UPPER_VARIABLE, handle.as_raw_fd().to_string());
    }
    let Some(own) = own_init() else {
        return GuestError::during("executing the workspace server")(server.exec());
    };
    crate::say(&format!("process 1 will be the image's own {INIT} ({})", own.display()));
    // SAFETY: this is the only thread of the process, so the child may do anything.
    match unsafe { fork() } {
        Err(error) => GuestError::during("forking")(error),
        Ok(ForkResult::Child) => {
            let _ = setsid();
            if let Err(error) = protect_from_oom() {
                crate::say(&format!("the server may be ended when memory is full: {error}"));
            }
            GuestError::during("executing the workspace server")(server.exec())
        }
        Ok(ForkResult::Parent { .. }) => {
            // What was meant for the server is no business of the image's init.
            let _ = channel.keep();
            if let Some(Upper(handle)) = upper {
                let _ = fcntl_setfd(handle, FdFlags::CLOEXEC);
            }
            execute_init();
            reap_forever()
        }
    }
}

/// Without a control channel there is no secret, so nobody to serve: the image's init, else nothing but reaping.
pub(super) fn without_server(upper: Option<Upper>) -> Result<Never, GuestError> {
    drop(upper);
    if own_init().is_some() {
        execute_init();
    }
    reap_forever()
}

/// The image's init, if it has one that is not this program.
fn own_init() -> Option<std::path::PathBuf> {
    let resolved = fs::canonicalize(INIT).ok()?;
    let metadata = fs::metadata(&resolved).ok()?;
    let usable = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    let is_ours =
        resolved.file_name().is_some_and(|name| name == "clarateach-init") || same_content(&resolved);
    (usable && !is_ours).then_some(resolved)
}

fn same_content(other: &Path) -> bool {
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    length(other) == length(Path::new(OURSELVES))
        && fs::read(other).is_ok_and(|theirs| fs::read(OURSELVES).is_ok_and(|ours| ours == theirs))
}

/// Returns only if the kernel won't execute it, which is said.
fn execute_init() {
    let mut init = Command::new(INIT);
    let error = init.env_clear().env("PATH", INIT_PATH).env("HOME", "/").env("TERM", "linux").exec();
    crate::say(&format!("{INIT} can't be executed: {error}; processes are reaped in its place"));
}

/// What is left to do for a process 1 that has become nothing else.
fn reap_forever() -> ! {
    loop {
        match nix::sys::wait::wait() {
            Ok(_) | Err(nix::Error::EINTR) => {}
            // No child: signals wake nobody up here, so look again now and then.
            Err(_) => std::thread::sleep(std::time::Duration::from_secs(1)),
        }
    }
}
