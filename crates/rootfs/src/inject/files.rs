//! Mount points and the files of name resolution.

use clarateach_ext4::{Error as Ext4Error, Node};

use super::{Injection, Place};

/// What init mounts something on, with its mode before that.
const MOUNT_POINTS: [(&str, u16); 8] = [
    ("/proc", 0o555),
    ("/sys", 0o555),
    ("/dev", 0o755),
    ("/dev/pts", 0o755),
    ("/dev/shm", 0o1777),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/var/tmp", 0o1777),
];

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// The forwarder on the bridge in the default configuration; init writes another one if there is.
const RESOLV_CONF: &str = "nameserver 192.168.100.1\n";

impl Injection<'_> {
    pub(super) fn mount_points(&mut self) -> Result<(), Ext4Error> {
        for (path, mode) in MOUNT_POINTS {
            let metadata = self.metadata(mode);
            match self.directory(path.as_bytes(), &metadata)? {
                Some((_, true)) => self.say(format!("{path}: added")),
                Some((_, false)) => {}
                None => self.say(format!(
                    "{path}: left alone, since the image has something there that is no directory"
                )),
            }
        }
        Ok(())
    }

    pub(super) fn network_files(&mut self) -> Result<(), Ext4Error> {
        for (name, content) in [("resolv.conf", RESOLV_CONF), ("hosts", HOSTS)] {
            let path = format!("etc/{name}");
            // `docker export` and builds leave empty ones behind, as places to mount on.
            let empty = self.kept.get(path.as_bytes()).filter(|file| file.content.is_empty()).cloned();
            if let Some(file) = empty {
                self.replace(path.as_bytes(), file, content.as_bytes())?;
                self.say(format!("/{path}: was empty, now filled"));
                continue;
            }
            let metadata = self.metadata(0o755);
            let Some((etc, _)) = self.directory(b"etc", &metadata)? else { continue };
            match self.resolve(path.as_bytes(), false)? {
                Place::Free(..) => {
                    let metadata = self.metadata(0o644);
                    self.file(etc, name.as_bytes(), &metadata, content.as_bytes())?;
                    self.say(format!("/{path}: added"));
                }
                _ => self.say(format!("/{path}: the image's own is kept")),
            }
        }
        Ok(())
    }

    /// Gives a kept file new content; owner, mode, time and attributes stay.
    pub(super) fn replace(
        &mut self,
        path: &[u8],
        file: crate::merge::KeptFile,
        content: &[u8],
    ) -> Result<Node, Ext4Error> {
        let (parent, name) = (self.writer.parent(file.node), self.writer.name(file.node).to_vec());
        self.writer.remove(file.node);
        let node = self.file(parent, &name, &file.metadata, content)?;
        self.kept.remove(path);
        Ok(node)
    }
}
