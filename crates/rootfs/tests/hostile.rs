//! Archives and manifests that nobody meant well with. The long form of this are the targets in fuzz/.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use clarateach_ext4::{Error, Options, Writer};
use clarateach_rootfs::manifest::{Config, Manifest, saved_images, select};
use clarateach_rootfs::merge::{Merge, MergeError};
use clarateach_rootfs::tar::{Entries, EntryKind, ReadAt};
use proptest::prelude::*;
use support::layer::{Layer, base};

/// A layer with something of everything.
fn everything() -> Vec<u8> {
    base()
        .file("file", vec![5; 9000])
        .symlink("link", "file")
        .symlink("long-link", &"t".repeat(90))
        .hard_link("hard", "file")
        .device("device", 1, 3)
        .fifo("fifo")
        .file(&format!("long/{}", "n".repeat(200)), "x")
        .whiteout("etc/gone")
        .opaque("bin")
        .done()
}

/// Makes the checksum of every block right, so that what is in a header matters and not its sum.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| block.iter().any(|&byte| byte != 0)) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Merges what can be merged; the image if it came to one.
fn merge(layers: &[&[u8]]) -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.ext4");
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&image).unwrap();
    let mut merge = Merge::new(Writer::new(file, Options::new(4 << 20, b"hostile")).unwrap());
    for (index, layer) in layers.iter().enumerate().rev() {
        merge.layer(index as u16 + 1, layer as &dyn ReadAt, &mut |_| true).ok()?;
    }
    merge.finish().ok()?.writer.finish().ok()?;
    Some((dir, image))
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (edits, any::<bool>()).prop_map(|(edits, mended)| {
        let mut tar = everything();
        for (at, value) in edits {
            // Most bytes of an archive are padding: aim at the fields of headers.
            let block = at.index(tar.len() / 512) * 512;
            tar[block + usize::from(value) * 2] = value.wrapping_mul(31);
        }
        if mended {
            mend(&mut tar);
        }
        tar
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_archives_are_refused_or_make_a_clean_filesystem(layers in prop::collection::vec(mutated(), 1..4)) {
        let layers: Vec<_> = layers.iter().map(|layer| &layer[..]).collect();
        if let Some((_dir, image)) = merge(&layers)
            && support::have("changed_archives_are_refused_or_make_a_clean_filesystem", "e2fsck", "e2fsprogs")
        {
            support::fsck(&image);
        }
    }

    #[test]
    fn random_bytes_are_no_archive(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), mended: bool) {
        if mended {
            mend(&mut bytes);
        }
        let mut entries = Entries::new(&bytes[..]);
        while let Ok(Some(entry)) = entries.next() {
            if let EntryKind::File(_) = entry.kind {
                let read = std::io::copy(&mut entries.by_ref().take(1 << 20), &mut std::io::sink()).unwrap_or(0);
                prop_assert!(read <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn random_text_is_no_manifest(text in r#"[\[\]{}:,"a-z0-9 ]{0,200}"#) {
        let _ = Manifest::parse(text.as_bytes());
        let _ = Config::parse(text.as_bytes());
        let _ = saved_images(text.as_bytes());
    }

    #[test]
    fn digests_in_manifests_are_digests(digest in r"[ -~]{0,80}") {
        let json = serde_json::json!({"schemaVersion": 2, "manifests": [{"digest": digest, "size": 1}]}).to_string();
        if let Ok(Manifest::Index(list)) = Manifest::parse(json.as_bytes()) {
            prop_assert_eq!(select(&list, None).unwrap().digest.to_string(), digest);
        }
    }
}

/// What a merge of layers came to, checked by e2fsck; `None` where that is not installed.
fn merged(name: &str, layers: &[&[u8]]) -> Option<(tempfile::TempDir, PathBuf)> {
    let merged = merge(layers).expect("these layers can be merged");
    (support::have(name, "e2fsck", "e2fsprogs") && support::have(name, "debugfs", "e2fsprogs")).then(|| {
        support::fsck(&merged.1);
        merged
    })
}

fn debugfs(image: &std::path::Path, request: &str) -> String {
    let out = std::process::Command::new("debugfs").args(["-R", request]).arg(image).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_link_that_waits_in_a_directory_that_is_replaced_goes_with_it() {
    let layer = Layer::new()
        .dir("d/", 0o755)
        .hard_link("d/waits", "later")
        .hard_link("twice", "first")
        .file("d", "a file now")
        .hard_link("twice", "later")
        .file("later", "later")
        .file("first", "first")
        .done();
    let name = "a_link_that_waits_in_a_directory_that_is_replaced_goes_with_it";
    let Some((_dir, image)) = merged(name, &[&layer]) else { return };
    assert_eq!(debugfs(&image, "cat /d"), "a file now");
    assert_eq!(debugfs(&image, "cat /twice"), "later");
    assert!(debugfs(&image, "stat /later").contains("Links: 2"));
}

#[test]
fn links_to_links_lead_to_the_same_file_be_they_later_or_hidden() {
    let lower = Layer::new()
        .file("a", "the old one")
        .hard_link("b", "a")
        .hard_link("c", "./b")
        .hard_link("x", "y")
        .hard_link("y", "z")
        .file("z", "last")
        .done();
    let upper = Layer::new().file("a", "a new one").whiteout("b").hard_link("from-above", "c").done();
    let name = "links_to_links_lead_to_the_same_file_be_they_later_or_hidden";
    let Some((_dir, image)) = merged(name, &[&lower, &upper]) else { return };
    assert_eq!(debugfs(&image, "cat /c"), "the old one");
    assert_eq!(debugfs(&image, "cat /from-above"), "the old one");
    assert_eq!(debugfs(&image, "cat /x"), "last");
    assert!(debugfs(&image, "stat /z").contains("Links: 3"));
    let circle = Layer::new().hard_link("a", "b").hard_link("b", "a").done();
    assert!(merge(&[&circle]).is_none());
}

#[test]
fn bookkeeping_of_old_storage_drivers_is_no_part_of_the_image() {
    let layer = Layer::new()
        .dir(".wh..wh.plnk/", 0o700)
        .file(".wh..wh.plnk/12.34", "linked")
        .hard_link("one", ".wh..wh.plnk/12.34")
        .hard_link("two", ".wh..wh.plnk/12.34")
        .file(".wh..wh.aufs", "")
        .done();
    let name = "bookkeeping_of_old_storage_drivers_is_no_part_of_the_image";
    let Some((_dir, image)) = merged(name, &[&layer]) else { return };
    assert_eq!(debugfs(&image, "cat /two"), "linked");
    assert!(debugfs(&image, "stat /one").contains("Links: 2"));
    assert!(!debugfs(&image, "ls -p /").contains(".wh."));
}

#[test]
fn an_archive_that_says_it_holds_more_than_there_is_takes_no_memory_for_it() {
    let layer = Layer::new().lying_file("x", 1 << 62);
    assert!(merge(&[&layer]).is_none());
    let layer = Layer::new().lying_file("x", (1 << 40) + 1);
    assert!(merge(&[&layer]).is_none());
}

#[test]
fn spellings_of_a_directory_do_not_move_what_is_in_it() {
    let lower = Layer::new().file("x", "stays").file("y/x", "stays too").done();
    let layer = Layer::new()
        .dir("d/.", 0o755)
        .file("d/f", "in d")
        .dir("e//", 0o755)
        .file("e/.wh.x", "")
        .dir("y/.//", 0o755)
        .file("y/./g", "in y")
        .file("y/h", "in y as well")
        .done();
    let name = "spellings_of_a_directory_do_not_move_what_is_in_it";
    let Some((_dir, image)) = merged(name, &[&lower, &layer]) else { return };
    for (path, content) in
        [("d/f", "in d"), ("x", "stays"), ("y/x", "stays too"), ("y/g", "in y"), ("y/h", "in y as well")]
    {
        assert_eq!(debugfs(&image, &format!("cat /{path}")), content);
    }
    for nothing in ["f", "g", "h"] {
        assert_eq!(debugfs(&image, &format!("cat /{nothing}")), "", "{nothing}");
    }
}

#[test]
fn a_few_paths_that_mean_millions_of_directories_end_the_merge() {
    let deep = "/a".repeat(2046);
    let layer = (0..200).fold(Layer::new(), |layer, index| layer.file(&format!("{index}{deep}"), "")).done();
    let file = tempfile::tempfile().unwrap();
    let mut merge = Merge::new(Writer::new(file, Options::new(4 << 20, b"hostile")).unwrap());
    let layer = &layer[..];
    let end = merge.layer(1, &layer as &dyn ReadAt, &mut |_| true).unwrap_err();
    let MergeError::Ext4(Error::FarTooSmall { counted, .. }) = end else { panic!("{end:?}") };
    assert_eq!(counted, 4 * 32_768);
}
