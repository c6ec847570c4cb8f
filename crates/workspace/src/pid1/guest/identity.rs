//! Who this machine is, as its programs see it: host name, name resolution, who may become root.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
};

use clarateach_seatproto::guest::GuestConfig;

use super::{GuestError, base::is_directory, freshness, interface};

/// sudo reads every file in its directory; root by sudo is allowed in a machine that is the learner's alone.
const SUDOERS: &str =
    "# Made by ClaraTeach: this machine is the learner's own.\n#1000 ALL=(ALL:ALL) NOPASSWD: ALL\n";

/// Whether a configuration can be used, before anything of it has been.
pub(super) fn check(config: &GuestConfig) -> Result<(), GuestError> {
    let name = &config.hostname;
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !name.starts_with(['-', '.']);
    if !fits {
        return Err(GuestError::Refused(
            "the hostname takes 1 to 64 letters, digits, hyphens and dots".to_owned(),
        ));
    }
    freshness::decode(&config.entropy)?;
    config.network.as_ref().map_or(Ok(()), interface::check)
}

/// Sets the host name and writes the files that depend on who we are. The root is the learner's by now, who may have
/// filled its disk: a file that can't be written is said, and the old one stays.
pub(super) fn write(config: &GuestConfig) -> Result<(), GuestError> {
    let name = &config.hostname;
    rustix::system::sethostname(name.as_bytes()).map_err(GuestError::during("setting the host name"))?;
    let _ = fs::create_dir_all("/etc");
    put("/etc/hostname", &format!("{name}\n"), 0o644);
    let address = config.network.as_ref().map_or_else(|| "127.0.1.1".to_owned(), |n| n.address.to_string());
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    put("/etc/hosts", &with_host(&hosts, &address, name), 0o644);
    let nameservers = config.network.as_ref().map(|n| n.dns.as_slice()).unwrap_or_default();
    if !nameservers.is_empty() {
        let lines: String = nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
        put("/etc/resolv.conf", &lines, 0o644);
    }
    if is_directory("/etc/sudoers.d") {
        put("/etc/sudoers.d/clarateach", SUDOERS, 0o440);
    }
    Ok(())
}

/// `/etc/hosts` with our name at our address, and nowhere else; a disk that comes back may get another address.
fn with_host(hosts: &str, address: &str, name: &str) -> String {
    let names = |line: &str| -> Vec<String> {
        let content = line.split('#').next().unwrap_or_default();
        content.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    let mut kept: String =
        hosts.lines().filter(|line| names(line) != [name]).map(|line| format!("{line}\n")).collect();
    if !hosts.lines().any(|line| names(line).iter().any(|n| n == "localhost")) {
        kept = format!("127.0.0.1\tlocalhost\n{kept}");
    }
    format!("{kept}{address}\t{name}\n")
}

/// Replaces a file; where the image has a symbolic link (`/etc/resolv.conf` often is one, to something that a service
/// would make), the link goes and what it leads to stays.
fn put(path: &str, content: &str, mode: u32) {
    let write = || -> io::Result<()> {
        // A learner may have put anything in the way of it.
        let fresh = format!("{path}.clarateach");
        let _ = fs::remove_file(&fresh);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(content.as_bytes())?;
        fs::rename(&fresh, path).inspect_err(|_| {
            let _ = fs::remove_file(&fresh);
        })
    };
    if let Err(error) = write() {
        crate::say(&format!("writing {path}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn hosts_get_our_name_once_and_keep_the_rest() {
        let first =
            with_host("127.0.0.1 localhost\n# mine\n10.0.0.1 db.example db\n", "192.168.100.11", "seat-1");
        assert_eq!(first, "127.0.0.1 localhost\n# mine\n10.0.0.1 db.example db\n192.168.100.11\tseat-1\n");
        let second = with_host(&first, "192.168.100.12", "seat-1");
        assert_eq!(second, "127.0.0.1 localhost\n# mine\n10.0.0.1 db.example db\n192.168.100.12\tseat-1\n");
        assert_eq!(with_host("", "127.0.1.1", "a"), "127.0.0.1\tlocalhost\n127.0.1.1\ta\n");
    }

    #[test]
    fn names_that_could_be_more_than_a_name_are_refused() {
        let named = |hostname: &str| GuestConfig {
            instance: "i".into(),
            hostname: hostname.into(),
            network: None,
            unix_ms: 0,
            entropy: String::new(),
            secret: "s".into(),
            env: BTreeMap::new(),
        };
        assert!(check(&named("seat-1.class")).is_ok());
        for wrong in ["", "a b", "a\nb", "-a", ".a", "ä", &"a".repeat(65)] {
            assert!(check(&named(wrong)).is_err(), "{wrong:?}");
        }
        let entropy = GuestConfig { entropy: "not base64!".into(), ..named("a") };
        assert!(check(&entropy).is_err());
    }
}
