//! Carries an upgraded stream: bytes both ways between a client and a seat, with little memory and no waiting.
//!
//! Each direction has one small buffer and reads again only when it is empty, so a reader that stops stops its writer,
//! all the way. On a WebSocket the frames towards the client are followed, so that the gateway can say why it closes:
//! a close frame of its own, between two frames of the seat's.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::ending::Ending;
use crate::frames::FrameTracker;

/// Buffer towards the client, in bytes; with the sockets' own it is all that is in flight when a reader stops.
const TO_CLIENT: usize = 32 * 1024;
/// Buffer towards the seat, in bytes: keys and pasted text.
const TO_SEAT: usize = 8 * 1024;

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// WebSocket frames.
    Frames,
    /// Anything.
    Bytes,
}

/// One direction.
struct Pipe {
    buffer: Box<[u8]>,
    filled: Range<usize>,
    tracker: Option<FrameTracker>,
    unflushed: bool,
    source_ended: bool,
    carried: metrics::Counter,
}

impl Pipe {
    /// `to` names the direction for the count of bytes: `client` or `seat`.
    fn new(size: usize, tracker: Option<FrameTracker>, to: &'static str) -> Self {
        Self {
            // Looked up once a stream: counting is then one addition a write.
            carried: metrics::counter!("clarateach_gateway_bytes_total", "to" => to),
            buffer: vec![0; size].into_boxed_slice(),
            filled: 0..0,
            tracker,
            unflushed: false,
            source_ended: false,
        }
    }

