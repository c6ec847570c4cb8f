//! `/files`, `/raw` and `/archive`.

use std::rc::Rc;

use clarateach_seatproto::files::{Change, MAX_CONTENT_BYTES, Write};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{archive, change, content, raw, root::relative, shared::Question};
use crate::{
    http::{Answer, Refusal, Request, json, json_bytes, no_content, query, read_json},
    server::Seat,
};

/// JSON makes a body larger than the file: any byte may be written as `\u00XX`.
const MOST_BODY: usize = (MAX_CONTENT_BYTES as usize) * 6 + (64 << 10);

/// Answers everything under `/files`, `/raw` and `/archive`.
pub(crate) async fn route(seat: Rc<Seat>, path: &str, request: Request) -> Answer {
    if path == "/archive" {
        expect(&request, Method::GET)?;
        let path = relative(&query(request.uri(), "path")?.unwrap_or_default())?;
        return archive::download(&seat.files, path).await;
    }
    if let Some(encoded) = path.strip_prefix("/raw/") {
        let path = decode(encoded)?;
        return match *request.method() {
            Method::GET | Method::HEAD => raw::download(&seat.files, path, request).await,
            Method::PUT => raw::upload(&seat.files, path, request).await,
            _ => Err(method_not_allowed("GET, HEAD or PUT")),
        };
    }
    let Some(encoded) = path.strip_prefix("/files/").filter(|p| !p.is_empty()) else {
        if path != "/files" && path != "/files/" {
            return Err(Refusal::not_found(path));
        }
        if *request.method() == Method::DELETE {
            return Err(root_stays());
        }
        expect(&request, Method::GET)?;
        let path = relative(&query(request.uri(), "path")?.unwrap_or_default())?;
        let listing = seat.files.ask(Question::Listing(path)).await?;
        return Ok(json_bytes(StatusCode::OK, listing));
    };
    let path = decode(encoded)?;
    if path.is_empty() && *request.method() != Method::GET {
        return Err(root_stays());
    }
    match *request.method() {
        Method::GET => {
            let answer = seat.files.ask(Question::Content(path)).await?;
            Ok(json_bytes(StatusCode::OK, answer))
        }
        Method::PUT => {
            let expected = expected_version(request.headers())?;
            let mut write: Write = read_json(request.into_body(), MOST_BODY).await?;
            write.if_match = write.if_match.or(expected);
            let (written, is_new) = seat.files.run(move |root| content::write(root, &path, write)).await?;
            json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &written)
        }
        Method::POST => {
            let wanted: Change = read_json(request.into_body(), 64 << 10).await?;
            let changed = seat.files.run(move |root| change::apply(root, &path, &wanted)).await?;
            json(StatusCode::OK, &changed)
        }
        Method::DELETE => {
            seat.files.run(move |root| change::remove(root, &path)).await?;
            Ok(no_content())
        }
        _ => Err(method_not_allowed("GET, PUT, POST or DELETE")),
    }
}

fn decode(encoded: &str) -> Result<String, Refusal> {
    let decoded = percent_encoding::percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "INVALID_PATH", "the path is not UTF-8"))?;
    relative(&decoded)
}

fn expect(request: &Request, method: Method) -> Result<(), Refusal> {
    if *request.method() == method { Ok(()) } else { Err(method_not_allowed(method.as_str())) }
}

fn method_not_allowed(takes: &str) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", format!("this takes {takes}"))
}

fn root_stays() -> Refusal {
    Refusal::new(
        StatusCode::BAD_REQUEST,
        "INVALID_PATH",
        "the workspace itself can't be written, moved or deleted",
    )
}

/// `If-Match` with one etag or `*`, `If-None-Match: *`; as [`Write::if_match`].
pub(super) fn expected_version(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let text = |value: &HeaderValue| {
        value.to_str().map(|v| v.trim().trim_matches('"').to_owned()).map_err(|_| {
            Refusal::new(StatusCode::BAD_REQUEST, "INVALID_HEADER", "If-Match takes one ETag in quotes, or *")
        })
    };
    if let Some(value) = headers.get(header::IF_MATCH) {
        return text(value).map(Some);
    }
    match headers.get(header::IF_NONE_MATCH).map(text).transpose()?.as_deref() {
        None => Ok(None),
        Some("*") => Ok(Some(String::new())),
        Some(_) => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "INVALID_HEADER", "If-None-Match takes * when writing"))
        }
    }
}
