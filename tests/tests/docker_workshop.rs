//! A workshop on Docker from its creation to its end, and the server killed at every moment of it.

use std::collections::BTreeMap;
use std::time::Duration;

use clarateach_testkit::docker::{TinyImage, available};
use clarateach_testkit::{leaks, seat_binary, skip, wait_for};
use clarateach_tests::{Server, ServerOptions, Terminal, all_ready, gone};
use serde_json::json;

const IMAGE: &str = "clarateach-test-e2e";

/// A server with Docker, or the reason why there is none.
async fn with_docker(test: &str) -> Option<Server> {
    let ready =
        available().and_then(|()| TinyImage::BUSYBOX.import(IMAGE)).and_then(|()| seat_binary::workspace());
    match ready {
        Ok(workspace) => {
            let options = ServerOptions::default()
                .env("WORKSPACE_BIN", workspace.to_str().unwrap())
                .env("DEFAULT_IMAGE", IMAGE);
            Some(Server::start(options).await)
        }
        Err(reason) => {
            skip(test, &reason);
            None
        }
    }
}

/// What the Engine still has of this server's: its containers, networks and volumes of seats.
fn left(workshop: &str) -> Vec<String> {
    leaks::docker(&format!("io.clarateach.workshop={workshop}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_workshop() {
    let Some(mut server) = with_docker("docker_workshop a_whole_workshop").await else { return };
    let (workshop, code) = server.create(json!({"name": "Test Workshop", "seats": 3})).await;
    let path = format!("/api/workshops/{workshop}");
    assert_eq!(server.get(&path).await.text("/workshop/runtime"), "docker");
    all_ready(&server, &workshop).await;
    assert!(!left(&workshop).is_empty(), "the count of what is left can count");

    let join =
        server.post("/api/join", json!({"code": code, "name": "Ada", "client_id": "browser-of-ada-1"})).await;
    let (endpoint, token) = (join.text("/endpoint"), join.text("/token"));
    let mut terminal = Terminal::open(&endpoint, "", &token).await.unwrap();
    terminal.type_in("id -u; pwd; echo mark-$((6*7))\n").await.unwrap();
    terminal.until("mark-42").await.unwrap();
    assert!(terminal.printed.contains("1000"), "{}", terminal.printed);

    let file = format!("{endpoint}/files/notes/hello.txt");
    let put = server
        .request("PUT", &file)
        .bearer_auth(&token)
        .json(&json!({"content": "héllo", "encoding": "utf-8"}));
    let put = server.send(put).await;
    assert!((200..300).contains(&put.status), "{put:?}");
    let read = server.send(server.request("GET", &file).bearer_auth(&token)).await;
    assert_eq!(read.body["content"], json!("héllo"), "{read:?}");

    // The server restarts: the seat, the shell and what it printed are still there.
    assert!(server.terminate(), "a graceful end");
    server.restart().await;
    let again = server.post("/api/join", json!({"code": code, "client_id": "browser-of-ada-1"})).await;
    assert_eq!(
        (again.body["seat"].as_u64(), again.body["returning"].as_bool()),
        (Some(1), Some(true)),
        "{again:?}"
    );
    let token = again.text("/token");
    let since = format!("?id=1&since={}", terminal.seq);
    let mut terminal = Terminal::open(&endpoint, &since, &token).await.unwrap();
    terminal.type_in("cat notes/hello.txt; echo; echo again-$((6*7))\n").await.unwrap();
    terminal.until("again-42").await.unwrap();
    assert!(terminal.printed.contains("héllo"), "{}", terminal.printed);

    assert_eq!(server.delete(&path).await.status, 202);
    let (close, reason) = terminal.closed().await;
    assert_eq!(close, 4001, "{reason}");
    gone(&server, &workshop).await;
    assert_eq!(left(&workshop), Vec::<String>::new());
    assert_eq!(server.get("/api/admin/vms").await.body["vms"], json!([]));
    assert_eq!(
        rows(&server),
        BTreeMap::from([("events", 0), ("seats", 0), ("sessions", 0), ("workshops", 0)])
    );
}

fn rows(server: &Server) -> BTreeMap<&'static str, u64> {
    let database = server.dir().join("clarateach.db");
    ["events", "seats", "sessions", "workshops"]
        .into_iter()
        .map(|table| {
            let count = leaks::run(
                "sqlite3",
                &[database.to_str().unwrap(), &format!("SELECT count(*) FROM {table}")],
            );
            (table, count.trim().parse().unwrap())
        })
        .collect()
}

/// A seated learner whose environment dies keeps seat and files, and everybody is told meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_seat_that_dies_is_restarted_on_its_own_disk() {
    let Some(server) =
        with_docker("docker_workshop a_held_seat_that_dies_is_restarted_on_its_own_disk").await
    else {
        return;
    };
    let (workshop, code) = server.create(json!({"name": "x", "seats": 1})).await;
    all_ready(&server, &workshop).await;
    let join = server.post("/api/join", json!({ "code": code })).await;
    let (endpoint, token, session) =
        (join.text("/endpoint"), join.text("/token"), join.text("/session_code"));
    let file = format!("{endpoint}/files/kept.txt");
    let put = server
        .request("PUT", &file)
        .bearer_auth(&token)
        .json(&json!({"content": "kept", "encoding": "utf-8"}));
    assert!(server.send(put).await.status < 300);
    let container = server.get("/api/admin/vms").await.text("/vms/0/handle");
    let _ = leaks::run("docker", &["kill", &container]);
    wait_for("it is seen", Duration::from_secs(10), || async {
        let view = server.get(&format!("/api/session/{session}")).await;
        (view.body["status"] == "unreachable").then_some(())
    })
    .await;
    wait_for("it is back", Duration::from_secs(60), || async {
        let view = server.get(&format!("/api/session/{session}")).await;
        (view.body["status"] == "ready").then_some(())
    })
    .await;
    let read = server.send(server.request("GET", &file).bearer_auth(&token)).await;
    assert_eq!(read.body["content"], json!("kept"), "{read:?}");
    server.delete(&format!("/api/workshops/{workshop}")).await;
    gone(&server, &workshop).await;
    assert_eq!(left(&workshop), Vec::<String>::new());
}

