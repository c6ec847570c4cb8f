//! The body of a request, which is read to its end even when nobody wants it.
//!
//! A refusal often comes before the body does. Were the connection closed then, whoever sends the body would find a broken
//! pipe where the answer is; so the body is read first, unless it is so long or slow that nobody can be expected to wait for that.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Most bytes that are read for nothing: a longer body costs its sender the connection.
const MOST: usize = 128 << 20;
/// How long its sender is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// A body that gives what is left of it to its [`Rest`] when it is dropped.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    rest: Rest,
}

/// What nobody has read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rest(Rc<RefCell<Option<Incoming>>>);

impl RequestBody {
    pub(crate) fn new(incoming: Incoming) -> (Self, Rest) {
        let rest = Rest::default();
        (Self { incoming: Some(incoming), rest: rest.clone() }, rest)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        *self.rest.0.borrow_mut() = self.incoming.take().filter(|incoming| !incoming.is_end_stream());
    }
}

impl Rest {
    /// Reads the rest and throws it away; gives up on one that is long or slow.
    pub(crate) async fn discard(self) {
        let Some(mut incoming) = self.0.borrow_mut().take() else { return };
        if incoming.size_hint().lower() > MOST as u64 {
            return;
        }
        let mut read = 0;
        let to_the_end = async {
            while let Some(Ok(frame)) = incoming.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > MOST {
                    return;
                }
            }
        };
        // Late or never is the same here: the answer has to go out.
        let _ = tokio::time::timeout(PATIENCE, to_the_end).await;
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        Pin::new(incoming).poll_frame(context).map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
