//! What goes wrong, and the exit code that says so.

use std::process::Stdio;
use std::time::Duration;

use clarateach_gcp::double::{Fault, Options, Side};
use clarateach_testkit::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Desk, ZONE, finish};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_it_was() {
    let desk = Desk::with(Options { cpus: 8, ..Options::default() }).await;
    for arguments in
        [&["get", "nobody"][..], &["stop", "nobody"], &["recreate", "nobody", "-y"], &["logs", "nobody"]]
    {
        let ended = desk.run(arguments).await;
        assert_eq!(ended.code, Some(3), "{ended:?}");
        assert!(ended.err.contains("nobody"), "{ended:?}");
    }
    desk.ok(&["create", "w"]).await;
    let ended = desk.run(&["create", "w"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let ended = desk.run(&["delete", "w", "nobody", "-y"]).await;
    assert_eq!((ended.code, desk.double.instance_names()), (Some(3), vec!["w".to_owned()]), "{ended:?}");
    let ended = desk.run(&["create", "v"]).await;
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.err.contains("QUOTA_EXCEEDED") && ended.err.contains("quotas"), "{ended:?}");
    desk.double.set_quota(100);
    desk.double.exhaust(ZONE, true);
    let ended = desk.run(&["create", "v"]).await;
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.err.contains("ZONE_RESOURCE_POOL_EXHAUSTED") && ended.err.contains("--zone"), "{ended:?}");
    desk.ok(&["create", "v", "--zone", "us-central1-c"]).await;
    assert!(desk.double.instance("us-central1-c", "v").is_some());
    desk.double.fail("POST instances", Fault::Forbidden, 1);
    let ended = desk.run(&["create", "u", "--zone", "us-central1-c"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("roles/compute.instanceAdmin"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_credentials_say_how_to_get_new_ones() {
    let desk = Desk::new().await;
    desk.double.expire_tokens();
    let ended = desk.run(&["list"]).await;
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.contains("gcloud auth application-default login"), "{ended:?}");
    let mut without = desk.command(&["list"]);
    without.env_remove("CLOUDSDK_AUTH_ACCESS_TOKEN");
    let ended = finish(without).await;
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.contains("no Google credentials"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_left_over_is_not_taken_for_a_new_one() {
    let desk = Desk::new().await;
    desk.double.put_instance(ZONE, "w", "somebody's work");
    desk.double.change_instance(ZONE, "w", |instance| instance["disks"][0]["autoDelete"] = false.into());
    let deleted = desk.ok(&["delete", "w", "-y"]).await;
    assert!(deleted.err.contains("the disk w stays"), "{deleted:?}");
    let ended = desk.run(&["create", "w"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("a disk w"), "{ended:?}");
    assert_eq!(desk.double.disk_content(ZONE, "w").unwrap(), "somebody's work");
}

/// Between the end of the operation and the look at what it made.
#[tokio::test(flavor = "multi_thread")]
async fn preempted_before_anybody_has_seen_it_run() {
    let desk = Desk::new().await;
    // The calls: get instance, get disk, insert, wait.
    desk.double.hold(4, Side::After);
    let creating = tokio::spawn(finish(desk.command(&["create", "w"])));
    wait_for("the end of the insert", PATIENCE, async || desk.double.is_holding().then_some(())).await;
    desk.double.preempt(ZONE, "w");
    wait_for("the end of the machine", PATIENCE, async || {
        (desk.double.instance(ZONE, "w").unwrap()["status"] == "TERMINATED").then_some(())
    })
    .await;
    desk.double.release();
    let ended = creating.await.unwrap();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("preempted") && ended.err.contains("vmctl start w"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_is_said_and_what_was_begun_goes_on() {
    let desk = Desk::with(Options { operation: Duration::from_secs(3), ..Options::default() }).await;
    let mut command = desk.command(&["create", "w"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the insert", PATIENCE, async || (!desk.double.instance_names().is_empty()).then_some(())).await;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("goes on there"));
    wait_for("the instance", PATIENCE, async || {
        (desk.double.instance(ZONE, "w").unwrap()["status"] == "RUNNING").then_some(())
    })
    .await;
}
