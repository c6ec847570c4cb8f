//! What the kernel unpacks and starts: the workspace binary as `/init`, and modules in the order to load them.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::{GuestError, modules};

/// The largest init that is taken: every VM holds it in memory.
const LARGEST: u64 = 64 << 20;
/// A jailed VMM reads it as another user, whatever the umask it was made under. There is nothing secret in it.
const MODE: u32 = 0o644;

/// Makes the initramfs of `workspace_bin` (the static binary) and the modules that guests need from `modules` (none if the
/// kernel has its drivers built in), and puts it into the directory `into`, which is made if need be.
///
/// The file is named by its content, so an existing one is used as it is; it appears complete or not at all. Equal inputs
/// give equal bytes. It is not compressed: it is read from the page cache that all VMs share, and unpacking would take
/// each of them longer than reading.
///
/// # Errors
/// [`GuestError`] names the file that can't be read, written or used.
pub fn build(workspace_bin: &Path, modules: Option<&Path>, into: &Path) -> Result<PathBuf, GuestError> {
    let init = read_init(workspace_bin)?;
    let modules = modules.map(modules::select).transpose()?.unwrap_or_default();
    let archive = pack(&init, &modules);
    publish(&archive, into)
}

fn read_init(path: &Path) -> Result<Vec<u8>, GuestError> {
    let metadata = fs::metadata(path).map_err(GuestError::io("looking at", path))?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(GuestError::unfit(path, "it is no file, or larger than 64 MiB"));
    }
    let init = fs::read(path).map_err(GuestError::io("reading", path))?;
    let file = elf::ElfBytes::<elf::endian::AnyEndian>::minimal_parse(&init)
        .map_err(|why| GuestError::unfit(path, format!("it is no ELF file ({why})")))?;
    let interpreted = file.segments().is_some_and(|all| all.iter().any(|s| s.p_type == elf::abi::PT_INTERP));
    if interpreted {
        let reason =
            "it is not static, and nothing else would be there: build it with scripts/build-workspace.sh";
        return Err(GuestError::unfit(path, reason));
    }
    Ok(init)
}

fn pack(init: &[u8], modules: &[modules::Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("dev", 0o755);
    // The kernel opens it for init's standard streams before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, init);
    archive.directory("modules", 0o755);
    for (n, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{n:02}-{}.ko", module.name), 0o644, &module.content);
    }
    archive.finish()
}

fn publish(archive: &[u8], into: &Path) -> Result<PathBuf, GuestError> {
    let digest = blake3::hash(archive).to_hex();
    let path = into.join(format!("initramfs-{}.cpio", &digest[..32]));
    let length = archive.len() as u64;
    if fs::metadata(&path).is_ok_and(|there| there.is_file() && there.len() == length) {
        fs::set_permissions(&path, Permissions::from_mode(MODE))
            .map_err(GuestError::io("opening to VMMs", &path))?;
        return Ok(path);
    }
    fs::create_dir_all(into).map_err(GuestError::io("making", into))?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|error| GuestError::Io {
        operation: "drawing a name in",
        path: into.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    let fresh = into.join(format!(".initramfs-{:016x}.new", u64::from_le_bytes(nonce)));
    let written = write_and_rename(archive, &fresh, &path);
    if written.is_err() {
        // Best effort: the error that is returned is the one that matters.
        let _ = fs::remove_file(&fresh);
    }
    written.map(|()| path)
}

fn write_and_rename(archive: &[u8], fresh: &Path, path: &Path) -> Result<(), GuestError> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(fresh)
        .map_err(GuestError::io("making", fresh))?;
    file.set_permissions(Permissions::from_mode(MODE)).map_err(GuestError::io("opening to VMMs", fresh))?;
    file.write_all(archive).and_then(|()| file.sync_all()).map_err(GuestError::io("writing", fresh))?;
    fs::rename(fresh, path).map_err(GuestError::io("publishing", path))
}

#[cfg(test)]
mod tests {
    use super::super::{cpio, modules::tests::module};
    use super::*;

    fn inputs() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("workspace"), module(b"depends=\0")).unwrap();
        fs::create_dir(directory.path().join("modules")).unwrap();
        fs::write(directory.path().join("modules/virtio_blk.ko"), module(b"depends=virtio\0")).unwrap();
        fs::write(directory.path().join("modules/virtio.ko"), module(b"depends=\0")).unwrap();
        directory
    }

    #[test]
    fn it_holds_init_and_modules_in_order_and_is_made_once() {
        let inputs = inputs();
        let (bin, modules, into) =
            (inputs.path().join("workspace"), inputs.path().join("modules"), inputs.path().join("made/here"));
        let first = build(&bin, Some(&modules), &into).unwrap();
        let entries = cpio::tests::read(&fs::read(&first).unwrap());
        let names: Vec<&str> = entries.iter().map(|entry| entry.0.as_str()).collect();
        assert_eq!(
            names,
            ["dev", "dev/console", "init", "modules", "modules/00-virtio.ko", "modules/01-virtio_blk.ko"]
        );
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&first);
        assert_eq!(build(&bin, Some(&modules), &into).unwrap(), first);
        assert_eq!(inode(&first), before);
        // One that was cut short, by whatever means, is not used.
        fs::OpenOptions::new().write(true).open(&first).unwrap().set_len(100).unwrap();
        assert_eq!(build(&bin, Some(&modules), &into).unwrap(), first);
        assert!(fs::metadata(&first).unwrap().len() > 100);
        assert_ne!(build(&bin, None, &into).unwrap(), first);
        let left: Vec<_> = fs::read_dir(&into).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn every_user_may_read_it_whatever_the_umask_is_and_was() {
        let inputs = inputs();
        let (bin, into) = (inputs.path().join("workspace"), inputs.path().to_owned());
        let made = std::thread::spawn(move || {
            // The umask is this thread's alone.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            let made = build(&bin, None, &into).unwrap();
            let mode = || fs::metadata(&made).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(), 0o644);
            // One that an agent has left that went by its umask.
            fs::set_permissions(&made, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(build(&bin, None, &into).unwrap(), made);
            assert_eq!(mode(), 0o644);
        });
        made.join().unwrap();
    }

    #[test]
    fn a_dynamic_binary_or_none_is_refused() {
        let into = tempfile::tempdir().unwrap();
        let shell = Path::new("/bin/sh");
        if shell.exists() {
            let error = build(shell, None, into.path()).unwrap_err().to_string();
            assert!(error.contains("not static"), "{error}");
        }
        for (name, content) in [("text", &b"#!/bin/sh\n"[..]), ("empty", b"")] {
            let path = into.path().join(name);
            fs::write(&path, content).unwrap();
            assert!(matches!(build(&path, None, into.path()), Err(GuestError::Unfit { .. })));
        }
        let missing = into.path().join("missing");
        assert!(matches!(build(&missing, None, into.path()), Err(GuestError::Io { .. })));
    }
}
