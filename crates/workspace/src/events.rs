//! Server-sent events: changed files and ports. Nothing is watched while nobody listens.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use clarateach_seatproto::{
    files::{Event, FilesChanged, PortsChanged},
    ports::Listener,
};
use http::{HeaderValue, Method, Response, header};
use tokio::{sync::broadcast, task::JoinHandle, time::MissedTickBehavior};

use crate::{
    files::Watch,
    http::{Answer, Body, Request},
    server::{Seat, expect_method},
};

/// Events that a slow listener may fall behind.
const BEHIND: usize = 64;
/// Changes of files within this time come as one event.
const TOGETHER: Duration = Duration::from_millis(50);
/// Between two looks at the listeners.
const PORTS_EVERY: Duration = Duration::from_secs(1);
/// Between two comments that keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Who listens, and the watching that is done for them.
#[derive(Debug, Default)]
pub(crate) struct Events {
    running: RefCell<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    sender: broadcast::Sender<Bytes>,
    tasks: [JoinHandle<()>; 2],
    listeners: usize,
    watching: Rc<Cell<bool>>,
}

/// Answers `GET /events`.
pub(crate) async fn route(seat: Rc<Seat>, request: &Request) -> Answer {
    expect_method(request, &Method::GET)?;
    let (sender, body) = Body::stream(None);
    tokio::task::spawn_local(async move {
        let (mut events, watching) = subscribe(&seat);
        let mut first = encode(&Event::Ports(PortsChanged { ports: seat.ports.list() })).to_vec();
        if watching {
            first.extend_from_slice(&missed());
        }
        let mut next = Some(first.into());
        let mut alive = tokio::time::interval(KEEP_ALIVE);
        loop {
            if let Some(event) = next.take()
                && sender.send(Ok(event)).await.is_err()
            {
                break;
            }
            next = tokio::select! {
                () = sender.closed() => break,
                _ = alive.tick() => Some(Bytes::from_static(b": alive\n\n")),
                event = events.recv() => Some(match event {
                    Ok(event) => event,
                    Err(broadcast::error::RecvError::Lagged(_)) => missed(),
                    Err(broadcast::error::RecvError::Closed) => break,
                }),
            };
        }
        unsubscribe(&seat);
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The events from now on, and whether files are watched already.
fn subscribe(seat: &Rc<Seat>) -> (broadcast::Receiver<Bytes>, bool) {
    let mut running = seat.events.running.borrow_mut();
    let running = running.get_or_insert_with(|| {
        let sender = broadcast::Sender::new(BEHIND);
        let watching = Rc::new(Cell::new(false));
        let tasks = [
            tokio::task::spawn_local(watch_files(seat.clone(), sender.clone(), watching.clone())),
            tokio::task::spawn_local(watch_ports(seat.clone(), sender.clone())),
        ];
        Running { sender, tasks, listeners: 0, watching }
    });
    running.listeners += 1;
    (running.sender.subscribe(), running.watching.get())
}

fn unsubscribe(seat: &Seat) {
    let mut running = seat.events.running.borrow_mut();
    if let Some(state) = &mut *running {
        state.listeners -= 1;
        if state.listeners == 0 {
            state.tasks.iter().for_each(JoinHandle::abort);
            *running = None;
        }
    }
}

async fn watch_files(seat: Rc<Seat>, sender: broadcast::Sender<Bytes>, watching: Rc<Cell<bool>>) {
    let mut watch = match Watch::start(seat.files.clone()).await {
        Ok(watch) => watch,
        Err(error) => return crate::say(&format!("watching files: {error}")),
    };
    // What happened before the watches were set can't be known.
    watching.set(true);
    let _ = sender.send(missed());
    loop {
        let Ok(mut changed) = watch.changed().await else { return };
        tokio::time::sleep(TOGETHER).await;
        let Ok(more) = watch.so_far().await else { return };
        changed.overflow |= more.overflow;
        changed.directories.extend(more.directories);
        changed.directories.sort_unstable();
        changed.directories.dedup();
        let _ = sender.send(encode(&Event::Files(changed)));
    }
}

async fn watch_ports(seat: Rc<Seat>, sender: broadcast::Sender<Bytes>) {
    let mut known: Option<Vec<Listener>> = None;
    let mut every = tokio::time::interval(PORTS_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let now = seat.ports.list();
        if known.as_ref().is_some_and(|known| *known != now) {
            let _ = sender.send(encode(&Event::Ports(PortsChanged { ports: now.clone() })));
        }
        known = Some(now);
    }
}

fn missed() -> Bytes {
    encode(&Event::Files(FilesChanged { directories: Vec::new(), overflow: true }))
}

/// As in the HTML standard, server-sent events.
fn encode(event: &Event) -> Bytes {
    let (name, data) = match event {
        Event::Files(changed) => ("files", serde_json::to_string(changed)),
        Event::Ports(changed) => ("ports", serde_json::to_string(changed)),
    };
    format!("event: {name}\ndata: {}\n\n", data.unwrap_or_default()).into()
}
