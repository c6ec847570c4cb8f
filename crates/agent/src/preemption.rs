//! A Spot or preemptible Compute Engine instance is told half a minute before it is taken away.
//!
//! Sources: Compute Engine, "Spot VMs" (the ACPI signal comes with `instance/preempted` = `TRUE`, the end 30 s later at
//! the latest) and "View and query VM metadata" (`wait_for_change`, `last_etag`, `timeout_sec`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::metadata::{self, Value};
use crate::state::{State, StateError};

/// How long the metadata server holds a question open, in seconds; then it is asked again.
const HELD_SECONDS: u64 = 60;
const ANSWERED_WITHIN: Duration = Duration::from_secs(HELD_SECONDS + 10);
/// Between questions that failed: doubled up to the latter.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_AT_MOST: Duration = Duration::from_secs(15);
/// How long a start waits for the metadata server when an earlier process was told of the end.
const RECALLED_WITHIN: Duration = Duration::from_secs(1);
/// Guests get most of the half minute; the host needs the rest.
const GUESTS_END_WITHIN: Duration = Duration::from_secs(20);
/// What learners are told: a close frame's reason, of at most 123 bytes.
const NOTICE: &str =
    "the cloud takes this seat's host away; ask your instructor, or connect again in a while";

/// Whether an earlier agent process was told that this instance, as it was booted last, is taken away. The metadata server
/// may take it back, if it answers at once; nobody waits for it for long.
///
/// # Errors
/// When it can't be read or written.
pub(crate) async fn remembered(state: &State, host: Option<&str>) -> Result<bool, StateError> {
    let Some(host) = host else { return Ok(false) };
    if !state.is_preempted()? {
        return Ok(false);
    }
    let answer = tokio::time::timeout(RECALLED_WITHIN, ask(host, None)).await;
    if let Ok(Ok(Some(Value { text, .. }))) = answer
        && text.eq_ignore_ascii_case("false")
    {
        state.set_preempted(false)?;
        return Ok(false);
    }
    Ok(true)
}

/// Waits for the notice, unless it was `noticed` before, and prepares for the end when it comes.
pub(crate) async fn watch(host: String, app: Weak<App>, closing: CancellationToken, noticed: bool) {
    let noticed = noticed
        || tokio::select! {
            () = notice(&host) => true,
            () = closing.cancelled() => false,
        };
    if let (true, Some(app)) = (noticed, app.upgrade()) {
        prepare_for_the_end(&app).await;
    }
}

/// Returns when the instance is being taken away.
async fn notice(host: &str) {
    let (mut last, mut pause) = (None, PAUSE);
    loop {
        match ask(host, last.as_deref()).await {
            Ok(Some(Value { text, .. })) if text.eq_ignore_ascii_case("true") => return,
            Ok(Some(Value { etag: Some(etag), .. })) => {
                // Whoever answers at once and has no news is not asked faster than this.
                if last.as_ref() == Some(&etag) {
                    tokio::time::sleep(PAUSE).await;
                }
                (last, pause) = (Some(etag), PAUSE);
            }
            // An instance that can't be preempted, or a server that can't wait: a slow look is all there is to do.
            Ok(_) => tokio::time::sleep(PAUSE_AT_MOST).await,
            Err(why) => {
                tracing::debug!(why, "whether this instance is preempted can't be asked");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_AT_MOST);
            }
        }
    }
}

async fn ask(host: &str, last: Option<&str>) -> Result<Option<Value>, String> {
    let path = match last {
        None => "instance/preempted".to_owned(),
        Some(etag) => {
            format!("instance/preempted?wait_for_change=true&last_etag={etag}&timeout_sec={HELD_SECONDS}")
        }
    };
    let answer = tokio::time::timeout(ANSWERED_WITHIN, metadata::get(host, &path)).await;
    answer.unwrap_or_else(|_| Err(format!("{host} does not answer")))
}

async fn prepare_for_the_end(app: &Arc<App>) {
    tracing::warn!(
        "this instance is being preempted: no new VMs are taken, learners are told, guests shut down"
    );
    app.preempt();
    app.gateway.seats_leave(NOTICE);
    let left = app.host.shut_down(GUESTS_END_WITHIN).await;
    let synced = tokio::task::spawn_blocking(rustix::fs::sync).await;
    tracing::warn!(still_running = left, synced = synced.is_ok(), "ready to be preempted");
}
