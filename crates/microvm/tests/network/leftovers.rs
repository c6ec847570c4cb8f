//! What is left, in what time it goes, and what a VM's network costs.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use clarateach_microvm::net::{HostNetwork, NetConfig, Network, Slot, Slots, give_tap, tap_name};
use clarateach_runtime::Egress;
use clarateach_testkit::wait_for;
use futures_util::future::join_all;

use super::tap;
use super::world::{GATEWAY, Guest, assert_same, config, ip, network, on_a_host, run};

fn no_egress() -> usize {
    let set = run("nft", "list set inet clarateach0 no_egress");
    set.matches("192.168.100.").count()
}

fn neighbours() -> usize {
    run("ip", "neigh show dev clarateach0").lines().count()
}

fn ports() -> usize {
    run("bridge", "link show").lines().count()
}

#[test]
fn detaching_leaves_nothing() {
    on_a_host("detaching_leaves_nothing", || async {
        let network = network();
        network.ensure().await.unwrap();
        let everything = || run("nft", "list ruleset") + &run("ip", "-o -4 addr") + &run("ip", "neigh");
        let before = everything();
        let slot = |last: u8, egress| network.slot(Ipv4Addr::new(192, 168, 100, last), egress);
        let slots: Vec<Slot> = (11..51)
            .map(|last| slot(last, if last % 4 == 0 { Egress::None } else { Egress::Internet }))
            .collect();
        join_all(slots.iter().map(|slot| network.attach(slot)))
            .await
            .into_iter()
            .collect::<Result<(), _>>()
            .unwrap();
        join_all(slots.iter().map(|slot| network.open(slot)))
            .await
            .into_iter()
            .collect::<Result<(), _>>()
            .unwrap();
        assert_eq!((ports(), neighbours(), no_egress()), (40, 40, 10));
        let mut names = network.taps().await.unwrap();
        names.sort();
        let wanted: Vec<String> = slots.iter().map(|slot| slot.tap.clone()).collect();
        assert_eq!(names, wanted);

        join_all(slots.iter().map(|slot| network.detach(slot)))
            .await
            .into_iter()
            .collect::<Result<(), _>>()
            .unwrap();
        assert_eq!((ports(), neighbours(), no_egress()), (0, 0, 0));
        assert_eq!(network.taps().await.unwrap(), [] as [String; 0]);
        assert_same(&everything(), &before, "after all are gone");
        network.detach(&slots[0]).await.unwrap();

        // A tap that can't be made leaves nothing either: the name is somebody's, the slot is not of this network.
        ip(&format!("link add {} type veth peer name p0", slots[0].tap));
        assert!(network.attach(&slots[0]).await.unwrap_err().to_string().contains("no tap"));
        ip(&format!("link delete {}", slots[0].tap));
        let strange = Slot { tap: "eth7".to_owned(), ..slots[0].clone() };
        assert!(network.attach(&strange).await.is_err());
        assert!(network.attach(&slot(1, Egress::Internet)).await.is_err(), "the gateway's");
        assert!(network.open(&slots[0]).await.is_err(), "there is nothing to open");
        assert_eq!(network.taps().await.unwrap(), [] as [String; 0]);
        ip("link delete clarateach0");
        assert!(network.attach(&slots[0]).await.unwrap_err().to_string().contains("clarateach0"));
        assert_eq!(network.taps().await.unwrap(), [] as [String; 0]);
    });
}

