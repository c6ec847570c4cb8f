//! The documented manual flow, and an agent that is restarted under a learner.

use std::process::Output;

use clarateach_microvm::net::ping;
use clarateach_testkit::{leaks, wait_for};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::worker::{PATIENCE, TOKEN, Worker, in_own_network, possible};

/// Types into a terminal of the seat until its output holds `wanted`.
async fn terminal(seat: u32, typed: &str, wanted: &str) {
    let url = format!("ws://127.0.0.1:9090/proxy/test/{seat}/terminal");
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let input = json!({"type": "input", "data": typed}).to_string();
    socket.send(Message::Text(input.into())).await.unwrap();
    let mut shown = String::new();
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            let Ok(text) = message.into_text() else { continue };
            let Ok(frame) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
            shown.push_str(frame["data"].as_str().unwrap_or_default());
            if shown.contains(wanted) {
                return;
            }
        }
    };
    let done = tokio::time::timeout(PATIENCE, read).await;
    assert!(done.is_ok() && shown.contains(wanted), "no {wanted:?} in {shown:?}");
}

#[test]
fn a_vm_is_created_used_and_deleted() {
    if !possible("agent: a_vm_is_created_used_and_deleted") {
        return;
    }
    in_own_network(|| async {
        let mut worker = Worker::new();
        // As Docker has it; the agent puts its own accepts in.
        let foreign = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
        let _ = leaks::run("nft", &[foreign]);
        worker.start().await;
        assert!(leaks::run("nft", &["list", "table", "ip", "filter"]).contains("clarateach0"));
        assert_refused(&worker.remove_network(), "another agent is running");
        std::fs::write(worker.images().join("torn.ext4"), [0; 4096]).unwrap();
        let torn = json!({"workshop_id": "test", "seat_id": 1, "image": "torn"});
        let (status, refused) = worker.call(Method::POST, "/vms", Some(torn)).await;
        assert_eq!((status, &refused["error"]["code"]), (422, &json!("rootfs_unusable")), "{refused}");
        let vm = worker.vm(1).await;
        assert_eq!(vm["ip"], "192.168.100.11");
        assert_eq!(worker.vms().await.len(), 1);
        wait_for("a ping", PATIENCE, async || {
            ping("192.168.100.11".parse().unwrap()).await.unwrap().then_some(())
        })
        .await;

        let file = "/proxy/test/1/files/hello.txt";
        let content = json!({"content": "still here", "encoding": "utf-8"});
        let (status, answer) = worker.call(Method::PUT, file, Some(content)).await;
        assert!((200..300).contains(&status), "{answer}");
        terminal(1, "cat hello.txt; echo $((6*7))ok\n", "42ok").await;

        // An upgrade: the learner's machine and shell go on.
        assert_eq!(worker.stop(Signal::TERM), Some(0));
        assert_refused(&worker.remove_network(), "1 VMs of this agent are running");
        worker.start().await;
        let (_, after) = worker.call(Method::GET, "/vms/test/1", None).await;
        assert_eq!((&after["handle"], &after["ip"]), (&vm["handle"], &vm["ip"]), "{after}");
        wait_for("the seat after the restart", PATIENCE, async || {
            let (status, answer) = worker.call(Method::GET, file, None).await;
            (status == 200).then(|| assert_eq!(answer["content"], "still here"))
        })
        .await;
        terminal(1, "echo $((6*9))again\n", "54again").await;

        worker.delete(1).await;
        assert_eq!(worker.call(Method::GET, "/vms/test/1", None).await.0, 404);
        assert_eq!(worker.leftovers(), Vec::<String>::new());
        assert_eq!(worker.stop(Signal::TERM), Some(0));

        let removed = worker.remove_network();
        assert!(removed.status.success(), "{removed:?}");
        assert_eq!(leaks::run("ip", &["-br", "link"]).lines().count(), 1);
        assert_eq!(leaks::run("nft", &["list", "tables"]).trim(), "table ip filter");
        assert!(!leaks::run("nft", &["list", "table", "ip", "filter"]).contains("clarateach0"));
    });
}

#[track_caller]
fn assert_refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(why), "no {why:?} in {said:?}");
}
