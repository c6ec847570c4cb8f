//! A learner's terminal over WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// One open terminal.
#[derive(Debug)]
pub struct Terminal {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Everything that was printed since it was opened.
    pub printed: String,
    /// Position after the last output.
    pub seq: u64,
    /// Names the run of the workspace.
    pub epoch: String,
}

impl Terminal {
    /// Opens `{endpoint}/terminal{query}` with a seat token.
    ///
    /// # Errors
    /// What the handshake was refused with.
    pub async fn open(endpoint: &str, query: &str, token: &str) -> Result<Self, String> {
        let url = format!("{}/terminal{query}", endpoint.replacen("http", "ws", 1));
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        let protocols = format!("clarateach.terminal.v1, bearer.{token}");
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().expect("a header"));
        let (socket, _) =
            tokio_tungstenite::connect_async(request).await.map_err(|error| error.to_string())?;
        let mut terminal = Self { socket, printed: String::new(), seq: 0, epoch: String::new() };
        let hello = terminal.next().await.ok_or("closed before hello")?;
        if hello["type"] != "hello" {
            return Err(format!("no hello but {hello}"));
        }
        terminal.seq = hello["seq"].as_u64().unwrap_or(0);
        terminal.epoch = hello["epoch"].as_str().unwrap_or("").to_owned();
        Ok(terminal)
    }

    /// The next frame; `None` when the socket is closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).ok()?;
                    if frame["type"] == "output" {
                        self.printed.push_str(frame["data"].as_str().unwrap_or(""));
                        self.seq = frame["seq"].as_u64().unwrap_or(self.seq);
                    }
                    return Some(frame);
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Types text.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn type_in(&mut self, text: &str) -> Result<(), String> {
        let frame = json!({ "type": "input", "data": text }).to_string();
        self.socket.send(Message::text(frame)).await.map_err(|error| error.to_string())
    }

    /// Waits until `text` was printed.
    ///
    /// # Errors
    /// When the socket is closed or a minute has passed.
    pub async fn until(&mut self, text: &str) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !self.printed.contains(text) {
            match tokio::time::timeout_at(deadline, self.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(format!("closed before {text:?}; printed: {:?}", self.printed)),
                Err(_) => return Err(format!("no {text:?} in a minute; printed: {:?}", self.printed)),
            }
        }
        Ok(())
    }

    /// Waits until the server closes; gives code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        while let Some(message) = self.socket.next().await {
            if let Ok(Message::Close(Some(frame))) = message {
                return (frame.code.into(), frame.reason.to_string());
            }
        }
        (1006, String::new())
    }
}
