//! `recreate`: whatever happens, what is on the disk is somewhere.

use std::process::Stdio;
use std::time::Duration;

use clarateach_gcp::double::{Fault, Options, Side};
use clarateach_testkit::wait_for;

use crate::{Desk, ZONE, finish};

const WORK: &str = "what the class has built";

async fn desk() -> Desk {
    let desk = Desk::with(Options { operation: Duration::from_millis(10), ..Options::default() }).await;
    desk.double.put_instance(ZONE, "clara2", WORK);
    desk
}

fn check_recreated(desk: &Desk, what: &str) {
    let instance = desk.double.instance(ZONE, "clara2").unwrap_or_else(|| panic!("{what}: no instance"));
    assert_eq!(instance["status"], "RUNNING", "{what}");
    assert_eq!(instance["advancedMachineFeatures"]["enableNestedVirtualization"], true, "{what}");
    assert_eq!(instance["scheduling"]["provisioningModel"], "SPOT", "{what}");
    let disk = instance["disks"][0]["source"].as_str().unwrap().rsplit('/').next().unwrap();
    assert_eq!(desk.double.disk_content(ZONE, disk).unwrap(), WORK, "{what}");
    assert_eq!(instance["labels"]["team"], "teaching", "{what}");
    assert_eq!(instance["metadata"]["items"][0]["value"], "token-of-the-old-vm", "{what}");
}

