//! How long the database takes: the only use of a clock here, and nothing is decided by it.

use std::time::Instant;

/// Waits for `work` and measures it under the name of its operation, waiting in line included.
pub(crate) async fn timed<T>(operation: &'static str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let result = work.await;
    metrics::histogram!("clarateach_store_seconds", "operation" => operation)
        .record(began.elapsed().as_secs_f64());
    result
}
