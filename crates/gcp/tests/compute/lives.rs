//! Instances, disks and snapshots from birth to end.

use std::collections::BTreeMap;
use std::time::Duration;

use clarateach_gcp::double::{ComputeDouble, Options};
use clarateach_gcp::{Boot, GcpError, InstanceStatus, Kind, OperationStatus, SnapshotStatus};
use clarateach_testkit::wait_for;

use crate::{ZONE, client, double, name, place, spec};

#[tokio::test]
async fn an_instance_is_made_stopped_started_and_deleted_with_its_disk() {
    let double = double().await;
    let compute = client(&double);
    let mut seen = Vec::new();
    let call = place().insert_instance(&spec("clara-worker"));
    compute.complete(&call, &mut |operation| seen.push(operation.status.unwrap())).await.unwrap();
    assert!(seen.contains(&OperationStatus::Pending) && seen.contains(&OperationStatus::Done), "{seen:?}");
    let instance = compute.instance(&name("clara-worker")).await.unwrap().unwrap();
    assert_eq!(instance.status(), InstanceStatus::Running);
    assert!(instance.nested_virtualization() && instance.is_spot());
    assert_eq!((instance.zone_name(), instance.machine_type_name()), (ZONE, "n2-standard-8"));
    assert!(instance.internal_ip().is_some() && instance.external_ip().is_some());
    let disk = compute.disk(&name("clara-worker")).await.unwrap().unwrap();
    assert_eq!(disk.size_gb.as_deref(), Some("50"));

    compute.complete(&place().stop_instance(&name("clara-worker")), &mut |_| {}).await.unwrap();
    let status = compute.instance(&name("clara-worker")).await.unwrap().unwrap().status();
    assert!(status.is_stopped(), "{status}");
    compute.complete(&place().start_instance(&name("clara-worker")), &mut |_| {}).await.unwrap();
    assert_eq!(
        compute.instance(&name("clara-worker")).await.unwrap().unwrap().status(),
        InstanceStatus::Running
    );
    compute.complete(&place().delete_instance(&name("clara-worker")), &mut |_| {}).await.unwrap();
    assert!(compute.instance(&name("clara-worker")).await.unwrap().is_none());
    assert!(compute.disk(&name("clara-worker")).await.unwrap().is_none());
}

