//! What goes wrong around a seat, and how it shows and ends.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clarateach_ids::{Generation, InstallationId, SeatKey, SeatNumber, WorkshopId};
use clarateach_runtime::conformance::{Harness, desired, request, until_ready};
use clarateach_runtime::probe::ProbePolicy;
use clarateach_runtime::{EnvironmentState, Reason, Runtime, RuntimeError, SeatPort};
use clarateach_runtime_docker::{DockerConfig, DockerRuntime};
use clarateach_testkit::docker::TinyImage;
use clarateach_testkit::dockerd::PrivateDocker;
use clarateach_testkit::leaks::run;
use clarateach_testkit::{seat_binary, skip, wait_for};
use http::Method;

const PATIENCE: Duration = Duration::from_secs(60);

fn key(workshop: &WorkshopId, seat: u32) -> SeatKey {
    SeatKey { workshop: workshop.clone(), seat: SeatNumber::new(seat).expect("a number") }
}

/// Waits until the seat is in this state, and gives the reason.
async fn until_state(runtime: &dyn Runtime, key: &SeatKey, state: EnvironmentState) -> Option<Reason> {
    wait_for(&format!("{key} {state:?}"), PATIENCE, async || {
        let all = runtime.observe().await.ok()?;
        all.into_iter().find(|e| e.key == *key && e.state == state).map(|e| e.reason)
    })
    .await
}

/// An Engine of the test's own, and a runtime's configuration for it.
async fn private(test: &str, size_mb: u32) -> Option<(support::Docker, PrivateDocker, DockerConfig)> {
    let harness = support::docker(test).await?;
    match PrivateDocker::prepare(size_mb) {
        Ok(engine) => {
            let mut config = harness.config();
            config.socket = engine.socket();
            config.workspace_bin = seat_binary::workspace().expect("a workspace binary");
            Some((harness, engine, config))
        }
        Err(reason) => {
            skip(&format!("docker::{test}"), &reason);
            None
        }
    }
}

fn import(engine: &PrivateDocker) {
    TinyImage::BUSYBOX.import_with(engine.docker(), support::BUSYBOX).expect("a tiny image");
}