fn only_looked(desk: &Desk, from: usize) -> bool {
    desk.double.recorded()[from..].iter().all(|call| call.call.starts_with("GET"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_made_anew_with_nested_virtualization_and_all_that_was_on_its_disk() {
    let desk = desk().await;
    let refused = desk.run(&["recreate", "clara2"]).await;
    assert_eq!(refused.code, Some(8), "{refused:?}");
    assert!(only_looked(&desk, 0));
    let before = desk.double.recorded().len();
    let ended = desk.ok(&["recreate", "clara2", "--yes"]).await;
    check_recreated(&desk, "at once");
    assert_eq!(desk.double.snapshot_names(), ["clara2-snapshot"]);
    let changes: Vec<String> = desk.double.recorded()[before..]
        .iter()
        .filter(|call| !call.call.starts_with("GET") && !call.method.ends_with(".wait"))
        .map(|call| call.method.clone())
        .collect();
    assert_eq!(changes, ["instances.stop", "disks.createSnapshot", "instances.delete", "instances.insert"]);
    assert!(ended.err.contains("READY; the disk is safe"), "{ended:?}");
    let state = desk.home.path().join(".local/state/clarateach/vmctl");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0, "what was kept meanwhile is gone");
    let before = desk.double.recorded().len();
    desk.ok(&["recreate", "clara2", "--yes"]).await;
    assert!(only_looked(&desk, before), "there is nothing to do");
}

/// Killed before and after every single call in turn, then run again. At every moment, what was on the disk is on a disk or in a
/// snapshot that is ready.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_call_it_goes_on_and_nothing_is_lost() {
    let mut tried = 0;
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let desk = desk().await;
            desk.double.hold(nth, side);
            let mut command = desk.command(&["recreate", "clara2", "--yes"]);
            let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            let what = format!("killed {side:?} call {nth}");
            let finished = wait_for(&what, Duration::from_secs(30), || {
                assert!(!desk.double.holders_of(WORK).is_empty(), "{what}");
                let ended = child.try_wait().unwrap().map(|_| true);
                std::future::ready(if desk.double.is_holding() { Some(false) } else { ended })
            })
            .await;
            if finished {
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            desk.double.release();
            let again = tokio::spawn(finish(desk.command(&["recreate", "clara2", "--yes"])));
            while !again.is_finished() {
                assert!(!desk.double.holders_of(WORK).is_empty(), "{what}, then run again");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let ended = again.await.unwrap();
            assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
            check_recreated(&desk, &what);
            assert_eq!(desk.double.instance_names(), ["clara2"], "{what}");
            assert_eq!(desk.double.disk_names(), ["clara2"], "{what}");
            tried += 1;
        }
    }
    assert!(tried > 30, "only {tried} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_before_is_not_taken_for_one_of_now() {
    let desk = desk().await;
    // An earlier attempt was given up before it deleted anything; the VM was started again, and worked on.
    desk.double.fail("DELETE instances", Fault::Forbidden, 1);
    assert_eq!(desk.run(&["recreate", "clara2", "-y"]).await.code, Some(1));
    assert_eq!(desk.double.snapshot("clara2-snapshot").unwrap()["status"], "READY");
    desk.ok(&["start", "clara2"]).await;
    desk.double.write_disk(ZONE, "clara2", "what was built since");
    desk.ok(&["recreate", "clara2", "-y"]).await;
    assert_eq!(desk.double.disk_content(ZONE, "clara2").unwrap(), "what was built since");
    assert_eq!(desk.double.snapshot_names(), ["clara2-snapshot", "clara2-snapshot-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_when_the_snapshot_fails() {
    let desk = desk().await;
    desk.double.fail("POST createSnapshot", Fault::Quota, 1);
    let ended = desk.run(&["recreate", "clara2", "-y"]).await;
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert_eq!(desk.double.disk_content(ZONE, "clara2").unwrap(), WORK);
    desk.ok(&["recreate", "clara2", "-y"]).await;
    check_recreated(&desk, "after the quota");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_zone_leaves_the_snapshot_and_the_way_to_go_on() {
    let desk = desk().await;
    desk.double.exhaust(ZONE, true);
    let ended = desk.run(&["recreate", "clara2", "-y"]).await;
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert_eq!(desk.double.holders_of(WORK), ["snapshot clara2-snapshot"]);
    assert!(ended.err.contains("vmctl create clara2 --from-snapshot clara2-snapshot --zone"), "{ended:?}");
    desk.double.exhaust(ZONE, false);
    desk.ok(&["recreate", "clara2", "-y"]).await;
    check_recreated(&desk, "after the zone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_disk_that_stays_is_left_as_it_is() {
    let desk = desk().await;
    desk.double.change_instance(ZONE, "clara2", |instance| instance["disks"][0]["autoDelete"] = false.into());
    desk.ok(&["recreate", "clara2", "-y"]).await;
    check_recreated(&desk, "with the old disk");
    assert_eq!(desk.double.disk_names(), ["clara2", "clara2-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_lost_is_refused() {
    let desk = desk().await;
    let refused = async |wanted: &str, arguments: &[&str]| {
        let ended = desk.run(&[&["recreate", "clara2", "-y"], arguments].concat()).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains(wanted) && only_looked(&desk, 0), "{ended:?}");
    };
    refused("--disk-size 50", &["--disk-size", "20"]).await;
    desk.double.change_instance(ZONE, "clara2", |instance| {
        let disks = instance["disks"].as_array_mut().unwrap();
        disks.push(serde_json::json!({"type": "SCRATCH", "deviceName": "local-ssd-0", "autoDelete": true}));
    });
    refused("local SSD", &[]).await;
}

/// Other disks outlive the VM and are attached to the new one, as they were; wherever it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn other_disks_are_carried_over_wherever_it_is_killed() {
    const DATA: &str = "the class's data";
    let mut tried = 0;
    for nth in 1.. {
        let desk = desk().await;
        desk.double.put_disk(ZONE, "clara2", "data", DATA);
        desk.double.hold(nth, Side::After);
        let mut command = desk.command(&["recreate", "clara2", "--yes"]);
        let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let what = format!("killed after call {nth}");
        let finished = wait_for(&what, Duration::from_secs(30), || {
            let ended = child.try_wait().unwrap().map(|_| true);
            std::future::ready(if desk.double.is_holding() { Some(false) } else { ended })
        })
        .await;
        if !finished {
            child.kill().unwrap();
            child.wait().unwrap();
            desk.double.release();
            desk.ok(&["recreate", "clara2", "--yes"]).await;
            tried += 1;
        }
        check_recreated(&desk, &what);
        let instance = desk.double.instance(ZONE, "clara2").unwrap();
        assert_eq!(instance["disks"].as_array().unwrap().len(), 2, "{what}");
        let data = &instance["disks"][1];
        assert!(data["source"].as_str().unwrap().ends_with("/disks/data"), "{what}: {data}");
        assert_eq!((&data["autoDelete"], &data["deviceName"]), (&true.into(), &"data".into()), "{what}");
        assert_eq!(desk.double.disk_content(ZONE, "data").as_deref(), Some(DATA), "{what}");
        if finished {
            break;
        }
    }
    assert!(tried > 15, "only {tried} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_disk_stays_as_large_and_of_its_kind() {
    let desk = desk().await;
    desk.double.change_disk(ZONE, "clara2", |disk| {
        disk["sizeGb"] = "200".into();
        disk["type"] = disk["type"].as_str().unwrap().replace("pd-standard", "pd-ssd").into();
    });
    desk.double.change_instance(ZONE, "clara2", |instance| instance["disks"][0]["diskSizeGb"] = "200".into());
    desk.ok(&["recreate", "clara2", "-y"]).await;
    check_recreated(&desk, "a large one");
    let disk = desk.double.disk(ZONE, "clara2").unwrap();
    assert_eq!(disk["sizeGb"], "200");
    assert!(disk["type"].as_str().unwrap().ends_with("/pd-ssd"), "{disk}");
}
