//! The client's end of a WebSocket, with as little of its own as can be: one buffer, frames handed over where they lie.
//! A client that costs as much as the server would hide what the server costs.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
};

use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use crate::{http::Target, measure::Failure};

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Any will do (RFC 6455 §5.3 wants it hard to guess for pages that attack proxies, which we are not).
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) struct WebSocket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// How much of the buffer has been read, and how much of that has been handed over.
    filled: usize,
    taken: usize,
    closed: bool,
}

impl WebSocket {
    pub(crate) fn connect(target: &Target, path: &str, protocol: Option<&str>) -> Result<WebSocket, Failure> {
        let mut stream = target.connect()?;
        let key = generate_key();
        let mut request = format!("GET {}{path} HTTP/1.1\r\n{}", target.base, target.head());
        request.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        request.push_str(&format!("Sec-WebSocket-Key: {key}\r\n"));
        if let Some(protocol) = protocol {
            request.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes())?;
        let mut socket = WebSocket { stream, buffer: vec![0; 256 << 10], filled: 0, taken: 0, closed: false };
        let end = loop {
            if let Some(end) = memchr::memmem::find(&socket.buffer[..socket.filled], b"\r\n\r\n") {
                break end + 4;
            }
            socket.fill()?;
        };
        let answer = String::from_utf8_lossy(&socket.buffer[..end]).into_owned();
        if !answer.starts_with("HTTP/1.1 101 ") || !answer.contains(&derive_accept_key(key.as_bytes())) {
            return Err(format!("no WebSocket at {path}: {answer}").into());
        }
        socket.taken = end;
        Ok(socket)
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Failure> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | short as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame)?;
        Ok(())
    }

    /// Reads once.
    pub(crate) fn fill(&mut self) -> Result<(), Failure> {
        if self.closed {
            return Err("the WebSocket was closed".into());
        }
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        } else if self.buffer.len() - self.filled < 64 << 10 {
            self.buffer.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..])? {
            0 => Err("the connection ended".into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    /// Hands over the next whole message that has been read, if it is one with text or bytes; a ping is answered. False when
    /// none is there.
    pub(crate) fn take(
        &mut self,
        take: impl FnOnce(u8, &[u8]) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let Some((opcode, from, to)) = whole_frame(&self.buffer[self.taken..self.filled])? else {
            return Ok(false);
        };
        let (from, to) = (self.taken + from, self.taken + to);
        self.taken = to;
        match opcode {
            TEXT | BINARY => take(opcode, &self.buffer[from..to])?,
            PING => {
                let payload = self.buffer[from..to].to_vec();
                self.send(PONG, &payload)?;
            }
            PONG => {}
            CLOSE => self.closed = true,
            other => return Err(format!("a frame of kind {other}").into()),
        }
        Ok(true)
    }
}

impl AsFd for WebSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Kind of the first frame, and where its payload begins and ends, if all of it is there. Servers don't mask.
fn whole_frame(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Failure> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err("a frame that is a fragment, masked or of an extension".into());
    }
    let (head, length) = match (second, rest) {
        (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, rest) if rest.len() >= 8 => (10, rest.iter().take(8).fold(0, |l, b| l << 8 | u64::from(*b))),
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, u64::from(*short)),
    };
    let end = head + usize::try_from(length)?;
    Ok((bytes.len() >= end).then_some((first & 0x0f, head, end)))
}
