//! A class arrives.

use std::collections::BTreeSet;

use clarateach_tests::{Server, ServerOptions, all_ready, gone};
use futures_util::future::join_all;
use serde_json::{Value, json};

const SEATS: usize = 50;
const LEARNERS: usize = 200;

async fn arrive(server: &Server, code: &str) -> Vec<clarateach_tests::Answer> {
    join_all((0..LEARNERS).map(|n| {
        server.post("/api/join", json!({"code": code, "client_id": format!("browser-of-learner-{n}")}))
    }))
    .await
}

/// Everyone who was let in, by what they came back to: session code and seat.
async fn seats_of(server: &Server, answers: &[clarateach_tests::Answer]) -> Vec<u64> {
    let mut seats = Vec::new();
    for answer in answers.iter().filter(|answer| answer.status < 300) {
        let code = answer.text("/session_code");
        let seat = clarateach_testkit::wait_for("a seat", std::time::Duration::from_secs(60), || async {
            let view = server.get(&format!("/api/session/{code}")).await;
            assert!(view.status == 200, "{view:?}");
            (view.body["status"] == "ready").then(|| view.body["seat"].as_u64()).flatten()
        })
        .await;
        seats.push(seat);
    }
    seats
}

fn check(answers: &[clarateach_tests::Answer]) {
    let let_in = answers.iter().filter(|answer| matches!(answer.status, 200 | 202)).count();
    let full = answers.iter().filter(|answer| (answer.status, answer.code()) == (409, "NO_SEATS")).count();
    assert_eq!((let_in, full), (SEATS, LEARNERS - SEATS));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_learners_on_fifty_ready_seats() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": SEATS, "runtime": "simulated"})).await;
    all_ready(&server, &workshop).await;
    let answers = arrive(&server, &code).await;
    check(&answers);
    assert!(answers.iter().all(|answer| answer.status != 202), "every seat was ready");
    let seats: BTreeSet<u64> = seats_of(&server, &answers).await.into_iter().collect();
    assert_eq!(seats, (1..=SEATS as u64).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_learners_before_the_seats_are_there() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (_, code) = server.create(json!({"name": "x", "seats": SEATS, "runtime": "simulated"})).await;
    let answers = arrive(&server, &code).await;
    check(&answers);
    let places: Vec<u64> = answers.iter().filter_map(|answer| answer.body["place"].as_u64()).collect();
    assert!(places.iter().all(|place| (1..=SEATS as u64).contains(place)), "{places:?}");
    let seats: BTreeSet<u64> = seats_of(&server, &answers).await.into_iter().collect();
    assert_eq!(seats, (1..=SEATS as u64).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_costs_no_second_seat() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 2, "runtime": "simulated"})).await;
    all_ready(&server, &workshop).await;
    let me = json!({"code": code, "name": "Ada", "client_id": "the-same-browser"});
    let answers = join_all((0..20).map(|_| server.post("/api/join", me.clone()))).await;
    let seats: BTreeSet<u64> = answers.iter().map(|answer| answer.body["seat"].as_u64().unwrap()).collect();
    assert_eq!(seats.len(), 1);
    let codes: BTreeSet<String> = answers.iter().map(|answer| answer.text("/session_code")).collect();
    assert_eq!(codes.len(), 1, "the code that was written down stays good");
    let last = server.post("/api/join", me).await;
    assert_eq!(last.body["returning"], json!(true));
    let other_device = json!({"code": code.to_lowercase().replace('-', ""), "session_code": last.text("/session_code").to_lowercase()});
    let back = server.post("/api/join", other_device).await;
    assert_eq!((back.status, back.body["seat"].as_u64()), (200, seats.first().copied()));
    assert_eq!(back.text("/session_code"), last.text("/session_code"));
    let another = server.post("/api/join", json!({ "code": code })).await;
    assert_eq!(another.status, 200, "the second seat is still free");
    assert_ne!(another.body["seat"].as_u64(), seats.first().copied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_given_after_an_eviction_stays_good_too() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 1, "runtime": "simulated"})).await;
    let me = json!({"code": code, "client_id": "the-same-browser"});
    let mut given = BTreeSet::new();
    for round in 1..=3 {
        all_ready(&server, &workshop).await;
        let first = server.post("/api/join", me.clone()).await;
        assert_eq!(first.status, 200, "{first:?}");
        let again = server.post("/api/join", me.clone()).await;
        assert_eq!(again.text("/session_code"), first.text("/session_code"), "in round {round}");
        let view = server.get(&format!("/api/session/{}", first.text("/session_code"))).await;
        assert_eq!((view.status, view.body["status"].as_str()), (200, Some("ready")));
        given.insert(first.text("/session_code"));
        let evicted = server.post(&format!("/api/workshops/{workshop}/seats/1/evict"), json!({})).await;
        assert_eq!(evicted.status, 202);
    }
    assert_eq!(given.len(), 3, "the code of an ended session is not used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_a_session_is_told_why_and_the_seat_is_made_anew() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 1, "runtime": "simulated"})).await;
    all_ready(&server, &workshop).await;
    let path = format!("/api/workshops/{workshop}");
    let first = server.post("/api/join", json!({"code": code, "name": "Ada"})).await;
    let seat = |body: &Value| body["seats"][0].clone();
    let before = seat(&server.get(&format!("{path}/seats")).await.body);
    assert_eq!((before["status"].as_str(), before["learner"].as_str()), (Some("occupied"), Some("Ada")));
    assert_eq!(server.post(&format!("{path}/seats/1/evict"), json!({})).await.status, 202);
    let view = server.get(&format!("/api/session/{}", first.text("/session_code"))).await;
    assert_eq!((view.status, view.body["status"].as_str()), (200, Some("ended")));
    assert!(view.text("/reason").contains("instructor"), "{view:?}");
    let stale = server
        .send(
            reqwest::Client::new()
                .get(format!("{}/health", first.text("/endpoint")))
                .bearer_auth(first.text("/token")),
        )
        .await;
    assert_eq!(stale.status, 410, "{stale:?}");
    all_ready(&server, &workshop).await;
    let after = seat(&server.get(&format!("{path}/seats")).await.body);
    assert!(after["generation"].as_u64() > before["generation"].as_u64(), "nobody inherits another's work");
    let next = server.post("/api/join", json!({"code": code, "name": "Grace"})).await;
    assert_eq!(next.status, 200);
    assert_eq!(server.delete(&path).await.status, 202);
    assert_eq!(
        server.delete(&path).await.status / 100,
        if server.get(&path).await.status == 404 { 4 } else { 2 }
    );
    gone(&server, &workshop).await;
    assert_eq!(server.get("/api/admin/vms").await.body["vms"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workshop_stops_at_its_end_and_can_be_started_again() {
    let server = Server::start(ServerOptions::simulated()).await;
    let soon = jiff_like_now_plus(3);
    let (workshop, code) =
        server.create(json!({"name": "x", "seats": 1, "runtime": "simulated", "ends_at": soon})).await;
    all_ready(&server, &workshop).await;
    let session = server.post("/api/join", json!({ "code": code })).await.text("/session_code");
    let path = format!("/api/workshops/{workshop}");
    clarateach_testkit::wait_for("it stops", std::time::Duration::from_secs(30), || async {
        (server.get(&path).await.body["workshop"]["status"] == "stopped").then_some(())
    })
    .await;
    assert_eq!(server.get("/api/admin/vms").await.body["vms"], json!([]));
    assert_eq!(server.get(&format!("/api/session/{session}")).await.body["status"], json!("ended"));
    assert_eq!(server.post(&format!("{path}/start"), json!({})).await.status, 202);
    let back =
        clarateach_testkit::wait_for("the learner is back", std::time::Duration::from_secs(30), || async {
            let view = server.get(&format!("/api/session/{session}")).await;
            (view.body["status"] == "ready").then_some(view)
        })
        .await;
    assert_eq!(back.body["seat"], json!(1), "stopping keeps the sessions");
}

/// RFC 3339, `seconds` from now.
fn jiff_like_now_plus(seconds: u64) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("+{seconds} seconds"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_resumed_where_they_broke_off() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (workshop, _) = server.create(json!({"name": "x", "seats": 2, "runtime": "simulated"})).await;
    all_ready(&server, &workshop).await;
    let path = format!("/api/workshops/{workshop}/events");
    let all = read_events(&server, server.request("GET", &path), 6).await;
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>(), "every event once, in order");
    let rest = read_events(&server, server.request("GET", &path).header("last-event-id", "3"), 3).await;
    assert_eq!(rest[0], 4);
    // As after a restored backup: the last one seen is not known.
    for unknown in ["100000", "9223372036854775807", "18446744073709551615"] {
        let resumed = server.request("GET", &path).header("last-event-id", unknown);
        assert_eq!(read_events(&server, resumed, 3).await[0], 1, "{unknown}");
    }
    let wrong = server.send(server.request("GET", &path).header("last-event-id", "x")).await;
    assert_eq!(wrong.status, 400);
}

async fn read_events(_: &Server, request: reqwest::RequestBuilder, at_least: usize) -> Vec<u64> {
    use futures_util::StreamExt;
    let mut stream = request.send().await.unwrap().bytes_stream();
    let mut text = String::new();
    let ids = |text: &str| -> Vec<u64> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
    };
    while ids(&text).len() < at_least {
        let chunk = tokio::time::timeout(std::time::Duration::from_secs(30), stream.next()).await;
        text.push_str(
            std::str::from_utf8(&chunk.expect("events in time").expect("a chunk").unwrap()).unwrap(),
        );
    }
    ids(&text)
}
