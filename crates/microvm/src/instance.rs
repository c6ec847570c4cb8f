//! Names of VMs, by which their processes and directories are found without a record.

use std::path::Path;

/// Characters of an instance's name.
pub(crate) const LENGTH: usize = PREFIX_LENGTH + RANDOM_LENGTH;
/// `vm-`, eight digits, `-`.
const PREFIX_LENGTH: usize = 12;
const RANDOM_LENGTH: usize = 12;
/// 32 characters, so that five random bits choose one evenly.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Makes and recognises the names of one runtime's VMs: those of one owner and one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Instances {
    prefix: String,
}

impl Instances {
    pub(crate) fn of(owner: &str, state: &Path) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(owner.as_bytes()).update(&[0]).update(state.as_os_str().as_encoded_bytes());
        Self { prefix: format!("vm-{}-", &hash.finalize().to_hex()[..8]) }
    }

    /// A name that no VM has ever had.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub(crate) fn random(&self) -> Result<String, getrandom::Error> {
        let mut bytes = [0; RANDOM_LENGTH];
        getrandom::fill(&mut bytes)?;
        let random = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
        Ok(self.prefix.chars().chain(random).collect())
    }

    /// Whether a name is one of ours.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        name.len() == LENGTH
            && name.starts_with(&self.prefix)
            && name[PREFIX_LENGTH..].bytes().all(|byte| ALPHABET.contains(&byte))
    }

    /// The instance that a command line names, if it is one of ours: an argument that is the name, or that holds it
    /// among characters that names don't have (`/run/NAME/sock`, `guest=NAME,debug-threads=on`).
    pub(crate) fn named_in<'a>(&self, command_line: &'a [u8]) -> Option<&'a str> {
        command_line
            .split(|byte| !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-'))
            .filter_map(|word| std::str::from_utf8(word).ok())
            .find(|word| self.is_ours(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_by_their_own_runtime_only() {
        let ours = Instances::of("installation", Path::new("/state"));
        let others =
            [Instances::of("installation", Path::new("/other")), Instances::of("other", Path::new("/state"))];
        let name = ours.random().unwrap();
        assert_eq!(name.len(), LENGTH);
        assert!(ours.is_ours(&name));
        assert_ne!(name, ours.random().unwrap());
        for other in others {
            assert!(!other.is_ours(&name));
        }
        for hostile in [&format!("{name}x"), &name[..LENGTH - 1], "vm-", "", "..", &name.to_uppercase()] {
            assert!(!ours.is_ours(hostile), "{hostile}");
        }
    }

    #[test]
    fn a_command_line_tells_whose_it_is() {
        let ours = Instances::of("i", Path::new("/state"));
        let name = ours.random().unwrap();
        for line in [
            format!("/usr/bin/firecracker\0--id\0{name}\0"),
            format!("qemu-system-x86_64\0-name\0guest={name},debug-threads=on\0"),
            format!("qemu\0-chardev\0socket,path=/tmp/clarateach/{name}/qmp.sock\0"),
        ] {
            assert_eq!(ours.named_in(line.as_bytes()), Some(name.as_str()), "{line}");
        }
        assert_eq!(ours.named_in(b"vim\0notes about vm-0-abc\0"), None);
        assert_eq!(ours.named_in(b""), None);
    }
}
