//! The workspace directory, and opening what lies beneath it.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use http::StatusCode;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use crate::http::Refusal;

/// Symbolic links followed in one path before it counts as a loop, as in the kernel.
const MOST_LINKS: usize = 40;
/// Longest path, in bytes.
const LONGEST: usize = 4096;

/// The workspace directory.
#[derive(Debug)]
pub(super) struct Root {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// Checks a path from a client and makes it relative: `""` is the workspace itself.
pub(super) fn relative(path: &str) -> Result<String, Refusal> {
    let invalid =
        |why: &str| Refusal::new(StatusCode::BAD_REQUEST, "INVALID_PATH", format!("the path {why}"));
    if path.contains('\0') {
        return Err(invalid("has a NUL in it"));
    }
    if path.starts_with('/') {
        return Err(invalid("must be relative to the workspace"));
    }
    if path.len() > LONGEST {
        return Err(invalid("is too long"));
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                let message = "the path must not contain `..`";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "OUTSIDE_WORKSPACE", message));
            }
            part if part.len() > 255 => return Err(invalid("has a name of more than 255 bytes")),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Splits a checked path into its directory and last name; the workspace itself has neither.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    if path.is_empty() {
        return None;
    }
    Some(path.rsplit_once('/').unwrap_or(("", path)))
}

impl Root {
    pub(super) fn open(path: PathBuf) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
        Ok(Root { descriptor, path })
    }

    /// Opens a path beneath the workspace, following links that stay inside.
    pub(super) fn open_at(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        // openat2(2) refuses flags that mean nothing beside O_PATH.
        let never_wait = OFlags::NOCTTY | OFlags::NONBLOCK;
        let flags =
            flags | OFlags::CLOEXEC | if flags.contains(OFlags::PATH) { OFlags::empty() } else { never_wait };
        let path = if path.is_empty() { "." } else { path };
        match self.open_beneath(path, flags, mode) {
            // Perhaps a link with an absolute path that leads back in.
            Err(Errno::XDEV) => self.open_beneath(&self.follow(path)?, flags, mode),
            other => other,
        }
    }

    fn open_beneath<P: rustix::path::Arg>(
        &self,
        path: P,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let path = path.into_c_str()?;
        loop {
            // EAGAIN says that something was renamed on the way, see openat2(2).
            match rustix::fs::openat2(&self.descriptor, &*path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Opens a directory for reading or as a place for others.
    pub(super) fn open_directory(&self, path: &str) -> Result<OwnedFd, Refusal> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|e| Refusal::from_errno(e, path))
    }

    /// Opens a regular file for reading; pipes and devices are refused and never waited for.
    pub(super) fn open_file(&self, path: &str) -> Result<(OwnedFd, Stat), Refusal> {
        let refuse = |e| Refusal::from_errno(e, path);
        let file = self.open_at(path, OFlags::RDONLY, Mode::empty()).map_err(refuse)?;
        let stat = rustix::fs::fstat(&file).map_err(refuse)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((file, stat)),
            FileType::Directory => Err(refuse(Errno::ISDIR)),
            _ => Err(refuse(Errno::NXIO)),
        }
    }

    /// Opens a directory, making it and its parents where they are missing.
    pub(super) fn make_directories(&self, path: &str) -> Result<OwnedFd, Refusal> {
        let place = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_at(path, place, Mode::empty()) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|e| Refusal::from_errno(e, path)),
        }
        let mut made = String::new();
        let mut parent = self.open_at("", place, Mode::empty()).map_err(|e| Refusal::from_errno(e, ""))?;
        for name in path.split('/') {
            if let Err(error) = rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                && error != Errno::EXIST
            {
                return Err(Refusal::from_errno(error, path));
            }
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(name);
            parent = self.open_at(&made, place, Mode::empty()).map_err(|e| Refusal::from_errno(e, &made))?;
        }
        Ok(parent)
    }

    /// Follows the links in a path by hand, taking absolute ones that begin with the workspace's own path as what they
    /// mean. The result has no links, unless something changed meanwhile, and is opened beneath the root as before.
    fn follow(&self, path: &str) -> Result<PathBuf, Errno> {
        let mut left: VecDeque<Vec<u8>> = parts(path.as_bytes());
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == b".." {
                done.pop().ok_or(Errno::XDEV)?;
                continue;
            }
            done.push(part);
            let here = joined(&done);
            let no_follow = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = match self.open_beneath(&here, no_follow, Mode::empty()) {
                // The last one may be about to be made.
                Err(Errno::NOENT) if left.is_empty() => break,
                other => other?,
            };
            let stat = rustix::fs::fstat(&entry)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&entry, "", Vec::new())?.into_bytes();
            done.pop();
            let mut inside = if target.starts_with(b"/") {
                let inside = Path::new(OsStr::from_bytes(&target))
                    .strip_prefix(&self.path)
                    .map_err(|_| Errno::XDEV)?;
                done.clear();
                parts(inside.as_os_str().as_bytes())
            } else {
                parts(&target)
            };
            inside.append(&mut left);
            left = inside;
        }
        Ok(if done.is_empty() { ".".into() } else { joined(&done) })
    }

    /// The path without links that a path with links means.
    pub(super) fn real_path(&self, path: &str) -> Result<String, Errno> {
        let real = self.follow(path)?;
        Ok(real.to_str().ok_or(Errno::INVAL)?.to_owned())
    }

    /// Looks at an entry without following it if it is a link. The directory is opened beneath the workspace.
    pub(super) fn stat_entry(&self, directory: &OwnedFd, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn parts(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec).collect()
}

