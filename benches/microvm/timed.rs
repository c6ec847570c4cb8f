//! A VMM whose starts are timed, so that the rest of a create can be told from them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clarateach_microvm::vmm::{OnSpawn, Snapshot, VmProcess, VmSpec, Vmm, VmmError};
use clarateach_runtime::{BoxedSeatStream, RuntimeKind};

pub(crate) struct Timed {
    pub(crate) vmm: Arc<dyn Vmm>,
    starts: Mutex<HashMap<String, Duration>>,
}

impl Timed {
    pub(crate) fn new(vmm: Arc<dyn Vmm>) -> Arc<Self> {
        Arc::new(Self { vmm, starts: Mutex::default() })
    }

    /// How long the VMM took to start an instance.
    pub(crate) fn took(&self, instance: &str) -> Duration {
        let starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        starts.get(instance).copied().unwrap_or_default()
    }

    fn note(&self, spec: &VmSpec, began: Instant) {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        starts.insert(spec.instance.clone(), began.elapsed());
    }
}

#[async_trait]
impl Vmm for Timed {
    fn kind(&self) -> RuntimeKind {
        self.vmm.kind()
    }

    async fn version(&self) -> Result<String, VmmError> {
        self.vmm.version().await
    }

    async fn start(&self, spec: &VmSpec, spawned: OnSpawn<'_>) -> Result<VmProcess, VmmError> {
        let began = Instant::now();
        let outcome = self.vmm.start(spec, spawned).await;
        self.note(spec, began);
        outcome
    }

    async fn restore(
        &self,
        snapshot: &Snapshot,
        spec: &VmSpec,
        spawned: OnSpawn<'_>,
    ) -> Result<VmProcess, VmmError> {
        let began = Instant::now();
        let outcome = self.vmm.restore(snapshot, spec, spawned).await;
        self.note(spec, began);
        outcome
    }

    async fn snapshot(&self, spec: &VmSpec, process: &VmProcess, dir: &Path) -> Result<Snapshot, VmmError> {
        self.vmm.snapshot(spec, process, dir).await
    }

    fn is_alive(&self, spec: &VmSpec, process: &VmProcess) -> bool {
        self.vmm.is_alive(spec, process)
    }

    fn find(&self, instance: &str) -> Vec<VmProcess> {
        self.vmm.find(instance)
    }

    async fn wait(&self, process: &VmProcess) -> std::io::Result<()> {
        self.vmm.wait(process).await
    }

    async fn kill(&self, spec: &VmSpec, process: Option<&VmProcess>) -> Result<(), VmmError> {
        self.vmm.kill(spec, process).await
    }

    async fn control(&self, spec: &VmSpec) -> std::io::Result<BoxedSeatStream> {
        self.vmm.control(spec).await
    }
}
