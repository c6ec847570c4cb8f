//! Guests that try to reach each other, or to be somebody else.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use clarateach_ids::MacAddr;
use clarateach_microvm::net::{HostNetwork, Network};
use clarateach_runtime::Egress;
use clarateach_testkit::wait_for;

use super::world::{self, GATEWAY, Guest, HOST, SERVER, Served, network, on_a_host, outside, run};

const ONE: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 11);
const TWO: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 12);

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);

async fn boot(network: &HostNetwork, address: Ipv4Addr) -> (Guest, Served) {
    let slot = network.slot(address, Egress::Internet);
    network.attach(&slot).await.unwrap();
    network.open(&slot).await.unwrap();
    let guest = Guest::boot(&slot);
    let served = guest.namespace.serve(Ipv4Addr::UNSPECIFIED, 80);
    (guest, served)
}

fn nothing_from(from: &Guest, to: Ipv4Addr) {
    assert!(from.namespace.tcp(to, 80).is_err(), "tcp to {to}");
    assert!(from.namespace.udp(to, 80).is_err(), "udp to {to}");
}

#[test]
fn guests_do_not_reach_each_other() {
    on_a_host("guests_do_not_reach_each_other", || async {
        let network = network();
        network.ensure().await.unwrap();
        let (one, served) = boot(&network, ONE).await;
        let (two, served_by_two) = boot(&network, TWO).await;
        let hosts = world::serve(GATEWAY, 9_090);
        assert!(network.ping(ONE).await.unwrap() && network.ping(TWO).await.unwrap(), "both are there");
        // Docker has the kernel show bridged packets to the firewall, which would stop these too; not every host does.
        let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");

        nothing_from(&one, TWO);
        assert!(!one.namespace.ping(TWO));
        // Not when they know each other's MAC and needn't ask.
        one.namespace.ip(&format!("neigh replace {TWO} lladdr {} dev eth0", two.slot.mac));
        two.namespace.ip(&format!("neigh replace {ONE} lladdr {} dev eth0", one.slot.mac));
        nothing_from(&one, TWO);
        // Not by way of the host: as a router for the other's address, and as one for all.
        let bridge = MacAddr::of_ipv4(GATEWAY);
        for (guest, other) in [(&one, TWO), (&two, ONE)] {
            guest.namespace.ip(&format!("neigh replace {other} lladdr {bridge} dev eth0"));
        }
        nothing_from(&one, TWO);
        for (guest, other) in [(&one, TWO), (&two, ONE)] {
            guest.namespace.ip(&format!("neigh del {other} dev eth0"));
            guest.namespace.ip(&format!("route add {other}/32 via {GATEWAY}"));
        }
        nothing_from(&one, TWO);
        // Not when both agree on other addresses, in the range or out of it.
        for (a, b) in [
            ("192.168.100.77", "192.168.100.78"),
            ("10.77.0.1", "10.77.0.2"),
            ("203.0.113.77", "203.0.113.78"),
        ] {
            one.namespace.ip(&format!("addr add {a}/24 dev eth0"));
            two.namespace.ip(&format!("addr add {b}/24 dev eth0"));
            for mac in [two.slot.mac, bridge, BROADCAST] {
                one.namespace.ip(&format!("neigh replace {b} lladdr {mac} dev eth0"));
                two.namespace.ip(&format!(
                    "neigh replace {a} lladdr {} dev eth0",
                    if mac == bridge { bridge } else { one.slot.mac }
                ));
                nothing_from(&one, b.parse().unwrap());
            }
        }
        assert!(!one.namespace.ping(TWO));
        assert_eq!((served.hits(), served_by_two.hits()), (0, 0));
        let between = |guest: &Guest, other: Ipv4Addr| {
            let frames = guest.seen(IPV4);
            frames.iter().filter(|frame| frame[26..30] == other.octets()).count()
        };
        assert_eq!((between(&one, TWO), between(&two, ONE)), (0, 0), "no packet of the other");
        let questions = |guest: &Guest, other: &Guest| {
            guest.seen(ARP).iter().filter(|frame| frame[6..12] == other.slot.mac.0).count()
        };
        assert_eq!((questions(&one, &two), questions(&two, &one)), (0, 0), "no ARP of the other");
        assert_eq!(hosts.hits(), 0);
        assert!(network.ping(ONE).await.unwrap() && network.ping(TWO).await.unwrap(), "both are still there");
    });
}

