//! Notes in the store when learners were last seen at their seats.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;

/// How often that is noted.
pub(super) const PERIOD: Duration = Duration::from_secs(15);

/// One look at who is connected.
pub(super) async fn note(app: Arc<App>) {
    let here = app.gateway.connected().into_iter().map(|(session, presence)| (session, presence.last_seen));
    let seen: Vec<_> = here.chain(app.fleet.learners()).collect();
    if seen.is_empty() {
        return;
    }
    if let Err(error) = app.store.touch_sessions(&seen).await {
        tracing::debug!(%error, "who was seen could not be noted");
    }
}
