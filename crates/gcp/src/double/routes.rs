//! Requests in, answers out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method as Verb, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::answers::No;
use super::faults::{Fault, Side};
use super::schema::{Method, misfits};
use super::world::{Recorded, World, ZONES};
use super::{PROJECT, Shared, attached, filter, identity, instances, storage};

type Parameters = BTreeMap<String, String>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/token", post(identity::token))
        .route("/computeMetadata/v1/instance/service-accounts/default/token", get(identity::metadata_token))
        .route("/compute/v1/{*path}", any(call))
        .with_state(shared)
}

async fn call(
    State(shared): State<Arc<Shared>>,
    verb: Verb,
    Path(path): Path<String>,
    Query(query): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let authorized = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .is_some_and(|token| identity::is_good(&shared, token));
    if !authorized {
        return No::unauthorized().into_response();
    }
    let method = Method::find(verb.as_str(), &path);
    let line = format!("{verb} {path}");
    let parsed = (!body.is_empty()).then(|| serde_json::from_slice::<Value>(&body));
    let (nth, fault) = {
        let mut world = shared.world();
        world.recorded.push(Recorded {
            method: method.as_ref().map(|method| method.name.clone()).unwrap_or_default(),
            call: line.clone(),
            query: query.clone(),
            body: parsed.as_ref().and_then(|parsed| parsed.as_ref().ok().cloned()),
        });
        (world.recorded.len() as u64, world.faults.take(&line))
    };
    hold(&shared, nth, Side::Before).await;
    let every = shared.options.unavailable_every;
    let fault = if every > 0 && nth % every == 0 { Some(Fault::Unavailable) } else { fault };
    if let Some(refusal) = fault.and_then(refused) {
        return refusal;
    }
    let answer = match (method, parsed) {
        (None, _) => Err(No::new(404, "notFound", format!("no such method: {line}"))),
        (_, Some(Err(error))) => Err(No::new(400, "parseError", format!("Parse Error: {error}"))),
        (Some(method), Some(Ok(body))) => perform(&shared, &method, &query, Some(body)).await,
        (Some(method), None) => perform(&shared, &method, &query, None).await,
    };
    hold(&shared, nth, Side::After).await;
    if fault == Some(Fault::AnswerLost) {
        return No::new(502, "backendError", "the answer was lost").into_response();
    }
    match answer {
        Ok(value) => Json(value).into_response(),
        Err(no) => no.into_response(),
    }
}

async fn hold(shared: &Shared, nth: u64, side: Side) {
    if !shared.world().faults.holds(nth, side) {
        return;
    }
    let mut moved = shared.moved.subscribe();
    while shared.world().faults.still_holds() {
        if moved.changed().await.is_err() {
            return;
        }
    }
}

fn refused(fault: Fault) -> Option<Response> {
    let no = match fault {
        Fault::AnswerLost => return None,
        Fault::Html => {
            let page = Html("<!DOCTYPE html><title>Error 502 (Server Error)!!1</title>");
            return Some((StatusCode::BAD_GATEWAY, page).into_response());
        }
        Fault::Unavailable => No::new(503, "backendError", "Service is unavailable. Please retry."),
        Fault::TooMany => No::new(429, "rateLimitExceeded", "Too many requests."),
        Fault::RateLimit => No::new(
            403,
            "rateLimitExceeded",
            "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service 'compute.googleapis.com'.",
        ),
        Fault::Quota => {
            No::new(403, "quotaExceeded", "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1.")
        }
        Fault::Forbidden => No::new(
            403,
            "forbidden",
            format!("Required 'compute.instances.create' permission for 'projects/{PROJECT}'"),
        ),
    };
    Some(no.into_response())
}

