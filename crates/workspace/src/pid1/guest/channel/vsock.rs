//! A vsock listener, and the one connection that the host holds to it.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Instant,
};

use clarateach_seatproto::guest::CONTROL_VSOCK_PORT;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, getpeername, listen, socket,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, FdFlags, fcntl_setfd},
};

use super::Received;

/// `IOCTL_VM_SOCKETS_GET_LOCAL_CID` of <linux/vm_sockets.h>.
const GET_LOCAL_CID: libc::Ioctl = 0x7b9;

/// The listener and whoever is connected.
#[derive(Debug)]
pub(super) struct Vsock {
    listener: OwnedFd,
    peer: Option<OwnedFd>,
}

impl Vsock {
    /// Listens, if the machine has a vsock device.
    pub(super) fn listen() -> io::Result<Option<Vsock>> {
        if !has_device() {
            return Ok(None);
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, CONTROL_VSOCK_PORT))?;
        listen(&listener, Backlog::new(4)?)?;
        Ok(Some(Vsock { listener, peer: None }))
    }

    /// The sockets as an earlier image of this process opened them.
    pub(super) fn inherited(listener: RawFd, peer: Option<RawFd>) -> Vsock {
        // SAFETY: the numbers come from `hand_over`, called before this program was executed; nothing else uses them.
        let own = |descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) };
        let vsock = Vsock { listener: own(listener), peer: peer.map(own) };
        let _ = vsock.keep();
        vsock
    }

    pub(super) fn keep(&self) -> io::Result<()> {
        for socket in std::iter::once(&self.listener).chain(&self.peer) {
            fcntl_setfd(socket, FdFlags::CLOEXEC)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn with_peer(listener: OwnedFd, peer: OwnedFd) -> Vsock {
        Vsock { listener, peer: Some(peer) }
    }

    pub(super) fn hand_over(&self) -> io::Result<String> {
        let mut described = "vsock".to_owned();
        for socket in std::iter::once(&self.listener).chain(&self.peer) {
            fcntl_setfd(socket, FdFlags::empty())?;
            described.push_str(&format!(":{}", socket.as_raw_fd()));
        }
        Ok(described)
    }

    /// Reads from the connection; a newer one takes its place, for the host that made the old one may be gone without a
    /// word (a snapshot was restored).
    pub(super) fn receive(&mut self, into: &mut [u8]) -> io::Result<Received> {
        loop {
            let mut waiting = vec![PollFd::new(&self.listener, PollFlags::IN)];
            waiting.extend(self.peer.as_ref().map(|peer| PollFd::new(peer, PollFlags::IN)));
            match poll(&mut waiting, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let newcomer = waiting[0].revents().contains(PollFlags::IN);
            let readable = waiting.get(1).is_some_and(|peer| !peer.revents().is_empty());
            drop(waiting);
            if newcomer && let Some(peer) = self.accept()? {
                self.peer = Some(peer);
                return Ok(Received::Anew);
            }
            let Some(peer) = self.peer.as_ref().filter(|_| readable) else { continue };
            match rustix::io::read(peer, &mut *into) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(count) if count > 0 => return Ok(Received::Bytes(count)),
                // Closed, or reset.
                _ => {
                    self.peer = None;
                    return Ok(Received::Anew);
                }
            }
        }
    }

    /// The next connection, unless somebody other than the host made it: the guest's own programs have no business here.
    fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accepted = match accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: accept4(2) has just made it, and nothing else knows its number.
            Ok(accepted) => unsafe { OwnedFd::from_raw_fd(accepted) },
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ECONNABORTED) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let from = getpeername::<VsockAddr>(accepted.as_raw_fd())?;
        Ok((from.cid() == libc::VMADDR_CID_HOST).then_some(accepted))
    }

    pub(super) fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let Some(peer) = &self.peer else { return Err(io::ErrorKind::NotConnected.into()) };
        while !bytes.is_empty() {
            match rustix::io::write(peer, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut waiting = [PollFd::new(peer, PollFlags::OUT)];
                    super::wait(&mut waiting, deadline)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The vsock module may be loaded without a device to speak through.
fn has_device() -> bool {
    let Ok(device) = File::open("/dev/vsock") else { return false };
    let mut cid: u32 = libc::VMADDR_CID_ANY;
    // SAFETY: the call writes one u32 through a pointer to one.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), GET_LOCAL_CID, &raw mut cid) };
    result == 0 && cid != libc::VMADDR_CID_ANY
}
