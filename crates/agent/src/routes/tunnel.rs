//! A byte stream into a VM, for a control plane's `dial`: the form of `clarateach_runtime::tunnel`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use clarateach_api::agent::{AgentErrorBody, AgentErrorCode};
use clarateach_ids::SeatKey;
use clarateach_runtime::{BoxedSeatStream, RuntimeError, SeatPort};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::copy_bidirectional;

use super::extract::Seat;
use super::reply::{Failure, Refused, VmRefused};
use crate::app::App;

/// How long a dial may take.
const DIAL_WITHIN: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub(super) struct PortPath {
    port: String,
}

fn seat_port(text: &str) -> Option<SeatPort> {
    if text == "workspace" {
        return Some(SeatPort::Workspace);
    }
    let port = text.parse().ok().filter(|port| *port > 0)?;
    (!text.starts_with(['+', '0'])).then_some(SeatPort::App(port))
}

fn asks_for_tcp(headers: &HeaderMap) -> bool {
    let names = |header, wanted: &str| {
        let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(wanted))
    };
    names(header::CONNECTION, "upgrade") && names(header::UPGRADE, "tcp")
}

/// Become a TCP connection to a port of the VM, any address of it included, or to its `workspace`.
#[utoipa::path(get, path = "/vms/{workshop}/{seat}/tunnel/{port}", tag = "vms", params(
    ("workshop" = String, Path), ("seat" = u32, Path),
    ("port" = String, Path, description = "1 to 65535, or `workspace`"),
), responses(
    (status = 101, description = "from now on both directions are the bytes of the connection"),
    (status = 426, body = AgentErrorBody, description = "`upgrade_required`"),
    (status = 502, body = AgentErrorBody, description = "`vm_unreachable`"),
    Refused, VmRefused,
))]
pub(super) async fn tunnel(
    State(app): State<Arc<App>>,
    Seat(key): Seat,
    Path(path): Path<PortPath>,
    mut request: Request,
) -> Result<Response<Body>, Failure> {
    let port = seat_port(&path.port)
        .ok_or_else(|| Failure::invalid("port: takes a whole number from 1 to 65535, or workspace"))?;
    if !asks_for_tcp(request.headers()) {
        let message = "A tunnel takes Connection: Upgrade and Upgrade: tcp.";
        return Err(Failure::new(AgentErrorCode::UpgradeRequired, message));
    }
    let seat = dial(&app, &key, port).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    let closing = app.closing.clone();
    app.tasks.spawn(async move {
        let caller = match upgrade.await {
            Ok(caller) => caller,
            Err(error) => return tracing::debug!(%error, "a tunnel was not completed"),
        };
        let open = metrics::gauge!("clarateach_agent_tunnels");
        open.increment(1.0);
        let (mut caller, mut seat) = (TokioIo::new(caller), seat);
        tokio::select! {
            // However it ends, both sides see their connection end.
            _ = copy_bidirectional(&mut caller, &mut seat) => {}
            () = closing.cancelled() => {}
        }
        open.decrement(1.0);
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("tcp")),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

async fn dial(app: &App, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
    let runtime = app.host.runtime();
    let dialled = tokio::time::timeout(DIAL_WITHIN, runtime.dial(key, port)).await;
    dialled.unwrap_or_else(|_| {
        let message = "it did not accept a connection in time".to_owned();
        Err(RuntimeError::Unreachable { key: key.clone(), message })
    })
}