/// Checks a request against the discovery document, does it, and checks the answer.
async fn perform(
    shared: &Arc<Shared>,
    method: &Method,
    query: &Parameters,
    body: Option<Value>,
) -> Result<Value, No> {
    for name in query.keys() {
        if !method.takes(name) {
            let message = format!(
                "Invalid JSON payload received. Unknown name \"{name}\": Cannot bind query parameter."
            );
            return Err(No::new(400, "invalid", message));
        }
    }
    match (method.definition["request"]["$ref"].as_str(), &body) {
        (Some(schema), Some(body)) => {
            if let Some(misfit) = misfits(schema, body).into_iter().next() {
                return Err(No::new(400, "invalid", misfit));
            }
        }
        (Some(_), None) => return Err(No::new(400, "required", "Required field 'resource' not specified")),
        (None, Some(body)) if body.as_object().is_none_or(|fields| !fields.is_empty()) => {
            return Err(No::new(400, "invalid", "no body is taken here"));
        }
        (None, _) => {}
    }
    if method.part("project") != PROJECT {
        return Err(No::not_found(&format!("projects/{}", method.part("project"))));
    }
    let zone = method.part("zone");
    if !zone.is_empty() && !ZONES.contains(&zone) {
        return Err(No::invalid("zone", format!("'{zone}'. Unknown zone.")));
    }
    let request = query.get("requestId");
    if let Some(operation) = request.and_then(|id| shared.world().requests.get(id).cloned()) {
        return shared.operation(&operation);
    }
    if request.is_some_and(|id| uuid::Uuid::parse_str(id).map_or(true, |id| id.is_nil())) {
        return Err(No::invalid("requestId", "must be a valid non-zero UUID"));
    }
    let answer = dispatch(shared, method, query, body.unwrap_or(Value::Null)).await?;
    let schema = method.definition["response"]["$ref"].as_str().unwrap_or_default();
    match misfits(schema, &answer).into_iter().next() {
        Some(misfit) => Err(No::new(500, "internalError", format!("the double's own answer: {misfit}"))),
        None => Ok(answer),
    }
}

async fn dispatch(
    shared: &Arc<Shared>,
    method: &Method,
    query: &Parameters,
    body: Value,
) -> Result<Value, No> {
    let (zone, request) = (method.part("zone"), query.get("requestId"));
    let (instance, disk, snapshot) = (method.part("instance"), method.part("disk"), method.part("snapshot"));
    let zonal =
        |kind: &str, name: &str| No::not_found(&format!("projects/{PROJECT}/zones/{zone}/{kind}/{name}"));
    match method.name.as_str() {
        "instances.insert" => instances::insert(shared, zone, &body, request),
        "instances.get" => {
            let world = shared.world();
            let found = world.instances.get(&(zone.to_owned(), instance.to_owned()));
            found.map(|row| row.value.clone()).ok_or_else(|| zonal("instances", instance))
        }
        "instances.start" => instances::resume(shared, zone, instance, request),
        "instances.stop" => instances::stop(shared, zone, instance, request),
        "instances.delete" => instances::delete(shared, zone, instance, request),
        "instances.setLabels" => instances::set_labels(shared, zone, instance, &body, request),
        "instances.getSerialPortOutput" => instances::console(shared, zone, instance, query.get("start")),
        "instances.list" => {
            let world = shared.world();
            let of_zone = world.instances.iter().filter(|((of, _), _)| of == zone);
            page(shared, "compute#instanceList", of_zone.map(|((_, name), row)| (name, &row.value)), query)
        }
        "instances.aggregatedList" => {
            let world = shared.world();
            aggregated(shared, &world, query)
        }
        "instances.setDiskAutoDelete" => attached::set_disk_auto_delete(shared, zone, instance, query),
        "disks.insert" => storage::insert(shared, zone, &body, request),
        "disks.get" => {
            let world = shared.world();
            let found = world.disks.get(&(zone.to_owned(), disk.to_owned()));
            found.map(|row| row.value.clone()).ok_or_else(|| zonal("disks", disk))
        }
        "disks.list" => {
            let world = shared.world();
            let of_zone = world.disks.iter().filter(|((of, _), _)| of == zone);
            page(shared, "compute#diskList", of_zone.map(|((_, name), row)| (name, &row.value)), query)
        }
        "disks.delete" => storage::delete(shared, zone, disk, request),
        "disks.createSnapshot" => storage::create_snapshot(shared, zone, disk, &body, request),
        "snapshots.get" => {
            let found = shared.world().snapshots.get(snapshot).map(|row| row.value.clone());
            found.ok_or_else(|| No::not_found(&format!("projects/{PROJECT}/global/snapshots/{snapshot}")))
        }
        "snapshots.list" => {
            let world = shared.world();
            let all = world.snapshots.iter().map(|(name, row)| (name, &row.value));
            page(shared, "compute#snapshotList", all, query)
        }
        "snapshots.delete" => storage::delete_snapshot(shared, snapshot, request),
        "zoneOperations.get" | "globalOperations.get" => shared.operation(method.part("operation")),
        "zoneOperations.wait" | "globalOperations.wait" => shared.wait(method.part("operation")).await,
        "zoneOperations.list" => {
            let world = shared.world();
            let suffix = format!("/zones/{zone}");
            let of_zone = world
                .operations
                .iter()
                .filter(|(_, operation)| operation["zone"].as_str().is_some_and(|of| of.ends_with(&suffix)));
            page(shared, "compute#operationList", of_zone, query)
        }
        other => Err(No::new(501, "notImplemented", format!("the double has no {other}"))),
    }
}

