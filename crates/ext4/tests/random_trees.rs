//! Random trees, each written, checked by e2fsck, mounted by Linux and compared with what went in.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod oracle;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use clarateach_ext4::{FileMap, Kind, Metadata, Node, Options, Special, Timestamp, Writer, Xattr};
use oracle::{Mount, build, can_mount, fsck};
use proptest::prelude::*;

/// One call on the writer; directories and targets are picked among those that are there.
#[derive(Debug, Clone)]
enum Call {
    Directory(Meta),
    File(Meta, u32, u8),
    Sparse(Meta, Vec<(u16, u16)>),
    Symlink(Meta, u16),
    Special(Meta, u8, u16, u32),
    Link,
    Remove,
    Describe(Meta),
}

#[derive(Debug, Clone)]
struct Meta {
    mode: u16,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanoseconds: u32,
    xattrs: Vec<(u8, u16)>,
}

impl Meta {
    fn metadata(&self) -> Metadata {
        let mut sizes: BTreeMap<u8, u16> = self.xattrs.iter().copied().collect();
        // What one inode and one block hold.
        let mut total = 0;
        sizes.retain(|_, size| {
            total += usize::from(*size) + 40;
            total < 3800
        });
        let xattr = |(&name, &size): (&u8, &u16)| Xattr {
            name: format!("{}.n{name}", ["user", "trusted", "security"][usize::from(name) % 3]).into_bytes(),
            value: vec![name; usize::from(size)],
        };
        let mtime = Timestamp { seconds: self.seconds, nanoseconds: self.nanoseconds };
        Metadata {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime,
            xattrs: sizes.iter().map(xattr).collect(),
        }
    }
}

/// What should be found.
#[derive(Debug, Clone)]
struct Expected {
    metadata: Metadata,
    what: What,
    /// Which of the entries are the same inode.
    inode: usize,
}

#[derive(Debug, Clone)]
enum What {
    Directory,
    File(u64, Vec<(u64, Vec<u8>)>),
    Symlink(Vec<u8>),
    Special(Special),
}

fn meta() -> impl Strategy<Value = Meta> {
    let xattrs = prop::collection::vec((0u8..12, prop_oneof![0u16..30, 0u16..2000]), 0..4);
    let seconds = prop_oneof![0i64..2_000_000_000, -(1i64 << 31)..(1i64 << 33)];
    (0u16..0o10000, any::<u32>(), any::<u32>(), seconds, 0u32..1_000_000_000, xattrs).prop_map(
        // An owner of -1 means "leave it" to chown(2), and nothing else can be told from it.
        |(mode, uid, gid, seconds, nanoseconds, xattrs)| Meta {
            mode,
            uid: uid.min(u32::MAX - 1),
            gid: gid.min(u32::MAX - 1),
            seconds,
            nanoseconds,
            xattrs,
        },
    )
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => meta().prop_map(Call::Directory),
        5 => (meta(), prop_oneof![0u32..100, 0u32..20_000, 0u32..3_000_000], any::<u8>())
            .prop_map(|(m, len, byte)| Call::File(m, len, byte)),
        2 => (meta(), prop::collection::vec((1u16..9000, 1u16..9000), 0..12)).prop_map(|(m, s)| Call::Sparse(m, s)),
        2 => (meta(), prop_oneof![1u16..70, 1u16..4096]).prop_map(|(m, len)| Call::Symlink(m, len)),
        1 => (meta(), 0u8..4, 0u16..4096, 0u32..(1 << 20)).prop_map(|(m, k, a, b)| Call::Special(m, k, a, b)),
        2 => Just(Call::Link),
        2 => Just(Call::Remove),
        1 => meta().prop_map(Call::Describe),
    ]
}

type Step = (Call, prop::sample::Index, Vec<u8>);

fn step() -> impl Strategy<Value = Step> {
    let name = prop_oneof![
        4 => prop::collection::vec(b'a'..=b'f', 1..4),
        1 => prop::collection::vec(prop_oneof![1u8..b'/', (b'/' + 1)..=255], 1..=255)
            .prop_filter("no name", |name| name != b"." && name != b".."),
    ];
    (call(), any::<prop::sample::Index>(), name)
}

