//! The scale run, small: 10 workers, 300 seats, 300 learners; see benches/scale/run.sh.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]

#[path = "fleet/double.rs"]
mod double;
#[path = "fleet/harness.rs"]
mod harness;
#[path = "../benches/scale/story.rs"]
mod story;

use crate::story::{Scale, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_school_comes_and_goes() {
    let scale = Scale { workers: 10, seats_per_worker: 40, seats: 300 };
    let outcome = run(scale, &[]).await;
    assert_eq!((outcome.workshops, outcome.joins.len()), (3, 300));
    assert!(outcome.spread.0 - outcome.spread.1 <= 3, "{:?}", outcome.spread);
    assert!(outcome.phases.iter().all(|phase| phase.wall > std::time::Duration::ZERO));
}
