//! The host's end of the control channel.
//!
//! A channel outlives conversations: an agent may have asked something and ended before the answer came, and over a
//! virtio-serial port its successor gets that answer. Requests carry no number, so answers are told apart by the state
//! they report: each request knows the one it leads to, and anything else that a guest could say is an answer to an
//! earlier question and passed over. Bytes that are no answer at all are passed over too.

use std::time::Duration;

use clarateach_runtime::BoxedSeatStream;
use clarateach_seatproto::guest::{GuestConfig, GuestReply, GuestRequest, GuestState, MAX_LINE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// How often a request is sent again because the guest could not read it: the rest of a line that an earlier host left
/// unfinished was in front of it.
const REPEATS: u32 = 2;
/// How a guest's answer begins to what is no request.
const MALFORMED: &str = "malformed";

/// For how long answers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// `hello` and `clock`, which take a guest no time.
    pub quick: Duration,
    /// `configure`, after which the workspace serves.
    pub configure: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { quick: Duration::from_secs(5), configure: Duration::from_secs(60) }
    }
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The guest did not answer in time; whether it has done what it was asked is not known.
    #[error("the guest did not answer {request} within {} ms", patience.as_millis())]
    Silent {
        /// What it was asked.
        request: &'static str,
        /// For how long it was waited for.
        patience: Duration,
    },
    /// The guest said no.
    #[error("the guest refused {request}: {message}")]
    Refused {
        /// What it was asked.
        request: &'static str,
        /// Its words.
        message: String,
    },
    /// The request is longer than a line may be.
    #[error("{request} has {length} bytes; a line has at most {MAX_LINE}")]
    TooLong {
        /// What was to be asked.
        request: &'static str,
        /// Its length.
        length: usize,
    },
    /// The channel broke.
    #[error("the control channel broke during {request}")]
    Broken {
        /// What was being asked.
        request: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A conversation with a guest's first process.
pub struct Control {
    stream: BoxedSeatStream,
    patience: Patience,
    buffer: Vec<u8>,
    /// In the middle of a line longer than any answer.
    skipping: bool,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Control {
    /// Talks over `stream`, which [`crate::vmm::Vmm::control`] opened.
    #[must_use]
    pub fn new(stream: BoxedSeatStream) -> Self {
        Self { stream, patience: Patience::default(), buffer: Vec::new(), skipping: false }
    }

    /// Waits for other times than the default.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Asks how far the guest is.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::Refused`] when it could not be configured, with the reason.
    pub async fn hello(&mut self) -> Result<GuestState, ControlError> {
        self.ask("hello", &GuestRequest::Hello, self.patience.quick, |_| true).await
    }

    /// Tells the guest who it is. Returns when its workspace listens.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::Refused`] with the guest's reason. After any error the guest is not to be used.
    pub async fn configure(&mut self, config: &GuestConfig) -> Result<(), ControlError> {
        let request = GuestRequest::Configure(Box::new(config.clone()));
        let done = |state| state == GuestState::Running;
        self.ask("configure", &request, self.patience.configure, done).await.map(|_| ())
    }

    /// Sets the guest's clock, in milliseconds since 1970, UTC.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn clock(&mut self, unix_ms: i64) -> Result<(), ControlError> {
        self.ask("clock", &GuestRequest::Clock { unix_ms }, self.patience.quick, |_| true).await.map(|_| ())
    }

    /// Makes the guest end every process, unmount and switch off. Returns when it has begun to; the VMM's end tells when it
    /// is done.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn shutdown(&mut self) -> Result<(), ControlError> {
        let done = |state| state == GuestState::Ending;
        self.ask("shutdown", &GuestRequest::Shutdown, self.patience.quick, done).await.map(|_| ())
    }

    async fn ask(
        &mut self,
        name: &'static str,
        request: &GuestRequest,
        patience: Duration,
        leads_to: impl Fn(GuestState) -> bool,
    ) -> Result<GuestState, ControlError> {
        let broken = |source| ControlError::Broken { request: name, source };
        let mut line = serde_json::to_vec(request).map_err(|error| broken(error.into()))?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(ControlError::TooLong { request: name, length: line.len() });
        }
        let deadline = Instant::now() + patience;
        let conversation = async {
            self.discard_old_answers().await?;
            self.send(&line).await?;
            let mut repeats = 0;
            loop {
                match self.next_reply().await? {
                    GuestReply::Ok { state } if leads_to(state) => return Ok(Ok(state)),
                    GuestReply::Ok { .. } => {}
                    GuestReply::Error { message } if message.starts_with(MALFORMED) && repeats < REPEATS => {
                        repeats += 1;
                        self.send(&line).await?;
                    }
                    GuestReply::Error { message } => return Ok(Err(message)),
                }
            }
        };
        match timeout_at(deadline, conversation).await {
            Err(_) => Err(ControlError::Silent { request: name, patience }),
            Ok(Err(source)) => Err(broken(source)),
            Ok(Ok(Err(message))) => Err(ControlError::Refused { request: name, message }),
            Ok(Ok(Ok(state))) => Ok(state),
        }
    }

    async fn send(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(line).await?;
        self.stream.flush().await
    }

    /// Drops what has arrived before anything was asked: it answers somebody else.
    async fn discard_old_answers(&mut self) -> std::io::Result<()> {
        let mut chunk = [0; 4096];
        while let Some(read) = futures_util::FutureExt::now_or_never(self.stream.read(&mut chunk)) {
            match read? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self.buffer.extend_from_slice(&chunk[..count]),
            }
            self.take_lines(|_| false);
        }
        self.take_lines(|_| false);
        Ok(())
    }

    /// The next line that is an answer.
    async fn next_reply(&mut self) -> std::io::Result<GuestReply> {
        let mut chunk = [0; 4096];
        loop {
            let mut found = None;
            self.take_lines(|line| {
                found = serde_json::from_slice(line).ok();
                found.is_some()
            });
            if let Some(reply) = found {
                return Ok(reply);
            }
            match self.stream.read(&mut chunk).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Takes whole lines out of the buffer until one is `wanted`. What is longer than a line may be is not kept.
    fn take_lines(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) {
        while let Some(end) = memchr::memchr(b'\n', &self.buffer) {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let whole = !std::mem::take(&mut self.skipping);
            if whole && wanted(&line[..end]) {
                return;
            }
        }
        if self.buffer.len() > MAX_LINE {
            self.skipping = true;
        }
        if self.skipping {
            self.buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
