//! The metadata server that every Compute Engine instance has.
//!
//! Source: Compute Engine, "View and query VM metadata".

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No attribute that is asked for here is longer.
const VALUE_LIMIT: usize = 4096;

/// What an instance's own value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    /// Without blanks around it.
    pub(crate) text: String,
    /// To be given as `last_etag` when its change is waited for.
    pub(crate) etag: Option<String>,
}

/// Asks `host` for what is at `path` (and query) beneath `/computeMetadata/v1/`; none when there is nothing. For as long
/// as it takes: whoever asks says how long.
///
/// # Errors
/// Why it can't be known, for people.
pub(crate) async fn get(host: &str, path: &str) -> Result<Option<Value>, String> {
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let failed = |error: &dyn std::fmt::Display| format!("{host}: {error}");
    let stream = TcpStream::connect(&address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let _connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(format!("/computeMetadata/v1/{path}"))
        .header(header::HOST, host)
        .header("metadata-flavor", "Google")
        .body(Empty::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    // Whoever does not say this is not the metadata server.
    if response.headers().get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
        return Err(format!("{host} is not a GCP metadata server"));
    }
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => return Err(format!("{host} answered {status}")),
    }
    let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), VALUE_LIMIT).collect().await;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    Ok(Some(Value { text: String::from_utf8_lossy(&body).trim().to_owned(), etag }))
}
