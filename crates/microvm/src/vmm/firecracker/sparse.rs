//! Snapshots as Firecracker writes them hold every page of the guest, most of them zero.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Zeroes are given back in pieces of this size.
const PIECE: usize = 64 << 10;

/// Moves a file that a VMM has written to its place, and gives back the space of what is zero in it. Blocks.
pub(super) fn take(written: &Path, wanted: &Path) -> io::Result<()> {
    if written != wanted {
        match fs::rename(written, wanted) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::copy(written, wanted)?;
                fs::remove_file(written)?;
            }
            renamed => renamed?,
        }
    }
    let file = OpenOptions::new().read(true).write(true).open(wanted)?;
    // A jailed clone reads it as another user; the directory it is in lets nobody else near.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    std::os::unix::fs::chown(wanted, Some(rustix::process::geteuid().as_raw()), None)?;
    punch(&file)
}

fn punch(file: &File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let (mut piece, zeroes) = (vec![0_u8; PIECE], vec![0_u8; PIECE]);
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).map_or(PIECE, |rest| rest.min(PIECE));
        file.read_exact_at(&mut piece[..length], offset)?;
        if piece[..length] == zeroes[..length] {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file system without holes keeps it as it is.
            if fallocate(file, flags, offset, length as u64).is_err() {
                break;
            }
        }
        offset += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_take_no_space_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut content = vec![0_u8; 40 * PIECE + 100];
        content[3 * PIECE + 7] = 1;
        content[40 * PIECE + 99] = 2;
        fs::write(&from, &content).unwrap();
        take(&from, &to).unwrap();
        assert!(!from.exists());
        assert_eq!(fs::read(&to).unwrap(), content);
        use std::os::unix::fs::MetadataExt;
        assert!(fs::metadata(&to).unwrap().blocks() * 512 <= 4 * PIECE as u64);
    }
}
