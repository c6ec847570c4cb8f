//! What a host says to a microVM's first process over its control channel, and what that answers.
//!
//! The channel is a virtio-serial port named [`CONTROL_PORT_NAME`] (QEMU) or vsock port [`CONTROL_VSOCK_PORT`], on which
//! the guest listens (Firecracker). One JSON object per line; the host asks, the guest answers once per question, in order.
//!
//! A guest boots to its park point (base image mounted read-only, upper drive not mounted, no address, no secret) and
//! stays there until it is configured. A guest that was restored from a snapshot of a parked one is in the same state
//! as one that has just booted, so both are told who they are in the same way.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Name of the virtio-serial port, as in `/sys/class/virtio-ports/*/name`.
pub const CONTROL_PORT_NAME: &str = "clarateach.control";
/// The vsock port that the guest listens on.
pub const CONTROL_VSOCK_PORT: u32 = 1024;
/// The TCP port that the workspace listens on in a microVM, on all addresses.
pub const WORKSPACE_PORT: u16 = 7681;
/// The longest line either side sends, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// What the host asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum GuestRequest {
    /// Are you there, and how far?
    Hello,
    /// Become this seat: only once in a guest's life, only when parked.
    Configure(Box<GuestConfig>),
    /// Set the clock, after a pause.
    Clock {
        /// Milliseconds since 1970, UTC.
        unix_ms: i64,
    },
    /// End every process, unmount, power off. Answered before it begins.
    Shutdown,
}

/// Who a guest is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// The host's name of this VM, for logs.
    pub instance: String,
    /// The host name that the learner sees.
    pub hostname: String,
    /// The address; none leaves the interface down.
    pub network: Option<GuestNetwork>,
    /// The time now, in milliseconds since 1970, UTC.
    pub unix_ms: i64,
    /// 64 random bytes in base64, to be credited to the kernel's pool.
    pub entropy: String,
    /// What the workspace asks of every caller.
    pub secret: String,
    /// The learner's environment variables.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for GuestConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestConfig")
            .field("instance", &self.instance)
            .field("hostname", &self.hostname)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// A guest's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestNetwork {
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the network prefix, in bits.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: Ipv4Addr,
    /// Nameservers, for `/etc/resolv.conf`.
    pub dns: Vec<Ipv4Addr>,
    /// The MAC address to take, like `02:00:c0:a8:64:0b`.
    pub mac: String,
    /// The interface's MTU in bytes.
    pub mtu: u32,
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum GuestReply {
    /// Done.
    Ok {
        /// How far the guest is after it.
        state: GuestState,
    },
    /// Not done.
    Error {
        /// Why, in one sentence.
        message: String,
    },
}

/// How far a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    /// Waits to be configured.
    Parked,
    /// Has been configured; its workspace serves or is about to.
    Running,
    /// Is shutting down.
    Ending,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_travels_and_does_not_print_its_secret() {
        let config = GuestConfig {
            instance: "i1".into(),
            hostname: "seat-1".into(),
            network: None,
            unix_ms: 1,
            entropy: String::new(),
            secret: "hush".into(),
            env: BTreeMap::from([("A".into(), "b".into())]),
        };
        let request = GuestRequest::Configure(Box::new(config));
        assert!(!format!("{request:?}").contains("hush"));
        let line = serde_json::to_string(&request).unwrap();
        assert!(line.starts_with(r#"{"op":"configure","instance":"i1""#), "{line}");
        let back: GuestRequest = serde_json::from_str(&line).unwrap();
        assert!(matches!(back, GuestRequest::Configure(config) if config.secret == "hush"));
        assert_eq!(serde_json::to_string(&GuestRequest::Hello).unwrap(), r#"{"op":"hello"}"#);
        let reply = GuestReply::Ok { state: GuestState::Parked };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"status":"ok","state":"parked"}"#);
    }
}
