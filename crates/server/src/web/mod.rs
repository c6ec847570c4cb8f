//! The browser UI, embedded. Every path that is no file is the page itself: routing goes on in the browser.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use rust_embed::RustEmbed;

/// What `npm run build` in web/ made.
#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Assets;

const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     connect-src 'self' ws: wss: http: https:; img-src 'self' data: blob:; frame-src http: https:; \
     object-src 'none'; base-uri 'none'; form-action 'self' http: https:; frame-ancestors 'none'";

const NOT_BUILT: &str = "<!doctype html><meta charset=utf-8><title>ClaraTeach</title>\
     <p>The web pages are not part of this build. Build them and the server again: \
     <code>npm --prefix web ci && npm --prefix web run build && cargo build --release</code>. The API works.";

/// Whether the page in the browser knows the path.
fn is_route(path: &str) -> bool {
    matches!(path, "" | "learn" | "instructor" | "admin")
        || path.starts_with("join/")
        || path.starts_with("instructor/workshops/")
}

/// A file of the UI, or the page; with 404 where the page will say that there is nothing.
pub async fn page(request: Request) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let path = request.uri().path().trim_start_matches('/');
    let (name, file) = match Assets::get(path) {
        Some(file) if !path.is_empty() => (path, Some(file)),
        _ if path.starts_with("assets/") => return StatusCode::NOT_FOUND.into_response(),
        _ => ("index.html", Assets::get("index.html")),
    };
    let mut response = match file {
        Some(file) => {
            let mime = mime_guess::from_path(name).first_or_octet_stream();
            ([(header::CONTENT_TYPE, mime.as_ref().to_owned())], file.data.into_owned()).into_response()
        }
        None => ([(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned())], NOT_BUILT).into_response(),
    };
    if name == "index.html" && !is_route(path.trim_end_matches('/')) && path != "index.html" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    let cache = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    for (header, value) in [
        (header::CACHE_CONTROL, cache),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(header, HeaderValue::from_static(value));
    }
    response
}