#[test]
fn a_guest_can_not_be_another() {
    on_a_host("a_guest_can_not_be_another", || async {
        let outside = outside();
        let server = outside.serve(SERVER, 80);
        let network = network();
        network.ensure().await.unwrap();
        let (one, _) = boot(&network, ONE).await;
        let (two, served_by_two) = boot(&network, TWO).await;
        assert!(one.namespace.udp(SERVER, 80).is_ok());
        let before = server.hits();

        // Another's address, and one that is nobody's: nothing comes out.
        for stolen in [TWO, Ipv4Addr::new(192, 168, 100, 99), GATEWAY, Ipv4Addr::new(203, 0, 113, 50)] {
            one.namespace.ip(&format!("addr add {stolen}/32 dev eth0"));
            one.namespace.ip(&format!("route replace default via {GATEWAY} src {stolen}"));
            assert!(one.namespace.udp(SERVER, 80).is_err(), "as {stolen}");
            assert!(one.namespace.tcp(SERVER, 80).is_err(), "as {stolen}");
            one.namespace.ip(&format!("addr del {stolen}/32 dev eth0"));
        }
        assert_eq!(server.hits(), before);

        // ARP claims: to be another, to be the gateway; asked, answered and gratuitous.
        for (operation, claimed) in
            [(1, TWO), (2, TWO), (1, GATEWAY), (2, GATEWAY), (2, Ipv4Addr::new(192, 168, 100, 99))]
        {
            one.inject(&arp(one.slot.mac, BROADCAST, operation, one.slot.mac, claimed, claimed)).unwrap();
            one.inject(&arp(
                one.slot.mac,
                MacAddr::of_ipv4(GATEWAY),
                operation,
                one.slot.mac,
                claimed,
                GATEWAY,
            ))
            .unwrap();
        }
        // With an honest frame and a lie inside, and the other way round.
        one.inject(&arp(one.slot.mac, BROADCAST, 2, two.slot.mac, TWO, GATEWAY)).unwrap();
        one.inject(&arp(two.slot.mac, BROADCAST, 2, two.slot.mac, TWO, GATEWAY)).unwrap();
        one.inject(&arp(one.slot.mac, BROADCAST, 2, two.slot.mac, ONE, GATEWAY)).unwrap();
        network.dial(TWO, 80).await.unwrap();
        let neighbours = run("ip", "neigh show dev clarateach0");
        for line in neighbours.lines() {
            let honest = [(ONE, one.slot.mac), (TWO, two.slot.mac)];
            let honest = honest.map(|(address, mac)| format!("{address} lladdr {mac} PERMANENT"));
            assert!(honest.iter().any(|entry| line.trim() == entry), "{neighbours}");
        }
        // Nor was the other told anything.
        assert!(two.seen(ARP).iter().all(|frame| frame[22..28] != one.slot.mac.0), "no ARP of the first one");

        // Another's MAC.
        one.namespace.ip(&format!("route replace default via {GATEWAY} src {ONE}"));
        assert!(one.namespace.udp(SERVER, 80).is_ok(), "an honest guest is let out");
        one.namespace.ip(&format!("link set eth0 address {}", two.slot.mac));
        assert!(one.namespace.udp(SERVER, 80).is_err());
        let hits = served_by_two.hits();
        network.dial(TWO, 80).await.unwrap();
        wait_for("the second guest to be dialled", Duration::from_secs(5), async || {
            (served_by_two.hits() > hits).then_some(())
        })
        .await;
        one.namespace.ip(&format!("link set eth0 address {}", one.slot.mac));
        one.namespace.ip("neigh flush dev eth0");
        assert!(one.namespace.udp(SERVER, 80).is_ok(), "an honest guest is let out again");
    });
}

