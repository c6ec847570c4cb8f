//! Our terminal as a browser has it: a WebSocket with JSON or binary frames.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use clarateach_seatproto::terminal::{
    BINARY_OUTPUT, BINARY_PROTOCOL, BINARY_SNAPSHOT, ClientFrame, ServerFrame,
};
use serde::Deserialize;

use crate::{
    http::{Connection, Target},
    measure::{Failure, Flood, Line},
    websocket::{BINARY, TEXT, WebSocket},
};

/// What the flood's file is called in the seat's workspace directory.
const FLOOD_FILE: &str = ".clarateach-flood";

pub(crate) struct Terminal {
    id: u64,
    target: Target,
    socket: WebSocket,
    /// Position after the last output, once there was some.
    seq: Option<u64>,
}

impl Terminal {
    /// Opens a terminal of its own and runs a command in it, which must print READY first.
    fn run(target: &Target, binary: bool, command: &str) -> Result<Terminal, Failure> {
        let made: serde_json::Value = serde_json::from_str(&target.call("POST", "/terminals", "{}")?)?;
        let id = made["terminal"]["id"].as_u64().ok_or("no id")?;
        let protocol = binary.then_some(BINARY_PROTOCOL);
        let socket = WebSocket::connect(target, &format!("/terminal?id={id}"), protocol)?;
        let mut terminal = Terminal { id, target: target.clone(), socket, seq: None };
        terminal.type_in(&format!("stty -echo; {command}\n"))?;
        let mut seen = Vec::new();
        while memchr::memmem::find(&seen, b"READY").is_none() {
            terminal.read(&mut |output| {
                seen.extend_from_slice(output);
                Ok(())
            })?;
        }
        Ok(terminal)
    }

    /// `cat` on a raw terminal.
    pub(crate) fn cat(target: &Target) -> Result<Terminal, Failure> {
        Terminal::run(target, false, "stty raw; printf REA; printf DY; exec cat")
    }

    /// What prints the beginning of the flood's file once a line is typed.
    pub(crate) fn flooder(target: &Target, binary: bool, share: usize) -> Result<Terminal, Failure> {
        let command = format!("stty raw; printf REA; printf DY; read go; exec head -c {share} {FLOOD_FILE}");
        Terminal::run(target, binary, &command)
    }

    /// Hands over the output of one message, if one has been read.
    fn message(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<bool, Failure> {
        let seq = &mut self.seq;
        self.socket.take(|opcode, message| {
            let mut length = 0;
            let mut counted = |output: &[u8]| {
                length += output.len() as u64;
                take(output)
            };
            let at = match (opcode, message) {
                (BINARY, [BINARY_OUTPUT | BINARY_SNAPSHOT, a, b, c, d, e, f, g, h, output @ ..]) => {
                    counted(output)?;
                    Some(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
                }
                (TEXT, frame) => text(frame, &mut counted)?,
                _ => return Err("a strange binary frame".into()),
            };
            let Some(at) = at else { return Ok(()) };
            if seq.is_some_and(|before| before + length != at) {
                return Err(format!("seq {at} does not count the bytes: {seq:?} + {length}").into());
            }
            *seq = Some(at);
            Ok(())
        })
    }
}

impl Line for Terminal {
    fn type_in(&mut self, text: &str) -> Result<(), Failure> {
        let frame = ClientFrame::Input { data: text.to_owned(), n: None };
        self.socket.send(TEXT, serde_json::to_string(&frame)?.as_bytes())
    }

    fn read(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        self.socket.fill()?;
        while self.message(take)? {}
        Ok(())
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.target.call("DELETE", &format!("/terminals/{}", self.id), "");
    }
}

/// What follows the data of an output frame.
#[derive(Deserialize)]
struct AfterData {
    seq: u64,
}

/// Reads a JSON frame; of an output frame the text is handed over where it lies, between its escapes, and the position after it
/// is returned.
fn text(frame: &[u8], take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<Option<u64>, Failure> {
    let Some(mut rest) = frame.strip_prefix(br#"{"type":"output","data":""#) else {
        return match serde_json::from_slice(frame)? {
            ServerFrame::Output { data, seq, .. } => take(data.as_bytes()).map(|()| Some(seq)),
            _ => Ok(None),
        };
    };
    loop {
        let at = memchr::memchr2(b'"', b'\\', rest).ok_or("an unfinished string")?;
        take(&rest[..at])?;
        match &rest[at..] {
            [b'"', b',', after @ ..] => {
                let after: AfterData = serde_json::from_slice(&[b"{", after].concat())?;
                return Ok(Some(after.seq));
            }
            [b'\\', b'u', digits @ ..] => {
                let digits = digits.get(..4).ok_or("an unfinished escape")?;
                let code = u32::from_str_radix(std::str::from_utf8(digits)?, 16)?;
                let character = char::from_u32(code).ok_or("half a surrogate pair")?;
                take(character.encode_utf8(&mut [0; 4]).as_bytes())?;
                rest = &rest[at + 6..];
            }
            [b'\\', escape, ..] => {
                let byte = match escape {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'f' => 12,
                    itself => *itself,
                };
                take(&[byte])?;
                rest = &rest[at + 2..];
            }
            _ => return Err("an output frame without seq".into()),
        }
    }
}

/// Puts the flood's file into the seat, where terminals start.
pub(crate) fn put(target: &Target, flood: &Flood) -> Result<(), Failure> {
    let mut connection = Connection::open(target)?;
    connection.ask("PUT", &format!("/raw/{FLOOD_FILE}"), &flood.content)?;
    let (status, answer) = connection.answer()?;
    if status >= 300 {
        return Err(format!("uploading the flood: {status} {answer}").into());
    }
    Ok(())
}

/// Removes it again.
pub(crate) fn take_away(target: &Target) -> Result<(), Failure> {
    target.call("DELETE", &format!("/files/{FLOOD_FILE}"), "").map(drop)
}

/// How long Ctrl-C takes to be seen by somebody who reads a flood at this rate (bytes/s).
pub(crate) fn interrupt(target: &Target, rate: u64) -> Result<Duration, Failure> {
    // In sh, because an interactive bash does not run a trap when its child is interrupted.
    let command = format!(
        "sh -c \"trap 'printf INTER; printf RUPTED' INT; printf REA; printf DY; while cat {FLOOD_FILE}; do :; done\""
    );
    let mut terminal = Terminal::run(target, false, &command)?;
    let start = Instant::now();
    let mut read = 0;
    let mut typed: Option<Instant> = None;
    let mut last = Vec::new();
    loop {
        // One message at a time, as a browser takes them: what waits unread behind it is part of what Ctrl-C must overtake.
        let taken = terminal.message(&mut |output| {
            read += output.len() as u64;
            last.extend_from_slice(output);
            Ok(())
        })?;
        if !taken {
            terminal.socket.fill()?;
        }
        let due = start + Duration::from_nanos(read * 1_000_000_000 / rate);
        let early = due.saturating_duration_since(Instant::now());
        if early > Duration::from_millis(1) {
            std::thread::sleep(early);
        }
        if memchr::memmem::find(&last, b"INTERRUPTED").is_some() {
            return Ok(typed.ok_or("interrupted before Ctrl-C")?.elapsed());
        }
        last.drain(..last.len().saturating_sub(16));
        if typed.is_none() && start.elapsed() > Duration::from_secs(3) {
            typed = Some(Instant::now());
            terminal.type_in("\x03")?;
        }
    }
}
