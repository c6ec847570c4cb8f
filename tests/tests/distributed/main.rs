//! Distributed mode while its parts are killed and cut off: three workers, two servers and PostgreSQL in network
//! namespaces of their own, a class that goes on working.
//!
//! `CLARATEACH_KILLS=100` for the long form; `CLARATEACH_SEED` repeats a run.

mod chance;
mod class;
mod cluster;
mod faults;
mod processes;
mod school;
mod wires;

use std::time::{Duration, Instant};

use chance::Chance;
use clarateach_testkit::skip;
use cluster::{Cluster, Kind, SERVERS, WORKERS};
use faults::SHORT;
use school::{School, Size};
use wires::Net;

/// Seats that are not real, in processes that outlive their agents.
#[test]
fn nobody_loses_a_seat_whatever_is_killed_or_cut_off() {
    let size = Size { seats: 30, first: 15, extra: 3 };
    let rounds = setting("CLARATEACH_KILLS").map_or(SHORT, |kills| kills as usize);
    run("nobody_loses_a_seat_whatever_is_killed_or_cut_off", Kind::simulated, size, rounds);
}

/// The real `agent`, over emulated machines.
#[test]
fn nobody_loses_a_microvm_whatever_is_killed_or_cut_off() {
    let size = Size { seats: 4, first: 2, extra: 0 };
    run("nobody_loses_a_microvm_whatever_is_killed_or_cut_off", Kind::qemu, size, SHORT);
}

/// On a thread of its own: it moves to another network, and all that it starts with it.
fn run(name: &'static str, kind: fn() -> Result<Kind, String>, size: Size, rounds: usize) {
    let on_its_own = move || {
        let kind = match kind() {
            Ok(kind) => kind,
            Err(why) => return skip(&format!("distributed {name}"), &why),
        };
        let net = Net::enter();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            match Cluster::start(kind, net).await {
                Ok(cluster) => story(cluster, size, rounds).await,
                Err(why) => skip(&format!("distributed {name}"), &why),
            }
        });
    };
    std::thread::spawn(on_its_own).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn story(mut cluster: Cluster, size: Size, rounds: usize) {
    let seed = setting("CLARATEACH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("CLARATEACH_SEED={seed} CLARATEACH_KILLS={rounds}");
    let mut chance = Chance::new(seed);
    let mut school = School::open(&cluster, size).await;
    let first = school.until_well(&mut cluster, &mut chance).await;
    println!("{size:?}: all well after {:.1} s", first.as_secs_f64());
    spread(&cluster, size.seats);
    let mut times = Vec::new();
    for round in 0..rounds {
        let (faults, lasts) = faults::draw(round, &mut chance);
        school.make_room(&cluster, chance.below(SERVERS)).await;
        for fault in &faults {
            fault.begin(&mut cluster);
        }
        school.next_round(round);
        let until = Instant::now() + lasts;
        let mut away = 0;
        while Instant::now() < until {
            away = away.max(school.works(&cluster, &mut chance).await.len());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for fault in faults.iter().rev() {
            fault.end(&mut cluster);
        }
        let well = school.until_well(&mut cluster, &mut chance).await;
        let (lasted, well_after) = (lasts.as_secs_f64(), well.as_secs_f64());
        println!(
            "{round:>3} {lasted:>5.1} s {faults:?}: at most {away} away, all well {well_after:.2} s after its end"
        );
        times.push(well);
    }
    report(times);
    school.close(&cluster).await;
    cluster.nothing_is_left();
}

/// One lost worker must not hurt everybody.
fn spread(cluster: &Cluster, seats: usize) {
    let mut by_worker = [0; WORKERS];
    for places in cluster.environments().expect("every worker answers").values() {
        by_worker[places[0].0] += 1;
    }
    println!("seats by worker: {by_worker:?}");
    assert!(by_worker.iter().all(|count| *count >= seats / WORKERS), "{by_worker:?}");
}

fn report(mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    let (half, most, all) = (at(0.5), at(0.99), at(1.0));
    println!(
        "time to converge after {} rounds: p50 {half:.2} s, p99 {most:.2} s, max {all:.2} s",
        times.len()
    );
}
