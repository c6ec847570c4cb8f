//! Control planes say with every call which installation they are; people with curl don't, and see all VMs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode};
use axum::middleware::Next;
use clarateach_api::agent::{AgentErrorCode, INSTALLATION_HEADER};
use clarateach_ids::{InstallationId, SeatKey};

use super::reply::Failure;
use crate::app::App;

/// The seat that a path is about: `/vms/{workshop}/{seat}` and below.
fn seat_of(path: &str) -> Option<SeatKey> {
    let mut parts = path.strip_prefix("/vms/")?.split('/');
    let (workshop, seat) = (parts.next()?, parts.next()?);
    Some(SeatKey { workshop: workshop.parse().ok()?, seat: seat.parse().ok()? })
}

/// Keeps control planes off each other's VMs, and notes whose are made.
pub(super) async fn checked(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response<Body>, Failure> {
    let Some(shown) = request.headers().get(INSTALLATION_HEADER) else { return Ok(next.run(request).await) };
    let caller = shown.to_str().ok().and_then(|text| text.parse::<InstallationId>().ok());
    let Some(caller) = caller else {
        return Err(Failure::invalid(format!("{INSTALLATION_HEADER} takes the id of an installation.")));
    };
    let (key, method) = (seat_of(request.uri().path()), request.method().clone());
    if let Some(key) = &key {
        if method == Method::PUT {
            if !app.make_for(&caller, key).await? {
                let message = format!("Another control plane has a VM for seat {key}.");
                return Err(Failure::new(AgentErrorCode::VmExists, message));
            }
        } else if app.is_of_another(&caller, key).await? {
            let message = format!("There is no VM for seat {key}.");
            return Err(Failure::new(AgentErrorCode::VmNotFound, message));
        }
    }
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some(key) = key
        && method == Method::DELETE
        && response.status() == StatusCode::NO_CONTENT
    {
        app.gone(&key).await?;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_seats_are_told_from_others() {
        for (path, seat) in [
            ("/vms/w1/2", Some("w1/2")),
            ("/vms/w1/2/tunnel/workspace", Some("w1/2")),
            ("/vms", None),
            ("/vms/w1", None),
            ("/vms/w1/0", None),
            ("/images/w1/2", None),
        ] {
            assert_eq!(seat_of(path).map(|key| key.to_string()).as_deref(), seat, "{path}");
        }
    }
}
