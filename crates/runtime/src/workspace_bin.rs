//! Finds the `workspace` binary that goes into every seat.

use std::io;
use std::path::{Path, PathBuf};

/// Where `workspace` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceBin {
    /// Its path.
    pub path: PathBuf,
    /// Whether it runs in any image: it needs no dynamic loader.
    pub is_static: bool,
}

/// `given` (`WORKSPACE_BIN`), else `workspace` beside this executable.
///
/// # Errors
/// When the file can't be read or is no ELF executable.
pub fn find(given: Option<&Path>) -> io::Result<WorkspaceBin> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("workspace"),
    };
    let bytes = std::fs::read(&path)?;
    let is_static = is_static_elf(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a 64-bit ELF executable"))?;
    Ok(WorkspaceBin { path: path.canonicalize()?, is_static })
}

/// Whether a little-endian ELF64 file has no PT_INTERP segment (System V ABI, chapters 4 and 5); `None` when it is none.
fn is_static_elf(bytes: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let offset = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (u16_at(54)?, u16_at(56)?);
    for i in 0..count {
        let at = offset.checked_add(i * size)?;
        let kind = u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_a_dynamic_executable() {
        let exe = std::env::current_exe().unwrap();
        assert_eq!(is_static_elf(&std::fs::read(exe).unwrap()), Some(false));
    }

    #[test]
    fn what_is_no_executable_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workspace");
        assert!(find(Some(&path)).is_err());
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(find(Some(&path)).is_err());
        }
    }
}
