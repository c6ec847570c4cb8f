//! Through a seat's workspace to a port inside the seat.
//!
//! `GET /tunnel/{port}` with `Connection: Upgrade` and `Upgrade: tcp` answers 101; from then on both directions are the
//! bytes of a TCP connection to 127.0.0.1:{port} in the seat. So a listener that is bound to loopback only is as
//! reachable as any other, whatever carries the stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::BoxedSeatStream;

/// The header with which a caller shows a seat's secret to its workspace.
pub const SECRET_HEADER: &str = "x-clarateach-secret";

/// The longest refusal that is read.
const REFUSAL_LIMIT: usize = 4096;

/// What came of asking for a tunnel.
pub enum Answer {
    /// It is open: the bytes of the connection.
    Open(BoxedSeatStream),
    /// It was refused, with this body, of which at most 4 KiB are read.
    Refused(StatusCode, Bytes),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(_) => f.write_str("Open"),
            Self::Refused(status, _) => f.debug_tuple("Refused").field(status).finish_non_exhaustive(),
        }
    }
}

/// Opens a stream to `port` inside the seat, over `stream`, which is connected to the seat's workspace.
///
/// # Errors
/// [`io::ErrorKind::ConnectionRefused`] with the workspace's words when it does not connect; whatever breaks the stream.
pub async fn through(
    stream: BoxedSeatStream,
    secret: &SecretString,
    port: u16,
) -> io::Result<BoxedSeatStream> {
    let request = Request::get(format!("/tunnel/{port}"))
        .header(header::HOST, "seat")
        .header(SECRET_HEADER, secret.expose_secret())
        .body(Empty::new())
        .map_err(io::Error::other)?;
    match ask(stream, request).await? {
        Answer::Open(stream) => Ok(stream),
        Answer::Refused(status, words) => {
            let message =
                format!("the workspace answered {status}: {}", String::from_utf8_lossy(&words).trim());
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, message))
        }
    }
}

/// Sends `request` over `stream` as one for a tunnel (`Connection: Upgrade`, `Upgrade: tcp`), and gives back the stream
/// that it becomes.
///
/// # Errors
/// Whatever breaks the stream.
pub async fn ask(stream: BoxedSeatStream, mut request: Request<Empty<Bytes>>) -> io::Result<Answer> {
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = Limited::new(response.into_body(), REFUSAL_LIMIT).collect().await;
        let words = body.map(|body| body.to_bytes()).unwrap_or_default();
        return Ok(Answer::Refused(status, words));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
    // hyper's wrapper has done its work: give back the bare stream, and what it had read too far.
    match upgraded.downcast::<TokioIo<BoxedSeatStream>>() {
        Ok(parts) => {
            let inner = parts.io.into_inner();
            if parts.read_buf.is_empty() {
                Ok(Answer::Open(inner))
            } else {
                Ok(Answer::Open(Box::new(Rewound { early: parts.read_buf, inner })))
            }
        }
        Err(upgraded) => Ok(Answer::Open(Box::new(TokioIo::new(upgraded)))),
    }
}

/// A stream whose first bytes were read ahead.
struct Rewound {
    early: Bytes,
    inner: BoxedSeatStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let count = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..count]);
        self.early.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn secret() -> SecretString {
        "s3cret".to_owned().into()
    }

    async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn bytes_that_come_with_the_answer_are_not_lost() {
        let (near, mut far) = tokio::io::duplex(1024);
        let workspace = tokio::spawn(async move {
            let head = read_head(&mut far).await;
            assert!(head.starts_with("GET /tunnel/3000 HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("x-clarateach-secret: s3cret\r\n"), "{head}");
            far.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\nearly",
            )
            .await
            .unwrap();
            let mut heard = [0; 4];
            far.read_exact(&mut heard).await.unwrap();
            far.write_all(b" late").await.unwrap();
            heard
        });
        let mut tunnel = through(Box::new(near), &secret(), 3000).await.unwrap();
        tunnel.write_all(b"ping").await.unwrap();
        let mut all = String::new();
        tunnel.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "early late");
        assert_eq!(&workspace.await.unwrap(), b"ping");
    }

    #[tokio::test]
    async fn a_refusal_carries_the_workspace_s_words() {
        let (near, mut far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            read_head(&mut far).await;
            let answer = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 15\r\n\r\nnobody listens\n";
            far.write_all(answer).await.unwrap();
        });
        let Err(error) = through(Box::new(near), &secret(), 1).await else { panic!("it was let through") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }
}
