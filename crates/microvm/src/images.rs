//! Images and kernels on this host: finding them, checking them, keeping those that VMs use.
//!
//! An image is never copied. A VM's first drive is a hard link to it in `{state}/bases/`, so that an image that is
//! replaced (by rename, as `rootfs-builder` does) stays what it was for the VMs that were started from it, and goes with
//! the last of them. Where the two directories are on different file systems the image itself is used. An image that is a
//! symbolic link is what it leads to.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clarateach_runtime::{ImageRef, Reason, RuntimeError};

use crate::error::{CreateError, Fault};

/// The image that a VM gets when its wish names none, and the name that rootfs-builder's documentation uses for it.
const DEFAULT_NAMES: [&str; 4] = ["", "default", "clarateach-workspace", "rootfs"];
const DEFAULT_FILE: &str = "rootfs.ext4";
const LONGEST_NAME: usize = 200;

/// Where the ext4 superblock starts, and its fields that are looked at; Documentation/filesystems/ext4/super.rst.
const SUPERBLOCK: u64 = 1024;
const BLOCKS_LO: usize = 0x04;
const LOG_BLOCK_SIZE: usize = 0x18;
const MAGIC: usize = 0x38;
const INCOMPATIBLE: usize = 0x60;
const HAS_64BIT: u32 = 0x80;
const BLOCKS_HI: usize = 0x150;

/// An image that is there and sound.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) name: ImageRef,
    pub(crate) path: PathBuf,
    /// Tells this make of the image from any other: file, size, time of change and superblock.
    pub(crate) fingerprint: String,
}

/// The images of one host.
#[derive(Debug)]
pub(crate) struct Images {
    directory: PathBuf,
    bases: PathBuf,
    /// How many VMs use each base.
    used: Mutex<HashMap<String, usize>>,
}

