//! Images: what there is, what a name means, getting one ready.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, header};
use axum::response::IntoResponse;
use clarateach_api::agent::{ImageBody, ImagesBody, PrepareImage, PrepareStep};
use clarateach_runtime::{ImageRef, PrepareProgress};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::extract::{JsonBody, QueryOf};
use super::reply::{BodyRefused, Failure, MakeRefused, Refused};
use super::wish;
use crate::app::App;
use crate::error::AgentError;

const LINES: &str = "application/x-ndjson";

/// Images that VMs can be made from at once.
#[utoipa::path(get, path = "/images", tag = "images", responses((status = 200, body = ImagesBody), Refused))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<ImagesBody> {
    Json(ImagesBody { images: app.host.facts().await.images })
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolveQuery {
    /// The image; the default image unless given.
    image: Option<String>,
}

/// The canonical name of an image that is here or could be fetched, to be given in `PUT /vms/…`.
#[utoipa::path(get, path = "/images/resolve", tag = "images", params(ResolveQuery), responses(
    (status = 200, body = ImageBody), Refused, MakeRefused,
))]
pub(super) async fn resolve(
    State(app): State<Arc<App>>,
    QueryOf(query): QueryOf<ResolveQuery>,
) -> Result<Json<ImageBody>, Failure> {
    let asked = query.image.map_or_else(|| Ok(app.host.default_image()), wish::image)?;
    Ok(Json(ImageBody { image: app.host.runtime().resolve(&asked).await?.0 }))
}

/// Get an image ready, so that its VMs start quickly. With `Accept: application/x-ndjson` the answer tells how far it
/// is, line by line.
#[utoipa::path(post, path = "/images", tag = "images", request_body = PrepareImage, responses(
    (status = 200, content((ImageBody = "application/json"), (PrepareStep = "application/x-ndjson"))),
    Refused, BodyRefused, MakeRefused,
))]
pub(super) async fn prepare(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    JsonBody(wanted): JsonBody<PrepareImage>,
) -> Result<Response<Body>, Failure> {
    let asked = wish::image(wanted.image)?;
    let image = app.host.runtime().resolve(&asked).await?;
    let (tell, told) = mpsc::unbounded_channel();
    let work = app.tasks.spawn(get_ready(Arc::clone(&app), image, tell));
    if headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes() == LINES.as_bytes()) {
        let steps = futures_util::stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
        let last = futures_util::stream::once(async move {
            match finished(work.await) {
                Ok(body) => line(&body),
                Err(Failure(error)) => line(&error.body),
            }
        });
        let body = Body::from_stream(steps.map(|step| line(&step)).chain(last));
        return Ok(([(header::CONTENT_TYPE, LINES)], body).into_response());
    }
    drop(told);
    Ok(Json(finished(work.await)?).into_response())
}

async fn get_ready(
    app: Arc<App>,
    image: ImageRef,
    tell: mpsc::UnboundedSender<PrepareStep>,
) -> Result<ImageBody, AgentError> {
    let progress = Arc::new(move |progress: PrepareProgress| {
        let (done, total) = progress.bytes.unzip();
        // Nobody listens any more: the image is still wanted.
        let _ = tell.send(PrepareStep { step: progress.step, done, total });
    });
    app.host.runtime().prepare(&image, progress).await?;
    Ok(ImageBody { image: image.0 })
}

fn finished(
    outcome: Result<Result<ImageBody, AgentError>, tokio::task::JoinError>,
) -> Result<ImageBody, Failure> {
    Ok(outcome.map_err(AgentError::internal)??)
}

fn line(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}
