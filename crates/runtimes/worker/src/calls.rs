//! Calls of the agent's API: bounded in time and size, never redirected.

use std::time::{Duration, Instant};

use clarateach_api::agent::INSTALLATION_HEADER;
use clarateach_runtime::{Capacity, RuntimeError};
use http::{HeaderValue, Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::{ClientError, WorkerAddress, bearer};
use crate::connect;
use crate::refusal::{self, Subject, incompatible};

/// How long a call may take.
pub(crate) const CALL_WITHIN: Duration = Duration::from_secs(10);
/// Idle connections are kept for less than it takes to doubt them.
const IDLE_AT_MOST: Duration = Duration::from_secs(5);
/// A thousand VMs with their reasons are well below.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
/// What is read of a refusal.
const REFUSAL_LIMIT: usize = 64 * 1024;
/// `Date` is cut off to whole seconds, so on average the time is half a second later.
const HALF_A_SECOND: SignedDuration = SignedDuration::from_millis(500);

/// What was answered to a call that succeeded.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    /// The worker's clock minus ours.
    pub(crate) skew: Option<SignedDuration>,
    pub(crate) round_trip: Duration,
}

/// A worker's API.
#[derive(Debug)]
pub(crate) struct Calls {
    http: Client,
    /// `HOST:PORT`, as it is named in messages.
    pub(crate) address: String,
    base: String,
    pub(crate) bearer: HeaderValue,
    /// Which control plane calls.
    pub(crate) installation: Option<HeaderValue>,
}

impl Calls {
    pub(crate) fn new(worker: &WorkerAddress, tls: ClientConfig) -> Result<Self, ClientError> {
        let scheme = if worker.tls.is_some() { "https" } else { "http" };
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(connect::CONNECT_WITHIN)
            .pool_idle_timeout(IDLE_AT_MOST)
            .tcp_nodelay(true)
            .tcp_keepalive(connect::KEEPALIVE_AFTER)
            .tcp_keepalive_interval(connect::KEEPALIVE_EVERY)
            .tcp_keepalive_retries(connect::KEEPALIVE_TRIES)
            .tcp_user_timeout(connect::UNACKNOWLEDGED_AT_MOST)
            .build()
            .map_err(|error| ClientError::Setup {
                address: worker.address.clone(),
                problem: with_causes(&error),
            })?;
        Ok(Self {
            http,
            address: worker.address.clone(),
            base: format!("{scheme}://{}", worker.address),
            bearer: bearer(worker)?,
            installation: None,
        })
    }

    /// Sends a request and gives back the head of the answer, whatever its status.
    pub(crate) async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        accept: &'static str,
        within: Option<Duration>,
    ) -> Result<Response, RuntimeError> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request =
            request.header(header::AUTHORIZATION, self.bearer.clone()).header(header::ACCEPT, accept);
        let request = match &self.installation {
            Some(installation) => request.header(INSTALLATION_HEADER, installation.clone()),
            None => request,
        };
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let request = match within {
            Some(within) => request.timeout(within),
            None => request,
        };
        request.send().await.map_err(|error| self.away(error))
    }

    /// A call whose answer is JSON, or nothing.
    pub(crate) async fn call<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        within: Duration,
        subject: &Subject,
        room: Option<Capacity>,
    ) -> Result<Answer, RuntimeError> {
        let (began, asked) = (Instant::now(), Timestamp::now());
        let response = self.send(method, path, body, "application/json", Some(within)).await?;
        let round_trip = began.elapsed();
        let skew = response.headers().get(header::DATE).and_then(|date| skew(date, asked, round_trip));
        let response = self.accepted(response, subject, room).await?;
        let body = self.read(response, ANSWER_LIMIT).await?;
        Ok(Answer { body, skew, round_trip })
    }

    /// A removal that the worker may refuse with `code` because of what is there. Whether it removed it.
    pub(crate) async fn delete_unless(
        &self,
        path: &str,
        code: &str,
        subject: &Subject,
    ) -> Result<bool, RuntimeError> {
        let sent = self.send(Method::DELETE, path, None::<&()>, "application/json", Some(CALL_WITHIN));
        let response = sent.await?;
        let status = response.status();
        if status != StatusCode::CONFLICT {
            return self.accepted(response, subject, None).await.map(|_| true);
        }
        let body = self.read(response, REFUSAL_LIMIT).await?;
        if refusal::is_of_code(&body, code) {
            return Ok(false);
        }
        Err(refusal::refused(&self.address, status, &body, subject, None))
    }

    /// The answer if it is one of success, else the error it stands for.
    pub(crate) async fn accepted(
        &self,
        response: Response,
        subject: &Subject,
        room: Option<Capacity>,
    ) -> Result<Response, RuntimeError> {
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
            return Ok(response);
        }
        // What can't be read of a refusal is not worth another one.
        let body = self.read(response, REFUSAL_LIMIT).await.unwrap_or_default();
        Err(refusal::refused(&self.address, status, &body, subject, room))
    }

    async fn read(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, RuntimeError> {
        let mut all = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(error))? {
            if all.len() + chunk.len() > limit {
                return Err(incompatible(&self.address, &format!("its answer has more than {limit} bytes")));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// JSON → value; what is missing is named, what is too much is left aside.
    pub(crate) fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, RuntimeError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { String::new() } else { format!("{path}: ") };
            incompatible(&self.address, &format!("{field}{}", error.into_inner()))
        })
    }

    /// Nothing was answered, or not to its end.
    pub(crate) fn away(&self, error: reqwest::Error) -> RuntimeError {
        let why = if error.is_timeout() && error.is_connect() {
            format!("no connection within {} s", connect::CONNECT_WITHIN.as_secs())
        } else if error.is_timeout() {
            "it does not answer in time".to_owned()
        } else {
            with_causes(&error.without_url())
        };
        RuntimeError::Unavailable { message: format!("worker {}: {why}", self.address) }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}

/// How much the clock that wrote `date` is ahead of ours; it was written about half a round trip after `asked`.
fn skew(date: &HeaderValue, asked: Timestamp, round_trip: Duration) -> Option<SignedDuration> {
    let date = jiff::fmt::rfc2822::parse(date.to_str().ok()?).ok()?.timestamp();
    let half = SignedDuration::try_from(round_trip / 2).ok()?;
    Some(date.duration_since(asked) - half + HALF_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_the_worker_s_clock_minus_ours() {
        let ours: Timestamp = "2026-11-23T17:00:00Z".parse().unwrap();
        let of = |date: &'static str| {
            skew(&HeaderValue::from_static(date), ours, Duration::from_secs(2)).map(|skew| skew.as_millis())
        };
        assert_eq!(of("Mon, 23 Nov 2026 17:00:01 GMT"), Some(500));
        assert_eq!(of("Mon, 23 Nov 2026 18:00:01 GMT"), Some(3_600_500));
        assert_eq!(of("Mon, 23 Nov 2026 16:00:01 GMT"), Some(-3_599_500));
        assert_eq!(of("yesterday"), None);
    }
}
