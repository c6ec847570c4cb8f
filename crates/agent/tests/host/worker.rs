//! An agent as a child process, with a network namespace, images and state of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use clarateach_testkit::{guest_kernel, leaks, seat_binary, skip, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "host-test-token-0123456789";
/// An emulated machine on a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a test in a network namespace of its own; all that it starts is in it too.
pub(crate) fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let _ = leaks::run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(test());
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Whether VMs can be made here; says by name why not.
pub(crate) fn possible(test: &str) -> bool {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let why = if !rustix::process::geteuid().is_root() {
        "it takes root for taps"
    } else if !runs("nft") {
        "nft is not installed"
    } else if !runs("qemu-system-x86_64") {
        "qemu-system-x86_64 is not installed"
    } else if !Path::new("/bin/busybox").is_file() {
        "there is no static /bin/busybox"
    } else if !runs("mke2fs") {
        "mke2fs is not installed"
    } else if guest_kernel().is_none() {
        "no guest kernel could be fetched by scripts/setup-qemu-kernel.sh"
    } else {
        return true;
    };
    skip(test, why);
    false
}

/// One host with its agent.
pub(crate) struct Worker {
    dir: TempDir,
    child: Option<Child>,
    pub(crate) http: reqwest::Client,
    workspace: PathBuf,
    settings: Vec<(String, String)>,
}

impl Worker {
    /// A host with an image of busybox, or with the one that `CLARATEACH_TEST_ROOTFS` names. Must be called in [`in_own_network`], where [`possible`].
    pub(crate) fn new() -> Self {
        let workspace = seat_binary::workspace().expect("a workspace binary");
        let kernel = guest_kernel().expect("a kernel");
        // Short: paths of sockets are.
        let dir = tempfile::Builder::new().prefix("ct").tempdir().unwrap();
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        symlink(kernel.vmlinux, images.join("vmlinux")).unwrap();
        symlink(kernel.modules, images.join("modules")).unwrap();
        let rootfs = images.join("rootfs.ext4");
        match std::env::var_os("CLARATEACH_TEST_ROOTFS").filter(|path| !path.is_empty()) {
            Some(given) => symlink(given, rootfs).unwrap(),
            None => image(&dir.path().join("tree"), &rootfs),
        }
        let http = reqwest::Client::builder().timeout(PATIENCE * 2).no_proxy().build().unwrap();
        Self { dir, child: None, http, workspace, settings: Vec::new() }
    }

