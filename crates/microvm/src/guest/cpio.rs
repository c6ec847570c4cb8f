//! The archive that Linux unpacks as its first root: cpio in the "new ASCII" form (`newc`), see
//! Documentation/driver-api/early-userspace/buffer-format.rst.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const FILE: u32 = 0o100_000;

/// An archive in memory. Equal entries in equal order give equal bytes: nothing has a time or an owner but root.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn directory(&mut self, name: &str, mode: u32) {
        self.entry(name, DIRECTORY | mode, (0, 0), &[]);
    }

    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, FILE | mode, (0, 0), content);
    }

    pub(super) fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    /// The archive, ended and padded to whole disk blocks as other writers do.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.header(TRAILER, 0, (0, 0), 0, 0);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        self.header(name, mode, device, content.len(), self.entries);
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Fields: inode, mode, uid, gid, links, mtime, size, device of the file, device that it is, length of the name with
    /// its NUL, checksum (unused).
    fn header(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), size: usize, inode: u32) {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, length, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Name, mode, device, content.
    pub(crate) type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// What an archive holds. Reads by the format's description, not by the writer above.
    pub(crate) fn read(mut archive: &[u8]) -> Vec<Entry> {
        let whole = archive.len();
        let mut found = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701", "at byte {}", whole - archive.len());
            let field = |n: usize| {
                u32::from_str_radix(std::str::from_utf8(&archive[6 + 8 * n..14 + 8 * n]).unwrap(), 16)
                    .unwrap()
            };
            let (mode, size, device, length) =
                (field(1), field(6) as usize, (field(9), field(10)), field(11) as usize);
            assert_eq!(archive[110 + length - 1], 0);
            let name = String::from_utf8(archive[110..110 + length - 1].to_vec()).unwrap();
            let content = (110 + length).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert!(archive[content..].iter().all(|b| *b == 0));
                return found;
            }
            found.push((name, mode, device, archive[content..content + size].to_vec()));
            archive = &archive[(content + size).next_multiple_of(4)..];
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_is_what_is_read(
            files in proptest::collection::vec(("[a-z./_-]{1,40}", proptest::collection::vec(any::<u8>(), 0..200), 0u32..0o7777), 0..8)
        ) {
            let mut archive = Archive::default();
            archive.directory("dev", 0o755);
            archive.character_device("dev/console", 0o600, 5, 1);
            for (name, content, mode) in &files {
                archive.file(name, *mode, content);
            }
            let found = read(&archive.finish());
            prop_assert_eq!(&found[0], &("dev".to_owned(), 0o040_755, (0, 0), vec![]));
            prop_assert_eq!(&found[1], &("dev/console".to_owned(), 0o020_600, (5, 1), vec![]));
            let expected: Vec<_> = files.into_iter().map(|(name, content, mode)| (name, 0o100_000 | mode, (0, 0), content)).collect();
            prop_assert_eq!(&found[2..], &expected[..]);
        }
    }
}
