//! Whatever answers at a port: bytes written by hand, or nothing at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is sent in answer to each request's head: pieces, each after a pause.
pub(crate) type Script = Vec<(Duration, Vec<u8>)>;

/// A listener whose connections each get one answer and are closed after it.
pub(crate) struct Raw {
    pub(crate) address: String,
    /// Requests that came.
    pub(crate) heard: Arc<AtomicUsize>,
}

impl Raw {
    pub(crate) async fn answering(script: impl Fn(&str) -> Script + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, script) = (Arc::new(AtomicUsize::new(0)), Arc::new(script));
        let count = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, script) = (count.clone(), script.clone());
                tokio::spawn(async move { answer(stream, &count, &*script).await });
            }
        });
        Self { address, heard }
    }

    /// The same answer to everybody.
    pub(crate) async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::answering(move |_| vec![(Duration::ZERO, answer.clone())]).await
    }

    /// A JSON body to everybody.
    pub(crate) async fn json(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::saying(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
        ))
        .await
    }

    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }
}

async fn answer(mut stream: TcpStream, count: &AtomicUsize, script: &(dyn Fn(&str) -> Script + Send + Sync)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    count.fetch_add(1, Ordering::Relaxed);
    for (pause, bytes) in script(&String::from_utf8_lossy(&head)) {
        tokio::time::sleep(pause).await;
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// Something between client and agent that can stop to forward, in both directions, and say nothing of it.
pub(crate) struct Wire {
    pub(crate) address: String,
    flows: watch::Sender<bool>,
}

impl Wire {
    pub(crate) async fn to(agent: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (flows, seen) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (agent, seen) = (agent.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(agent).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    tokio::join!(
                        forward(near_read, far_write, seen.clone()),
                        forward(far_read, near_write, seen)
                    );
                });
            }
        });
        Self { address, flows }
    }

    pub(crate) fn cut(&self) {
        self.flows.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.flows.send_replace(true);
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut flows: watch::Receiver<bool>,
) {
    let mut buffer = [0; 4096];
    loop {
        if flows.wait_for(|flows| *flows).await.is_err() {
            return;
        }
        let Ok(count) = from.read(&mut buffer).await else { return };
        // What was read before the cut and not yet passed on waits too.
        if flows.wait_for(|flows| *flows).await.is_err() {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
