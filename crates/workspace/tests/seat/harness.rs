//! Starting seats and speaking to them.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use clarateach_seatproto::terminal::{BINARY_OUTPUT, BINARY_SNAPSHOT, ClientFrame, ServerFrame};
use serde_json::Value;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket, client::IntoClientRequest};

pub(crate) const SECRET: &str = "correct horse battery staple";
/// For anything that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits until it holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A running workspace; killed with all its processes when dropped.
pub(crate) struct Seat {
    pub(crate) child: Child,
    pub(crate) place: TempDir,
    socket: PathBuf,
    tcp: Option<u16>,
}

impl Seat {
    pub(crate) fn start() -> Seat {
        Seat::start_with(|_| {})
    }

    /// Starts one on a Unix socket; `change` adds to its environment.
    pub(crate) fn start_with(change: impl FnOnce(&mut Command)) -> Seat {
        Seat::launch(Command::new(env!("CARGO_BIN_EXE_workspace")), None, change)
    }

    /// Starts one on this TCP port.
    pub(crate) fn start_on(port: u16) -> Seat {
        Seat::launch(Command::new(env!("CARGO_BIN_EXE_workspace")), Some(port), |_| {})
    }

    /// Starts one by a command that ends up in the binary.
    pub(crate) fn launch(mut command: Command, tcp: Option<u16>, change: impl FnOnce(&mut Command)) -> Seat {
        let place = tempfile::tempdir().unwrap();
        // The learner must be able to get there.
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let socket = place.path().join("socket");
        let root = place.path().join("root");
        std::fs::create_dir(&root).unwrap();
        if is_root() {
            for directory in [place.path(), &root] {
                std::os::unix::fs::chown(directory, Some(1000), Some(1000)).unwrap();
            }
        }
        let listen =
            tcp.map_or_else(|| format!("unix:{}", socket.display()), |p| format!("tcp:127.0.0.1:{p}"));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("PS1", "$ ")
            .env("CLARATEACH_SECRET", SECRET)
            .env("CLARATEACH_LISTEN", listen)
            .env("CLARATEACH_ROOT", &root)
            .env("CLARATEACH_SHELL", "/bin/sh")
            .env("CLARATEACH_UID", if is_root() { "1000" } else { "self" });
        change(&mut command);
        let child = command.spawn().unwrap();
        let seat = Seat { child, place, socket, tcp };
        wait_for("the seat to listen", || seat.connect().is_ok());
        seat
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self.tcp {
            Some(port) => {
                let stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Box::new(stream)
            }
            None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Box::new(stream)
            }
        })
    }

    /// One request with the secret; status, head in lower case, body.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> (u16, String, Vec<u8>) {
        let mut stream = self.connect().unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: seat\r\nconnection: close\r\ncontent-length: {}\r\n\
             x-clarateach-secret: {SECRET}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A refusal may come, and the connection go, before all of the body has been taken.
        let _ = stream.write_all(body);
        read_answer(&mut stream)
    }

    /// One request with a JSON answer.
    pub(crate) fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (status, _, answer) = self.request(method, path, "", &body);
        (status, serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    /// The refusal's status and code.
    pub(crate) fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.call(method, path, body);
        assert!(answer["error"]["message"].is_string(), "{method} {path}: {status} {answer}");
        (status, answer["error"]["code"].as_str().unwrap().to_owned())
    }

    pub(crate) fn terminal(&self, query: &str) -> Terminal {
        Terminal::open(self, query, "").unwrap()
    }

    pub(crate) fn binary_terminal(&self, query: &str) -> Terminal {
        Terminal::open(self, query, clarateach_seatproto::terminal::BINARY_PROTOCOL).unwrap()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(rustix::process::Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(3);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn read_answer(stream: &mut dyn Stream) -> (u16, String, Vec<u8>) {
    let mut all = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("reading an answer: {e}"),
        }
    }
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = all.split_off(end + 4);
    if head.contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    (status, head, body)
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    panic!("the body ended in the middle of a chunk");
}

/// What a viewer sees.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Output { bytes: Vec<u8>, seq: u64, snapshot: bool },
    Frame(ServerFrame),
    Closed(Option<u16>),
}

/// A WebSocket on a terminal.
pub(crate) struct Terminal {
    pub(crate) socket: WebSocket<Box<dyn Stream>>,
    pub(crate) protocol: Option<String>,
    pub(crate) hello: Option<ServerFrame>,
    pub(crate) seq: u64,
}

