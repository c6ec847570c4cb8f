//! An agent that can't start says why, and one that is asked says what is missing.

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The agent with settings of its own, on a host where it finds nothing.
fn agent(dir: &TempDir, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.env_clear().args(arguments);
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, folder) in [("IMAGES_DIR", "images"), ("STATE_DIR", "state"), ("SOCKET_DIR", "run")] {
        command.env(name, dir.path().join(folder));
    }
    command.env("GCE_METADATA_HOST", "127.0.0.1:1").env("PORT", "0").env("BIND_ADDR", "127.0.0.1");
    command.envs(settings.iter().copied()).output().unwrap()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
}

#[test]
fn without_a_token_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    refused(&agent(&dir, &[], &[]), &["AGENT_TOKEN: no token", "set AGENT_TOKEN", "agent-token"]);
    refused(&agent(&dir, &[("AGENT_TOKEN", "two words")], &[]), &["AGENT_TOKEN: takes"]);
    refused(&agent(&dir, &[("AGENT_TOKEN_FILE", "/nowhere")], &[]), &["AGENT_TOKEN_FILE: /nowhere"]);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_setting_that_can_t_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    refused(&agent(&dir, &[("CAPACITY", "5000")], &[]), &["CAPACITY: \"5000\"", "1023"]);
    refused(&agent(&dir, &[("BRIDGE_IP", "8.8.8.8/24")], &[]), &["BRIDGE_IP"]);
    let nowhere = [("AGENT_TOKEN", "t"), ("WORKSPACE_BIN", "/nowhere")];
    refused(&agent(&dir, &nowhere, &[]), &["WORKSPACE_BIN", "scripts/build-workspace.sh"]);
    let dynamic = [("AGENT_TOKEN", "t"), ("WORKSPACE_BIN", env!("CARGO_BIN_EXE_agent"))];
    refused(&agent(&dir, &dynamic, &[]), &["WORKSPACE_BIN", "dynamically linked"]);
}

#[test]
fn a_port_in_use_is_said_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    refused(&agent(&dir, &[("AGENT_TOKEN", "t"), ("PORT", &port)], &[]), &["PORT: can't listen on", &port]);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_doctor_names_what_is_missing_and_how_to_mend_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(&dir, &[("FIRECRACKER_BIN", "/nowhere/firecracker")], &["doctor"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "[-] token: ",
        "[-] firecracker: ",
        "[-] kernel: ",
        "[-] rootfs: ",
        "      sudo ./scripts/setup-firecracker.sh\n",
        "      ./rootfs-builder --image clarateach-workspace --output ",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    let output = agent(&dir, &[], &["doctor", "--format", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(report["checks"].as_array().unwrap().iter().any(|check| check["name"] == "rootfs"));
    assert!(!dir.path().join("state").exists(), "a doctor changes nothing");
}

#[test]
fn a_port_in_use_is_seen_by_the_doctor() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let output = agent(&dir, &[("PORT", &port)], &["doctor"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("[!] port: 127.0.0.1:{port} is in use")), "{said}");
}

#[test]
fn it_says_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let help = agent(&dir, &[], &["--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    for name in ["AGENT_TOKEN", "IMAGES_DIR", "SOCKET_DIR", "BRIDGE_NAME", "BRIDGE_IP", "CAPACITY", "doctor"]
    {
        assert!(text.contains(name), "{text}");
    }
    let version = agent(&dir, &[], &["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("agent {}\n", env!("CARGO_PKG_VERSION")));
}
