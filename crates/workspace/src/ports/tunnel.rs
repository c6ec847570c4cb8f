//! Raw bytes to a listener inside the seat.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderValue, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, net::TcpStream};

use super::Ports;
use crate::{
    http::{Answer, Body, Refusal, Request},
    server::wants_upgrade,
};

/// Connects, then answers 101 and carries bytes both ways until either side is done.
pub(super) async fn open(ports: &Ports, port: u16, mut request: Request) -> Answer {
    if !wants_upgrade(&request, "tcp") {
        let message = "this is a tunnel: connect to it with Upgrade: tcp";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", message));
    }
    let mut target = connect(ports, port).await?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = upgraded.await {
            let _ = copy_bidirectional(&mut TokioIo::new(upgraded), &mut target).await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    Ok(response)
}

async fn connect(ports: &Ports, port: u16) -> Result<TcpStream, Refusal> {
    let listeners: Vec<_> = ports.list().into_iter().filter(|l| l.port == port).collect();
    if listeners.is_empty() {
        return Err(not_listening(port));
    }
    if !listeners.iter().any(|l| l.preview) {
        let message = format!("port {port} is not one of the learner's own servers");
        return Err(Refusal::new(StatusCode::FORBIDDEN, "PORT_FORBIDDEN", message));
    }
    // Loopback first; a server on one address of the seat is reached there.
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    addresses.extend(listeners.iter().filter(|l| l.preview).filter_map(|l| l.address.parse::<IpAddr>().ok()));
    for address in addresses.into_iter().filter(|a: &IpAddr| !a.is_unspecified()) {
        if let Ok(stream) = TcpStream::connect((address, port)).await {
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
    }
    Err(not_listening(port))
}

fn not_listening(port: u16) -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "NOT_LISTENING",
        format!("nothing listens on port {port} in this seat"),
    )
}
