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
    remove_entry(&directory, name).map_err(refuse)
}

/// A directory that is being emptied.
struct Level {
    directory: OwnedFd,
    /// Its name in the level above.
    name: CString,
    /// What is left in it.
    left: Vec<CString>,
}

/// Keeps the levels in memory and not on the stack, which is small and the learner's to fill.
fn remove_entry(base: &OwnedFd, name: CString) -> Result<(), Errno> {
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(name);
    loop {
        let above = levels.last().map_or(base, |level| &level.directory);
        if let Some(name) = next.take() {
            match begin(above, &name, levels.len() < DEEPEST) {
                Ok(Some((directory, left))) => levels.push(Level { directory, name, left }),
                Ok(None) => {}
                // Somebody else has deleted it.
                Err(Errno::NOENT) if !levels.is_empty() => {}
                Err(other) => return Err(other),
            }
        }
        let Some(level) = levels.last_mut() else { return Ok(()) };
        next = level.left.pop();
        if next.is_none()
            && let Some(emptied) = levels.pop()
        {
            let above = levels.last().map_or(base, |level| &level.directory);
            match remove_empty(above, &emptied.name) {
                Err(Errno::NOENT) if !levels.is_empty() => {}
                done => done?,
            }
        }
    }
}

/// Deletes an entry, or opens it and says what is in it if it is a directory.
fn begin(above: &OwnedFd, name: &CString, may_enter: bool) -> Result<Option<(OwnedFd, Vec<CString>)>, Errno> {
    match rustix::fs::unlinkat(above, name.as_c_str(), AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        done => return done.map(|()| None),
    }
    if !may_enter {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(above, name.as_c_str(), flags, Mode::empty()) {
        // Names first: deleting while reading may skip some.
        Ok(inner) => list::names(&inner).map(|names| Some((inner, names))),
        Err(Errno::NOTDIR) => Err(Errno::PERM),
        // Unreadable, but perhaps empty.
        Err(Errno::ACCESS) => remove_empty(above, name).map(|()| None),
        Err(other) => Err(other),
    }
}

fn remove_empty(above: &OwnedFd, name: &CString) -> Result<(), Errno> {
    rustix::fs::unlinkat(above, name.as_c_str(), AtFlags::REMOVEDIR)
        .map_err(|e| if e == Errno::NOTEMPTY { Errno::ACCESS } else { e })
}
