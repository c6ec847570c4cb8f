//! One WebSocket on a terminal.

use std::{
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use clarateach_seatproto::terminal::{MAX_INPUT_BYTES, ServerFrame};
use futures_util::{Sink, Stream as _};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Sleep,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Bytes, Message,
        error::ProtocolError,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    frames::{self, Command, Complaint, Encoding},
    session::{Allowance, Next, Terminal, ViewerKey},
    window::Window,
};
use crate::http::Stream;

/// Largest frame of output, in bytes of output. With the usual share of escapes it fits into what a gateway reads at once.
const FRAME: usize = 28 << 10;
/// Acks and complaints that wait; more are merged or dropped.
const NOTICES: usize = 64;
/// Complaints after which a client is hopeless.
const PATIENCE: usize = 1000;
/// Between keep-alive pings.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Without a sign of life for so long, the connection is closed.
const SILENCE: Duration = Duration::from_secs(300);
/// For the client to answer our close frame.
const GOODBYE: Duration = Duration::from_secs(2);
/// Payload of keep-alive pings; those of the window are eight bytes.
const ALIVE: &[u8] = b"alive";

/// How a client wants to view a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Wishes {
    pub(crate) encoding: Encoding,
    pub(crate) since: Option<u64>,
    pub(crate) epoch: Option<String>,
    pub(crate) view_only: bool,
    pub(crate) client: Option<String>,
}

/// Limits of a terminal's WebSocket.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(64 << 10)
        .max_message_size(Some(4 * MAX_INPUT_BYTES))
        .max_frame_size(Some(4 * MAX_INPUT_BYTES))
}

struct Viewer {
    socket: WebSocketStream<Stream>,
    terminal: Rc<Terminal>,
    key: ViewerKey,
    encoding: Encoding,
    client: Option<String>,
    window: Window,
    notices: VecDeque<Message>,
    acks: VecDeque<u64>,
    complaints: usize,
    heard: Instant,
    timer: Pin<Box<Sleep>>,
    next_ping: Instant,
    closing: bool,
    /// What comes in can't be understood any more and is thrown away until the client closes: closing over unread
    /// bytes would take our last frames from it.
    broken: bool,
    unflushed: bool,
}

/// Serves one viewer until either side closes.
pub(super) async fn serve(
    socket: WebSocketStream<Stream>,
    terminal: Rc<Terminal>,
    epoch: &str,
    wishes: Wishes,
) {
    socket.get_ref().keep_queue_small();
    let head = terminal.describe().seq;
    let foreign = wishes.epoch.as_deref().is_some_and(|known| known != epoch)
        || wishes.since.is_some_and(|since| since > head);
    let attached = terminal.attach(if foreign { None } else { wishes.since }, !wishes.view_only);
    let hello = ServerFrame::Hello {
        id: terminal.id,
        seq: attached.position,
        epoch: epoch.to_owned(),
        cols: attached.cols,
        rows: attached.rows,
        writer: attached.writer,
        n: wishes.client.as_deref().and_then(|c| terminal.last_input_of(c)),
    };
    let now = Instant::now();
    let mut viewer = Viewer {
        socket,
        terminal: terminal.clone(),
        key: attached.key,
        encoding: wishes.encoding,
        client: wishes.client,
        window: Window::new(attached.position, now),
        notices: VecDeque::from([frames::control(&hello)]),
        acks: VecDeque::new(),
        complaints: 0,
        heard: now,
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        next_ping: now + KEEP_ALIVE,
        closing: false,
        broken: false,
        unflushed: false,
    };
    if foreign {
        viewer.notices.push_back(frames::output(viewer.encoding, RESTARTED, &[], attached.position, true));
    }
    std::future::poll_fn(|context| viewer.poll(context)).await;
    terminal.detach(attached.key);
}

/// Tells a returning learner that the terminal is not the one that was left.
const RESTARTED: &[u8] = "\x1bc\x1b[2m[this seat was started again: the shell is new]\x1b[m\r\n".as_bytes();

/// Refuses a viewer that can't be given a terminal, in a way that a browser can read.
pub(super) async fn refuse(mut socket: WebSocketStream<Stream>, code: &str, message: &str) {
    use futures_util::SinkExt;
    let error = ServerFrame::Error { code: code.to_owned(), message: message.to_owned() };
    let close = CloseFrame { code: CloseCode::Library(4422), reason: code.to_owned().into() };
    let farewell = async {
        socket.send(frames::control(&error)).await?;
        socket.close(Some(close)).await
    };
    let _ = tokio::time::timeout(GOODBYE, farewell).await;
}

