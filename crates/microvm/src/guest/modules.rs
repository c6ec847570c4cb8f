//! Which kernel modules a guest needs, and in which order they are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::endian::AnyEndian;

use super::GuestError;

/// What a guest must be able to drive. Missing ones may be built into the kernel; if they are not, the guest says on its
/// console what did not appear.
const WANTED: [&str; 10] = [
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    "virtio_net",
    "ext4",
    "overlay",
];
/// The largest module that is taken, unpacked.
const LARGEST: usize = 32 << 20;

/// A module as it goes into the guest: plain, whatever it was on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name, with underscores as the kernel has it.
    pub(super) name: String,
    /// The ELF file.
    pub(super) content: Vec<u8>,
}

/// Reads the wanted modules below `directory` (a flat one or a whole `/lib/modules/VERSION`) and all they depend on, each
/// after what it needs.
pub(super) fn select(directory: &Path) -> Result<Vec<Module>, GuestError> {
    let mut files = BTreeMap::new();
    let mut built_in = BTreeSet::new();
    collect(directory, &mut files, &mut built_in)?;
    let mut selection = Selection { directory, files, built_in, done: BTreeSet::new(), chosen: Vec::new() };
    for wanted in WANTED {
        if selection.files.contains_key(wanted) {
            selection.add(wanted)?;
        }
    }
    Ok(selection.chosen)
}

struct Selection<'a> {
    directory: &'a Path,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    /// Chosen, or being looked at: dependencies have no cycles, and if a damaged file says so they still end.
    done: BTreeSet<String>,
    chosen: Vec<Module>,
}

impl Selection<'_> {
    fn add(&mut self, name: &str) -> Result<(), GuestError> {
        if self.built_in.contains(name) || !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name).cloned() else {
            let reason = format!(
                "it has no module {name}, which another one depends on, and does not list it as built in"
            );
            return Err(GuestError::unfit(self.directory, reason));
        };
        let content = load(&path)?;
        let depends = depends(&content).map_err(|reason| GuestError::unfit(&path, reason))?;
        for dependency in depends {
            self.add(&dependency)?;
        }
        self.chosen.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// Finds modules and `modules.builtin` lists; of two modules with one name the first path counts.
fn collect(
    directory: &Path,
    files: &mut BTreeMap<String, PathBuf>,
    built_in: &mut BTreeSet<String>,
) -> Result<(), GuestError> {
    let fail =
        |source| GuestError::Io { operation: "reading the modules in", path: directory.to_owned(), source };
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .map_err(fail)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    entries.sort();
    for path in entries {
        // Not through links: /lib/modules/VERSION/build leads to the whole source.
        let metadata = fs::symlink_metadata(&path).map_err(GuestError::io("looking at", &path))?;
        if metadata.is_dir() {
            collect(&path, files, built_in)?;
        } else if path.file_name().is_some_and(|name| name == "modules.builtin") {
            let list = fs::read_to_string(&path).map_err(GuestError::io("reading", &path))?;
            built_in.extend(list.lines().filter_map(|line| module_name(Path::new(line))));
        } else if metadata.is_file()
            && let Some(name) = module_name(&path)
        {
            files.entry(name).or_insert(path);
        }
    }
    Ok(())
}

/// `virtio_rng` for `…/virtio-rng.ko.zst`; none for what is no module.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = [".ko", ".ko.zst", ".ko.xz", ".ko.gz"].iter().find_map(|end| name.strip_suffix(end))?;
    Some(stem.replace('-', "_"))
}

fn load(path: &Path) -> Result<Vec<u8>, GuestError> {
    let content = fs::read(path).map_err(GuestError::io("reading", path))?;
    match path.extension().and_then(|end| end.to_str()) {
        Some("zst") => zstd::bulk::decompress(&content, LARGEST).map_err(GuestError::io("unpacking", path)),
        Some("ko") => Ok(content),
        other => {
            let other = other.unwrap_or_default();
            Err(GuestError::unfit(
                path,
                format!(
                    "modules packed with {other} are not taken: unpack them, or give them as .ko or .ko.zst"
                ),
            ))
        }
    }
}

