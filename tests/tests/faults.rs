//! The database fails under a running server: a clear status, nothing lost, and on it goes without a restart.

use std::process::{Command, Stdio};
use std::time::Duration;

use clarateach_testkit::{leaks, wait_for};
use clarateach_tests::{Server, ServerOptions, all_ready};
use serde_json::json;

/// Holds SQLite's exclusive lock until dropped.
struct Locked(std::process::Child);

impl Locked {
    fn hold(database: &std::path::Path) -> Self {
        let mut shell = Command::new("sqlite3")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3 (scripts/install-tools.sh test)");
        use std::io::{BufRead, BufReader, Write};
        shell.stdin.as_mut().unwrap().write_all(b"BEGIN EXCLUSIVE; SELECT 'locked';\n").unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        Self(shell)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_is_waited_for_then_refused_then_used_again() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 2, "runtime": "simulated"})).await;
    all_ready(&server, &workshop).await;
    let lock = Locked::hold(&server.dir().join("clarateach.db"));
    let join = json!({"code": code, "client_id": "a-patient-browser"});
    let refused = server.post("/api/join", join.clone()).await;
    assert_eq!((refused.status, refused.code()), (503, "STORE_UNAVAILABLE"), "{refused:?}");
    let ready = server.get("/api/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body["parts"][0]["ok"], json!(false), "{ready:?}");
    assert_eq!(server.get("/health").await.status, 200);
    drop(lock);
    wait_for("the database is used again", Duration::from_secs(20), || async {
        (server.post("/api/join", join.clone()).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(server.get("/api/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    if !nix::unistd::geteuid().is_root() {
        clarateach_testkit::skip(
            "faults a_full_disk_refuses_writes_and_loses_nothing",
            "needs root to mount a small disk",
        );
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let at = disk.path().to_str().unwrap().to_owned();
    let _ = leaks::run("mount", &["-t", "tmpfs", "-o", "size=2m", "tmpfs", &at]);
    let options = ServerOptions::simulated()
        .env("DATABASE_URL", &format!("{at}/clarateach.db"))
        .env("STATE_DIR", &format!("{at}/state"));
    let server = Server::start(options).await;
    let (workshop, code) = server.create(json!({"name": "x", "seats": 2, "runtime": "simulated"})).await;
    all_ready(&server, &workshop).await;
    let joined = server.post("/api/join", json!({"code": code, "client_id": "who-came-before-it"})).await;
    assert_eq!(joined.status, 200);
    let filler = disk.path().join("filler");
    let _ = std::fs::write(&filler, vec![1u8; 4 << 20]);
    let late = json!({"code": code, "client_id": "who-came-too-late"});
    let refused = wait_for("writes are refused", Duration::from_secs(30), || async {
        let answer = server
            .post("/api/workshops", json!({"name": "y".repeat(100), "seats": 500, "runtime": "simulated"}))
            .await;
        (answer.status != 201).then_some(answer)
    })
    .await;
    assert_eq!((refused.status, refused.code()), (503, "STORE_UNAVAILABLE"), "{refused:?}");
    let session = server.get(&format!("/api/session/{}", joined.text("/session_code"))).await;
    assert_eq!((session.status, session.body["status"].as_str()), (200, Some("ready")), "reading goes on");
    std::fs::remove_file(&filler).unwrap();
    wait_for("the database is used again", Duration::from_secs(20), || async {
        (server.post("/api/join", late.clone()).await.status == 200).then_some(())
    })
    .await;
    drop(server);
    let _ = leaks::run("umount", &[&at]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_database_is_refused() {
    let server = Server::start(ServerOptions::simulated()).await;
    let database = server.dir().join("clarateach.db");
    let second = server_binary_once(&[("DATABASE_URL", database.to_str().unwrap()), ("PORT", "0")]);
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("DATABASE_URL") && said.contains("clarateach.db"), "{said}");
}

/// Each would take the other's seats for left-overs.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_state_directory_is_refused() {
    let server = Server::start(ServerOptions::simulated()).await;
    let (database, state) = (server.dir().join("other.db"), server.dir().join("clarateach.state"));
    let second = server_binary_once(&[
        ("DATABASE_URL", database.to_str().unwrap()),
        ("STATE_DIR", state.to_str().unwrap()),
        ("PORT", "0"),
    ]);
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("STATE_DIR") && said.contains("another server"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used_are_refused_by_name() {
    for (name, value) in [
        ("PORT", "http"),
        ("BIND_ADDR", "0.0.0.0"),
        ("DATABASE_URL", "postgres://localhost/x"),
        ("DATABASE_URL", "/nonexistent/dir/x.db"),
        ("PUBLIC_URL", "example.org"),
        ("PUBLIC_URL", "https://class.example.org"),
        ("ADMIN_TOKEN", "short"),
        ("RUST_LOG", "=="),
    ] {
        let refused = server_binary_once(&[(name, value)]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(name), "{name}={value}: {said}");
    }
    let server = Server::start(ServerOptions::simulated()).await;
    let refused = server_binary_once(&[("PORT", &server.port().to_string())]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("PORT"), "{said}");
}

/// Runs the server with these settings to its end, which must come at once.
fn server_binary_once(env: &[(&str, &str)]) -> std::process::Output {
    let dir = tempfile::tempdir().unwrap();
    let binary = clarateach_tests::server_binary();
    let mut command = Command::new("timeout");
    command.arg("20").arg(binary).current_dir(dir.path()).env("DOCKER_HOST", "unix:///nonexistent.sock");
    command.envs(env.iter().copied()).output().unwrap()
}
