//! What has to be there for Firecracker to run.

use std::path::PathBuf;

use super::FirecrackerConfig;
use crate::vmm::qemu::kvm_advice;
use crate::vmm::{VmmError, preflight};

/// The oldest release whose snapshots can be given another tap, and that has been looked at for this driver.
const OLDEST: (u32, u32) = (1, 13);

/// What has been found out about Firecracker on this host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) program: PathBuf,
    pub(super) jailer: Option<PathBuf>,
    pub(super) version: String,
    pub(super) number: (u32, u32),
}

impl Host {
    /// Looks for the programs and the device, and asks for the version.
    pub(super) async fn examine(config: &FirecrackerConfig) -> Result<Self, VmmError> {
        let advice = "install Firecracker (scripts/setup-firecracker.sh) or set its path";
        let program = resolve(preflight::program(&config.program, advice)?);
        let jailer = match &config.jailer {
            Some(jailer) => Some(preflight::program(&jailer.program, advice)?),
            None => None,
        };
        let unusable =
            |message: String| VmmError::Program { program: program.display().to_string(), message };
        let words = preflight::ask(&program, &["--version"]).await.map_err(&unusable)?;
        let (number, version) = parse_version(&words).ok_or_else(|| {
            unusable(format!("it does not say which version of Firecracker it is, but: {words}"))
        })?;
        if number < OLDEST {
            let (major, minor) = OLDEST;
            return Err(unusable(format!("it is {version}; v{major}.{minor} or newer is needed: {advice}",)));
        }
        std::fs::OpenOptions::new().read(true).write(true).open(&config.kvm).map_err(|error| {
            VmmError::Host { message: format!("{}; Firecracker needs it", kvm_advice(&error)) }
        })?;
        if config.jailer.is_some() && !rustix::process::geteuid().is_root() {
            return Err(VmmError::Host {
                message: "the jailer needs root: run the agent as root, or without it".into(),
            });
        }
        Ok(Self { program, jailer, version, number })
    }
}

/// `Firecracker v1.16.1`, maybe with `-dev` after it, in the first line.
fn parse_version(words: &str) -> Option<((u32, u32), String)> {
    let line = words.trim().lines().next()?.trim();
    let mut numbers = line.strip_prefix("Firecracker v")?.split(['.', '-']).map(str::parse::<u32>);
    Some(((numbers.next()?.ok()?, numbers.next()?.ok()?), line.to_owned()))
}

/// Follows links, as the jailer does.
pub(super) fn resolve(program: PathBuf) -> PathBuf {
    std::fs::canonicalize(&program).unwrap_or(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_firecracker_prints_them() {
        let release = "Firecracker v1.16.1\n\n2026-11-23T14:05:11 [anonymous-instance:main] exiting";
        assert_eq!(parse_version(release), Some(((1, 16), "Firecracker v1.16.1".into())));
        assert_eq!(parse_version("Firecracker v2.0-dev"), Some(((2, 0), "Firecracker v2.0-dev".into())));
        assert_eq!(parse_version("Jailer v1.16.1"), None);
        assert_eq!(parse_version(""), None);
    }
}
