//! Bodies of answers: nothing, bytes, or a stream with back-pressure.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// Feeds a streamed body; the sender waits while the client doesn't read, and fails once it is gone.
pub(crate) type BodySender = mpsc::Sender<io::Result<Bytes>>;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// Sent at once.
    Full(Option<Bytes>),
    /// Sent as it comes; the length if it is known.
    Stream(mpsc::Receiver<io::Result<Bytes>>, Option<u64>),
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body::Full(None)
    }

    pub(crate) fn full(bytes: Bytes) -> Body {
        Body::Full(Some(bytes).filter(|b| !b.is_empty()))
    }

    /// A stream that holds two pieces at most.
    pub(crate) fn stream(length: Option<u64>) -> (BodySender, Body) {
        let (sender, receiver) = mpsc::channel(2);
        (sender, Body::Stream(receiver, length))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(receiver, _) => {
                receiver.poll_recv(context).map(|piece| piece.map(|p| p.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(_, Some(length)) => SizeHint::with_exact(*length),
            Body::Stream(_, None) => SizeHint::default(),
        }
    }
}