/// The modules that one needs: `depends=` in its section `.modinfo`, which holds `key=value` strings that end in NUL.
fn depends(module: &[u8]) -> Result<Vec<String>, String> {
    let file =
        ElfBytes::<AnyEndian>::minimal_parse(module).map_err(|why| format!("it is no ELF file ({why})"))?;
    let section = file
        .section_header_by_name(".modinfo")
        .map_err(|why| format!("its sections can't be read ({why})"))?
        .ok_or("it has no .modinfo section, as kernel modules do")?;
    let (info, packed) =
        file.section_data(&section).map_err(|why| format!("its .modinfo can't be read ({why})"))?;
    if packed.is_some() {
        return Err("its .modinfo is compressed".to_owned());
    }
    let value = info
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .ok_or("its .modinfo does not say what it depends on")?;
    let value = std::str::from_utf8(value).map_err(|_| "what it depends on is no text")?;
    Ok(value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A minimal ELF64 file with a `.modinfo` section, by the ELF specification.
    pub(crate) fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let (at_info, at_names) = (64usize, 64 + info.len());
        let at_sections = (at_names + names.len()).next_multiple_of(8);
        let mut file = vec![0u8; at_sections + 3 * 64];
        file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &1u16.to_le_bytes());
        put(18, &62u16.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(40, &(at_sections as u64).to_le_bytes());
        put(52, &64u16.to_le_bytes());
        put(58, &64u16.to_le_bytes());
        put(60, &3u16.to_le_bytes());
        put(62, &2u16.to_le_bytes());
        put(at_info, info);
        put(at_names, names);
        for (n, (name, kind, at, size)) in
            [(1u32, 1u32, at_info, info.len()), (10, 3, at_names, names.len())].into_iter().enumerate()
        {
            let header = at_sections + 64 * (n + 1);
            put(header, &name.to_le_bytes());
            put(header + 4, &kind.to_le_bytes());
            put(header + 24, &(at as u64).to_le_bytes());
            put(header + 32, &(size as u64).to_le_bytes());
        }
        file
    }

    fn directory(modules: &[(&str, &str)]) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, depends) in modules {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let content = module(format!("license=GPL\0depends={depends}\0vermagic=6.1\0").as_bytes());
            let content =
                if name.ends_with(".zst") { zstd::bulk::compress(&content, 3).unwrap() } else { content };
            fs::write(path, content).unwrap();
        }
        directory
    }

    fn names(directory: &TempDir) -> Vec<String> {
        select(directory.path()).unwrap().into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn modules_come_after_what_they_need_and_without_what_nobody_needs() {
        let found = directory(&[
            ("kernel/virtio_net.ko", "net_failover,virtio,virtio_ring"),
            ("kernel/net/net_failover.ko.zst", "failover"),
            ("kernel/net/failover.ko", ""),
            ("virtio.ko", ""),
            ("virtio_ring.ko", ""),
            ("virtio-rng.ko", "virtio,virtio_ring"),
            ("virtio_gpu.ko", "drm"),
        ]);
        assert_eq!(
            names(&found),
            ["virtio", "virtio_ring", "virtio_rng", "failover", "net_failover", "virtio_net"]
        );
        assert!(select(found.path()).unwrap().iter().all(|module| module.content.starts_with(b"\x7fELF")));
    }

    #[test]
    fn what_is_built_in_is_not_missed_and_what_is_nowhere_is() {
        let found = directory(&[("ext4.ko", "mbcache,jbd2")]);
        let error = select(found.path()).unwrap_err().to_string();
        assert!(error.contains("mbcache"), "{error}");
        fs::write(found.path().join("modules.builtin"), "kernel/fs/mbcache.ko\nkernel/fs/jbd2/jbd2.ko\n")
            .unwrap();
        assert_eq!(names(&found), ["ext4"]);
    }

    #[test]
    fn other_packings_and_damaged_files_are_named() {
        for (name, content, word) in [
            ("virtio.ko.xz", &b"\xfd7zXZ\0"[..], "xz"),
            ("virtio.ko", b"\x7fELF but not really", "ELF"),
            ("virtio.ko.zst", b"not zstd", "virtio.ko.zst"),
        ] {
            let found = tempfile::tempdir().unwrap();
            fs::write(found.path().join(name), content).unwrap();
            let error = select(found.path()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        // Those that nobody asks for may be anything.
        let found = tempfile::tempdir().unwrap();
        fs::write(found.path().join("snd.ko.xz"), "?").unwrap();
        assert!(select(found.path()).unwrap().is_empty());
    }

    #[test]
    fn modules_that_need_each_other_end() {
        let found = directory(&[("virtio.ko", "virtio_ring"), ("virtio_ring.ko", "virtio")]);
        assert_eq!(names(&found).len(), 2);
    }

    proptest! {
        #[test]
        fn dependencies_are_read_back(depends_on in proptest::collection::vec("[a-z][a-z0-9_]{0,12}", 0..6)) {
            let info = format!("author=a\0depends={}\0name=x\0", depends_on.join(","));
            prop_assert_eq!(depends(&module(info.as_bytes())).unwrap(), depends_on);
        }

        #[test]
        fn damage_never_panics(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut file = module(b"depends=virtio\0");
            if let Some(there) = file.get_mut(at) {
                *there = byte;
            }
            file.truncate(cut.max(1));
            let _ = depends(&file);
        }
    }
}
