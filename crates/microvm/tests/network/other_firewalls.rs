//! Hosts that drop what nobody asked them to pass: Docker, and firewalls of operators.

use std::net::Ipv4Addr;
use std::process::Command;

use clarateach_microvm::net::{FindingState, HostNetwork, Network};
use clarateach_runtime::Egress;

use super::world::{self, Guest, SERVER, network, on_a_host, outside, run};

/// Runs a guest through all that it needs, and all that it must not get, on a host with these rules.
async fn works(network: &HostNetwork) {
    let outside = outside();
    let _server = outside.serve(SERVER, 80);
    let agent = world::serve(Ipv4Addr::UNSPECIFIED, 9_090);
    network.ensure().await.unwrap();
    let slots = [11, 12].map(|last| network.slot(Ipv4Addr::new(192, 168, 100, last), Egress::Internet));
    for slot in &slots {
        network.attach(slot).await.unwrap();
        network.open(slot).await.unwrap();
    }
    let (guest, other) = (Guest::boot(&slots[0]), Guest::boot(&slots[1]));
    other.namespace.serve(slots[1].address, 80);
    assert!(guest.namespace.tcp(SERVER, 80).is_ok(), "out");
    assert!(network.ping(slots[0].address).await.unwrap(), "from the host");
    network.dial(slots[1].address, 80).await.unwrap();
    assert!(guest.namespace.tcp(slots[1].address, 80).is_err(), "no guest");
    guest.namespace.ip(&format!("route add {}/32 via {}", slots[1].address, world::GATEWAY));
    assert!(guest.namespace.tcp(slots[1].address, 80).is_err(), "no guest, by way of the host");
    assert!(guest.namespace.tcp(world::GATEWAY, 9_090).is_err(), "no agent");
    assert!(guest.namespace.tcp(world::HOST, 9_090).is_err(), "no agent");
    outside.ip(&format!("route add 192.168.100.0/24 via {}", world::HOST));
    assert!(outside.tcp(slots[1].address, 80).is_err(), "not from outside");
    assert_eq!(agent.hits(), 0);

    // Names come from the host itself, which its own firewall must not stop.
    let cancel = tokio_util::sync::CancellationToken::new();
    let (asked, _) = tokio::join!(
        async {
            let asked = tokio::task::spawn_blocking(move || {
                // The nameserver has nobody to ask, and says so; whoever asks before it is there asks again.
                guest.namespace.run(|| {
                    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
                    let ask = |_| {
                        world::exchange_within(world::GATEWAY, 53, query, std::time::Duration::from_secs(5))
                    };
                    (0..3).map(ask).any(|answer| answer.is_ok())
                })
            });
            let asked = asked.await.unwrap();
            cancel.cancel();
            asked
        },
        network.serve_dns(cancel.clone()),
    );
    assert!(asked, "names");
    let findings = network.findings().await.unwrap();
    assert!(findings.iter().all(|finding| finding.state == FindingState::Ok), "{findings:?}");
    assert!(
        findings.iter().any(|finding| finding.what == "other_firewall" && finding.message.contains("drops"))
    );
    network.ensure().await.unwrap();
}

/// Rules with what was counted left out.
fn rules() -> String {
    run("nft", "--stateless list ruleset")
}

fn there(name: &str, program: &str) -> bool {
    let there = Command::new(program).arg("-V").output().is_ok();
    if !there {
        clarateach_testkit::skip(name, &format!("needs {program}"));
    }
    there
}

#[test]
fn it_works_beside_docker() {
    const NAME: &str = "it_works_beside_docker";
    on_a_host(NAME, || async {
        if !there(NAME, "iptables-nft") {
            return;
        }
        // As Docker 28 makes them.
        for rule in [
            "-P FORWARD DROP",
            "-N DOCKER-USER",
            "-N DOCKER-FORWARD",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -j DOCKER-FORWARD",
            "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
            "-A DOCKER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        ] {
            run("iptables-nft", rule);
        }
        let before = rules();
        let network = network();
        works(&network).await;
        let user = run("iptables-nft", "-S DOCKER-USER");
        assert_eq!(user.matches("--comment \"clarateach clarateach0\" -j ACCEPT").count(), 2, "{user}");
        assert!(!run("iptables-nft", "-S FORWARD").contains("clarateach"));
        // Docker is restarted.
        run("iptables-nft", "-F DOCKER-USER");
        network.ensure().await.unwrap();
        assert_eq!(run("iptables-nft", "-S DOCKER-USER"), user);
        network.remove().await.unwrap();
        assert_eq!(rules(), before);
    });
}

#[test]
fn it_works_with_drop_policies_of_iptables() {
    const NAME: &str = "it_works_with_drop_policies_of_iptables";
    on_a_host(NAME, || async {
        if !there(NAME, "iptables-nft") {
            return;
        }
        for chain in ["INPUT", "FORWARD", "OUTPUT"] {
            run("iptables-nft", &format!("-P {chain} DROP"));
        }
        // Without it no resolver works, ours or another.
        run("iptables-nft", "-A INPUT -i lo -j ACCEPT");
        run("iptables-nft", "-A OUTPUT -o lo -j ACCEPT");
        let before = rules();
        let network = network();
        works(&network).await;
        // Its own tool still prints it.
        let forward = run("iptables-nft", "-S");
        assert_eq!(forward.matches("clarateach clarateach0").count(), 4, "{forward}");
        network.remove().await.unwrap();
        assert_eq!(rules(), before);
    });
}

#[test]
fn it_works_with_rules_that_reject_all() {
    on_a_host("it_works_with_rules_that_reject_all", || async {
        // As firewalld and the wiki's example of a workstation do it.
        run("nft", "add table inet strict");
        for hook in ["input", "forward"] {
            run(
                "nft",
                &format!(
                    "add chain inet strict {hook} {{ type filter hook {hook} priority 10; policy accept; }}"
                ),
            );
            run("nft", &format!("add rule inet strict {hook} ct state established,related accept"));
            run("nft", &format!("add rule inet strict {hook} iifname lo accept"));
            run("nft", &format!("add rule inet strict {hook} counter reject with icmpx admin-prohibited"));
        }
        let before = rules();
        let network = network();
        works(&network).await;
        network.remove().await.unwrap();
        assert_eq!(rules(), before);
    });
}
