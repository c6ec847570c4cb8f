//! Layers, entry by entry.

use std::path::Path;

use tar::{EntryType, Header};

/// A layer in the making.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header
    }

    /// Writes the name as it is, where the library would refuse it.
    fn append(mut self, mut header: Header, path: &str, content: &[u8]) -> Self {
        if path.len() <= 100 {
            header.as_mut_bytes()[..100].fill(0);
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            self.0.append(&header, content).unwrap();
        } else {
            self.0.append_data(&mut header, path, content).unwrap();
        }
        self
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.append(Self::header(EntryType::Directory, mode, 0), path, b"")
    }

    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        self.append(Self::header(EntryType::Regular, 0o644, content.len() as u64), path, content)
    }

    pub fn executable(self, path: &str, content: &str) -> Self {
        self.append(Self::header(EntryType::Regular, 0o755, content.len() as u64), path, content.as_bytes())
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        let mut header = Self::header(EntryType::Symlink, 0o777, 0);
        header.set_link_name_literal(target).unwrap();
        self.append(header, path, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        let mut header = Self::header(EntryType::Link, 0o644, 0);
        header.set_link_name_literal(target).unwrap();
        self.append(header, path, b"")
    }

    pub fn device(self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(EntryType::Char, 0o600, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.append(header, path, b"")
    }

    pub fn fifo(self, path: &str) -> Self {
        self.append(Self::header(EntryType::Fifo, 0o600, 0), path, b"")
    }

    /// Extends the header of the next entry by a PAX record.
    pub fn pax(self, key: &str, value: &str) -> Self {
        let body = |len: usize| format!("{len} {key}={value}\n");
        let record =
            (1..).map(body).find(|record| record.starts_with(&format!("{} ", record.len()))).unwrap();
        self.append(Self::header(EntryType::XHeader, 0o644, record.len() as u64), "pax", record.as_bytes())
    }

    /// A file that says it has more content than follows.
    pub fn lying_file(self, path: &str, size: u64) -> Vec<u8> {
        let mut header = Self::header(EntryType::Regular, 0o644, size);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        let mut bytes = self.0.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[7; 512]);
        bytes
    }

    pub fn whiteout(self, path: &str) -> Self {
        let (directory, name) = path.rsplit_once('/').map_or(("", path), |(d, n)| (d, n));
        let path =
            if directory.is_empty() { format!(".wh.{name}") } else { format!("{directory}/.wh.{name}") };
        self.file(&path, "")
    }

    pub fn opaque(self, directory: &str) -> Self {
        self.file(&format!("{directory}/.wh..wh..opq"), "")
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A small image with a shell, users and an init.
pub fn base() -> Layer {
    Layer::new()
        .dir("./", 0o755)
        .dir("bin/", 0o755)
        .executable("bin/sh", "#!not really\n")
        .dir("sbin/", 0o755)
        .executable("sbin/init", "#!/bin/sh\n")
        .dir("etc/", 0o755)
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        .file("etc/group", "root:x:0:\n")
        .file("etc/shadow", "root:*:1:0:99999:7:::\n")
}

/// Unpacks a layer with GNU tar, and turns its whiteouts into those of overlayfs.
pub fn unpack(tar: &Path, into: &Path) {
    use std::os::unix::ffi::OsStrExt;
    std::fs::create_dir_all(into).unwrap();
    let flags = [
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--same-owner",
        "--delay-directory-restore",
        "-p",
        "-x",
    ];
    super::run(std::process::Command::new("tar").args(flags).arg("-f").arg(tar).arg("-C").arg(into));
    let mut pending = vec![into.to_owned()];
    while let Some(directory) = pending.pop() {
        // Removing the markers changes the time of the directory.
        let times = std::fs::metadata(&directory).unwrap().modified().unwrap();
        let mut changed = false;
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().as_bytes().to_vec();
            if let Some(hidden) = name.strip_prefix(b".wh.") {
                changed = true;
                std::fs::remove_file(&path).unwrap();
                if hidden == b".wh..opq" {
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::setxattr(&directory, "trusted.overlay.opaque", b"y", flags).unwrap();
                } else {
                    let hidden = directory.join(std::ffi::OsStr::from_bytes(hidden));
                    // A whiteout beside an entry of the same name: the entry is new, and hides what is below.
                    if let Ok(there) = std::fs::symlink_metadata(&hidden) {
                        if there.is_dir() {
                            let flags = rustix::fs::XattrFlags::empty();
                            rustix::fs::setxattr(&hidden, "trusted.overlay.opaque", b"y", flags).unwrap();
                        }
                    } else {
                        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
                        rustix::fs::mknodat(rustix::fs::CWD, &hidden, kind, mode, 0).unwrap();
                    }
                }
            } else if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                pending.push(path);
            }
        }
        if changed {
            std::fs::File::open(&directory).unwrap().set_modified(times).unwrap();
        }
    }
}
