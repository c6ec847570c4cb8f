//! What is known of an entry besides its name and its content.

/// A point in time with nanoseconds, as an inode stores it.
///
/// ext4 holds 34 bits of seconds: times before 1901-12-13 or after 2446-05-10 are stored as the nearest that it can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before it.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl Timestamp {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = i32::MIN as i64 + (1 << 34) - 1;

    /// A time of whole seconds.
    pub fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }

    /// The two fields of an inode: the low 32 bits of the seconds, and the "extra" word with the nanoseconds in its
    /// upper 30 bits and the epoch in its lower two.
    pub(crate) fn encode(self) -> (u32, u32) {
        let seconds = self.seconds.clamp(Self::FIRST, Self::LAST);
        let low = seconds as i32;
        let epoch = ((seconds - i64::from(low)) >> 32) as u32 & 3;
        (low as u32, self.nanoseconds.min(999_999_999) << 2 | epoch)
    }
}

/// An extended attribute with its full name, for example `user.note` or `security.capability`.
///
/// `system.posix_acl_access` and `system.posix_acl_default` are given in the form that `getxattr(2)` returns; the image
/// gets ext4's own form of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Xattr {
    /// Full name with its namespace prefix.
    pub name: Vec<u8>,
    /// Value, any bytes.
    pub value: Vec<u8>,
}

impl Xattr {
    /// Whether Linux knows the namespace of its name. Attributes without one, as other systems have them, can't be stored.
    pub fn has_namespace(&self) -> bool {
        crate::xattr::split_name(&self.name).is_some()
    }
}

/// Owner, permissions, time and extended attributes of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky (`0o7777`); type bits are ignored.
    pub mode: u16,
    /// Owner; all 32 bits are stored.
    pub uid: u32,
    /// Group; all 32 bits are stored.
    pub gid: u32,
    /// Modification time; access, change and creation time are set to the same.
    pub mtime: Timestamp,
    /// Extended attributes, in any order, without duplicates.
    pub xattrs: Vec<Xattr>,
}

impl Metadata {
    /// Metadata of an entry that root owns, with the given permission bits, at the start of 1970.
    pub fn root(mode: u16) -> Self {
        Self { mode, ..Self::default() }
    }
}

/// A special file that has no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
    /// Character device with its major and minor number.
    CharDevice(u32, u32),
    /// Block device with its major and minor number.
    BlockDevice(u32, u32),
}

/// Type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Directory.
    Directory,
    /// Regular file.
    File,
    /// Symbolic link.
    Symlink,
    /// Fifo, socket or device.
    Special,
}

/// Where the data of a regular file lies; the rest of it are holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMap {
    pub(crate) size: u64,
    pub(crate) segments: Segments,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segments {
    Dense,
    Sparse(Vec<(u64, u64)>),
}

impl FileMap {
    /// A file of `size` bytes without holes.
    pub fn dense(size: u64) -> Self {
        Self { size, segments: Segments::Dense }
    }

    /// A file of `size` bytes with data only in `segments`, each an offset and a length in bytes.
    ///
    /// The content given with it is the data of the segments, one after the other. Segments must ascend and must neither
    /// overlap nor reach beyond `size`; this is checked when the file is added.
    pub fn sparse(size: u64, segments: Vec<(u64, u64)>) -> Self {
        Self { size, segments: Segments::Sparse(segments) }
    }

    /// Logical size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of data that the content has to deliver.
    pub fn data_len(&self) -> u64 {
        match &self.segments {
            Segments::Dense => self.size,
            Segments::Sparse(segments) => segments.iter().map(|(_, len)| len).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_32_bits_use_the_epoch_bits() {
        assert_eq!(Timestamp { seconds: 1, nanoseconds: 5 }.encode(), (1, 5 << 2));
        assert_eq!(Timestamp::from_seconds(-1).encode(), (u32::MAX, 0));
        assert_eq!(Timestamp::from_seconds(1 << 31).encode(), (1 << 31, 1));
        assert_eq!(Timestamp::from_seconds(1 << 32).encode(), (0, 1));
        assert_eq!(Timestamp::from_seconds(i64::MAX).encode(), (0x7fff_ffff, 3));
        assert_eq!(Timestamp::from_seconds(i64::MIN).encode(), (0x8000_0000, 0));
    }
}
