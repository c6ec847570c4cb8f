//! What `agent doctor` says of the network.

use serde::Serialize;

use super::bridge::{Snapshot, Wanted};
use super::firewall::Firewall;
use super::{nft, sysctl, tap};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, like `ip_forward`.
    pub what: &'static str,
    /// How it is.
    pub state: FindingState,
    /// What was found.
    pub message: String,
    /// What to do, where something is to be done.
    pub fix: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// As it should be.
    Ok,
    /// VMs work, but not all of what they should do, or not for long.
    Warning,
    /// VMs can't work.
    Problem,
}

impl Finding {
    fn ok(what: &'static str, message: impl Into<String>) -> Self {
        Self { what, state: FindingState::Ok, message: message.into(), fix: None }
    }

    fn warning(what: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, state: FindingState::Warning, message: message.into(), fix: Some(fix.into()) }
    }

    fn problem(what: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, state: FindingState::Problem, message: message.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything and changes nothing.
pub(crate) async fn look(host: &Snapshot, wanted: &Wanted, firewall: &Firewall) -> Vec<Finding> {
    let mut findings =
        vec![forwarding(), tun(), bridge(host, wanted), subnet(host, wanted), default_route(host)];
    findings.extend(reverse_path(&wanted.name));
    findings.extend(tables(firewall, host.link(&wanted.name).is_some()).await);
    findings.extend(other_firewalls(firewall).await);
    findings
}

fn forwarding() -> Finding {
    if sysctl::forwards() {
        return Finding::ok("ip_forward", "this host forwards IPv4 packets");
    }
    let fix = "the agent switches it on when it starts; to keep it: sysctl -w net.ipv4.ip_forward=1, and a line in /etc/sysctl.d";
    Finding::warning("ip_forward", "this host forwards no IPv4 packets: guests don't reach the internet", fix)
}

fn tun() -> Finding {
    match std::fs::OpenOptions::new().read(true).write(true).open(tap::DEVICE) {
        Ok(_) => Finding::ok("tun", format!("{} can be opened", tap::DEVICE)),
        Err(error) => Finding::problem(
            "tun",
            format!("{} can't be opened ({error}): no taps can be made", tap::DEVICE),
            "modprobe tun, and start as root; in a container, pass the device through",
        ),
    }
}

fn bridge(host: &Snapshot, wanted: &Wanted) -> Finding {
    let name = &wanted.name;
    match wanted.plan(host, false) {
        Err(error) => Finding::problem("bridge", error.to_string(), "see the message"),
        Ok(plan) if plan.index.is_none() => Finding::warning(
            "bridge",
            format!("there is no bridge {name} yet"),
            "the agent makes it when it starts",
        ),
        Ok(plan) if plan.add_address || plan.bring_up || plan.claim => Finding::warning(
            "bridge",
            format!("the bridge {name} is there, but down, without its address or not marked as ours"),
            "the agent mends it when it starts, and from time to time",
        ),
        Ok(_) => {
            let gateway = wanted.subnet.gateway();
            Finding::ok(
                "bridge",
                format!("{name} is up and has the address {gateway}/{}", wanted.subnet.prefix()),
            )
        }
    }
}

fn subnet(host: &Snapshot, wanted: &Wanted) -> Finding {
    match host.clash(wanted) {
        None => Finding::ok("subnet", format!("nothing else on this host uses {}", wanted.subnet)),
        Some(clash) => Finding::problem(
            "subnet",
            format!("{} is not the bridge's alone: {clash}", wanted.subnet),
            "set BRIDGE_IP to a range that nothing else uses",
        ),
    }
}

fn default_route(host: &Snapshot) -> Finding {
    match host.default_route() {
        Some(name) => Finding::ok("default_route", format!("packets to the internet leave by {name}")),
        None => Finding::warning(
            "default_route",
            "there is no default route: guests reach this host's nameserver, and nothing else",
            "ip route add default via GATEWAY, if guests are meant to reach the internet",
        ),
    }
}

fn reverse_path(bridge: &str) -> Option<Finding> {
    let finding = match sysctl::reverse_path_filter(bridge)? {
        0 => Finding::warning(
            "rp_filter",
            format!("the kernel doesn't check source addresses on {bridge}; the firewall alone does"),
            format!("sysctl -w net.ipv4.conf.{bridge}.rp_filter=1"),
        ),
        mode => Finding::ok("rp_filter", format!("source addresses on {bridge} are checked (mode {mode})")),
    };
    Some(finding)
}

async fn tables(firewall: &Firewall, bridge_is_there: bool) -> Vec<Finding> {
    let version = match nft::check().await {
        Ok(version) => Finding::ok("nft", version),
        Err(why) => {
            return vec![Finding::problem("nft", why, "install the package nftables, and start as root")];
        }
    };
    let table = firewall.design().table();
    let standing = if firewall.standing().await {
        Finding::ok("firewall", format!("the tables bridge {table} and inet {table} are in place"))
    } else if bridge_is_there {
        let fix = "the agent puts them back when it starts, and from time to time";
        Finding::problem(
            "firewall",
            format!("the tables {table} are missing or were changed: guests are not held back"),
            fix,
        )
    } else {
        Finding::warning(
            "firewall",
            format!("there are no tables {table} yet"),
            "the agent makes them when it starts",
        )
    };
    vec![version, standing]
}

async fn other_firewalls(firewall: &Firewall) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(foreign) = firewall.foreign().await {
        for place in &foreign.places {
            findings.push(if foreign.accepted(place) {
                Finding::ok(
                    "other_firewall",
                    format!("the chain {place} drops by default; our accepts for the bridge are in it"),
                )
            } else {
                Finding::warning(
                    "other_firewall",
                    format!("the chain {place} drops by default, and what guests need with it"),
                    "the agent inserts accepts for the bridge when it starts, and from time to time",
                )
            });
        }
        if foreign.places.is_empty() {
            findings.push(Finding::ok("other_firewall", "no other chain drops by default"));
        }
    }
    let legacy = sysctl::legacy_tables();
    if !legacy.is_empty() {
        findings.push(Finding::warning(
            "iptables_legacy",
            format!("iptables-legacy has tables here ({}), which nft can't see or change", legacy.join(", ")),
            "switch to iptables-nft (update-alternatives --config iptables), or accept the bridge in its FORWARD chain yourself",
        ));
    }
    findings
}
