//! The QEMU Machine Protocol, as far as it is needed: one JSON object per line, see QEMU's docs/interop/qmp-spec.
//!
//! QEMU serves one client at a time, and another waits in the socket's queue. So a connection is made for one operation
//! and closed after it: an agent that has just started never waits for one that is gone.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use crate::vmm::VmmError;

/// How long QEMU may take to answer a command; none of those used here waits for the guest.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts to connect to a QEMU that has just been started.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection that has left the negotiation behind.
pub(super) struct Qmp {
    instance: String,
    stream: BufReader<UnixStream>,
    line: String,
}

#[derive(Deserialize)]
struct Failure {
    desc: String,
}

impl Qmp {
    /// Connects to a QEMU that runs.
    pub(super) async fn connect(instance: &str, socket: &Path) -> Result<Self, VmmError> {
        let connecting = async {
            let stream = UnixStream::connect(socket).await.map_err(|source| VmmError::Io {
                operation: "connect to",
                path: socket.to_owned(),
                source,
            })?;
            let mut qmp =
                Self { instance: instance.to_owned(), stream: BufReader::new(stream), line: String::new() };
            // The greeting, which says the version.
            qmp.read("qmp_capabilities").await?;
            qmp.call("qmp_capabilities", json!({})).await?;
            Ok(qmp)
        };
        timed(instance, "qmp_capabilities", connecting).await
    }

    /// Connects to a QEMU that has just been started, as soon as it listens. The caller bounds the time.
    pub(super) async fn connect_when_up(instance: &str, socket: &Path) -> Result<Self, VmmError> {
        loop {
            match Self::connect(instance, socket).await {
                Err(VmmError::Io { source, .. })
                    if matches!(
                        source.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Executes a command and gives what it returns.
    pub(super) async fn call(&mut self, command: &str, arguments: Value) -> Result<Value, VmmError> {
        let instance = self.instance.clone();
        timed(&instance, command, async {
            let line = request(command, &arguments);
            self.stream.write_all(line.as_bytes()).await.map_err(|error| self.lost(command, &error))?;
            self.reply(command).await
        })
        .await
    }

    /// Gives QEMU a descriptor under a name that later commands use.
    pub(super) async fn send_fd(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), VmmError> {
        let line = request("getfd", &json!({ "fdname": name }));
        let stream = self.stream.get_ref();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [fd];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let sent = sendmsg(stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
            // A line this short is taken whole by an empty socket, or not at all.
            if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
        });
        sent.await.map_err(|error| self.lost("getfd", &error))?;
        let instance = self.instance.clone();
        timed(&instance, "getfd", self.reply("getfd")).await.map(|_| ())
    }

    /// The answer to the command that was sent, passing over events.
    async fn reply(&mut self, command: &str) -> Result<Value, VmmError> {
        loop {
            let mut message = self.read(command).await?;
            if let Some(failure) = message.get_mut("error").map(Value::take) {
                let words =
                    serde_json::from_value(failure).map_or_else(|e| e.to_string(), |f: Failure| f.desc);
                return Err(self.refused(command, words));
            }
            if let Some(returned) = message.get_mut("return").map(Value::take) {
                return Ok(returned);
            }
        }
    }

    async fn read(&mut self, command: &str) -> Result<Value, VmmError> {
        self.line.clear();
        match self.stream.read_line(&mut self.line).await {
            Ok(0) => Err(self.lost(command, &io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_str(&self.line)
                .map_err(|error| self.refused(command, format!("an answer that is not JSON: {error}"))),
            Err(error) => Err(self.lost(command, &error)),
        }
    }

    fn refused(&self, command: &str, message: String) -> VmmError {
        VmmError::Refused { instance: self.instance.clone(), call: command.to_owned(), message }
    }

    fn lost(&self, command: &str, error: &io::Error) -> VmmError {
        self.refused(command, format!("the connection broke: {error}"))
    }
}

fn request(command: &str, arguments: &Value) -> String {
    format!("{}\n", json!({ "execute": command, "arguments": arguments }))
}

async fn timed<T>(
    instance: &str,
    command: &str,
    work: impl Future<Output = Result<T, VmmError>>,
) -> Result<T, VmmError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(VmmError::Silent {
            instance: instance.to_owned(),
            call: command.to_owned(),
            seconds: PATIENCE.as_secs(),
        })
    })
}
