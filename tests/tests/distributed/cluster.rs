//! Three workers, two servers, one PostgreSQL.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::{leaks, wait_for};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::processes::Process;
use crate::wires::{MIDDLE, Net, Place};

pub(crate) const WORKERS: usize = 3;
pub(crate) const SERVERS: usize = 2;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "agent-token-of-the-kill-test";
const ADMIN: &str = "admin-token-of-the-kill-test";
const KEY: &str = "server-key-of-the-kill-test-0123456789";

/// Environments by workshop and seat, each with its worker and generation.
pub(crate) type Environments = BTreeMap<(String, u64), Vec<(usize, u64)>>;

/// What answers a call: status 0 when nobody did.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// What workers are made of.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The example of `clarateach-runtime-worker`: seats in a process that outlives its agent, as VMMs do.
    Simulated(PathBuf),
    /// The agent over QEMU, with the images in this directory.
    Qemu(TempDir),
}

/// A worker, whose agent can be killed.
pub(crate) struct Worker {
    /// Where its seats are when they are not real.
    _host: Option<Process>,
    pub(crate) agent: Process,
    pub(crate) place: Place,
}

/// All of it. Fields are dropped in this order: the network last.
pub(crate) struct Cluster {
    pub(crate) workers: Vec<Worker>,
    pub(crate) servers: Vec<Process>,
    pub(crate) postgres: PrivatePostgres,
    http: reqwest::Client,
    kind: Kind,
    directory: TempDir,
    _net: Net,
}

fn beside_the_test(name: &str) -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = test.parent().and_then(Path::parent).ok_or("tests lie in target/debug/deps")?;
    let path = directory.join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: cargo build --bins --examples", path.display()))
    }
}

impl Kind {
    pub(crate) fn simulated() -> Result<Self, String> {
        root()?;
        beside_the_test("examples/simulated-worker").map(Self::Simulated)
    }

    pub(crate) fn qemu() -> Result<Self, String> {
        root()?;
        clarateach_tests::microvm_images().map(Self::Qemu)
    }

    /// Where seats are asked after, whatever wires are cut: a port within the worker's namespace.
    fn seats_at(&self) -> u16 {
        match self {
            Self::Simulated(_) => 9091,
            Self::Qemu(_) => 9090,
        }
    }

    fn worker(&self, name: &str, place: &Place, directory: &Path) -> Worker {
        let (own, state) = (directory.join(name), directory.join(name).join("state"));
        let state = state.display().to_string();
        let mut settings = vec![
            ("AGENT_TOKEN", TOKEN),
            ("STATE_DIR", state.as_str()),
            ("CAPACITY", "40"),
            ("METADATA", "off"),
            ("RUST_LOG", "warn"),
        ];
        match self {
            Self::Simulated(binary) => {
                let state = format!("{state}-of-host");
                let mut host = settings.clone();
                host[1] = ("STATE_DIR", state.as_str());
                host.extend([("BIND_ADDR", "127.0.0.1"), ("PORT", "9091")]);
                let host_name = format!("{name} host");
                let mut host =
                    Process::new(&host_name, place, binary, &["host"], &host, &directory.join(&host_name));
                host.start();
                settings.push(("HOST", "127.0.0.1:9091"));
                let agent = Process::new(name, place, binary, &["agent"], &settings, &own);
                Worker { _host: Some(host), agent, place: place.clone() }
            }
            Self::Qemu(images) => {
                let binary = beside_the_test("agent").expect("it was built with the server");
                let (images, sockets) =
                    (images.path().display().to_string(), own.join("run").display().to_string());
                let workspace = clarateach_testkit::seat_binary::workspace().expect("it was there before");
                let workspace = workspace.display().to_string();
                settings.extend([
                    ("VMM", "qemu"),
                    ("QEMU_ACCEL", "tcg"),
                    ("IMAGES_DIR", images.as_str()),
                    ("SOCKET_DIR", sockets.as_str()),
                    ("WORKSPACE_BIN", workspace.as_str()),
                ]);
                let agent = Process::new(name, place, &binary, &[], &settings, &own);
                Worker { _host: None, agent, place: place.clone() }
            }
        }
    }
}

fn root() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err("it takes root for network namespaces".to_owned())
    }
}