/// A page of a list.
fn page<'a>(
    shared: &Shared,
    kind: &str,
    all: impl Iterator<Item = (&'a String, &'a Value)>,
    query: &Parameters,
) -> Result<Value, No> {
    let (items, next) = cut(shared, all.map(|(name, value)| (name.clone(), value)), query)?;
    let mut answer = json!({"kind": kind, "id": "list"});
    if !items.is_empty() {
        answer["items"] = items.into_iter().map(|(_, value)| value.clone()).collect::<Vec<_>>().into();
    }
    if let Some(next) = next {
        answer["nextPageToken"] = next.into();
    }
    Ok(answer)
}

/// A page of the list of all zones' instances: each zone's under its name, a warning where there is none.
fn aggregated(shared: &Shared, world: &World, query: &Parameters) -> Result<Value, No> {
    let answering = world.instances.iter().filter(|((zone, _), _)| !world.unreachable.contains(zone));
    let all = answering.map(|((zone, name), row)| (format!("{zone} {name}"), &row.value));
    let (found, next) = cut(shared, all, query)?;
    let mut items = serde_json::Map::new();
    for zone in ZONES {
        let here = found.iter().filter(|(key, _)| key.split(' ').next() == Some(*zone));
        let here: Vec<&Value> = here.map(|(_, value)| *value).collect();
        let scope = if world.unreachable.contains(*zone) {
            json!({"warning": {"code": "UNREACHABLE", "message": "The scope could not be reached."}})
        } else if here.is_empty() {
            json!({"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results for scope on this page."}})
        } else {
            json!({"instances": here})
        };
        items.insert(format!("zones/{zone}"), scope);
    }
    let mut answer = json!({"kind": "compute#instanceAggregatedList", "id": "list", "items": items});
    if let Some(next) = next {
        answer["nextPageToken"] = next.into();
    }
    Ok(answer)
}

type Entry<'a> = (String, &'a Value);

/// The entries after the token's, by their keys, as many as fit on a page; and the token of the next one.
fn cut<'a>(
    shared: &Shared,
    all: impl Iterator<Item = Entry<'a>>,
    query: &Parameters,
) -> Result<(Vec<Entry<'a>>, Option<String>), No> {
    let wanted: usize = match query.get("maxResults") {
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| (0..=500).contains(count))
            .ok_or_else(|| No::invalid("maxResults", format!("'{text}'. Must be between 0 and 500")))?,
        None => 500,
    };
    let size = wanted.min(shared.options.page).max(1);
    let after = match query.get("pageToken") {
        Some(token) => Some(
            token
                .strip_prefix("after-")
                .ok_or_else(|| No::invalid("pageToken", format!("'{token}'")))?
                .to_owned(),
        ),
        None => None,
    };
    let mut items: Vec<Entry<'a>> = Vec::new();
    for (key, value) in all {
        if after.as_ref().is_some_and(|after| key <= *after) {
            continue;
        }
        if let Some(expression) = query.get("filter")
            && !filter::matches(expression, value)?
        {
            continue;
        }
        if items.len() == size {
            let next = items.last().map(|(last, _)| format!("after-{last}"));
            return Ok((items, next));
        }
        items.push((key, value));
    }
    Ok((items, None))
}
