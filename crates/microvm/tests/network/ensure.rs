//! Making the network, mending it, and what is in its way.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use clarateach_microvm::net::{Finding, FindingState, HostNetwork, NetConfig, Network};
use clarateach_runtime::Egress;
use clarateach_testkit::wait_for;

use super::world::{self, GATEWAY, Guest, SERVER, assert_same, config, ip, network, on_a_host, outside, run};

/// All that the network changes on a host.
fn everything() -> String {
    let mut all = run("nft", "list ruleset");
    for of in ["-o link", "-o -4 addr", "-4 route show table all", "neigh"] {
        let shown = run("ip", of);
        // Counters of bytes and times, and caches of what neighbours said.
        let lines = shown.lines().filter(|line| !line.contains("REACHABLE") && !line.contains("STALE"));
        all.extend(lines.map(|line| format!("{}\n", steady(line))));
    }
    all
}

/// Without what the kernel finds out by itself some time after: whether somebody is at the other end.
fn steady(line: &str) -> String {
    let line = [",LOWER_UP", "NO-CARRIER,", " linkdown"]
        .iter()
        .fold(line.to_owned(), |line, word| line.replace(word, ""));
    match line.split_once(" state ").map(|(before, rest)| (before, rest.split_once(' '))) {
        Some((before, Some((_state, after)))) => format!("{before} {after}"),
        _ => line,
    }
}