#[tokio::test]
async fn an_instance_that_is_stopping_can_be_deleted() {
    let double =
        ComputeDouble::start(Options { operation: Duration::from_millis(200), ..Options::default() }).await;
    double.put_instance(ZONE, "clara2", "work");
    let compute = client(&double);
    let stop = compute.change(&place().stop_instance(&name("clara2"))).await.unwrap();
    assert_eq!(compute.instance(&name("clara2")).await.unwrap().unwrap().status(), InstanceStatus::Stopping);
    compute.complete(&place().delete_instance(&name("clara2")), &mut |_| {}).await.unwrap();
    compute.wait(stop, &mut |_| {}).await.unwrap();
    assert!(double.instance_names().is_empty() && double.disk_names().is_empty());
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let double = ComputeDouble::start(Options { page: 3, ..Options::default() }).await;
    let compute = client(&double);
    for number in 0..10 {
        let mut spec = spec(&format!("worker-{number}"));
        spec.labels.insert("parity".to_owned(), if number % 2 == 0 { "even" } else { "odd" }.to_owned());
        compute.complete(&place().insert_instance(&spec), &mut |_| {}).await.unwrap();
    }
    let all = compute.instances(None).await.unwrap();
    let names: Vec<&str> = all.iter().map(|instance| instance.name()).collect();
    assert_eq!(names, (0..10).map(|number| format!("worker-{number}")).collect::<Vec<_>>());
    let odd = compute.instances(Some("labels.parity=odd AND status=RUNNING")).await.unwrap();
    assert_eq!(odd.len(), 5);
    assert!(odd.iter().all(|instance| instance.label("parity") == Some("odd")));
    assert!(compute.instances(Some("labels.parity=none")).await.unwrap().is_empty());
    assert_eq!(compute.disks(Some("labels.parity=even")).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_snapshot_carries_the_disk_over() {
    let double = double().await;
    double.put_instance(ZONE, "clara2", "what the class has built");
    let compute = client(&double);
    let error = compute.change(&place().delete_disk(&name("clara2"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InUse, "{error}");
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let call = place().create_snapshot(&name("clara2"), &name("snap"), &labels);
    compute.complete(&call, &mut |_| {}).await.unwrap();
    let snapshot = compute.snapshot(&name("snap")).await.unwrap().unwrap();
    assert_eq!(snapshot.status(), SnapshotStatus::Ready);
    let disk = compute.disk(&name("clara2")).await.unwrap().unwrap();
    assert_eq!(snapshot.source_disk_id, disk.id);
    assert_eq!(compute.snapshots(Some("labels.a=b")).await.unwrap().len(), 1);
    compute.complete(&place().delete_instance(&name("clara2")), &mut |_| {}).await.unwrap();
    let mut again = spec("clara2");
    again.boot = Boot::Snapshot(name("snap"));
    compute.complete(&place().insert_instance(&again), &mut |_| {}).await.unwrap();
    assert_eq!(double.disk_content(ZONE, "clara2").unwrap(), "what the class has built");
    let call = place().insert_disk_from_snapshot(&name("copy"), &name("snap"), None);
    compute.complete(&call, &mut |_| {}).await.unwrap();
    assert_eq!(double.disk_content(ZONE, "copy").unwrap(), "what the class has built");
    compute.complete(&place().delete_disk(&name("copy")), &mut |_| {}).await.unwrap();
    compute.complete(&place().delete_snapshot(&name("snap")), &mut |_| {}).await.unwrap();
    assert!(compute.snapshot(&name("snap")).await.unwrap().is_none());
}

#[tokio::test]
async fn labels_are_set_against_the_version_that_was_read() {
    let double = double().await;
    double.put_instance(ZONE, "clara2", "work");
    let compute = client(&double);
    let before = compute.instance(&name("clara2")).await.unwrap().unwrap();
    let labels = BTreeMap::from([("installation".to_owned(), "abc".to_owned())]);
    let call = place().set_labels(&name("clara2"), &labels, before.label_fingerprint.as_deref().unwrap());
    compute.complete(&call, &mut |_| {}).await.unwrap();
    let after = compute.instance(&name("clara2")).await.unwrap().unwrap();
    assert_eq!(after.label("installation"), Some("abc"));
    let stale = place().set_labels(&name("clara2"), &labels, before.label_fingerprint.as_deref().unwrap());
    let error = compute.change(&stale).await.unwrap_err();
    assert!(error.to_string().contains("conditionNotMet"), "{error}");
}

#[tokio::test]
async fn a_preempted_instance_is_stopped_and_its_disk_stays() {
    let double = double().await;
    let compute = client(&double);
    compute.complete(&place().insert_instance(&spec("w")), &mut |_| {}).await.unwrap();
    double.write_disk(ZONE, "w", "work");
    double.preempt(ZONE, "w");
    assert_eq!(compute.instance(&name("w")).await.unwrap().unwrap().status(), InstanceStatus::Stopping);
    wait_for("the end of the machine", Duration::from_secs(5), async || {
        compute.instance(&name("w")).await.unwrap().filter(|instance| instance.status().is_stopped())
    })
    .await;
    let filter = "operationType=\"compute.instances.preempted\"";
    let preemptions = compute.operations(Some(filter)).await.unwrap();
    assert_eq!(preemptions.len(), 1);
    assert_eq!(preemptions[0].target(), "w");
    compute.complete(&place().start_instance(&name("w")), &mut |_| {}).await.unwrap();
    assert_eq!(double.disk_content(ZONE, "w").unwrap(), "work");
}

#[tokio::test]
async fn the_serial_console_is_read_on() {
    let double = double().await;
    double.put_instance(ZONE, "clara2", "work");
    double.print(ZONE, "clara2", "one\ntwo\n");
    let compute = client(&double);
    let first = compute.serial_port_output(&name("clara2"), 0).await.unwrap();
    assert_eq!(first.contents.as_deref(), Some("one\ntwo\n"));
    double.print(ZONE, "clara2", "three\n");
    let next = first.next.unwrap().parse().unwrap();
    let second = compute.serial_port_output(&name("clara2"), next).await.unwrap();
    assert_eq!(second.contents.as_deref(), Some("three\n"));
}

#[tokio::test]
async fn the_double_knows_the_rules() {
    let double = double().await;
    let compute = client(&double);
    let mut body = spec("w").to_instance("clarateach", &name(ZONE));
    body.machine_type = Some(format!("zones/{ZONE}/machineTypes/e2-standard-8"));
    let error = compute.change(&place().insert_raw_instance(&body)).await.unwrap_err();
    assert!(error.to_string().contains("nested virtualization"), "{error}");
    let mut body = spec("w").to_instance("clarateach", &name(ZONE));
    body.scheduling.as_mut().unwrap().automatic_restart = Some(true);
    assert_eq!(compute.change(&place().insert_raw_instance(&body)).await.unwrap_err().kind(), Kind::Invalid);
    compute.complete(&place().insert_instance(&spec("w")), &mut |_| {}).await.unwrap();
    let error = compute.change(&place().insert_instance(&spec("w"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
    assert!(error.to_string().contains("already exists"), "{error}");
    let error = compute.change(&place().start_instance(&name("nobody"))).await.unwrap_err();
    assert!(matches!(error, GcpError::Refused { .. }) && error.kind() == Kind::NotFound, "{error}");
    // A field that the real API does not know.
    let mut call = place().insert_instance(&spec("v"));
    call.body.as_mut().unwrap()["nested"] = true.into();
    let error = compute.change(&call).await.unwrap_err();
    assert!(error.to_string().contains("Unknown name \"nested\""), "{error}");
}