impl Images {
    pub(crate) fn new(directory: PathBuf, bases: PathBuf) -> Self {
        Self { directory, bases, used: Mutex::default() }
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    pub(crate) fn modules(&self) -> Option<PathBuf> {
        Some(self.directory.join("modules")).filter(|path| path.is_dir())
    }

    /// Finds an image by the name of a wish.
    ///
    /// # Errors
    /// [`RuntimeError::ImageNotFound`] when it is not there; `ROOTFS_UNUSABLE` when it is damaged.
    pub(crate) fn find(&self, name: &ImageRef) -> Result<Image, CreateError> {
        let not_found = |message: String| {
            CreateError::Refused(RuntimeError::ImageNotFound { image: name.clone(), message })
        };
        let (file, canonical) = if DEFAULT_NAMES.contains(&name.0.as_str()) {
            (DEFAULT_FILE.to_owned(), ImageRef("default".to_owned()))
        } else {
            let file = file_name(&name.0).ok_or_else(|| {
                not_found("an image's name here is letters, digits, '.', '-', '_', ':' and '@'".to_owned())
            })?;
            (file, name.clone())
        };
        let path = self.directory.join(&file);
        match fingerprint(&path) {
            Ok(fingerprint) => Ok(Image { name: canonical, path, fingerprint }),
            Err(Broken::Missing) => Err(not_found(format!(
                "there is no {}: make it with `rootfs-builder --image NAME --output {}`",
                path.display(),
                path.display()
            ))),
            Err(Broken::Damaged(why)) => {
                let path = path.display();
                let message =
                    format!("{path} can't be used as an image: {why}; make it again with rootfs-builder");
                Err(CreateError::Unable { reason: Reason::new("ROOTFS_UNUSABLE", message) })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self, fingerprint: &str) -> PathBuf {
        self.bases.join(format!("{fingerprint}.ext4"))
    }

    /// Keeps an image for one more VM, and says under which path.
    ///
    /// # Errors
    /// When it can't be linked.
    pub(crate) fn hold(&self, image: &Image) -> Result<PathBuf, Fault> {
        let mut used = self.lock();
        let base = self.base(&image.fingerprint);
        let fault = |doing: &str, error: io::Error| {
            Fault::io("ROOTFS_UNUSABLE", format!("{doing} {}", image.path.display()), &error)
        };
        // On Linux, a hard link to a symbolic link is another symbolic link.
        let target = fs::canonicalize(&image.path).map_err(|error| fault("looking at", error))?;
        let path = match fs::hard_link(&target, &base) {
            Ok(()) => base,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => base,
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => target,
            // protected_hardlinks, or a file system without links.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) =>
            {
                target
            }
            Err(error) => return Err(fault("linking", error)),
        };
        *used.entry(image.fingerprint.clone()).or_default() += 1;
        Ok(path)
    }

    /// Counts a VM that an earlier process has made.
    pub(crate) fn hold_again(&self, fingerprint: &str) {
        *self.lock().entry(fingerprint.to_owned()).or_default() += 1;
    }

    /// One VM less uses it; the last takes it along.
    pub(crate) fn release(&self, fingerprint: &str) {
        let mut used = self.lock();
        let Some(count) = used.get_mut(fingerprint) else { return };
        *count -= 1;
        if *count == 0 {
            used.remove(fingerprint);
            // Not there where the image itself is used.
            let _ = fs::remove_file(self.base(fingerprint));
        }
    }

    /// Removes bases that no VM uses.
    pub(crate) fn sweep(&self) {
        let used = self.lock();
        for entry in fs::read_dir(&self.bases).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let fingerprint = name.to_str().and_then(|name| name.strip_suffix(".ext4"));
            if fingerprint.is_none_or(|fingerprint| !used.contains_key(fingerprint)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The file of an image's name; none for a name that could lead elsewhere.
fn file_name(name: &str) -> Option<String> {
    let right = name.len() <= LONGEST_NAME
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:@".contains(&byte));
    right.then(|| format!("{}.ext4", name.strip_suffix(".ext4").unwrap_or(name)))
}

#[derive(Debug)]
enum Broken {
    Missing,
    Damaged(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Damaged(error.to_string()),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn fingerprint(path: &Path) -> Result<String, Broken> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Broken::Damaged("it is not a file".to_owned()));
    }
    let mut superblock = [0; 1024];
    if file.read_exact_at(&mut superblock, SUPERBLOCK).is_err() {
        return Err(Broken::Damaged(format!("it is cut off after {} bytes", metadata.len())));
    }
    if superblock[MAGIC..MAGIC + 2] != [0x53, 0xef] {
        return Err(Broken::Damaged("it holds no ext4 file system".to_owned()));
    }
    let high =
        if word(&superblock, INCOMPATIBLE) & HAS_64BIT != 0 { word(&superblock, BLOCKS_HI) } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(word(&superblock, BLOCKS_LO));
    let size =
        1024_u64.checked_shl(word(&superblock, LOG_BLOCK_SIZE)).and_then(|block| blocks.checked_mul(block));
    if size.is_none_or(|size| size > metadata.len()) {
        let (have, want) = (metadata.len(), size.unwrap_or(u64::MAX));
        return Err(Broken::Damaged(format!("it is cut off: {have} of {want} bytes are there")));
    }
    let mut hash = blake3::Hasher::new();
    for part in [metadata.dev(), metadata.ino(), metadata.len()] {
        hash.update(&part.to_le_bytes());
    }
    hash.update(&metadata.mtime().to_le_bytes()).update(&metadata.mtime_nsec().to_le_bytes());
    hash.update(&superblock);
    Ok(hash.finalize().to_hex()[..32].to_owned())
}

/// Checks that a kernel is there, is an ELF file for this machine, and is whole. Gives what tells it from others.
///
/// # Errors
/// `KERNEL_NOT_FOUND` and `KERNEL_UNUSABLE` with what to do.
pub(crate) fn check_kernel(path: &Path) -> Result<String, Fault> {
    const HELP: &str = "get one with scripts/setup-firecracker.sh";
    let unusable = |why: String| {
        Fault::new("KERNEL_UNUSABLE", format!("{} can't be used as a kernel: {why}; {HELP}", path.display()))
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("there is no kernel {}: {HELP}", path.display());
            return Err(Fault::new("KERNEL_NOT_FOUND", message));
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    let metadata = file.metadata().map_err(|error| unusable(error.to_string()))?;
    let mut header = [0; 64];
    if !metadata.is_file() || file.read_exact(&mut header).is_err() {
        return Err(unusable("it is too short".to_owned()));
    }
    // elf(5): magic, 64 bits, little-endian; machine; program headers.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err(unusable("it is not an uncompressed ELF kernel (vmlinux)".to_owned()));
    }
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let u64_at = |bytes: &[u8], at: usize| u64::from(word(bytes, at + 4)) << 32 | u64::from(word(bytes, at));
    let (offset, size, count) = (u64_at(&header, 32), u16_at(54), u16_at(56));
    for number in 0..count {
        let mut program = [0; 56];
        let at = offset.saturating_add(number * size);
        file.read_exact_at(&mut program, at).map_err(|_| unusable("it is cut off".to_owned()))?;
        let end = u64_at(&program, 8).saturating_add(u64_at(&program, 32));
        if end > metadata.len() {
            return Err(unusable(format!("it is cut off: {} of {end} bytes are there", metadata.len())));
        }
    }
    let stamp = [metadata.dev(), metadata.ino(), metadata.len()].map(u64::to_le_bytes).concat();
    let mut hash = blake3::Hasher::new();
    hash.update(&stamp).update(&metadata.mtime().to_le_bytes()).update(&metadata.mtime_nsec().to_le_bytes());
    hash.update(&header);
    Ok(hash.finalize().to_hex()[..32].to_owned())
}

#[cfg(test)]
mod tests {
    use clarateach_ext4::Options;

    use super::*;

    fn images(root: &Path) -> Images {
        fs::create_dir(root.join("bases")).unwrap();
        Images::new(root.to_owned(), root.join("bases"))
    }

    fn image(path: &Path) {
        clarateach_ext4::write_empty(path, Options::new(8 << 20, b"t")).unwrap();
    }

    #[test]
    fn names_lead_to_files_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let images = images(root.path());
        image(&root.path().join("rootfs.ext4"));
        image(&root.path().join("sha256:abc.ext4"));
        for name in ["", "default", "clarateach-workspace"] {
            assert_eq!(images.find(&ImageRef(name.to_owned())).unwrap().name.0, "default");
        }
        assert_eq!(images.find(&ImageRef("sha256:abc".to_owned())).unwrap().name.0, "sha256:abc");
        let long = "x".repeat(300);
        for name in ["../x", "/etc/passwd", ".hidden", "a/b", "nul\0", "żółć", &long, "python:3.12"] {
            let outcome = images.find(&ImageRef(name.to_owned()));
            let refused = matches!(outcome, Err(CreateError::Refused(RuntimeError::ImageNotFound { .. })));
            assert!(refused, "{name}: {outcome:?}");
        }
    }

    #[test]
    fn damaged_images_are_refused_in_words() {
        let root = tempfile::tempdir().unwrap();
        let images = images(root.path());
        let path = root.path().join("rootfs.ext4");
        let why = |images: &Images| match images.find(&ImageRef(String::new())) {
            Err(error) => error.to_string(),
            Ok(_) => "it was taken".to_owned(),
        };
        assert!(why(&images).contains("rootfs-builder --image"), "{}", why(&images));
        fs::write(&path, b"short").unwrap();
        assert!(why(&images).contains("cut off"), "{}", why(&images));
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert!(why(&images).contains("no ext4"), "{}", why(&images));
        fs::remove_file(&path).unwrap();
        image(&path);
        File::options().write(true).open(&path).unwrap().set_len(7 << 20).unwrap();
        assert!(why(&images).contains("cut off"), "{}", why(&images));
    }

    #[test]
    fn a_replaced_image_stays_for_those_who_use_it() {
        let root = tempfile::tempdir().unwrap();
        let images = images(root.path());
        let path = root.path().join("rootfs.ext4");
        image(&path);
        let old = images.find(&ImageRef(String::new())).unwrap();
        let (one, two) = (images.hold(&old).unwrap(), images.hold(&old).unwrap());
        assert_eq!(one, two);
        let inode = fs::metadata(&one).unwrap().ino();
        fs::remove_file(&path).unwrap();
        clarateach_ext4::write_empty(&path, Options::new(9 << 20, b"u")).unwrap();
        let new = images.find(&ImageRef(String::new())).unwrap();
        assert_ne!(old.fingerprint, new.fingerprint);
        assert_ne!(images.hold(&new).unwrap(), one);
        assert_eq!(fs::metadata(&one).unwrap().ino(), inode);
        images.release(&old.fingerprint);
        assert!(one.exists());
        images.release(&old.fingerprint);
        assert!(!one.exists());
    }

    #[test]
    fn an_image_that_is_a_link_is_what_it_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let images = images(root.path());
        fs::create_dir(root.path().join("made")).unwrap();
        let (made, link) = (root.path().join("made/one.ext4"), root.path().join("rootfs.ext4"));
        for target in [Path::new("made/one.ext4"), made.as_path()] {
            image(&made);
            std::os::unix::fs::symlink(target, &link).unwrap();
            let found = images.find(&ImageRef(String::new())).unwrap();
            let base = images.hold(&found).unwrap();
            let inode = fs::symlink_metadata(&base).unwrap().ino();
            assert_eq!(inode, fs::metadata(&made).unwrap().ino(), "{}", target.display());
            fs::remove_file(&made).unwrap();
            assert_eq!(fs::metadata(&base).unwrap().ino(), inode, "{}", target.display());
            images.release(&found.fingerprint);
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_kernel_is_looked_at_before_it_is_used() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("vmlinux");
        assert_eq!(check_kernel(&path).unwrap_err().code, "KERNEL_NOT_FOUND");
        fs::write(&path, b"MZ").unwrap();
        assert_eq!(check_kernel(&path).unwrap_err().code, "KERNEL_UNUSABLE");
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        fs::write(&path, &own).unwrap();
        assert!(check_kernel(&path).is_ok());
        fs::write(&path, &own[..8192]).unwrap();
        assert!(check_kernel(&path).unwrap_err().message.contains("cut off"));
    }
}
