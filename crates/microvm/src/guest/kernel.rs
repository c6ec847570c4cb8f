//! Kernels: whether one can be booted, and which it is.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::GuestError;

/// Length of an ELF64 header.
const HEADER: usize = 64;
/// The smallest that a kernel could be.
const SMALLEST: u64 = 64 << 10;
const X86_64: u16 = 62;
/// What the kernel prints first, and holds as text.
const BANNER: &[u8] = b"Linux version ";

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// BLAKE3 of the file, in hexadecimal: a snapshot is good for this kernel only.
    pub digest: String,
    /// Like `6.1.0-56-cloud-amd64`.
    pub version: String,
}

/// Reads a kernel and checks that it is an uncompressed x86-64 ELF file (a `vmlinux`), whole.
///
/// # Errors
/// [`GuestError::Unfit`] says what it is instead, and what to do.
pub fn inspect(path: &Path) -> Result<Kernel, GuestError> {
    let fail = || GuestError::io("reading the kernel", path);
    let metadata = fs::metadata(path).map_err(GuestError::io("looking at the kernel", path))?;
    if !metadata.is_file() {
        return Err(GuestError::unfit(path, "it is no regular file"));
    }
    let mut file = File::open(path).map_err(fail())?;
    let mut head = Vec::new();
    file.by_ref().take(1024).read_to_end(&mut head).map_err(fail())?;
    check_head(&head, metadata.len()).map_err(|reason| GuestError::unfit(path, reason))?;
    file.seek(SeekFrom::Start(0)).map_err(fail())?;
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.read_to_end(&mut content).map_err(fail())?;
    let version = version(&content)
        .ok_or_else(|| GuestError::unfit(path, "it holds no \"Linux version\": it is no Linux kernel"))?;
    Ok(Kernel { digest: blake3::hash(&content).to_hex().to_string(), version })
}

/// Checks the ELF header, and that the file reaches as far as its program headers say.
fn check_head(head: &[u8], length: u64) -> Result<(), String> {
    const TAKE_OUT: &str = "take the vmlinux out of it, as scripts/setup-qemu-kernel.sh does";
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return Err(format!("it is a bzImage (a compressed kernel): {TAKE_OUT}"));
    }
    let packed = [
        (&b"\x1f\x8b"[..], "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    if let Some((_, kind)) = packed.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(format!("it is compressed with {kind}: unpack it"));
    }
    if !head.starts_with(b"\x7fELF") {
        return Err("it is no ELF file, as an uncompressed kernel (vmlinux) is".to_owned());
    }
    if head.len() < HEADER || length < SMALLEST {
        return Err(format!("it is cut short: it has {length} bytes"));
    }
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let word = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let (class, order, machine) = (head[4], head[5], half(18));
    if (class, order) != (2, 1) || machine != X86_64 {
        return Err(format!("it is for another machine (ELF machine {machine}), not x86-64"));
    }
    let (at, size, count) = (word(32), u64::from(half(54)), u64::from(half(56)));
    if count == 0 || size < 56 {
        return Err("it has no program headers: it is an object file, not a kernel".to_owned());
    }
    let mut reach = at.saturating_add(size * count);
    for n in 0..count {
        // Kernels have them right behind the header; elsewhere they are checked by the VMM.
        let Ok(header) = usize::try_from(at + n * size) else { break };
        reach = reach.max(word(header + 8).saturating_add(word(header + 32)));
    }
    if reach > length {
        return Err(format!("it is cut short: it has {length} bytes of {reach}"));
    }
    Ok(())
}

/// The word after "Linux version ", which is in the kernel several times; one is a format with `%s`.
fn version(content: &[u8]) -> Option<String> {
    let mut rest = content;
    loop {
        let found = memchr::memmem::find(rest, BANNER)?;
        rest = &rest[found + BANNER.len()..];
        let end = rest.iter().take(100).position(|b| !b.is_ascii_graphic())?;
        if rest.first().is_some_and(u8::is_ascii_digit) {
            return std::str::from_utf8(&rest[..end]).ok().map(str::to_owned);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF header with one program header that covers the whole file.
    fn vmlinux(length: usize) -> Vec<u8> {
        let mut file = vec![0u8; length];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &2u16.to_le_bytes());
        put(18, &62u16.to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(54, &56u16.to_le_bytes());
        put(56, &1u16.to_le_bytes());
        put(64 + 32, &(length as u64).to_le_bytes());
        put(4096, b"Linux version %s (%s)\n\0Linux version 6.1.0-9-test (who@where) #1 SMP\n");
        file
    }

    fn inspected(content: &[u8]) -> Result<Kernel, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinux");
        fs::write(&path, content).unwrap();
        inspect(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_kernel_is_known_by_version_and_content() {
        let kernel = inspected(&vmlinux(200_000)).unwrap();
        assert_eq!(kernel.version, "6.1.0-9-test");
        let mut other = vmlinux(200_000);
        other[150_000] = 1;
        assert_ne!(inspected(&other).unwrap().digest, kernel.digest);
    }

    #[test]
    fn what_is_no_vmlinux_is_told_what_it_is() {
        let whole = vmlinux(200_000);
        let mut bzimage = vec![0; 200_000];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        let mut arm = whole.clone();
        arm[18] = 183;
        let mut nameless = whole.clone();
        nameless[4096..4200].fill(0);
        let cases: [(&[u8], &str); 8] = [
            (&bzimage, "bzImage"),
            (&arm, "another machine"),
            (&whole[..150_000], "cut short"),
            (&whole[..20], "cut short"),
            (&nameless, "Linux version"),
            (b"", "no ELF file"),
            (b"\x1f\x8b\x08 and so on", "gzip"),
            (b"#!/bin/sh", "no ELF file"),
        ];
        for (content, word) in cases {
            let error = inspected(content).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(matches!(inspect(Path::new("/nowhere/vmlinux")), Err(GuestError::Io { .. })));
        assert!(inspect(Path::new("/dev")).unwrap_err().to_string().contains("no regular file"));
    }

    proptest! {
        #[test]
        fn damaged_headers_never_panic(at in 0usize..1024, byte in any::<u8>(), length in 0u64..1_000_000) {
            let mut head = vmlinux(70_000);
            head.truncate(1024);
            head[at] = byte;
            let _ = check_head(&head, length);
        }
    }
}
