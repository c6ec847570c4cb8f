//! VMs from create to delete.

use std::time::{Duration, Instant};

use clarateach_runtime_simulated::SimulatedConfig;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Agent, quick};

pub(crate) fn desired(generation: u64) -> Value {
    json!({
        "generation": generation, "image": "default", "vcpus": 2, "memory_mb": 512, "disk_mb": 1024,
        "secret": "0123456789abcdef0123", "env": {"A": "b"}, "egress": "none"
    })
}

#[tokio::test]
async fn the_documented_flow() {
    let agent = Agent::new().await;
    let made = agent.post("/vms", json!({"workshop_id": "test", "seat_id": 1})).await.is(201);
    assert_eq!((&made.body["workshop_id"], &made.body["seat_id"]), (&json!("test"), &json!(1)));
    assert!(made.body["ip"].is_string() && made.body["status"].is_string(), "{made:?}");
    agent.vm("other", 1).await;

    let listed = agent.get("/vms?workshop_id=test").await.is(200);
    let vms = listed.body["vms"].as_array().unwrap();
    assert_eq!((vms.len(), &vms[0]["workshop_id"]), (1, &json!("test")));
    assert_eq!(agent.get("/vms").await.body["vms"].as_array().unwrap().len(), 2);
    agent.has_status("/vms/test/1", "ready").await;

    agent.delete("/vms/test/1").await.is(204);
    agent.get("/vms/test/1").await.refused(404, "vm_not_found");
    agent.delete("/vms/test/1").await.refused(404, "vm_not_found");
    agent.get("/vms/other/1").await.is(200);
}

#[tokio::test]
async fn a_seat_has_one_vm_however_many_ask_at_once() {
    let agent = Agent::new().await;
    let asked = (0..16).map(|_| agent.post("/vms", json!({"workshop_id": "w", "seat_id": 1})));
    let mut answers = join_all(asked).await;
    answers.sort_by_key(|answer| answer.status);
    answers.remove(0).is(201);
    for refused in answers {
        refused.refused(409, "vm_exists");
    }
    assert_eq!(agent.world.count(), 1);
}

#[tokio::test]
async fn the_51st_vm_finds_no_room_and_leaves_the_others_alone() {
    let agent = Agent::new().await;
    let made = join_all((1..=50).map(|seat| agent.vm("w", seat))).await;
    assert!(made.iter().all(|answer| answer.body["status"] == "ready"));
    let refused = agent.post("/vms", json!({"workshop_id": "w", "seat_id": 51})).await;
    let refused = refused.refused(503, "at_capacity");
    assert_eq!(
        (&refused.body["error"]["used"], &refused.body["error"]["capacity"]),
        (&json!(50), &json!(50))
    );
    agent.put("/vms/w/51", desired(1)).await.refused(503, "at_capacity");
    agent.delete("/vms/w/7").await.is(204);
    agent.vm("w", 51).await;
    assert_eq!(agent.world.count(), 50);
}

#[tokio::test]
async fn a_deleted_seat_can_be_made_again_without_counting_generations() {
    let agent = Agent::new().await;
    for expected in 1..=3 {
        // A delete is of the generation that was there; the next make is one higher.
        assert_eq!(agent.vm("w", 1).await.body["generation"], expected);
        agent.delete("/vms/w/1").await.is(204);
    }
    let wish = json!({"workshop_id": "w", "seat_id": 1, "generation": 2});
    let stale = agent.post("/vms", wish).await.refused(409, "stale_generation");
    assert_eq!(stale.body["error"]["seen"], 3);
}

#[tokio::test]
async fn a_control_plane_s_wishes_are_idempotent_and_ordered() {
    let agent = Agent::new().await;
    agent.put("/vms/w/1", desired(3)).await.is(204);
    agent.put("/vms/w/1", desired(3)).await.is(204);
    agent.has_status("/vms/w/1", "ready").await;
    let stale = agent.put("/vms/w/1", desired(2)).await.refused(409, "stale_generation");
    assert_eq!(stale.body["error"]["seen"], 3);
    agent.delete("/vms/w/1?generation=2").await.refused(409, "stale_generation");
    agent.put("/vms/w/1", desired(4)).await.is(204);
    assert_eq!(agent.get("/vms/w/1").await.body["generation"], 4);
    agent.delete("/vms/w/1?generation=4").await.is(204);
    agent.delete("/vms/w/1?generation=4").await.is(204);
    agent.put("/vms/w/1", desired(4)).await.refused(409, "stale_generation");
    agent.delete("/vms/never/1?generation=1").await.is(204);
    assert_eq!(agent.world.count(), 0);
}

