//! A real agent over seats that are not real, on a port of its own.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod raw;

use std::sync::Arc;

use clarateach_agent::config::Config;
use clarateach_agent::host::BareHost;
use clarateach_agent::state::State;
use clarateach_agent::{Running, listen, start};
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime, World};
use clarateach_runtime_worker::{WorkerAddress, WorkerClient};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "agent-token-0123456789";

pub(crate) struct Agent {
    pub(crate) world: Arc<World>,
    pub(crate) running: Running,
    _dir: TempDir,
}

impl Agent {
    pub(crate) async fn new(config: SimulatedConfig) -> Self {
        let world = World::new(config);
        let dir = tempfile::tempdir().unwrap();
        let running = run(&dir, &world).await;
        Self { world, running, _dir: dir }
    }

    pub(crate) fn address(&self) -> String {
        self.running.address.to_string()
    }

    pub(crate) fn client(&self) -> WorkerClient {
        client(&self.address())
    }
}

async fn run(dir: &TempDir, world: &Arc<World>) -> Running {
    let settings = [("PORT", "0"), ("BIND_ADDR", "127.0.0.1"), ("AGENT_TOKEN", TOKEN)];
    let setting = |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let config = Config::read(setting).unwrap();
    let host = Arc::new(BareHost::new(Arc::new(SimulatedRuntime::on(world.clone()))));
    let listener = listen(&config).await.unwrap();
    let state = State::open(dir.path()).unwrap();
    start(config, TOKEN.to_owned().into(), listener, state, host).await.unwrap()
}

pub(crate) fn client(address: &str) -> WorkerClient {
    client_with(address, TOKEN)
}

pub(crate) fn client_with(address: &str, token: &str) -> WorkerClient {
    let (address, token) = (address.to_owned(), token.to_owned().into());
    WorkerClient::new(WorkerAddress { address, token, tls: None }).unwrap()
}
