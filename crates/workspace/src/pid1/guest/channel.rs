//! The wire to the host: a virtio-serial port or a vsock listener, line by line, without ever spinning.

mod port;
mod vsock;

use std::{
    fmt, io,
    os::fd::RawFd,
    time::{Duration, Instant},
};

use clarateach_seatproto::guest::{GuestReply, MAX_LINE};
use memchr::memchr;
use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
};

use super::GuestError;
use port::Port;
use vsock::Vsock;

/// For a port or a vsock device to appear. Drivers announce ports a moment after the devices themselves.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the host to take an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Link {
    Port(Port),
    Vsock(Vsock),
}

/// What reading from a link gave.
enum Received {
    /// This many bytes.
    Bytes(usize),
    /// Another conversation begins: what was read of a line so far will never be finished.
    Anew,
}

/// The control channel, open for the guest's life; the host comes and goes.
#[derive(Debug)]
pub(super) struct Channel {
    link: Link,
    buffer: Vec<u8>,
    /// So many bytes of the buffer are known to hold no end of a line.
    searched: usize,
    /// A line longer than allowed is being skipped.
    skipping: bool,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.link {
            Link::Port(_) => "virtio-serial",
            Link::Vsock(_) => "vsock",
        })
    }
}

/// One line, or that there was one too long to be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Vec<u8>),
    TooLong,
}

impl Channel {
    /// Finds what the machine has; none if it has no such device at all.
    pub(super) fn find() -> Result<Option<Channel>, GuestError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(port) = Port::find().map_err(GuestError::during("opening the control port"))? {
                return Ok(Some(Channel::over(Link::Port(port))));
            }
            if !port::expected()
                && let Some(vsock) = Vsock::listen().map_err(GuestError::during("listening on vsock"))?
            {
                return Ok(Some(Channel::over(Link::Vsock(vsock))));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn over(link: Link) -> Channel {
        Channel { link, buffer: Vec::new(), searched: 0, skipping: false }
    }

    /// Takes over the descriptors that [`Channel::hand_over`] described.
    pub(super) fn inherited(description: &str) -> Option<Channel> {
        let mut parts = description.split(':');
        let kind = parts.next()?;
        let descriptors: Vec<RawFd> = parts.map(str::parse).collect::<Result<_, _>>().ok()?;
        let link = match (kind, descriptors.as_slice()) {
            ("port", &[port]) => Link::Port(Port::inherited(port).ok()?),
            ("vsock", &[listener]) => Link::Vsock(Vsock::inherited(listener, None)),
            ("vsock", &[listener, peer]) => Link::Vsock(Vsock::inherited(listener, Some(peer))),
            _ => return None,
        };
        Some(Channel::over(link))
    }

    /// Lets the descriptors survive execve(2) and says which they are.
    pub(super) fn hand_over(&self) -> io::Result<String> {
        match &self.link {
            Link::Port(port) => port.hand_over(),
            Link::Vsock(vsock) => vsock.hand_over(),
        }
    }

    /// Takes back what [`Channel::hand_over`] did.
    pub(super) fn keep(&self) -> io::Result<()> {
        match &self.link {
            Link::Port(port) => port.keep(),
            Link::Vsock(vsock) => vsock.keep(),
        }
    }

    /// Waits for the next line, for as long as it takes. Empty lines are passed over: a host may send one to end whatever
    /// an earlier one left unfinished.
    pub(super) fn next_line(&mut self) -> Line {
        let mut chunk = [0u8; 4096];
        loop {
            if let Some(line) = self.take_line() {
                return line;
            }
            let received = match &mut self.link {
                Link::Port(port) => port.receive(&mut chunk),
                Link::Vsock(vsock) => vsock.receive(&mut chunk),
            };
            match received {
                Ok(Received::Bytes(count)) => self.buffer.extend_from_slice(&chunk[..count]),
                Ok(Received::Anew) => {
                    self.forget();
                    self.skipping = false;
                }
                Err(error) => {
                    crate::say(&format!("the control channel: {error}"));
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<Line> {
        while let Some(found) = memchr(b'\n', &self.buffer[self.searched..]) {
            let end = self.searched + found;
            let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
            self.searched = 0;
            line.pop();
            if std::mem::take(&mut self.skipping) || line.len() > MAX_LINE {
                return Some(Line::TooLong);
            }
            if !line.trim_ascii().is_empty() {
                // A configuration may be long; idle, nothing is kept.
                self.buffer.shrink_to(4096);
                return Some(Line::Whole(line));
            }
        }
        if self.buffer.len() > MAX_LINE {
            self.skipping = true;
        }
        self.searched = self.buffer.len();
        if self.skipping {
            self.forget();
        }
        None
    }

    fn forget(&mut self) {
        self.buffer = Vec::new();
        self.searched = 0;
    }

    /// Sends an answer. If the host has gone away it is lost: the next one asks again.
    pub(super) fn answer(&mut self, reply: &GuestReply) {
        let Ok(mut line) = serde_json::to_vec(reply) else { return };
        line.push(b'\n');
        let deadline = Instant::now() + ANSWER_WITHIN;
        let sent = match &mut self.link {
            Link::Port(port) => port.send(&line, deadline),
            Link::Vsock(vsock) => vsock.send(&line, deadline),
        };
        if let Err(error) = sent {
            crate::say(&format!("an answer to the host was lost: {error}"));
        }
    }
}

/// poll(2) until `deadline`; running out of time is an error.
fn wait(waiting: &mut [PollFd<'_>], deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        return match poll(waiting, Some(&limit)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    };

    use super::*;

    /// A channel over a socket, which behaves as a vsock connection does, and the host's end of it.
    fn pair() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Nobody knows the directory, so nobody comes.
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("listener")).unwrap();
        ours.set_nonblocking(true).unwrap();
        let vsock = Vsock::with_peer(OwnedFd::from(listener), OwnedFd::from(ours));
        (Channel::over(Link::Vsock(vsock)), theirs)
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        use std::io::Write;
        let (mut channel, mut host) = pair();
        std::thread::spawn(move || {
            for piece in [&b"\n\r\n{\"a\""[..], b":1}\nsec", b"ond\nthird\n"] {
                host.write_all(piece).unwrap();
                std::thread::yield_now();
            }
            // Kept open until the test is over.
            std::mem::forget(host);
        });
        assert_eq!(channel.next_line(), Line::Whole(b"{\"a\":1}".to_vec()));
        assert_eq!(channel.next_line(), Line::Whole(b"second".to_vec()));
        assert_eq!(channel.next_line(), Line::Whole(b"third".to_vec()));
    }

    #[test]
    fn a_line_above_the_limit_is_told_and_the_next_one_read() {
        use std::io::Write;
        let (mut channel, mut host) = pair();
        std::thread::spawn(move || {
            host.write_all(&vec![b'x'; MAX_LINE + 70_000]).unwrap();
            host.write_all(b"\nnext\n").unwrap();
            std::mem::forget(host);
        });
        assert_eq!(channel.next_line(), Line::TooLong);
        assert_eq!(channel.next_line(), Line::Whole(b"next".to_vec()));
        assert!(channel.buffer.capacity() <= 8192);
    }

    #[test]
    fn what_is_described_wrongly_is_not_taken_over() {
        for wrong in ["", "port", "port:", "port:x", "serial:3", "vsock:1:2:3"] {
            assert!(Channel::inherited(wrong).is_none(), "{wrong}");
        }
    }
}
