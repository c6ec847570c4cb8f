//! Who may call.

use clarateach_agent::routes;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Agent, METRICS_TOKEN, TOKEN, answer};

/// Every method and path of the API's own description.
fn calls() -> Vec<(Method, String)> {
    let description = serde_json::to_value(routes::description()).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let mut calls = Vec::new();
    for (path, methods) in paths {
        let path = path.replace("{workshop}", "w").replace("{seat}", "1").replace("{port}", "workspace");
        for method in methods.as_object().unwrap().keys() {
            if let Ok(method) = method.to_uppercase().parse::<Method>()
                && ["GET", "PUT", "POST", "DELETE"].contains(&method.as_str())
            {
                calls.push((method, path.clone()));
            }
        }
    }
    assert!(calls.len() >= 17, "{calls:?}");
    calls
}

#[tokio::test]
async fn every_call_but_health_needs_the_token() {
    let agent = Agent::new().await;
    let mut calls = calls();
    calls.retain(|(_, path)| path != "/health");
    for path in ["/openapi.json", "/nothing/here", "/", "/proxy", "/vms/", "/HEALTH"] {
        calls.push((Method::GET, path.to_owned()));
    }
    for (number, (method, path)) in calls.into_iter().enumerate() {
        let bare = agent.http.request(method.clone(), agent.url(&path)).json(&json!({"nonsense": 1}));
        let shown = match number % 4 {
            0 => bare,
            1 => bare.bearer_auth("wrong"),
            2 => bare.header("authorization", format!("Basic {TOKEN}")),
            _ => bare.bearer_auth(METRICS_TOKEN.to_uppercase()),
        };
        let refused = answer(shown).await;
        assert_eq!((refused.status, refused.code()), (401, "unauthorized"), "{method} {path}: {refused:?}");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        assert!(!refused.body.to_string().contains("nonsense"), "{refused:?}");
    }
    answer(agent.http.get(agent.url("/health"))).await.is(200);
}

#[tokio::test]
async fn the_token_opens_every_call_of_the_description() {
    let agent = Agent::new().await;
    for (method, path) in calls() {
        let got = answer(agent.request(method.clone(), &path).json(&json!({}))).await;
        assert!(!matches!(got.status, 401 | 403 | 405 | 500), "{method} {path}: {got:?}");
        assert!(got.headers.contains_key("x-request-id"), "{method} {path}");
    }
    let described = agent.get("/openapi.json").await.is(200);
    assert_eq!(described.body, serde_json::to_value(routes::description()).unwrap());
}

#[tokio::test]
async fn two_tokens_in_one_request_are_none() {
    let agent = Agent::new().await;
    let request = agent.request(Method::GET, "/vms").header("authorization", format!("Bearer {TOKEN}"));
    answer(request).await.refused(401, "unauthorized");
    let request = agent.http.get(agent.url(&format!("/vms?token={TOKEN}&access_token={TOKEN}")));
    answer(request).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn guessing_is_slowed_down_and_the_right_token_still_works() {
    let agent = Agent::new().await;
    let mut last = 0;
    for guess in 0..200 {
        let refused = answer(agent.http.get(agent.url("/info")).bearer_auth(format!("guess-{guess}"))).await;
        last = refused.status;
        if last == 429 {
            refused.refused(429, "too_many_attempts");
            break;
        }
    }
    assert_eq!(last, 429);
    agent.get("/info").await.is(200);
    // Guesses through the learners' door count as well.
    let seat = agent.http.get(agent.url("/proxy/w/1/files")).bearer_auth("guess");
    answer(seat).await.refused(429, "too_many_attempts");
}

#[tokio::test]
async fn the_metrics_token_opens_metrics_only() {
    let agent = Agent::new().await;
    let scraped = answer(agent.http.get(agent.url("/metrics")).bearer_auth(METRICS_TOKEN)).await.is(200);
    let Value::String(text) = scraped.body else { panic!("metrics are text") };
    for name in ["clarateach_agent_capacity 50", "clarateach_agent_draining 0", "clarateach_agent_vms{"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    answer(agent.http.get(agent.url("/info")).bearer_auth(METRICS_TOKEN)).await.refused(401, "unauthorized");
    agent.get("/metrics").await.is(200);
}