fn nothing_is_left(engine: &PrivateDocker, installation: &InstallationId) {
    let filter = format!("label=io.clarateach.installation={installation}");
    for command in [&["ps", "--all"][..], &["volume", "ls"], &["network", "ls"]] {
        let output =
            engine.docker().args(command).args(["--quiet", "--filter", &filter]).output().expect("docker");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_comes_late_goes_and_comes_back() {
    let test = "an_engine_that_comes_late_goes_and_comes_back";
    let Some((harness, mut engine, config)) = private(test, 512).await else { return };
    let installation = config.installation.clone();
    let runtime = DockerRuntime::connect(config).unwrap();
    let seat = desired(&harness, &key(&WorkshopId::random(), 1), 1);
    for outcome in [
        runtime.apply(seat.clone()).await.err(),
        runtime.observe().await.err(),
        runtime.capacity().await.err(),
        runtime.remove(&seat.key, Generation(1)).await.err(),
        runtime.resolve(&seat.image).await.err(),
    ] {
        assert!(matches!(outcome, Some(RuntimeError::Unavailable { .. })), "{outcome:?}");
    }

    engine.start();
    import(&engine);
    wait_for("the runtime to notice", PATIENCE, async || runtime.observe().await.ok()).await;
    runtime.apply(seat.clone()).await.unwrap();
    let before = until_ready(&runtime, &seat.key, 1).await;

    engine.stop();
    wait_for("the runtime to notice", PATIENCE, async || runtime.observe().await.err()).await;
    let (status, _) = request(&runtime, &seat, Method::GET, "/health", String::new()).await;
    assert!(status.is_success(), "the seat runs on without its Engine");
    let refused = runtime.remove(&seat.key, Generation(1)).await;
    assert!(matches!(refused, Err(RuntimeError::Unavailable { .. })), "{refused:?}");

    engine.start();
    wait_for("the runtime to notice", PATIENCE, async || runtime.observe().await.ok()).await;
    let after = until_ready(&runtime, &seat.key, 1).await;
    assert_eq!(before.handle, after.handle, "it was made anew");
    runtime.remove(&seat.key, Generation(1)).await.unwrap();
    nothing_is_left(&engine, &installation);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_while_it_makes_seats() {
    let test = "an_engine_killed_while_it_makes_seats";
    let Some((harness, mut engine, config)) = private(test, 512).await else { return };
    let installation = config.installation.clone();
    engine.start();
    import(&engine);
    let runtime = Arc::new(DockerRuntime::connect(config).unwrap());
    let workshop = WorkshopId::random();
    let seats: Vec<_> = (1..=3).map(|n| desired(&harness, &key(&workshop, n), 1)).collect();
    for seat in &seats {
        runtime.apply(seat.clone()).await.unwrap();
    }
    // In the middle of it: something has been made, not everything runs.
    wait_for("the first container", PATIENCE, async || {
        let output = engine.docker().args(["ps", "--all", "--quiet"]).output().unwrap();
        (!output.stdout.is_empty()).then_some(())
    })
    .await;
    engine.kill();
    engine.start();
    for seat in &seats {
        // What a reconciler does: wish again until it is so.
        wait_for("the seat", PATIENCE, async || {
            let _ = runtime.apply(seat.clone()).await;
            let all = runtime.observe().await.ok()?;
            all.iter().any(|e| e.key == seat.key && e.state == EnvironmentState::Ready).then_some(())
        })
        .await;
    }
    for seat in &seats {
        runtime.remove(&seat.key, Generation(1)).await.unwrap();
    }
    nothing_is_left(&engine, &installation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_called_by_its_name_and_recovered_from() {
    let test = "a_full_disk_is_called_by_its_name_and_recovered_from";
    let Some((harness, mut engine, config)) = private(test, 64).await else { return };
    engine.start();
    import(&engine);
    let filler = engine.data().join("filler");
    let _ = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", &format!("of={}", filler.display())])
        .output();
    let runtime = DockerRuntime::connect(config).unwrap();
    let seat = desired(&harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.unwrap();
    let reason = until_state(&runtime, &seat.key, EnvironmentState::Failed).await.unwrap();
    assert_eq!(reason.code, "NO_SPACE", "{}", reason.message);

    std::fs::remove_file(&filler).unwrap();
    runtime.apply(seat.clone()).await.unwrap();
    until_ready(&runtime, &seat.key, 1).await;
    runtime.remove(&seat.key, Generation(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_seat_is_noticed_and_so_is_its_return() {
    let Some(harness) = support::docker("a_hung_seat_is_noticed_and_so_is_its_return").await else { return };
    let mut config = harness.config();
    config.probe = ProbePolicy {
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(500),
        misses: 3,
        ..ProbePolicy::default()
    };
    let runtime = DockerRuntime::connect(config).unwrap();
    let seat = desired(&harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.unwrap();
    until_ready(&runtime, &seat.key, 1).await;
    let container = harness.container(&seat.key);
    let _ = run("docker", &["pause", &container]);
    let reason = until_state(&runtime, &seat.key, EnvironmentState::Unresponsive).await.unwrap();
    assert_eq!(reason.code, "UNRESPONSIVE");
    let _ = run("docker", &["unpause", &container]);
    until_state(&runtime, &seat.key, EnvironmentState::Ready).await;
    runtime.remove(&seat.key, Generation(1)).await.unwrap();
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_a_seat_s_parts_is_mended() {
    let Some(harness) = support::docker("what_others_do_to_a_seat_s_parts_is_mended").await else { return };
    let runtime = harness.open().await;
    let seat = desired(&harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.unwrap();
    until_ready(&*runtime, &seat.key, 1).await;
    let body = r#"{"content":"kept"}"#.to_owned();
    request(&*runtime, &seat, Method::PUT, "/files/marker", body).await;

    // The container is removed behind our back: the disk is still the learner's.
    let container = harness.container(&seat.key);
    let name = run("docker", &["inspect", "--format", "{{.Name}}", &container]);
    let name = name.trim().trim_start_matches('/').to_owned();
    let _ = run("docker", &["rm", "--force", &container]);
    let reason = until_state(&*runtime, &seat.key, EnvironmentState::Stopped).await.unwrap();
    assert_eq!(reason.code, "CONTAINER_GONE");
    runtime.apply(seat.clone()).await.unwrap();
    until_ready(&*runtime, &seat.key, 1).await;
    let (status, _) = request(&*runtime, &seat, Method::GET, "/files/marker", String::new()).await;
    assert!(status.is_success(), "the disk was lost: {status}");

    // It dies and its network is pruned: the container can't be started as it is.
    let container = harness.container(&seat.key);
    let network = run("docker", &["inspect", "--format", "{{.HostConfig.NetworkMode}}", &container]);
    let _ = run("docker", &["kill", &container]);
    until_state(&*runtime, &seat.key, EnvironmentState::Stopped).await;
    let _ = run("docker", &["network", "rm", network.trim()]);
    runtime.apply(seat.clone()).await.unwrap();
    until_ready(&*runtime, &seat.key, 1).await;
    let (status, _) = request(&*runtime, &seat, Method::GET, "/files/marker", String::new()).await;
    assert!(status.is_success(), "the disk was lost: {status}");

    // Somebody else has the name of the next make.
    let next = format!("{}g2", name.strip_suffix("g1").unwrap());
    let _ = run("docker", &["create", "--name", &next, support::BUSYBOX, "sleep", "1"]);
    let seat = desired(&harness, &seat.key, 2);
    runtime.apply(seat.clone()).await.unwrap();
    until_ready(&*runtime, &seat.key, 2).await;
    runtime.remove(&seat.key, Generation(2)).await.unwrap();
    let _ = run("docker", &["rm", &next]);
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
    assert!(matches!(
        runtime.dial(&seat.key, SeatPort::Workspace).await.err(),
        Some(RuntimeError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_removes_what_nobody_wants_any_more() {
    let Some(harness) = support::docker("a_restart_removes_what_nobody_wants_any_more").await else { return };
    let runtime = harness.open().await;
    let seat = desired(&harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.unwrap();
    until_ready(&*runtime, &seat.key, 1).await;
    let record = harness.state.path().join("generations");
    drop(runtime);
    // As after a crash between the decision to remove the seat and its removal.
    let decided = std::fs::read_to_string(&record).unwrap().replace("\"removed\":false", "\"removed\":true");
    std::fs::write(&record, decided).unwrap();
    let runtime = harness.open().await;
    wait_for("the seat to go", PATIENCE, async || runtime.observe().await.unwrap().is_empty().then_some(()))
        .await;
    wait_for("all of it to go", PATIENCE, async || harness.leftovers().await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_workshops_than_docker_has_networks_for() {
    let Some(mut harness) = support::docker("more_workshops_than_docker_has_networks_for").await else {
        return;
    };
    harness.capacity = 40;
    let runtime = harness.open().await;
    let began = Instant::now();
    let seats: Vec<_> = (0..36).map(|_| desired(&harness, &key(&WorkshopId::random(), 1), 1)).collect();
    for seat in &seats {
        runtime.apply(seat.clone()).await.unwrap();
    }
    for seat in &seats {
        until_ready(&*runtime, &seat.key, 1).await;
    }
    println!("36 workshops of one seat ready after {:?}", began.elapsed());
    let removals = seats.iter().map(|seat| {
        let (runtime, key) = (runtime.clone(), seat.key.clone());
        tokio::spawn(async move { runtime.remove(&key, Generation(1)).await })
    });
    for removal in removals.collect::<Vec<_>>() {
        removal.await.unwrap().unwrap();
    }
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
}