#[test]
fn frames_that_are_not_ipv4_and_frames_around_the_bridge_go_nowhere() {
    on_a_host("frames_that_are_not_ipv4_and_frames_around_the_bridge_go_nowhere", || async {
        let network = network();
        network.ensure().await.unwrap();
        let (one, _) = boot(&network, ONE).await;
        let (two, _) = boot(&network, TWO).await;
        run("ip", &format!("addr add {HOST}/32 dev lo"));
        // Where the kernel knows VLANs, one on the bridge would take tagged frames for itself.
        let vlan = ["link", "add", "link", "clarateach0", "name", "vlan7", "type", "vlan", "id", "7"];
        if std::process::Command::new("ip").args(vlan).output().is_ok_and(|made| made.status.success()) {
            run("ip", "link set vlan7 up");
            run("ip", "addr add 10.7.0.1/24 dev vlan7");
        } else {
            run("ip", "addr add 10.7.0.1/32 dev lo");
        }
        let listeners: Vec<UdpSocket> = [GATEWAY, HOST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 7, 0, 1)]
            .iter()
            .map(|address| UdpSocket::bind((*address, 4_711)).unwrap())
            .collect();
        let bridge = MacAddr::of_ipv4(GATEWAY);
        for to in [GATEWAY, HOST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 7, 0, 1), TWO] {
            let packet = udp(ONE, to, 4_711);
            for mac in [bridge, BROADCAST, two.slot.mac] {
                one.inject(&frame(one.slot.mac, mac, &[&IPV4.to_be_bytes(), &packet])).unwrap();
                for tag in [0x8100_u16, 0x88a8] {
                    let tag = [tag.to_be_bytes(), 7_u16.to_be_bytes(), IPV4.to_be_bytes()].concat();
                    one.inject(&frame(one.slot.mac, mac, &[&tag, &packet])).unwrap();
                }
            }
            // To the addresses that bridges keep for themselves (IEEE 802.1D): the kernel hands these to the host.
            for last in 0..16 {
                let reserved = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
                one.inject(&frame(one.slot.mac, reserved, &[&IPV4.to_be_bytes(), &packet])).unwrap();
            }
        }
        // IPv6: a neighbour solicitation's beginning, to all nodes.
        let all_nodes = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
        one.inject(&frame(one.slot.mac, all_nodes, &[&0x86dd_u16.to_be_bytes(), &[0x60; 72]])).unwrap();
        // A packet that does arrive, behind all of these.
        assert!(network.ping(ONE).await.unwrap());
        for listener in listeners {
            listener.set_nonblocking(true).unwrap();
            let got = listener.recv_from(&mut [0; 64]);
            assert!(got.is_err(), "{:?} at {:?}", got, listener.local_addr());
        }
        for kind in [0x8100, 0x88a8, 0x86dd] {
            assert!(two.seen(kind).is_empty(), "{kind:x}");
        }
        assert!(two.seen(IPV4).iter().all(|frame| frame[26..30] != ONE.octets()));
        let addresses = run("ip", "-6 addr show dev clarateach0")
            + &run("ip", &format!("-6 addr show dev {}", one.slot.tap));
        assert_eq!(addresses, "", "no IPv6 on the bridge and the taps");
    });
}

#[test]
fn a_tap_is_closed_until_it_is_opened() {
    on_a_host("a_tap_is_closed_until_it_is_opened", || async {
        let outside = outside();
        let server = outside.serve(SERVER, 80);
        let network = network();
        network.ensure().await.unwrap();
        let slot = network.slot(ONE, Egress::Internet);
        network.attach(&slot).await.unwrap();
        let guest = Guest::boot(&slot);
        assert!(guest.namespace.udp(SERVER, 80).is_err());
        assert!(!network.ping(ONE).await.unwrap());
        assert_eq!(server.hits(), 0);
        assert!(guest.seen(IPV4).is_empty() && guest.seen(ARP).is_empty(), "not even a frame");

        network.open(&slot).await.unwrap();
        assert!(network.ping(ONE).await.unwrap());
        assert!(guest.namespace.udp(SERVER, 80).is_ok());
        // Both again, as an agent that was restarted may.
        network.attach(&slot).await.unwrap();
        assert!(guest.namespace.udp(SERVER, 80).is_ok(), "a running VM keeps its network");
        network.open(&slot).await.unwrap();
        assert!(network.ping(ONE).await.unwrap());

        // The next VM with this address starts behind a closed tap, even if nobody detached the first.
        drop(guest);
        network.attach(&slot).await.unwrap();
        let next = Guest::boot(&slot);
        assert!(next.namespace.udp(SERVER, 80).is_err());
    });
}

fn frame(from: MacAddr, to: MacAddr, rest: &[&[u8]]) -> Vec<u8> {
    [&to.0[..], &from.0, &rest.concat()].concat()
}

/// RFC 826.
fn arp(from: MacAddr, to: MacAddr, operation: u16, mac: MacAddr, ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [ARP, 1, IPV4, 0x0604, operation].map(u16::to_be_bytes).concat();
    frame(from, to, &[&head, &mac.0, &ip.octets(), &[0; 6], &target.octets()])
}

/// A UDP packet without a UDP checksum, which IPv4 allows.
fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let sum: u32 = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("one carry");
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    for word in [4_000, port, 12, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(b"here");
    packet
}
