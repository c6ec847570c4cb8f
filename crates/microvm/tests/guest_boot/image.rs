//! Base images of one program: a static busybox under the names of its tools.

use std::fs::File;
use std::path::Path;

use clarateach_ext4::{FileMap, Metadata, Node, Options, Writer};

const BUSYBOX: &str = "/bin/busybox";
const TOOLS: [&str; 19] = [
    "awk", "cat", "date", "dd", "env", "grep", "head", "hostname", "id", "ip", "ls", "mount", "mv", "od",
    "rm", "sh", "sleep", "stat", "tr",
];

/// What the image's `/sbin/init` is.
pub(crate) enum Init<'a> {
    /// A link to our own binary, as rootfs-builder makes it.
    Ours(&'a [u8]),
    /// A shell script of the image.
    Script(&'a str),
}

/// Whether there is a busybox to make images of.
pub(crate) fn possible() -> bool {
    Path::new(BUSYBOX).is_file()
}

/// Writes a base image.
pub(crate) fn write(path: &Path, init: &Init<'_>) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::new(file, Options::new(64 << 20, b"guest_boot")).unwrap();
    let directory = |writer: &mut Writer, name: &str| {
        writer.directory(Node::ROOT, name.as_bytes(), &Metadata::root(0o755)).unwrap()
    };
    let bin = directory(&mut writer, "bin");
    put(&mut writer, bin, "busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
    for tool in TOOLS {
        writer.symlink(bin, tool.as_bytes(), &Metadata::root(0o777), b"busybox").unwrap();
    }
    let etc = directory(&mut writer, "etc");
    put(
        &mut writer,
        etc,
        "passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nlearner:x:1000:1000::/workspace:/bin/sh\n",
    );
    writer.directory(etc, b"sudoers.d", &Metadata::root(0o755)).unwrap();
    // Led nowhere, as systemd-resolved's does in an image.
    writer
        .symlink(etc, b"resolv.conf", &Metadata::root(0o777), b"../run/systemd/resolve/stub-resolv.conf")
        .unwrap();
    for name in ["proc", "sys", "dev", "run"] {
        directory(&mut writer, name);
    }
    let sbin = directory(&mut writer, "sbin");
    match init {
        Init::Ours(workspace) => {
            put(&mut writer, sbin, "clarateach-init", 0o755, workspace);
            writer.symlink(sbin, b"init", &Metadata::root(0o777), b"clarateach-init").unwrap();
        }
        Init::Script(script) => put(&mut writer, sbin, "init", 0o755, script.as_bytes()),
    }
    writer.finish().unwrap();
}

fn put(writer: &mut Writer, directory: Node, name: &str, mode: u16, mut content: &[u8]) {
    let map = FileMap::dense(content.len() as u64);
    writer.file(directory, name.as_bytes(), &Metadata::root(mode), &map, &mut content).unwrap();
}
