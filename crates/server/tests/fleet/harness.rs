//! A server over workers that aren't there, and its API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clarateach_runtime::RuntimeKind;
use clarateach_runtime_worker::{Worker, WorkerAddress};
use clarateach_server::app::fleet::Connect;
use clarateach_server::config::Config;
use clarateach_server::{Running, start_with};
use clarateach_testkit::wait_for;
use serde_json::{Value, json};

use super::double::{Client, Host};

/// As long as anything may take here.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Hosts by address.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Arc<Mutex<BTreeMap<String, Arc<Host>>>>, Option<u32>);

impl Hosts {
    /// Hosts that are there as soon as somebody looks for them, and answer when they are told to.
    pub fn appearing(capacity: u32) -> Self {
        Self(Arc::default(), Some(capacity))
    }

    /// Those for whose addresses `is_up` holds answer, the others don't.
    pub fn answer_if(&self, is_up: impl Fn(&str) -> bool) {
        for (address, host) in self.0.lock().unwrap().iter() {
            let away = !is_up(address);
            host.set(|faults| faults.away = away);
        }
    }

    /// `count` hosts, `w1:9090` and so on.
    pub fn new(count: u32, capacity: u32) -> Self {
        let hosts = Self::default();
        for n in 1..=count {
            hosts.add(&format!("w{n}"), capacity);
        }
        hosts
    }

    pub fn add(&self, name: &str, capacity: u32) -> Arc<Host> {
        let host = Host::new(name, capacity);
        self.0.lock().unwrap().insert(format!("{name}:9090"), Arc::clone(&host));
        host
    }

    /// The same host under another address.
    pub fn alias(&self, name: &str, other: &str) {
        let host = self.get(name);
        self.0.lock().unwrap().insert(format!("{other}:9090"), host);
    }

    pub fn get(&self, name: &str) -> Arc<Host> {
        Arc::clone(&self.0.lock().unwrap()[&format!("{name}:9090")])
    }

    pub fn counts(&self) -> Vec<usize> {
        self.0.lock().unwrap().values().map(|host| host.world.count()).collect()
    }

    fn connect(&self) -> Connect {
        let hosts = self.clone();
        Arc::new(move |address: WorkerAddress| {
            let mut all = hosts.0.lock().unwrap();
            if let Some(capacity) = hosts.1 {
                all.entry(address.address.clone()).or_insert_with(|| {
                    let name: String = address.address.chars().filter(char::is_ascii_digit).collect();
                    let host = Host::new(&format!("n{name}"), capacity);
                    host.set(|faults| (faults.away, faults.kind) = (true, RuntimeKind::Firecracker));
                    host
                });
            }
            let known = all.get(&address.address).cloned();
            drop(all);
            let host = known.unwrap_or_else(|| {
                // Nobody is there.
                let host = Host::new("nobody", 1);
                host.set(|faults| faults.away = true);
                host
            });
            Ok(Arc::new(Client::new(&host, address)) as Arc<dyn Worker>)
        })
    }

    /// The setting that names them all.
    pub fn setting(&self) -> String {
        let hosts = self.0.lock().unwrap();
        let all: Vec<_> = hosts.keys().map(|address| json!({"address": address, "token": "token"})).collect();
        json!(all).to_string()
    }
}

/// A server with a directory of its own.
pub struct Server {
    pub running: Option<Running>,
    pub dir: tempfile::TempDir,
    pub hosts: Hosts,
    http: reqwest::Client,
}

pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Server {
    /// With all hosts in its setting.
    pub async fn start(hosts: &Hosts) -> Self {
        Self::with(hosts, &[("WORKER_AGENTS", &hosts.setting())]).await
    }

    pub async fn with(hosts: &Hosts, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { running: None, dir, hosts: hosts.clone(), http: reqwest::Client::new() };
        server.go(settings).await;
        server
    }

    /// Like a process that was killed: nothing is given back, nothing is told.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.abandon();
        }
    }

    async fn go(&mut self, settings: &[(&str, &str)]) {
        let config = config(self.dir.path(), settings);
        self.running = Some(start_with(config, self.hosts.connect()).await.unwrap());
    }

    /// Stops and starts again on the same database.
    pub async fn restart(&mut self, settings: &[(&str, &str)]) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        self.go(settings).await;
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let url = format!("http://{}{path}", self.running.as_ref().unwrap().address);
        let mut request = self.http.request(method.parse().unwrap(), url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.call("GET", path, None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    pub async fn create(&self, seats: u32) -> (String, String) {
        let wish = json!({"name": "Class", "seats": seats, "image": "simulated"});
        let made = self.call("POST", "/api/workshops", Some(wish)).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let text = |name: &str| made.body["workshop"][name].as_str().unwrap().to_owned();
        (text("id"), text("join_code"))
    }

    pub async fn seats(&self, workshop: &str) -> Vec<Value> {
        self.get(&format!("/api/workshops/{workshop}/seats")).await["seats"].as_array().unwrap().clone()
    }

    /// Waits until all seats are in one of these states.
    pub async fn until(&self, workshop: &str, states: &[&str]) -> Vec<Value> {
        let seen = Mutex::new(Vec::new());
        let path = format!("/api/workshops/{workshop}/seats");
        wait_for(&format!("every seat is one of {states:?}"), PATIENCE, || async {
            let seats = self.get(&path).await["seats"].as_array().unwrap().clone();
            let all = seats.iter().all(|seat| states.contains(&seat["status"].as_str().unwrap()));
            *seen.lock().unwrap() = seats.clone();
            all.then_some(seats)
        })
        .await
    }

    pub async fn seat(&self, workshop: &str, seat: u64) -> Value {
        self.seats(workshop).await.into_iter().find(|s| s["seat"] == seat).unwrap()
    }

    pub async fn join(&self, code: &str, who: u32) -> Value {
        let wish = json!({"code": code, "client_id": format!("client-of-learner-{who:04}")});
        let answer = self.call("POST", "/api/join", Some(wish)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub async fn worker(&self, name: &str) -> Value {
        let all = self.get("/api/admin/workers").await;
        let of = |worker: &&Value| worker["id"] == format!("{name}:9090");
        all["workers"].as_array().unwrap().iter().find(of).cloned().unwrap_or(Value::Null)
    }

    /// Waits until a worker is in this state.
    pub async fn until_worker(&self, name: &str, state: &str) -> Value {
        wait_for(&format!("worker {name} is {state}"), Duration::from_secs(90), || async {
            let worker = self.worker(name).await;
            (worker["state"] == state).then_some(worker)
        })
        .await
    }

    /// Which worker has a seat.
    pub async fn worker_of(&self, workshop: &str, seat: u64) -> String {
        let vms = self.get("/api/admin/vms").await;
        let of = |vm: &&Value| vm["workshop_id"] == workshop && vm["seat_id"] == seat;
        let vm = vms["vms"].as_array().unwrap().iter().find(of).unwrap();
        vm["worker"].as_str().unwrap().split(':').next().unwrap().to_owned()
    }

    pub async fn delete(&self, workshop: &str) {
        let answer = self.call("DELETE", &format!("/api/workshops/{workshop}"), None).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    pub async fn until_gone(&self, workshop: &str) {
        wait_for("the workshop is gone", PATIENCE, || async {
            let answer = self.call("GET", &format!("/api/workshops/{workshop}"), None).await;
            (answer.status == 404).then_some(())
        })
        .await;
    }
}

pub fn config(dir: &std::path::Path, settings: &[(&str, &str)]) -> Config {
    let database = dir.join("clarateach.db").display().to_string();
    let nothing = dir.join("nothing").display().to_string();
    let docker = format!("unix://{nothing}");
    let own = [
        ("PORT", "0"),
        ("DATABASE_URL", &*database),
        ("WORKSPACE_BIN", &*nothing),
        ("DOCKER_HOST", &*docker),
        ("DEFAULT_IMAGE", "simulated"),
        ("VMM", "off"),
    ];
    Config::read(|name| {
        let given = settings.iter().rev().chain(own.iter().rev()).find(|(n, _)| *n == name);
        given.map(|(_, value)| (*value).to_owned())
    })
    .unwrap()
}
