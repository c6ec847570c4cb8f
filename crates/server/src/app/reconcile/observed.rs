//! What runtimes show, by workshop. Pure.

use std::collections::BTreeMap;

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_runtime::{Environment, EnvironmentState, RuntimeError, RuntimeKind};

/// What each runtime shows, or why it can't say.
pub(super) type Observed =
    BTreeMap<RuntimeKind, Result<BTreeMap<WorkshopId, Vec<Environment>>, RuntimeError>>;

pub(super) fn by_workshop(environments: Vec<Environment>) -> BTreeMap<WorkshopId, Vec<Environment>> {
    let mut map: BTreeMap<WorkshopId, Vec<Environment>> = BTreeMap::new();
    for environment in environments {
        map.entry(environment.key.workshop.clone()).or_default().push(environment);
    }
    map
}

/// Leaves a workshop out that somebody else decides for.
pub(super) fn forget(seen: &mut Observed, id: &WorkshopId) {
    for environments in seen.values_mut().flatten() {
        environments.remove(id);
    }
}

/// What workers may still have of seats nobody wants, besides what they show.
pub(super) fn with_remnants(
    mut environments: Vec<Environment>,
    remnants: Vec<(SeatKey, Generation)>,
) -> Vec<Environment> {
    for (key, generation) in remnants {
        match environments.iter_mut().find(|environment| environment.key == key) {
            Some(environment) => environment.generation = environment.generation.max(generation),
            None => environments.push(Environment {
                key,
                generation,
                state: EnvironmentState::Stopped,
                reason: None,
                address: None,
                handle: None,
                not_after: None,
            }),
        }
    }
    environments
}