#[test]
fn what_was_made_for_another_range_or_owner_is_let_go() {
    on_a_host("what_was_made_for_another_range_or_owner_is_let_go", || async {
        let before = network();
        before.ensure().await.unwrap();
        let slot = before.slot(Ipv4Addr::new(192, 168, 100, 11), Egress::None);
        before.attach(&slot).await.unwrap();
        drop(before);
        // BRIDGE_IP was changed.
        let network =
            HostNetwork::new(NetConfig { address: Ipv4Addr::new(10, 77, 0, 1), ..config() }).unwrap();
        assert!(network.attach(&slot).await.is_err() && network.open(&slot).await.is_err());
        for _ in 0..2 {
            network.detach(&slot).await.unwrap();
            assert_eq!((ports(), neighbours()), (0, 0));
            assert_eq!(network.taps().await.unwrap(), [] as [String; 0]);
        }
        // Another owner's tap is not ours, and what bears our name and is no tap neither.
        let foreign = Slot { tap: tap_name("another owner", slot.address), ..slot.clone() };
        ip(&format!("tuntap add dev {} mode tap", foreign.tap));
        ip(&format!("link add {} type veth peer name p0", slot.tap));
        for slot in [&foreign, &slot] {
            network.detach(slot).await.unwrap();
            assert!(run("ip", "-o link").contains(&slot.tap));
        }
    });
}

#[test]
fn a_sweep_says_nothing_of_what_was_just_detached() {
    on_a_host("a_sweep_says_nothing_of_what_was_just_detached", || async {
        let before = network();
        before.ensure().await.unwrap();
        let slots = [11, 12].map(|last| before.slot(Ipv4Addr::new(192, 168, 100, last), Egress::None));
        for slot in &slots {
            before.attach(slot).await.unwrap();
        }
        // The agent's next process finds both, and removes one: its VM is still among those that are spoken of.
        drop(before);
        let after = network();
        after.ensure().await.unwrap();
        after.detach(&slots[0]).await.unwrap();
        after.sweep(&slots).await.unwrap();
        assert_eq!(no_egress(), 1);
        // What the set has lost of the other one is said again.
        run("nft", "flush set inet clarateach0 no_egress");
        let next = network();
        drop(after);
        next.ensure().await.unwrap();
        next.sweep(&slots).await.unwrap();
        assert_eq!(no_egress(), 1);
        assert!(run("nft", "list set inet clarateach0 no_egress").contains("192.168.100.12"));
    });
}

#[test]
fn attaching_that_is_broken_off_leaves_nothing_after_detaching() {
    on_a_host("attaching_that_is_broken_off_leaves_nothing_after_detaching", || async {
        let network = network();
        network.ensure().await.unwrap();
        let mut broken_off = 0;
        for round in 0..200_u64 {
            let egress = if round % 8 == 0 { Egress::None } else { Egress::Internet };
            let slot = network.slot(Ipv4Addr::new(192, 168, 100, 11), egress);
            let patience = Duration::from_micros(round * 7);
            broken_off += u32::from(tokio::time::timeout(patience, network.attach(&slot)).await.is_err());
            network.detach(&slot).await.unwrap();
            assert_eq!(network.taps().await.unwrap(), [] as [String; 0], "round {round}");
        }
        assert!(broken_off > 10, "{broken_off}");
        assert_eq!((ports(), neighbours(), no_egress()), (0, 0, 0));
    });
}

