//! One call: credentials on, answer read, tried again where that may help.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use http::{StatusCode, header};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;

use super::Compute;
use crate::call::Call;
use crate::error::{GcpError, Kind, Refusal};

/// Nothing that the API answers is larger: a page of 500 instances with their startup scripts is.
const LARGEST_ANSWER: usize = 64 << 20;

impl Compute {
    /// Makes a call and reads its answer.
    pub(crate) async fn send<T: DeserializeOwned>(&self, call: &Call) -> Result<T, GcpError> {
        let body = self.send_within(call, self.patience.answer).await?;
        serde_json::from_slice(&body)
            .map_err(|source| GcpError::Unreadable { call: call.to_string(), source })
    }

    /// The same, where it may not be there.
    pub(crate) async fn send_optional<T: DeserializeOwned>(
        &self,
        call: &Call,
    ) -> Result<Option<T>, GcpError> {
        match self.send(call).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn send_within(&self, call: &Call, patience: Duration) -> Result<Vec<u8>, GcpError> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(self.patience.first_pause)
            .with_max_delay(self.patience.longest_pause)
            .with_max_times(self.patience.retries)
            .with_jitter();
        (|| self.send_once(call, patience))
            .retry(backoff)
            .when(GcpError::is_passing)
            .adjust(|error, pause| match error {
                GcpError::Refused { refusal, .. } => pause.map(|pause| {
                    let asked = refusal.retry_after.unwrap_or_default().min(self.patience.longest_pause);
                    pause.max(asked)
                }),
                _ => pause,
            })
            .notify(|error, pause| {
                tracing::debug!(error = %error.one_line(), ?pause, "trying again");
            })
            .await
    }

    /// Once, or twice when the credentials turn out to have expired early.
    async fn send_once(&self, call: &Call, patience: Duration) -> Result<Vec<u8>, GcpError> {
        let token = self.credentials.token().await?;
        let first = self.send_as(call, patience, &token).await;
        match first {
            Err(GcpError::Refused { refusal, .. }) if refusal.status == StatusCode::UNAUTHORIZED => {
                let renewed = self.credentials.renewed_token().await?;
                if renewed.expose_secret() == token.expose_secret() {
                    return Err(self.credentials.rejected(&refusal.message).into());
                }
                match self.send_as(call, patience, &renewed).await {
                    Err(GcpError::Refused { refusal, .. }) if refusal.status == StatusCode::UNAUTHORIZED => {
                        Err(self.credentials.rejected(&refusal.message).into())
                    }
                    outcome => outcome,
                }
            }
            outcome => outcome,
        }
    }

    async fn send_as(
        &self,
        call: &Call,
        patience: Duration,
        token: &secrecy::SecretString,
    ) -> Result<Vec<u8>, GcpError> {
        let unreachable = |source: reqwest::Error| GcpError::Unreachable {
            call: call.to_string(),
            endpoint: self.endpoint.as_str().to_owned(),
            source: source.without_url(),
        };
        let url = format!("{}/{}", self.endpoint.as_str(), call.target());
        let mut request =
            self.http.request(call.method.clone(), url).bearer_auth(token.expose_secret()).timeout(patience);
        request = match &call.body {
            Some(body) => request.json(body),
            None if call.method == http::Method::POST => request.header(header::CONTENT_LENGTH, 0),
            None => request,
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            if body.len() + piece.len() > LARGEST_ANSWER {
                break;
            }
            body.extend_from_slice(&piece);
        }
        if status.is_success() {
            return Ok(body);
        }
        Err(GcpError::Refused { call: call.to_string(), refusal: Refusal::read(status, retry_after, &body) })
    }
}
