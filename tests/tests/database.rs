//! An older database is restored under a server whose seats have gone on, and a database is moved to PostgreSQL, as
//! docs/database.md says.

use std::process::{Command, Output};
use std::time::Duration;

use clarateach_testkit::postgres::{PASSWORD, PrivatePostgres};
use clarateach_testkit::{seat_binary, skip, wait_for};
use clarateach_tests::{Server, ServerOptions, all_ready, gone, server_binary};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// Seats that are real and outlive the server.
fn with_processes(workspace: &std::path::Path) -> ServerOptions {
    ServerOptions::default()
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .env("VMM", "off")
        .env("WORKSPACE_BIN", workspace.to_str().unwrap())
}

async fn seat(server: &Server, workshop: &str, n: usize) -> Value {
    server.get(&format!("/api/workshops/{workshop}/seats")).await.body["seats"][n - 1].clone()
}

async fn seat_is(server: &Server, workshop: &str, n: usize, status: &str) -> Value {
    wait_for(&format!("seat {n} to be {status}"), PATIENCE, || async {
        let seat = seat(server, workshop, n).await;
        (seat["status"] == status).then_some(seat)
    })
    .await
}

fn sqlite3(server: &Server, command: &str) {
    let output =
        Command::new("sqlite3").arg(server.dir().join("clarateach.db")).arg(command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_older_database_gives_nobody_anothers_seat() {
    let workspace = match seat_binary::workspace() {
        Ok(workspace) => workspace,
        Err(reason) => return skip("a_restored_older_database_gives_nobody_anothers_seat", &reason),
    };
    let mut server = Server::start(with_processes(&workspace)).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 3, "runtime": "process"})).await;
    all_ready(&server, &workshop).await;
    let join = async |server: &Server, name: &str| {
        let wish = json!({"code": code, "name": name, "client_id": format!("the-browser-of-{name}")});
        let answer = server.post("/api/join", wish).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    };
    let ada = join(&server, "Ada").await;
    let ben = join(&server, "Ben").await;
    let backup = server.dir().join("backup.db");
    sqlite3(&server, &format!(".backup '{}'", backup.display()));

    // After it: Ben's seat is made anew, and Cem comes and works.
    let path = format!("/api/workshops/{workshop}");
    assert_eq!(server.post(&format!("{path}/seats/2/reset"), json!({})).await.status, 202);
    wait_for("Ben's new seat", PATIENCE, || async {
        let seat = seat(&server, &workshop, 2).await;
        (seat["status"] == "occupied" && seat["generation"] == 2).then_some(())
    })
    .await;
    let cem = join(&server, "Cem").await;
    assert_eq!(cem.body["seat"], 3);
    let file = format!("{}/files/secret.txt", cem.text("/endpoint"));
    let put = reqwest::Client::new().put(&file).bearer_auth(cem.text("/token"));
    let put = put.json(&json!({"content": "Cem's", "encoding": "utf-8"})).send().await.unwrap();
    assert!(put.status().is_success(), "{}", put.status());

    server.kill();
    for journal in ["clarateach.db-wal", "clarateach.db-shm"] {
        let _ = std::fs::remove_file(server.dir().join(journal));
    }
    std::fs::copy(&backup, server.dir().join("clarateach.db")).unwrap();
    let page = include_str!("../../docs/database.md");
    sqlite3(&server, page.lines().find(|line| line.starts_with("UPDATE seats SET")).unwrap());
    server.restart().await;

    // Ada goes on as if nothing had happened.
    let seen = seat_is(&server, &workshop, 1, "occupied").await;
    assert_eq!((seen["learner"].as_str(), seen["generation"].as_u64()), (Some("Ada"), Some(1)));
    let back = server.get(&format!("/api/session/{}", ada.text("/session_code"))).await;
    assert_eq!((back.body["status"].as_str(), back.body["seat"].as_u64()), (Some("ready"), Some(1)));
    // Ben's seat is newer than the database: shown, and left to a person.
    let seen = seat_is(&server, &workshop, 2, "unreachable").await;
    assert_eq!(seen["reason_code"], "NEWER_ENVIRONMENT", "{seen}");
    assert_eq!(seen["learner"], "Ben");
    let view = server.get(&format!("/api/session/{}", ben.text("/session_code"))).await;
    assert_eq!(view.body["status"], "unreachable", "{view:?}");
    let again = join(&server, "Ben").await;
    assert_eq!((again.text("/status").as_str(), again.body["seat"].as_u64()), ("unreachable", Some(2)));
    // Cem is not known any more, and who gets the seat finds nothing of Cem's.
    let cems = server.get(&format!("/api/session/{}", cem.text("/session_code"))).await;
    assert_eq!(cems.status, 404, "{cems:?}");
    seat_is(&server, &workshop, 3, "ready").await;
    let dora = join(&server, "Dora").await;
    assert_eq!(dora.body["seat"], 3);
    let file = format!("{}/files/secret.txt", dora.text("/endpoint"));
    let got = reqwest::Client::new().get(&file).bearer_auth(dora.text("/token")).send().await.unwrap();
    assert_eq!(got.status(), 404, "Dora finds what Cem left");

    // A person decides: reset until it is newer than what runs.
    wait_for("Ben's seat after a reset", PATIENCE, || async {
        let before = seat(&server, &workshop, 2).await;
        if before["status"] == "unreachable" {
            server.post(&format!("{path}/seats/2/reset"), json!({})).await;
        }
        (before["status"] == "occupied").then_some(())
    })
    .await;
    assert_eq!(server.delete(&path).await.status, 202);
    gone(&server, &workshop).await;
    assert_eq!(server.get("/api/admin/vms").await.body["vms"], json!([]));
}

