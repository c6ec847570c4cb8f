//! Doing what many ask for at the same time in one go.
//!
//! Removing a tap and changing the firewall cost the same for one as for fifty. So whoever comes while one is under way
//! waits for its end, and then one of them does it for all that have come meanwhile. Nobody waits for company.

use std::sync::{Arc, Mutex as StdMutex, OnceLock, PoisonError};

use tokio::sync::Mutex;

/// A thing that is done for many `T` at once.
#[derive(Debug)]
pub(crate) struct Together<T, E> {
    gathering: StdMutex<Arc<Batch<T, E>>>,
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Batch<T, E> {
    items: StdMutex<Vec<T>>,
    done: OnceLock<Result<(), E>>,
}

impl<T, E> Default for Batch<T, E> {
    fn default() -> Self {
        Self { items: StdMutex::default(), done: OnceLock::new() }
    }
}

impl<T, E> Default for Together<T, E> {
    fn default() -> Self {
        Self { gathering: StdMutex::default(), turn: Mutex::default() }
    }
}

impl<T: Clone, E: Clone> Together<T, E> {
    /// Has `item` done by `act`, which gets all items of its batch; returns when it is. If this future is dropped, the next
    /// one who waits does it.
    pub(crate) async fn run<F>(&self, item: T, act: impl FnOnce(Vec<T>) -> F) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let batch = {
            let gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
            gathering.items.lock().unwrap_or_else(PoisonError::into_inner).push(item);
            gathering.clone()
        };
        let _turn = self.turn.lock().await;
        if let Some(done) = batch.done.get() {
            return done.clone();
        }
        {
            let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&gathering, &batch) {
                *gathering = Arc::default();
            }
        }
        let items = batch.items.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let result = act(items).await;
        batch.done.get_or_init(|| result).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn everything_is_done_once_and_whoever_waits_goes_together() {
        let together = Together::<u32, ()>::default();
        let calls = StdMutex::new(Vec::new());
        let gate = Semaphore::new(0);
        let each = (0..100).map(|item| {
            together.run(item, |items| async {
                let _pass = gate.acquire().await;
                calls.lock().unwrap().push(items);
                Ok(())
            })
        });
        let (all, ()) = tokio::join!(join_all(each), async {
            tokio::task::yield_now().await;
            gate.add_permits(1);
        });
        assert!(all.iter().all(Result::is_ok));
        let calls = calls.into_inner().unwrap();
        assert!(calls.len() <= 2, "{calls:?}");
        let done: Vec<u32> = calls.into_iter().flatten().collect();
        assert_eq!(done.len(), 100);
        assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), (0..100).collect());
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_of_its_batch_and_to_no_other() {
        let together = Together::<u32, String>::default();
        let fail = |items: Vec<u32>| async move { Err(format!("{items:?}")) };
        let batch = join_all((0..3).map(|item| together.run(item, fail))).await;
        assert!(batch.iter().all(Result::is_err));
        assert_eq!(together.run(7, |_| async { Ok(()) }).await, Ok(()));
    }

    #[tokio::test]
    async fn what_a_dropped_caller_left_is_done_by_the_next() {
        let together = Together::<u32, ()>::default();
        let first = together.run(1, |_| std::future::pending());
        let dropped = tokio::time::timeout(Duration::from_millis(10), first).await;
        assert!(dropped.is_err());
        let done = StdMutex::new(Vec::new());
        together
            .run(2, |items| async {
                done.lock().unwrap().extend(items);
                Ok(())
            })
            .await
            .unwrap();
        assert!(done.into_inner().unwrap().contains(&2));
    }
}
