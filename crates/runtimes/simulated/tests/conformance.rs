//! The simulated runtime against the rules for all runtimes.

use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::SeatKey;
use clarateach_runtime::conformance::Harness;
use clarateach_runtime::{ImageRef, Runtime};
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime, World};

struct Simulated(Arc<World>);

async fn simulated(_test: &str) -> Option<Simulated> {
    Some(Simulated(World::new(SimulatedConfig { capacity: 4, ..Default::default() })))
}

#[async_trait]
impl Harness for Simulated {
    async fn open(&self) -> Arc<dyn Runtime> {
        Arc::new(SimulatedRuntime::on(self.0.clone()))
    }
    fn image(&self) -> ImageRef {
        ImageRef("anything".to_owned())
    }
    fn capacity(&self) -> u32 {
        4
    }
    async fn kill(&self, key: &SeatKey) {
        assert!(self.0.kill(key));
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
        (0..self.0.count()).map(|n| format!("environment {n}")).collect()
    }
}

clarateach_runtime::conformance_tests!(simulated);
