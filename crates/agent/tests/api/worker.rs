//! The worker itself: health, what it is, drain, images.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Agent, answer};

#[tokio::test]
async fn health_says_what_is_documented() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let health = answer(agent.http.get(agent.url("/health"))).await.is(200);
    let fields: Vec<&str> = health.body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["capacity", "status", "uptime_seconds", "vm_count", "worker_id"]);
    assert_eq!((&health.body["status"], &health.body["vm_count"]), (&json!("ok"), &json!(1)));
    assert_eq!(health.body["capacity"], 50);
}

#[tokio::test]
async fn the_worker_keeps_its_name_and_its_drain() {
    let mut agent = Agent::new().await;
    let before = agent.get("/info").await.is(200).body;
    agent.vm("w", 1).await;
    let drained = agent.post("/drain", json!({"draining": true})).await.is(200);
    assert_eq!(drained.body, json!({"draining": true, "vm_count": 1}));
    agent.restart().await;
    let after = agent.get("/info").await.is(200).body;
    assert_eq!(before["worker_id"], after["worker_id"]);
    assert_eq!((&before["draining"], &after["draining"]), (&json!(false), &json!(true)));

    agent.post("/vms", json!({"workshop_id": "w", "seat_id": 2})).await.refused(503, "draining");
    let wish = json!({"generation": 1, "image": "default", "vcpus": 1, "memory_mb": 64, "disk_mb": 64,
                      "secret": "0123456789abcdef"});
    agent.put("/vms/w/2", wish.clone()).await.refused(503, "draining");
    // Those that are here are still looked after.
    agent.put("/vms/w/1", wish).await.is(204);
    agent.delete("/vms/w/1").await.is(204);
    agent.post("/drain", json!({"draining": "yes"})).await.refused(400, "invalid_request");
    agent.post("/drain", json!({"draining": false})).await.is(200);
    agent.vm("w", 2).await;
}

#[tokio::test]
async fn a_drain_is_told_from_that_of_a_person() {
    let mut agent = Agent::new().await;
    let drain = async |agent: &Agent, draining: bool, by: Option<&str>| {
        let request = agent.request(Method::POST, "/drain").json(&json!({ "draining": draining }));
        let request = by.into_iter().fold(request, |r, by| r.header("x-clarateach-installation", by));
        answer(request).await.is(200);
        let info = agent.get("/info").await.is(200).body;
        (info["draining"].clone(), info["drained_by"].clone())
    };
    let nobody = json!(null);
    assert_eq!(drain(&agent, true, Some("one")).await, (json!(true), json!("one")));
    assert_eq!(drain(&agent, true, Some("two")).await, (json!(true), json!("one")), "who asked first");
    agent.restart().await;
    assert_eq!(agent.get("/info").await.is(200).body["drained_by"], "one");
    assert_eq!(drain(&agent, true, None).await, (json!(true), nobody.clone()), "a person goes first");
    assert_eq!(drain(&agent, true, Some("one")).await, (json!(true), nobody.clone()));
    assert_eq!(drain(&agent, false, Some("one")).await, (json!(false), nobody.clone()));
    assert_eq!(drain(&agent, true, Some("two")).await, (json!(true), json!("two")));
    assert_eq!(drain(&agent, false, None).await, (json!(false), nobody));
}

#[tokio::test]
async fn vms_outlive_the_agent() {
    let mut agent = Agent::new().await;
    agent.vm("w", 1).await;
    agent.restart().await;
    assert_eq!(agent.get("/vms/w/1").await.is(200).body["status"], "ready");
    agent.post("/vms", json!({"workshop_id": "w", "seat_id": 1})).await.refused(409, "vm_exists");
}

#[tokio::test]
async fn images_are_listed_resolved_and_got_ready() {
    let agent = Agent::new().await;
    let images = agent.get("/images").await.is(200);
    assert_eq!(images.body["images"][0]["default"], true);
    assert_eq!(agent.get("/images/resolve").await.is(200).body["image"], "default");
    assert_eq!(agent.get("/images/resolve?image=x:1").await.is(200).body["image"], "x:1");
    assert_eq!(agent.post("/images", json!({"image": "x:1"})).await.is(200).body["image"], "x:1");
    let told = agent
        .request(reqwest::Method::POST, "/images")
        .header("accept", "application/x-ndjson")
        .json(&json!({"image": "x:1"}));
    let text = told.send().await.unwrap().text().await.unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, [json!({"step": "Simulated", "done": 1, "total": 1}), json!({"image": "x:1"})]);
}

#[tokio::test]
async fn two_control_planes_see_and_touch_only_their_own_vms() {
    let mut agent = Agent::new().await;
    let wish = json!({"generation": 1, "image": "simulated", "vcpus": 1, "memory_mb": 256, "disk_mb": 64,
        "secret": "0123456789abcdef", "env": {}, "egress": "internet"});
    let by = |agent: &Agent, method, path: &str, installation: &str| {
        agent.request(method, path).header("x-clarateach-installation", installation).json(&wish)
    };
    for (seat, installation) in [("first/1", "one"), ("second/1", "two")] {
        answer(by(&agent, Method::PUT, &format!("/vms/{seat}"), installation)).await.is(204);
    }
    agent.vm("by-hand", 1).await;
    // Also after a restart.
    for _ in 0..2 {
        for (installation, own) in [("one", "first"), ("two", "second"), ("three", "by-hand")] {
            let shown = answer(by(&agent, Method::GET, "/vms", installation)).await.is(200);
            let shown: Vec<_> =
                shown.body["vms"].as_array().unwrap().iter().map(|vm| vm["workshop_id"].clone()).collect();
            let all: Vec<_> =
                ["by-hand", "first", "second"].into_iter().filter(|w| *w == own || *w == "by-hand").collect();
            assert_eq!(json!(shown), json!(all), "{installation}");
        }
        let (own, path) = ("one", "/vms/second/1");
        answer(by(&agent, Method::DELETE, "/vms/second/1?generation=9", own))
            .await
            .refused(404, "vm_not_found");
        answer(by(&agent, Method::GET, path, own)).await.refused(404, "vm_not_found");
        answer(by(&agent, Method::PUT, path, own)).await.refused(409, "vm_exists");
        answer(by(&agent, Method::GET, "/vms/second/1/tunnel/workspace", own))
            .await
            .refused(404, "vm_not_found");
        assert_eq!(agent.world.count(), 3);
        agent.restart().await;
    }
    answer(by(&agent, Method::GET, "/vms", "not an id")).await.refused(400, "invalid_request");
    // A seat that is gone is nobody's.
    answer(by(&agent, Method::DELETE, "/vms/second/1?generation=1", "two")).await.is(204);
    answer(by(&agent, Method::DELETE, "/vms/second/1?generation=1", "one")).await.is(204);
    assert_eq!(agent.world.count(), 2);
}
