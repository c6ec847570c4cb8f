//! Asks a seat's workspace again and again whether it is well.
//!
//! One connection is kept per seat, so that a probe costs one small request and no handshake. A machine under load
//! must not make seats flap: a miss counts only when the prober itself was on time, and it takes several in a row.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep, timeout};

use crate::tunnel::SECRET_HEADER;
use crate::{BoxedSeatStream, Reason};

/// The longest health answer that is read.
const ANSWER_LIMIT: usize = 4096;

/// How often to ask and how much to forgive.
#[derive(Debug, Clone, Copy)]
pub struct ProbePolicy {
    /// Between two probes of a seat that is well.
    pub interval: Duration,
    /// How long one answer may take.
    pub timeout: Duration,
    /// How many misses in a row make a seat unresponsive.
    pub misses: u32,
    /// How long a workspace may take to answer for the first time.
    pub patience: Duration,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
            misses: 4,
            patience: Duration::from_secs(60),
        }
    }
}

/// What the probes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The workspace answers.
    Well,
    /// It has not answered for a while.
    Silent(Reason),
}

/// Between the first probes: a workspace is up a few milliseconds after its process starts.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A timer this late means that this process is starved, and its judgement of others worth nothing.
const STARVED: Duration = Duration::from_millis(500);

/// Probes until it is dropped, and reports each change of mind; the first report comes with the first answer.
pub async fn watch<D, F>(
    dial: D,
    secret: SecretString,
    policy: ProbePolicy,
    mut report: impl FnMut(Health) + Send,
) where
    D: Fn() -> F + Send,
    F: Future<Output = io::Result<BoxedSeatStream>> + Send,
{
    let mut connection = None;
    let mut known: Option<Health> = None;
    let began = Instant::now();
    let mut misses = 0;
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = Instant::now();
        let outcome = match timeout(policy.timeout, ask(&mut connection, &dial, &secret)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", policy.timeout.as_secs())),
        };
        let punctual = asked.elapsed() < policy.timeout + STARVED;
        match outcome {
            Ok(()) => {
                misses = 0;
                pause = policy.interval;
                if known != Some(Health::Well) {
                    known = Some(Health::Well);
                    report(Health::Well);
                }
            }
            Err(why) => {
                connection = None;
                let patient = known.is_none();
                if patient {
                    pause = (pause * 3 / 2).min(LONGEST_FIRST_PAUSE);
                } else {
                    pause = policy.interval;
                    misses += u32::from(punctual);
                }
                let silent = match known {
                    None => began.elapsed() >= policy.patience,
                    Some(Health::Well) => misses >= policy.misses,
                    Some(Health::Silent(_)) => false,
                };
                if silent {
                    let health = Health::Silent(silence(patient, &why, policy.patience));
                    known = Some(health.clone());
                    report(health);
                }
            }
        }
        let slept = Instant::now();
        sleep(pause).await;
        if slept.elapsed() > pause + STARVED {
            misses = 0;
        }
    }
}

fn silence(never_answered: bool, why: &str, patience: Duration) -> Reason {
    let message = if never_answered {
        format!("Its workspace has not answered in the {} s since it was started: {why}", patience.as_secs())
    } else {
        format!("Its workspace has stopped answering: {why}")
    };
    Reason::new("UNRESPONSIVE", message)
}

type Connection = http1::SendRequest<Empty<Bytes>>;

async fn ask<D, F>(connection: &mut Option<Connection>, dial: &D, secret: &SecretString) -> Result<(), String>
where
    D: Fn() -> F + Send,
    F: Future<Output = io::Result<BoxedSeatStream>> + Send,
{
    if let Some(mut kept) = connection.take()
        && !kept.is_closed()
        && let Ok(()) = ask_on(&mut kept, secret).await
    {
        *connection = Some(kept);
        return Ok(());
    }
    // The kept connection may have been closed for reasons of its own: only a fresh one counts.
    let stream = dial().await.map_err(|error| error.to_string())?;
    let (mut fresh, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(driver);
    ask_on(&mut fresh, secret).await?;
    *connection = Some(fresh);
    Ok(())
}

async fn ask_on(connection: &mut Connection, secret: &SecretString) -> Result<(), String> {
    let request = Request::get("/health")
        .header(header::HOST, "seat")
        .header(SECRET_HEADER, secret.expose_secret())
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    connection.ready().await.map_err(|error| error.to_string())?;
    let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    // Read to its end, or the connection can't be used again.
    Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| error.to_string())?;
    if status == StatusCode::OK { Ok(()) } else { Err(format!("it answered {status}")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;

    async fn answer(mut stream: DuplexStream, hung: Arc<AtomicBool>) {
        let mut seen = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            seen.push(byte);
            if seen.ends_with(b"\r\n\r\n") {
                seen.clear();
                if hung.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_workspace_is_noticed_and_so_is_its_return() {
        let hung = Arc::new(AtomicBool::new(false));
        let dials = Arc::new(AtomicUsize::new(0));
        let (tell, mut told) = mpsc::unbounded_channel();
        let dial = {
            let (hung, dials) = (hung.clone(), dials.clone());
            move || {
                let (near, far) = tokio::io::duplex(1024);
                tokio::spawn(answer(far, hung.clone()));
                dials.fetch_add(1, Ordering::SeqCst);
                async move { Ok(Box::new(near) as BoxedSeatStream) }
            }
        };
        let policy = ProbePolicy::default();
        let secret = SecretString::from("s".to_owned());
        tokio::spawn(watch(dial, secret, policy, move |health| tell.send(health).unwrap()));
        assert_eq!(told.recv().await, Some(Health::Well));

        sleep(Duration::from_secs(30)).await;
        assert_eq!(dials.load(Ordering::SeqCst), 1, "one connection serves all probes");
        assert!(told.try_recv().is_err(), "nothing changed");

        hung.store(true, Ordering::SeqCst);
        let Some(Health::Silent(reason)) = told.recv().await else { panic!("it was not noticed") };
        assert_eq!(reason.code, "UNRESPONSIVE");
        hung.store(false, Ordering::SeqCst);
        assert_eq!(told.recv().await, Some(Health::Well));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_comes_up_is_said_to_have_not() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let dial = || async { Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")) };
        let secret = SecretString::from("s".to_owned());
        tokio::spawn(watch(dial, secret, ProbePolicy::default(), move |health| tell.send(health).unwrap()));
        let began = Instant::now();
        let Some(Health::Silent(reason)) = told.recv().await else { panic!("it said that all is well") };
        assert!(began.elapsed() >= Duration::from_secs(60));
        assert!(reason.message.contains("connection refused"), "{}", reason.message);
    }
}
