//! What a client makes of a worker that is not as it should be.
//!
//! Time is tokio's own and stands still where a test says `start_paused`: a timeout comes as soon as nothing else can.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

mod support;

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clarateach_api::agent::{Revocations, SeatKeys};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::conformance::until_ready;
use clarateach_runtime::{
    DesiredSeat, Egress, ImageRef, PrepareProgress, Revision, Runtime, RuntimeError, RuntimeKind, SeatPort,
    SharedRuntime,
};
use clarateach_runtime_simulated::SimulatedConfig;
use clarateach_runtime_worker::{
    ClientError, Tls, Worker, WorkerAddress, WorkerClient, is_incompatible, is_token_refused,
};
use support::raw::{Raw, Wire};
use support::{Agent, client, client_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

fn key() -> SeatKey {
    SeatKey { workshop: "w".parse().unwrap(), seat: "1".parse().unwrap() }
}

fn seat() -> DesiredSeat {
    DesiredSeat {
        key: key(),
        generation: Generation(1),
        image: ImageRef("anything".to_owned()),
        vcpus: 1,
        memory_mb: 256,
        disk_mb: 1024,
        env: std::collections::BTreeMap::new(),
        secret: "0123456789abcdef".to_owned().into(),
        egress: Egress::Internet,
        not_after: None,
    }
}

/// Every call there is but watch, with its name.
async fn every_call(client: &WorkerClient) -> Vec<(&'static str, RuntimeError)> {
    let image = ImageRef("anything".to_owned());
    let keys = SeatKeys { installation_id: "i1".parse().unwrap(), keys: Vec::new() };
    let (gone, seat_key) = (Revocations { sessions: Vec::new() }, key());
    let (info, keys, revoke, drain, observe, capacity, apply, remove, back, dial, logs, resolve, prepare) = tokio::join!(
        client.info(),
        client.set_keys(&keys),
        client.revoke(&gone),
        client.drain(true),
        client.observe(),
        client.capacity(),
        client.apply(seat()),
        client.remove(&seat_key, Generation(1)),
        client.take_back(&seat_key, Generation(1)),
        client.dial(&seat_key, SeatPort::Workspace),
        client.logs(&seat_key),
        client.resolve(&image),
        client.prepare(&image, Arc::new(|_| {})),
    );
    vec![
        ("info", info.map(drop).unwrap_err()),
        ("set_keys", keys.unwrap_err()),
        ("revoke", revoke.unwrap_err()),
        ("drain", drain.map(drop).unwrap_err()),
        ("observe", observe.map(drop).unwrap_err()),
        ("capacity", capacity.map(drop).unwrap_err()),
        ("apply", apply.unwrap_err()),
        ("remove", remove.unwrap_err()),
        ("take_back", back.map(drop).unwrap_err()),
        ("dial", dial.map(drop).unwrap_err()),
        ("logs", logs.map(drop).unwrap_err()),
        ("resolve", resolve.map(drop).unwrap_err()),
        ("prepare", prepare.unwrap_err()),
    ]
}

#[track_caller]
fn all_unavailable(errors: &[(&str, RuntimeError)]) {
    for (call, error) in errors {
        assert!(matches!(error, RuntimeError::Unavailable { .. }), "{call}: {error:?}");
        assert!(error.to_string().starts_with("worker 127.0.0.1:"), "{call}: {error}");
        assert!(!is_token_refused(error) && !is_incompatible(error), "{call}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_named_however_often_it_is_shown() {
    let agent = Agent::new(SimulatedConfig::default()).await;
    let client = client_with(&agent.address(), "not-the-agent-s-token");
    for _ in 0..4 {
        for (call, error) in every_call(&client).await {
            assert!(is_token_refused(&error), "{call}: {error:?}");
            assert!(error.to_string().contains("token"), "{call}: {error}");
            assert!(!error.to_string().contains("not-the-agent-s-token"), "{call}: {error}");
        }
    }
    assert_eq!(agent.world.count(), 0);
    agent.client().info().await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    all_unavailable(&every_call(&client(&address)).await);
}

#[tokio::test(start_paused = true)]
async fn whoever_accepts_and_never_answers_is_given_up_after_ten_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&listener.local_addr().unwrap().to_string());
    let began = Instant::now();
    let observed = client.observe().await.unwrap_err();
    assert!(matches!(observed, RuntimeError::Unavailable { .. }), "{observed}");
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
    all_unavailable(&every_call(&client).await);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_the_silent_returns_and_is_no_hot_loop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = client(&listener.local_addr().unwrap().to_string());
    let began = Instant::now();
    assert_eq!(silent.watch(Revision(7)).await, Revision(7));
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());

    // Refused at once, or answered at once without any news: not asked more than a few times a second, then less.
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let stuck = Raw::json("200 OK", "", r#"{"revision":7}"#).await;
    for address in [closed, stuck.address.clone()] {
        let (client, began) = (client(&address), Instant::now());
        let mut rounds = 0;
        while began.elapsed() < Duration::from_secs(60) {
            assert_eq!(client.watch(Revision(7)).await, Revision(7));
            rounds += 1;
        }
        assert!((2..25).contains(&rounds), "{address}: {rounds} watches a minute");
    }
}

#[tokio::test]
async fn a_half_open_connection_is_given_up_and_a_new_one_serves() {
    let agent = Agent::new(SimulatedConfig::default()).await;
    let wire = Wire::to(agent.address()).await;
    let client = client(&wire.address);
    client.apply(seat()).await.unwrap();
    until_ready(&client, &key(), 1).await;
    wire.cut();
    tokio::time::pause();
    let began = Instant::now();
    let error = client.observe().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error}");
    assert_eq!(client.watch(Revision(1)).await, Revision(1));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    tokio::time::resume();
    wire.mend();
    assert_eq!(client.observe().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_drips_is_given_up_in_time() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec();
    let drops = (0..1000).map(|_| (Duration::from_secs(1), b" ".to_vec()));
    let script: Vec<_> = std::iter::once((Duration::ZERO, head)).chain(drops).collect();
    let raw = Raw::answering(move |_| script.clone()).await;
    let began = Instant::now();
    let error = client(&raw.address).observe().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_error_is_unavailable() {
    let bodies =
        [r#"{"error":{"code":"internal","message":"Something broke in the agent"}}"#, "<html>oops", ""];
    for body in bodies {
        let raw = Raw::json("500 Internal Server Error", "", body).await;
        all_unavailable(&every_call(&client(&raw.address)).await);
    }
}

#[tokio::test]
async fn what_is_not_json_is_another_version() {
    for body in ["", "{", "<html>hello</html>", "[]", "null", r#"{"vms":{}}"#] {
        let raw = Raw::json("200 OK", "", body).await;
        let error = client(&raw.address).observe().await.unwrap_err();
        assert!(is_incompatible(&error), "{body}: {error}");
    }
    // No HTTP at all.
    let raw = Raw::saying("SSH-2.0-OpenSSH_9.2\r\n").await;
    all_unavailable(&every_call(&client(&raw.address)).await);
}

#[tokio::test]
async fn an_answer_cut_in_the_middle_is_no_answer() {
    let raw = Raw::saying("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"vms\":[]}").await;
    let error = client(&raw.address).observe().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }) && !is_incompatible(&error), "{error}");
    // Progress of a prepare that never says that it is done.
    let raw = Raw::saying(
        "HTTP/1.1 200 OK\r\n\r\n{\"step\":\"a\"}\n{\"step\":\"b\",\"done\":1,\"total\":2}\n{\"ima",
    )
    .await;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let progress = Arc::clone(&steps);
    let told = Arc::new(move |progress_: PrepareProgress| progress.lock().unwrap().push(progress_));
    let error = client(&raw.address).prepare(&ImageRef("i".to_owned()), told).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error}");
    let steps = steps.lock().unwrap();
    assert_eq!(steps.len(), 2);
    assert_eq!((steps[1].step.as_str(), steps[1].bytes), ("b", Some((1, 2))));
}

