//! The end of a machine: every process, then the disks, then the power.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::system::{RebootCommand, reboot};

use super::root::{self, Upper};
use crate::pid1::processes;

/// For processes to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// For the kernel to be done with those that were killed.
const KILLED: Duration = Duration::from_secs(3);

/// Ends every process, makes the disks clean, switches off.
pub(super) fn shut_down(upper: Option<&Upper>) -> ! {
    crate::say("shutting down");
    everybody(Signal::SIGTERM);
    everybody(Signal::SIGHUP);
    everybody(Signal::SIGCONT);
    if !gone_within(GRACE, None) {
        gone_within(KILLED, Some(Signal::SIGKILL));
    }
    // What can't be made read-only because something has it open is written out all the same.
    rustix::fs::sync();
    if let Err(error) = root::seal(upper) {
        crate::say(&format!("the disk could not be made read-only: {error}"));
    }
    power_off()
}

/// Everything but ourselves, process 1 and the kernel's threads: kill(2) with -1.
fn everybody(signal: Signal) {
    let _ = kill(Pid::from_raw(-1), signal);
}

/// Waits until nobody is left, sending `signal` before each look.
fn gone_within(limit: Duration, signal: Option<Signal>) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(signal) = signal {
            everybody(signal);
        }
        if processes::others().is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Switches the machine off, at once. Where the machine has no such switch (Firecracker), asking for it would halt the
/// processor and leave the VMM running: there a reset, which such VMMs take for the end.
pub(super) fn power_off() -> ! {
    rustix::fs::sync();
    if has_power_switch() {
        let _ = reboot(RebootCommand::PowerOff);
    }
    let _ = reboot(RebootCommand::Restart);
    // Only without the right to: not as process 1 of a machine.
    loop {
        std::thread::park();
    }
}

/// Whether the firmware describes the sleep state S5, "soft off", without which Linux can't switch off.
fn has_power_switch() -> bool {
    let tables = fs::read_dir("/sys/firmware/acpi/tables").into_iter().flatten().flatten();
    tables
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name == "DSDT" || name.starts_with("SSDT")
        })
        .any(|entry| {
            fs::read(entry.path()).is_ok_and(|table| memchr::memmem::find(&table, b"_S5_").is_some())
        })
}

/// A panic in process 1 ends the machine, said on its console, rather than leaving it to the kernel.
pub(super) fn on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        crate::say(&format!("{panic}"));
        if std::process::id() == 1 {
            power_off();
        }
    }));
}
