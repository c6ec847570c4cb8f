//! What callers get wrong, by mistake or not.

use clarateach_agent::routes;
use clarateach_api::agent::AgentErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, answer};

#[tokio::test]
async fn bad_ids_and_values_are_refused_and_make_nothing() {
    let agent = Agent::new().await;
    let long = "a".repeat(300);
    let vm = |more: Value| {
        let mut vm = json!({"workshop_id": "w", "seat_id": 1});
        vm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        vm
    };
    for body in [
        vm(json!({"seat_id": 0})),
        vm(json!({"seat_id": -1})),
        vm(json!({"seat_id": 65_536})),
        vm(json!({"seat_id": 99_999_999_999_999_u64})),
        vm(json!({"seat_id": 1.5})),
        vm(json!({"seat_id": "1"})),
        vm(json!({"seat_id": null})),
        vm(json!({"workshop_id": ""})),
        vm(json!({"workshop_id": "a/b"})),
        vm(json!({"workshop_id": "../etc"})),
        vm(json!({"workshop_id": "a.b"})),
        vm(json!({"workshop_id": long})),
        vm(json!({"workshop_id": "żółć"})),
        vm(json!({"workshop_id": "a\u{0}b"})),
        vm(json!({"workshop_id": 1})),
        vm(json!({"unknown": true})),
        vm(json!({"vcpus": 0})),
        vm(json!({"vcpus": 1000})),
        vm(json!({"memory_mb": 0})),
        vm(json!({"memory_mb": 4_000_000_000_u32})),
        vm(json!({"disk_mb": 1})),
        vm(json!({"env": {"": "x"}})),
        vm(json!({"env": {"A=B": "x"}})),
        vm(json!({"env": {"CLARATEACH_SECRET": "x"}})),
        vm(json!({"env": {"A": "x\u{0}"}})),
        vm(json!({"env": [1]})),
        vm(json!({"secret": "short"})),
        vm(json!({"secret": "with a blank at its end "})),
        vm(json!({"secret": "with\ttabs\tand\tmore"})),
        vm(json!({"egress": "everywhere"})),
        vm(json!({"readiness": "hope"})),
        vm(json!({"generation": 0})),
        vm(json!({"generation": -1})),
        vm(json!({"not_after": "tomorrow"})),
        vm(json!({"not_after": "2001-01-01T00:00:00Z"})),
        vm(json!({"image": ""})),
        vm(json!({"image": "a b"})),
        json!({"workshop_id": "w"}),
        json!({}),
        json!([]),
        json!("text"),
    ] {
        let refused = agent.post("/vms", body.clone()).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"), "{body}: {refused:?}");
    }
    assert_eq!(agent.world.count(), 0);
}

#[tokio::test]
async fn the_field_is_named() {
    let agent = Agent::new().await;
    for (body, named) in [
        (json!({"workshop_id": "a/b", "seat_id": 1}), "workshop_id: not a workshop id"),
        (json!({"workshop_id": "w", "seat_id": 0}), "seat_id: not a seat number"),
        (json!({"workshop_id": "w", "seat_id": 1, "vcpu": 2}), "unknown field `vcpu`"),
        (json!({"workshop_id": "w", "seat_id": 1, "vcpus": 0}), "vcpus: takes a whole number from 1 to 32"),
    ] {
        let refused = agent.post("/vms", body).await.refused(400, "invalid_request");
        assert!(refused.body["error"]["message"].as_str().unwrap().contains(named), "{refused:?}");
    }
}

