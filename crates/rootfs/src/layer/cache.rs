//! Unpacked layers, kept from one build to the next under the digest of their content.
//!
//! A layer goes into the cache only after its digest has been checked. When it comes out, it is checked again unless the file
//! is still as it was: same place, size, modification and change time, which no write leaves as they are. So a damaged cache
//! costs time and never correctness. The same is noted of plain layers outside the cache, which are then not hashed in every
//! build. What was used longest ago goes first when the limit is reached.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::digest::Digest;

/// The most that the cache keeps, in bytes.
pub const LIMIT: u64 = 20 << 30;

/// A directory of layers and of notes on what was built; or none, when there is no place for it.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: Option<PathBuf>,
}

/// What the filesystem says of a part of a file: two equal states mean that nothing was written in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileState(String);

impl FileState {
    /// The state of a file, for the part that begins at `offset`.
    pub(super) fn of(file: &File, offset: u64) -> Option<Self> {
        let m = file.metadata().ok()?;
        let (modified, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
        Some(Self(format!("{} {} {} {offset} {modified:?} {changed:?}", m.dev(), m.ino(), m.size())))
    }
}

impl Cache {
    /// The cache in `directory`, which is made if it is missing. If that can't be done there is no cache.
    pub fn new(directory: Option<PathBuf>) -> Self {
        let usable = |directory: &PathBuf| {
            fs::create_dir_all(directory.join("layers")).is_ok()
                && fs::create_dir_all(directory.join("built")).is_ok()
                && fs::create_dir_all(directory.join("checked")).is_ok()
                && fs::create_dir_all(directory.join("archives")).is_ok()
                && rustix::fs::access(directory.join("layers"), rustix::fs::Access::WRITE_OK).is_ok()
        };
        Self { directory: directory.filter(usable) }
    }

    /// `CLARATEACH_CACHE_DIR`, else `clarateach/rootfs` in `XDG_CACHE_HOME` or in `.cache` of the home directory.
    /// `off` means none.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = match variable("CLARATEACH_CACHE_DIR") {
            Some(value) if value == "off" => None,
            Some(value) => Some(PathBuf::from(value)),
            None => variable("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")))
                .map(|base| base.join("clarateach/rootfs")),
        };
        Self::new(directory)
    }

    /// Where it is.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Where notes on a build of `output` are kept.
    pub fn note(&self, output: &Path) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let name = Digest::of(output.as_os_str().as_bytes()).hex();
        Some(self.directory.as_ref()?.join("built").join(name))
    }

    /// A nameless file to unpack into: in the cache if there is one, else where temporary files go.
    ///
    /// # Errors
    /// If no such file can be made in either place.
    pub fn nameless_file(&self) -> io::Result<File> {
        if let Some(directory) = &self.directory {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let made = rustix::fs::open(directory.join("layers"), flags, Mode::RUSR | Mode::WUSR);
            if let Ok(file) = made {
                return Ok(File::from(file));
            }
        }
        tempfile::tempfile()
    }

    /// A layer that was kept.
    pub fn get(&self, diff_id: &Digest) -> Option<File> {
        let file = File::open(self.path(diff_id)?).ok()?;
        // The note says when the layer was last used; the layer itself must stay as it is.
        if let Ok(note) = File::options().append(true).create(true).open(self.check_note(diff_id)?) {
            let _ = note.set_modified(SystemTime::now());
        }
        Some(file)
    }

    /// Whether these bytes have been checked against a digest and not been written to since.
    pub(super) fn is_checked(&self, digest: &Digest, state: &FileState) -> bool {
        self.check_note(digest)
            .and_then(|note| fs::read_to_string(note).ok())
            .is_some_and(|text| text == state.0)
    }

    /// Notes that these bytes have been checked against a digest, in the state they were in before that.
    pub(super) fn note_checked(&self, digest: &Digest, state: &FileState) {
        if let Some(note) = self.check_note(digest) {
            let _ = fs::write(note, &state.0);
        }
    }

    /// The image that was found in an archive when that was in this state.
    pub(crate) fn image_in(&self, archive: &FileState) -> Option<Digest> {
        fs::read_to_string(self.archive_note(archive)?).ok()?.parse().ok()
    }

    /// Notes which image an archive has.
    pub(crate) fn note_image_in(&self, archive: &FileState, image: &Digest) {
        if let Some(note) = self.archive_note(archive) {
            let _ = fs::write(note, image.to_string());
        }
    }

    fn archive_note(&self, archive: &FileState) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("archives").join(Digest::of(archive.0.as_bytes()).hex()))
    }

    fn check_note(&self, digest: &Digest) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("checked").join(digest.hex()))
    }

    /// Takes a layer away, because it is damaged.
    pub fn remove(&self, diff_id: &Digest) {
        if let Some(path) = self.path(diff_id) {
            let _ = fs::remove_file(path);
        }
    }

    /// Keeps an unpacked and checked layer. The cache is a convenience: what can't be kept is not kept.
    pub fn keep(&self, diff_id: &Digest, nameless: &File) {
        let Some(path) = self.path(diff_id) else { return };
        let proc = format!("/proc/self/fd/{}", nameless.as_raw_fd());
        if rustix::fs::linkat(CWD, proc, CWD, &path, AtFlags::SYMLINK_FOLLOW).is_ok()
            && let Some(state) = FileState::of(nameless, 0)
        {
            self.note_checked(diff_id, &state);
        }
        self.shrink(LIMIT);
    }

    fn path(&self, diff_id: &Digest) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("layers").join(diff_id.hex()))
    }

    /// Removes the layers that were used longest ago until what is left is at most `limit` bytes.
    fn shrink(&self, limit: u64) {
        let Some(directory) = &self.directory else { return };
        let Ok(list) = fs::read_dir(directory.join("layers")) else { return };
        let mut files: Vec<_> = list
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok()?;
                let note = directory.join("checked").join(entry.file_name());
                let used = fs::metadata(note).unwrap_or_else(|_| metadata.clone()).modified().ok()?;
                Some((used, metadata.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if total <= limit {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_kept_can_be_had_again_until_there_is_too_much() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(directory.path().join("new")));
        let digests: Vec<_> = (0..3u8).map(|n| Digest::of(&[n])).collect();
        for (age, digest) in digests.iter().enumerate() {
            let mut file = cache.nameless_file().unwrap();
            file.write_all(&[7; 100]).unwrap();
            cache.keep(digest, &file);
            let kept = File::options().append(true).open(cache.check_note(digest).unwrap()).unwrap();
            let old = SystemTime::now() - std::time::Duration::from_secs(1000 - age as u64);
            kept.set_modified(old).unwrap();
        }
        let mut content = Vec::new();
        cache.get(&digests[0]).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, [7; 100]);
        cache.shrink(200);
        assert!(cache.get(&digests[0]).is_some(), "used just now");
        assert!(cache.get(&digests[1]).is_none(), "used longest ago");
        cache.remove(&digests[0]);
        assert!(cache.get(&digests[0]).is_none());
    }

    #[test]
    fn without_a_place_nothing_is_kept_and_everything_works() {
        let cache = Cache::new(Some(PathBuf::from("/proc/nowhere")));
        assert!(cache.directory().is_none());
        cache.keep(&Digest::of(b""), &cache.nameless_file().unwrap());
        assert!(cache.get(&Digest::of(b"")).is_none());
    }
}
