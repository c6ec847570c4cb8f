//! Names for versions of a file: what an editor gives back so that it overwrites nothing it has not seen.

use rustix::fs::Stat;

/// Changes whenever the content does: inode, size and time of the last change to either.
pub(super) fn etag(stat: &Stat) -> String {
    format!("{:x}-{:x}-{:x}.{:x}", stat.st_ino, stat.st_size, stat.st_ctime, stat.st_ctime_nsec)
}

/// Last change of the content, in milliseconds since 1970.
pub(super) fn mtime(stat: &Stat) -> i64 {
    stat.st_mtime.saturating_mul(1000).saturating_add_unsigned(stat.st_mtime_nsec / 1_000_000)
}

/// Permission bits.
pub(super) fn mode(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}