/// Somebody prunes the Engine. No learner is given an empty disk without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_seat_whose_disk_was_removed_waits_for_a_reset() {
    let Some(mut server) =
        with_docker("docker_workshop a_held_seat_whose_disk_was_removed_waits_for_a_reset").await
    else {
        return;
    };
    let (workshop, code) = server.create(json!({"name": "x", "seats": 1})).await;
    all_ready(&server, &workshop).await;
    let session = server.post("/api/join", json!({ "code": code })).await.text("/session_code");
    assert!(server.terminate(), "a graceful end");
    let label = format!("label=io.clarateach.workshop={workshop}");
    for list in [["container", "ls", "--all"].as_slice(), &["volume", "ls"]] {
        let found = leaks::run("docker", &[list, &["--quiet", "--filter", &label]].concat());
        let found: Vec<&str> = found.split_whitespace().collect();
        assert_eq!(found.len(), 1, "{list:?}: {found:?}");
        let _ = leaks::run("docker", &[list[0], "rm", "--force", found[0]]);
    }
    server.restart().await;
    let seats = format!("/api/workshops/{workshop}/seats");
    wait_for("the seat says that its disk is gone", Duration::from_secs(30), || async {
        (server.get(&seats).await.body["seats"][0]["reason_code"] == json!("DISK_GONE")).then_some(())
    })
    .await;
    let shown = server.get(&format!("/api/session/{session}")).await;
    assert_eq!(shown.body["status"], json!("unreachable"), "{shown:?}");
    assert_eq!(leaks::run("docker", &["ps", "-aq", "--filter", &label]), "", "nothing was made unasked");

    let reset = server.post(&format!("{seats}/1/reset"), json!({})).await;
    assert!((200..300).contains(&reset.status), "{reset:?}");
    wait_for("the learner has a fresh one", Duration::from_secs(60), || async {
        let view = server.get(&format!("/api/session/{session}")).await;
        (view.body["status"] == "ready").then_some(())
    })
    .await;
    assert_eq!(server.delete(&format!("/api/workshops/{workshop}")).await.status, 202);
    gone(&server, &workshop).await;
}

