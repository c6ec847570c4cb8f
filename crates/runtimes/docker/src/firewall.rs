//! What seats may not reach, as one nftables table of our own.
//!
//! Rules match on the first characters of the bridge's name, so there are as many of them with one seat as with a
//! thousand. They only ever drop: Docker's own rules and the host's firewall still apply to what passes.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use clarateach_runtime::Egress;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::naming::Naming;

/// Private, loopback, link-local (the metadata service), carrier, benchmark, multicast and reserved ranges, after
/// the IANA IPv4 Special-Purpose Address Registry. The documentation ranges stay open: nobody lives there.
const CLOSED: [&str; 11] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// Whether bridged frames pass the firewall, see the kernel's documentation of br_netfilter.
const BRIDGED_FRAMES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Whether the table is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Unneeded,
    Closed,
    Open(String),
}

/// The table.
#[derive(Debug)]
pub(crate) struct Firewall {
    naming: Naming,
    standing: Mutex<Standing>,
}

impl Firewall {
    pub(crate) fn new(naming: Naming) -> Self {
        Self { naming, standing: Mutex::new(Standing::Unneeded) }
    }

    /// Puts the table in place, in one transaction; what was there is replaced, so open connections stay open.
    pub(crate) async fn raise(&self) {
        let rules = ruleset(&self.naming, &resolvers());
        let standing = match nft(&rules).await {
            Ok(()) => Standing::Closed,
            Err(why) => {
                tracing::warn!(%why, "seats can reach the host and its network: no firewall rules");
                Standing::Open(why)
            }
        };
        self.set(standing);
    }

    /// Puts the table back if somebody has flushed it.
    pub(crate) async fn check(&self) {
        if self.standing() != Standing::Unneeded
            && nft(&format!("list table inet {}\n", self.naming.firewall_table())).await.is_err()
        {
            self.raise().await;
        }
    }

    /// The rules are only worth something where the bridges are: not if this process has a network of its own.
    pub(crate) fn look_for(&self, bridge: &str) {
        if !Path::new("/sys/class/net").join(bridge).exists() {
            let why = "the server does not share the host's network (run it with --network host)";
            self.set(Standing::Open(why.to_owned()));
        }
    }

    /// Takes the table away.
    pub(crate) async fn lower(&self) {
        let table = self.naming.firewall_table();
        // Adding it first makes removing what isn't there no error.
        if let Err(why) = nft(&format!("add table inet {table}\ndelete table inet {table}\n")).await {
            tracing::debug!(%why, "the firewall table was not removed");
        }
        self.set(Standing::Unneeded);
    }

    /// What an instructor should know.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Standing::Open(why) = self.standing() {
            warnings.push(format!(
                "Seats can reach the host's own ports, its private network and the cloud's metadata service: {why}"
            ));
        }
        // Frames between two seats of one bridge meet Docker's rules only where this is on.
        if std::fs::read_to_string(BRIDGED_FRAMES).is_ok_and(|value| value.trim() == "0") {
            warnings.push(format!("Seats of one workshop can reach each other: {BRIDGED_FRAMES} is 0"));
        }
        warnings
    }

    /// Tries out whether rules could be placed, before there is a seat.
    pub(crate) async fn rehearse(&self) {
        if self.standing() != Standing::Unneeded {
            return;
        }
        if let Err(why) = nft_with(&["--check", "--file", "-"], &ruleset(&self.naming, &[])).await
            && self.standing() == Standing::Unneeded
        {
            self.set(Standing::Open(why));
        }
    }

    fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

/// One transaction that ends with exactly these rules.
fn ruleset(naming: &Naming, resolvers: &[Ipv4Addr]) -> String {
    let table = naming.firewall_table();
    let open = naming.bridge_prefix(Egress::Internet);
    let shut = naming.bridge_prefix(Egress::None);
    let closed = CLOSED.join(", ");
    let mut names = String::new();
    if !resolvers.is_empty() {
        let list: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
        let list = list.join(", ");
        // The Engine's resolver asks from within the seat's network. Names only: nothing else of that host opens.
        let _ = write!(names, "meta l4proto {{ tcp, udp }} th dport 53 ip daddr {{ {list} }} accept");
    }
    format!(
        r#"add table inet {table}
delete table inet {table}
table inet {table} {{
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname "{open}*" jump outward
    iifname "{shut}*" jump nowhere
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname "{open}*" jump host
    iifname "{shut}*" jump nowhere
  }}
  chain outward {{
    ct state established,related accept
    meta nfproto ipv6 drop
    {names}
    ip daddr {{ {closed} }} reject with icmp type admin-prohibited
  }}
  chain host {{
    ct state established,related accept
    meta nfproto ipv6 drop
    {names}
    drop
  }}
  chain nowhere {{
    ct state established,related accept
    drop
  }}
}}
"#
    )
}

/// The name servers that the Engine hands to containers. Loopback ones it asks from the host, not from the seat.
pub(crate) fn resolvers() -> Vec<Ipv4Addr> {
    let servers = |path: &str| -> Vec<Ipv4Addr> {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .filter_map(|address| address.trim().parse().ok())
            .filter(|address: &Ipv4Addr| !address.is_loopback() && !address.is_unspecified())
            .collect()
    };
    let direct = servers("/etc/resolv.conf");
    if direct.is_empty() { servers("/run/systemd/resolve/resolv.conf") } else { direct }
}

async fn nft(rules: &str) -> Result<(), String> {
    nft_with(&["--file", "-"], rules).await
}

async fn nft_with(arguments: &[&str], rules: &str) -> Result<(), String> {
    let spawned = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("nft is not installed (package nftables)".to_owned());
        }
        Err(error) => return Err(format!("nft can't be run: {error}")),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // If it went away already, its own words say why.
        let _ = stdin.write_all(rules.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| format!("nft: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("Operation not permitted") {
        return Err("the server may not change the firewall (it needs root, or CAP_NET_ADMIN)".to_owned());
    }
    Err(format!("nft: {}", words.lines().next().unwrap_or("failed without a word")))
}
