//! Comparing two trees in everything that a filesystem knows of a file.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What to leave out of a comparison.
#[derive(Debug, Clone, Copy, Default)]
pub struct Except {
    /// overlayfs counts the links of the layer, not of the merged tree.
    pub link_counts: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Facts {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    links: u64,
    device: u64,
    size: u64,
    content: String,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first path of those that are the same file.
    same_as: PathBuf,
}

/// Asserts that two trees are equal; returns how many entries were compared.
pub fn assert_equal(image: &Path, reference: &Path, except: Except) -> usize {
    let (ours, theirs) = (facts(image, except), facts(reference, except));
    let mut differences = Vec::new();
    for (path, expected) in &theirs {
        match ours.get(path) {
            None => differences.push(format!("{}: missing", path.display())),
            Some(found) if found != expected => {
                differences
                    .push(format!("{}:\n  image     {found:?}\n  reference {expected:?}", path.display()));
            }
            Some(_) => {}
        }
    }
    for path in ours.keys().filter(|path| !theirs.contains_key(*path)) {
        differences.push(format!("{}: should not be there", path.display()));
    }
    differences.truncate(10);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    theirs.len()
}

fn facts(root: &Path, except: Except) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    let mut first: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        if path == Path::new("lost+found") {
            continue;
        }
        let full = root.join(&path);
        // overlayfs lists a whiteout in a directory that only one layer has, but does not let it be looked up.
        let Ok(metadata) = fs::symlink_metadata(&full) else { continue };
        let kind = metadata.file_type();
        let is_root = path.as_os_str().is_empty();
        let mut children: Vec<PathBuf> = Vec::new();
        let mut content = String::new();
        let letter = if kind.is_dir() {
            children =
                fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())).collect();
            // In reverse, so that the first path of a hard link is the first in order.
            children.sort();
            children.reverse();
            'd'
        } else if kind.is_file() {
            content = hash(&full);
            'f'
        } else if kind.is_symlink() {
            content = format!("{:?}", fs::read_link(&full).unwrap().as_os_str().as_bytes());
            'l'
        } else if kind.is_char_device() {
            'c'
        } else if kind.is_block_device() {
            'b'
        } else if kind.is_fifo() {
            'p'
        } else {
            's'
        };
        let same_as = if kind.is_dir() {
            path.clone()
        } else {
            first.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone()).clone()
        };
        let facts = Facts {
            kind: letter,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            // The root of an unpacked tree is a directory of the test.
            mtime: if is_root { (0, 0) } else { (metadata.mtime(), metadata.mtime_nsec()) },
            // Directories count differently on other filesystems, and lost+found counts here.
            links: if kind.is_dir() || except.link_counts { 0 } else { metadata.nlink() },
            device: metadata.rdev(),
            size: if kind.is_dir() { 0 } else { metadata.len() },
            content,
            xattrs: xattrs(&full),
            same_as,
        };
        if !is_root {
            all.insert(path, facts);
        }
        pending.extend(children);
    }
    all
}

fn hash(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap();
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            len => hash.update(&piece[..len]),
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        value.truncate(len);
        Some((OsString::from_vec(name.to_vec()), value))
    };
    names.filter_map(value).collect()
}
