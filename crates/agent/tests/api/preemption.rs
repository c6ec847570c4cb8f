//! GCP takes the worker's host away, as its metadata server announces it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::routing::get;
use clarateach_testkit::wait_for;
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{Agent, TOKEN, quick};

/// docs/seat-api.md.
const CLOSE_SEAT_LOST: u16 = 4002;

/// A metadata server that holds a question open until the answer changes, as Compute Engine's does.
#[derive(Clone)]
struct Metadata {
    preempted: watch::Sender<bool>,
    asked: Arc<AtomicUsize>,
}

impl Metadata {
    async fn start() -> (Self, String) {
        let metadata = Self { preempted: watch::Sender::new(false), asked: Arc::default() };
        let path = "/computeMetadata/v1/instance/preempted";
        let router = Router::new().route(path, get(preempted)).with_state(metadata.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (metadata, address)
    }
}

async fn preempted(
    State(metadata): State<Metadata>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> ([(&'static str, &'static str); 2], &'static str) {
    assert_eq!(headers["metadata-flavor"], "Google");
    metadata.asked.fetch_add(1, Ordering::Relaxed);
    let mut now = metadata.preempted.subscribe();
    if query.is_some_and(|query| query.contains("wait_for_change=true") && query.contains("last_etag=no")) {
        let _ = now.wait_for(|preempted| *preempted).await;
    }
    let (etag, text) = if *now.borrow() { ("yes", "TRUE") } else { ("no", "FALSE") };
    ([("metadata-flavor", "Google"), ("etag", etag)], text)
}

#[tokio::test]
async fn a_preempted_worker_drains_and_tells_its_learners() {
    let (metadata, host) = Metadata::start().await;
    let settings = vec![("METADATA", "on".to_owned()), ("GCE_METADATA_HOST", host)];
    let mut agent = Agent::set(quick(), settings).await;
    agent.vm("w", 1).await;
    let before = agent.get("/info").await.is(200);
    assert_eq!((&before.body["preempted"], &before.body["draining"]), (&json!(false), &json!(false)));
    let mut request = format!("ws://{}/proxy/w/1/terminal", agent.authority()).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let (mut terminal, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let revision = agent.get("/watch").await.is(200).body["revision"].as_u64().unwrap();
    wait_for("the agent to wait for news", Duration::from_secs(10), async || {
        (metadata.asked.load(Ordering::Relaxed) == 2).then_some(())
    })
    .await;

    metadata.preempted.send_replace(true);
    // Whoever watches hears of it.
    agent.get(&format!("/watch?since={revision}")).await.is(200);
    let info = agent.get("/info").await.is(200);
    assert_eq!((&info.body["preempted"], &info.body["draining"]), (&json!(true), &json!(true)));
    agent.post("/vms", json!({"workshop_id": "w", "seat_id": 2})).await.refused(503, "draining");
    let wish = json!({"generation": 1, "image": "default", "vcpus": 1, "memory_mb": 256, "disk_mb": 1024,
                      "secret": "0123456789abcdef"});
    agent.put("/vms/w/1", wish).await.refused(503, "draining");
    let close = loop {
        if let Message::Close(frame) = terminal.next().await.expect("a close frame").unwrap() {
            break frame.expect("a code");
        }
    };
    assert_eq!(u16::from(close.code), CLOSE_SEAT_LOST);
    assert!(close.reason.contains("host"), "{close:?}");
    agent.get("/vms/w/1").await.is(200);
    agent.delete("/vms/w/1").await.is(204);
    assert!(metadata.asked.load(Ordering::Relaxed) < 5, "it asks all the time");

    // Where the metadata server says that it isn't so, it isn't.
    metadata.preempted.send_replace(false);
    agent.restart().await;
    let info = agent.get("/info").await.is(200);
    assert_eq!((&info.body["preempted"], &info.body["draining"]), (&json!(false), &json!(false)));
}

#[tokio::test]
async fn an_agent_that_starts_again_before_the_end_remembers_it() {
    let (metadata, host) = Metadata::start().await;
    let settings = vec![("METADATA", "on".to_owned()), ("GCE_METADATA_HOST", host)];
    let mut agent = Agent::set(quick(), settings).await;
    agent.vm("w", 1).await;
    metadata.preempted.send_replace(true);
    wait_for("the agent to be told", Duration::from_secs(10), async || {
        (agent.get("/info").await.is(200).body["preempted"] == true).then_some(())
    })
    .await;

    // The metadata server may be gone before the instance is.
    agent.change("GCE_METADATA_HOST", "127.0.0.1:1");
    agent.restart().await;
    let info = agent.get("/info").await.is(200);
    assert_eq!((&info.body["preempted"], &info.body["draining"]), (&json!(true), &json!(true)));
    agent.post("/vms", json!({"workshop_id": "w", "seat_id": 2})).await.refused(503, "draining");

    // Who does not follow the notice is not held to it.
    agent.change("METADATA", "off");
    agent.restart().await;
    assert_eq!(agent.get("/info").await.is(200).body["preempted"], false);
    agent.vm("w", 2).await;
}

#[tokio::test]
async fn an_agent_whose_metadata_server_is_none_serves_all_the_same() {
    for host in ["127.0.0.1:1", "no-such-host.invalid"] {
        let settings = vec![("METADATA", "on".to_owned()), ("GCE_METADATA_HOST", host.to_owned())];
        let mut agent = Agent::set(quick(), settings).await;
        agent.vm("w", 1).await;
        assert_eq!(agent.get("/info").await.is(200).body["preempted"], false);
        let began = std::time::Instant::now();
        agent.running.take().unwrap().stop().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
