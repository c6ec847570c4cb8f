//! One log line and one measurement a request, with an id that the answer carries too.

use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use tracing::Instrument;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn request_id() -> String {
    let mut bytes = [0; 8];
    // An id is for finding lines in a log: without randomness it is merely not unique.
    let _ = getrandom::fill(&mut bytes);
    format!("r{:016x}", u64::from_le_bytes(bytes))
}

/// The path is logged as its template: a learner's file names stay out of the log.
pub(super) fn observed(router: Router) -> Router {
    // Inside, where the router knows which template has matched.
    let router = router.layer(axum::middleware::from_fn(async |request: Request, next: Next| {
        let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        // What is nested as a service is matched without a template.
        let nested = request.uri().path().starts_with("/proxy/").then_some("/proxy/{workshop}/{seat}");
        let template = matched.or(nested).unwrap_or("-").to_owned();
        let mut response = next.run(request).await;
        response.extensions_mut().insert(Template(template));
        response
    }));
    Router::new().fallback_service(router).layer(axum::middleware::from_fn(
        async |mut request: Request, next: Next| {
            let id = request_id();
            let value = HeaderValue::from_str(&id).ok();
            if let Some(value) = &value {
                request.headers_mut().insert(REQUEST_ID, value.clone());
            }
            let method = request.method().clone();
            let span = tracing::info_span!("request", id);
            let began = Instant::now();
            let mut response = next.run(request).instrument(span.clone()).await;
            let seconds = began.elapsed().as_secs_f64();
            let path =
                response.extensions().get::<Template>().map_or("-", |Template(path)| path).to_owned();
            let status = response.status().as_u16();
            span.in_scope(|| {
                if method == http::Method::GET {
                    tracing::debug!(%method, path, status, ms = seconds * 1e3, "answered");
                } else {
                    tracing::info!(%method, path, status, ms = seconds * 1e3, "answered");
                }
            });
            metrics::histogram!("clarateach_agent_http_seconds", "path" => path, "status" => status.to_string())
                .record(seconds);
            if let Some(value) = value {
                response.headers_mut().insert(REQUEST_ID, value);
            }
            response
        },
    ))
}

/// The route's template, on its way out to the log.
#[derive(Debug, Clone)]
struct Template(String);
