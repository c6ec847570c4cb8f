//! Each on-disk structure by itself, judged by e2fsck and debugfs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod oracle;

use std::io::Read;
use std::os::unix::fs::MetadataExt as _;

use clarateach_ext4::{
    Error, FileMap, Kind, Metadata, Node, Options, Special, Timestamp, Writer, Xattr, write_empty,
};
use oracle::{build, debugfs, fsck, have_e2fsprogs};

fn meta(mode: u16) -> Metadata {
    Metadata { mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 }, ..Metadata::root(mode) }
}

fn add(writer: &mut Writer, parent: Node, name: &str, content: &[u8]) -> Node {
    let map = FileMap::dense(content.len() as u64);
    writer.file(parent, name.as_bytes(), &meta(0o644), &map, &mut &content[..]).unwrap()
}

#[test]
fn sizes_from_the_smallest_up_to_a_tebibyte_and_more() {
    if !have_e2fsprogs("sizes_from_the_smallest_up_to_a_tebibyte_and_more") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mib = 1 << 20;
    for size in [
        mib,
        5 * mib + 12345,
        128 * mib,
        128 * mib + 4096,
        129 * mib,
        256 * mib,
        257 * mib,
        2048 * mib,
        (2048 + 127) * mib,
        (1 << 40) + 77 * mib,
        3 << 40,
    ] {
        let (image, summary) = build(dir.path(), Options::new(size, b"t"), |writer| {
            add(writer, Node::ROOT, "file", b"hello");
        });
        assert_eq!(summary.size, size / 4096 * 4096);
        assert_eq!(image.metadata().unwrap().len(), summary.size, "{size}");
        fsck(&image);
        assert!(image.metadata().unwrap().blocks() * 512 < size / 1000 + mib, "{size}: not sparse");
    }
}

#[test]
fn with_a_journal() {
    if !have_e2fsprogs("with_a_journal") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (size, journal) in [(64 << 20, 4 << 20), (400 << 20, 128 << 20), (10 << 30, 64 << 20)] {
        let options = Options { journal: Some(journal), ..Options::new(size, b"t") };
        let (image, _) = build(dir.path(), options, |writer| {
            add(writer, Node::ROOT, "file", b"hello");
        });
        fsck(&image);
        assert!(debugfs(&image, "stats").contains("has_journal"));
    }
    let options = Options { journal: Some(32 << 20), ..Options::new(16 << 20, b"t") };
    assert!(matches!(Writer::new(tempfile::tempfile().unwrap(), options), Err(Error::Options(_))));
}

#[test]
fn an_empty_disk_is_small_and_quick() {
    let dir = tempfile::tempdir().unwrap();
    let mut best = std::time::Duration::MAX;
    for attempt in 0..10 {
        let path = dir.path().join(format!("upper-{attempt}.ext4"));
        let start = std::time::Instant::now();
        let options =
            Options { journal: Some(clarateach_ext4::EMPTY_JOURNAL), ..Options::new(10 << 30, b"seat") };
        write_empty(&path, options).unwrap();
        best = best.min(start.elapsed());
        assert!(
            path.metadata().unwrap().blocks() * 512 <= 256 * 1024,
            "takes {} blocks",
            path.metadata().unwrap().blocks()
        );
        if attempt == 0 && have_e2fsprogs("an_empty_disk_is_small_and_quick") {
            fsck(&path);
        }
    }
    println!("10 GiB: {best:?}");
    // The best of ten, since other tests run at the same time.
    assert!(best < std::time::Duration::from_millis(5), "{best:?}");
}

