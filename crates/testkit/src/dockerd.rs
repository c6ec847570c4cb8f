//! A Docker Engine of a test's own, to be stopped, killed and filled up without disturbing anybody.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::wait_for_blocking;

/// Of a bridge that no container uses; from the benchmark range 198.18.0.0/15, which no machine is on.
const SUBNET: &str = "198.18.77.1/28";
const PATIENCE: Duration = Duration::from_secs(60);

/// The Engine. It keeps containers over its own restarts (live-restore), leaves the host's firewall alone, and its
/// data is on a file system of a size of its own. Everything goes when it is dropped.
#[derive(Debug)]
pub struct PrivateDocker {
    directory: TempDir,
    bridge: String,
    engine: Option<Child>,
}

impl PrivateDocker {
    /// Prepares an Engine that is not yet started, with `size_mb` MiB of disk.
    ///
    /// # Errors
    /// Why this machine can't run one.
    pub fn prepare(size_mb: u32) -> Result<Self, String> {
        let directory =
            tempfile::Builder::new().prefix("ctd").tempdir().map_err(|error| error.to_string())?;
        let data = directory.path().join("data");
        std::fs::create_dir(&data).map_err(|error| error.to_string())?;
        let size = format!("size={size_mb}m");
        let mount = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let output = Command::new("mount")
            .args(mount)
            .arg(&data)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "a Docker Engine of its own needs a mount: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let bridge = format!("ctd{}", std::process::id());
        for arguments in
            [&["link", "add", &bridge, "type", "bridge"][..], &["addr", "add", SUBNET, "dev", &bridge]]
        {
            let output =
                Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
            if !output.status.success() {
                return Err(format!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(Self { directory, bridge, engine: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }

    /// Where its data is.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A `docker` command for this Engine.
    #[must_use]
    pub fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// With its last words when it doesn't.
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let engine = Command::new("dockerd")
            .arg(option("data-root", &self.data()))
            .arg(option("exec-root", &self.path("exec")))
            .arg(option("pidfile", &self.path("pid")))
            .arg(format!("--host=unix://{}", self.socket().display()))
            // Not `none`: that takes away docker0, which is another Engine's.
            .arg(format!("--bridge={}", self.bridge))
            .args(["--iptables=false", "--ip-masq=false", "--live-restore"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("dockerd");
        self.engine = Some(engine);
        wait_for_blocking("a Docker Engine of the test's own", PATIENCE, || {
            let ended = self.engine.as_mut().and_then(|engine| engine.try_wait().ok().flatten());
            if let Some(status) = ended {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                panic!("dockerd has ended ({status}): {tail:#?}");
            }
            self.docker().arg("info").output().is_ok_and(|output| output.status.success()).then_some(())
        });
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) {
        self.end("-TERM");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.end("-KILL");
        // Where systemd would end it with the service.
        self.kill_all("containerd/containerd.toml");
        // By which the next Engine would take a zombie for a containerd that runs.
        let _ = std::fs::remove_file(self.path("exec/containerd/containerd.pid"));
    }

    fn kill_all(&self, name: &str) {
        let own = self.path("exec").join(name).display().to_string();
        for left in crate::leaks::processes(&own) {
            let pid = left.split(' ').nth(1).unwrap_or_default();
            let _ = Command::new("kill").args(["-KILL", pid]).output();
        }
    }

    fn end(&mut self, signal: &str) {
        if let Some(mut engine) = self.engine.take() {
            let _ = Command::new("kill").args([signal, &engine.id().to_string()]).output();
            let _ = engine.wait();
            // What a killed one leaves, its successor refuses to start over.
            let _ = std::fs::remove_file(self.path("pid"));
        }
    }
}

impl Drop for PrivateDocker {
    fn drop(&mut self) {
        if self.engine.is_none() {
            self.start();
        }
        if let Ok(output) = self.docker().args(["ps", "--all", "--quiet"]).output() {
            for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                let _ = self.docker().args(["rm", "--force", "--volumes", id]).output();
            }
        }
        if let Ok(output) =
            self.docker().args(["network", "ls", "--quiet", "--filter", "type=custom"]).output()
        {
            for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                let _ = self.docker().args(["network", "rm", id]).output();
            }
        }
        self.stop();
        // Its containerd outlives a killed Engine.
        self.kill_all("");
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).output();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = self.directory.path().display().to_string();
        for line in mounts.lines().rev() {
            if let Some(target) = line.split(' ').nth(1).filter(|target| target.starts_with(&own)) {
                let _ = Command::new("umount").args(["--lazy", target]).output();
            }
        }
    }
}
