//! What every runtime must do, as tests: a runtime provides a [`Harness`] and passes [`crate::conformance_tests`].
//!
//! Each test works in an installation of its own and ends by counting what is left behind, which must be nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::tunnel::SECRET_HEADER;
use crate::{
    DesiredSeat, Egress, Environment, EnvironmentState, ImageRef, Runtime, RuntimeError, RuntimeKind,
    SeatPort,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a death must show, see docs/runtimes.md; doubled for machines that run other tests at the same time.
const NOTICE: Duration = Duration::from_secs(2);

/// A runtime under test, with hands that reach around it.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Opens the runtime; again on what the one before has left, as after a restart of its process. The one before
    /// has been dropped.
    async fn open(&self) -> Arc<dyn Runtime>;

    /// An image that is there.
    fn image(&self) -> ImageRef;

    /// How many seats [`Harness::open`]'s runtime takes; 2 to 10.
    fn capacity(&self) -> u32;

    /// Kills the seat's workspace from outside.
    async fn kill(&self, key: &SeatKey);

    /// Starts something in the seat that echoes TCP on its loopback, and says on which port. None where that takes
    /// more than this harness has.
    async fn echo(&self, key: &SeatKey) -> Option<u16>;

    /// Makes something that looks like ours and belongs to another installation.
    async fn plant_foreign(&self);

    /// Whether what was planted is as it was; removes it.
    async fn foreign_is_untouched(&self) -> bool;

    /// Everything of this installation that is there: containers, volumes, networks, processes, directories.
    async fn leftovers(&self) -> Vec<String>;
}

/// Generates one named test per rule. The expression makes a harness, or gives none where the test can't be run (and
/// has said so); it is given the test's name.
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr) => {
        $crate::conformance_tests! { $make =>
            an_apply_can_be_repeated
            removing_what_is_not_there_is_fine
            stale_generations_are_refused_also_after_a_restart
            a_restart_of_the_process_takes_nothing_away
            equal_seat_numbers_of_two_workshops_are_two_seats
            a_seat_can_be_removed_while_it_is_made
            hostile_environments_are_passed_on_or_refused
            no_more_than_capacity
            what_others_made_is_untouched
            a_death_is_noticed_and_a_restart_keeps_the_disk
            a_new_generation_has_a_new_disk
            dialling_reaches_the_workspace_and_the_learner_s_listeners
            time_is_up_without_anybody_saying_so
        }
    };
    ($make:expr => $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(harness) = $make(stringify!($name)).await {
                    $crate::conformance::$name(&harness).await;
                }
            }
        )*
    };
}

fn key(workshop: &WorkshopId, seat: u32) -> SeatKey {
    SeatKey { workshop: workshop.clone(), seat: SeatNumber::new(seat).expect("a small number") }
}

/// A modest seat.
#[must_use]
pub fn desired(harness: &dyn Harness, key: &SeatKey, generation: u64) -> DesiredSeat {
    DesiredSeat {
        key: key.clone(),
        generation: Generation(generation),
        image: harness.image(),
        vcpus: 1,
        memory_mb: 256,
        disk_mb: 1024,
        env: BTreeMap::from([("COURSE".to_owned(), "conformance".to_owned())]),
        secret: format!("secret of {key} {generation}").into(),
        egress: Egress::Internet,
        not_after: None,
    }
}

async fn find(runtime: &dyn Runtime, key: &SeatKey) -> Option<Environment> {
    let all = runtime.observe().await.expect("observe");
    let mut own = all.into_iter().filter(|environment| environment.key == *key);
    let found = own.next();
    assert!(own.next().is_none(), "{key} is listed twice");
    found
}

/// Waits until `right` holds of the seat; woken by the runtime's own watch, so a missed wake-up fails the test.
async fn until(
    runtime: &dyn Runtime,
    key: &SeatKey,
    patience: Duration,
    right: impl Fn(Option<&Environment>) -> bool,
) -> Option<Environment> {
    let deadline = Instant::now() + patience;
    let mut revision = crate::Revision::default();
    loop {
        revision = tokio::time::timeout(patience, runtime.watch(revision)).await.unwrap_or(revision);
        let found = find(runtime, key).await;
        if right(found.as_ref()) {
            return found;
        }
        assert!(Instant::now() < deadline, "{key} is still {found:?}");
    }
}

