//! Seats on workers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clarateach_runtime::Runtime;
use clarateach_runtime_simulated::SimulatedRuntime;
use clarateach_store::{Placement, SeatRecord};
use clarateach_testkit::wait_for;
use serde_json::json;

use super::harness::{Hosts, PATIENCE, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_is_spread_and_leaves_nothing_behind() {
    let hosts = Hosts::new(3, 20);
    let server = Server::start(&hosts).await;
    for name in ["w1", "w2", "w3"] {
        server.until_worker(name, "alive").await;
    }
    let (workshop, code) = server.create(30).await;
    server.until(&workshop, &["ready"]).await;
    assert_eq!(hosts.counts(), [10, 10, 10]);
    for learner in 1..=30 {
        server.join(&code, learner).await;
    }
    let overview = server.get("/api/admin/overview").await;
    assert_eq!((&overview["overview"]["workers"], &overview["overview"]["vms"]), (&json!(3), &json!(30)));
    assert_eq!(server.worker("w2").await["seats"], 10);
    server.delete(&workshop).await;
    server.until_gone(&workshop).await;
    assert_eq!(hosts.counts(), [0, 0, 0]);
    assert_eq!(server.worker("w2").await["seats"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_worker_takes_no_held_seat_and_free_ones_are_made_elsewhere() {
    let hosts = Hosts::new(2, 20);
    let server = Server::start(&hosts).await;
    for name in ["w1", "w2"] {
        server.until_worker(name, "alive").await;
    }
    let (workshop, code) = server.create(6).await;
    server.until(&workshop, &["ready"]).await;
    let mut held = Vec::new();
    for learner in 1..=2 {
        held.push(server.join(&code, learner).await["seat"].as_u64().unwrap());
    }
    let lost = server.worker_of(&workshop, held[0]).await;
    let kept = if lost == "w1" { "w2" } else { "w1" };
    let on_lost: Vec<u64> = {
        let mut all = Vec::new();
        for seat in 1..=6 {
            if server.worker_of(&workshop, seat).await == lost {
                all.push(seat);
            }
        }
        all
    };
    assert_eq!(on_lost.len(), 3);
    let before = server.seat(&workshop, held[0]).await["generation"].clone();
    hosts.get(&lost).set(|faults| faults.away = true);
    let seat = wait_for("the held seat is shown as unreachable", PATIENCE, || async {
        let seat = server.seat(&workshop, held[0]).await;
        (seat["status"] == "unreachable").then_some(seat)
    })
    .await;
    assert_eq!(seat["reason_code"], "WORKER_UNREACHABLE", "{seat}");
    wait_for("free seats are ready again, elsewhere", PATIENCE, || async {
        let seats = server.seats(&workshop).await;
        let ready = seats.iter().filter(|seat| seat["status"] == "ready" || seat["status"] == "occupied");
        let held_there = held.iter().filter(|seat| on_lost.contains(seat)).count();
        (ready.count() == 6 - held_there).then_some(())
    })
    .await;
    let seat = server.seat(&workshop, held[0]).await;
    assert_eq!(seat["generation"], before, "a held seat is never made anew by itself");
    // It comes back: the learner's seat is the same, and what was made elsewhere meanwhile goes there.
    hosts.get(&lost).set(|faults| faults.away = false);
    wait_for("the held seat is back", PATIENCE, || async {
        (server.seat(&workshop, held[0]).await["status"] == "occupied").then_some(())
    })
    .await;
    assert_eq!(server.seat(&workshop, held[0]).await["generation"], before);
    wait_for("nothing is left over", PATIENCE, || async {
        (hosts.counts().iter().sum::<usize>() == 6).then_some(())
    })
    .await;
    assert_eq!(server.worker_of(&workshop, held[0]).await, lost);
    assert!(hosts.get(kept).world.count() >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_no_seat_away() {
    let hosts = Hosts::new(2, 20);
    let mut server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    server.until_worker("w2", "alive").await;
    let (workshop, code) = server.create(4).await;
    server.until(&workshop, &["ready"]).await;
    let seat = server.join(&code, 1).await["seat"].as_u64().unwrap();
    let before: Vec<_> = server.seats(&workshop).await.iter().map(|s| s["generation"].clone()).collect();
    let setting = hosts.setting();
    server.restart(&[("WORKER_AGENTS", &setting)]).await;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let seats = server.seats(&workshop).await;
        for s in &seats {
            let wanted = if s["seat"] == seat { "occupied" } else { "ready" };
            assert_eq!(s["status"], wanted, "{s}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after: Vec<_> = server.seats(&workshop).await.iter().map(|s| s["generation"].clone()).collect();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_waits_for_room() {
    let hosts = Hosts::new(1, 3);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    let (workshop, _) = server.create(5).await;
    let full = wait_for("three are ready and two say why not", PATIENCE, || async {
        let seats = server.seats(&workshop).await;
        let ready = seats.iter().filter(|seat| seat["status"] == "ready").count();
        let full: Vec<_> = seats.into_iter().filter(|seat| seat["reason_code"] == "AT_CAPACITY").collect();
        (ready == 3 && full.len() == 2).then_some(full)
    })
    .await;
    assert!(full[0]["reason"].as_str().unwrap().contains("3 of 3"), "{full:?}");
    hosts.add("w2", 10);
    let wish = json!({"address": "w2:9090", "token": "t"});
    let added = server.call("POST", "/api/admin/workers", Some(wish)).await;
    assert_eq!((added.status, &added.body["worker"]["state"]), (201, &json!("alive")), "{}", added.body);
    server.until(&workshop, &["ready"]).await;
    assert_eq!(hosts.counts(), [3, 2]);
}

/// A worker refuses a make, and what takes it back comes late: by then the same make was asked for again, and is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_make_that_is_taken_back_late_stays_when_it_was_made_meanwhile() {
    let hosts = Hosts::new(1, 5);
    let host = hosts.get("w1");
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    // Full all of a sudden: the server does not know it yet.
    host.draining.store(true, Ordering::Relaxed);
    host.set(|faults| faults.late_take_backs = Duration::from_secs(1));
    let (workshop, _) = server.create(1).await;
    let wish = wait_for("the worker was asked", PATIENCE, || async {
        host.wishes.lock().unwrap().values().next().cloned()
    })
    .await;
    host.draining.store(false, Ordering::Relaxed);
    let another_server = SimulatedRuntime::on(Arc::clone(&host.world));
    another_server.apply(wish.clone()).await.unwrap();
    wait_for("the late call has come", PATIENCE, || async {
        (host.take_backs.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    let there = another_server.observe().await.unwrap();
    assert_eq!(there.iter().map(|seat| seat.generation).collect::<Vec<_>>(), [wish.generation]);
    server.until(&workshop, &["ready"]).await;
    assert_eq!(server.seat(&workshop, 1).await["generation"], wish.generation.0);
    server.delete(&workshop).await;
    server.until_gone(&workshop).await;
    assert_eq!(hosts.counts(), [0]);
}

/// The database has written down where a seat goes and its answer was lost, so the server knows nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placement_that_nobody_was_told_of_keeps_no_workshop_from_going() {
    let hosts = Hosts::new(1, 2);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    let (workshop, _) = server.create(3).await;
    let id = workshop.parse().unwrap();
    let store = &server.running.as_ref().unwrap().app.store;
    wait_for("a placement that only the database knows of", PATIENCE, || async {
        let seats = store.seats(&id).await.unwrap();
        let full = |seat: &SeatRecord| seat.reason.as_ref().is_some_and(|(code, _)| code == "AT_CAPACITY");
        let (seat, _) = seats.into_iter().find(|(seat, _)| full(seat))?;
        let worker = "w1:9090".to_owned();
        // Meanwhile the seat may have got its next make.
        store.place(None, Placement { key: seat.key, generation: seat.generation, worker }).await.ok()
    })
    .await;
    assert_eq!(store.placements(Some(&id)).await.unwrap().len(), 3);
    server.delete(&workshop).await;
    server.until_gone(&workshop).await;
    assert_eq!(store.placements(None).await.unwrap(), []);
    assert_eq!(hosts.counts(), [0]);
}

/// What a server finds that takes over what another one placed, on a worker that it has not reached itself yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_on_a_worker_that_only_another_server_has_reached_are_waited_for() {
    let hosts = Hosts::new(2, 1);
    hosts.get("w2").set(|faults| faults.away = true);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    let (workshop, _) = server.create(2).await;
    let id = workshop.parse().unwrap();
    let app = &server.running.as_ref().unwrap().app;
    let kind = app.store.workers().await.unwrap().into_iter().find_map(|worker| worker.kind).unwrap();
    app.store.note_worker_kind("w2:9090", &kind).await.unwrap();
    wait_for("one seat is placed behind this server's back", PATIENCE, || async {
        let seats = app.store.seats(&id).await.unwrap();
        let full = |seat: &SeatRecord| seat.reason.as_ref().is_some_and(|(code, _)| code == "AT_CAPACITY");
        let (seat, _) = seats.into_iter().find(|(seat, _)| full(seat))?;
        let worker = "w2:9090".to_owned();
        app.store.place(None, Placement { key: seat.key, generation: seat.generation, worker }).await.ok()
    })
    .await;
    app.fleet.begin_anew().await.unwrap();
    let path = format!("/api/workshops/{workshop}");
    let stopped = server.call("POST", &format!("{path}/stop"), None).await;
    assert_eq!(stopped.status, 202, "{}", stopped.body);
    wait_for("nothing is left where it can be reached", PATIENCE, || async {
        (hosts.counts() == [0, 0]).then_some(())
    })
    .await;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(server.get(&path).await["workshop"]["status"], "stopping");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    hosts.get("w2").set(|faults| faults.away = false);
    wait_for("it is stopped", PATIENCE, || async {
        (server.get(&path).await["workshop"]["status"] == "stopped").then_some(())
    })
    .await;
    assert_eq!(app.store.placements(Some(&id)).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_worker_slows_nobody_else() {
    let hosts = Hosts::new(3, 20);
    let server = Server::start(&hosts).await;
    for name in ["w1", "w2", "w3"] {
        server.until_worker(name, "alive").await;
    }
    hosts.get("w3").set(|faults| faults.slow = Duration::from_secs(4));
    let began = Instant::now();
    let (workshop, _) = server.create(9).await;
    wait_for("the seats of the others are ready", PATIENCE, || async {
        let seats = server.seats(&workshop).await;
        (seats.iter().filter(|seat| seat["status"] == "ready").count() >= 6).then_some(())
    })
    .await;
    // Getting the image ready waits for it for 5 s at most; nothing else does.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    hosts.get("w3").set(|faults| faults.slow = Duration::ZERO);
    server.until(&workshop, &["ready"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_have_the_image_does_not_stop_the_others() {
    let hosts = Hosts::new(2, 20);
    hosts.get("w1").set(|faults| faults.no_images = true);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    server.until_worker("w2", "alive").await;
    let (workshop, _) = server.create(6).await;
    server.until(&workshop, &["ready"]).await;
    assert_eq!(hosts.counts(), [0, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workshop_is_gone_only_when_its_worker_has_said_so() {
    let hosts = Hosts::new(2, 20);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    server.until_worker("w2", "alive").await;
    let (workshop, _) = server.create(4).await;
    server.until(&workshop, &["ready"]).await;
    hosts.get("w1").set(|faults| faults.away = true);
    server.delete(&workshop).await;
    wait_for("the other worker is empty", PATIENCE, || async {
        (hosts.get("w2").world.count() == 0).then_some(())
    })
    .await;
    let answer = server.call("GET", &format!("/api/workshops/{workshop}"), None).await;
    assert_eq!((answer.status, &answer.body["workshop"]["status"]), (200, &json!("deleting")));
    hosts.get("w1").set(|faults| faults.away = false);
    server.until_gone(&workshop).await;
    assert_eq!(hosts.counts(), [0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_told_when_seats_end_and_when_that_moves() {
    let hosts = Hosts::new(1, 5);
    let server = Server::start(&hosts).await;
    server.until_worker("w1", "alive").await;
    let wish = json!({"name": "Class", "seats": 1, "image": "simulated", "duration_minutes": 60});
    let made = server.call("POST", "/api/workshops", Some(wish)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let workshop = made.body["workshop"]["id"].as_str().unwrap().to_owned();
    server.until(&workshop, &["ready"]).await;
    let end = |body: &serde_json::Value| {
        body["workshop"]["ends_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let told = || hosts.get("w1").wishes.lock().unwrap().values().next().unwrap().not_after.unwrap();
    let margin = jiff::SignedDuration::from_mins(15);
    assert_eq!(told(), end(&made.body) + margin);
    let path = format!("/api/workshops/{workshop}/extend");
    let moved = server.call("POST", &path, Some(json!({"minutes": 30}))).await;
    assert_eq!(moved.status, 200, "{}", moved.body);
    wait_for("the worker knows the new end", PATIENCE, || async {
        (told() == end(&moved.body) + margin).then_some(())
    })
    .await;
    assert_eq!(server.seat(&workshop, 1).await["generation"], 1);
    let applies = hosts.get("w1").applies.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(hosts.get("w1").applies.load(Ordering::Relaxed), applies, "it is told once");
}