impl Viewer {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.poll_incoming(context).is_err() || self.poll_outgoing(context).is_err() {
            return Poll::Ready(());
        }
        self.poll_timer(context)
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let limit = if self.closing { GOODBYE } else { SILENCE };
            if now.duration_since(self.heard) > limit {
                return Poll::Ready(());
            }
            if !self.closing && now >= self.next_ping {
                self.next_ping = now + KEEP_ALIVE;
                if self.notices.len() < NOTICES {
                    self.notices.push_back(Message::Ping(Bytes::from_static(ALIVE)));
                }
                if self.poll_outgoing(context).is_err() {
                    return Poll::Ready(());
                }
            }
            let mut wake = if self.closing { self.heard + GOODBYE } else { self.next_ping };
            wake = self.window.deadline().map_or(wake, |d| if d > now { wake.min(d) } else { wake });
            let wake = tokio::time::Instant::from_std(wake + Duration::from_millis(1));
            if self.timer.deadline() != wake {
                self.timer.as_mut().reset(wake);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.poll_outgoing(context).is_err() {
                return Poll::Ready(());
            }
        }
    }

    fn poll_incoming(&mut self, context: &mut Context<'_>) -> Result<(), tungstenite::Error> {
        if self.broken {
            return self.throw_away(context);
        }
        // A client that floods must not keep the others from their turn.
        for _ in 0..64 {
            match Pin::new(&mut self.socket).poll_next(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return Err(tungstenite::Error::ConnectionClosed),
                Poll::Ready(Some(Err(error))) => return self.broken(error, context),
                Poll::Ready(Some(Ok(message))) => {
                    if !self.closing {
                        self.heard = Instant::now();
                        self.take(message);
                    }
                }
            }
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    /// A message over every limit, text that is no UTF-8 or a frame that is none can't be read past: say so and close.
    fn broken(
        &mut self,
        error: tungstenite::Error,
        context: &mut Context<'_>,
    ) -> Result<(), tungstenite::Error> {
        let (code, close) = match &error {
            tungstenite::Error::Capacity(_) => ("TOO_LARGE", CloseCode::Size),
            tungstenite::Error::Utf8(_) => ("MALFORMED_FRAME", CloseCode::Invalid),
            tungstenite::Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::ReceivedAfterClosing
                | ProtocolError::SendAfterClosing,
            ) => return Err(error),
            tungstenite::Error::Protocol(_) => ("MALFORMED_FRAME", CloseCode::Protocol),
            _ => return Err(error),
        };
        if self.closing {
            return Err(error);
        }
        self.complain(Complaint::new(code, error.to_string()));
        self.close(close, code);
        self.broken = true;
        self.throw_away(context)
    }

    fn throw_away(&mut self, context: &mut Context<'_>) -> Result<(), tungstenite::Error> {
        let mut bytes = [0; 8 << 10];
        for _ in 0..64 {
            let mut bytes = ReadBuf::new(&mut bytes);
            match Pin::new(self.socket.get_mut()).poll_read(context, &mut bytes) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => read?,
            }
            if bytes.filled().is_empty() {
                return Err(tungstenite::Error::ConnectionClosed);
            }
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    fn take(&mut self, message: Message) {
        let command = match message {
            Message::Text(text) if text.len() > MAX_INPUT_BYTES => Err(too_large(text.len())),
            Message::Binary(bytes) if bytes.len() > MAX_INPUT_BYTES => Err(too_large(bytes.len())),
            Message::Text(text) => frames::parse_text(&text),
            Message::Binary(bytes) if self.encoding == Encoding::Binary => frames::parse_binary(&bytes),
            Message::Binary(_) => Err(Complaint::new(
                "UNEXPECTED_BINARY",
                "this connection speaks JSON text frames; binary ones need the subprotocol clarateach.terminal.v1+binary",
            )),
            Message::Pong(payload) => {
                if let Ok(position) = <[u8; 8]>::try_from(&payload[..]) {
                    self.window.pong(u64::from_be_bytes(position), self.heard);
                }
                return;
            }
            Message::Ping(_) | Message::Frame(_) => return,
            Message::Close(_) => {
                self.closing = true;
                return;
            }
        };
        let done = command.and_then(|command| match command {
            Command::Input { data, n } => self.input(&data, n),
            Command::Resize { cols, rows } => self.terminal.resize(self.key, cols, rows),
        });
        if let Err(complaint) = done {
            self.complain(complaint);
        }
    }

    fn input(&mut self, data: &[u8], n: Option<u64>) -> Result<(), Complaint> {
        let seen = self.client.as_deref().and_then(|c| self.terminal.last_input_of(c));
        let again = n.is_some_and(|n| seen.is_some_and(|seen| n <= seen));
        if !again {
            self.terminal.input(self.key, data)?;
        }
        if let Some(n) = n {
            if let (Some(client), false) = (&self.client, again) {
                self.terminal.note_input_of(client, n);
            }
            if self.acks.len() == NOTICES {
                self.acks.pop_front();
            }
            self.acks.push_back(n);
        }
        Ok(())
    }

    fn complain(&mut self, complaint: Complaint) {
        self.complaints += 1;
        if self.notices.len() < NOTICES {
            let error = ServerFrame::Error { code: complaint.code.to_owned(), message: complaint.message };
            self.notices.push_back(frames::control(&error));
        }
        if self.complaints == PATIENCE {
            self.close(CloseCode::Policy, "too many bad frames");
        }
    }

    fn close(&mut self, code: CloseCode, reason: &'static str) {
        self.closing = true;
        self.heard = Instant::now();
        self.notices.push_back(Message::Close(Some(CloseFrame { code, reason: reason.into() })));
    }

    /// Hands over one batch at a time and waits until the socket has taken it: whatever can't be sent yet stays in
    /// the terminal's ring.
    fn poll_outgoing(&mut self, context: &mut Context<'_>) -> Result<(), tungstenite::Error> {
        loop {
            if self.unflushed {
                match Pin::new(&mut self.socket).poll_flush(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(done) => done?,
                }
                self.unflushed = false;
            }
            if !self.send_batch(context)? {
                return Ok(());
            }
            self.unflushed = true;
        }
    }

    /// Returns whether there was anything to send.
    fn send_batch(&mut self, context: &mut Context<'_>) -> Result<bool, tungstenite::Error> {
        let mut any = false;
        while let Some(n) = self.acks.pop_front() {
            self.send(frames::control(&ServerFrame::Ack { n }))?;
            any = true;
        }
        while let Some(notice) = self.notices.pop_front() {
            self.send(notice)?;
            any = true;
        }
        if self.closing {
            return Ok(any);
        }
        let now = Instant::now();
        let room = self.window.room(now);
        let allowance = Allowance {
            most: usize::try_from(room).unwrap_or(usize::MAX).min(FRAME),
            all_or_nothing: room < self.window.worthwhile(),
            whole_characters: self.encoding == Encoding::Text,
        };
        let (encoding, mut message, mut exit) = (self.encoding, None, None);
        let (window, terminal) = (&mut self.window, &self.terminal);
        let more = terminal.next(self.key, allowance, context.waker(), |next| match next {
            Next::Output(first, second, seq) => {
                window.sent(seq);
                message = Some(frames::output(encoding, first, second, seq, false));
            }
            Next::Redraw(screen, seq) => {
                window.jumped(seq);
                message = Some(frames::output(encoding, screen.as_bytes(), &[], seq, true));
            }
            Next::Size { cols, rows, writer } => {
                message = Some(frames::control(&ServerFrame::Size { cols, rows, writer }));
            }
            Next::Exit(code) => exit = Some(code),
            Next::Nothing => {}
        });
        if let Some(message) = message {
            self.send(message)?;
        }
        if let Some(code) = exit {
            self.send(frames::control(&ServerFrame::Exit { code }))?;
            self.close(CloseCode::Normal, "the shell has exited");
            return self.send_batch(context);
        }
        if more && let Some(position) = self.window.ping(now) {
            self.send(Message::Ping(Bytes::copy_from_slice(&position.to_be_bytes())))?;
        }
        Ok(any || more)
    }

    fn send(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        Pin::new(&mut self.socket).start_send(message)
    }
}

fn too_large(length: usize) -> Complaint {
    Complaint::new("TOO_LARGE", format!("a message has at most {MAX_INPUT_BYTES} bytes, not {length}"))
}
