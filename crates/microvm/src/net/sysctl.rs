//! Kernel settings under `/proc/sys/net`, which belong to the network namespace of the calling thread.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::NetError;

const FORWARDING: &str = "ipv4/ip_forward";

/// Whether this host forwards IPv4 packets.
pub(crate) fn forwards() -> bool {
    read(FORWARDING).is_some_and(|value| value != "0")
}

/// Makes this host forward IPv4 packets. Between which interfaces is what its firewall says.
pub(crate) fn forward() -> Result<(), NetError> {
    if !forwards() {
        tracing::warn!(
            "net.ipv4.ip_forward is switched on: this host forwards packets between its interfaces from now on"
        );
        write(FORWARDING, "1")?;
    }
    Ok(())
}

/// No IPv6 on the bridge, no replies for other addresses of the host, no redirects, no strange sources.
pub(crate) fn harden_bridge(bridge: &str) -> Result<(), NetError> {
    let ipv4 = [
        ("arp_ignore", "1"),
        ("rp_filter", "1"),
        ("accept_redirects", "0"),
        ("accept_source_route", "0"),
        ("send_redirects", "0"),
        ("proxy_arp", "0"),
        ("route_localnet", "0"),
    ];
    for (name, value) in ipv4 {
        let setting = format!("ipv4/conf/{bridge}/{name}");
        if read(&setting).is_some_and(|present| present != value) {
            write(&setting, value)?;
        }
    }
    disable_ipv6(bridge)
}

/// No IPv6 on an interface. Fine where the kernel has none.
pub(crate) fn disable_ipv6(interface: &str) -> Result<(), NetError> {
    let setting = format!("ipv6/conf/{interface}/disable_ipv6");
    match fs::write(path(&setting), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(&setting, &error)),
        _ => Ok(()),
    }
}

/// The reverse path filter that holds for an interface: the stricter of its own and everybody's, see the kernel's
/// Documentation/networking/ip-sysctl.rst.
pub(crate) fn reverse_path_filter(interface: &str) -> Option<u8> {
    let of = |name: &str| read(&format!("ipv4/conf/{name}/rp_filter"))?.parse::<u8>().ok();
    Some(of(interface)?.max(of("all")?))
}

/// The tables of iptables' old kind, which nft doesn't show. Nothing where there are none.
pub(crate) fn legacy_tables() -> Vec<String> {
    // Not /proc/net, which belongs to the process's first thread.
    let tables = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    tables.lines().map(str::to_owned).collect()
}

fn read(setting: &str) -> Option<String> {
    fs::read_to_string(path(setting)).ok().map(|value| value.trim().to_owned())
}

fn write(setting: &str, value: &str) -> Result<(), NetError> {
    fs::write(path(setting), value).map_err(|error| refused(setting, &error))
}

fn path(setting: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(setting)
}

fn refused(setting: &str, error: &io::Error) -> NetError {
    NetError::Refused {
        operation: "set",
        object: format!("/proc/sys/net/{setting}"),
        message: error.to_string(),
    }
}