#[tokio::test]
async fn a_prepare_that_fails_late_says_why() {
    let line = r#"{"error":{"code":"image_not_found","message":"image i was not found: it is gone"}}"#;
    let raw = Raw::saying(format!("HTTP/1.1 200 OK\r\n\r\n{{\"step\":\"a\"}}\n{line}\n")).await;
    let error = client(&raw.address).prepare(&ImageRef("i".to_owned()), Arc::new(|_| {})).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageNotFound { .. }), "{error:?}");
    assert_eq!(error.to_string(), "image i was not found: it is gone");
}

#[tokio::test]
async fn progress_arrives_from_a_real_agent() {
    let agent = Agent::new(SimulatedConfig::default()).await;
    let steps = Arc::new(AtomicUsize::new(0));
    let count = steps.clone();
    let told = Arc::new(move |_: PrepareProgress| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    agent.client().prepare(&ImageRef("i".to_owned()), told).await.unwrap();
    assert_eq!(steps.load(Ordering::Relaxed), 1);
    let missing = agent.client().prepare(&ImageRef("missing-x".to_owned()), Arc::new(|_| {})).await;
    assert!(matches!(missing, Err(RuntimeError::ImageNotFound { .. })), "{missing:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Raw::json("200 OK", "", r#"{"vms":[]}"#).await;
    let location = format!("location: http://{}/vms\r\n", elsewhere.address);
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let raw = Raw::json(status, &location, "").await;
        for (call, error) in every_call(&client(&raw.address)).await {
            assert!(matches!(error, RuntimeError::Unavailable { .. }), "{call}: {error:?}");
        }
    }
    assert_eq!(elsewhere.heard(), 0, "the token went elsewhere");
}

const INFO: &str = r#"{"worker_id":"k1","version":"9.9.9","vmm":{"kind":"qemu","version":null,"problem":null,"colour":"red"},
    "bridge":null,"capacity":5,"vm_count":2,"memory":{"total_mb":1,"available_mb":1},"images":[],"kernel_version":null,
    "draining":false,"public_url":null,"uptime_seconds":1,"host":{"hostname":"h","kernel":"6","cpus":1},"warnings":[],
    "moon_phase":{"full":true}}"#;