/// Without what has been counted since, and the numbers that a bridge that is made anew has.
fn settled(everything: &str) -> String {
    let lines = everything.lines().filter(|line| !line.contains("counter packets"));
    let lines = lines.map(|line| match line.split_once(": clarateach0") {
        Some((_, rest)) => format!("clarateach0{rest}\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

fn refusal(result: Result<(), clarateach_microvm::net::NetError>) -> String {
    result.expect_err("a refusal").to_string()
}

async fn finding(network: &HostNetwork, what: &str) -> Finding {
    let findings = network.findings().await.unwrap();
    findings
        .iter()
        .find(|finding| finding.what == what)
        .unwrap_or_else(|| panic!("{what} in {findings:?}"))
        .clone()
}

#[test]
fn making_it_twice_changes_nothing_and_removing_it_leaves_nothing() {
    on_a_host("making_it_twice_changes_nothing_and_removing_it_leaves_nothing", || async {
        let _outside = outside();
        run("nft", "add table inet somebody");
        run("nft", "add chain inet somebody forward { type filter hook forward priority 0; policy drop; }");
        let before = everything();
        let network = network();
        network.ensure().await.unwrap();
        let made = everything();
        assert_ne!(before, made);
        let handles = run("nft", "--handle list ruleset");
        network.ensure().await.unwrap();
        assert_same(&everything(), &made, "");
        assert_same(&run("nft", "--handle list ruleset"), &handles, "nothing was replaced");
        // Another process's turn: an agent that was restarted.
        drop(network);
        let network = self::network();
        network.ensure().await.unwrap();
        assert_same(&everything(), &made, "");

        let slot = network.slot(Ipv4Addr::new(192, 168, 100, 11), Egress::None);
        network.attach(&slot).await.unwrap();
        network.open(&slot).await.unwrap();
        network.remove().await.unwrap();
        assert_same(&everything(), &before, "");
        network.remove().await.unwrap();
        assert_same(&everything(), &before, "");
    });
}

#[test]
fn an_nft_that_a_killed_process_has_left_running_is_waited_for() {
    on_a_host("an_nft_that_a_killed_process_has_left_running_is_waited_for", || async {
        let network = network();
        // It has been told what to change, and changes it when its input ends.
        let mut orphan = Command::new("nft")
            .args(["--file", "-"])
            .env("CLARATEACH_NFT_OF", "1")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // It is not nft for an instant, when it has just been begun.
        let environment = format!("/proc/{}/environ", orphan.id());
        let begun = || async {
            let environment = std::fs::read(&environment).unwrap_or_default();
            environment.windows(20).any(|name| name == b"CLARATEACH_NFT_OF=1\0").then_some(())
        };
        wait_for("nft to have begun", Duration::from_secs(10), begun).await;
        let early = tokio::time::timeout(Duration::from_millis(300), network.ensure()).await;
        assert!(early.is_err(), "{early:?}");
        drop(orphan.stdin.take());
        network.ensure().await.unwrap();
        assert!(orphan.wait().unwrap().success());
    });
}

#[test]
fn what_is_missing_is_mended_while_a_guest_runs() {
    on_a_host("what_is_missing_is_mended_while_a_guest_runs", || async {
        let outside = outside();
        let _server = outside.serve(SERVER, 80);
        let network = network();
        network.ensure().await.unwrap();
        let slot = network.slot(Ipv4Addr::new(192, 168, 100, 11), Egress::Internet);
        let nowhere = network.slot(Ipv4Addr::new(192, 168, 100, 12), Egress::None);
        for slot in [&slot, &nowhere] {
            network.attach(slot).await.unwrap();
            network.open(slot).await.unwrap();
        }
        let (guest, kept_in) = (Guest::boot(&slot), Guest::boot(&nowhere));
        let made = everything();
        for damage in [
            "ip addr flush dev clarateach0",
            "ip link set clarateach0 down",
            "nft flush ruleset",
            "nft delete table bridge clarateach0",
            "nft delete table inet clarateach0",
            "nft flush chain inet clarateach0 from_guest",
            "nft flush set bridge clarateach0 pins",
            "nft flush set inet clarateach0 no_egress",
            "nft add element inet clarateach0 no_egress { 192.168.100.11, 192.168.100.13 }",
            "ip link delete clarateach0",
            "sysctl net.ipv4.ip_forward=0",
            "bridge link set dev TAP isolated off",
        ] {
            let damage = damage.replace("TAP", &slot.tap);
            let (program, arguments) = damage.split_once(' ').unwrap();
            if program == "sysctl" {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            } else {
                run(program, arguments);
            }
            network.ensure().await.unwrap();
            assert!(network.ping(slot.address).await.unwrap(), "after {damage}");
            assert!(guest.namespace.tcp(SERVER, 80).is_ok(), "after {damage}");
            assert!(kept_in.namespace.tcp(SERVER, 80).is_err(), "after {damage}");
            assert!(guest.namespace.tcp(kept_in.slot.address, 80).is_err(), "after {damage}");
            assert_same(&settled(&everything()), &settled(&made), &damage);
        }
    });
}

/// Who may go nowhere, as the kernel has it.
fn kept_in() -> Vec<String> {
    let set = run("nft", "list set inet clarateach0 no_egress");
    let words = set.split(|c: char| !c.is_ascii_digit() && c != '.');
    let mut all: Vec<String> =
        words.filter_map(|word| word.strip_prefix("192.168.100.")).map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn vms_come_and_go_though_the_firewall_was_flushed() {
    on_a_host("vms_come_and_go_though_the_firewall_was_flushed", || async {
        let network = network();
        network.ensure().await.unwrap();
        let slots = [11, 12].map(|last| network.slot(Ipv4Addr::new(192, 168, 100, last), Egress::None));
        network.attach(&slots[0]).await.unwrap();
        run("nft", "flush ruleset");
        network.attach(&slots[1]).await.unwrap();
        assert_eq!(kept_in(), ["11", "12"]);
        let handles = run("nft", "--handle list ruleset");
        network.ensure().await.unwrap();
        assert_same(&run("nft", "--handle list ruleset"), &handles, "all had been put back");
        run("nft", "flush ruleset");
        network.detach(&slots[0]).await.unwrap();
        assert_eq!(kept_in(), ["12"]);
        network.detach(&slots[1]).await.unwrap();
        assert_eq!(kept_in(), [] as [String; 0]);
    });
}

#[test]
fn who_may_go_nowhere_stays_so_though_the_firewall_was_flushed() {
    on_a_host("who_may_go_nowhere_stays_so_though_the_firewall_was_flushed", || async {
        let outside = outside();
        let _server = outside.serve(SERVER, 80);
        let before = network();
        before.ensure().await.unwrap();
        let slot = before.slot(Ipv4Addr::new(192, 168, 100, 11), Egress::None);
        before.attach(&slot).await.unwrap();
        before.open(&slot).await.unwrap();
        let guest = Guest::boot(&slot);
        drop(before);
        run("nft", "flush ruleset");
        let after = network();
        let strange = after.slot(Ipv4Addr::new(10, 9, 8, 7), Egress::None);
        after.confine(&[slot.clone(), strange]);
        after.ensure().await.unwrap();
        assert_eq!(kept_in(), ["11"]);
        assert!(!run("nft", "list ruleset").contains("10.9.8.7"), "no address of this network");
        assert!(after.ping(slot.address).await.unwrap());
        assert!(guest.namespace.tcp(SERVER, 80).is_err());
        after.detach(&slot).await.unwrap();
        assert_eq!(kept_in(), [] as [String; 0]);
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_left_alone() {
    on_a_host("a_name_that_is_taken_is_refused_and_left_alone", || async {
        let network = network();
        for (make, why) in [
            ("link add clarateach0 type veth peer name p0", "is no bridge"),
            (
                "link add clarateach0 type bridge\nlink add d0 type veth peer name p0\nlink set d0 master clarateach0",
                "d0",
            ),
            ("link add clarateach0 type bridge\naddr add 10.9.8.7/24 dev clarateach0", "10.9.8.7/24"),
        ] {
            make.lines().for_each(ip);
            let before = everything();
            let message = refusal(network.ensure().await);
            assert!(message.contains(why) && message.contains("BRIDGE_NAME"), "{message}");
            assert_same(&everything(), &before, "");
            assert_eq!(finding(&network, "bridge").await.state, FindingState::Problem);
            let _ = refusal(network.remove().await);
            assert_same(&everything(), &before, "");
            ip("link delete clarateach0");
            let _ = std::process::Command::new("ip").args(["link", "delete", "d0"]).output();
        }
        // An empty bridge, as an agent leaves it that died early, is adopted.
        ip("link add clarateach0 type bridge stp_state 1");
        network.ensure().await.unwrap();
        assert!(run("ip", "-d link show clarateach0").contains("stp_state 0"));
        assert_eq!(finding(&network, "bridge").await.state, FindingState::Ok);

        // Another agent on the same host, alive, and dead.
        let other = || HostNetwork::new(NetConfig { owner: "other".to_owned(), ..config() }).unwrap();
        let message = refusal(other().ensure().await);
        assert!(message.contains("another running"), "{message}");
        drop(network);
        other().ensure().await.unwrap();
    });
}

#[test]
fn a_range_that_is_taken_is_refused() {
    on_a_host("a_range_that_is_taken_is_refused", || async {
        let network = network();
        ip("link add d0 type veth peer name p0");
        ip("link set d0 up");
        ip("link set p0 up");
        for clash in [
            "addr add 192.168.100.200/25 dev d0",
            "route add 192.168.0.0/16 dev d0",
            "route add 192.168.100.64/26 dev d0 table 7",
        ] {
            ip(clash);
            let before = everything();
            let message = refusal(network.ensure().await);
            assert!(message.contains("d0") && message.contains("BRIDGE_IP"), "{message}");
            assert_same(&everything(), &before, "");
            assert_eq!(finding(&network, "subnet").await.state, FindingState::Problem);
            ip(&clash.replace(" add ", " delete "));
        }
        ip("route add default dev d0");
        ip("route add 128.0.0.0/1 dev d0");
        network.ensure().await.unwrap();
        assert_eq!(finding(&network, "subnet").await.state, FindingState::Ok);
    });
}

#[test]
fn another_range_and_no_default_route_are_fine() {
    on_a_host("another_range_and_no_default_route_are_fine", || async {
        let config = NetConfig {
            bridge: "br-class.1".to_owned(),
            address: Ipv4Addr::new(10, 200, 255, 254),
            prefix: 16,
            ..config()
        };
        let network = HostNetwork::new(config).unwrap();
        network.ensure().await.unwrap();
        assert_eq!(finding(&network, "default_route").await.state, FindingState::Warning);
        for what in
            ["ip_forward", "tun", "bridge", "subnet", "nft", "firewall", "other_firewall", "rp_filter"]
        {
            let finding = finding(&network, what).await;
            assert_eq!(finding.state, FindingState::Ok, "{finding:?}");
        }
        let slot = network.slot(Ipv4Addr::new(10, 200, 0, 11), Egress::Internet);
        network.attach(&slot).await.unwrap();
        network.open(&slot).await.unwrap();
        // The guest's addresses are of the other range; nobody else's test needs them.
        let guest = world::Guest::boot_in(&slot, Ipv4Addr::new(10, 200, 255, 254), 16);
        assert!(network.ping(slot.address).await.unwrap());
        assert!(guest.namespace.tcp(SERVER, 80).is_err());
        run("nft", "delete table inet br_class_1");
        assert_eq!(finding(&network, "firewall").await.state, FindingState::Problem);
        network.remove().await.unwrap();
        assert_eq!(run("nft", "list ruleset"), "");
        assert!(HostNetwork::new(NetConfig { address: GATEWAY, prefix: 31, ..self::config() }).is_err());
        assert!(HostNetwork::new(NetConfig { bridge: "a*".to_owned(), ..self::config() }).is_err());
        assert!(
            HostNetwork::new(NetConfig { bridge: "sixteen_letters_".to_owned(), ..self::config() }).is_err()
        );
    });
}