/// Waits until the seat is ready in this generation.
pub async fn until_ready(runtime: &dyn Runtime, key: &SeatKey, generation: u64) -> Environment {
    let ready = |found: Option<&Environment>| {
        let state = found.map(|e| e.state);
        let hopeless = matches!(state, Some(EnvironmentState::Failed | EnvironmentState::Stopped));
        assert!(!hopeless, "{found:?}");
        state == Some(EnvironmentState::Ready)
            && found.is_some_and(|e| e.generation == Generation(generation))
    };
    until(runtime, key, PATIENCE, ready).await.expect("it is ready")
}

/// One request to a seat's workspace.
pub async fn request(
    runtime: &dyn Runtime,
    seat: &DesiredSeat,
    method: Method,
    path: &str,
    body: String,
) -> (StatusCode, Bytes) {
    let stream = runtime.dial(&seat.key, SeatPort::Workspace).await.expect("dial");
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(driver);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "seat")
        .header(header::CONTENT_TYPE, "application/json")
        .header(SECRET_HEADER, seat.secret.expose_secret())
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status();
    (status, response.into_body().collect().await.expect("a body").to_bytes())
}

async fn write_marker(runtime: &dyn Runtime, seat: &DesiredSeat) {
    let body = r#"{"content":"kept"}"#.to_owned();
    let (status, answer) = request(runtime, seat, Method::PUT, "/files/marker.txt", body).await;
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&answer));
}

async fn marker_is_there(runtime: &dyn Runtime, seat: &DesiredSeat) -> bool {
    let (status, body) = request(runtime, seat, Method::GET, "/files/marker.txt", String::new()).await;
    assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{status}");
    status.is_success() && String::from_utf8_lossy(&body).contains("kept")
}

async fn nothing_is_left(harness: &dyn Harness, runtime: &dyn Runtime) {
    assert_eq!(runtime.observe().await.expect("observe"), [], "environments are left");
    assert_eq!(runtime.capacity().await.expect("capacity").used, 0);
    assert_eq!(harness.leftovers().await, Vec::<String>::new(), "left behind");
}

fn assert_stale<T: std::fmt::Debug>(outcome: Result<T, RuntimeError>) {
    assert!(matches!(outcome, Err(RuntimeError::StaleGeneration { .. })), "{outcome:?}");
}

