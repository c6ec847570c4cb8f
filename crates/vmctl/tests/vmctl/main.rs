//! The binary itself, against the double of Compute Engine.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

mod basics;
mod dry_run;
mod faults;
mod recreate;
mod remote;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use clarateach_gcp::double::{ComputeDouble, Options, PROJECT, TOKEN};
use tempfile::TempDir;

const ZONE: &str = "us-central1-b";

/// A developer's machine: a home, programs, and the way to the double.
struct Desk {
    double: ComputeDouble,
    home: TempDir,
}

/// How a run of `vmctl` ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Desk {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("bin")).unwrap();
        Self { double: ComputeDouble::start(options).await, home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = vmctl(arguments, self.home.path());
        command.env("GCP_API_URL", self.double.endpoint()).env("CLOUDSDK_AUTH_ACCESS_TOKEN", TOKEN);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        finish(self.command(arguments)).await
    }

    /// Runs it, and it has to succeed.
    async fn ok(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended
    }

    /// Installs a program of this desk's.
    fn install(&self, name: &str, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.home.path().join("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }
}

/// `vmctl` with nothing of this machine's environment.
fn vmctl(arguments: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmctl"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .env("PATH", home.join("bin"))
        .env("GCP_PROJECT", PROJECT)
        .env("GCP_ZONE", ZONE)
        .env("GCE_METADATA_HOST", "127.0.0.1:9")
        .env("VMCTL_PAUSE_MS", "10")
        .stdin(Stdio::null());
    command
}

async fn finish(mut command: Command) -> Ended {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output: Output = tokio::time::timeout(Duration::from_secs(60), run).await.expect("it ends").unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