    /// Where kernel and root file system are.
    pub(crate) fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub(crate) fn workspace(&self) -> &Path {
        &self.workspace
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// One more setting of the agents that are started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn agent(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("AGENT_TOKEN", TOKEN)
            .env("VMM", "qemu")
            .env("QEMU_ACCEL", "tcg")
            .env("IMAGES_DIR", self.images())
            .env("STATE_DIR", self.state())
            .env("SOCKET_DIR", self.dir.path().join("run"))
            .env("WORKSPACE_BIN", &self.workspace)
            .env("RUST_LOG", "info")
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Has the agent remove what it has made of the host's network.
    pub(crate) fn remove_network(&self) -> Output {
        self.agent().arg("remove-network").output().unwrap()
    }

    /// Starts the agent and waits until it answers.
    pub(crate) async fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = self.agent().stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let child = std::cell::RefCell::new(self.child.insert(child));
        wait_for("the agent", PATIENCE, async || {
            if let Some(ended) = child.borrow_mut().try_wait().unwrap() {
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                panic!("the agent ended with {ended}:\n{log}");
            }
            let answer = self.http.get("http://127.0.0.1:9090/health").send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Ends the agent by a signal and waits until it has ended.
    pub(crate) fn stop(&mut self, signal: rustix::process::Signal) -> Option<i32> {
        let mut child = self.child.take().expect("an agent");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        child.wait().unwrap().code()
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        match self.try_call(method.clone(), path, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {path}: {error}\n{}", self.log()),
        }
    }

    /// Like [`Worker::call`], for an agent that may be gone at any moment.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), reqwest::Error> {
        let mut request =
            self.http.request(method, format!("http://127.0.0.1:9090{path}")).bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let (status, text) = (response.status().as_u16(), response.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A VM that is ready, as it is shown.
    pub(crate) async fn vm(&self, seat: u32) -> Value {
        let wish = small(seat);
        let (status, vm) = self.call(Method::POST, "/vms?wait=ready&timeout=120", Some(wish)).await;
        assert_eq!((status, &vm["status"]), (201, &json!("ready")), "{vm}\n{}", self.log());
        vm
    }

    pub(crate) async fn vms(&self) -> Vec<Value> {
        let (status, body) = self.call(Method::GET, "/vms", None).await;
        assert_eq!(status, 200, "{body}");
        body["vms"].as_array().unwrap().clone()
    }

    pub(crate) async fn delete(&self, seat: u32) {
        let (status, body) = self.call(Method::DELETE, &format!("/vms/test/{seat}"), None).await;
        assert_eq!(status, 204, "{body}\n{}", self.log());
    }

    /// Everything of this host's VMs that is there, but for the files that always are.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        if let Some(prefix) = self.prefix() {
            left.extend(leaks::processes(&prefix));
            left.extend(groups(&prefix));
        }
        let links = leaks::run("ip", &["-br", "link"]);
        left.extend(
            links
                .lines()
                .filter(|l| !l.starts_with("lo ") && !l.starts_with("clarateach0 "))
                .map(str::to_owned),
        );
        left.extend(elements());
        for own in ["vms", "bases"] {
            left.extend(leaks::files(&self.state().join(own)));
        }
        left.extend(leaks::files(&self.dir.path().join("run")));
        left
    }

    /// How the names of all of this host's VMs begin, once there was one.
    pub(crate) fn prefix(&self) -> Option<String> {
        let journal = fs::read_to_string(self.state().join("journal")).ok()?;
        let at = journal.find("\"vm-")?;
        Some(journal[at + 1..at + 13].to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for left in self.prefix().map(|prefix| leaks::processes(&prefix)).unwrap_or_default() {
            let pid = left.split(' ').nth(1).unwrap_or_default();
            let _ = Command::new("kill").args(["-KILL", pid]).output();
        }
    }
}

/// As little as an emulated machine boots quickly with.
pub(crate) fn small(seat: u32) -> Value {
    json!({"workshop_id": "test", "seat_id": seat, "vcpus": 1, "memory_mb": 256, "disk_mb": 256})
}

/// An image of busybox under the names of its tools.
fn image(tree: &Path, path: &Path) {
    for folder in ["bin", "etc", "proc", "sys", "dev", "run", "sbin"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    fs::set_permissions(tree.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for tool in ["sh", "cat", "ls", "env", "id", "sleep", "mount"] {
        symlink("busybox", tree.join("bin").join(tool)).unwrap();
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nlearner:x:1000:1000::/workspace:/bin/sh\n";
    fs::write(tree.join("etc/passwd"), users).unwrap();
    let (tree, path) = (tree.display().to_string(), path.display().to_string());
    let _ = leaks::run("mke2fs", &["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", &tree, &path, "64M"]);
}

/// Control groups of VMs whose names begin like this.
fn groups(prefix: &str) -> Vec<String> {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
    let groups = roots.flat_map(|root| fs::read_dir(root.join("clarateach")).into_iter().flatten().flatten());
    let names = groups.map(|group| group.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).map(|name| format!("group {name}")).collect()
}

/// Guests' addresses that are elements of sets in the firewall.
fn elements() -> Vec<String> {
    let ruleset: Value = serde_json::from_str(&leaks::run("nft", &["--json", "list", "ruleset"])).unwrap();
    let sets = ruleset["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("set"));
    let elements = sets.filter_map(|set| set["elem"].as_array()).flatten();
    // The pins of all addresses, which are there whether or not a VM is, are pairs.
    let addresses = elements.filter_map(Value::as_str).filter(|address| address.starts_with("192.168.100."));
    addresses.map(|address| format!("firewall element {address}")).collect()
}
