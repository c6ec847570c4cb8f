//! Archives and manifests that nobody meant well with. The long form of this are the targets in fuzz/.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use clarateach_ext4::{Options, Writer};
use clarateach_rootfs::manifest::{Config, Manifest, saved_images, select};
use clarateach_rootfs::merge::Merge;
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

#[test]
fn an_archive_that_says_it_holds_more_than_there_is_takes_no_memory_for_it() {
    let layer = Layer::new().lying_file("x", 1 << 62);
    assert!(merge(&[&layer]).is_none());
    let layer = Layer::new().lying_file("x", (1 << 40) + 1);
    assert!(merge(&[&layer]).is_none());
}