/// The same wish, once, many times at once and again later, is one environment that is never disturbed.
pub async fn an_apply_can_be_repeated(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let seat = desired(harness, &key(&WorkshopId::random(), 1), 1);
    let (a, b, c) =
        tokio::join!(runtime.apply(seat.clone()), runtime.apply(seat.clone()), runtime.apply(seat.clone()));
    a.and(b).and(c).expect("apply");
    let first = until_ready(&*runtime, &seat.key, 1).await;
    assert_eq!(runtime.capacity().await.expect("capacity").used, 1);
    runtime.apply(seat.clone()).await.expect("apply again");
    let second = until_ready(&*runtime, &seat.key, 1).await;
    assert_eq!(first.handle, second.handle, "it was made anew");
    runtime.remove(&seat.key, Generation(1)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// Removing nothing is done at once, and counts as a decision.
pub async fn removing_what_is_not_there_is_fine(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let key = key(&WorkshopId::random(), 3);
    runtime.remove(&key, Generation(5)).await.expect("remove");
    runtime.remove(&key, Generation(5)).await.expect("remove again");
    assert_stale(runtime.apply(desired(harness, &key, 5)).await);
    let Err(unknown) = runtime.dial(&key, SeatPort::Workspace).await.map(|_| ()) else {
        panic!("it answers")
    };
    assert!(matches!(unknown, RuntimeError::NotFound { .. }), "{unknown:?}");
    let unknown = runtime.logs(&key).await;
    assert!(matches!(unknown, Err(RuntimeError::NotFound { .. })), "{unknown:?}");
    nothing_is_left(harness, &*runtime).await;
}

/// A caller with an old decision changes nothing, before and after a restart.
pub async fn stale_generations_are_refused_also_after_a_restart(harness: &dyn Harness) {
    let mut runtime = harness.open().await;
    let key = key(&WorkshopId::random(), 1);
    runtime.apply(desired(harness, &key, 4)).await.expect("apply");
    until_ready(&*runtime, &key, 4).await;
    for restarted in [false, true] {
        if restarted {
            drop(runtime);
            runtime = harness.open().await;
        }
        assert_stale(runtime.apply(desired(harness, &key, 3)).await);
        assert_stale(runtime.remove(&key, Generation(3)).await);
        until_ready(&*runtime, &key, 4).await;
    }
    runtime.remove(&key, Generation(4)).await.expect("remove");
    for restarted in [false, true] {
        if restarted {
            drop(runtime);
            runtime = harness.open().await;
        }
        assert_stale(runtime.apply(desired(harness, &key, 4)).await);
        runtime.remove(&key, Generation(4)).await.expect("remove again");
    }
    runtime.apply(desired(harness, &key, 5)).await.expect("a later generation is welcome");
    runtime.remove(&key, Generation(5)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// A new process finds what the old one made, as it is, and can do all with it.
pub async fn a_restart_of_the_process_takes_nothing_away(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let seat = desired(harness, &key(&WorkshopId::random(), 2), 1);
    runtime.apply(seat.clone()).await.expect("apply");
    let before = until_ready(&*runtime, &seat.key, 1).await;
    write_marker(&*runtime, &seat).await;
    drop(runtime);

    let runtime = harness.open().await;
    let after = until_ready(&*runtime, &seat.key, 1).await;
    assert_eq!(before.handle, after.handle, "it was made anew");
    assert!(marker_is_there(&*runtime, &seat).await);
    runtime.apply(seat.clone()).await.expect("apply");
    let applied = until_ready(&*runtime, &seat.key, 1).await;
    assert_eq!(before.handle, applied.handle, "an apply disturbed it");
    drop(runtime);

    let runtime = harness.open().await;
    runtime.remove(&seat.key, Generation(1)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// Seat 1 of one workshop has nothing to do with seat 1 of another.
pub async fn equal_seat_numbers_of_two_workshops_are_two_seats(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let one = desired(harness, &key(&WorkshopId::random(), 1), 1);
    let other = desired(harness, &key(&WorkshopId::random(), 1), 1);
    let (a, b) = tokio::join!(runtime.apply(one.clone()), runtime.apply(other.clone()));
    a.and(b).expect("apply");
    until_ready(&*runtime, &one.key, 1).await;
    until_ready(&*runtime, &other.key, 1).await;
    write_marker(&*runtime, &one).await;
    assert!(!marker_is_there(&*runtime, &other).await, "two seats share a disk");
    runtime.remove(&one.key, Generation(1)).await.expect("remove");
    assert!(find(&*runtime, &one.key).await.is_none());
    until_ready(&*runtime, &other.key, 1).await;
    assert!(!marker_is_there(&*runtime, &other).await);
    runtime.remove(&other.key, Generation(1)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// Whenever a removal comes, it wins; and nothing comes back afterwards.
pub async fn a_seat_can_be_removed_while_it_is_made(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let workshop = WorkshopId::random();
    let seat = key(&workshop, 1);
    for (generation, pause) in [0u64, 5, 20, 60, 150, 400].into_iter().enumerate() {
        let generation = generation as u64 + 1;
        runtime.apply(desired(harness, &seat, generation)).await.expect("apply");
        // Not a wait for anything: the removal shall come at different moments.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        runtime.remove(&seat, Generation(generation)).await.expect("remove");
        assert!(find(&*runtime, &seat).await.is_none(), "removed {pause} ms into its making, it is back");
        assert_eq!(harness.leftovers().await, Vec::<String>::new(), "left behind {pause} ms into its making");
    }
    nothing_is_left(harness, &*runtime).await;
}

/// Values arrive whatever they hold; what can't be a variable is refused in words.
pub async fn hostile_environments_are_passed_on_or_refused(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let workshop = WorkshopId::random();
    let hostile = [("", "x"), ("A=B", "x"), ("A\0B", "x"), ("A", "x\0y"), ("CLARATEACH_SECRET", "x")];
    for (name, value) in hostile {
        let mut seat = desired(harness, &key(&workshop, 1), 1);
        seat.env.insert(name.to_owned(), value.to_owned());
        let outcome = runtime.apply(seat).await;
        assert!(matches!(outcome, Err(RuntimeError::InvalidSpec { .. })), "{name:?}={value:?}: {outcome:?}");
    }
    let mut seat = desired(harness, &key(&workshop, 1), 1);
    let long = "x".repeat(100_000);
    for (name, value) in [
        ("QUOTES", "\"'`$(touch /tmp/owned);\n\t\\"),
        ("UNICODE", "żółć 🦀"),
        ("EMPTY", ""),
        ("LONG", &long),
        ("LD_PRELOAD", "/nowhere/libnothing.so"),
        ("odd.name-with/dashes", "1"),
    ] {
        seat.env.insert(name.to_owned(), value.to_owned());
    }
    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 1).await;
    runtime.remove(&seat.key, Generation(1)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// The seat after the last is refused with the figures, and its place is free again after a removal.
pub async fn no_more_than_capacity(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let workshop = WorkshopId::random();
    let total = harness.capacity();
    for n in 1..=total {
        runtime.apply(desired(harness, &key(&workshop, n), 1)).await.expect("apply");
    }
    let surplus = desired(harness, &key(&workshop, total + 1), 1);
    match runtime.apply(surplus.clone()).await {
        Err(RuntimeError::AtCapacity { used, total: all }) => assert_eq!((used, all), (total, total)),
        other => panic!("one more than capacity: {other:?}"),
    }
    runtime
        .apply(desired(harness, &key(&workshop, 1), 1))
        .await
        .expect("one that is there takes no more room");
    runtime.remove(&key(&workshop, 1), Generation(1)).await.expect("remove");
    runtime.apply(surplus.clone()).await.expect("there is room again");
    let removals = (1..=total + 1).map(|n| {
        let (runtime, key) = (runtime.clone(), key(&workshop, n));
        tokio::spawn(async move { runtime.remove(&key, Generation(1)).await })
    });
    for removal in removals.collect::<Vec<_>>() {
        removal.await.expect("no panic").expect("remove");
    }
    nothing_is_left(harness, &*runtime).await;
}

/// Another installation's environments are neither listed nor removed.
pub async fn what_others_made_is_untouched(harness: &dyn Harness) {
    harness.plant_foreign().await;
    let runtime = harness.open().await;
    assert_eq!(runtime.observe().await.expect("observe"), []);
    let seat = desired(harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 1).await;
    runtime.remove(&seat.key, Generation(1)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
    assert!(harness.foreign_is_untouched().await);
}

/// A dead environment shows at once; the same generation starts again on its own disk.
pub async fn a_death_is_noticed_and_a_restart_keeps_the_disk(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let seat = desired(harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 1).await;
    write_marker(&*runtime, &seat).await;

    harness.kill(&seat.key).await;
    let stopped = |found: Option<&Environment>| found.is_some_and(|e| e.state == EnvironmentState::Stopped);
    let dead = until(&*runtime, &seat.key, NOTICE, stopped).await.expect("it is there");
    assert!(dead.reason.is_some_and(|reason| !reason.message.is_empty()), "nobody says why");
    let Err(unreachable) = runtime.dial(&seat.key, SeatPort::Workspace).await.map(|_| ()) else {
        panic!("it answers")
    };
    assert!(matches!(unreachable, RuntimeError::Unreachable { .. }), "{unreachable:?}");
    runtime.logs(&seat.key).await.expect("the log of the dead");

    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 1).await;
    assert!(marker_is_there(&*runtime, &seat).await, "the restart lost the disk");
    runtime.remove(&seat.key, Generation(1)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// A higher generation replaces environment and disk.
pub async fn a_new_generation_has_a_new_disk(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let seat = desired(harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 1).await;
    write_marker(&*runtime, &seat).await;
    let seat = desired(harness, &seat.key, 2);
    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 2).await;
    assert!(!marker_is_there(&*runtime, &seat).await, "the old disk came along");
    assert_stale(runtime.remove(&seat.key, Generation(1)).await);
    runtime.remove(&seat.key, Generation(2)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// A stream to the workspace needs its secret; a stream to an application is its bytes.
pub async fn dialling_reaches_the_workspace_and_the_learner_s_listeners(harness: &dyn Harness) {
    let runtime = harness.open().await;
    let seat = desired(harness, &key(&WorkshopId::random(), 1), 1);
    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 1).await;
    let (status, body) = request(&*runtime, &seat, Method::GET, "/health", String::new()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(String::from_utf8_lossy(&body).contains("ok"));
    let mut stranger = seat.clone();
    stranger.secret = "wrong".to_owned().into();
    let (status, _) = request(&*runtime, &stranger, Method::GET, "/files?path=", String::new()).await;
    assert!(status.is_client_error(), "without the secret: {status}");

    let Err(unreachable) = runtime.dial(&seat.key, SeatPort::App(1)).await.map(|_| ()) else {
        panic!("nobody listens there")
    };
    assert!(matches!(unreachable, RuntimeError::Unreachable { .. }), "{unreachable:?}");
    if let Some(port) = harness.echo(&seat.key).await {
        let deadline = Instant::now() + PATIENCE;
        let mut stream = loop {
            match runtime.dial(&seat.key, SeatPort::App(port)).await {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let sent: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
        let (mut from, mut to) = tokio::io::split(&mut stream);
        let mut heard = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut heard));
        wrote.expect("write");
        read.expect("read");
        assert!(sent == heard, "the bytes changed on the way");
    }
    runtime.remove(&seat.key, Generation(1)).await.expect("remove");
    nothing_is_left(harness, &*runtime).await;
}

/// Whoever serves for a control plane that may be cut off shows when it will end an environment; others need not.
fn assert_ends(runtime: &dyn Runtime, shown: &Environment, told: Option<Timestamp>) {
    let must_show =
        matches!(runtime.kind(), RuntimeKind::Firecracker | RuntimeKind::Qemu | RuntimeKind::Simulated);
    if must_show || shown.not_after.is_some() {
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        assert_eq!(second(shown.not_after), second(told), "{shown:?}");
    }
}

/// The runtime ends an environment at its time by itself; a later apply moves the time; a restart doesn't.
pub async fn time_is_up_without_anybody_saying_so(harness: &dyn Harness) {
    let mut runtime = harness.open().await;
    let past = Timestamp::now() - Duration::from_secs(1);
    let mut seat = desired(harness, &key(&WorkshopId::random(), 1), 1);
    seat.not_after = Some(past);
    let outcome = runtime.apply(seat.clone()).await;
    assert!(matches!(outcome, Err(RuntimeError::InvalidSpec { .. })), "{outcome:?}");

    seat.not_after = Some(Timestamp::now() + Duration::from_secs(3600));
    runtime.apply(seat.clone()).await.expect("apply");
    let shown = until_ready(&*runtime, &seat.key, 1).await;
    assert_ends(&*runtime, &shown, seat.not_after);
    let end = Timestamp::now() + Duration::from_secs(2);
    seat.not_after = Some(end);
    runtime.apply(seat.clone()).await.expect("apply");
    if let Some(shown) = find(&*runtime, &seat.key).await {
        assert_ends(&*runtime, &shown, seat.not_after);
    }
    drop(runtime);
    runtime = harness.open().await;
    if let Some(shown) = find(&*runtime, &seat.key).await {
        assert_ends(&*runtime, &shown, seat.not_after);
    }
    until(&*runtime, &seat.key, PATIENCE, |found| found.is_none()).await;
    assert!(Timestamp::now() >= end, "it was ended too early");
    // Nobody waits for this removal, so what the seat was the last to share may go a moment after it.
    let deadline = Instant::now() + PATIENCE;
    while !harness.leftovers().await.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nothing_is_left(harness, &*runtime).await;
}
