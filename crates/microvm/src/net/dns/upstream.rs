//! The nameservers that queries are relayed to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const PORT: u16 = 53;
/// As many as resolv.conf(5) has (`MAXNS`).
const MOST: usize = 3;
/// How often the file is looked at: a host's network may change under a running agent.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Those of the configuration, or those of the host.
#[derive(Debug)]
pub(super) struct Upstreams {
    /// Never asked, or we would ask ourselves.
    gateway: Ipv4Addr,
    file: Option<PathBuf>,
    known: Mutex<Known>,
    /// Which one answered last: it is asked first.
    good: AtomicUsize,
}

#[derive(Debug)]
struct Known {
    servers: Vec<SocketAddr>,
    looked: Option<Instant>,
    modified: Option<SystemTime>,
}

impl Upstreams {
    pub(super) fn new(configured: Option<&[IpAddr]>, gateway: Ipv4Addr) -> Self {
        let servers = usable(configured.unwrap_or_default(), gateway);
        Self {
            gateway,
            file: configured.is_none().then(|| "/etc/resolv.conf".into()),
            known: Mutex::new(Known { servers, looked: None, modified: None }),
            good: AtomicUsize::new(0),
        }
    }

    /// The servers to ask, with their numbers for [`Self::answered`], the likeliest first.
    pub(super) fn in_order(&self) -> Vec<(usize, SocketAddr)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file
            && known.looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN)
        {
            known.looked = Some(Instant::now());
            let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
            if modified.is_none() || modified != known.modified {
                known.modified = modified;
                let text = std::fs::read_to_string(file).unwrap_or_default();
                known.servers = usable(&nameservers(&text), self.gateway);
            }
        }
        let mut order: Vec<_> = known.servers.iter().copied().enumerate().collect();
        if !order.is_empty() {
            let first = self.good.load(Ordering::Relaxed) % order.len();
            order.rotate_left(first);
        }
        order
    }

    pub(super) fn answered(&self, number: usize) {
        self.good.store(number, Ordering::Relaxed);
    }
}

fn usable(servers: &[IpAddr], gateway: Ipv4Addr) -> Vec<SocketAddr> {
    let others = servers.iter().filter(|server| **server != IpAddr::V4(gateway) && !server.is_unspecified());
    others.take(MOST).map(|server| SocketAddr::new(*server, PORT)).collect()
}

/// The `nameserver` lines of resolv.conf(5); without any, the host itself is asked, as the resolver library does.
/// Link-local IPv6 servers, which need an interface, are left out.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let servers: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
        })
        .collect();
    if servers.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_as_the_resolver_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 127.0.0.53\n nameserver\t2001:db8::1 # x\nnameserver fe80::1%eth0\nnameserver\n";
        let expected: [IpAddr; 2] = ["127.0.0.53".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(nameservers(text), expected);
        assert_eq!(nameservers(""), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }

    #[test]
    fn whoever_answered_is_asked_first_and_never_ourselves() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let all: Vec<IpAddr> =
            ["10.0.0.1", "10.9.9.1", "10.9.9.2"].iter().map(|ip| ip.parse().unwrap()).collect();
        let upstreams = Upstreams::new(Some(&all), gateway);
        let order =
            |upstreams: &Upstreams| -> Vec<usize> { upstreams.in_order().iter().map(|(n, _)| *n).collect() };
        assert_eq!(order(&upstreams), [0, 1]);
        upstreams.answered(1);
        assert_eq!(order(&upstreams), [1, 0]);
    }
}