#[test]
fn existing_files_are_not_overwritten_by_empty_disks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("upper.ext4");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(write_empty(&path, Options::new(1 << 30, b"")), Err(Error::Image { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn directories_of_every_size_around_the_borders_of_blocks_and_index_levels() {
    if !have_e2fsprogs("directories_of_every_size_around_the_borders_of_blocks_and_index_levels") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = build(dir.path(), Options::new(512 << 20, b"t"), |writer| {
        for count in [1, 100, 253, 254, 255, 256, 339, 340, 341, 1000, 5000] {
            let parent = writer.directory(Node::ROOT, format!("d{count}").as_bytes(), &meta(0o755)).unwrap();
            for index in 0..count {
                add(writer, parent, &format!("{index:04}"), b"");
            }
        }
        // Long names: few per block, so that the index gets a second level.
        let parent = writer.directory(Node::ROOT, b"long", &meta(0o755)).unwrap();
        for index in 0..9000 {
            let name = format!("{index:05}{}", "x".repeat(250));
            add(writer, parent, &name, b"");
        }
    });
    fsck(&image);
    assert!(debugfs(&image, "htree_dump /long").contains("Indirect levels: 1"));
}

#[test]
fn many_subdirectories_give_a_link_count_of_one() {
    if !have_e2fsprogs("many_subdirectories_give_a_link_count_of_one") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (count, links) in [(64_997, 64_999), (64_998, 65_000), (64_999, 1), (65_100, 1)] {
        let (image, _) = build(dir.path(), Options::new(3 << 30, b"t"), |writer| {
            let many = writer.directory(Node::ROOT, b"many", &meta(0o755)).unwrap();
            for index in 0..count {
                writer.directory(many, index.to_string().as_bytes(), &meta(0o755)).unwrap();
            }
        });
        fsck(&image);
        assert!(debugfs(&image, "stat /many").contains(&format!("Links: {links} ")), "{count}");
    }
}

#[test]
fn a_last_group_too_short_for_its_own_metadata() {
    if !have_e2fsprogs("a_last_group_too_short_for_its_own_metadata") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (size, blocks) in
        [(257 << 20, 32_200), (257 << 20, 32_400), (257 << 20, 100), ((384 << 20) + 4096, 65_100)]
    {
        let (image, _) = build(dir.path(), Options::new(size, b"t"), |writer| {
            let map = FileMap::dense(blocks * 4096);
            writer.file(Node::ROOT, b"big", &meta(0o644), &map, &mut std::io::repeat(7)).unwrap();
        });
        fsck(&image);
    }
}

#[test]
fn inodes_that_are_given_back_in_time_are_not_missed() {
    if !have_e2fsprogs("inodes_that_are_given_back_in_time_are_not_missed") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = build(dir.path(), Options::new(64 << 20, b"t"), |writer| {
        let many = writer.directory(Node::ROOT, b"d", &meta(0o755)).unwrap();
        for index in 0..33_000 {
            add(writer, many, &index.to_string(), b"");
        }
        writer.remove(many);
        add(writer, Node::ROOT, "d", b"the later one counts");
    });
    fsck(&image);
    assert!(debugfs(&image, "cat /d").contains("the later one counts"));
}

#[test]
fn what_is_far_too_much_is_not_counted_to_the_end() {
    for taken_away in [false, true] {
        let mut writer = Writer::new(tempfile::tempfile().unwrap(), Options::new(64 << 20, b"t")).unwrap();
        let end = (0..u32::MAX).find_map(|index| {
            let made = writer.directory(Node::ROOT, index.to_string().as_bytes(), &meta(0o755));
            if let (Ok(node), true) = (&made, taken_away) {
                writer.remove(*node);
            }
            made.err()
        });
        let Some(Error::FarTooSmall { size, counted, needed }) = end else { panic!("{end:?}") };
        assert_eq!((size, counted), (64 << 20, 4 * 32_768));
        // Four groups, of which the last may be short.
        assert!((384 << 20..512 << 20).contains(&needed), "{needed}");
    }
}

#[test]
fn long_targets_are_known_however_little_fits() {
    let targets: Vec<_> = (0..200).map(|index| format!("{index}/{}", "t".repeat(60 + index * 20))).collect();
    for size in [256 << 10, 16 << 20] {
        let mut writer = Writer::new(tempfile::tempfile().unwrap(), Options::new(size, b"t")).unwrap();
        let mut nodes = Vec::new();
        for target in &targets {
            let name = nodes.len().to_string();
            nodes.push(writer.symlink(Node::ROOT, name.as_bytes(), &meta(0o777), target.as_bytes()).unwrap());
        }
        assert_eq!(writer.overflowed(), size < 1 << 20);
        for (node, target) in nodes.into_iter().zip(&targets) {
            assert_eq!(writer.symlink_target(node).unwrap().unwrap(), target.as_bytes());
        }
    }
}

#[test]
fn sparse_files_with_deep_extent_trees() {
    if !have_e2fsprogs("sparse_files_with_deep_extent_trees") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = build(dir.path(), Options::new(256 << 20, b"t"), |writer| {
        for count in [0u64, 1, 4, 5, 340, 341, 1360, 1361, 5000] {
            let segments: Vec<_> = (0..count).map(|i| (i * 3 * 4096, 4096)).collect();
            let map = FileMap::sparse(count * 3 * 4096 + 10, segments);
            let content = vec![7u8; map.data_len() as usize];
            let name = format!("s{count}");
            writer.file(Node::ROOT, name.as_bytes(), &meta(0o644), &map, &mut &content[..]).unwrap();
        }
        // Segments that begin and end within blocks, several in one.
        let map = FileMap::sparse(1 << 43, vec![(10, 20), (100, 1), (5000, 4096), (9200, 0), (1 << 42, 3)]);
        let content: Vec<u8> = (0..map.data_len()).map(|i| i as u8 | 1).collect();
        writer.file(Node::ROOT, b"odd", &meta(0o644), &map, &mut &content[..]).unwrap();
    });
    fsck(&image);
}

#[test]
fn several_gigabytes_in_one_file() {
    if !have_e2fsprogs("several_gigabytes_in_one_file") {
        return;
    }
    // 5 GiB of logical size with data around every place where something changes.
    let dir = tempfile::tempdir().unwrap();
    let len = 300 << 20;
    let (image, _) = build(dir.path(), Options::new(1 << 30, b"t"), |writer| {
        let map =
            FileMap::sparse(5 << 30, vec![(0, 4096), ((2 << 30) - 4096, 8192), ((4 << 30) - 4096, len)]);
        let mut content = std::io::repeat(0x5a).take(map.data_len());
        writer.file(Node::ROOT, b"big", &meta(0o644), &map, &mut content).unwrap();
    });
    fsck(&image);
    assert!(debugfs(&image, "stat /big").contains("Size: 5368709120"));
}

#[test]
fn replaced_and_removed_entries_leave_free_space() {
    if !have_e2fsprogs("replaced_and_removed_entries_leave_free_space") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let xattr = |len: usize| vec![Xattr { name: b"user.note".to_vec(), value: vec![b'v'; len] }];
    let (image, summary) = build(dir.path(), Options::new(600 << 20, b"t"), |writer| {
        let tree = writer.directory(Node::ROOT, b"tree", &meta(0o755)).unwrap();
        let below = writer.directory(tree, b"below", &meta(0o755)).unwrap();
        let big = vec![1u8; 200 << 20];
        let file = add(writer, below, "big", &big);
        let kept = writer.link(Node::ROOT, b"kept", file).unwrap();
        add(writer, below, "gone", &big);
        let noted = add(writer, below, "noted", b"x");
        writer.set_metadata(noted, &Metadata { xattrs: xattr(500), ..meta(0o600) }).unwrap();
        writer.remove(tree);
        assert!(writer.lookup(Node::ROOT, b"tree").is_none());
        assert_eq!(writer.kind(kept), Kind::File);
        let again = writer.directory(Node::ROOT, b"tree", &meta(0o700)).unwrap();
        add(writer, again, "new", b"new");
        writer.remove(kept);
        add(writer, Node::ROOT, "kept", b"new");
    });
    fsck(&image);
    assert!(summary.used < 40 << 20, "{summary:?}");
}

#[test]
fn what_does_not_fit_says_how_much_would() {
    if !have_e2fsprogs("what_does_not_fit_says_how_much_would") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fill = |writer: &mut Writer| {
        let parent = writer.directory(Node::ROOT, b"many", &meta(0o755)).unwrap();
        for index in 0..40_000 {
            add(writer, parent, &format!("file-{index}"), if index % 100 == 0 { &[9; 70_000] } else { b"" });
        }
        let mut content = std::io::repeat(1).take(300 << 20);
        // Once it overflows, content is not read any more.
        writer.file(parent, b"big", &meta(0o644), &FileMap::dense(300 << 20), &mut content).unwrap();
    };
    // An entry that is replaced has taken its blocks all the same.
    let replace = |writer: &mut Writer| {
        for _ in 0..3 {
            if let Some(there) = writer.lookup(Node::ROOT, b"again") {
                writer.remove(there);
            }
            add(writer, Node::ROOT, "again", &vec![7; 30 << 20]);
        }
    };
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), Options::new(64 << 20, b"t")).unwrap();
    replace(&mut writer);
    let Err(Error::TooSmall { needed, .. }) = writer.finish() else { panic!("64 MiB are not enough") };
    fsck(&build(dir.path(), Options::new(needed, b"t"), replace).0);

    for size in [1u64 << 20, 100 << 20, 300 << 20, 330 << 20] {
        let mut writer = Writer::new(tempfile::tempfile().unwrap(), Options::new(size, b"t")).unwrap();
        fill(&mut writer);
        let Err(Error::TooSmall { needed, .. }) = writer.finish() else { panic!("{size} is enough") };
        let (image, summary) = build(dir.path(), Options::new(needed, b"t"), fill);
        fsck(&image);
        assert!(summary.used * 10 > needed * 9, "{needed} is much more than {}", summary.used);
    }
}

#[test]
fn entries_that_ext4_cannot_hold_are_refused() {
    let file = tempfile::tempfile().unwrap();
    let mut writer = Writer::new(file, Options::new(16 << 20, b"t")).unwrap();
    let plain = add(&mut writer, Node::ROOT, "plain", b"");
    let names: [&[u8]; 6] = [b"", b".", b"..", b"a/b", b"a\0b", &[b'n'; 256]];
    for name in names {
        assert!(matches!(writer.directory(Node::ROOT, name, &meta(0)), Err(Error::Entry { .. })), "{name:?}");
    }
    assert!(writer.directory(Node::ROOT, b"plain", &meta(0)).is_err(), "the name is taken");
    assert!(writer.directory(plain, b"below", &meta(0)).is_err(), "the parent is a file");
    assert!(writer.symlink(Node::ROOT, b"l", &meta(0o777), &[b'x'; 4096]).is_err());
    assert!(writer.symlink(Node::ROOT, b"l", &meta(0o777), b"").is_err());
    assert!(writer.special(Node::ROOT, b"d", &meta(0), Special::CharDevice(1 << 12, 0)).is_err());
    let big = FileMap::dense(1 << 44);
    assert!(writer.file(Node::ROOT, b"f", &meta(0), &big, &mut std::io::empty()).is_err());
    for segments in [vec![(5, 5), (0, 1)], vec![(0, 11)], vec![(u64::MAX, 2)], vec![(0, 5), (4, 2)]] {
        let map = FileMap::sparse(10, segments);
        assert!(writer.file(Node::ROOT, b"f", &meta(0), &map, &mut std::io::repeat(0)).is_err());
    }
    let short = FileMap::dense(10);
    assert!(matches!(
        writer.file(Node::ROOT, b"f", &meta(0), &short, &mut &b"123"[..]),
        Err(Error::Content { path, .. }) if path == "f"
    ));
    let root = Node::ROOT;
    assert!(writer.link(root, b"l", root).is_err(), "a hard link to a directory");
    for (name, len) in [("user.n", 5000), ("nonsense", 1), ("system.posix_acl_access", 7)] {
        let xattrs = vec![Xattr { name: name.as_bytes().to_vec(), value: vec![1; len] }];
        let entry = writer.directory(Node::ROOT, b"x", &Metadata { xattrs, ..meta(0) });
        assert!(matches!(entry, Err(Error::Entry { .. })), "{name}");
    }
}

#[test]
fn equal_entries_give_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let (image, _) = build(&dir, Options::new(64 << 20, b"t"), |writer| {
            let parent = writer.directory(Node::ROOT, b"d", &meta(0o755)).unwrap();
            for index in 0..2000 {
                let node = add(writer, parent, &format!("f{index}"), &vec![index as u8; index]);
                let value = vec![1; index % 300];
                let xattrs = vec![Xattr { name: b"user.a".to_vec(), value }];
                writer.set_metadata(node, &Metadata { xattrs, ..meta(0o640) }).unwrap();
            }
        });
        if name == "a" && have_e2fsprogs("equal_entries_give_equal_bytes") {
            fsck(&image);
        }
        std::fs::read(image).unwrap()
    };
    assert!(image("a") == image("b"));
}