fn migrate(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(server_binary());
    command.arg("migrate-database").args(arguments).envs(env.iter().copied()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_a_stopped_server_is_moved() {
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("the_database_of_a_stopped_server_is_moved", &reason),
    };
    let url = postgres.database("teach");
    let mut server = Server::start(ServerOptions::simulated()).await;
    let (workshop, code) = server
        .create(json!({"name": "x", "seats": 2, "runtime": "simulated", "env": {"KEY": "sealed"}}))
        .await;
    all_ready(&server, &workshop).await;
    let joined = server.post("/api/join", json!({"code": code, "client_id": "one-of-many-browsers"})).await;
    assert_eq!(joined.status, 200, "{joined:?}");
    let file = server.dir().join("clarateach.db").display().to_string();

    let said = |output: &Output| {
        let text = [&output.stdout[..], &output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains(PASSWORD) && !text.contains("pass-word"), "{text}");
        text
    };
    let running = migrate(&["--from", &file, "--to", &url], &[]);
    assert!(!running.status.success() && said(&running).contains("in use by another server"), "{running:?}");
    assert_eq!(said(&running).lines().count(), 1);
    assert!(server.terminate());
    let moved = migrate(&["--from", &file], &[("DATABASE_URL", &url)]);
    let text = said(&moved);
    assert!(moved.status.success(), "{text}");
    for line in ["workshops", "sessions", "seats", "Rows and digests of both sides are equal", "server.key"] {
        assert!(text.contains(line), "{text}");
    }
    let again = migrate(&[&format!("--from={file}"), &format!("--to={url}")], &[]);
    assert!(again.status.success() && said(&again).contains("already"), "{again:?}");

    // The next server goes on where the other stopped, with the same key and with no other.
    let key = std::fs::read_to_string(server.dir().join("clarateach.state/server.key")).unwrap();
    let options = ServerOptions::simulated().env("DATABASE_URL", &url);
    let mut other = Command::new("timeout");
    other.arg("30").arg(server_binary()).envs(options.env.iter().map(|(name, value)| (name, value)));
    let other = other.env("PORT", "0").env("SERVER_KEY", "k".repeat(40)).output().unwrap();
    assert!(!other.status.success() && said(&other).contains("SERVER_KEY"), "{other:?}");
    let mut next = Server::start(options.env("SERVER_KEY", key.trim())).await;
    let view = next.get(&format!("/api/workshops/{workshop}")).await;
    assert_eq!((view.status, view.text("/workshop/join_code")), (200, code));
    let session = next.get(&format!("/api/session/{}", joined.text("/session_code"))).await;
    assert_eq!((session.status, &session.body["seat"]), (200, &joined.body["seat"]), "{session:?}");
    assert!(next.terminate());
    let other = migrate(&["--from", &file, "--to", &url], &[]);
    assert!(!other.status.success() && said(&other).contains("not empty"), "{other:?}");

    let wrong = migrate(&["--from", &file, "--to", "postgres://me:pass-word@host:port/x"], &[]);
    assert!(!wrong.status.success() && said(&wrong).contains("--to"), "{wrong:?}");
    let nothing = migrate(&["--from", "/nonexistent/clarateach.db", "--to", &url], &[]);
    assert!(
        !nothing.status.success() && said(&nothing).contains("/nonexistent/clarateach.db"),
        "{nothing:?}"
    );
}