#[test]
fn thousands_of_left_over_taps_go_quickly_and_only_ours() {
    on_a_host("thousands_of_left_over_taps_go_quickly_and_only_ours", || async {
        let config = || NetConfig { address: Ipv4Addr::new(10, 77, 0, 1), prefix: 16, ..config() };
        let before = HostNetwork::new(config()).unwrap();
        before.ensure().await.unwrap();
        ip("tuntap add dev ctother mode tap");
        let foreign = tap_name("another owner", GATEWAY);
        ip(&format!("tuntap add dev {foreign} mode tap"));
        let address = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 0, 10)) + n);
        // How many there are, at least 1,100; CLARATEACH_LEFT_OVER_TAPS=10000 for a soak.
        let count = std::env::var("CLARATEACH_LEFT_OVER_TAPS")
            .ok()
            .and_then(|count| count.parse().ok())
            .unwrap_or(2_000);
        // A thousand on the bridge, as many as it takes but 23, and the rest beside it.
        let slots: Vec<Slot> = (0..1_000).map(|n| before.slot(address(n), Egress::Internet)).collect();
        let making = Instant::now();
        for some in slots.chunks(50) {
            for done in join_all(some.iter().map(|slot| before.attach(slot))).await {
                done.unwrap();
            }
        }
        println!("network: 1000 taps attached, 50 at a time, in {:?}", making.elapsed());
        for n in 1_000..count {
            tap::persist(&tap::open(&tap_name("test", address(n))).unwrap()).unwrap();
        }
        drop(before);

        // An agent that starts, wants the first ten of them, and takes the eleventh's address into use meanwhile.
        let network = HostNetwork::new(config()).unwrap();
        let starting = Instant::now();
        network.ensure().await.unwrap();
        println!("network: made sure of with {count} left-over taps in {:?}", starting.elapsed());
        assert_eq!(network.taps().await.unwrap().len(), count as usize);
        let sweeping = Instant::now();
        let (swept, used) = tokio::join!(network.sweep(&slots[..10]), async {
            let asked = Instant::now();
            network.attach(&slots[10]).await.unwrap();
            network.open(&slots[10]).await.unwrap();
            asked.elapsed()
        });
        let (swept, took) = (swept.unwrap(), sweeping.elapsed());
        println!(
            "network: {swept} left-over taps removed in {took:?}, {:.0}/s; a VM's network meanwhile in {used:?}",
            swept as f64 / took.as_secs_f64()
        );
        let mut left = network.taps().await.unwrap();
        left.sort();
        let mut wanted: Vec<String> = slots[..11].iter().map(|slot| slot.tap.clone()).collect();
        wanted.sort();
        assert_eq!(left, wanted);
        assert!(swept >= count as usize - 11, "{swept}");
        assert_eq!(neighbours(), 11);
        let shown = run("ip", "-o link");
        assert!(shown.contains("ctother") && shown.contains(&foreign));
        assert!(swept as f64 / took.as_secs_f64() > 100.0, "{swept} in {took:?}");
    });
}

#[test]
fn a_full_bridge_is_told_and_leaves_nothing() {
    on_a_host("a_full_bridge_is_told_and_leaves_nothing", || async {
        let network = HostNetwork::new(NetConfig { prefix: 16, ..config() }).unwrap();
        network.ensure().await.unwrap();
        let slots = Slots::new(GATEWAY, 16, 1_023).unwrap();
        let mut taken = std::collections::HashSet::new();
        for seat in 1..=1_023 {
            let address = slots.choose(seat, &taken).unwrap();
            taken.insert(address);
            network.attach(&network.slot(address, Egress::Internet)).await.unwrap();
        }
        assert_eq!(ports(), 1_023);
        let last = network.slot(slots.choose(1_024, &taken).unwrap(), Egress::None);
        let message = network.attach(&last).await.unwrap_err().to_string();
        assert!(message.contains("1,023 ports"), "{message}");
        assert!(!network.taps().await.unwrap().contains(&last.tap));
        network.remove().await.unwrap();
        assert_eq!(run("ip", "-o link").lines().count(), 1, "only lo is left");
    });
}

