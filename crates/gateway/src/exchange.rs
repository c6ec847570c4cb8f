//! One request and its answer, or one upgraded stream, carried to a seat for as long as the lease lasts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use clarateach_runtime::SeatPort;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use crate::ending::Ending;
use crate::lease::Stream;
use crate::relay::{Carried, relay};
use crate::upstream::{Lent, Upstreams};
use crate::{Limits, Refusal, SeatRoute};

/// A client's wish to leave HTTP.
#[derive(Debug)]
pub(crate) struct Upgrade {
    client: OnUpgrade,
    protocol: HeaderValue,
    carried: Carried,
}

impl Upgrade {
    /// Takes the wish out of a request: for `websocket`, and for `tcp` where the caller allows tunnels. Any other
    /// protocol is ignored, as RFC 9110 §7.8 allows.
    pub(crate) fn take(request: &mut Request, tunnels: bool) -> Result<Option<Self>, Refusal> {
        if request.method() != Method::GET || !names_upgrade(request.headers()) {
            return Ok(None);
        }
        let wanted = request.headers().get(header::UPGRADE).map(HeaderValue::as_bytes).unwrap_or_default();
        let (protocol, carried) = if wanted.eq_ignore_ascii_case(b"websocket") {
            if !request.headers().contains_key(header::SEC_WEBSOCKET_KEY) {
                return Err(Refusal::bad_request("a WebSocket handshake needs Sec-WebSocket-Key"));
            }
            ("websocket", Carried::Frames)
        } else if tunnels && wanted.eq_ignore_ascii_case(b"tcp") {
            ("tcp", Carried::Bytes)
        } else {
            return Ok(None);
        };
        let client = hyper::upgrade::on(request);
        Ok(Some(Self { client, protocol: HeaderValue::from_static(protocol), carried }))
    }

    /// Asks for the same of the seat.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
        headers.remove(header::CONTENT_LENGTH);
    }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
}

/// What carries exchanges.
#[derive(Debug)]
pub(crate) struct Carrier {
    pub(crate) upstreams: std::sync::Arc<Upstreams>,
    pub(crate) tracker: TaskTracker,
    pub(crate) limits: Limits,
}

impl Carrier {
    /// Sends `request`, whose headers are ready, to the seat. The answer's headers are the seat's: for the caller to
    /// clean; those of a 101 are clean already.
    pub(crate) async fn exchange(
        &self,
        route: &SeatRoute,
        port: SeatPort,
        request: Request,
        upgrade: Option<Upgrade>,
        stream: Stream,
    ) -> Result<Response, Refusal> {
        let answer = self.upstreams.send(route, port, request);
        let (answer, lent) = tokio::select! {
            biased;
            answer = answer => answer?,
            ending = stream.over() => return Err(Refusal::ended(ending.reason.to_string())),
        };
        match (answer.status(), upgrade) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(upgrade)) => self.switch(answer, lent, upgrade, stream),
            (StatusCode::SWITCHING_PROTOCOLS, None) => {
                Err(Refusal::seat_unreachable("the seat switched protocols without being asked"))
            }
            _ => {
                let (parts, body) = answer.into_parts();
                let body = LeasedBody { body, lent: Some(lent), over: None, stream };
                Ok(Response::from_parts(parts, Body::new(body)))
            }
        }
    }

    fn switch(
        &self,
        mut answer: http::Response<Incoming>,
        lent: Lent,
        upgrade: Upgrade,
        stream: Stream,
    ) -> Result<Response, Refusal> {
        let agreed = answer
            .headers()
            .get(header::UPGRADE)
            .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(upgrade.protocol.as_bytes()));
        if !agreed {
            return Err(Refusal::seat_unreachable("the seat switched to another protocol than asked"));
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.protocol.clone());
        for name in [
            header::SEC_WEBSOCKET_ACCEPT,
            header::SEC_WEBSOCKET_EXTENSIONS,
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderName::from_static("sec-websocket-version"),
        ] {
            if let Some(value) = answer.headers_mut().remove(&name) {
                headers.insert(name, value);
            }
        }
        let goodbye = self.limits.goodbye;
        self.tracker.spawn(async move {
            // The client's half comes once the 101 has been written; should that never happen, the lease ends it.
            let both = async { tokio::try_join!(upgrade.client, hyper::upgrade::on(answer)) };
            let (client, seat) = tokio::select! {
                both = both => match both {
                    Ok(both) => both,
                    Err(error) => return tracing::debug!(%error, "an upgrade was not completed"),
                },
                _ = stream.over() => return,
            };
            drop(lent);
            let lease = stream.lease();
            let (client, seat) = (TokioIo::new(client), TokioIo::new(seat));
            relay(client, seat, upgrade.carried, stream.over(), goodbye, || lease.touch()).await;
        });
        Ok(response)
    }
}

/// An answer's body, cut off when the lease ends; its connection is kept once it has been read to the end.
struct LeasedBody {
    body: Incoming,
    lent: Option<Lent>,
    /// Made when the seat lets us wait for the first time: most answers are there at once.
    over: Option<Pin<Box<dyn Future<Output = Ending> + Send>>>,
    stream: Stream,
}

impl LeasedBody {
    fn finish(&mut self) {
        if let Some(lent) = self.lent.take() {
            lent.give_back();
        }
    }
}

impl hyper::body::Body for LeasedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                // A stream that always has something to say must end too.
                if let Some(over) = &mut this.over
                    && let Poll::Ready(ending) = over.as_mut().poll(cx)
                {
                    return Poll::Ready(Some(Err(cut_off(ending))));
                }
                if this.body.is_end_stream() {
                    this.finish();
                } else if this.over.is_none() {
                    this.over = Some(Box::pin(this.stream.over()));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.lent = None;
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let stream = &this.stream;
                let over = this.over.get_or_insert_with(|| Box::pin(stream.over()));
                match over.as_mut().poll(cx) {
                    Poll::Ready(ending) => Poll::Ready(Some(Err(cut_off(ending)))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LeasedBody {
    fn drop(&mut self) {
        // A body without content, or of known length, is not polled to its end.
        if self.body.is_end_stream() {
            self.finish();
        }
    }
}

fn cut_off(ending: Ending) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, ending)
}
