//! A VM's upper drive: what its learner writes.
//!
//! A sparse, empty ext4 file system, made by `clarateach-ext4` in well under a millisecond and 256 KiB on any host file
//! system that has holes. The guest makes its overlay's directories in it.

use std::fs;
use std::io;
use std::path::Path;

use clarateach_ext4::{Error, Options};

use crate::error::Fault;

/// Larger than this it gets a journal, which takes space only as it is used.
const WITH_JOURNAL: u64 = 256 << 20;
/// The smallest drive, in MiB.
pub(crate) const SMALLEST_MB: u32 = 16;
/// The largest drive, in MiB: 16 TiB.
pub(crate) const LARGEST_MB: u32 = 16 << 20;

/// Makes an empty drive of `size_mb` MiB at `path`, which must not exist. Blocks for a fraction of a millisecond.
///
/// # Errors
/// `NO_SPACE`, `DISK_FAILED`; nothing is left then.
pub(crate) fn make(path: &Path, size_mb: u32, seed: &str) -> Result<(), Fault> {
    let size = u64::from(size_mb) << 20;
    let mut options = Options::new(size, seed.as_bytes());
    options.label = b"upper".to_vec();
    options.journal = (size >= WITH_JOURNAL).then_some(clarateach_ext4::EMPTY_JOURNAL);
    match clarateach_ext4::write_empty(path, options) {
        Ok(_) => Ok(()),
        Err(Error::Image { source, .. }) => {
            Err(Fault::io("DISK_FAILED", format!("making the drive {}", path.display()), &source))
        }
        Err(error) => Err(Fault::new("DISK_FAILED", format!("making the drive {}: {error}", path.display()))),
    }
}

/// Removes a VM's directory with its drive; fine when there is nothing.
///
/// # Errors
/// When something is left.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn ten_gibibytes_cost_next_to_nothing_and_are_sound() {
        let root = tempfile::tempdir().unwrap();
        for (number, size_mb) in [10 << 10, 10 << 10, 1024, 16, 64 << 10].into_iter().enumerate() {
            let path = root.path().join(number.to_string());
            make(&path, size_mb, "seed").unwrap();
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.len(), u64::from(size_mb) << 20);
            assert!(metadata.blocks() * 512 <= 256 << 10, "{size_mb} MiB: {} bytes", metadata.blocks() * 512);
            let checked = Command::new("e2fsck").arg("-fn").arg(&path).output();
            match checked {
                Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
                Err(_) => clarateach_testkit::skip("upper drives are sound", "e2fsck is not installed"),
            }
        }
    }

    #[test]
    fn a_full_disk_has_a_code_of_its_own() {
        let fault = make(Path::new("/dev/full/x"), 64, "s").unwrap_err();
        assert_eq!(fault.code, "DISK_FAILED");
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        assert_eq!(Fault::io("DISK_FAILED", "writing", &full).code, "NO_SPACE");
    }
}
