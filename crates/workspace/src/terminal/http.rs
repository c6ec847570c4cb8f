//! `/terminals` and the WebSocket at `/terminal`.

use std::{path::PathBuf, rc::Rc};

use clarateach_seatproto::terminal::{BINARY_PROTOCOL, NewTerminal, TEXT_PROTOCOL, TerminalList};
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::{TerminalError, frames, frames::Encoding, viewer, viewer::Wishes};
use crate::{
    http::{Answer, Body, Refusal, Request, Stream, json, no_content, query, read_json},
    server::{Seat, has_token, wants_upgrade},
};

/// Largest body of `POST /terminals`, in bytes.
const MOST_BODY: usize = 64 << 10;

impl From<TerminalError> for Refusal {
    fn from(error: TerminalError) -> Refusal {
        let status = match &error {
            TerminalError::NoShell => StatusCode::UNPROCESSABLE_ENTITY,
            TerminalError::TooMany => StatusCode::TOO_MANY_REQUESTS,
            TerminalError::NotFound(_) => StatusCode::NOT_FOUND,
            TerminalError::Spawn(cause) => {
                crate::say(&format!("{error}: {cause}"));
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Refusal::new(status, error.code(), error.to_string())
    }
}

/// Answers `/terminals`, `/terminals/{id}` and `/terminal`.
pub(crate) async fn route(seat: Rc<Seat>, path: &str, request: Request) -> Answer {
    let terminals = &seat.terminals;
    if path == "/terminal" {
        return match *request.method() {
            Method::GET => upgrade(seat.clone(), request),
            _ => Err(method_not_allowed("GET")),
        };
    }
    let id = path.strip_prefix("/terminals/").filter(|id| !id.is_empty());
    match (request.method().clone(), id) {
        (Method::GET, None) => json(StatusCode::OK, &TerminalList { terminals: terminals.list() }),
        (Method::POST, None) => create(&seat, request).await,
        (Method::GET, Some(id)) => {
            let terminal = parse_id(id).and_then(|id| terminals.get(id)).ok_or_else(|| missing(id))?;
            json(StatusCode::OK, &serde_json::json!({ "terminal": terminal.describe() }))
        }
        (Method::DELETE, Some(id)) => {
            terminals.close(parse_id(id).ok_or_else(|| missing(id))?)?;
            Ok(no_content())
        }
        (_, None) => Err(method_not_allowed("GET or POST")),
        (_, Some(_)) => Err(method_not_allowed("GET or DELETE")),
    }
}

fn parse_id(id: &str) -> Option<u32> {
    id.parse().ok().filter(|id| *id > 0)
}

fn missing(id: &str) -> Refusal {
    Refusal::not_found(format_args!("terminal {id}"))
}

fn method_not_allowed(takes: &str) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", format!("this takes {takes}"))
}

async fn create(seat: &Seat, request: Request) -> Answer {
    let wanted: NewTerminal = read_json(request.into_body(), MOST_BODY).await?;
    let size = frames::size(wanted.cols.unwrap_or(80), wanted.rows.unwrap_or(24))
        .map_err(|c| Refusal::new(StatusCode::BAD_REQUEST, c.code, c.message))?;
    let directory: Option<PathBuf> = match wanted.cwd {
        Some(cwd) => Some(seat.files.directory(cwd).await?),
        None => None,
    };
    let terminal = seat.terminals.open(size, directory)?;
    json(StatusCode::CREATED, &serde_json::json!({ "terminal": terminal.describe() }))
}

/// RFC 6455 §4.2. Subprotocols of other kinds (`bearer.…`) are the gateway's to answer.
fn upgrade(seat: Rc<Seat>, mut request: Request) -> Answer {
    if !wants_upgrade(&request, "websocket") {
        let message = "this is a WebSocket: connect to it with Upgrade: websocket";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", message));
    }
    let headers = request.headers();
    let version_13 = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|v| v == "13");
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| version_13) else {
        let message = "the WebSocket handshake lacks its key or is not of version 13";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "BAD_HANDSHAKE", message));
    };
    let accept = derive_accept_key(key.as_bytes());
    let protocol = [BINARY_PROTOCOL, TEXT_PROTOCOL]
        .into_iter()
        .find(|p| has_token(&request, &header::SEC_WEBSOCKET_PROTOCOL, p));

    let uri = request.uri();
    let number = |name: &'static str| -> Result<Option<u64>, Refusal> {
        let Some(value) = query(uri, name)? else { return Ok(None) };
        let wrong =
            || Refusal::new(StatusCode::BAD_REQUEST, "INVALID_QUERY", format!("{name} takes a number"));
        value.parse().map(Some).map_err(|_| wrong())
    };
    let id = match number("id")? {
        None => None,
        Some(id) => {
            Some(u32::try_from(id).ok().filter(|id| *id > 0).ok_or_else(|| missing(&id.to_string()))?)
        }
    };
    let since = number("since")?;
    let view_only = match query(uri, "mode")?.as_deref() {
        None | Some("edit") => false,
        Some("view") => true,
        Some(_) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "INVALID_QUERY", "mode takes view or edit"));
        }
    };
    let wishes = Wishes {
        encoding: if protocol == Some(BINARY_PROTOCOL) { Encoding::Binary } else { Encoding::Text },
        since,
        epoch: query(uri, "epoch")?,
        view_only,
        client: query(uri, "client")?.filter(|c| !c.is_empty() && c.len() <= 64),
    };
    // A missing shell is told over the WebSocket, where browsers can read it.
    let terminal = match seat.terminals.attachable(id, since.is_some()) {
        Err(error @ TerminalError::NotFound(_)) => return Err(error.into()),
        other => other.map_err(Refusal::from),
    };

    let upgraded = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>() else { return };
        let config = Some(viewer::config());
        let read = parts.read_buf.to_vec();
        let socket =
            WebSocketStream::from_partially_read(parts.io.into_inner(), read, Role::Server, config).await;
        match terminal {
            Ok(terminal) => viewer::serve(socket, terminal, &seat.terminals.epoch, wishes).await,
            Err(refusal) => viewer::refuse(socket, refusal.code, &refusal.message).await,
        }
    });

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept).map_err(|e| Refusal::internal(&e))?,
    );
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}
