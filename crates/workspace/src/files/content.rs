//! Reading and writing whole files.

use std::{
    fs::File,
    io::{Read, Write as _},
    os::fd::OwnedFd,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clarateach_seatproto::files::{Encoding, MAX_CONTENT_BYTES, Write, Written};
use http::StatusCode;
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

use super::{
    root::{Root, split},
    version,
};
use crate::{http::Refusal, json};

/// How the names of files in the making begin; listings leave them out.
pub(super) const TEMPORARY: &str = ".clarateach-tmp-";

/// The JSON of a [`clarateach_seatproto::files::Content`].
pub(super) fn read(root: &Root, path: &str) -> Result<Vec<u8>, Refusal> {
    let (file, stat) = root.open_file(path)?;
    let size = stat.st_size.unsigned_abs();
    if size > MAX_CONTENT_BYTES {
        return Err(Refusal::too_large(MAX_CONTENT_BYTES));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    // Files in /proc and growing ones are longer than they say.
    let read = File::from(file).take(MAX_CONTENT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| Refusal::from_errno(Errno::from_io_error(&e).unwrap_or(Errno::IO), path))?;
    if bytes.len() as u64 > MAX_CONTENT_BYTES {
        return Err(Refusal::too_large(MAX_CONTENT_BYTES));
    }

    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8 + 256);
    out.extend_from_slice(br#"{"path":"#);
    json::string_into(&mut out, path);
    out.extend_from_slice(br#","content":""#);
    let text = std::str::from_utf8(&bytes).ok().filter(|_| memchr::memchr(0, &bytes).is_none());
    let encoding = if let Some(text) = text {
        json::escape_into(&mut out, text);
        "utf-8"
    } else {
        let start = out.len();
        out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(&bytes, &mut out[start..]).map_err(|e| Refusal::internal(&e))?;
        out.truncate(start + written);
        "base64"
    };
    let _ = write!(
        out,
        r#"","encoding":"{encoding}","size":{},"mtime":{},"mode":{},"etag":"{}"}}"#,
        bytes.len(),
        version::mtime(&stat),
        version::mode(&stat),
        version::etag(&stat)
    );
    Ok(out)
}

/// Writes a file from its JSON. Tells whether it is new.
pub(super) fn write(root: &Root, path: &str, write: Write) -> Result<(Written, bool), Refusal> {
    let bytes = match write.encoding {
        Encoding::Utf8 => write.content.into_bytes(),
        Encoding::Base64 => STANDARD.decode(&write.content).map_err(|e| {
            Refusal::new(StatusCode::BAD_REQUEST, "INVALID_BODY", format!("the content is not base64: {e}"))
        })?,
    };
    if bytes.len() as u64 > MAX_CONTENT_BYTES {
        return Err(Refusal::too_large(MAX_CONTENT_BYTES));
    }
    let mut replacement = Replacement::begin(root, path, write.if_match.as_deref())?;
    replacement.append(&bytes)?;
    replacement.finish()
}

/// A file in the making beside the one it will replace.
///
/// The new content becomes visible at once and whole, by rename; the old file's mode is kept. Where the learner may
/// write the file but not its directory, or the file is a mount of its own, it is written in place instead.
#[derive(Debug)]
pub(super) struct Replacement {
    path: String,
    directory: OwnedFd,
    name: String,
    temporary: Option<String>,
    file: File,
    existing: Option<Stat>,
    must_be_new: bool,
}

impl Replacement {
    /// Checks the expected version and makes parents. `expected` is an etag, `""` for none, `*` for any.
    pub(super) fn begin(root: &Root, path: &str, expected: Option<&str>) -> Result<Replacement, Refusal> {
        let refuse = |e| Refusal::from_errno(e, path);
        let path = &resolve_link(root, path)?;
        let (parent, name) = split(path).ok_or_else(|| refuse(Errno::ISDIR))?;
        let directory = root.make_directories(parent)?;
        let existing = match root.stat_entry(&directory, name) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(other) => return Err(refuse(other)),
        };
        if let Some(stat) = &existing {
            match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                rustix::fs::FileType::RegularFile => {}
                rustix::fs::FileType::Directory => return Err(refuse(Errno::ISDIR)),
                _ => return Err(refuse(Errno::NXIO)),
            }
        }
        let is_expected = match (expected, &existing) {
            (None, _) | (Some(""), None) | (Some("*"), Some(_)) => true,
            (Some(etag), Some(stat)) => etag == version::etag(stat),
            (Some(_), None) => false,
        };
        if !is_expected {
            let message = format!("{path} has changed since it was read; read it again before writing");
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "CHANGED", message));
        }
        // A file that may not be written is not to be replaced either, though its directory would allow it.
        if existing.is_some() {
            rustix::fs::accessat(&directory, name, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS)
                .or_else(|e| if e == Errno::INVAL || e == Errno::NOSYS { Ok(()) } else { Err(e) })
                .map_err(refuse)?;
        }
        let temporary = format!("{TEMPORARY}{:016x}", getrandom::u64().map_err(|e| Refusal::internal(&e))?);
        let mode = existing.as_ref().map_or(0o644, version::mode);
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(&directory, &*temporary, new, Mode::from_raw_mode(0o600));
        let (file, temporary) = match opened {
            Ok(file) => (file, Some(temporary)),
            Err(Errno::ACCESS) if existing.is_some() => {
                let in_place = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                (rustix::fs::openat(&directory, name, in_place, Mode::empty()).map_err(refuse)?, None)
            }
            Err(other) => return Err(refuse(other)),
        };
        let replacement = Replacement {
            path: path.to_owned(),
            name: name.to_owned(),
            directory,
            temporary,
            file: file.into(),
            existing,
            must_be_new: expected == Some(""),
        };
        if replacement.temporary.is_some() {
            rustix::fs::fchmod(&replacement.file, Mode::from_raw_mode(mode)).map_err(refuse)?;
        }
        Ok(replacement)
    }

    /// Writes on.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.file.write_all(bytes).map_err(|e| self.refuse(Errno::from_io_error(&e).unwrap_or(Errno::IO)))
    }

    /// Puts the new file in its place, and tells whether there was none before.
    pub(super) fn finish(mut self) -> Result<(Written, bool), Refusal> {
        rustix::fs::fdatasync(&self.file).map_err(|e| self.refuse(e))?;
        if let Some(temporary) = &self.temporary {
            let flags = if self.must_be_new { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
            match rustix::fs::renameat_with(
                &self.directory,
                &**temporary,
                &self.directory,
                &*self.name,
                flags,
            ) {
                Ok(()) => {
                    self.temporary = None;
                    // The name too, before the learner is told that the file is saved: a microVM may end at any moment.
                    rustix::fs::fsync(&self.file).map_err(|e| self.refuse(e))?;
                }
                Err(Errno::EXIST) => {
                    let message = format!("{} has appeared meanwhile; read it before writing", self.path);
                    return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "CHANGED", message));
                }
                Err(other) => return Err(self.refuse(other)),
            }
        }
        let stat = rustix::fs::fstat(&self.file).map_err(|e| self.refuse(e))?;
        let written = Written {
            path: self.path.clone(),
            size: stat.st_size.unsigned_abs(),
            mtime: version::mtime(&stat),
            mode: version::mode(&stat),
            etag: version::etag(&stat),
        };
        Ok((written, self.existing.is_none()))
    }

    fn refuse(&self, errno: Errno) -> Refusal {
        Refusal::from_errno(errno, &self.path)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.directory, &**temporary, AtFlags::empty());
        }
    }
}

/// Where a write to a path goes: to what a symbolic link points to, so that the link stays one.
fn resolve_link(root: &Root, path: &str) -> Result<String, Refusal> {
    let refuse = |e| Refusal::from_errno(e, path);
    let link = match root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(entry) => rustix::fs::fstat(&entry)
            .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Symlink),
        Err(Errno::NOENT) => false,
        Err(other) => return Err(refuse(other)),
    };
    if !link {
        return Ok(path.to_owned());
    }
    root.real_path(path).map_err(refuse)
}
