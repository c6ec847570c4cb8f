//! Directory listings.

use std::{
    ffi::CString,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use clarateach_seatproto::files::MAX_ENTRIES;
use rustix::{
    fs::{AtFlags, FileType, RawDir},
    io::Errno,
};

use super::{content::TEMPORARY, root::Root, version};
use crate::{http::Refusal, json};

/// The JSON of a [`clarateach_seatproto::files::Listing`], by name.
pub(super) fn listing(root: &Root, path: &str) -> Result<Vec<u8>, Refusal> {
    of_directory(path, &root.open_directory(path)?).map_err(|e| Refusal::from_errno(e, path))
}

/// The same of a directory that is open already.
fn of_directory(path: &str, directory: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut names = names(directory)?;
    names.retain(|name| !name.to_bytes().starts_with(TEMPORARY.as_bytes()));
    names.sort_unstable();
    let truncated = names.len() > MAX_ENTRIES;
    names.truncate(MAX_ENTRIES);

    let mut out = Vec::with_capacity(64 + names.len() * 112);
    out.extend_from_slice(br#"{"path":"#);
    json::string_into(&mut out, path);
    out.extend_from_slice(br#","entries":["#);
    let mut first = true;
    for name in &names {
        // What is gone by now is not listed.
        let Ok(stat) = rustix::fs::statat(directory, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            _ => "other",
        };
        out.extend_from_slice(if first { br#"{"name":"# } else { br#",{"name":"# });
        first = false;
        json::string_into(&mut out, &name.to_string_lossy());
        let numbers = [
            (&br#"","size":"#[..], stat.st_size.unsigned_abs()),
            (br#","mtime":"#, version::mtime(&stat).max(0).unsigned_abs()),
            (br#","mode":"#, version::mode(&stat).into()),
        ];
        out.extend_from_slice(br#","type":""#);
        out.extend_from_slice(kind.as_bytes());
        for (name, number) in numbers {
            out.extend_from_slice(name);
            json::number_into(&mut out, number);
        }
        out.push(b'}');
    }
    out.extend_from_slice(if truncated { br#"],"truncated":true}"# } else { b"]}" });
    Ok(out)
}

/// The names in a directory, without itself and its parent, in no order. A directory is read from its beginning.
pub(super) fn names(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// The names of the directories in a directory, links to directories not included.
pub(super) fn subdirectories(directory: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut found = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_type() == FileType::Directory
            && let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}