/// kill -9 at random moments of creating, joining, working and deleting. `CLARATEACH_KILLS` sets how often.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_it_loses_nothing_and_leaves_nothing() {
    let Some(mut server) =
        with_docker("docker_workshop killed_at_random_moments_it_loses_nothing_and_leaves_nothing").await
    else {
        return;
    };
    let kills: u32 = std::env::var("CLARATEACH_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let (kept, code) = server.create(json!({"name": "kept", "seats": 2})).await;
    all_ready(&server, &kept).await;
    let learner = json!({"code": code, "client_id": "the-learner-who-stays"});
    let join = server.post("/api/join", learner.clone()).await;
    let (endpoint, session, seat) =
        (join.text("/endpoint"), join.text("/session_code"), join.body["seat"].clone());
    let mut terminal = Terminal::open(&endpoint, "", &join.text("/token")).await.unwrap();
    let epoch = terminal.epoch.clone();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut others: Vec<String> = Vec::new();
    for round in 0..kills {
        // The shell counts on whether anybody is connected or not.
        terminal.type_in(&format!("echo round-{round}-$((6*7))\n")).await.unwrap();
        terminal.until(&format!("round-{round}-42")).await.unwrap();
        let seen = terminal.seq;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Duration::from_millis(random % 700);
        let busy = async {
            let made = server.post("/api/workshops", json!({"name": "short", "seats": 2})).await;
            if made.status == 201 {
                let (id, code) = (made.text("/workshop/id"), made.text("/workshop/join_code"));
                others.push(id.clone());
                for n in 0..3 {
                    server
                        .post(
                            "/api/join",
                            json!({"code": code, "client_id": format!("visitor-number-{n:04}")}),
                        )
                        .await;
                }
                server.delete(&format!("/api/workshops/{id}")).await;
            }
            std::future::pending::<()>().await;
        };
        let _ = tokio::time::timeout(moment, busy).await;
        server.kill_and_restart().await;

        let view = wait_for("the learner's seat answers", Duration::from_secs(60), || async {
            let view = server.get(&format!("/api/session/{session}")).await;
            (view.body["status"] == "ready").then_some(view)
        })
        .await;
        assert_eq!(view.body["seat"], seat, "the same seat");
        let query = format!("?id=1&since={seen}");
        let printed = std::mem::take(&mut terminal.printed);
        terminal = Terminal::open(&endpoint, &query, &view.text("/token")).await.unwrap();
        assert_eq!(terminal.epoch, epoch, "the same shell in the same environment");
        terminal.printed = printed;
    }
    terminal.type_in("echo over-$((6*7))\n").await.unwrap();
    terminal.until("over-42").await.unwrap();
    let rounds = (0..kills).filter(|round| terminal.printed.contains(&format!("round-{round}-42"))).count();
    assert_eq!(rounds, kills as usize, "nothing that was printed is missing");

    for view in server.get("/api/workshops").await.body["workshops"].as_array().unwrap() {
        if view["id"] != json!(kept) {
            others.push(view["id"].as_str().unwrap().to_owned());
        }
    }
    others.push(kept);
    others.sort();
    others.dedup();
    for id in &others {
        server.delete(&format!("/api/workshops/{id}")).await;
        gone(&server, id).await;
    }
    for id in &others {
        assert_eq!(left(id), Vec::<String>::new());
    }
    assert_eq!(server.get("/api/admin/vms").await.body["vms"], json!([]));
}
