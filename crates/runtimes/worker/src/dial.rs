//! A byte stream into a seat, through its worker's agent.

use std::io;
use std::sync::Arc;

use clarateach_api::agent::INSTALLATION_HEADER;
use clarateach_ids::SeatKey;
use clarateach_runtime::tunnel::{self, Answer};
use clarateach_runtime::{BoxedSeatStream, RuntimeError, SeatPort};
use http::{Request, header};
use http_body_util::Empty;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::address::Target;
use crate::calls::{CALL_WITHIN, Calls};
use crate::connect;
use crate::refusal::{Subject, refused};

pub(crate) async fn dial(
    calls: &Calls,
    target: &Target,
    tls: Option<&(Arc<ClientConfig>, ServerName<'static>)>,
    key: &SeatKey,
    port: SeatPort,
) -> Result<BoxedSeatStream, RuntimeError> {
    let port = match port {
        SeatPort::Workspace => "workspace".to_owned(),
        SeatPort::App(port) => port.to_string(),
    };
    let asked = async {
        let mut request = Request::get(format!("/vms/{}/{}/tunnel/{port}", key.workshop, key.seat))
            .header(header::HOST, target.authority.as_str())
            .header(header::AUTHORIZATION, calls.bearer.clone());
        if let Some(installation) = &calls.installation {
            request = request.header(INSTALLATION_HEADER, installation.clone());
        }
        let request = request.body(Empty::new()).map_err(io::Error::other)?;
        tunnel::ask(connect::open(target, tls).await?, request).await
    };
    let away =
        |why: String| RuntimeError::Unavailable { message: format!("worker {}: {why}", calls.address) };
    match tokio::time::timeout(CALL_WITHIN, asked).await {
        Err(_) => Err(away("it does not answer in time".to_owned())),
        Ok(Err(error)) => Err(away(error.to_string())),
        Ok(Ok(Answer::Open(stream))) => Ok(stream),
        Ok(Ok(Answer::Refused(status, body))) => {
            Err(refused(&calls.address, status, &body, &Subject::seat(key), None))
        }
    }
}
