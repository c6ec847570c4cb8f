//! A virtio-serial port.
//!
//! While no host has it open, reading gives 0 bytes and poll(2) says `POLLHUP` at once, so waiting for its state would
//! spin. The driver wakes its waiters whenever the host opens, closes or writes; an edge-triggered epoll(7) reports just
//! that.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    time::{Duration, Instant},
};

use clarateach_seatproto::guest::CONTROL_PORT_NAME;
use rustix::{
    event::{PollFd, PollFlags, epoll},
    fs::{Mode, OFlags},
    io::{Errno, FdFlags, fcntl_setfd},
};

use super::Received;

const PORTS: &str = "/sys/class/virtio-ports";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_console";

/// For the driver to hear that the host, which has just asked something, is there.
const OPENS_WITHIN: Duration = Duration::from_secs(1);

/// An open port.
#[derive(Debug)]
pub(super) struct Port {
    port: OwnedFd,
    edges: OwnedFd,
}

/// Whether the machine has a virtio console, whose ports may still be on their way.
pub(super) fn expected() -> bool {
    fs::read_dir(DRIVER).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("virtio"))
    })
}

impl Port {
    /// The port with our name, if it is there by now.
    pub(super) fn find() -> io::Result<Option<Port>> {
        let Ok(entries) = fs::read_dir(PORTS) else { return Ok(None) };
        for entry in entries.flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim_end() != CONTROL_PORT_NAME {
                continue;
            }
            let device = Path::new("/dev").join(entry.file_name());
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            return match rustix::fs::open(&device, flags, Mode::empty()) {
                Ok(port) => Port::around(port).map(Some),
                // Its node comes after its name.
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        Ok(None)
    }

    fn around(port: OwnedFd) -> io::Result<Port> {
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &edges,
            &port,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Port { port, edges })
    }

    /// The port as an earlier image of this process opened it.
    pub(super) fn inherited(port: RawFd) -> io::Result<Port> {
        // SAFETY: the number comes from `hand_over`, called before this program was executed; nothing else uses it.
        let port = unsafe { OwnedFd::from_raw_fd(port) };
        let port = Port::around(port)?;
        port.keep()?;
        Ok(port)
    }

    pub(super) fn keep(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.port, FdFlags::CLOEXEC)?)
    }

    pub(super) fn hand_over(&self) -> io::Result<String> {
        fcntl_setfd(&self.port, FdFlags::empty())?;
        Ok(format!("port:{}", self.port.as_raw_fd()))
    }

    /// Reads what is there, else waits for the next edge.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> io::Result<Received> {
        loop {
            let absent = match rustix::io::read(&self.port, &mut *into) {
                Ok(0) => true,
                Ok(count) => return Ok(Received::Bytes(count)),
                Err(Errno::AGAIN | Errno::INTR) => false,
                Err(error) => return Err(error.into()),
            };
            let mut events = Vec::with_capacity(1);
            match epoll::wait(&self.edges, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if absent {
                return Ok(Received::Anew);
            }
        }
    }

    pub(super) fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let opened_by = deadline.min(Instant::now() + OPENS_WITHIN);
        while !bytes.is_empty() {
            match rustix::io::write(&self.port, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut waiting = [PollFd::new(&self.port, PollFlags::OUT)];
                    super::wait(&mut waiting, deadline)?;
                    // The host's bytes can overtake the word that it has opened the port.
                    if waiting[0].revents().contains(PollFlags::HUP) {
                        if Instant::now() >= opened_by {
                            return Err(io::ErrorKind::NotConnected.into());
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
