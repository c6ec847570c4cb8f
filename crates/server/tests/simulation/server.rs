//! One of the servers: the real app with its real tasks, on simulated time, store and workers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use clarateach_gateway::{Gateway, GatewayConfig, Limits, SeatDirectory};
use clarateach_runtime_worker::{Worker, WorkerAddress};
use clarateach_seatproto::token::Verifier;
use clarateach_server::app::App;
use clarateach_server::app::clock::Clock;
use clarateach_server::app::directory::Directory;
use clarateach_server::app::fleet::{Connect, Fleet, FleetParts};
use clarateach_server::app::leases::Leases;
use clarateach_server::app::runtimes::Runtimes;
use clarateach_server::app::seal::Sealer;
use clarateach_server::app::signer::Signer;
use clarateach_server::app::throttle::Throttle;
use clarateach_server::config::Config;
use clarateach_server::tasks;
use clarateach_store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gate::Gate;
use crate::network::{Cut, Line};
use crate::store::Connection;
use crate::time::SimulatedClock;
use crate::world::World;

/// What all servers of the installation have.
const SERVER_KEY: &str = "the-server-key-of-the-simulation-is-no-secret";

/// A server that runs, sleeps, or is about to stop.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) app: Arc<App>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Arc<SimulatedClock>,
    /// Its connections, by the workers' addresses.
    cuts: Arc<Mutex<BTreeMap<String, Arc<Cut>>>>,
    stop: CancellationToken,
}

pub(crate) fn config() -> Config {
    let of = |name: &str| (name == "SERVER_KEY").then(|| SERVER_KEY.to_owned());
    Config::read(of).unwrap()
}

impl Server {
    /// Starts a server. `alone`: no other one is ever started beside it.
    pub(crate) async fn start(world: &Arc<World>, name: &str, alone: bool) -> Self {
        let config = config();
        let gate = Arc::new(Gate::new());
        let clock = Arc::new(SimulatedClock::new(tokio::time::Instant::now() - world.age()));
        let cuts: Arc<Mutex<BTreeMap<String, Arc<Cut>>>> = Arc::default();
        let store: Arc<dyn Store> = Arc::new(Connection::new(Arc::clone(world), Arc::clone(&gate), name));
        let installation = world.store.installation().await.unwrap();
        let sealer = Arc::new(
            Sealer::open(config.access.server_key.as_ref(), std::path::Path::new("/nowhere")).unwrap(),
        );
        let (signer, keys) =
            Signer::load(&*world.store, &sealer, &Leases::sole(), installation.clone(), clock.now())
                .await
                .unwrap();
        let leases = Arc::new(if alone { Leases::sole() } else { Leases::shared(name.to_owned()) });
        let fleet = Fleet::new(FleetParts {
            store: Arc::clone(&store),
            sealer: Arc::clone(&sealer),
            leases: Arc::clone(&leases),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            connect: Self::connect(world, name, &gate, &clock, &cuts),
            local: Default::default(),
        });
        let runtimes = Arc::new(Runtimes::new(Vec::new(), Arc::clone(&fleet), false));
        let directory = Arc::new(Directory::new(
            Arc::clone(&store),
            Arc::clone(&runtimes),
            Arc::clone(&sealer),
            installation.clone(),
        ));
        let gateway = Gateway::new(
            GatewayConfig {
                public_origins: Vec::new(),
                same_host_origin: true,
                previews: None,
                secure_cookies: false,
                limits: Limits::default(),
            },
            Arc::clone(&directory) as Arc<dyn SeatDirectory>,
            Verifier::new(installation.clone(), &keys),
        );
        let app = Arc::new(App {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            store,
            runtimes,
            fleet,
            leases,
            gateway,
            directory,
            sealer,
            signer,
            installation,
            wake: Arc::new(Notify::new()),
            progress: Arc::default(),
            scaling: Arc::default(),
            throttle: Throttle::default(),
            closing: CancellationToken::new(),
            started: std::time::Instant::now(),
            config,
        });
        let stop = CancellationToken::new();
        tasks::spawn(&app, &TaskTracker::new(), &stop);
        world.trace.note(&format!("{name} starts"));
        Self { name: name.to_owned(), app, gate, clock, cuts, stop }
    }

    fn connect(
        world: &Arc<World>,
        name: &str,
        gate: &Arc<Gate>,
        clock: &Arc<SimulatedClock>,
        cuts: &Arc<Mutex<BTreeMap<String, Arc<Cut>>>>,
    ) -> Connect {
        let (world, name) = (Arc::downgrade(world), name.to_owned());
        let (gate, clock, cuts) = (Arc::clone(gate), Arc::clone(clock), Arc::clone(cuts));
        Arc::new(move |to: WorkerAddress| {
            let world = world.upgrade().ok_or("the run is over")?;
            let host = world.host(&to.address).ok_or("no such host")?;
            let cut = Arc::clone(cuts.lock().unwrap().entry(to.address).or_default());
            let line = Line::new(&world, host, Arc::clone(&gate), cut, Arc::clone(&clock), &name);
            Ok(Arc::new(line) as Arc<dyn Worker>)
        })
    }

    /// Cuts its connection to a worker, in either direction, or mends it.
    pub(crate) fn cut(&self, address: &str, to_worker: bool, from_worker: bool) {
        self.cuts.lock().unwrap().entry(address.to_owned()).or_default().set(to_worker, from_worker);
    }

    pub(crate) fn mend(&self) {
        for cut in self.cuts.lock().unwrap().values() {
            cut.set(false, false);
        }
    }

    /// It is dead at once: nothing that it was about to say is said.
    pub(crate) fn kill(&self) {
        self.gate.kill();
        self.stop.cancel();
        self.app.closing.cancel();
    }

    /// It finishes what it does and goes.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.app.closing.cancel();
    }
}
