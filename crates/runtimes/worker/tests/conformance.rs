//! A worker over HTTP against the rules for all runtimes: the real agent's router, TCP on loopback, simulated seats.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::SeatKey;
use clarateach_runtime::conformance::Harness;
use clarateach_runtime::{ImageRef, Runtime};
use clarateach_runtime_simulated::SimulatedConfig;
use support::Agent;

struct Remote(Agent);

async fn remote(_test: &str) -> Option<Remote> {
    Some(Remote(Agent::new(SimulatedConfig { capacity: 4, ..Default::default() }).await))
}

#[async_trait]
impl Harness for Remote {
    async fn open(&self) -> Arc<dyn Runtime> {
        Arc::new(self.0.client())
    }
    fn image(&self) -> ImageRef {
        ImageRef("anything".to_owned())
    }
    fn capacity(&self) -> u32 {
        4
    }
    async fn kill(&self, key: &SeatKey) {
        assert!(self.0.world.kill(key));
    }
    async fn echo(&self, _key: &SeatKey) -> Option<u16> {
        Some(8000)
    }
    // There is nothing outside of a world.
    async fn plant_foreign(&self) {}
    async fn foreign_is_untouched(&self) -> bool {
        true
    }
    async fn leftovers(&self) -> Vec<String> {
        (0..self.0.world.count()).map(|n| format!("environment {n}")).collect()
    }
}

clarateach_runtime::conformance_tests!(remote);
