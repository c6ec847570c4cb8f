//! The image equals the merged tree: judged by the kernel's ext4, GNU tar and overlayfs.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and say what it measured")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use clarateach_ext4::{Options, Writer};
use clarateach_rootfs::layer::blob::Bytes;
use clarateach_rootfs::merge::Merge;
use support::compare::{Except, assert_equal};
use support::layer::{Layer, unpack};
use support::{Mount, can_mount, fsck, have, run};

/// Merges layers into an image, with nothing injected.
fn merge(dir: &Path, tars: &[PathBuf], size: u64) -> PathBuf {
    let image = dir.join("image.ext4");
    let file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&image).unwrap();
    let mut merge = Merge::new(Writer::new(file, Options::new(size, b"test")).unwrap());
    for (index, tar) in tars.iter().enumerate().rev() {
        let bytes = Bytes::whole(fs::File::open(tar).unwrap()).unwrap();
        merge.layer(index as u16 + 1, &bytes, &mut |_| true).unwrap();
    }
    merge.finish().unwrap().writer.finish().unwrap();
    image
}

/// Mounts the image read-write, fills it until nothing more fits, and has e2fsck look at it again.
fn fill(image: &Path, dir: &Path) {
    let mount = Mount::image(image, dir, "rw");
    let directory = mount.at.join("filled by the test");
    fs::create_dir(&directory).unwrap();
    for index in 0..2000 {
        fs::write(directory.join(format!("small-{index}")), b"x").unwrap();
    }
    let chunk = vec![0x5a; 1 << 20];
    let mut file = fs::File::create(directory.join("big")).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&chunk) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    drop(mount);
    fsck(image);
}

/// One tar as an image, against GNU tar.
fn check_tar(tar: &Path, size: u64) {
    let dir = tempfile::tempdir().unwrap();
    let image = merge(dir.path(), &[tar.to_owned()], size);
    fsck(&image);
    let reference = dir.path().join("reference");
    unpack(tar, &reference);
    let mount = Mount::image(&image, dir.path(), "ro");
    let count = assert_equal(&mount.at, &reference, Except::default());
    drop(mount);
    let stats = run(Command::new("debugfs").args(["-R", "ls -l /"]).arg(&image));
    assert!(stats.contains("lost+found"), "{stats}");
    fill(&image, dir.path());
    println!("{}: {count} entries equal", tar.display());
}