impl Terminal {
    pub(crate) fn open(seat: &Seat, query: &str, protocol: &str) -> Result<Terminal, (u16, String)> {
        let mut request = format!("ws://seat/terminal{query}").into_client_request().unwrap();
        request.headers_mut().insert("x-clarateach-secret", SECRET.parse().unwrap());
        if !protocol.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        match tungstenite::client(request, seat.connect().unwrap()) {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|p| p.to_str().unwrap().to_owned());
                let mut terminal = Terminal { socket, protocol, hello: None, seq: 0 };
                match terminal.next() {
                    Seen::Frame(hello @ ServerFrame::Hello { seq, .. }) => {
                        terminal.seq = seq;
                        terminal.hello = Some(hello);
                    }
                    Seen::Frame(ServerFrame::Error { code, .. }) => return Err((101, code)),
                    other => panic!("the first frame was {other:?}"),
                }
                Ok(terminal)
            }
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                let body =
                    String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
                Err((response.status().as_u16(), body))
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) fn send(&mut self, frame: &ClientFrame) {
        self.send_text(&serde_json::to_string(frame).unwrap());
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.send(&ClientFrame::Input { data: text.to_owned(), n: None });
    }

    pub(crate) fn resize(&mut self, cols: u32, rows: u32) {
        self.send(&ClientFrame::Resize { cols, rows });
    }

    pub(crate) fn next(&mut self) -> Seen {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => match serde_json::from_str(&text).unwrap() {
                    ServerFrame::Output { data, seq, snapshot } => {
                        self.seq = seq;
                        return Seen::Output { bytes: data.into_bytes(), seq, snapshot };
                    }
                    other => return Seen::Frame(other),
                },
                Ok(Message::Binary(message)) => {
                    let (head, bytes) = message.split_at(9);
                    assert!([BINARY_OUTPUT, BINARY_SNAPSHOT].contains(&head[0]));
                    let seq = u64::from_be_bytes(head[1..].try_into().unwrap());
                    self.seq = seq;
                    return Seen::Output { bytes: bytes.to_vec(), seq, snapshot: head[0] == BINARY_SNAPSHOT };
                }
                Ok(Message::Close(frame)) => {
                    // The answer to it goes out on the next read.
                    let _ = self.socket.read();
                    return Seen::Closed(frame.map(|f| f.code.into()));
                }
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    return Seen::Closed(None);
                }
                Err(other) => panic!("reading from a terminal: {other}"),
            }
        }
    }

    /// Reads output until it holds the text; all of it.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let bytes = self.read_bytes_until(|seen| contains(seen, text.as_bytes()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn read_bytes_until(&mut self, mut enough: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        let mut all = Vec::new();
        while !enough(&all) {
            assert!(Instant::now() < deadline, "not seen: {:?}", String::from_utf8_lossy(&all));
            match self.next() {
                Seen::Output { bytes, .. } => all.extend(bytes),
                Seen::Frame(ServerFrame::Exit { code }) => {
                    panic!("exit {code} after {:?}", String::from_utf8_lossy(&all))
                }
                Seen::Frame(_) => {}
                Seen::Closed(code) => {
                    panic!("closed with {code:?} after {:?}", String::from_utf8_lossy(&all))
                }
            }
        }
        all
    }

    /// Runs a command line to its end and returns its output.
    pub(crate) fn run(&mut self, command: &str) -> String {
        self.type_in(&format!("printf 'be''gin\\n'\n{command}\nprintf 'run-ov''er\\n'\n"));
        let all = self.read_until("run-over\r\n");
        let all = all.split_once("begin\r\n").map_or(&*all, |(_, rest)| rest);
        let end = all.find("run-over\r\n").unwrap_or(all.len());
        // Without the prompts, and without the typed lines that are echoed behind them.
        let lines = all[..end].split("\r\n").map(|line| line.trim_start_matches("$ "));
        let typed: Vec<&str> = command.lines().map(str::trim).chain(["printf 'run-ov''er\\n'"]).collect();
        let kept: Vec<&str> =
            lines.filter(|line| !typed.iter().any(|t| t.trim_end() == line.trim_end())).collect();
        kept.join("\n")
    }

    /// The next frame that is neither output nor news of the size.
    pub(crate) fn next_notice(&mut self) -> ServerFrame {
        loop {
            match self.next() {
                Seen::Output { .. } | Seen::Frame(ServerFrame::Size { .. }) => {}
                Seen::Frame(frame) => return frame,
                Seen::Closed(code) => panic!("closed with {code:?}"),
            }
        }
    }

    /// The code of the next complaint.
    pub(crate) fn next_error(&mut self) -> String {
        match self.next_notice() {
            ServerFrame::Error { code, .. } => code,
            other => panic!("{other:?} is no error"),
        }
    }

    /// All output up to the exit and its status; then the connection closes with 1000.
    pub(crate) fn read_to_exit(&mut self) -> (Vec<u8>, i32) {
        let mut all = Vec::new();
        loop {
            match self.next() {
                Seen::Output { bytes, .. } => all.extend(bytes),
                Seen::Frame(ServerFrame::Exit { code }) => {
                    assert_eq!(self.next(), Seen::Closed(Some(1000)));
                    return (all, code);
                }
                Seen::Frame(_) => {}
                Seen::Closed(code) => panic!("closed with {code:?} and without an exit"),
            }
        }
    }
}

pub(crate) fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// Whether a process lives; zombies don't.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().next());
    state.is_some_and(|s| s != "Z" && s != "X")
}

/// A TCP port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
