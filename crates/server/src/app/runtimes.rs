//! The runtimes of this server, and which one a workshop gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use clarateach_api::ErrorCode;
use clarateach_runtime::{Runtime, RuntimeKind};

use super::error::AppError;

/// The runtimes there are, in order of preference.
pub struct Runtimes {
    by_kind: BTreeMap<RuntimeKind, Arc<dyn Runtime>>,
    loopback: bool,
}

impl std::fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.by_kind.keys()).finish()
    }
}

impl Runtimes {
    /// From the runtimes made at start. `loopback`: whether only this machine can reach the server.
    #[must_use]
    pub fn new(runtimes: Vec<Arc<dyn Runtime>>, loopback: bool) -> Self {
        Self { by_kind: runtimes.into_iter().map(|r| (r.kind(), r)).collect(), loopback }
    }

    /// Every runtime.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Runtime>> {
        self.by_kind.values()
    }

    /// The runtime of a kind.
    #[must_use]
    pub fn get(&self, kind: RuntimeKind) -> Option<&Arc<dyn Runtime>> {
        self.by_kind.get(&kind)
    }

    /// The runtime with a stored name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<dyn Runtime>> {
        self.get(name.parse().ok()?)
    }

    /// The one a workshop gets that asks for `wanted`, or for nothing: docker if it answers, else processes where only
    /// this machine can reach them.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a word that is no runtime, `NO_RUNTIME` when none can serve.
    pub async fn choose(&self, wanted: Option<&str>) -> Result<&Arc<dyn Runtime>, AppError> {
        if let Some(word) = wanted {
            let kind: RuntimeKind = word.parse().map_err(|problem| AppError::field("runtime", problem))?;
            return self.get(kind).ok_or_else(|| {
                let there: Vec<_> = self.by_kind.keys().map(|kind| kind.as_str()).collect();
                AppError::new(
                    ErrorCode::NoRuntime,
                    format!("This server has no {kind} runtime; it has: {}.", there.join(", ")),
                )
            });
        }
        self.default().await.ok_or_else(|| {
            AppError::new(
                ErrorCode::NoRuntime,
                "No runtime can serve: Docker does not answer. Start Docker, or name a runtime.",
            )
        })
    }

    /// The runtime of workshops that name none.
    pub async fn default(&self) -> Option<&Arc<dyn Runtime>> {
        if let Some(docker) = self.get(RuntimeKind::Docker)
            && docker.capacity().await.is_ok()
        {
            return Some(docker);
        }
        if self.loopback { self.get(RuntimeKind::Process) } else { None }
    }
}
