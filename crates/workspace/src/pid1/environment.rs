//! Keeping the secret from the learner's processes, which may run under our own uid.

use std::{ffi::CStr, io};

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// Closes `/proc/self/{environ,mem,…}` and ptrace to processes of the same uid, sets the umask, makes orphans come to
/// us, and keeps the allocator from hoarding.
///
/// # Errors
/// When the kernel refuses prctl(2), which it doesn't.
pub fn close_memory() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // SAFETY: mallopt only sets parameters of the allocator; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
    }
    Ok(())
}

/// Overwrites the values of our own variables in the environment block that the kernel handed over. Must be called
/// before any thread is started and after the settings have been read.
pub fn scrub_environment() {
    // SAFETY: main calls this while it is the only thread, so nobody reads or changes `environ` meanwhile; the block
    // is writable memory of ours, and each entry is a NUL-terminated string whose bytes before the NUL we overwrite.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let variable = CStr::from_ptr(*entry).to_bytes();
            let length = variable.len();
            if variable.starts_with(b"CLARATEACH_") {
                std::ptr::write_bytes(*entry, b'x', length);
            }
            entry = entry.add(1);
        }
    }
}