    /// Moves bytes until the source ends (ready: everything is written and flushed) or neither side can go on.
    /// `heard` is called when something was read. With `to_boundary` it stops at the end of the frame that has begun.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        mut source: Pin<&mut (impl AsyncRead + ?Sized)>,
        mut sink: Pin<&mut (impl AsyncWrite + ?Sized)>,
        to_boundary: bool,
        heard: &impl Fn(),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.filled.is_empty() {
                let mut end = self.filled.end;
                if to_boundary && let Some(tracker) = &self.tracker {
                    let inside = usize::try_from(tracker.inside()).unwrap_or(usize::MAX);
                    end = end.min(self.filled.start.saturating_add(inside));
                    if inside == 0 {
                        return sink.poll_flush(cx);
                    }
                }
                let written = ready!(sink.as_mut().poll_write(cx, &self.buffer[self.filled.start..end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                if let Some(tracker) = &mut self.tracker {
                    tracker.advance(&self.buffer[self.filled.start..self.filled.start + written]);
                }
                self.filled.start += written;
                self.carried.increment(written as u64);
                self.unflushed = true;
            }
            if self.source_ended || to_boundary && self.tracker.as_ref().is_none_or(|t| t.inside() == 0) {
                return sink.poll_flush(cx);
            }
            let mut read = ReadBuf::new(&mut self.buffer);
            match source.as_mut().poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.source_ended = true,
                Poll::Ready(Ok(())) => {
                    self.filled = 0..read.filled().len();
                    heard();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(sink.as_mut().poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// How a direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Ended,
    Shut,
}

/// Carries `client` and `seat` until both have ended, one breaks, or `over` says why it must end.
///
/// `goodbye` bounds what is done for an ending client: finishing the frame that has begun, the close frame, and waiting
/// for it to hang up. `heard` is called whenever the client has sent something.
pub(crate) async fn relay<C, S>(
    mut client: C,
    mut seat: S,
    carried: Carried,
    over: impl Future<Output = Ending>,
    goodbye: Duration,
    heard: impl Fn(),
) where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let frames = carried == Carried::Frames;
    let mut down = Pipe::new(TO_CLIENT, frames.then(FrameTracker::default), "client");
    let mut up = Pipe::new(TO_SEAT, None, "seat");
    let stopped = {
        let both = carry(&mut client, &mut seat, &mut down, &mut up, frames, goodbye, &heard);
        tokio::select! {
            ended = both => ended,
            ending = over => Stopped::ByUs(ending),
        }
    };
    let ending = match stopped {
        Stopped::ByUs(ending) => ending,
        Stopped::SeatLost => Ending::seat_lost(),
        Stopped::Done => return,
    };
    tracing::debug!(reason = %ending, "closing an upgraded stream");
    if frames {
        let said = timeout(goodbye, say_goodbye(&mut client, &mut seat, &mut down, &ending)).await;
        drop(seat);
        if matches!(said, Ok(Ok(()))) {
            // Closing with unread input would reset the connection and take the close frame with it.
            let _ = timeout(goodbye, discard(&mut client)).await;
        }
    }
}

enum Stopped {
    /// Nothing more to say: both ends are done, or the client is gone.
    Done,
    /// The seat's end broke off without a close frame.
    SeatLost,
    /// The gateway closes.
    ByUs(Ending),
}

async fn carry<C, S>(
    client: &mut C,
    seat: &mut S,
    down: &mut Pipe,
    up: &mut Pipe,
    frames: bool,
    goodbye: Duration,
    heard: &impl Fn(),
) -> Stopped
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut down_flow, mut up_flow) = (Flow::Open, Flow::Open);
    // A WebSocket whose client hung up is over: the seat gets a moment to notice.
    let mut hang_up = std::pin::pin!(None::<tokio::time::Sleep>);
    poll_fn(|cx| {
        if up_flow == Flow::Open {
            match up.poll_move(cx, Pin::new(&mut *client), Pin::new(&mut *seat), false, heard) {
                // Also when the client was reset: a seat that isn't told would hold the stream until it has something to say.
                Poll::Ready(ended) => {
                    up_flow = Flow::Ended;
                    if ended.is_err() || frames {
                        hang_up.set(Some(tokio::time::sleep(goodbye)));
                    }
                }
                Poll::Pending => {}
            }
        }
        if up_flow == Flow::Ended && Pin::new(&mut *seat).poll_shutdown(cx).is_ready() {
            up_flow = Flow::Shut;
        }
        if down_flow == Flow::Open {
            match down.poll_move(cx, Pin::new(&mut *seat), Pin::new(&mut *client), false, &|| {}) {
                Poll::Ready(Ok(())) => down_flow = Flow::Ended,
                Poll::Ready(Err(_)) => return Poll::Ready(lost(down)),
                Poll::Pending => {}
            }
            if down_flow == Flow::Ended && down.tracker.as_ref().is_some_and(|t| !t.has_closed()) {
                return Poll::Ready(lost(down));
            }
        }
        if down_flow == Flow::Ended && Pin::new(&mut *client).poll_shutdown(cx).is_ready() {
            down_flow = Flow::Shut;
            if frames {
                hang_up.set(Some(tokio::time::sleep(goodbye)));
            }
        }
        if down_flow == Flow::Shut && up_flow == Flow::Shut {
            return Poll::Ready(Stopped::Done);
        }
        if let Some(sleep) = hang_up.as_mut().as_pin_mut() {
            ready!(sleep.poll(cx));
            return Poll::Ready(Stopped::Done);
        }
        Poll::Pending
    })
    .await
}

/// A broken stream towards the client: told so, if a frame can still be put in.
fn lost(down: &Pipe) -> Stopped {
    match &down.tracker {
        Some(tracker) if tracker.inside() == 0 && !tracker.has_closed() => Stopped::SeatLost,
        _ => Stopped::Done,
    }
}

/// Finishes the frame that has begun, says why, and ends our direction.
async fn say_goodbye<C, S>(client: &mut C, seat: &mut S, down: &mut Pipe, ending: &Ending) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| down.poll_move(cx, Pin::new(&mut *seat), Pin::new(&mut *client), true, &|| {})).await?;
    let between = down.tracker.as_ref().is_some_and(|tracker| tracker.inside() == 0 && !tracker.has_closed());
    if between {
        client.write_all(&ending.close_frame()).await?;
    }
    client.flush().await?;
    client.shutdown().await
}

async fn discard(client: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = [0; 1024];
    while matches!(client.read(&mut ignored).await, Ok(count) if count > 0) {}
}
