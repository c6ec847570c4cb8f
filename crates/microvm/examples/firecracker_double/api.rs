//! The HTTP API: routes, and answers as Firecracker gives them: 204 without a body, 200 with one, 400 with a
//! `fault_message`.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::bodies::{ActionType, VmStateKind};
use crate::machine::Machine;

/// What a request comes to: nothing, or a value; or why not.
pub(crate) type Outcome = Result<Option<Value>, String>;

/// Longest body, as in Firecracker.
const MAX_BODY: usize = 51_200;

pub(crate) async fn serve(socket: &Path, machine: Rc<Machine>) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let machine = Rc::clone(&machine);
                let service = service_fn(move |request| answer(Rc::clone(&machine), request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::task::spawn_local(connection);
            }
            () = machine.ended() => return Ok(()),
        }
    }
}

async fn answer(
    machine: Rc<Machine>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let outcome = match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            if body.len() > MAX_BODY {
                Err("Request payload is too large.".to_owned())
            } else {
                route(&machine, &parts.method, parts.uri.path(), &body).await
            }
        }
        Err(error) => Err(error.to_string()),
    };
    let (status, body) = match outcome {
        Ok(None) => (StatusCode::NO_CONTENT, Bytes::new()),
        Ok(Some(value)) => (StatusCode::OK, value.to_string().into()),
        Err(fault) => (StatusCode::BAD_REQUEST, json!({ "fault_message": fault }).to_string().into()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert("server", http::HeaderValue::from_static("Firecracker API"));
    Ok(response)
}

async fn route(machine: &Rc<Machine>, method: &Method, path: &str, body: &[u8]) -> Outcome {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let nothing = |result: Result<(), String>| result.map(|()| None);
    match (method.as_str(), segments.as_slice()) {
        ("GET", [""]) => Ok(Some(machine.information())),
        ("GET", ["version"]) => Ok(Some(json!({ "firecracker_version": "1.16.1" }))),
        ("GET", ["machine-config"]) => Ok(Some(machine.machine_config())),
        ("PUT", ["machine-config"]) => nothing(machine.set_machine_config(parse(body)?)),
        ("PUT", ["boot-source"]) => nothing(machine.set_boot_source(parse(body)?)),
        ("PUT", ["drives", id]) => nothing(machine.add_drive(checked(id)?, parse(body)?)),
        ("PUT", ["network-interfaces", id]) => nothing(machine.add_network(checked(id)?, parse(body)?)),
        ("PUT", ["vsock"]) => nothing(machine.set_vsock(parse(body)?)),
        ("PUT", ["entropy"]) => nothing(machine.set_entropy(parse(body)?)),
        ("PUT", ["serial"]) => nothing(machine.set_serial(parse(body)?)),
        ("PUT", ["balloon"]) => nothing(machine.set_balloon(parse(body)?)),
        ("PUT", ["logger"]) => nothing(machine.set_logger(parse(body)?)),
        ("PUT", ["actions"]) => {
            let action: crate::bodies::Action = parse(body)?;
            match action.action_type {
                ActionType::InstanceStart => nothing(machine.start().await),
                ActionType::SendCtrlAltDel => nothing(machine.ctrl_alt_del()),
                ActionType::FlushMetrics => nothing(machine.flush_metrics()),
            }
        }
        ("PATCH", ["vm"]) => {
            let state: crate::bodies::VmState = parse(body)?;
            nothing(machine.set_paused(state.state == VmStateKind::Paused))
        }
        ("PUT", ["snapshot", "create"]) => nothing(machine.create_snapshot(&parse(body)?)),
        ("PUT", ["snapshot", "load"]) => nothing(machine.load_snapshot(&parse(body)?).await),
        _ => Err(format!("Invalid request method and/or path: {method} {}.", path.trim_start_matches('/'))),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("An error occurred when deserializing the json body of a request: {error}."))
}

fn checked(id: &str) -> Result<&str, String> {
    if id.is_empty() {
        return Err("The ID cannot be empty.".into());
    }
    if id.chars().all(|c| c == '_' || c.is_alphanumeric()) {
        return Ok(id);
    }
    Err("API Resource IDs can only contain alphanumeric characters and underscores.".into())
}
