//! Starting from snapshots, over plain processes: which VM is snapshotted, which are restored, and what becomes of
//! snapshots that are of no use any more.

#![allow(clippy::unwrap_used)]

mod support;

use clarateach_ids::{Generation, SeatKey, SeatNumber};
use clarateach_microvm::{CreateRequest, MicroVmRuntime, Until, Vm};
use clarateach_runtime::conformance::{desired, until_ready};
use clarateach_runtime::{EnvironmentState, Runtime};
use support::{Faults, Installation};

fn key(seat: u32) -> SeatKey {
    SeatKey { workshop: "w".parse().unwrap(), seat: SeatNumber::new(seat).unwrap() }
}

fn installation() -> Installation {
    let mut installation = Installation::new();
    installation.config.snapshots = true;
    installation
}

async fn create(runtime: &MicroVmRuntime, installation: &Installation, seat: u32) -> Vm {
    let request = CreateRequest { desired: desired(installation, &key(seat), 1), readiness: None };
    let vm = runtime.create(request, Until::Ready).await.unwrap().vm;
    assert_eq!(vm.state, EnvironmentState::Ready);
    vm
}

/// What happened to VMMs since the last question, without names.
fn history(installation: &Installation) -> Vec<String> {
    let mut history = installation.world.history.lock().unwrap();
    history.drain(..).map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn snapshots(installation: &Installation) -> Vec<String> {
    let entries = std::fs::read_dir(installation.config.state_dir.join("snapshots")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn remove(runtime: &MicroVmRuntime, installation: &Installation, seats: &[u32]) {
    for seat in seats {
        runtime.remove(&key(*seat), Generation(1)).await.unwrap();
    }
    assert_eq!(installation.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_boots_and_the_others_are_restored() {
    let installation = installation();
    let runtime = installation.open().await;
    assert!(create(&runtime, &installation, 1).await.restored);
    assert_eq!(history(&installation), ["boot", "snapshot", "restore"]);
    assert!(create(&runtime, &installation, 2).await.restored);
    assert_eq!(history(&installation), ["restore"]);
    drop(runtime);
    let runtime = installation.open().await;
    assert!(create(&runtime, &installation, 3).await.restored, "a new process knows the snapshot");
    assert_eq!(history(&installation), ["restore"]);
    remove(&runtime, &installation, &[1, 2, 3]).await;
    assert_eq!(snapshots(&installation).len(), 2, "the snapshot and its note");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_agent_ends_while_it_is_paused_boots_on_its_own_disk() {
    let installation = installation();
    installation.world.set(Faults { hang_snapshot: true, ..Faults::default() });
    let runtime = installation.open().await;
    let request = CreateRequest { desired: desired(&installation, &key(1), 1), readiness: None };
    runtime.create(request, Until::Started).await.unwrap();
    let paused = || async {
        let history = installation.world.history.lock().unwrap();
        history.iter().any(|line| line.starts_with("pause")).then_some(())
    };
    clarateach_testkit::wait_for("it to be paused", std::time::Duration::from_secs(10), paused).await;
    drop(runtime);
    installation.world.set(Faults::default());
    let runtime = installation.open().await;
    until_ready(&runtime, &key(1), 1).await;
    assert!(!runtime.vm(&key(1)).unwrap().restored);
    assert_eq!(history(&installation), ["boot", "pause", "boot"]);
    remove(&runtime, &installation, &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_died_boots_on_its_own_disk() {
    let installation = installation();
    let runtime = installation.open().await;
    create(&runtime, &installation, 1).await;
    let instance = support::instance_of(&installation.config.state_dir, &key(1)).unwrap();
    installation.world.kill_from_outside(&instance);
    clarateach_testkit::wait_for("its death to be seen", std::time::Duration::from_secs(10), || async {
        runtime.vm(&key(1)).filter(|vm| vm.state == EnvironmentState::Stopped)
    })
    .await;
    history(&installation);
    assert!(!create(&runtime, &installation, 1).await.restored);
    assert_eq!(history(&installation), ["boot"]);
    remove(&runtime, &installation, &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_makes_a_new_snapshot_and_removes_the_old() {
    let installation = installation();
    let runtime = installation.open().await;
    create(&runtime, &installation, 1).await;
    let old = snapshots(&installation);
    let image = installation.config.images_dir.join("rootfs.ext4");
    std::fs::remove_file(&image).unwrap();
    clarateach_ext4::write_empty(&image, clarateach_ext4::Options::new(65 << 20, b"newer")).unwrap();
    history(&installation);
    create(&runtime, &installation, 2).await;
    assert_eq!(history(&installation), ["boot", "snapshot", "restore"]);
    let new = snapshots(&installation);
    assert!(new.len() == 2 && new.iter().all(|name| !old.contains(name)), "{old:?} {new:?}");
    remove(&runtime, &installation, &[1, 2]).await;
    // While nobody looks it is replaced again: what is there is of no use to the next process.
    drop(runtime);
    std::fs::remove_file(&image).unwrap();
    clarateach_ext4::write_empty(&image, clarateach_ext4::Options::new(66 << 20, b"newest")).unwrap();
    let runtime = installation.open().await;
    let gone = || async { snapshots(&installation).is_empty().then_some(()) };
    clarateach_testkit::wait_for("the old snapshot to be removed", std::time::Duration::from_secs(10), gone)
        .await;
    drop(runtime);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_t_be_restored_boots_with_the_same_result() {
    let installation = installation();
    let runtime = installation.open().await;
    create(&runtime, &installation, 1).await;
    installation.world.set(Faults { refuse_restore: true, ..Faults::default() });
    history(&installation);
    assert!(!create(&runtime, &installation, 2).await.restored);
    assert!(!create(&runtime, &installation, 3).await.restored);
    assert_eq!(history(&installation), ["boot", "boot"], "it is not tried again");
    assert!(snapshots(&installation).is_empty());
    remove(&runtime, &installation, &[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_snapshot_is_no_snapshot() {
    let installation = installation();
    drop(installation.open().await);
    let directory = installation.config.state_dir.join("snapshots");
    std::fs::create_dir(directory.join("0123456789abcdef0123456789abcdef")).unwrap();
    std::fs::write(directory.join("fedcba9876543210fedcba9876543210.json"), b"{").unwrap();
    std::fs::create_dir(directory.join("x.partial-7")).unwrap();
    let runtime = installation.open().await;
    let gone = || async { snapshots(&installation).is_empty().then_some(()) };
    clarateach_testkit::wait_for("the rest to be removed", std::time::Duration::from_secs(10), gone).await;
    drop(runtime);
}