impl Cluster {
    /// Starts all of it, in the network of the calling thread.
    ///
    /// # Errors
    /// Why there is no PostgreSQL here.
    pub(crate) async fn start(kind: Kind, mut net: Net) -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("ctk").tempdir().expect("a directory");
        let access = directory.path().join("pg_hba.conf");
        fs::write(&access, "local all all scram-sha-256\nhost all all all scram-sha-256\n").expect("a file");
        for path in [directory.path(), &access] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("readable");
        }
        let access = format!("hba_file={}", access.display());
        let postgres = PrivatePostgres::start_with(&["listen_addresses=*", &access])?;
        let _ = postgres.database("clarateach");
        let names: Vec<String> = (1..=WORKERS).map(|n| format!("w{n}")).collect();
        let mut workers: Vec<Worker> =
            names.iter().map(|name| kind.worker(name, &net.host(name), directory.path())).collect();
        for worker in &mut workers {
            if let Kind::Simulated(_) = kind {
                let port = kind.seats_at();
                wait_for("a host", PATIENCE, async || at_host(&worker.place, port, "/health").map(|_| ()))
                    .await;
            }
            worker.agent.start();
        }
        let agents: Vec<Value> = workers
            .iter()
            .map(|worker| json!({"address": format!("{}:9090", worker.place.address), "token": TOKEN}))
            .collect();
        let database = postgres.url_at(&format!("{MIDDLE}:{}", postgres.port()), "clarateach");
        let servers = (1..=SERVERS).map(|n| {
            let (name, agents) = (format!("s{n}"), json!(agents).to_string());
            let (place, own) = (net.host(&name), directory.path().join(&name));
            let state = own.join("state").display().to_string();
            let settings = [
                ("PORT", "8080"),
                ("BIND_ADDR", "0.0.0.0"),
                ("ADMIN_TOKEN", ADMIN),
                ("SERVER_KEY", KEY),
                ("STATE_DIR", &state),
                ("DATABASE_URL", &database),
                ("WORKER_AGENTS", &agents),
                ("DEFAULT_IMAGE", "default"),
                ("DOCKER_HOST", "unix:///nonexistent/docker.sock"),
                ("RUST_LOG", "warn"),
            ];
            let mut server =
                Process::new(&name, &place, &clarateach_tests::server_binary(), &[], &settings, &own);
            server.start();
            server
        });
        let servers = servers.collect();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5));
        let http =
            http.connect_timeout(Duration::from_secs(1)).pool_max_idle_per_host(0).build().expect("a client");
        let cluster = Self { workers, servers, postgres, http, kind, directory, _net: net };
        for server in 0..SERVERS {
            wait_for("a server that sees its workers", PATIENCE, async || {
                let answer = cluster.admin(server, "GET", "/api/admin/workers", None).await;
                let workers = answer.body["workers"].as_array()?;
                let alive = workers.iter().filter(|worker| worker["state"] == "alive").count();
                (alive == WORKERS).then_some(())
            })
            .await;
        }
        Ok(cluster)
    }

    pub(crate) fn url(&self, server: usize, path: &str) -> String {
        format!("http://{}:8080{path}", self.servers[server].place.address)
    }

    /// A call of one server as anybody, or with a token.
    pub(crate) async fn call(
        &self,
        server: usize,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let request = self.http.request(method.parse().expect("a method"), self.url(server, path));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let nobody = |error: reqwest::Error| Answer { status: 0, body: json!(error.to_string()) };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return nobody(error),
        };
        let status = response.status().as_u16();
        match response.text().await {
            Ok(text) => Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) },
            Err(error) => nobody(error),
        }
    }

    pub(crate) async fn admin(&self, server: usize, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.call(server, method, path, Some(ADMIN), body).await
    }

    /// What is asked for to have a workshop.
    pub(crate) fn wish(&self, name: &str, seats: usize) -> Value {
        json!({"name": name, "seats": seats, "memory_mb": 192, "vcpus": 1})
    }

    /// Every environment there is, by seat, with its worker and generation: asked for within the workers' namespaces,
    /// whatever wires are cut. None while one can't say.
    pub(crate) fn environments(&self) -> Option<Environments> {
        let mut all = Environments::new();
        for (number, worker) in self.workers.iter().enumerate() {
            let body = at_host(&worker.place, self.kind.seats_at(), "/vms")?;
            for vm in body["vms"].as_array()? {
                let key = (vm["workshop_id"].as_str()?.to_owned(), vm["seat_id"].as_u64()?);
                all.entry(key).or_default().push((number, vm["generation"].as_u64()?));
            }
        }
        Some(all)
    }

    /// Nothing of any seat is anywhere.
    pub(crate) fn nothing_is_left(&self) {
        assert_eq!(self.environments(), Some(BTreeMap::new()), "environments are left");
        let directory = self.directory.path().display().to_string();
        let vmms: Vec<_> =
            leaks::processes(&directory).into_iter().filter(|line| line.contains("qemu-")).collect();
        assert_eq!(vmms, Vec::<String>::new(), "VMMs are left");
        for table in ["workshops", "seats", "sessions", "placements"] {
            let rows = self.postgres.sql("clarateach", &format!("SELECT count(*) FROM {table}"));
            assert_eq!(rows, "0", "rows are left in {table}");
        }
    }

    /// Processes that have ended without having been killed.
    pub(crate) fn nobody_fell(&mut self) {
        let all = self.servers.iter_mut().chain(self.workers.iter_mut().map(|worker| &mut worker.agent));
        for process in all {
            if let Some(why) = process.ended() {
                panic!("{why}");
            }
        }
    }
}

/// Asks an agent from within its namespace.
fn at_host(place: &Place, port: u16, path: &str) -> Option<Value> {
    let (namespace, path) = (format!("/run/netns/{}", place.namespace), path.to_owned());
    let asked = std::thread::spawn(move || {
        let namespace = fs::File::open(namespace).ok()?;
        setns(namespace, CloneFlags::CLONE_NEWNET).ok()?;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: host\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    });
    asked.join().expect("no panic")
}