#[test]
fn real_root_filesystems() {
    const NAME: &str = "real_root_filesystems";
    if !can_mount(NAME) {
        return;
    }
    // The long form: benches/rootfs-fidelity.sh makes six of them and names the directory.
    if let Some(directory) = std::env::var_os("CLARATEACH_ROOTFS_TARS") {
        let mut tars: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        tars.sort();
        assert!(tars.len() >= 4, "{tars:?}");
        for tar in tars {
            check_tar(&tar, 6 << 30);
        }
        return;
    }
    if !have(NAME, "mmdebstrap", "mmdebstrap") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("minimal.tar");
    run(Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", "bookworm"]).arg(&tar));
    check_tar(&tar, 1 << 30);
}

#[test]
fn directories_of_100_000_files() {
    const NAME: &str = "directories_of_100_000_files";
    if !can_mount(NAME) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let directory = tree.join("large");
    fs::create_dir_all(&directory).unwrap();
    for index in 0..100_000 {
        let name = format!("{index}{}", "-".repeat(index % 90));
        let content = if index % 1000 == 0 { vec![index as u8; index] } else { Vec::new() };
        fs::write(directory.join(name), content).unwrap();
    }
    let tar = dir.path().join("large.tar");
    pack(&tree, &tar);
    fs::remove_dir_all(&tree).unwrap();
    check_tar(&tar, 1 << 30);
}

#[test]
fn nasty_cases() {
    const NAME: &str = "nasty_cases";
    if !can_mount(NAME) || !have(NAME, "setfacl", "acl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make_nasty(&tree);
    for format in ["pax", "gnu"] {
        let tar = dir.path().join(format!("{format}.tar"));
        let mut command = Command::new("tar");
        command.args(["--sparse", "--numeric-owner", &format!("--format={format}"), "-c", "-f"]).arg(&tar);
        if format == "pax" {
            command.args(["--xattrs", "--xattrs-include=*", "--acls"]);
        }
        run(command.arg("-C").arg(&tree).arg("."));
        check_tar(&tar, 256 << 20);
    }
    // The other two ways of writing a sparse map.
    for version in ["0.0", "0.1"] {
        let tar = dir.path().join(format!("sparse-{version}.tar"));
        let mut command = Command::new("tar");
        command
            .args(["--sparse", &format!("--sparse-version={version}"), "--format=pax", "-c", "-f"])
            .arg(&tar);
        run(command.arg("-C").arg(&tree).arg("sparse"));
        check_tar(&tar, 64 << 20);
    }
}

fn pack(tree: &Path, tar: &Path) {
    run(Command::new("tar")
        .args(["--format=pax", "--numeric-owner", "-c", "-f"])
        .arg(tar)
        .arg("-C")
        .arg(tree)
        .arg("."));
}

fn make_nasty(tree: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
    let at = |name: &[u8]| tree.join(OsStr::from_bytes(name));
    fs::create_dir_all(at(b"names")).unwrap();
    fs::write(at(b"names/\xff\xfe\x01 not UTF-8"), "1").unwrap();
    fs::write(at(&[b"names/", &[b'n'; 255][..]].concat()), "2").unwrap();
    fs::write(at(b"names/new\nline\ttab \\ quote' \" $(x)"), "3").unwrap();
    fs::write(at(b"names/..."), "4").unwrap();
    fs::write(at("names/üñï漢字".as_bytes()), "5").unwrap();
    let mut deep = at(b"deep");
    for level in 0..60 {
        deep = deep.join(format!("level-{level}-{}", "d".repeat(40)));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "deep").unwrap();

    fs::create_dir(at(b"modes")).unwrap();
    for mode in [0o0, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777] {
        let path = at(format!("modes/{mode:o}").as_bytes());
        fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(70_000 + mode), Some(4_000_000_000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(at(b"times")).unwrap();
    for date in
        ["@-2147483648.5", "@-1.25", "@0", "@2147483648.123456789", "@4294967297", "@15032385535.999999999"]
    {
        let path = at(format!("times/{date}").as_bytes());
        run(Command::new("touch").args(["-d", date]).arg(&path));
    }
    fs::create_dir(at(b"links")).unwrap();
    for len in [1, 59, 60, 61, 255, 4095] {
        symlink("t".repeat(len), at(format!("links/{len}").as_bytes())).unwrap();
    }
    symlink("/etc/../../../outside", at(b"links/outside")).unwrap();
    fs::write(at(b"links/file"), "linked").unwrap();
    for number in 0..50 {
        fs::hard_link(at(b"links/file"), at(format!("links/hard-{number}").as_bytes())).unwrap();
    }
    fs::hard_link(at(b"links/59"), at(b"links/hard-symlink")).unwrap();

    fs::create_dir(at(b"special")).unwrap();
    let all = Mode::from_raw_mode(0o640);
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("large", FileType::CharacterDevice, makedev(511, 1_048_575)),
        ("disk", FileType::BlockDevice, makedev(259, 300)),
    ] {
        mknodat(CWD, at(format!("special/{name}").as_bytes()), kind, all, device).unwrap();
    }

    fs::create_dir(at(b"sparse")).unwrap();
    for (name, size, data) in [
        ("empty", 0, vec![]),
        ("hole", 200 << 20, vec![]),
        ("ends", 300 << 20, vec![0, (300 << 20) - 4096]),
        ("many", 64 << 20, (0..400).map(|i| i * 163_840).collect()),
    ] {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(at(format!("sparse/{name}").as_bytes())).unwrap();
        file.set_len(size).unwrap();
        for offset in data {
            file.write_all_at(&[0xa5; 4096], offset).unwrap();
        }
    }

    fs::create_dir(at(b"xattrs")).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        let path = at(format!("xattrs/{name}").as_bytes());
        if !path.exists() {
            fs::write(&path, name).unwrap();
        }
        rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty()).unwrap();
    };
    set("small", "user.note", b"in the inode");
    set("empty value", "user.empty", b"");
    set("large", "user.large", &[b'v'; 3000]);
    set("binary", "user.bin", &[0, 1, 10, 61, 255]);
    set("trusted", "trusted.secret", b"for root");
    // cap_net_raw+ep, version 2 (linux/capability.h).
    set("capability", "security.capability", &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in 0..12 {
        set("several", &format!("user.n{number}"), &vec![b'x'; number * 20]);
    }
    for number in 0..1100 {
        set(&format!("shared-{number}"), "user.shared", &[b's'; 200]);
    }
    fs::create_dir(at(b"acls")).unwrap();
    fs::write(at(b"acls/file"), "").unwrap();
    run(Command::new("setfacl").args(["-m", "u:1234:rw,g:5678:r,m:rw"]).arg(at(b"acls/file")));
    run(Command::new("setfacl").args(["-d", "-m", "u:1234:rwx,g:70000:rx"]).arg(at(b"acls")));
    fs::write(at(b"acls/inherited"), "").unwrap();
}

/// Layers, entry by entry, against overlayfs.
fn check_layers(layers: Vec<Vec<u8>>) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let mut tars = Vec::new();
    let mut trees = Vec::new();
    for (number, layer) in layers.into_iter().enumerate() {
        let tar = dir.path().join(format!("{number}.tar"));
        fs::write(&tar, layer).unwrap();
        let tree = dir.path().join(format!("layer-{number}"));
        unpack(&tar, &tree);
        tars.push(tar);
        trees.push(tree);
    }
    let image = merge(dir.path(), &tars, 64 << 20);
    fsck(&image);
    // overlayfs wants two layers at least.
    trees.insert(0, dir.path().join("nothing"));
    fs::create_dir(&trees[0]).unwrap();
    let overlay = Mount::overlay(&trees, dir.path());
    let mount = Mount::image(&image, dir.path(), "ro");
    assert_equal(&mount.at, &overlay.at, Except { link_counts: true })
}

#[test]
fn layers_hide_what_is_below() {
    if !can_mount("layers_hide_what_is_below") {
        return;
    }
    let bottom = Layer::new()
        .dir("a/", 0o755)
        .file("a/1", "one")
        .file("a/2", "two")
        .dir("a/sub/", 0o750)
        .file("a/sub/x", "x")
        .dir("b/", 0o700)
        .file("b/1", "b1")
        .file("c", "a file that becomes a directory")
        .dir("d/", 0o755)
        .file("d/1", "in a directory that becomes a file")
        .dir("e/", 0o755)
        .file("e/1", "in a directory that is cut off")
        .symlink("l", "a")
        .file("h1", "linked")
        .hard_link("h2", "h1")
        .file("kept", "kept");
    let middle = Layer::new()
        .dir("a/", 0o711)
        .whiteout("a/1")
        .dir("b/", 0o701)
        .opaque("b")
        .file("b/2", "b2")
        .dir("c/", 0o755)
        .file("c/1", "c1")
        .file("d", "now a file")
        .symlink("e", "a")
        .whiteout("h1")
        .dir("new/", 0o755)
        .file("new/1", "n");
    let top = Layer::new()
        .dir("a/", 0o777)
        .file("a/1", "one again")
        .whiteout("a/sub")
        .dir("a/sub/", 0o755)
        .file("a/sub/y", "y")
        .dir("e/", 0o755)
        .file("e/2", "not with 1")
        .dir("l/", 0o755)
        .file("l/through", "in a directory of its own, not in a")
        .whiteout("new")
        .whiteout("never was");
    let count = check_layers(vec![bottom.done(), middle.done(), top.done()]);
    assert_eq!(count, 16);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Dir(Vec<u8>, u32),
        File(Vec<u8>, u16),
        Symlink(Vec<u8>, Vec<u8>),
        Fifo(Vec<u8>),
        Whiteout(Vec<u8>),
        Opaque(Vec<u8>),
    }

    /// Paths over a small alphabet, so that layers meet.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..4, 1..4)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (path(), 0u32..0o1000).prop_map(|(p, mode)| Step::Dir(p, mode)),
            4 => (path(), 0u16..9000).prop_map(|(p, len)| Step::File(p, len)),
            1 => (path(), path()).prop_map(|(p, t)| Step::Symlink(p, t)),
            1 => path().prop_map(Step::Fifo),
            2 => path().prop_map(Step::Whiteout),
            1 => path().prop_map(Step::Opaque),
        ]
    }

    fn text(path: &[u8]) -> String {
        let parts: Vec<_> = path.iter().map(|part| format!("n{part}")).collect();
        parts.join("/")
    }

    /// A layer that GNU tar can unpack: parents first, and nothing below what is no directory.
    fn layer(steps: &[Step]) -> Vec<u8> {
        let mut kinds: std::collections::BTreeMap<Vec<u8>, bool> = Default::default();
        let mut marked: std::collections::BTreeSet<Vec<u8>> = Default::default();
        let mut layer = Layer::new();
        for (number, step) in steps.iter().enumerate() {
            let (path, opaque) = match step {
                Step::Dir(p, _)
                | Step::File(p, _)
                | Step::Symlink(p, _)
                | Step::Fifo(p)
                | Step::Whiteout(p) => (p, false),
                Step::Opaque(p) => (p, true),
            };
            let parents = if opaque { path.len() } else { path.len() - 1 };
            if (1..=parents).any(|len| kinds.get(&path[..len]) == Some(&false)) {
                continue;
            }
            for len in 1..=parents {
                if !kinds.contains_key(&path[..len]) {
                    kinds.insert(path[..len].to_vec(), true);
                    layer = layer.dir(&format!("{}/", text(&path[..len])), 0o755);
                }
            }
            let name = text(path);
            if let Step::Opaque(_) = step {
                if marked.insert([path, &[255][..]].concat()) {
                    layer = layer.opaque(&name);
                }
                continue;
            }
            if let Step::Whiteout(_) = step {
                if marked.insert(path.clone()) {
                    layer = layer.whiteout(&name);
                }
                continue;
            }
            if kinds.contains_key(path) {
                continue;
            }
            kinds.insert(path.clone(), matches!(step, Step::Dir(..)));
            layer = match step {
                Step::Dir(_, mode) => layer.dir(&format!("{name}/"), *mode),
                Step::File(_, len) => layer.file(&name, vec![number as u8; usize::from(*len)]),
                Step::Symlink(_, target) => layer.symlink(&name, &text(target)),
                _ => layer.fifo(&name),
            };
        }
        layer.done()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_layers_merge_as_overlayfs_merges_them(
            layers in prop::collection::vec(prop::collection::vec(step(), 0..14), 1..5)
        ) {
            if can_mount("random_layers_merge_as_overlayfs_merges_them") {
                check_layers(layers.iter().map(|steps| layer(steps)).collect());
            }
        }
    }

    /// 40 in the test run; CLARATEACH_CASES asks for more.
    fn cases() -> u32 {
        std::env::var("CLARATEACH_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
    }
}
