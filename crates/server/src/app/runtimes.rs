//! The runtimes of this server, and which one a workshop gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use clarateach_api::ErrorCode;
use clarateach_runtime::{Runtime, RuntimeKind};

use super::error::AppError;
use super::fleet::Fleet;

/// The runtimes there are: this machine's own, and the workers'.
pub struct Runtimes {
    local: BTreeMap<RuntimeKind, Arc<dyn Runtime>>,
    fleet: Arc<Fleet>,
    loopback: bool,
    /// Workers are made when seats need them.
    grows: bool,
}

impl std::fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.local.keys()).finish()
    }
}

impl Runtimes {
    /// From the runtimes made at start and the workers. `loopback`: whether only this machine can reach the server.
    #[must_use]
    pub fn new(local: Vec<Arc<dyn Runtime>>, fleet: Arc<Fleet>, loopback: bool) -> Self {
        Self { local: local.into_iter().map(|r| (r.kind(), r)).collect(), fleet, loopback, grows: false }
    }

    /// Workers are made when seats need them: their kind is there before they are.
    #[must_use]
    pub fn growing(self, grows: bool) -> Self {
        Self { grows, ..self }
    }

    /// The runtime of workers that are made when they are needed.
    fn coming(&self, kind: RuntimeKind) -> Option<&Arc<dyn Runtime>> {
        (self.grows && kind == RuntimeKind::Firecracker).then(|| self.fleet.runtime_anyhow(kind)).flatten()
    }

    /// Whether the first worker that makes a kind is still to be made.
    #[must_use]
    pub fn is_coming(&self, kind: RuntimeKind) -> bool {
        !self.local.contains_key(&kind) && self.coming(kind).is_some() && !self.fleet.is_served(kind)
    }

    /// Every runtime, this machine's first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn Runtime>> {
        let mut all: Vec<_> = self.local.values().cloned().collect();
        all.extend(self.fleet.runtimes());
        all
    }

    /// This machine's own.
    pub fn local(&self) -> impl Iterator<Item = &Arc<dyn Runtime>> {
        self.local.values()
    }

    /// The runtime of a kind.
    #[must_use]
    pub fn get(&self, kind: RuntimeKind) -> Option<&Arc<dyn Runtime>> {
        self.local.get(&kind).or_else(|| self.fleet.runtime(kind)).or_else(|| self.coming(kind))
    }

    /// The runtime with a stored name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<dyn Runtime>> {
        self.get(name.parse().ok()?)
    }

    /// Every runtime of which something may be left, this machine's first.
    #[must_use]
    pub fn to_look_after(&self) -> BTreeMap<RuntimeKind, Arc<dyn Runtime>> {
        let mut all = self.local.clone();
        for kind in super::fleet::KINDS {
            if let Some(runtime) = self.fleet.runtime_ever(kind).or_else(|| self.coming(kind)) {
                all.entry(kind).or_insert_with(|| Arc::clone(runtime));
            }
        }
        all
    }

    /// Whether seats of a kind are made by workers.
    #[must_use]
    pub fn is_remote(&self, kind: RuntimeKind) -> bool {
        !self.local.contains_key(&kind)
            && (self.fleet.runtime_ever(kind).is_some() || self.coming(kind).is_some())
    }

    /// The one a workshop gets that asks for `wanted`, or for nothing: the workers' if there are workers, else docker if
    /// it answers, else processes where only this machine can reach them.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a word that is no runtime, `NO_RUNTIME` when none can serve.
    pub async fn choose(&self, wanted: Option<&str>) -> Result<&Arc<dyn Runtime>, AppError> {
        if let Some(word) = wanted {
            let kind: RuntimeKind = word.parse().map_err(|problem| AppError::field("runtime", problem))?;
            return self.get(kind).ok_or_else(|| {
                let there: Vec<_> = self.all().iter().map(|runtime| runtime.kind().as_str()).collect();
                let has = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
                AppError::new(
                    ErrorCode::NoRuntime,
                    format!("This server has no {kind} runtime; it has: {has}.{}", self.silent_workers()),
                )
            });
        }
        self.default().await.ok_or_else(|| AppError::new(ErrorCode::NoRuntime, self.nothing_serves()))
    }

    /// A further sentence where workers may still turn out to have what is asked for.
    fn silent_workers(&self) -> &'static str {
        let known = !self.fleet.runtimes().is_empty();
        if self.fleet.has_workers() && !known {
            " None of its workers has answered yet; GET /api/admin/workers says why."
        } else {
            ""
        }
    }

    fn nothing_serves(&self) -> String {
        if self.fleet.has_workers() {
            return "No runtime can serve: none of the workers has answered yet. GET /api/admin/workers says why."
                .to_owned();
        }
        if self.local.is_empty() {
            return "No runtime can serve: this server makes no seats itself and has no workers. Add one with \
                    WORKER_AGENTS or POST /api/admin/workers."
                .to_owned();
        }
        "No runtime can serve: Docker does not answer. Start Docker, or name a runtime.".to_owned()
    }

    /// The runtime of workshops that name none.
    pub async fn default(&self) -> Option<&Arc<dyn Runtime>> {
        if self.fleet.has_workers() || self.grows {
            // Also when they are all away: seats don't go elsewhere because a network is down.
            let known = super::fleet::KINDS.into_iter().find_map(|kind| self.fleet.runtime(kind));
            return known.or_else(|| self.coming(RuntimeKind::Firecracker));
        }
        if let Some(docker) = self.get(RuntimeKind::Docker)
            && docker.capacity().await.is_ok()
        {
            return Some(docker);
        }
        if self.loopback { self.get(RuntimeKind::Process) } else { None }
    }
}
