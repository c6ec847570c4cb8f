//! Real guests on a host that is taken away, and comes back.

use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::routing::get;
use clarateach_testkit::wait_for;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::watch;

use crate::worker::{PATIENCE, Worker, in_own_network, possible};

/// A metadata server that says `preempted`, and holds a question open until that changes.
async fn metadata(preempted: watch::Sender<bool>) -> String {
    let answer = move |RawQuery(query): RawQuery| {
        let mut now = preempted.subscribe();
        async move {
            let etag = |preempted: bool| if preempted { "yes" } else { "no" };
            if query.is_some_and(|query| query.contains(&format!("last_etag={}", etag(*now.borrow())))) {
                let _ = now.changed().await;
            }
            let preempted = *now.borrow();
            let text = if preempted { "TRUE" } else { "FALSE" };
            ([("metadata-flavor", "Google"), ("etag", etag(preempted))], text)
        }
    };
    let router = Router::new().route("/computeMetadata/v1/instance/preempted", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[test]
fn guests_of_a_preempted_host_switch_off_and_come_back_with_what_was_written() {
    if !possible("agent: guests_of_a_preempted_host_switch_off_and_come_back_with_what_was_written") {
        return;
    }
    in_own_network(|| async {
        let preempted = watch::Sender::new(false);
        let host = metadata(preempted.clone()).await;
        let mut worker = Worker::new();
        worker.set("METADATA", "on");
        worker.set("GCE_METADATA_HOST", &host);
        worker.start().await;
        let vm = worker.vm(1).await;
        let file = "/proxy/test/1/files/late.txt";
        let content = json!({"content": "just in time", "encoding": "utf-8"});
        let (status, answer) = worker.call(Method::PUT, file, Some(content)).await;
        assert!((200..300).contains(&status), "{answer}");

        preempted.send_replace(true);
        wait_for("the guest to have switched off", Duration::from_secs(25), async || {
            let (_, vm) = worker.call(Method::GET, "/vms/test/1", None).await;
            (vm["status"] == "stopped").then_some(())
        })
        .await;
        let (_, info) = worker.call(Method::GET, "/info", None).await;
        assert_eq!((&info["preempted"], &info["draining"]), (&json!(true), &json!(true)));
        let wish = json!({"generation": vm["generation"], "image": "default", "vcpus": 1, "memory_mb": 256,
                          "disk_mb": 256, "secret": "0123456789abcdef"});
        let (status, _) = worker.call(Method::PUT, "/vms/test/1", Some(wish.clone())).await;
        assert_eq!(status, 503, "it would be started again");
        assert_eq!(worker.stop(Signal::TERM), Some(0));

        preempted.send_replace(false);
        worker.start().await;
        let (status, answer) = worker.call(Method::PUT, "/vms/test/1", Some(wish)).await;
        assert_eq!(status, 204, "{answer}");
        wait_for("the file on the disk that it had", PATIENCE, async || {
            let (status, answer) = worker.call(Method::GET, file, None).await;
            (status == 200).then(|| assert_eq!(answer["content"], "just in time"))
        })
        .await;
        worker.delete(1).await;
        assert_eq!(worker.leftovers(), Vec::<String>::new());
        assert_eq!(worker.stop(Signal::TERM), Some(0));
    });
}
