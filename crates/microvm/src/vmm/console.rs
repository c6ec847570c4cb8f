//! What guests print: into a file that is opened for appending, by the VMM itself, so that no byte of it passes through
//! this process and a guest prints on while no agent runs.
//!
//! Two bounds hold it. Whoever watches a VMM ([`super::Vmm::wait`], and the process that started it) takes the oldest
//! bytes away when there are more than [`CONSOLE_LIMIT`]: on file systems that can, by collapsing the file's front,
//! which loses nothing of what is being written at that moment. And the VMM has a file size limit (RLIMIT_FSIZE), so
//! that a guest which prints endlessly while nobody watches fills no more than it could fill on its own disk; see
//! [`file_size_limit`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, fstat};

use super::{CONSOLE_LIMIT, VmSpec};

/// A quiet console is looked at this often.
const SLOWEST: Duration = Duration::from_secs(2);
/// A console that has just been trimmed is looked at again after this time.
const QUICKEST: Duration = Duration::from_millis(50);

/// Opens a console for a VMM to append to.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The largest file a VMM may write, in bytes: the largest of its drives, or its memory twice (a snapshot of it is a file
/// too), whatever is more.
pub(super) fn file_size_limit(spec: &VmSpec) -> u64 {
    let drives = spec.drives.iter().filter_map(|drive| std::fs::metadata(&drive.path).ok());
    let largest = drives.map(|meta| meta.len()).max().unwrap_or(0);
    largest.max(u64::from(spec.memory_mb) << 21).max(64 << 20)
}

/// The last `bytes` of what was printed after offset `from`, without what would not be text.
pub(super) fn tail(path: &Path, from: u64, bytes: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        // A file that is shorter than `from` has been trimmed.
        let from = if from > end { 0 } else { from };
        file.seek(SeekFrom::Start(end.saturating_sub(bytes).max(from)))?;
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    };
    read().unwrap_or_default()
}

/// Keeps the console of one VMM within [`CONSOLE_LIMIT`].
pub(super) struct Trimmer {
    /// The VMM's standard output is its console, whoever started it.
    path: PathBuf,
    pause: Duration,
}

impl Trimmer {
    pub(super) fn new(pid: i32) -> Self {
        Self { path: format!("/proc/{pid}/fd/1").into(), pause: QUICKEST }
    }

    /// When to look next.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Looks once, and trims if need be.
    pub(super) fn trim(&mut self) {
        let trimmed = trim(&self.path).unwrap_or(false);
        self.pause = if trimmed { QUICKEST } else { (self.pause * 2).min(SLOWEST) };
    }
}

/// Whether there was something to take away.
fn trim(path: &Path) -> io::Result<bool> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() || meta.len() <= CONSOLE_LIMIT {
        return Ok(false);
    }
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    // Two who watch the same VMM would both take away; the second comes back later.
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(true);
    }
    let stat = fstat(&file)?;
    let length = stat.st_size.cast_unsigned();
    let block = u64::try_from(stat.st_blksize).unwrap_or(4096).max(1);
    // Half is kept, so that not every line printed costs a trim.
    let excess = length.saturating_sub(CONSOLE_LIMIT / 2) / block * block;
    if length <= CONSOLE_LIMIT || excess == 0 {
        return Ok(false);
    }
    if fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, excess).is_ok() {
        return Ok(true);
    }
    copy_tail(file, excess)?;
    Ok(true)
}

/// For file systems that can't collapse (tmpfs, overlayfs, btrfs): reads the tail, empties the file and appends the tail.
/// A line that is printed between the two comes before it.
fn copy_tail(mut file: File, excess: u64) -> io::Result<()> {
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(excess))?;
    (&file).take(CONSOLE_LIMIT).read_to_end(&mut tail)?;
    file.set_len(0)?;
    file.write_all(&tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: u32) -> String {
        (0..count).map(|n| format!("line {n:08}\n")).collect()
    }

    #[test]
    fn the_oldest_goes_and_the_newest_stays() {
        for make in [trim, |path: &Path| copy_tail(open_for_copy(path), 300 << 10).map(|()| true)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("console");
            let mut writer = open(&path).unwrap();
            assert!(!trim(&path).unwrap());
            writer.write_all(lines(30_000).as_bytes()).unwrap();
            assert!(make(&path).unwrap());
            writer.write_all(b"after\n").unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.len() as u64 <= CONSOLE_LIMIT, "{}", text.len());
            assert!(text.ends_with("line 00029999\nafter\n"), "{}", &text[text.len() - 40..]);
            assert!(!text.contains("line 00000000"));
            assert_eq!(tail(&path, 0, 6), "after");
            assert_eq!(tail(&path, text.len() as u64 - 6, 100), "after");
        }
    }

    fn open_for_copy(path: &Path) -> File {
        OpenOptions::new().read(true).append(true).open(path).unwrap()
    }
}
