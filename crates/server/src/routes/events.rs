//! A workshop's events, as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use clarateach_api::WorkshopEvent;
use clarateach_ids::{EventSeq, WorkshopId};
use futures_util::{Stream, StreamExt};

use super::extract::{Known, PathOf};
use super::reply::Failure;
use super::workshops::Refused;
use crate::app::App;
use crate::app::events::{resume_from, stream};

/// What has happened in a workshop, from its start or after `Last-Event-ID`, then what happens. Ends with an event
/// `gone` when the workshop is removed.
#[utoipa::path(get, path = "/api/workshops/{id}/events", tag = "workshops",
    params(("id" = String, Path), ("Last-Event-ID" = Option<u64>, Header, description = "the last id that was seen")),
    responses((status = 200, content_type = "text/event-stream", body = WorkshopEvent), Refused))]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    PathOf(id): PathOf<WorkshopId>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    app.workshop_of(&caller, &id).await?;
    let since = match headers.get("last-event-id") {
        None => EventSeq::default(),
        Some(value) => {
            value.to_str().ok().and_then(|text| text.parse().ok()).map(EventSeq).ok_or_else(|| {
                Failure::new(
                    clarateach_api::ErrorCode::BadRequest,
                    "Last-Event-ID must be the id of an event: a number.",
                )
            })?
        }
    };
    let since = resume_from(app.store.as_ref(), &id, since).await?;
    let events = stream(Arc::clone(&app.store), id, since).map(|record| {
        let event = WorkshopEvent { seq: record.seq, at: record.at, kind: record.kind, data: record.data };
        let sse = Event::default().id(event.seq.to_string()).event("workshop");
        sse.json_data(&event).unwrap_or_else(|_| Event::default())
    });
    let gone = futures_util::stream::once(async { Event::default().event("gone").data("{}") });
    let all = events.chain(gone).map(Ok).take_until(app.closing.clone().cancelled_owned());
    Ok(Sse::new(all).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}