fn joined(parts: &[Vec<u8>]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&parts.join(&b'/')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_checked_and_cleaned() {
        assert_eq!(relative("").unwrap(), "");
        assert_eq!(relative("./a//b/").unwrap(), "a/b");
        assert_eq!(relative("..a/b..").unwrap(), "..a/b..");
        for (bad, code) in [
            ("/etc/passwd", "INVALID_PATH"),
            ("a\0b", "INVALID_PATH"),
            ("..", "OUTSIDE_WORKSPACE"),
            ("a/../..", "OUTSIDE_WORKSPACE"),
        ] {
            assert_eq!(relative(bad).unwrap_err().code, code);
        }
        assert_eq!(relative(&"x".repeat(256)).unwrap_err().code, "INVALID_PATH");
    }

    proptest! {
        /// Whatever links are laid inside a workspace, nothing outside of it is ever opened.
        #[test]
        fn no_path_leads_out(
            links in proptest::collection::vec(("[a-c]", prop_oneof![
                "(\\.\\./|[a-c]/|\\./){0,4}[a-c]?",
                Just("/".to_owned()),
                Just("ROOT/a".to_owned()),
                Just("ROOT/../outside".to_owned()),
                Just("/proc/self/root".to_owned()),
            ]), 0..6),
            path in "([a-c.]{1,2}/){0,4}[a-d]",
        ) {
            let place = tempfile::tempdir().unwrap();
            let root_path = place.path().join("root");
            for inside in ["", "c", "c/a"] {
                let _ = std::fs::create_dir(root_path.join(inside));
            }
            std::fs::write(place.path().join("outside"), "secret").unwrap();
            for (name, target) in &links {
                let target = target.replace("ROOT", root_path.to_str().unwrap());
                let _ = std::os::unix::fs::symlink(target, root_path.join(name));
            }
            let root = Root::open(root_path.clone()).unwrap();
            if let Ok(path) = relative(&path)
                && let Ok(file) = root.open_at(&path, OFlags::PATH, Mode::empty())
            {
                let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
                let real = std::fs::read_link(descriptor).unwrap();
                prop_assert!(real.starts_with(&root_path), "{path} opened {real:?} with {links:?}");
            }
        }
    }
}
