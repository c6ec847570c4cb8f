//! The control plane against everything that can go wrong around it: real reconciler, fleet and SQL, simulated time,
//! network, workers and people, all from one seed. See docs/simulation.md.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod bell;
mod dice;
mod gate;
mod host;
mod network;
mod people;
mod rules;
mod script;
mod server;
mod settled;
mod store;
mod time;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use script::{Outcome, run};

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 500;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} takes a number, not {text:?}")))
}

/// The last `CLARATEACH_TRACE` lines of what happened.
fn tail(outcome: &Outcome) -> String {
    let shown = usize::try_from(number("CLARATEACH_TRACE").unwrap_or(120)).unwrap();
    outcome.trace[outcome.trace.len().saturating_sub(shown)..].join("\n")
}

fn story(seed: u64, outcome: &Outcome) -> String {
    format!(
        "seed {seed}, step {}, after {} simulated seconds: {}\n{}\nAgain: CLARATEACH_SEED={seed} cargo nextest run \
         -p clarateach-server --test simulation",
        outcome.steps,
        outcome.seconds,
        outcome.broken.as_deref().unwrap_or("all is well"),
        tail(outcome)
    )
}

/// `CLARATEACH_SEED=n` runs that one; `CLARATEACH_SEEDS=n` so many, from `CLARATEACH_FIRST_SEED` on. With
/// `CLARATEACH_UNFENCED=1` the store doesn't look at fences: seeds fail then.
#[test]
fn whatever_happens_no_rule_is_broken_and_all_comes_to_rest() {
    let one = number("CLARATEACH_SEED");
    let first = one.or_else(|| number("CLARATEACH_FIRST_SEED")).unwrap_or(1);
    let seeds = if one.is_some() { 1 } else { number("CLARATEACH_SEEDS").unwrap_or(SEEDS) };
    let fenced = std::env::var_os("CLARATEACH_UNFENCED").is_none();
    let go_on = std::env::var_os("CLARATEACH_GO_ON").is_some();
    let next = AtomicU64::new(first);
    let failed = Mutex::new(BTreeMap::new());
    let totals = Mutex::new((0u64, 0u64, 0u64, BTreeMap::<&str, u64>::new()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || (!go_on && !failed.lock().unwrap().is_empty()) {
                        return;
                    }
                    let outcome = run(seed, fenced);
                    let mut totals = totals.lock().unwrap();
                    totals.0 += outcome.seconds;
                    totals.1 += outcome.trace.len() as u64;
                    totals.2 = totals.2.max(outcome.at_rest_after);
                    for (what, count) in &outcome.counts {
                        *totals.3.entry(what).or_default() += count;
                    }
                    if outcome.broken.is_some() {
                        failed.lock().unwrap().insert(seed, story(seed, &outcome));
                    }
                }
            });
        }
    });
    let (simulated, lines, slowest, counts) = totals.into_inner().unwrap();
    let took = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds in {took:.1} s, {simulated} simulated seconds, {lines} events; at rest after at most {slowest} s"
    );
    println!("{counts:?}");
    let failed = failed.into_inner().unwrap();
    if go_on {
        for text in failed.values() {
            println!("{}", text.lines().next().unwrap_or_default());
        }
    }
    if let Some(text) = failed.values().next() {
        panic!("{} of {seeds} seeds failed, the first of them:\n{text}", failed.len());
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 14, 159] {
        let (once, again) = (run(seed, true), run(seed, true));
        let differ = once.trace.iter().zip(&again.trace).position(|(one, other)| one != other);
        if let Some(at) = differ {
            let before = once.trace[at.saturating_sub(20)..at].join("\n");
            panic!("seed {seed}: after\n{before}\nonce {}\nand then {}", once.trace[at], again.trace[at]);
        }
        assert_eq!(once.hash, again.hash, "seed {seed}");
        assert!(once.trace.len() > 50, "seed {seed}: {} events", once.trace.len());
    }
    assert_ne!(run(3, true).hash, run(4, true).hash);
}

/// That a server which slept over a decision is stopped by its fence, and by nothing else.
#[test]
fn a_store_that_does_not_look_at_fences_is_found_out() {
    let unfenced = (1..=SEEDS).map(|seed| (seed, run(seed, false)));
    let (seed, outcome) = unfenced.into_iter().find(|(_, outcome)| outcome.broken.is_some()).unwrap();
    let broken = outcome.broken.clone().unwrap();
    assert!(broken.contains("was written with token"), "{}", story(seed, &outcome));
    let fenced = run(seed, true);
    assert_eq!(fenced.broken, None, "{}", story(seed, &fenced));
    assert!(fenced.counts.keys().any(|what| what.ends_with("fenced off")), "{:?}", fenced.counts);
}
