//! What stands for the guest: its console, its state, and its side of the control channel.

use std::cell::RefCell;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;

use clarateach_seatproto::guest::{CONTROL_VSOCK_PORT, GuestReply, GuestRequest, GuestState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// The guest's memory, so to speak: it goes into snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Guest {
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) mac: [u8; 6],
    pub(crate) state: GuestState,
    /// Questions on the control channel, so that clones can be told apart.
    pub(crate) asked: u32,
    pub(crate) mute: bool,
    /// Whether it runs: set by the machine, not by what was snapshotted.
    #[serde(skip)]
    pub(crate) running: bool,
    #[serde(skip)]
    pub(crate) drives: Vec<(PathBuf, bool)>,
}

impl Guest {
    pub(crate) fn new(boot_arguments: &str, mac: [u8; 6], mute: bool) -> Self {
        // The kernel's `ip=client:server:gateway:netmask:hostname:device:autoconf`.
        let ip = boot_arguments.split_whitespace().find_map(|word| word.strip_prefix("ip="));
        let address = ip.and_then(|ip| ip.split(':').next()?.parse().ok());
        Self { address, mac, state: GuestState::Parked, asked: 0, mute, running: false, drives: Vec::new() }
    }

    /// Whether it takes part in the world.
    pub(crate) fn listens(&self) -> bool {
        self.running && !self.mute
    }
}

/// Serves the vsock's Unix socket, see docs/vsock.md of Firecracker: `CONNECT port`, `OK host-port`, then the guest.
pub(crate) async fn serve_vsock(listener: UnixListener, guest: Rc<RefCell<Guest>>, end: Rc<Notify>) {
    let mut host_port: u32 = 1 << 30;
    while let Ok((stream, _)) = listener.accept().await {
        host_port += 1;
        tokio::task::spawn_local(serve_connection(stream, host_port, Rc::clone(&guest), Rc::clone(&end)));
    }
}

async fn serve_connection(stream: UnixStream, host_port: u32, guest: Rc<RefCell<Guest>>, end: Rc<Notify>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.is_err() {
        return;
    }
    // A port on which nobody listens: the connection is closed without a word.
    if line != format!("CONNECT {CONTROL_VSOCK_PORT}\n") || !guest.borrow().listens() {
        return;
    }
    if stream.write_all(format!("OK {host_port}\n").as_bytes()).await.is_err() {
        return;
    }
    loop {
        line.clear();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return;
        }
        while !guest.borrow().running {
            // A paused guest answers when it goes on.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let (answer, ends) = answer(&line, &mut guest.borrow_mut());
        if stream.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
        if ends {
            end.notify_one();
        }
    }
}

fn answer(line: &str, guest: &mut Guest) -> (Value, bool) {
    guest.asked += 1;
    let reply = |reply: GuestReply| serde_json::to_value(reply).unwrap_or_default();
    match serde_json::from_str(line) {
        Ok(GuestRequest::Hello | GuestRequest::Clock { .. }) => {
            (reply(GuestReply::Ok { state: guest.state }), false)
        }
        Ok(GuestRequest::Configure(_)) if guest.state != GuestState::Parked => {
            (reply(GuestReply::Error { message: "this guest has been configured already".into() }), false)
        }
        Ok(GuestRequest::Configure(config)) => {
            if let Some(network) = config.network {
                guest.address = Some(network.address);
                guest.mac = parse_mac(&network.mac).unwrap_or(guest.mac);
            }
            guest.state = GuestState::Running;
            (reply(GuestReply::Ok { state: guest.state }), false)
        }
        Ok(GuestRequest::Shutdown) => {
            guest.state = GuestState::Ending;
            (reply(GuestReply::Ok { state: guest.state }), true)
        }
        Err(error) => (
            for_tests(line, guest).unwrap_or_else(|| reply(GuestReply::Error { message: error.to_string() })),
            false,
        ),
    }
}

/// Questions that no real guest is asked.
fn for_tests(line: &str, guest: &Guest) -> Option<Value> {
    let question: Value = serde_json::from_str(line).ok()?;
    match question["op"].as_str()? {
        "asked" => Some(json!({ "asked": guest.asked })),
        "write" => {
            let write = |(path, read_only): &(PathBuf, bool)| {
                let drive = std::fs::OpenOptions::new().write(!read_only).read(true).open(path);
                drive.and_then(|mut drive| drive.write_all(b"UUUU")).is_ok()
            };
            Some(json!({ "upper": write(guest.drives.get(1)?), "base": write(guest.drives.first()?) }))
        }
        "print" => {
            tokio::task::spawn_local(print_endlessly());
            Some(json!({}))
        }
        _ => None,
    }
}

/// As quick as a pipe or disk takes it, but leaving time for everything else.
pub(crate) async fn print_endlessly() {
    let line = format!("guest: endlessly {}\n", "x".repeat(400)).repeat(20);
    loop {
        let _ = std::io::stdout().write_all(line.as_bytes());
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
