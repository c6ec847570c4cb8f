//! Renaming, making directories, deleting.

use std::{ffi::CString, os::fd::OwnedFd};

use clarateach_seatproto::files::{Change, Changed};
use http::StatusCode;
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    list,
    root::{Root, relative, split},
};
use crate::http::Refusal;

/// Directories within each other that are deleted; deeper ones are refused.
const DEEPEST: usize = 512;

/// Renames an entry or makes a directory.
pub(super) fn apply(root: &Root, path: &str, wanted: &Change) -> Result<Changed, Refusal> {
    match (&wanted.rename_to, wanted.mkdir) {
        (Some(target), None) => rename(root, path, &relative(target)?),
        (None, Some(true)) => {
            root.make_directories(path)?;
            Ok(Changed { path: path.to_owned() })
        }
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_BODY",
            r#"the body is {"rename_to":"…"} or {"mkdir":true}"#,
        )),
    }
}

fn rename(root: &Root, path: &str, target: &str) -> Result<Changed, Refusal> {
    let refuse = |e| Refusal::from_errno(e, target);
    let (parent, name) = split(path).ok_or_else(|| refuse(Errno::INVAL))?;
    let (new_parent, new_name) = split(target).ok_or_else(|| refuse(Errno::EXIST))?;
    let place = OFlags::PATH | OFlags::DIRECTORY;
    let from = root.open_at(parent, place, Mode::empty()).map_err(|e| Refusal::from_errno(e, path))?;
    root.stat_entry(&from, name).map_err(|e| Refusal::from_errno(e, path))?;
    let to = root.make_directories(new_parent)?;
    rustix::fs::renameat_with(&from, name, &to, new_name, RenameFlags::NOREPLACE).map_err(refuse)?;
    Ok(Changed { path: target.to_owned() })
}

/// Deletes an entry, and what is in it if it is a directory. Links are deleted themselves.
pub(super) fn remove(root: &Root, path: &str) -> Result<(), Refusal> {
    let refuse = |e| Refusal::from_errno(e, path);
    let (parent, name) = split(path).ok_or_else(|| refuse(Errno::INVAL))?;
    let directory = root.open_at(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(refuse)?;
    let name = CString::new(name).map_err(|_| refuse(Errno::INVAL))?;
    remove_entry(&directory, &name, 0).map_err(refuse)
}

fn remove_entry(directory: &OwnedFd, name: &CString, depth: usize) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name.as_c_str(), AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        done => return done,
    }
    if depth == DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name.as_c_str(), flags, Mode::empty()) {
        Ok(inner) => {
            // Names first: deleting while reading may skip some.
            for name in list::names(&inner)? {
                match remove_entry(&inner, &name, depth + 1) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        Err(Errno::NOTDIR) => return Err(Errno::PERM),
        // Unreadable, but perhaps empty.
        Err(Errno::ACCESS) => {}
        Err(other) => return Err(other),
    }
    rustix::fs::unlinkat(directory, name.as_c_str(), AtFlags::REMOVEDIR)
        .map_err(|e| if e == Errno::NOTEMPTY { Errno::ACCESS } else { e })
}
