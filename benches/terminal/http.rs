//! Where the seat is, and HTTP/1.1 to it on connections that are kept.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
};

use crate::measure::Failure;

/// Where the seat is reached and with which headers.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) base: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Target {
    /// The seat that a session's learner sits on, with a fresh token.
    pub(crate) fn of_session(url: &str) -> Result<Target, Failure> {
        let (address, path) = split(url);
        let server = Target { address, base: String::new(), headers: Vec::new() };
        let session: serde_json::Value = serde_json::from_str(&server.call("GET", &path, "")?)?;
        let text = |name: &str| session[name].as_str().ok_or(format!("the session has no {name}"));
        let (address, base) = split(text("endpoint")?);
        let bearer = ("authorization".to_owned(), format!("Bearer {}", text("token")?));
        Ok(Target { address, base, headers: vec![bearer] })
    }

    pub(crate) fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The header lines of every request.
    pub(crate) fn head(&self) -> String {
        let mut head = format!("Host: {}\r\n", self.address);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head
    }

    /// One HTTP exchange on a connection of its own; the body of the answer.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Result<String, Failure> {
        let mut connection = Connection::open(self)?;
        connection.ask(method, path, body.as_bytes())?;
        let (status, answer) = connection.answer()?;
        if status >= 300 {
            return Err(format!("{method} {path}: {status} {answer}").into());
        }
        Ok(answer.to_owned())
    }
}

/// Host and port, and path, of a URL.
fn split(url: &str) -> (String, String) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = if path.is_empty() { String::new() } else { format!("/{}", path.trim_end_matches('/')) };
    (address.to_owned(), path)
}

/// A kept-alive HTTP/1.1 connection.
pub(crate) struct Connection {
    stream: TcpStream,
    head: String,
    base: String,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(crate) fn open(target: &Target) -> Result<Connection, Failure> {
        let (stream, head) = (target.connect()?, target.head());
        Ok(Connection { stream, head, base: target.base.clone(), buffer: vec![0; 64 << 10], filled: 0 })
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<(), Failure> {
        let head = format!(
            "{method} {}{path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.base,
            self.head,
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        self.filled = 0;
        Ok(())
    }

    /// Waits for all of the answer: status and body.
    pub(crate) fn answer(&mut self) -> Result<(u16, &str), Failure> {
        while !self.read()? {}
        self.answered()
    }

    /// Reads once; whether the answer is complete.
    pub(crate) fn read(&mut self) -> Result<bool, Failure> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..])? {
            0 => return Err("the connection ended".into()),
            read => self.filled += read,
        }
        let Some((_, from, length)) = self.parse()? else { return Ok(false) };
        Ok(self.filled >= from + length)
    }

    /// Status and body of a complete answer.
    pub(crate) fn answered(&self) -> Result<(u16, &str), Failure> {
        let (status, from, length) = self.parse()?.ok_or("no answer yet")?;
        Ok((status, std::str::from_utf8(&self.buffer[from..from + length])?))
    }

    /// Status, where the body begins and how long it is, once the head is complete.
    fn parse(&self) -> Result<Option<(u16, usize, usize)>, Failure> {
        let bytes = &self.buffer[..self.filled];
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&bytes[..end])?;
        let status = head.get(9..12).ok_or("no status")?.parse()?;
        let length = head
            .split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.map_or(Ok(0), |(_, length)| length.parse())?;
        Ok(Some((status, end + 4, length)))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