#[tokio::test]
async fn another_version_may_say_more_but_not_less() {
    let raw = Raw::json("200 OK", "", INFO).await;
    let worker = client(&raw.address);
    assert_eq!(worker.kind(), RuntimeKind::Firecracker);
    let seen = worker.info().await.unwrap();
    assert_eq!((seen.info.capacity, seen.info.preempted, worker.kind()), (5, false, RuntimeKind::Qemu));
    assert_eq!(seen.clock_skew, None);

    let raw = Raw::json("200 OK", "", &INFO.replace(r#""capacity":5,"#, "")).await;
    let error = client(&raw.address).info().await.unwrap_err();
    assert!(is_incompatible(&error) && error.to_string().contains("capacity"), "{error}");

    let vm = |more: &str| {
        format!(
            r#"{{"vms":[{{"workshop_id":"w","seat_id":1,"ip":null,"generation":1,"reason":null,"handle":null{more}}}]}}"#
        )
    };
    let observe = async |more: &str| {
        let raw = Raw::json("200 OK", "", &vm(more)).await;
        client(&raw.address).observe().await
    };
    assert_eq!(observe(r#","status":"ready","mood":"good""#).await.unwrap().len(), 1);
    for (more, named) in [("", "status"), (r#","status":"dreaming""#, "dreaming")] {
        let error = observe(more).await.unwrap_err();
        assert!(is_incompatible(&error) && error.to_string().contains(named), "{error}");
    }
}

#[tokio::test]
async fn the_clock_s_skew_is_seen() {
    let agent = Agent::new(SimulatedConfig::default()).await;
    let seen = agent.client().info().await.unwrap();
    let skew = seen.clock_skew.expect("an agent says what time it is");
    assert!(skew.abs().as_secs() < 2, "{skew}");
    assert!(seen.round_trip > Duration::ZERO);
    let raw = Raw::json("200 OK", "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", INFO).await;
    let skew = client(&raw.address).info().await.unwrap().clock_skew.unwrap();
    assert!(skew.as_hours() < -24 * 365 * 30, "{skew}");
}

#[tokio::test]
async fn an_endless_answer_is_not_taken_in() {
    let endless = |piece: &'static [u8]| {
        Raw::answering(move |_| {
            let head = (Duration::ZERO, b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
            // More than anybody takes; the writer is cut off long before its end.
            std::iter::once(head)
                .chain((0..1000).map(|_| (Duration::ZERO, piece.repeat(64 * 1024))))
                .collect()
        })
    };
    let raw = endless(b" ").await;
    let error = client(&raw.address).observe().await.unwrap_err();
    assert!(is_incompatible(&error), "{error}");
    let error = client(&raw.address).prepare(&ImageRef("i".to_owned()), Arc::new(|_| {})).await.unwrap_err();
    assert!(is_incompatible(&error), "{error}");
}

#[tokio::test]
async fn a_tunnel_ends_when_its_seat_or_its_agent_does() {
    let agent = Agent::new(SimulatedConfig::default()).await;
    let client = agent.client();
    client.apply(seat()).await.unwrap();
    until_ready(&client, &key(), 1).await;
    let mut stream = client.dial(&key(), SeatPort::App(3000)).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert!(agent.world.kill(&key()));
    let rest = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut heard))
        .await
        .expect("it is left hanging");
    assert!(matches!(rest, Ok(0)) || rest.is_err(), "{rest:?}");

    client.apply(seat()).await.unwrap();
    until_ready(&client, &key(), 1).await;
    let mut stream = client.dial(&key(), SeatPort::App(3000)).await.unwrap();
    agent.running.stop().await;
    let rest = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut heard))
        .await
        .expect("it is left hanging");
    assert!(
        rest.as_ref().is_ok_and(|count| *count == 0) || rest.is_err_and(|e| e.kind() != ErrorKind::TimedOut)
    );
}

#[tokio::test]
async fn drain_and_capacity_are_passed_on() {
    let agent = Agent::new(SimulatedConfig { capacity: 3, ..Default::default() }).await;
    let client = agent.client();
    assert_eq!(client.info().await.unwrap().info.capacity, 3);
    assert_eq!(client.kind(), RuntimeKind::Simulated);
    assert!(client.drain(true).await.unwrap().draining);
    let refused = client.apply(seat()).await;
    assert!(matches!(refused, Err(RuntimeError::AtCapacity { used: 0, total: 3 })), "{refused:?}");
    assert!(!client.drain(false).await.unwrap().draining);
    client.apply(seat()).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_before_anything_is_sent() {
    let of = |address: &str, token: &str, tls: Option<Tls>| {
        WorkerClient::new(WorkerAddress { address: address.to_owned(), token: token.into(), tls }).map(drop)
    };
    of("10.0.0.5:9090", "t", None).unwrap();
    of("worker-1.example:9090", "t", Some(Tls::PublicRoots)).unwrap();
    assert!(matches!(of("10.0.0.5", "t", None), Err(ClientError::Address { .. })));
    assert!(matches!(of("10.0.0.5:9090", "two words", None), Err(ClientError::Token { .. })));
    for pem in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let refused = of("10.0.0.5:9090", "t", Some(Tls::Pinned(pem.to_owned())));
        assert!(matches!(refused, Err(ClientError::Certificate { .. })), "{pem}: {refused:?}");
    }
}

#[tokio::test]
async fn when_a_seat_ends_is_seen_through_the_agent() {
    let agent = Agent::new(SimulatedConfig::default()).await;
    let (client, mut seat) = (agent.client(), seat());
    for seconds in [Some(3600), Some(7200), None] {
        seat.not_after = seconds.map(|seconds| jiff::Timestamp::now() + Duration::from_secs(seconds));
        client.apply(seat.clone()).await.unwrap();
        assert_eq!(until_ready(&client, &key(), 1).await.not_after, seat.not_after);
    }
}

#[tokio::test]
async fn a_refused_make_is_taken_back_unless_it_was_asked_for_again() {
    let agent = Agent::new(SimulatedConfig { capacity: 1, ..Default::default() }).await;
    let (client, other) = (agent.client(), agent.client());
    let mut first = seat();
    first.key.seat = "2".parse().unwrap();
    client.apply(first.clone()).await.unwrap();
    assert!(matches!(client.apply(seat()).await, Err(RuntimeError::AtCapacity { .. })));
    // Meanwhile there is room, and another server asks for the same.
    client.remove(&first.key, Generation(1)).await.unwrap();
    other.apply(seat()).await.unwrap();
    assert!(!client.take_back(&key(), Generation(1)).await.unwrap());
    until_ready(&other, &key(), 1).await;
    // Of what was never begun nothing comes any more.
    assert!(client.take_back(&first.key, Generation(2)).await.unwrap());
    first.generation = Generation(2);
    client.remove(&key(), Generation(1)).await.unwrap();
    assert!(matches!(other.apply(first).await, Err(RuntimeError::StaleGeneration { .. })));
    assert!(matches!(
        client.take_back(&key(), Generation(0)).await,
        Err(RuntimeError::StaleGeneration { .. })
    ));
}
