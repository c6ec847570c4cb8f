//! Several servers on one PostgreSQL.

use std::time::{Duration, Instant};

use clarateach_server::start_with;
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::{skip, wait_for};
use serde_json::json;

use super::harness::{Hosts, PATIENCE, Server, config};

const KEY: &str = "a-server-key-of-at-least-32-characters";

fn postgres(name: &str) -> Option<PrivatePostgres> {
    PrivatePostgres::start().map_err(|why| skip(name, &why)).ok()
}

async fn server(hosts: &Hosts, url: &str) -> Server {
    let setting = hosts.setting();
    Server::with(hosts, &[("WORKER_AGENTS", &setting), ("DATABASE_URL", url), ("SERVER_KEY", KEY)]).await
}

fn held(server: &Server) -> usize {
    server.running.as_ref().unwrap().app.leases.held().0.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_the_work_and_one_takes_over() {
    let Some(postgres) = postgres("two_servers_share_the_work_and_one_takes_over") else { return };
    let url = postgres.database("two");
    let hosts = Hosts::new(3, 20);
    let mut first = server(&hosts, &url).await;
    let second = server(&hosts, &url).await;
    wait_for("each holds its share", PATIENCE, || async {
        (held(&first) == 4 && held(&second) == 4).then_some(())
    })
    .await;
    for name in ["w1", "w2", "w3"] {
        first.until_worker(name, "alive").await;
        second.until_worker(name, "alive").await;
    }
    // Enough that both have some to decide for.
    let mut workshops = Vec::new();
    for n in 0..6 {
        let by = if n % 2 == 0 { &first } else { &second };
        workshops.push(by.create(3).await);
    }
    for (workshop, _) in &workshops {
        first.until(workshop, &["ready"]).await;
    }
    assert_eq!(hosts.counts().iter().sum::<usize>(), 18);
    // A learner may come to any of them, and finds the seat through any of them.
    let joined = second.join(&workshops[0].1, 1).await;
    let seat = joined["seat"].as_u64().unwrap();
    let again = first.join(&workshops[0].1, 1).await;
    assert_eq!(again["seat"], joined["seat"]);
    let token = joined["token"].as_str().unwrap();
    for server in [&first, &second] {
        let address = server.running.as_ref().unwrap().address;
        let url = format!("http://{address}/proxy/{}/{seat}/health", workshops[0].0);
        let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
    }
    // One dies without a word. What is wanted through the other is done, its shards included.
    first.kill();
    let died = Instant::now();
    for (workshop, _) in &workshops {
        second.delete(workshop).await;
    }
    for (workshop, _) in &workshops {
        second.until_gone(workshop).await;
    }
    assert!(died.elapsed() < Duration::from_secs(15), "{:?}", died.elapsed());
    assert_eq!(hosts.counts(), [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_stops_gives_its_leases_back_at_once() {
    let Some(postgres) = postgres("what_one_server_stops_gives_its_leases_back_at_once") else { return };
    let url = postgres.database("stop");
    let hosts = Hosts::new(1, 20);
    let mut first = server(&hosts, &url).await;
    let second = server(&hosts, &url).await;
    wait_for("each holds its share", PATIENCE, || async {
        (held(&first) == 4 && held(&second) == 4).then_some(())
    })
    .await;
    first.running.take().unwrap().stop().await;
    let stopped = Instant::now();
    wait_for("the other holds all", PATIENCE, || async { (held(&second) == 8).then_some(()) }).await;
    // The sign of life of the first lasts a lease longer than itself.
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_is_refused_and_none_is_too() {
    let Some(postgres) = postgres("another_key_is_refused_and_none_is_too") else { return };
    let url = postgres.database("keys");
    let hosts = Hosts::new(1, 20);
    let first = server(&hosts, &url).await;
    let dir = tempfile::tempdir().unwrap();
    let other = config(
        dir.path(),
        &[("DATABASE_URL", &url), ("SERVER_KEY", "another-server-key-of-at-least-32-letters")],
    );
    let connect = std::sync::Arc::new(|_| Err("nobody".to_owned()));
    let error = start_with(other, connect.clone()).await.unwrap_err().to_string();
    assert!(error.contains("SERVER_KEY"), "{error}");
    let without = config(dir.path(), &[("DATABASE_URL", &url)]);
    let error = start_with(without, connect).await.unwrap_err().to_string();
    assert!(error.starts_with("DATABASE_URL: PostgreSQL needs SERVER_KEY"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written here");
    assert_eq!(std::fs::read_dir(first.dir.path()).unwrap().count(), 0, "nor by the one that runs");
    let answer = first
        .call("POST", "/api/workshops", Some(json!({"name": "x", "seats": 1, "runtime": "docker"})))
        .await;
    assert_eq!(
        (answer.status, &answer.body["error"]["code"]),
        (422, &json!("NO_RUNTIME")),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_and_comes_back_is_survived() {
    let Some(mut postgres) = postgres("a_database_that_goes_away_and_comes_back_is_survived") else { return };
    let url = postgres.database("away");
    let hosts = Hosts::new(2, 20);
    let server = server(&hosts, &url).await;
    server.until_worker("w1", "alive").await;
    server.until_worker("w2", "alive").await;
    let (workshop, code) = server.create(4).await;
    server.until(&workshop, &["ready"]).await;
    postgres.kill();
    wait_for("the server says so", PATIENCE, || async {
        (server.call("GET", "/api/ready", None).await.status == 503).then_some(())
    })
    .await;
    let joined = server.call("POST", "/api/join", Some(json!({"code": code}))).await;
    assert_eq!((joined.status, &joined.body["error"]["code"]), (503, &json!("STORE_UNAVAILABLE")));
    assert_eq!(hosts.counts().iter().sum::<usize>(), 4, "seats go on");
    postgres.resume();
    wait_for("the server is ready again", PATIENCE, || async {
        (server.call("GET", "/api/ready", None).await.status == 200).then_some(())
    })
    .await;
    server.join(&code, 1).await;
    server.delete(&workshop).await;
    server.until_gone(&workshop).await;
    assert_eq!(hosts.counts(), [0, 0]);
}