#[tokio::test]
async fn bad_paths_are_refused() {
    let agent = Agent::new().await;
    let long = "a".repeat(300);
    for workshop in ["..%2f..%2fetc", "a%2Fb", "a.b", &long, "%C5%BC", "%ff", "%00", "-a"] {
        for (method, tail) in [(Method::GET, ""), (Method::DELETE, ""), (Method::GET, "/logs")] {
            let path = format!("/vms/{workshop}/1{tail}");
            answer(agent.request(method, &path)).await.refused(400, "invalid_request");
        }
    }
    for seat in ["0", "-1", "+1", "01", "1.0", "65536", "99999999999999999999", "x", "%20"] {
        agent.get(&format!("/vms/w/{seat}")).await.refused(400, "invalid_request");
        agent.delete(&format!("/vms/w/{seat}")).await.refused(400, "invalid_request");
    }
    for path in [
        "/vms?workshop_id=a/b",
        "/vms?workshop=w",
        "/watch?since=x",
        "/watch?until=1",
        "/images/resolve?image=",
        "/images/resolve?image=a%20b",
    ] {
        agent.get(path).await.refused(400, "invalid_request");
    }
    for query in ["wait=never", "wait=ready&timeout=0", "wait=ready&timeout=301", "wait=ready&timeout=x"] {
        let body = json!({"workshop_id": "w", "seat_id": 1});
        agent.post(&format!("/vms?{query}"), body).await.refused(400, "invalid_request");
    }
    // What is remembered for good would be followed by no generation that can be asked for.
    for generation in ["9007199254740993", "18446744073709551615", "18446744073709551616", "-1", "x"] {
        for more in ["", "&unless_begun=true"] {
            let path = format!("/vms/w/1?generation={generation}{more}");
            agent.delete(&path).await.refused(400, "invalid_request");
        }
    }
    agent.get("/vms/w/1/nothing").await.refused(404, "not_found");
    answer(agent.request(Method::PATCH, "/vms/w/1")).await.refused(405, "method_not_allowed");
    answer(agent.request(Method::POST, "/health")).await.refused(405, "method_not_allowed");
    assert_eq!(agent.world.count(), 0);
    assert_eq!(agent.vm("w", 1).await.body["generation"], 1);
}

#[tokio::test]
async fn bodies_that_are_none() {
    let agent = Agent::new().await;
    let post = |body: Vec<u8>, mime: &'static str| {
        answer(agent.request(Method::POST, "/vms").header("content-type", mime).body(body))
    };
    let whole = br#"{"workshop_id": "w", "seat_id": 1}"#.to_vec();
    post(whole.clone(), "application/x-www-form-urlencoded").await.refused(415, "unsupported_media_type");
    post(whole[..10].to_vec(), "application/json").await.refused(400, "invalid_request");
    post(vec![0xff; 10], "application/json").await.refused(400, "invalid_request");
    post(Vec::new(), "application/json").await.refused(400, "invalid_request");
    let large = format!(r#"{{"workshop_id": "w", "seat_id": 1, "env": {{"A": "{}"}}}}"#, "x".repeat(300_000));
    post(large.into_bytes(), "application/json").await.refused(413, "too_large");
    let deep = "[".repeat(100_000);
    post(format!(r#"{{"workshop_id": {deep}"#).into_bytes(), "application/json")
        .await
        .refused(400, "invalid_request");
    post(whole, "application/json; charset=utf-8").await.is(201);
}

#[tokio::test]
async fn an_image_that_is_missing_and_a_backend_that_is_away() {
    let agent = Agent::new().await;
    let wish = json!({"workshop_id": "w", "seat_id": 1, "image": "missing:1"});
    agent.post("/vms", wish).await.refused(422, "image_not_found");
    agent.get("/images/resolve?image=missing:1").await.refused(422, "image_not_found");
    agent.post("/images", json!({"image": "missing:1"})).await.refused(422, "image_not_found");
    agent.world.go_away("the host is asleep");
    let refused = agent.post("/vms", json!({"workshop_id": "w", "seat_id": 1})).await;
    let refused = refused.refused(503, "unavailable");
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("asleep"), "{refused:?}");
    agent.get("/vms").await.refused(503, "unavailable");
    agent.get("/health").await.is(200);
    agent.world.come_back();
    agent.vm("w", 1).await;
}

/// Every code is in the API's description with the status that it has.
#[test]
fn codes_are_described() {
    let description = serde_json::to_value(routes::description()).unwrap();
    let described = &description["components"]["schemas"]["AgentErrorCode"];
    for code in AgentErrorCode::ALL {
        let text = serde_json::to_value(code).unwrap();
        let text = text.as_str().unwrap();
        assert_eq!(text, text.to_lowercase());
        assert!(described.to_string().contains(&format!("\"{text}\"")), "{text} in {described}");
        assert!((400..600).contains(&code.status()));
    }
}
