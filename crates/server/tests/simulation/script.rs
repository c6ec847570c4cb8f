//! One run: things happen at random, then all goes well and must come to rest, then all is deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clarateach_lifecycle::Wanted;
use clarateach_store::{Store, WorkerRecord, WorkerSource, WorkerWish};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::dice::Dice;
use crate::host::Host;
use crate::people::{Class, Learner};
use crate::server::Server;
use crate::world::{Weather, World, at_once};

/// For so many simulated seconds a worker is cut off now and then before the end: for longer than any class lasts.
const CUT_OFF_FOR: u64 = 25 * 60;
/// So many seconds after the last mishap all must be as it is wanted.
pub(crate) const AT_REST_WITHIN: u64 = 300;
/// How long it must then stay so.
const STAYS_FOR: Duration = Duration::from_secs(7);
const MOST_CLASSES: usize = 3;
const MOST_LEARNERS: usize = 14;
const MOST_SERVERS: usize = 3;

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Why it failed.
    pub(crate) broken: Option<String>,
    /// What happened.
    pub(crate) trace: Vec<String>,
    pub(crate) hash: String,
    /// How many steps the script had taken.
    pub(crate) steps: usize,
    /// Simulated seconds.
    pub(crate) seconds: u64,
    /// Seconds from the last mishap until all was at rest.
    pub(crate) at_rest_after: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// Kinds of mishaps; each run has some of them, so that rare ones are not drowned by common ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    Kill,
    Sleep,
    StopServer,
    Cut,
    Agent,
    HostDown,
    End,
    Hush,
    Storm,
    Drain,
    Forget,
    Skew,
}

const MISHAPS: [Mishap; 12] = [
    Mishap::Kill,
    Mishap::Sleep,
    Mishap::StopServer,
    Mishap::Cut,
    Mishap::Agent,
    Mishap::HostDown,
    Mishap::End,
    Mishap::Hush,
    Mishap::Storm,
    Mishap::Drain,
    Mishap::Forget,
    Mishap::Skew,
];

struct Script {
    world: Arc<World>,
    /// What is drawn here is not disturbed by what others draw.
    dice: Dice,
    /// Whether a server that is to sleep falls asleep over its next decision.
    naps: Dice,
    alone: bool,
    servers: Vec<Arc<Server>>,
    started: usize,
    hosts: Vec<Arc<Host>>,
    classes: Vec<Class>,
    /// Classes that somebody asked a server to create, maybe one that sleeps over it.
    creating: Vec<(JoinHandle<()>, Arc<Server>)>,
    /// Those that somebody has asked to be deleted, maybe of a server that died over it.
    ending: Vec<Class>,
    learners: Vec<Arc<Learner>>,
    mishaps: Vec<Mishap>,
}

/// Runs a seed to its end, on simulated time; not `fenced`: the store takes what is written on a lease that was lost.
pub(crate) fn run(seed: u64, fenced: bool) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed, fenced);
        let mut steps = 0;
        let mut script = Script::begin(&world, seed).await;
        let at_rest_after = script.play(&mut steps).await;
        let broken = world.rules().broken.clone();
        let outcome = Outcome {
            broken,
            hash: world.trace.hash(),
            trace: world.trace.take(),
            steps,
            seconds: world.age().as_secs(),
            at_rest_after,
            counts: world.rules().counts.clone(),
        };
        for server in &script.servers {
            server.kill();
        }
        outcome
    })
}

