//! No process of a seat outlives it, however it tries.

mod support;

use std::time::Duration;

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_runtime::conformance::{Harness, desired, until_ready};
use clarateach_testkit::{leaks, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

fn seat() -> SeatKey {
    SeatKey { workshop: WorkshopId::random(), seat: SeatNumber::new(1).expect("a number") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_hides_ends_with_its_seat() {
    let harness = support::process("").await.unwrap();
    let runtime = harness.open().await;
    let key = seat();
    runtime.apply(desired(&harness, &key, 1)).await.unwrap();
    until_ready(&*runtime, &key, 1).await;
    // Without environment, session, directory or parent of the seat's, deaf to what can be ignored.
    let mark = format!("3{}", std::process::id());
    let daemon =
        format!("cd / && (trap '' HUP TERM INT; env -i setsid nohup sleep {mark} >/dev/null 2>&1 &)");
    harness.type_line(&*runtime, &key, &format!("secret of {key} 1"), &daemon).await;
    let sleeping = || leaks::processes(&format!("sleep {mark}"));
    wait_for("the daemon", PATIENCE, || async { (!sleeping().is_empty()).then_some(()) }).await;

    runtime.remove(&key, Generation(1)).await.unwrap();
    assert_eq!(sleeping(), Vec::<String>::new());
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_workspace_left_running_ends_with_its_seat() {
    let harness = support::process("").await.unwrap();
    let runtime = harness.open().await;
    let key = seat();
    runtime.apply(desired(&harness, &key, 1)).await.unwrap();
    until_ready(&*runtime, &key, 1).await;
    let mark = format!("4{}", std::process::id());
    let daemon = format!("setsid nohup sleep {mark} >/dev/null 2>&1 &");
    harness.type_line(&*runtime, &key, &format!("secret of {key} 1"), &daemon).await;
    let sleeping = || leaks::processes(&format!("sleep {mark}"));
    wait_for("the daemon", PATIENCE, || async { (!sleeping().is_empty()).then_some(()) }).await;

    harness.kill(&key).await;
    runtime.remove(&key, Generation(1)).await.unwrap();
    assert_eq!(sleeping(), Vec::<String>::new());
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_learner_has_closed_is_removed() {
    use std::os::unix::fs::PermissionsExt;
    let harness = support::process("").await.unwrap();
    let runtime = harness.open().await;
    let key = seat();
    runtime.apply(desired(&harness, &key, 1)).await.unwrap();
    until_ready(&*runtime, &key, 1).await;
    let disk = harness.state.path().join(format!("seats/{}.1.g1/disk", key.workshop));
    std::fs::create_dir_all(disk.join("closed/inner")).unwrap();
    std::fs::set_permissions(disk.join("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
    runtime.remove(&key, Generation(1)).await.unwrap();
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_state_directory_of_somebody_else_is_refused() {
    use std::os::unix::fs::chown;
    let state = tempfile::tempdir().unwrap();
    if chown(state.path(), Some(12_345), None).is_err() {
        clarateach_testkit::skip(
            "process::a_state_directory_of_somebody_else_is_refused",
            "only root gives away",
        );
        return;
    }
    let config =
        clarateach_runtime_process::ProcessConfig::new("/bin/true".into(), state.path().to_owned(), 1);
    let refused = clarateach_runtime_process::ProcessRuntime::open(config).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
}
