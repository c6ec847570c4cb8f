//! An agent that listens on a port of its own, over a simulated host.

use std::sync::Arc;
use std::time::Duration;

use clarateach_agent::config::Config;
use clarateach_agent::host::BareHost;
use clarateach_agent::state::State;
use clarateach_agent::{Running, StartError, listen, start};
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime, World};
use clarateach_testkit::wait_for;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "agent-token-0123456789";
pub(crate) const METRICS_TOKEN: &str = "metrics-token";
pub(crate) const UI: &str = "https://class.example";

pub(crate) struct Agent {
    pub(crate) running: Option<Running>,
    pub(crate) world: Arc<World>,
    pub(crate) http: reqwest::Client,
    pub(crate) over_tls: bool,
    settings: Vec<(&'static str, String)>,
    dir: TempDir,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// The answer, which must be this refusal.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        assert!(!self.body["error"]["message"].as_str().unwrap_or_default().is_empty(), "{self:?}");
        self
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

pub(crate) fn quick() -> SimulatedConfig {
    SimulatedConfig { capacity: 50, ..SimulatedConfig::default() }
}

impl Agent {
    pub(crate) async fn new() -> Self {
        Self::with(quick()).await
    }

    pub(crate) async fn with(config: SimulatedConfig) -> Self {
        Self::set(config, Vec::new()).await
    }

    /// With more settings than the usual ones.
    pub(crate) async fn set(config: SimulatedConfig, settings: Vec<(&'static str, String)>) -> Self {
        let world = World::new(config);
        let dir = tempfile::tempdir().unwrap();
        let running = Some(run(&dir, &world, &settings).await.unwrap());
        let http = reqwest::Client::builder().timeout(Duration::from_secs(40)).no_proxy().build().unwrap();
        Self { running, world, http, over_tls: false, settings, dir }
    }

    /// Stops the agent and starts another on the same state and seats.
    pub(crate) async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        self.running = Some(run(&self.dir, &self.world, &self.settings).await.unwrap());
    }

    /// From the next start on.
    pub(crate) fn change(&mut self, name: &'static str, value: &str) {
        self.settings.retain(|(setting, _)| *setting != name);
        self.settings.push((name, value.to_owned()));
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn authority(&self) -> String {
        self.running().address.to_string()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.over_tls { "https" } else { "http" }, self.authority())
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(TOKEN)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        answer(self.request(Method::PUT, path).json(&body)).await
    }

    /// A VM that is ready.
    pub(crate) async fn vm(&self, workshop: &str, seat: u32) -> Answer {
        self.post("/vms?wait=ready", json!({"workshop_id": workshop, "seat_id": seat})).await.is(201)
    }

    pub(crate) async fn has_status(&self, path: &str, status: &str) {
        wait_for(&format!("{path} is {status}"), Duration::from_secs(10), async || {
            (self.get(path).await.body["status"] == status).then_some(())
        })
        .await;
    }
}

pub(crate) async fn run(
    dir: &TempDir,
    world: &Arc<World>,
    more: &[(&'static str, String)],
) -> Result<Running, StartError> {
    let settings = [
        ("PORT", "0"),
        ("BIND_ADDR", "127.0.0.1"),
        ("AGENT_TOKEN", TOKEN),
        ("METRICS_TOKEN", METRICS_TOKEN),
        ("CORS_ORIGINS", UI),
        ("PUBLIC_URL", "https://worker.example"),
    ];
    let setting = |name: &str| {
        let usual = settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        more.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).or(usual)
    };
    let config = Config::read(setting).unwrap();
    let host = Arc::new(BareHost::new(Arc::new(SimulatedRuntime::on(world.clone()))));
    clarateach_agent::telemetry::start_metrics();
    let listener = listen(&config).await.unwrap();
    let state = State::open(dir.path()).unwrap();
    start(config, TOKEN.to_owned().into(), listener, state, host).await
}

pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, body, headers }
}
