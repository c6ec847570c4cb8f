//! What guests reach, and what they don't.

use std::net::Ipv4Addr;

use clarateach_microvm::net::Network;
use clarateach_runtime::Egress;

use super::world::{self, GATEWAY, Guest, HOST, ROUTER, SERVER, network, on_a_host, outside, run};

#[test]
fn a_guest_reaches_the_internet_and_nothing_else() {
    on_a_host("a_guest_reaches_the_internet_and_nothing_else", || async {
        let outside = outside();
        let open = [SERVER, ROUTER];
        let closed = ["169.254.169.254", "10.1.2.3", "172.20.1.1", "192.168.7.7", "100.64.0.9"];
        let closed = closed.map(|address| address.parse::<Ipv4Addr>().unwrap());
        for address in closed {
            outside.ip(&format!("addr add {address}/32 dev lo"));
        }
        let public: Vec<_> = open.iter().map(|address| outside.serve(*address, 80)).collect();
        let private: Vec<_> = closed.iter().map(|address| outside.serve(*address, 80)).collect();
        let agent = world::serve(Ipv4Addr::UNSPECIFIED, 9_090);

        let network = network();
        network.ensure().await.unwrap();
        let slot = network.slot(Ipv4Addr::new(192, 168, 100, 11), Egress::Internet);
        network.attach(&slot).await.unwrap();
        network.open(&slot).await.unwrap();
        let guest = Guest::boot(&slot);
        guest.namespace.serve(slot.address, 8_080);

        for address in open {
            assert_eq!(guest.namespace.tcp(address, 80).unwrap(), HOST.to_string(), "by NAT");
            assert_eq!(guest.namespace.udp(address, 80).unwrap(), HOST.to_string());
            assert!(guest.namespace.ping(address), "{address}");
        }
        assert!(public.iter().all(|server| server.hits() == 2));
        for address in closed {
            assert!(guest.namespace.tcp(address, 80).is_err(), "{address}");
            assert!(guest.namespace.udp(address, 80).is_err(), "{address}");
            assert!(!guest.namespace.ping(address), "{address}");
        }
        assert!(private.iter().all(|server| server.hits() == 0));
        for address in [GATEWAY, HOST] {
            assert!(guest.namespace.tcp(address, 9_090).is_err(), "{address}");
            assert!(guest.namespace.udp(address, 9_090).is_err(), "{address}");
        }
        assert_eq!(agent.hits(), 0);

        // What the host publishes for others, as Docker does, is not for guests.
        run("nft", "add table ip published");
        run("nft", "add chain ip published pre { type nat hook prerouting priority -100; }");
        run("nft", &format!("add rule ip published pre ip daddr {HOST} tcp dport 8088 dnat to {ROUTER}:80"));
        assert!(guest.namespace.tcp(HOST, 8_088).is_err());
        assert!(public.iter().all(|server| server.hits() == 2));

        // The host reaches the guest; the outside doesn't, even when it knows the way.
        assert!(network.ping(slot.address).await.unwrap());
        network.dial(slot.address, 8_080).await.unwrap();
        outside.ip(&format!("route add 192.168.100.0/24 via {HOST}"));
        assert!(outside.tcp(slot.address, 8_080).is_err());
        assert!(!outside.ping(slot.address));
        network.dial(slot.address, 8_080).await.unwrap();
    });
}
