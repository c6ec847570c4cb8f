//! A fleet that grows and shrinks, and touches nobody else's machines.

use std::time::{Duration, Instant};

use clarateach_gcp::double::{ComputeDouble, Options};
use clarateach_gcp::fleet::Fleet;
use clarateach_gcp::fleet::plan::Machine;
use clarateach_gcp::fleet::shortage::Shortages;
use clarateach_gcp::{InstanceSpec, Kind};
use clarateach_testkit::wait_for;
use secrecy::ExposeSecret;

use crate::{ZONE, client, double, name, place, spec};

const OTHER_ZONE: &str = "us-central1-c";

fn fleet(double: &ComputeDouble, installation: &str) -> Fleet {
    Fleet::new(client(double), installation.to_owned(), vec![name(ZONE), name(OTHER_ZONE)])
}

fn worker(id: &str) -> InstanceSpec {
    let mut spec = spec(id);
    spec.agent_token = Some("the-agents-own-token".to_owned().into());
    spec
}

#[tokio::test]
async fn what_it_made_is_found_again_and_removed_with_its_disk() {
    let double = double().await;
    let ours = fleet(&double, "ours");
    ours.create(&name(ZONE), worker("ours-1")).await.unwrap();
    ours.create(&name(OTHER_ZONE), worker("ours-2")).await.unwrap();
    fleet(&double, "theirs").create(&name(ZONE), worker("theirs-1")).await.unwrap();
    double.put_instance(ZONE, "by-hand", "work");
    // Another process of the same installation knows what there is, the token included.
    let again = fleet(&double, "ours");
    let found = again.look().await.unwrap();
    let names: Vec<String> = found.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["ours-1", "ours-2"]);
    let first = &found[&name("ours-1")];
    assert_eq!((first.machine, first.zone.as_str()), (Machine::Running, ZONE));
    assert_eq!(first.agent_token.as_ref().unwrap().expose_secret(), "the-agents-own-token");
    assert!(first.internal_ip.is_some());
    // Somebody else's are not touched, whatever they are called.
    for foreign in ["theirs-1", "by-hand"] {
        assert!(!again.delete(&name(ZONE), &name(foreign)).await.unwrap());
        assert!(double.instance(ZONE, foreign).is_some());
    }
    assert!(again.delete(&name(ZONE), &name("ours-1")).await.unwrap());
    assert!(again.delete(&name(ZONE), &name("ours-1")).await.unwrap(), "twice is the same");
    assert!(double.disk(ZONE, "ours-1").is_none());
    assert_eq!(again.look().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_disk_that_its_instance_left_is_found_and_goes_too() {
    let double = double().await;
    let fleet = fleet(&double, "ours");
    fleet.create(&name(ZONE), worker("w")).await.unwrap();
    double.change_instance(ZONE, "w", |instance| instance["disks"][0]["autoDelete"] = false.into());
    client(&double).complete(&place().delete_instance(&name("w")), &mut |_| {}).await.unwrap();
    assert_eq!(fleet.look().await.unwrap()[&name("w")].machine, Machine::DiskOnly);
    assert!(fleet.delete(&name(ZONE), &name("w")).await.unwrap());
    assert!(double.disk_names().is_empty() && fleet.look().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_preempted_worker_is_started_with_what_is_on_its_disk() {
    let double = double().await;
    let fleet = fleet(&double, "ours");
    fleet.create(&name(ZONE), worker("w")).await.unwrap();
    double.write_disk(ZONE, "w", "what learners have built");
    double.preempt(ZONE, "w");
    wait_for("the end of the machine", Duration::from_secs(10), || {
        let found = fleet.look();
        async move { (found.await.unwrap()[&name("w")].machine == Machine::Stopped).then_some(()) }
    })
    .await;
    fleet.start(&name(ZONE), &name("w")).await.unwrap();
    assert_eq!(fleet.look().await.unwrap()[&name("w")].machine, Machine::Running);
    assert_eq!(double.disk_content(ZONE, "w").unwrap(), "what learners have built");
}

#[tokio::test]
async fn empty_zones_and_quota_are_remembered_for_longer_each_time() {
    let double = ComputeDouble::start(Options { cpus: 8, ..Options::default() }).await;
    let fleet = fleet(&double, "ours");
    let (zone, other) = (name(ZONE), name(OTHER_ZONE));
    let mut shortages = Shortages::default();
    let start = Instant::now();
    double.exhaust(ZONE, true);
    // Three at once are refused: that is one shortage.
    for id in ["w1", "w2", "w3"] {
        let refused = fleet.create(&zone, worker(id)).await;
        assert_eq!(refused.as_ref().unwrap_err().kind(), Kind::ZoneExhausted);
        shortages.heed(&zone, &refused, start);
    }
    assert_eq!(shortages.exhausted(start), [zone.clone()].into());
    let later = start + Duration::from_secs(61);
    assert!(shortages.exhausted(later).is_empty());
    shortages.heed(&zone, &fleet.create(&zone, worker("w1")).await, later);
    assert!(!shortages.exhausted(later + Duration::from_secs(100)).is_empty(), "two minutes the second time");
    let made = fleet.create(&other, worker("w1")).await;
    assert!(made.is_ok());
    shortages.heed(&other, &made, later);
    let refused = fleet.create(&other, worker("w2")).await;
    assert_eq!(refused.as_ref().unwrap_err().kind(), Kind::QuotaExceeded);
    shortages.heed(&other, &refused, later);
    assert!(shortages.is_over_quota(later) && !shortages.is_over_quota(later + Duration::from_secs(61)));
    assert!(shortages.messages(later).any(|message| message.contains("QUOTA_EXCEEDED")));
    assert_eq!(double.instance_names(), ["w1"]);
}
