//! The memory of a paused QEMU machine, on its way to disk and back.
//!
//! The memory of a machine that was booted is anonymous shared memory, which QEMU's migration skips
//! (`x-ignore-shared`); it is copied from the process's descriptor without its holes and zeroes. A restored machine maps
//! that file privately, so restoring reads nothing in advance and all machines of one snapshot share what they don't
//! write. A machine that was itself restored has no such descriptor: its memory goes into the stream with its devices.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use crate::vmm::{VmmError, staging};

/// Memory that is all zero is left out in pieces of this size.
const PIECE: usize = 64 << 10;

/// Files of a snapshot.
pub(super) fn state_file(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// The memory file of a snapshot, if its memory is in a file of its own.
pub(super) fn memory_file(dir: &Path) -> Option<PathBuf> {
    Some(dir.join("memory")).filter(|path| path.exists())
}

/// Copies the memory of a paused machine into `dir`, if it is in a descriptor of its own. Blocks.
pub(super) fn copy_memory(pid: i32, dir: &Path) -> Result<(), VmmError> {
    let target = dir.join("memory");
    let copied =
        find_memory(pid).and_then(|source| source.map_or(Ok(()), |source| copy_sparse(&source, &target)));
    copied.map_err(|source| VmmError::Io {
        operation: "copy the guest's memory to",
        path: target.clone(),
        source,
    })
}

fn find_memory(pid: i32) -> io::Result<Option<File>> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let Ok(link) = fs::read_link(&path) else { continue };
        if link.to_string_lossy().starts_with("/memfd:memory-backend-memfd") {
            return File::open(path).map(Some);
        }
    }
    Ok(None)
}

fn copy_sparse(source: &File, target: &Path) -> io::Result<()> {
    let size = source.metadata()?.len();
    let target = staging::create(target)?;
    target.set_len(size)?;
    let (mut piece, zeroes) = (vec![0_u8; PIECE], vec![0_u8; PIECE]);
    let mut offset = 0;
    while offset < size {
        let data = match seek(source, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let hole = seek(source, SeekFrom::Hole(data))?;
        offset = data;
        while offset < hole {
            let length = usize::try_from(hole - offset).map_or(PIECE, |rest| rest.min(PIECE));
            source.read_exact_at(&mut piece[..length], offset)?;
            if piece[..length] != zeroes[..length] {
                target.write_all_at(&piece[..length], offset)?;
            }
            offset += length as u64;
        }
    }
    Ok(())
}
