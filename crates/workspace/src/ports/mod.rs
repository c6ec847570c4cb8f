//! What listens inside the seat, and the way to it for previews.

mod listeners;
mod tunnel;

use std::{cell::Cell, rc::Rc};

use clarateach_seatproto::ports::{FIRST_PORT, Listener, PortList};
use http::{Method, StatusCode};

use crate::{
    config::PortScope,
    http::{Answer, Refusal, Request, json},
    server::{Seat, expect_method},
};

/// Finds the seat's listeners.
#[derive(Debug)]
pub(crate) struct Ports {
    scope: PortScope,
    learner: u32,
    own: Cell<Option<u16>>,
}

impl Ports {
    pub(crate) fn new(scope: PortScope, learner: u32) -> Ports {
        Ports { scope, learner, own: Cell::new(None) }
    }

    /// Leaves this port, which is ours, out.
    pub(crate) fn own_port_is(&self, port: Option<u16>) {
        self.own.set(port);
    }

    /// All listeners now, by port.
    pub(crate) fn list(&self) -> Vec<Listener> {
        let sockets = listeners::all();
        let ours = match self.scope {
            PortScope::Namespace => None,
            PortScope::Tree if sockets.is_empty() => return Vec::new(),
            PortScope::Tree => Some(listeners::sockets_of(&crate::pid1::descendants())),
        };
        let mut found: Vec<Listener> = sockets
            .into_iter()
            .filter(|s| Some(s.address.port()) != self.own.get())
            .filter(|s| ours.as_ref().is_none_or(|ours| ours.contains(&s.inode)))
            .map(|s| Listener {
                port: s.address.port(),
                address: s.address.ip().to_string(),
                preview: s.address.port() >= FIRST_PORT && (ours.is_some() || s.uid == self.learner),
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Answers `/ports` and `/tunnel/{port}`.
pub(crate) async fn route(seat: Rc<Seat>, path: &str, request: Request) -> Answer {
    expect_method(&request, &Method::GET)?;
    if path == "/ports" {
        return json(StatusCode::OK, &PortList { ports: seat.ports.list() });
    }
    match path.strip_prefix("/tunnel/").and_then(|port| port.parse().ok()) {
        Some(port) => tunnel::open(&seat.ports, port, request).await,
        None => Err(Refusal::not_found(path)),
    }
}
