//! The settings, read once at start. Nothing else reads the environment.

mod metadata;
mod network;
mod parse;
mod settings;
mod token;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clarateach_gateway::WebOrigin;
use clarateach_ids::WorkerId;
use secrecy::SecretString;

pub use network::Subnet;
pub use parse::ConfigError;
use parse::{Settings, wrong};
pub use settings::SETTINGS;
pub use token::{GOOD_TOKEN, Token, TokenError};

use crate::tls::TlsFiles;

/// Most ports that a Linux bridge takes (`BR_MAX_PORTS` in net/bridge/br_private.h, less one).
pub const BRIDGE_PORTS: u32 = 1023;

/// Where the agent is reached.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `BIND_ADDR` and `PORT`.
    pub address: SocketAddr,
    /// `PUBLIC_URL`: the TLS address under which learners' browsers reach `/proxy`.
    pub public_url: Option<WebOrigin>,
    /// `CORS_ORIGINS`: the web UIs whose pages may call `/proxy`.
    pub cors_origins: Vec<WebOrigin>,
    /// `TLS_CERT` and `TLS_KEY`; none serves plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// Who may do what.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where the token comes from: `AGENT_TOKEN`, `AGENT_TOKEN_FILE` or GCP metadata.
    pub token: Token,
    /// `METRICS_TOKEN`.
    pub metrics_token: Option<SecretString>,
}

/// Directories.
#[derive(Debug, Clone)]
pub struct Places {
    /// `IMAGES_DIR`.
    pub images: PathBuf,
    /// `SOCKET_DIR`.
    pub sockets: PathBuf,
    /// `STATE_DIR`.
    pub state: PathBuf,
    /// `WORKSPACE_BIN`.
    pub workspace_bin: Option<PathBuf>,
}

/// The network of VMs.
#[derive(Debug, Clone)]
pub struct Network {
    /// `BRIDGE_NAME`.
    pub bridge: String,
    /// `BRIDGE_IP`.
    pub subnet: Subnet,
}

/// Which VMM makes VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmKind {
    /// Firecracker, which needs KVM.
    Firecracker,
    /// QEMU `microvm`, with KVM or without.
    Qemu,
}

/// How QEMU runs guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM where a guest really runs on it, else TCG.
    Auto,
    /// KVM.
    Kvm,
    /// Emulation.
    Tcg,
}

/// When a VM is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its workspace answers.
    Health,
    /// It answers a ping.
    Ping,
}

/// The VMM.
#[derive(Debug, Clone)]
pub struct VmmSettings {
    /// `VMM`.
    pub kind: VmmKind,
    /// `FIRECRACKER_BIN`.
    pub firecracker_bin: PathBuf,
    /// `JAILER_BIN`; none runs Firecracker without.
    pub jailer_bin: Option<PathBuf>,
    /// `JAILER_UID_BASE`: the first of as many user ids as there are VMs, and the group of all of them.
    pub jailer_uid_base: u32,
    /// `QEMU_BIN`.
    pub qemu_bin: PathBuf,
    /// `QEMU_ACCEL`.
    pub accelerator: Accelerator,
    /// `SNAPSHOTS`.
    pub snapshots: bool,
    /// `READINESS`.
    pub readiness: Readiness,
    /// `CAPACITY`.
    pub capacity: u32,
}

/// How the log reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The log.
#[derive(Debug, Clone)]
pub struct Log {
    /// `LOG_FORMAT`.
    pub format: LogFormat,
    /// `RUST_LOG`.
    pub filter: String,
}

/// All settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the agent is reached.
    pub listen: Listen,
    /// Who may do what.
    pub access: Access,
    /// Directories.
    pub places: Places,
    /// The network of VMs.
    pub network: Network,
    /// The VMM.
    pub vmm: VmmSettings,
    /// `WORKER_ID`.
    pub worker_id: Option<WorkerId>,
    /// `METADATA` and `GCE_METADATA_HOST`: whom to ask whether this instance is being preempted.
    pub metadata: Option<String>,
    /// The log.
    pub log: Log,
}