/// Does the steps; returns what should be found, by path.
fn play(writer: &mut Writer, steps: &[Step]) -> BTreeMap<Vec<u8>, Expected> {
    let mut model: BTreeMap<Vec<u8>, (Node, Expected)> = BTreeMap::new();
    for (number, (call, pick, name)) in steps.iter().enumerate() {
        let directories: Vec<(Vec<u8>, Node)> = std::iter::once((Vec::new(), Node::ROOT))
            .chain(
                model
                    .iter()
                    .filter(|(_, (_, e))| matches!(e.what, What::Directory))
                    .map(|(p, (n, _))| (p.clone(), *n)),
            )
            .collect();
        let (parent_path, parent) = directories[pick.index(directories.len())].clone();
        let path =
            if parent_path.is_empty() { name.clone() } else { [&parent_path[..], b"/", name].concat() };
        let existing: Vec<Vec<u8>> = model.keys().cloned().collect();
        if let Call::Remove | Call::Describe(_) = call {
            let Some(path) = existing.get(pick.index(existing.len().max(1))) else { continue };
            let (node, expected) = model[path].clone();
            if let Call::Describe(meta) = call {
                writer.set_metadata(node, &meta.metadata()).unwrap();
                for (_, other) in model.values_mut().filter(|(_, other)| other.inode == expected.inode) {
                    other.metadata = meta.metadata();
                }
            } else {
                writer.remove(node);
                let below = [&path[..], b"/"].concat();
                model.retain(|other, _| other != path && !other.starts_with(&below));
            }
            continue;
        }
        if model.contains_key(&path) || path == b"lost+found" {
            assert!(writer.directory(parent, name, &Metadata::root(0)).is_err());
            continue;
        }
        let (node, expected) = match call {
            Call::Directory(meta) => {
                let metadata = meta.metadata();
                (
                    writer.directory(parent, name, &metadata),
                    Expected { metadata, what: What::Directory, inode: number },
                )
            }
            Call::File(meta, len, byte) => {
                let metadata = meta.metadata();
                let content: Vec<u8> = (0..*len).map(|i| (i % 251) as u8 ^ byte).collect();
                let map = FileMap::dense(u64::from(*len));
                let node = writer.file(parent, name, &metadata, &map, &mut &content[..]);
                let what = What::File(u64::from(*len), vec![(0, content)]);
                (node, Expected { metadata, what, inode: number })
            }
            Call::Sparse(meta, runs) => {
                let metadata = meta.metadata();
                let (mut at, mut segments, mut content, mut parts) = (0, Vec::new(), Vec::new(), Vec::new());
                for (gap, len) in runs {
                    at += u64::from(*gap) * 5;
                    let data = vec![(at % 255) as u8 + 1; usize::from(*len)];
                    segments.push((at, u64::from(*len)));
                    content.extend_from_slice(&data);
                    parts.push((at, data));
                    at += u64::from(*len);
                }
                let map = FileMap::sparse(at + 777, segments);
                let node = writer.file(parent, name, &metadata, &map, &mut &content[..]);
                (node, Expected { metadata, what: What::File(at + 777, parts), inode: number })
            }
            Call::Symlink(meta, len) => {
                let metadata = meta.metadata();
                let target: Vec<u8> = (0..*len).map(|i| b'a' + (i % 26) as u8).collect();
                let node = writer.symlink(parent, name, &metadata, &target);
                (node, Expected { metadata, what: What::Symlink(target), inode: number })
            }
            Call::Special(meta, kind, major, minor) => {
                let metadata = meta.metadata();
                let special = match kind {
                    0 => Special::Fifo,
                    1 => Special::Socket,
                    2 => Special::CharDevice(u32::from(*major), *minor),
                    _ => Special::BlockDevice(u32::from(*major), *minor),
                };
                let node = writer.special(parent, name, &metadata, special);
                (node, Expected { metadata, what: What::Special(special), inode: number })
            }
            Call::Link => {
                let Some(target) = existing.get(pick.index(existing.len().max(1))) else { continue };
                let (target, expected) = model[target].clone();
                if writer.kind(target) == Kind::Directory {
                    assert!(writer.link(parent, name, target).is_err());
                    continue;
                }
                (writer.link(parent, name, target), expected)
            }
            Call::Remove | Call::Describe(_) => continue,
        };
        model.insert(path, (node.unwrap(), expected));
    }
    model.into_iter().map(|(path, (_, expected))| (path, expected)).collect()
}

