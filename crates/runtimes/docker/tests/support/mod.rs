//! A Docker runtime to test, with an installation of its own.

// Each test file uses a part of this.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::{InstallationId, SeatKey};
use clarateach_runtime::conformance::Harness;
use clarateach_runtime::{ImageRef, Runtime};
use clarateach_runtime_docker::{DockerConfig, DockerRuntime};
use clarateach_testkit::docker::{TinyImage, available};
use clarateach_testkit::leaks::{self, run};
use clarateach_testkit::{seat_binary, skip};
use tempfile::TempDir;

pub(crate) const BUSYBOX: &str = "clarateach-test-busybox";

pub(crate) struct Docker {
    pub(crate) installation: InstallationId,
    pub(crate) state: TempDir,
    pub(crate) workspace: PathBuf,
    pub(crate) capacity: u32,
    foreign: InstallationId,
}

/// None, and the test is noted as skipped, where there is no Engine.
pub(crate) async fn docker(test: &str) -> Option<Docker> {
    if let Err(reason) = available() {
        skip(&format!("docker::{test}"), &reason);
        return None;
    }
    let workspace = seat_binary::workspace().expect("a workspace binary");
    if std::process::Command::new("docker")
        .args(["image", "inspect", BUSYBOX])
        .output()
        .is_ok_and(|o| !o.status.success())
    {
        TinyImage::BUSYBOX.import(BUSYBOX).expect("a tiny image");
    }
    Some(Docker {
        installation: InstallationId::random(),
        state: tempfile::tempdir().expect("a directory"),
        workspace,
        capacity: 3,
        foreign: InstallationId::random(),
    })
}

impl Docker {
    /// Runs a command as the learner in the seat; whether it succeeded, and what it printed.
    pub(crate) fn run_in(&self, key: &SeatKey, command: &str) -> (bool, String) {
        let container = self.container(key);
        let output = std::process::Command::new("docker")
            .args(["exec", "--user", "1000", &container, "sh", "-c", command])
            .output()
            .expect("docker exec");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn config(&self) -> DockerConfig {
        let state = self.state.path().to_owned();
        DockerConfig::new(self.installation.clone(), self.workspace.clone(), state, self.capacity)
    }

    pub(crate) fn label(&self) -> String {
        format!("io.clarateach.installation={}", self.installation)
    }

    fn foreign_label(&self) -> String {
        format!("io.clarateach.installation={}", self.foreign)
    }

    /// The id of the seat's container.
    pub(crate) fn container(&self, key: &SeatKey) -> String {
        let filters = [
            format!("label={}", self.label()),
            format!("label=io.clarateach.workshop={}", key.workshop),
            format!("label=io.clarateach.seat={}", key.seat),
        ];
        let mut arguments = vec!["ps", "--all", "--quiet", "--no-trunc"];
        for filter in &filters {
            arguments.extend(["--filter", filter]);
        }
        run("docker", &arguments).trim().to_owned()
    }
}

#[async_trait]
impl Harness for Docker {
    async fn open(&self) -> Arc<dyn Runtime> {
        Arc::new(DockerRuntime::connect(self.config()).expect("connect"))
    }

    fn image(&self) -> ImageRef {
        ImageRef(BUSYBOX.to_owned())
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    async fn kill(&self, key: &SeatKey) {
        let _ = run("docker", &["kill", &self.container(key)]);
    }

    async fn echo(&self, key: &SeatKey) -> Option<u16> {
        let serve = "nc -ll -p 8000 -e cat";
        let _ =
            run("docker", &["exec", "--detach", "--user", "1000", &self.container(key), "sh", "-c", serve]);
        Some(8000)
    }

    async fn plant_foreign(&self) {
        let label = self.foreign_label();
        let name = format!("clarateach-foreign-{}", self.foreign);
        let labels = [
            "--label",
            &label,
            "--label",
            "io.clarateach.role=seat",
            "--label",
            "io.clarateach.workshop=w",
            "--label",
            "io.clarateach.seat=1",
            "--label",
            "io.clarateach.generation=1",
        ];
        let _ = run("docker", &[&["volume", "create"], &labels[..], &[&name]].concat());
        let _ = run("docker", &[&["network", "create"], &labels[..], &[&name]].concat());
        let start = ["run", "--detach", "--name", &name, "--network", &name];
        let command = [BUSYBOX, "sleep", "1000"];
        let _ = run("docker", &[&start[..], &labels[..], &command[..]].concat());
    }

    async fn foreign_is_untouched(&self) -> bool {
        let name = format!("clarateach-foreign-{}", self.foreign);
        let there = leaks::docker(&self.foreign_label());
        let state = run("docker", &["inspect", "--format", "{{.State.Running}}", &name]);
        let _ = run("docker", &["rm", "--force", &name]);
        let _ = run("docker", &["volume", "rm", &name]);
        let _ = run("docker", &["network", "rm", &name]);
        there.len() == 3 && state.trim() == "true"
    }

    async fn leftovers(&self) -> Vec<String> {
        leaks::docker(&self.label())
    }
}

impl Drop for Docker {
    /// A failed test leaves nothing for the next to stumble over.
    fn drop(&mut self) {
        let commands =
            [("container", "rm --force --volumes"), ("volume", "volume rm"), ("network", "network rm")];
        for left in leaks::docker(&self.label()) {
            let Some((kind, name)) = left.split_once(' ') else { continue };
            let command = commands.iter().find(|(of, _)| *of == kind).map_or("", |(_, command)| command);
            let arguments = command.split_whitespace().chain([name]);
            let _ = std::process::Command::new("docker").args(arguments).output();
        }
    }
}

/// The firewall table of an installation, as docs/runtimes.md says.
pub(crate) fn table_of(installation: &InstallationId) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = blake3::hash(installation.as_str().as_bytes());
    let short: String =
        hash.as_bytes()[..5].iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect();
    format!("clarateach_{short}")
}