impl Script {
    async fn begin(world: &Arc<World>, seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5EED_0F5C_2197_0000);
        let mut hosts = Vec::new();
        for n in 0..1 + dice.below(4) {
            let host = Host::new(world, &format!("h{n}"), u32::try_from(2 + dice.below(8)).unwrap());
            world.add_host(Arc::clone(&host));
            hosts.push(host);
        }
        let alone = dice.chance(250);
        let mishaps = MISHAPS.into_iter().filter(|_| dice.chance(450)).collect();
        let mut script = Self {
            world: Arc::clone(world),
            dice,
            naps: Dice::new(seed ^ 0x0D02_E5EE_D000_0000),
            alone,
            servers: Vec::new(),
            started: 0,
            hosts,
            classes: Vec::new(),
            creating: Vec::new(),
            ending: Vec::new(),
            learners: Vec::new(),
            mishaps,
        };
        let servers = if alone { 1 } else { 1 + script.dice.below(MOST_SERVERS) };
        for _ in 0..servers {
            script.start_server().await;
        }
        let sealer = &script.servers[0].app.sealer;
        for host in &script.hosts {
            let record = WorkerRecord {
                id: host.id.clone(),
                address: host.address.clone(),
                token_sealed: sealer.seal("worker-token", b"token"),
                public_url: None,
                labels: BTreeMap::new(),
                capacity: None,
                tls: None,
                source: WorkerSource::Api,
                wish: WorkerWish::Active,
                kind: None,
                created_at: world.now(),
            };
            at_once(world.store.put_worker(record)).unwrap();
        }
        let (hosts, mishaps) = (script.hosts.len(), &script.mishaps);
        world.trace.note(&format!("{hosts} hosts, {servers} servers, alone: {alone}, {mishaps:?}"));
        script
    }

    /// Plays all of it, unless something breaks. Returns how long it took to come to rest.
    async fn play(&mut self, steps: &mut usize) -> u64 {
        for _ in 0..30 + self.dice.below(50) {
            *steps += 1;
            self.step().await;
            self.pause().await;
            self.world.inspect();
            if self.is_broken() {
                return 0;
            }
        }
        self.cut_one_off().await;
        if self.is_broken() {
            return 0;
        }
        self.heal().await;
        let at_rest_after = self.rest("all is well", World::unsettled).await;
        if self.is_broken() {
            return at_rest_after;
        }
        let server = Arc::clone(&self.servers[0]);
        let all: Vec<_> = self.classes.drain(..).chain(self.ending.drain(..)).collect();
        for class in all {
            class.want(Arc::clone(&self.world), Arc::clone(&server), Wanted::Deleted).await;
        }
        self.rest("all is deleted", World::left).await;
        at_rest_after
    }

    fn is_broken(&self) -> bool {
        self.world.rules().broken.is_some()
    }

    /// Waits until nothing is wrong any more, and stays so.
    async fn rest(&mut self, when: &str, wrong: fn(&World) -> Vec<String>) -> u64 {
        let began = self.world.age();
        let mut at_rest_after = 0;
        let mut quiet = Duration::ZERO;
        while quiet < STAYS_FOR {
            let tick = Duration::from_secs(1);
            sleep(tick).await;
            self.world.inspect();
            if self.is_broken() {
                return at_rest_after;
            }
            let took = (self.world.age() - began).as_secs();
            let still = wrong(&self.world);
            quiet = if still.is_empty() { quiet + tick } else { Duration::ZERO };
            if !still.is_empty() {
                at_rest_after = took;
            }
            if took > AT_REST_WITHIN && !still.is_empty() {
                self.world.broken(&format!("{when}, and after {took} s: {}", still.join("; ")));
            }
        }
        self.world.trace.note(&format!("{when}, at rest after {at_rest_after} s"));
        at_rest_after
    }

    async fn pause(&mut self) {
        let milliseconds = match self.dice.below(10) {
            0..=4 => self.dice.between(0..300),
            5..=8 => self.dice.between(300..4_000),
            _ => self.dice.between(4_000..45_000),
        };
        sleep(Duration::from_millis(milliseconds)).await;
    }

    async fn start_server(&mut self) {
        let name = format!("s{}", self.started);
        self.started += 1;
        self.servers.push(Arc::new(Server::start(&self.world, &name, self.alone).await));
    }

    fn server(&mut self) -> Option<Arc<Server>> {
        self.dice.pick(&self.servers).cloned()
    }

    async fn step(&mut self) {
        match self.dice.below(20) {
            0..=11 => self.people(),
            _ => self.mishap().await,
        }
    }

    /// Somebody does something, and doesn't wait for the answer.
    fn people(&mut self) {
        let Some(server) = self.server() else { return };
        let world = Arc::clone(&self.world);
        if self.classes.is_empty() || (self.classes.len() < MOST_CLASSES && self.dice.chance(120)) {
            let class = Class::draw(&mut self.dice);
            let minutes = self.dice.chance(250).then(|| 1 + i64::try_from(self.dice.below(5)).unwrap());
            self.classes.push(class.clone());
            let created = tokio::spawn(class.create(world, Arc::clone(&server), minutes));
            self.creating.push((created, server));
            return;
        }
        let Some(class) = self.dice.pick(&self.classes).cloned() else { return };
        let learner = self.dice.pick(&self.learners).cloned();
        match (self.dice.below(20), learner) {
            (0..=6, _) if self.learners.len() < MOST_LEARNERS => {
                let learner = Arc::new(Learner::draw(&mut self.dice, &class));
                self.learners.push(Arc::clone(&learner));
                tokio::spawn(learner.join(world, server, false));
            }
            (0..=9, Some(learner)) => {
                let with_code = self.dice.chance(500);
                tokio::spawn(learner.join(world, server, with_code));
            }
            (10, Some(learner)) => drop(tokio::spawn(learner.leave(world, server))),
            (11 | 12, _) => {
                let seat = class.seat(&mut self.dice);
                tokio::spawn(class.reset(world, server, seat));
            }
            (13, _) => {
                let seat = class.seat(&mut self.dice);
                tokio::spawn(class.evict(world, server, seat));
            }
            (14, _) => drop(tokio::spawn(class.want(world, server, Wanted::Stopped))),
            (15 | 16, _) => drop(tokio::spawn(class.want(world, server, Wanted::Running))),
            (17, _) => {
                let minutes = u32::try_from(1 + self.dice.below(3)).unwrap();
                tokio::spawn(class.extend(world, server, minutes));
            }
            (18, _) => {
                self.classes.retain(|other| other.id != class.id);
                self.ending.push(class.clone());
                tokio::spawn(class.want(world, server, Wanted::Deleted));
            }
            _ => {}
        }
    }

    async fn mishap(&mut self) {
        if self.servers.is_empty()
            || (self.servers.len() < MOST_SERVERS && !self.alone && self.dice.chance(150))
        {
            return self.start_server().await;
        }
        let Some(mishap) = self.dice.pick(&self.mishaps).copied() else { return };
        let Some(host) = self.dice.pick(&self.hosts).cloned() else { return };
        let n = self.dice.below(self.servers.len());
        let server = Arc::clone(&self.servers[n]);
        self.world.trace.note(&format!("{mishap:?} ({}, {})", server.name, host.id));
        match mishap {
            Mishap::Kill => {
                server.kill();
                self.servers.remove(n);
            }
            Mishap::StopServer => {
                server.stop();
                self.servers.remove(n);
                // What it has not finished by then is cut off.
                let within = self.dice.span(&(0..20_000));
                let end = async move {
                    sleep(within).await;
                    server.kill();
                };
                // A file's lock lets no other one in until it has gone.
                if self.alone { end.await } else { drop(tokio::spawn(end)) }
            }
            Mishap::Sleep if server.gate.is_asleep() => server.gate.wake(),
            Mishap::Sleep if self.naps.chance(500) => server.gate.doze(),
            Mishap::Sleep => server.gate.sleep(),
            Mishap::Cut => {
                if self.dice.chance(400) {
                    server.mend();
                } else {
                    let (to, from) = (self.dice.chance(600), self.dice.chance(600));
                    server.cut(&host.address, to, from);
                }
            }
            Mishap::Agent if host.answers() => host.crash_agent(),
            Mishap::Agent if host.is_up() => host.start_agent(),
            Mishap::HostDown if host.is_up() => host.die(),
            Mishap::HostDown => host.come_back(),
            Mishap::Agent => {}
            Mishap::End | Mishap::Hush => self.hurt(mishap, &host),
            Mishap::Storm => self.weather(),
            Mishap::Drain => self.drain(&server, &host),
            Mishap::Forget => self.forget(&server, &host),
            Mishap::Skew => {
                server.clock.set_skew(i64::try_from(self.dice.below(8_000)).unwrap() - 4_000);
                let far = if self.dice.chance(200) { 150_000 } else { 10_000 };
                host.set_skew(i64::try_from(self.dice.below(2 * far)).unwrap() - far as i64);
            }
        }
    }

    /// Something in an environment goes wrong, or well again.
    fn hurt(&mut self, mishap: Mishap, host: &Arc<Host>) {
        let environments = host.environments();
        let Some(environment) = self.dice.pick(&environments) else { return };
        match mishap {
            Mishap::End => host.end(&environment.key),
            _ if self.dice.chance(500) => host.hush(&environment.key),
            _ => host.unhush(&environment.key),
        }
    }

    fn weather(&mut self) {
        if self.dice.chance(300) {
            return self.world.set_weather(Weather::fine());
        }
        let dice = &mut self.dice;
        let mut upto = |most: usize| if dice.chance(500) { dice.below(most) as u64 } else { 0 };
        let weather = Weather {
            late: upto(200),
            lost_requests: upto(300),
            lost_answers: upto(300),
            doubled: upto(400),
            store_refusals: upto(150),
            store_silences: upto(100),
            failing_starts: upto(500),
            slow_starts: upto(150),
            ..Weather::fine()
        };
        self.world.trace.note(&format!("{weather:?}"));
        self.world.set_weather(weather);
    }

    fn drain(&mut self, server: &Arc<Server>, host: &Arc<Host>) {
        let draining = self.dice.chance(600);
        let (server, host, world) = (Arc::clone(server), Arc::clone(host), Arc::clone(&self.world));
        tokio::spawn(async move {
            let done = server.app.fleet.drain(&host.id, draining).await;
            let done = done.err().map(|error| error.to_string());
            world.trace.note(&format!("drain {} {draining}: {done:?}", host.id));
        });
    }

    fn forget(&mut self, server: &Arc<Server>, host: &Arc<Host>) {
        if self.dice.chance(700) || self.hosts.iter().any(|host| host.was_forgotten()) {
            return;
        }
        // From here on nobody counts on it.
        host.forgotten();
        let (server, host, world) = (Arc::clone(server), Arc::clone(host), Arc::clone(&self.world));
        tokio::spawn(async move {
            let done = server.app.fleet.forget(&host.id, true).await;
            let done = done.err().map(|error| error.to_string());
            world.trace.note(&format!("forget {}: {done:?}", host.id));
        });
    }

    /// In one run of ten a worker hears nothing of any server until every class of that time is over: it ends its seats
    /// itself.
    async fn cut_one_off(&mut self) {
        if !self.naps.chance(100) {
            return;
        }
        let Some(host) = self.naps.pick(&self.hosts).cloned() else { return };
        self.world.trace.note(&format!("{} is cut off for long", host.id));
        for server in &self.servers {
            server.cut(&host.address, true, true);
        }
        for _ in 0..CUT_OFF_FOR / 10 {
            sleep(Duration::from_secs(10)).await;
            self.world.inspect();
            if self.is_broken() {
                return;
            }
        }
    }

    /// From now on all goes well.
    async fn heal(&mut self) {
        self.world.set_weather(Weather::fine());
        for host in &self.hosts {
            host.set_skew(0);
            if !host.is_up() {
                host.come_back();
            } else if !host.answers() {
                host.start_agent();
            }
            for environment in host.environments() {
                host.unhush(&environment.key);
            }
        }
        for server in &self.servers {
            server.clock.set_skew(0);
            server.gate.wake();
            server.mend();
        }
        if self.servers.is_empty() {
            self.start_server().await;
        }
        // Calls of people that were under way come to their end: what is created after all was deleted, nobody would delete.
        for (created, server) in std::mem::take(&mut self.creating) {
            tokio::select! {
                biased;
                _ = created => {}
                () = server.gate.died() => {}
            }
        }
        sleep(Duration::from_secs(1)).await;
        for worker in at_once(self.world.store.workers()).unwrap() {
            if worker.wish == WorkerWish::Draining {
                at_once(self.world.store.set_worker_wish(&worker.id, WorkerWish::Active)).unwrap();
            }
        }
        self.world.trace.note("all goes well from here on");
    }
}