#[test]
fn a_vms_network_costs_little() {
    on_a_host("a_vms_network_costs_little", || async {
        let network = network();
        let began = Instant::now();
        network.ensure().await.unwrap();
        println!("network: made in {:?}", began.elapsed());
        let began = Instant::now();
        network.ensure().await.unwrap();
        println!("network: found as it should be in {:?}", began.elapsed());
        let mut attach = Vec::new();
        let mut detach = Vec::new();
        for round in 0..200 {
            let slot = network.slot(Ipv4Addr::new(192, 168, 100, 11 + (round % 200)), Egress::Internet);
            let began = Instant::now();
            network.attach(&slot).await.unwrap();
            network.open(&slot).await.unwrap();
            attach.push(began.elapsed());
            let began = Instant::now();
            network.detach(&slot).await.unwrap();
            detach.push(began.elapsed());
        }
        report("attach and open, one after the other", attach);
        report("detach, one after the other", detach);
        let slots: Vec<Slot> =
            (11..61).map(|last| network.slot(Ipv4Addr::new(192, 168, 100, last), Egress::Internet)).collect();
        let attach = join_all(slots.iter().map(async |slot| {
            let began = Instant::now();
            network.attach(slot).await.unwrap();
            network.open(slot).await.unwrap();
            began.elapsed()
        }));
        report("attach and open, 50 at once", attach.await);
        let detach = join_all(slots.iter().map(async |slot| {
            let began = Instant::now();
            network.detach(slot).await.unwrap();
            began.elapsed()
        }));
        report("detach, 50 at once", detach.await);
        let nowhere: Vec<Slot> =
            slots.iter().map(|slot| Slot { egress: Egress::None, ..slot.clone() }).collect();
        let attach = join_all(nowhere.iter().map(async |slot| {
            let began = Instant::now();
            network.attach(slot).await.unwrap();
            began.elapsed()
        }));
        report("attach without egress, 50 at once", attach.await);
        network.remove().await.unwrap();
    });
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("network: {what}: p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), at(100));
    assert!(at(50) < Duration::from_secs(1), "{what}: {times:?}");
}

#[test]
fn an_opened_port_passes_frames_at_once() {
    on_a_host("an_opened_port_passes_frames_at_once", || async {
        let network = network();
        network.ensure().await.unwrap();
        let (mut held_before, mut held_after) = (Vec::new(), Vec::new());
        for round in 0..20 {
            let slot = network.slot(Ipv4Addr::new(192, 168, 100, 11 + round), Egress::Internet);
            network.attach(&slot).await.unwrap();
            // A VM that runs already, as one restored from a snapshot.
            let guest = Guest::boot(&slot);
            let began = Instant::now();
            network.open(&slot).await.unwrap();
            assert!(network.ping(slot.address).await.unwrap());
            held_before.push(began.elapsed());
            drop(guest);
            network.detach(&slot).await.unwrap();

            // One that comes to an open port.
            network.attach(&slot).await.unwrap();
            network.open(&slot).await.unwrap();
            let guest = Guest::boot(&slot);
            let began = Instant::now();
            assert!(network.ping(slot.address).await.unwrap());
            held_after.push(began.elapsed());
            drop(guest);
            network.detach(&slot).await.unwrap();
        }
        report("open to ping, VMM before", held_before);
        report("open to ping, VMM after", held_after);
    });
}

#[test]
fn a_tap_that_was_given_away_opens_for_its_user_only() {
    on_a_host("a_tap_that_was_given_away_opens_for_its_user_only", || async {
        let network = network();
        network.ensure().await.unwrap();
        let slot = network.slot(Ipv4Addr::new(192, 168, 100, 11), Egress::Internet);
        network.attach(&slot).await.unwrap();
        assert!(give_tap("ctnothing", 1_234).is_err(), "nothing is made");
        give_tap(&slot.tap, 1_234).unwrap();
        let shown = run("ip", &format!("-d link show {}", slot.tap));
        assert!(shown.contains("persist on") && shown.contains("user 1234"), "{shown}");
        network.attach(&slot).await.unwrap();
        drop(tap::open(&slot.tap).expect("root may open it"));
        network.detach(&slot).await.unwrap();
    });
}

#[test]
fn opened_ports_forward_at_once() {
    on_a_host("opened_ports_forward_at_once", || async {
        let network = network();
        network.ensure().await.unwrap();
        let slots: Vec<Slot> =
            (11..61).map(|last| network.slot(Ipv4Addr::new(192, 168, 100, last), Egress::Internet)).collect();
        join_all(slots.iter().map(async |slot| network.attach(slot).await.unwrap())).await;
        let _vmms: Vec<_> = slots.iter().map(|slot| tap::open(&slot.tap).unwrap()).collect();
        assert_eq!(run("bridge", "link show").matches("state forwarding").count(), 0);
        join_all(slots.iter().map(async |slot| network.open(slot).await.unwrap())).await;
        // The kernel notices a carrier in a work queue of its own, which a busy host may keep waiting; listening and learning
        // first, as bridges do with a spanning tree, takes 30 seconds.
        let all =
            || async { (run("bridge", "link show").matches("state forwarding").count() == 50).then_some(()) };
        wait_for("50 ports to forward", Duration::from_secs(2), all).await;
    });
}
