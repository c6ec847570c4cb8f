//! Workers that are added, drained, forgotten, and those that can't be used.

use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clarateach_api::agent::SessionAtSeat;
use clarateach_ids::SessionId;
use clarateach_testkit::wait_for;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::harness::{Hosts, PATIENCE, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_worker_does_not_stop_the_start_and_is_shown() {
    let hosts = Hosts::new(1, 5);
    let setting =
        r#"[{"address":"w1:9090","token":"t"},{"address":"nowhere:9090","token":"t","labels":{"zone":"b"}}]"#;
    let server = Server::with(&hosts, &[("WORKER_AGENTS", setting)]).await;
    server.until_worker("w1", "alive").await;
    let away = server.worker("nowhere").await;
    assert_eq!(
        (&away["state"], &away["labels"]["zone"], &away["source"]),
        (&json!("starting"), &json!("b"), &json!("setting"))
    );
    wait_for("it says why", PATIENCE, || async {
        let problem = server.worker("nowhere").await["problem"].as_str()?.to_owned();
        problem.contains("does not answer").then_some(())
    })
    .await;
    assert_eq!(server.worker("nowhere").await["takes_seats"], false);
    let (workshop, _) = server.create(2).await;
    server.until(&workshop, &["ready"]).await;
    let ready = server.get("/api/ready").await;
    let workers = ready["parts"].as_array().unwrap().iter().find(|part| part["part"] == "workers").unwrap();
    assert_eq!((&workers["ok"], &workers["message"]), (&json!(true), &json!("1 of 2 take seats")));
    server.until_worker("nowhere", "suspect").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_workers_away_seats_do_not_go_elsewhere() {
    let hosts = Hosts::new(1, 5);
    hosts.get("w1").set(|faults| faults.away = true);
    let server = Server::start(&hosts).await;
    let wish = json!({"name": "Class", "seats": 1});
    let refused = server.call("POST", "/api/workshops", Some(wish.clone())).await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (422, &json!("NO_RUNTIME")));
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("workers"), "{}", refused.body);
    hosts.get("w1").set(|faults| faults.away = false);
    server.until_worker("w1", "alive").await;
    let made = server.call("POST", "/api/workshops", Some(wish)).await;
    assert_eq!((made.status, &made.body["workshop"]["runtime"]), (201, &json!("simulated")), "{}", made.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_worker_keeps_held_seats_and_loses_free_ones() {
    let hosts = Hosts::new(2, 20);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    server.until_worker("w2", "alive").await;
    let (workshop, code) = server.create(8).await;
    server.until(&workshop, &["ready"]).await;
    let seat = server.join(&code, 1).await["seat"].as_u64().unwrap();
    let drained = server.worker_of(&workshop, seat).await;
    let path = format!("/api/admin/workers/{drained}:9090/drain");
    let answer = server.call("POST", &path, Some(json!({"draining": true}))).await;
    assert_eq!((answer.status, &answer.body["worker"]["wish"]), (200, &json!("draining")), "{}", answer.body);
    wait_for("only the held seat is left", PATIENCE, || async {
        (hosts.get(&drained).world.count() == 1).then_some(())
    })
    .await;
    server.until(&workshop, &["ready", "occupied"]).await;
    assert_eq!(server.worker_of(&workshop, seat).await, drained);
    assert_eq!(server.seat(&workshop, seat).await["status"], "occupied");
    wait_for("the agent was told", PATIENCE, || async {
        hosts.get(&drained).draining.load(Ordering::Relaxed).then_some(())
    })
    .await;
    let (second, _) = server.create(4).await;
    server.until(&second, &["ready"]).await;
    assert_eq!(hosts.get(&drained).world.count(), 1);
    let answer = server.call("POST", &path, Some(json!({"draining": false}))).await;
    assert_eq!((answer.status, &answer.body["worker"]["wish"]), (200, &json!("active")), "{}", answer.body);
    wait_for("it takes seats again", PATIENCE, || async {
        (server.worker(&drained).await["takes_seats"] == true).then_some(())
    })
    .await;
    assert!(!hosts.get(&drained).draining.load(Ordering::Relaxed));
}

/// A worker is away when its drain ends, and the server that was to tell it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_drain_outlives_the_server_that_was_told_of_it() {
    let hosts = Hosts::new(2, 20);
    let mut server = Server::start(&hosts).await;
    let path = "/api/admin/workers/w1:9090/drain";
    for worker in ["w1", "w2"] {
        server.until_worker(worker, "alive").await;
    }
    server.call("POST", path, Some(json!({"draining": true}))).await;
    wait_for("the agent was told", PATIENCE, || async {
        hosts.get("w1").draining.load(Ordering::Relaxed).then_some(())
    })
    .await;
    // On the other one a person has done that, at the agent.
    hosts.get("w2").draining.store(true, Ordering::Relaxed);
    hosts.get("w1").set(|faults| faults.away = true);
    let answer = server.call("POST", path, Some(json!({"draining": false}))).await;
    assert_eq!(answer.body["worker"]["wish"], "active", "{}", answer.body);
    server.restart(&[("WORKER_AGENTS", &hosts.setting())]).await;
    assert!(hosts.get("w1").draining.load(Ordering::Relaxed), "nobody could tell it");
    hosts.get("w1").set(|faults| faults.away = false);
    wait_for("it takes seats again", PATIENCE, || async {
        (server.worker("w1").await["takes_seats"] == true).then_some(())
    })
    .await;
    assert!(!hosts.get("w1").draining.load(Ordering::Relaxed));
    server.until_worker("w2", "alive").await;
    wait_for("the other one says who drained it", PATIENCE, || async {
        let problem = server.worker("w2").await["problem"].as_str().map(str::to_owned);
        problem.is_some_and(|problem| problem.contains("on the worker")).then_some(())
    })
    .await;
    assert!(hosts.get("w2").draining.load(Ordering::Relaxed), "what a person has asked for stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_worker_s_seats_say_so_and_what_comes_back_is_removed() {
    let hosts = Hosts::new(2, 20);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    server.until_worker("w2", "alive").await;
    let (workshop, code) = server.create(4).await;
    server.until(&workshop, &["ready"]).await;
    let seat = server.join(&code, 1).await["seat"].as_u64().unwrap();
    let lost = server.worker_of(&workshop, seat).await;
    let path = format!("/api/admin/workers/{lost}:9090");
    let refused = server.call("DELETE", &path, None).await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (409, &json!("CONFLICT")));
    hosts.get(&lost).set(|faults| faults.away = true);
    server.until_worker(&lost, "suspect").await;
    let done = server.call("DELETE", &path, None).await;
    assert_eq!(done.status, 204, "{}", done.body);
    assert!(server.worker(&lost).await.is_null());
    let again = server.call("DELETE", &path, None).await;
    assert_eq!(again.status, 404);
    wait_for("the free seats are ready elsewhere, the held one says why not", PATIENCE, || async {
        let seats = server.seats(&workshop).await;
        let ready = seats.iter().filter(|seat| seat["status"] == "ready").count();
        let held = seats.iter().find(|s| s["seat"] == seat).unwrap();
        (ready == 3 && held["reason_code"] == "WORKER_FORGOTTEN").then_some(())
    })
    .await;
    let generation = server.seat(&workshop, seat).await["generation"].as_u64().unwrap();
    let reset = server.call("POST", &format!("/api/workshops/{workshop}/seats/{seat}/reset"), None).await;
    assert_eq!(reset.status, 202, "{}", reset.body);
    wait_for("the learner has a fresh seat", PATIENCE, || async {
        let seat = server.seat(&workshop, seat).await;
        (seat["status"] == "occupied" && seat["generation"].as_u64().unwrap() > generation).then_some(())
    })
    .await;
    // It comes back, with seats that nobody wants any more; nobody needs to add it again for that.
    assert_eq!(hosts.get(&lost).world.count(), 2);
    hosts.get(&lost).set(|faults| faults.away = false);
    wait_for("what came back is gone, though the worker is forgotten", PATIENCE, || async {
        (hosts.get(&lost).world.count() == 0).then_some(())
    })
    .await;
    assert!(server.worker(&lost).await.is_null());
    let wish = json!({"address": format!("{lost}:9090"), "token": "t"});
    let added = server.call("POST", "/api/admin/workers", Some(wish.clone())).await;
    assert_eq!(added.status, 201, "{}", added.body);
    wait_for("what came back is gone", PATIENCE, || async {
        (hosts.get(&lost).world.count() == 0).then_some(())
    })
    .await;
    let twice = server.call("POST", "/api/admin/workers", Some(wish)).await;
    assert_eq!((twice.status, &twice.body["worker"]["wish"]), (200, &json!("active")), "{}", twice.body);
    server.until(&workshop, &["ready", "occupied"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_answers_is_forgotten_with_its_seats_when_forced() {
    let hosts = Hosts::new(1, 20);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    let (workshop, _) = server.create(3).await;
    server.until(&workshop, &["ready"]).await;
    let done = server.call("DELETE", "/api/admin/workers/w1:9090?force=true", None).await;
    assert_eq!(done.status, 204, "{}", done.body);
    assert_eq!(hosts.counts(), [0]);
    let bad = server.call("DELETE", "/api/admin/workers/w1:9090?force=maybe", None).await;
    assert_eq!(bad.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_cannot_be_used_say_why_and_get_no_seats() {
    let hosts = Hosts::new(5, 20);
    hosts.get("w1").set(|faults| faults.token = Some("another".to_owned()));
    hosts.get("w2").set(|faults| faults.version = "0.9.0".to_owned());
    hosts.get("w3").set(|faults| faults.skew = SignedDuration::from_secs(-90));
    hosts.get("w4").set(|faults| faults.name = "w5".to_owned());
    let server = Server::start(&hosts).await;
    let problem = |name: &'static str, word: &'static str| {
        let server = &server;
        wait_for(name, PATIENCE, move || async move {
            let worker = server.worker(name).await;
            let says = worker["problem"].as_str().is_some_and(|problem| problem.contains(word));
            (says && worker["takes_seats"] == false).then_some(worker)
        })
    };
    assert_eq!(problem("w1", "token").await["state"], "unauthorized");
    assert_eq!(problem("w2", "0.9.0").await["state"], "incompatible");
    assert_eq!(problem("w3", "clock").await["clock_skew_ms"], -90_000);
    assert!(problem("w5", "same host as worker w4").await["state"] == "alive");
    let (workshop, _) = server.create(6).await;
    server.until(&workshop, &["ready"]).await;
    assert_eq!(hosts.counts(), [0, 0, 0, 6, 0]);
    // Each is used as soon as it is mended.
    hosts.get("w1").set(|faults| faults.token = None);
    hosts.get("w2").set(|faults| faults.version = env!("CARGO_PKG_VERSION").to_owned());
    hosts.get("w3").set(|faults| faults.skew = SignedDuration::ZERO);
    for name in ["w1", "w2", "w3"] {
        wait_for(name, PATIENCE, || async {
            (server.worker(name).await["takes_seats"] == true).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_under_another_address_loses_nothing() {
    let hosts = Hosts::new(1, 20);
    let mut server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    let (workshop, code) = server.create(3).await;
    server.until(&workshop, &["ready"]).await;
    let seat = server.join(&code, 1).await["seat"].as_u64().unwrap();
    hosts.alias("w1", "new");
    server.restart(&[("WORKER_AGENTS", r#"[{"address":"new:9090","token":"t"}]"#)]).await;
    wait_for("the new address is known as the old host", PATIENCE, || async {
        let problem = server.worker("new").await["problem"].as_str()?.to_owned();
        problem.contains("same host as worker w1:9090").then_some(())
    })
    .await;
    let old = server.worker("w1").await;
    assert_eq!((&old["wish"], &old["labels"]["clarateach/unlisted"]), (&json!("draining"), &json!("true")));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(hosts.get("w1").world.count(), 3);
    assert_eq!(server.seat(&workshop, seat).await["status"], "occupied");
    // Listed again, it takes seats again.
    let setting = r#"[{"address":"w1:9090","token":"t"}]"#;
    server.restart(&[("WORKER_AGENTS", setting)]).await;
    wait_for("it takes seats again", PATIENCE, || async {
        (server.worker("w1").await["takes_seats"] == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_go_to_a_worker_with_a_public_url_directly() {
    let hosts = Hosts::new(2, 20);
    let setting = r#"[{"address":"w1:9090","token":"t","public_url":"https://w1.example.org"},
                      {"address":"w2:9090","token":"t"}]"#;
    let server = Server::with(&hosts, &[("WORKER_AGENTS", setting)]).await;
    server.until_worker("w1", "alive").await;
    server.until_worker("w2", "alive").await;
    wait_for("the keys are there", PATIENCE, || async {
        hosts.get("w1").keys.lock().unwrap().as_ref().map(|keys| assert_eq!(keys.keys.len(), 1))
    })
    .await;
    assert!(hosts.get("w2").keys.lock().unwrap().is_none());
    let (workshop, code) = server.create(2).await;
    server.until(&workshop, &["ready"]).await;
    let mut endpoints = Vec::new();
    for learner in 1..=2 {
        let joined = server.join(&code, learner).await;
        let (endpoint, seat) =
            (joined["endpoint"].as_str().unwrap().to_owned(), joined["seat"].as_u64().unwrap());
        let direct = server.worker_of(&workshop, seat).await == "w1";
        let own = format!("http://{}", server.running.as_ref().unwrap().address);
        let base = if direct { "https://w1.example.org" } else { &own };
        assert_eq!(endpoint, format!("{base}/proxy/{workshop}/{seat}"));
        endpoints.push((direct, seat, joined["session_code"].as_str().unwrap().to_owned()));
    }
    let (_, seat, session) = endpoints.iter().find(|(direct, ..)| *direct).unwrap().clone();
    let view = server.get(&format!("/api/session/{session}")).await;
    assert!(view["endpoint"].as_str().unwrap().starts_with("https://w1.example.org/"), "{view}");
    hosts.get("w1").set(|faults| faults.away = true);
    let evicted = server.call("POST", &format!("/api/workshops/{workshop}/seats/{seat}/evict"), None).await;
    assert_eq!(evicted.status, 202, "{}", evicted.body);
    hosts.get("w1").set(|faults| faults.away = false);
    wait_for("the worker was told who is out", PATIENCE, || async {
        (hosts.get("w1").revoked.lock().unwrap().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_who_is_at_the_worker_is_shown_as_connected() {
    let hosts = Hosts::new(1, 20);
    let setting = r#"[{"address":"w1:9090","token":"t","public_url":"https://w1.example.org"}]"#;
    let server = Server::with(&hosts, &[("WORKER_AGENTS", setting)]).await;
    server.until_worker("w1", "alive").await;
    let (workshop, code) = server.create(2).await;
    server.until(&workshop, &["ready"]).await;
    let joined = server.join(&code, 1).await;
    let seat = joined["seat"].as_u64().unwrap();
    let shown = async || server.seat(&workshop, seat).await;
    let before = shown().await;
    assert_eq!(before["connected"], false, "{before}");
    let seen_at =
        |seat: &serde_json::Value| -> Timestamp { seat["last_seen_at"].as_str().unwrap().parse().unwrap() };

    let session = session_of(joined["token"].as_str().unwrap());
    let at_seats = |session_id: &SessionId| {
        *hosts.get("w1").at_seats.lock().unwrap() =
            vec![SessionAtSeat { session_id: session_id.clone(), idle_seconds: 0 }];
    };
    at_seats(&session);
    wait_for("the learner is shown as connected", PATIENCE, async || {
        (shown().await["connected"] == true).then_some(())
    })
    .await;
    let other = server.seats(&workshop).await.into_iter().find(|other| other["seat"] != seat).unwrap();
    assert_eq!(other["connected"], false, "{other}");
    wait_for("it is written down when they were seen", PATIENCE, async || {
        (seen_at(&shown().await) > seen_at(&before)).then_some(())
    })
    .await;
    // Nobody knows who is at a worker that does not answer.
    hosts.get("w1").set(|faults| faults.away = true);
    wait_for("the learner is not shown as connected", PATIENCE, async || {
        (shown().await["connected"] == false).then_some(())
    })
    .await;
    hosts.get("w1").set(|faults| faults.away = false);
    wait_for("the learner is connected again", PATIENCE, async || {
        (shown().await["connected"] == true).then_some(())
    })
    .await;
    hosts.get("w1").at_seats.lock().unwrap().clear();
    wait_for("the learner has gone", PATIENCE, async || (shown().await["connected"] == false).then_some(()))
        .await;
}

/// Whose a seat token is.
fn session_of(token: &str) -> SessionId {
    let claims = token.split('.').nth(1).unwrap();
    let claims: serde_json::Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    claims["sid"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_another_token_is_unauthorized_until_that_is_known() {
    let hosts = Hosts::new(1, 20);
    let mut server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    let (workshop, code) = server.create(3).await;
    server.until(&workshop, &["ready"]).await;
    let seat = server.join(&code, 1).await["seat"].as_u64().unwrap();
    let make = server.seat(&workshop, seat).await["generation"].clone();

    // The agent is started again with another token.
    hosts.get("w1").set(|faults| faults.token = Some("second".to_owned()));
    let refused = server.until_worker("w1", "unauthorized").await;
    assert!(refused["problem"].as_str().unwrap().contains("token"), "{refused}");
    assert_eq!(refused["takes_seats"], false, "{refused}");
    assert!(!refused.to_string().contains("second"), "{refused}");
    wait_for("the held seat is shown as unreachable", PATIENCE, async || {
        (server.seat(&workshop, seat).await["status"] == "unreachable").then_some(())
    })
    .await;
    // By the API: the same worker, with the token that it takes now.
    let wish = json!({"address": "w1:9090", "token": "second"});
    let changed = server.call("POST", "/api/admin/workers", Some(wish)).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    server.until_worker("w1", "alive").await;
    server.until(&workshop, &["ready", "occupied"]).await;
    let held = server.seat(&workshop, seat).await;
    assert_eq!((&held["status"], &held["generation"]), (&json!("occupied"), &make), "{held}");

    // And by the setting, at a start.
    hosts.get("w1").set(|faults| faults.token = Some("third".to_owned()));
    server.until_worker("w1", "unauthorized").await;
    server.restart(&[("WORKER_AGENTS", r#"[{"address":"w1:9090","token":"third"}]"#)]).await;
    server.until_worker("w1", "alive").await;
    server.until(&workshop, &["ready", "occupied"]).await;
    let held = server.seat(&workshop, seat).await;
    assert_eq!((&held["status"], &held["generation"]), (&json!("occupied"), &make), "{held}");
    assert_eq!(hosts.counts(), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_words_are_refused_with_the_field() {
    let hosts = Hosts::new(0, 0);
    let server = Server::with(&hosts, &[]).await;
    for (wish, word) in [
        (json!({"address": "x", "token": "t"}), "address: "),
        (json!({"address": "x:9090", "token": ""}), "token: "),
        (json!({"address": "x:9090", "token": "t", "capacity": 0}), "capacity: "),
        (json!({"address": "x:9090", "token": "t", "public_url": "x"}), "public_url: "),
        (json!({"address": "x:9090", "token": "t", "tls_ca": "x"}), "tls_ca: "),
        (json!({"address": "x:9090", "token": "t", "nonsense": 1}), "nonsense"),
    ] {
        let answer = server.call("POST", "/api/admin/workers", Some(wish.clone())).await;
        assert_eq!((answer.status, &answer.body["error"]["code"]), (422, &json!("INVALID_FIELD")), "{wish}");
        assert!(answer.body["error"]["message"].as_str().unwrap().contains(word), "{}", answer.body);
    }
    let answer = server.call("POST", "/api/admin/workers/x/drain", Some(json!({"draining": true}))).await;
    assert_eq!(answer.status, 404);
    assert_eq!(server.get("/api/admin/workers").await, json!({"workers": []}));
}
