//! The control plane alone at scale: 200 workers, 10,000 seats, 10,000 learners; see benches/scale/run.sh.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, unreachable_pub, dead_code)]

#[path = "../../tests/fleet/double.rs"]
mod double;
#[path = "../../tests/fleet/harness.rs"]
mod harness;
mod story;

use std::time::Duration;

use clarateach_testkit::postgres::PrivatePostgres;

use crate::story::{Scale, run};

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn main() {
    let scale = Scale {
        workers: number("WORKERS", 200),
        seats_per_worker: number("SEATS_PER_WORKER", 50),
        seats: number("SEATS", 10_000),
    };
    let database = std::env::var("DATABASE").unwrap_or_else(|_| "sqlite".to_owned());
    let postgres = (database == "postgres").then(|| PrivatePostgres::start().unwrap());
    let url = postgres.as_ref().map(|postgres| postgres.database("scale"));
    let mut settings = vec![("SERVER_KEY", "a-server-key-of-at-least-32-characters")];
    settings.extend(url.as_deref().map(|url| ("DATABASE_URL", url)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(run(scale, &settings));
    println!(
        "{database}: {} workers, {} seats in {} workshops; server, workers and learners in one process",
        scale.workers, scale.seats, outcome.workshops
    );
    for phase in &outcome.phases {
        println!(
            "  {:<18} {:>8.2} s   CPU {:>8.2} s",
            phase.name,
            phase.wall.as_secs_f64(),
            phase.cpu.as_secs_f64()
        );
    }
    let at = |percent: usize| outcome.joins[(outcome.joins.len() - 1) * percent / 100];
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "  join               p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        ms(at(50)),
        ms(at(99)),
        ms(at(100))
    );
    println!("  seats per worker   {} to {}", outcome.spread.1, outcome.spread.0);
    println!("  peak memory        {} MB", peak_mb());
}