fn compare(root: &Path, model: &BTreeMap<Vec<u8>, Expected>) {
    let mut found = 0;
    let mut inodes: BTreeMap<usize, u64> = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path == root.join("lost+found") {
                continue;
            }
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                pending.push(path);
            }
            found += 1;
        }
    }
    assert_eq!(found, model.len());
    for (name, expected) in model {
        let path = root.join(OsStr::from_bytes(name));
        let metadata = fs::symlink_metadata(&path).unwrap();
        let wanted = &expected.metadata;
        assert_eq!(metadata.mode() as u16 & 0o7777, wanted.mode, "{path:?}");
        assert_eq!((metadata.uid(), metadata.gid()), (wanted.uid, wanted.gid), "{path:?}");
        let time = (metadata.mtime(), metadata.mtime_nsec());
        assert_eq!(time, (wanted.mtime.seconds, i64::from(wanted.mtime.nanoseconds)), "{path:?}");
        assert_eq!(*inodes.entry(expected.inode).or_insert(metadata.ino()), metadata.ino(), "{path:?}");
        let links = model.values().filter(|other| other.inode == expected.inode).count() as u64;
        let kind = metadata.file_type();
        match &expected.what {
            What::Directory => assert!(kind.is_dir()),
            What::File(size, parts) => {
                assert!(kind.is_file());
                assert_eq!(metadata.len(), *size);
                let mut content = vec![0; *size as usize];
                for (at, data) in parts {
                    content[*at as usize..*at as usize + data.len()].copy_from_slice(data);
                }
                let mut there = vec![0; *size as usize];
                fs::File::open(&path).unwrap().read_exact_at(&mut there, 0).unwrap();
                assert!(there == content, "{path:?}");
            }
            What::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), &target[..])
            }
            What::Special(Special::Fifo) => assert!(kind.is_fifo()),
            What::Special(Special::Socket) => assert!(kind.is_socket()),
            What::Special(Special::CharDevice(major, minor)) => {
                assert!(kind.is_char_device());
                assert_eq!(metadata.rdev(), rustix::fs::makedev(*major, *minor));
            }
            What::Special(Special::BlockDevice(major, minor)) => {
                assert!(kind.is_block_device());
                assert_eq!(metadata.rdev(), rustix::fs::makedev(*major, *minor));
            }
        }
        if !kind.is_dir() {
            assert_eq!(metadata.nlink(), links, "{path:?}");
        }
        let mut names = vec![0; 4096];
        let len = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let count = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()).count();
        assert_eq!(count, wanted.xattrs.len(), "{path:?}");
        // Linux lists user.* of other kinds of files and does not let them be read (xattr(7)).
        let user = kind.is_dir() || kind.is_file();
        for xattr in wanted.xattrs.iter().filter(|xattr| user || !xattr.name.starts_with(b"user.")) {
            let mut value = vec![0; 8192];
            let len = rustix::fs::lgetxattr(&path, &xattr.name[..], &mut value[..]).unwrap();
            assert_eq!(&value[..len], &xattr.value[..], "{path:?}");
        }
    }
}

/// 40 in the test run; CLARATEACH_CASES asks for more.
fn cases() -> u32 {
    std::env::var("CLARATEACH_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_are_what_linux_finds(
        steps in prop::collection::vec(step(), 0..120),
        journal: bool,
        extra in 0u64..3,
    ) {
        if !can_mount("random_trees_are_what_linux_finds") {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let size = (300 << 20) + extra * 4096;
        let options = Options { journal: journal.then_some(8 << 20), ..Options::new(size, b"random") };
        let mut model = BTreeMap::new();
        let (image, _) = build(dir.path(), options, |writer| model = play(writer, &steps));
        fsck(&image);
        {
            let mount = Mount::new(&image, dir.path(), "loop,ro");
            compare(&mount.at, &model);
        }
        // Linux adds to it and takes away from it, and it is still sound.
        {
            let mount = Mount::new(&image, dir.path(), "loop");
            compare(&mount.at, &model);
            fs::create_dir(mount.at.join("added")).unwrap();
            for index in 0..300 {
                fs::write(mount.at.join(format!("added/{index}")), vec![1; index * 10]).unwrap();
            }
            for name in model.keys().filter(|name| !name.contains(&b'/')).step_by(2) {
                let path = mount.at.join(OsStr::from_bytes(name));
                if fs::symlink_metadata(&path).unwrap().is_dir() {
                    fs::remove_dir_all(path).unwrap();
                } else {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        fsck(&image);
    }
}
