//! One control plane, many workers that aren't there, and a school that comes and goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clarateach_testkit::wait_for;
use serde_json::{Value, json};

use crate::harness::{Hosts, Server};

/// How long any phase may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Learners who join at once.
const AT_ONCE: usize = 64;

/// How large.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub workers: u32,
    pub seats_per_worker: u32,
    pub seats: u32,
}

impl Scale {
    /// Workshops of 100 to 500 seats, or of a third where there are few.
    fn workshops(self) -> Vec<u32> {
        let mut left = self.seats;
        let mut sizes = Vec::new();
        let mut next = [100, 200, 300, 400, 500].into_iter().cycle();
        while left > 0 {
            let size = if self.seats < 1000 { self.seats.div_ceil(3) } else { next.next().unwrap() };
            sizes.push(size.min(left));
            left -= size.min(left);
        }
        sizes
    }
}

/// What a phase took.
#[derive(Debug)]
pub struct Phase {
    pub name: &'static str,
    pub wall: Duration,
    pub cpu: Duration,
}

/// What it came to.
#[derive(Debug)]
pub struct Outcome {
    pub workshops: usize,
    pub phases: Vec<Phase>,
    /// Times of joins, sorted.
    pub joins: Vec<Duration>,
    /// The largest and the smallest number of seats on a worker.
    pub spread: (usize, usize),
}

struct Clock {
    began: Instant,
    cpu: Duration,
}

fn cpu() -> Duration {
    let usage = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = usage.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux (proc(5)).
    Duration::from_millis(ticks * 10)
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu() }
    }

    fn stop(self, name: &'static str) -> Phase {
        Phase { name, wall: self.began.elapsed(), cpu: cpu() - self.cpu }
    }
}

/// Runs it on the database that `settings` name.
pub async fn run(scale: Scale, settings: &[(&str, &str)]) -> Outcome {
    let mut phases = Vec::new();
    let clock = Clock::start();
    let hosts = Hosts::new(scale.workers, scale.seats_per_worker);
    let agents = hosts.setting();
    let mut all = settings.to_vec();
    all.push(("WORKER_AGENTS", &agents));
    let server = Arc::new(Server::with(&hosts, &all).await);
    wait_for("every worker takes seats", PATIENCE, || async {
        let overview = server.get("/api/admin/overview").await;
        (overview["overview"]["usable_workers"] == scale.workers).then_some(())
    })
    .await;
    phases.push(clock.stop("workers known"));

    let clock = Clock::start();
    let mut workshops = Vec::new();
    for seats in scale.workshops() {
        workshops.push((server.create(seats).await, seats));
    }
    wait_for("every seat is ready", PATIENCE, || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let all = server.get("/api/workshops").await;
        let all = all["workshops"].as_array().unwrap();
        let ready: u64 = all.iter().map(|w| w["seat_counts"]["ready"].as_u64().unwrap()).sum();
        (ready == u64::from(scale.seats)).then_some(())
    })
    .await;
    phases.push(clock.stop("seats ready"));
    let counts = hosts.counts();
    let spread = (*counts.iter().max().unwrap(), *counts.iter().min().unwrap());

    let clock = Clock::start();
    let joins = join_all(&server, &workshops).await;
    phases.push(clock.stop("learners joined"));

    let clock = Clock::start();
    for ((workshop, _), _) in &workshops {
        server.delete(workshop).await;
    }
    wait_for("every workshop is gone", PATIENCE, || async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let all = server.get("/api/workshops").await;
        all["workshops"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    phases.push(clock.stop("all deleted"));
    assert_eq!(hosts.counts().iter().sum::<usize>(), 0, "something is left on workers");
    Outcome { workshops: workshops.len(), phases, joins, spread }
}

/// Every learner joins once; no seat is given twice.
async fn join_all(server: &Arc<Server>, workshops: &[((String, String), u32)]) -> Vec<Duration> {
    let mut learners: Vec<(String, u32)> = Vec::new();
    for ((_, code), seats) in workshops {
        learners.extend((0..*seats).map(|n| (code.clone(), n)));
    }
    let (learners, next) = (Arc::new(learners), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (learners, next, server) = (Arc::clone(&learners), Arc::clone(&next), Arc::clone(server));
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut seats = Vec::new();
                while let Some((code, n)) = learners.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wish = json!({"code": code, "client_id": format!("scale-learner-{n:08}")});
                    let began = Instant::now();
                    let joined = server.call("POST", "/api/join", Some(wish)).await;
                    times.push(began.elapsed());
                    assert_eq!(joined.status, 200, "{}", joined.body);
                    seats.push((code.clone(), joined.body["seat"].clone()));
                }
                (times, seats)
            })
        })
        .collect();
    let mut times = Vec::new();
    let mut given: BTreeMap<(String, String), Value> = BTreeMap::new();
    for task in tasks {
        let (some, seats) = task.await.unwrap();
        times.extend(some);
        for (code, seat) in seats {
            let before = given.insert((code, seat.to_string()), seat);
            assert!(before.is_none(), "a seat was given twice");
        }
    }
    times.sort_unstable();
    times
}