#[tokio::test]
async fn what_was_refused_is_taken_back_unless_it_was_asked_for_again() {
    let agent = Agent::new().await;
    let taken_back = "/vms/w/1?generation=3&unless_begun=true";
    agent.put("/vms/w/1", desired(3)).await.is(204);
    agent.delete(taken_back).await.refused(409, "vm_exists");
    agent.has_status("/vms/w/1", "ready").await;
    // Of another generation than the one that is there: as any delete.
    agent.delete("/vms/w/1?generation=2&unless_begun=true").await.refused(409, "stale_generation");
    agent.delete("/vms/w/1?generation=4&unless_begun=true").await.is(204);
    agent.put("/vms/w/1", desired(4)).await.refused(409, "stale_generation");
    agent.delete("/vms/w/1?generation=4&unless_begun=true").await.is(204);
    agent.delete("/vms/w/1?unless_begun=true").await.refused(400, "invalid_request");
    assert_eq!(agent.world.count(), 0);
}

#[tokio::test]
async fn a_failed_start_is_undone_and_said() {
    let agent = Agent::new().await;
    agent.world.fail_starts(1);
    let refused = agent.post("/vms?wait=ready", json!({"workshop_id": "w", "seat_id": 1})).await;
    // The simulated seat counts as started before it fails: then it is there, and says so.
    assert_eq!((refused.status, &refused.body["status"]), (201, &json!("failed")), "{refused:?}");
    assert!(refused.body["console"].as_str().unwrap().contains("failed to start"), "{refused:?}");
    assert_eq!(refused.body["reason"]["code"], "START_FAILED");
    agent.post("/vms", json!({"workshop_id": "w", "seat_id": 1})).await.refused(409, "vm_exists");
    agent.delete("/vms/w/1").await.is(204);
    agent.vm("w", 1).await;
}

#[tokio::test]
async fn a_delete_during_a_create_wins() {
    let slow = Duration::from_millis(300)..Duration::from_millis(301);
    let agent = Agent::with(SimulatedConfig { start: slow, ..quick() }).await;
    let create = agent.post("/vms?wait=ready", json!({"workshop_id": "w", "seat_id": 1}));
    let delete = async {
        while agent.world.count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        agent.delete("/vms/w/1").await
    };
    let (created, deleted) = tokio::join!(create, delete);
    deleted.is(204);
    created.refused(404, "vm_not_found");
    assert_eq!(agent.world.count(), 0);
}

#[tokio::test]
async fn a_create_goes_on_though_its_caller_has_gone() {
    let agent = Agent::new().await;
    let request = agent.request(reqwest::Method::POST, "/vms?wait=ready").timeout(Duration::from_millis(3));
    let _ = request.json(&json!({"workshop_id": "w", "seat_id": 1})).send().await;
    // Either it never arrived or it is carried out: a second one settles it.
    let again = agent.post("/vms", json!({"workshop_id": "w", "seat_id": 1})).await;
    assert!(matches!(again.status, 201 | 409), "{again:?}");
    agent.has_status("/vms/w/1", "ready").await;
}

#[tokio::test]
async fn a_watch_ends_with_a_change_and_not_before() {
    let mut agent = Agent::new().await;
    let first = agent.get("/watch").await.is(200).body["revision"].as_u64().unwrap();
    agent.vm("w", 1).await;
    let mut since = agent.get(&format!("/watch?since={first}")).await.body["revision"].as_u64().unwrap();
    assert!(since > first);
    // What was under way settles; from then on nothing changes.
    loop {
        let path = format!("/watch?since={since}");
        match tokio::time::timeout(Duration::from_millis(300), agent.get(&path)).await {
            Ok(answer) => since = answer.body["revision"].as_u64().unwrap(),
            Err(_) => break,
        }
    }
    let path = format!("/watch?since={since}");
    let change = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        agent.delete("/vms/w/1").await.is(204)
    };
    let began = Instant::now();
    let (seen, _) = tokio::join!(agent.get(&path), change);
    assert!(seen.body["revision"].as_u64().unwrap() > since);
    assert!(began.elapsed() >= Duration::from_millis(200));
    // A revision of an earlier process is never taken for one of this.
    let before = agent.get("/watch").await.body["revision"].as_u64().unwrap();
    agent.restart().await;
    let after = agent.get(&format!("/watch?since={before}")).await.body["revision"].as_u64().unwrap();
    assert!(after > before);
}

#[tokio::test]
async fn a_vm_that_is_not_well_shows_its_console() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    assert!(agent.get("/vms/w/1").await.body.get("console").is_none());
    let key = clarateach_ids::SeatKey { workshop: "w".parse().unwrap(), seat: "1".parse().unwrap() };
    assert!(agent.world.kill(&key));
    let shown = agent.get("/vms/w/1").await.is(200);
    assert_eq!(shown.body["status"], "stopped");
    assert!(shown.body["console"].as_str().unwrap().contains("killed"), "{shown:?}");
    let log = agent.get("/vms/w/1/logs").await.is(200);
    assert!(log.body["log"].as_str().unwrap().contains("killed"));
    // The same generation again starts it again, on its own disk.
    agent.put("/vms/w/1", desired(1)).await.is(204);
    agent.has_status("/vms/w/1", "ready").await;
}