impl Config {
    /// Reads the settings through `lookup`, which gives a variable's value. Empty counts as not set.
    ///
    /// # Errors
    /// The first setting that can't be used.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let settings = Settings::new(&lookup);
        let subnet: Subnet = settings.parsed("BRIDGE_IP", network::TAKES)?.unwrap_or_default();
        let token = Token::from_settings(&settings)?;
        Ok(Self {
            listen: Listen {
                address: SocketAddr::new(
                    settings
                        .parsed("BIND_ADDR", "an IP address such as 0.0.0.0 or 127.0.0.1")?
                        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                    settings.parsed("PORT", "a port number from 0 to 65535")?.unwrap_or(9090),
                ),
                public_url: settings
                    .parsed("PUBLIC_URL", "a URL without a path, such as https://worker-1.example.org")?,
                cors_origins: settings
                    .list("CORS_ORIGINS", "origins such as https://class.example.org, separated by commas")?,
                tls: tls(&settings)?,
            },
            metadata: metadata::from_settings(&settings, &token)?,
            access: Access { token, metrics_token: settings.secret("METRICS_TOKEN")? },
            places: Places {
                images: settings.directory("IMAGES_DIR", "/var/lib/clarateach/images")?,
                sockets: settings.directory("SOCKET_DIR", "/tmp/clarateach")?,
                state: settings.directory("STATE_DIR", "/var/lib/clarateach/state")?,
                workspace_bin: settings.get("WORKSPACE_BIN").map(PathBuf::from),
            },
            network: Network { bridge: bridge_name(&settings)?, subnet },
            vmm: vmm(&settings, subnet)?,
            worker_id: settings.parsed(
                "WORKER_ID",
                "1 to 63 characters from a-z, A-Z, 0-9, '-' and '_', the first a letter or digit",
            )?,
            log: Log {
                format: settings
                    .choice("LOG_FORMAT", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?,
                filter: settings.get("RUST_LOG").unwrap_or_else(|| "info".to_owned()),
            },
        })
    }
}

/// Both or neither.
fn tls(settings: &Settings<'_>) -> Result<Option<TlsFiles>, ConfigError> {
    let (certificate, key) = (settings.get("TLS_CERT"), settings.get("TLS_KEY"));
    let missing = |variable, other| ConfigError {
        variable,
        problem: format!("it is not set and {other} is; TLS takes both, PEM files"),
    };
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into() }))
        }
        (None, Some(_)) => Err(missing("TLS_CERT", "TLS_KEY")),
        (Some(_), None) => Err(missing("TLS_KEY", "TLS_CERT")),
    }
}

/// dev_valid_name() of the Linux kernel, narrowed to what needs no quoting anywhere.
fn bridge_name(settings: &Settings<'_>) -> Result<String, ConfigError> {
    let name = settings.get("BRIDGE_NAME").unwrap_or_else(|| "clarateach0".to_owned());
    let fits = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !matches!(name.as_str(), "." | "..")
        && !name.starts_with('-');
    if fits {
        Ok(name)
    } else {
        Err(wrong("BRIDGE_NAME", &name, "1 to 15 characters from a-z, A-Z, 0-9, '-', '_' and '.'"))
    }
}

fn vmm(settings: &Settings<'_>, subnet: Subnet) -> Result<VmmSettings, ConfigError> {
    let capacity = settings.parsed("CAPACITY", "a whole number from 1 to 1023")?.unwrap_or(50);
    if !(1..=BRIDGE_PORTS).contains(&capacity) {
        let takes = "a whole number from 1 to 1023, which is how many ports a bridge has";
        return Err(wrong("CAPACITY", &capacity.to_string(), takes));
    }
    if capacity > subnet.guests() {
        let takes = format!(
            "at most {} with BRIDGE_IP={subnet}, which has no more addresses for VMs; take a larger network",
            subnet.guests()
        );
        return Err(wrong("CAPACITY", &capacity.to_string(), &takes));
    }
    Ok(VmmSettings {
        kind: settings.choice("VMM", &[("firecracker", VmmKind::Firecracker), ("qemu", VmmKind::Qemu)])?,
        firecracker_bin: settings.program("FIRECRACKER_BIN", "firecracker"),
        jailer_bin: settings.get("JAILER_BIN").map(PathBuf::from),
        jailer_uid_base: jailer_uid_base(settings)?,
        qemu_bin: settings.program("QEMU_BIN", "qemu-system-x86_64"),
        accelerator: settings.choice(
            "QEMU_ACCEL",
            &[("auto", Accelerator::Auto), ("kvm", Accelerator::Kvm), ("tcg", Accelerator::Tcg)],
        )?,
        snapshots: settings.choice("SNAPSHOTS", &[("on", true), ("off", false)])?,
        readiness: settings
            .choice("READINESS", &[("health", Readiness::Health), ("ping", Readiness::Ping)])?,
        capacity,
    })
}

/// User ids that belong to nobody: above those of people and services.
fn jailer_uid_base(settings: &Settings<'_>) -> Result<u32, ConfigError> {
    const TAKES: &str = "a user id from 1000 to 4000000000, from which on nobody has any";
    let base = settings.parsed("JAILER_UID_BASE", TAKES)?.unwrap_or(64_000);
    if (1000..=4_000_000_000).contains(&base) {
        Ok(base)
    } else {
        Err(wrong("JAILER_UID_BASE", &base.to_string(), TAKES))
    }
}

#[cfg(test)]
mod tests;
