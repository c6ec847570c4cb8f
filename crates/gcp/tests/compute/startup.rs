//! The script that makes a VM a worker, run in a directory instead of a machine.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::routing::get;
use clarateach_gcp::STARTUP_SCRIPT;

struct Machine {
    attributes: Vec<(String, String)>,
    archive: Vec<u8>,
    downloads: usize,
}

type Shared = Arc<Mutex<Machine>>;

async fn attribute(
    State(machine): State<Shared>,
    Segment(name): Segment<String>,
) -> Result<String, StatusCode> {
    let machine = machine.lock().unwrap();
    let found = machine.attributes.iter().find(|(key, _)| *key == name);
    found.map(|(_, value)| value.clone()).ok_or(StatusCode::NOT_FOUND)
}

async fn archive(State(machine): State<Shared>) -> Vec<u8> {
    let mut machine = machine.lock().unwrap();
    machine.downloads += 1;
    machine.archive.clone()
}

async fn serve(machine: Shared) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let router = Router::new()
        .route("/computeMetadata/v1/instance/attributes/{name}", get(attribute))
        .route("/release.tar.gz", get(archive))
        .with_state(machine);
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

fn release(dir: &Path, agent: &str) -> Vec<u8> {
    let from = dir.join("from");
    std::fs::create_dir_all(from.join("images")).unwrap();
    std::fs::write(from.join("agent"), agent).unwrap();
    std::fs::write(from.join("workspace"), "workspace").unwrap();
    std::fs::write(from.join("clarateach-agent.service"), "[Service]").unwrap();
    std::fs::write(from.join("images/vmlinux"), "kernel").unwrap();
    let packed =
        Command::new("tar").arg("-czf").arg(dir.join("r.tar.gz")).arg("-C").arg(&from).arg(".").status();
    assert!(packed.unwrap().success());
    std::fs::read(dir.join("r.tar.gz")).unwrap()
}

async fn run(dir: &Path, host: &str) -> Output {
    let script = dir.join("startup-worker.sh");
    std::fs::write(&script, STARTUP_SCRIPT).unwrap();
    let mut command = Command::new("bash");
    command.arg(script).env("GCE_METADATA_HOST", host).env("STARTUP_ROOT", dir.join("root"));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn set(machine: &Shared, key: &str, value: &str) {
    let mut machine = machine.lock().unwrap();
    machine.attributes.retain(|(name, _)| name != key);
    machine.attributes.push((key.to_owned(), value.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_set_up_once_and_upgraded_when_the_release_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let machine: Shared = Arc::new(Mutex::new(Machine {
        attributes: vec![("agent-token".to_owned(), "very-secret-token".to_owned())],
        archive: release(dir.path(), "agent 1"),
        downloads: 0,
    }));
    let host = serve(machine.clone()).await;
    let output = run(dir.path(), &host).await;
    assert!(!output.status.success(), "without a release");
    set(&machine, "clarateach-release", &format!("http://{host}/release.tar.gz"));
    set(&machine, "clarateach-agent-env", "CAPACITY=20");
    for _ in 0..2 {
        let output = run(dir.path(), &host).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("very-secret-token"));
    }
    let root = dir.path().join("root");
    assert_eq!(machine.lock().unwrap().downloads, 1, "the second boot finds all in place");
    assert_eq!(std::fs::read_to_string(root.join("usr/local/bin/agent")).unwrap(), "agent 1");
    assert_eq!(std::fs::read_to_string(root.join("var/lib/clarateach/images/vmlinux")).unwrap(), "kernel");
    assert_eq!(std::fs::read_to_string(root.join("etc/clarateach/agent.env")).unwrap(), "CAPACITY=20");

    machine.lock().unwrap().archive = release(dir.path(), "agent 2");
    set(&machine, "clarateach-release-sha256", &"0".repeat(64));
    let output = run(dir.path(), &host).await;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("checksum"));
    assert_eq!(std::fs::read_to_string(root.join("usr/local/bin/agent")).unwrap(), "agent 1");
    let sum = Command::new("sha256sum").arg(dir.path().join("r.tar.gz")).output().unwrap();
    set(&machine, "clarateach-release-sha256", &String::from_utf8_lossy(&sum.stdout)[..64]);
    let output = run(dir.path(), &host).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(root.join("usr/local/bin/agent")).unwrap(), "agent 2");
    let token_on_disk = Command::new("grep").args(["-r", "very-secret-token"]).arg(&root).output().unwrap();
    assert!(token_on_disk.stdout.is_empty());
}
