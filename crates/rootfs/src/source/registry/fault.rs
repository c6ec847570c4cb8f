//! What a registry's refusals mean: what to say of them, and whether asking again can help.

use std::future::Future;
use std::io;
use std::time::Duration;

use oci_client::Reference;
use oci_client::errors::{DigestError, OciDistributionError as E, OciErrorCode};

use super::super::SourceError;

/// Attempts per request.
pub(super) const ATTEMPTS: u32 = 4;

/// How long to wait before an attempt, the first being 0.
pub(super) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(if attempt == 0 { 0 } else { 100 << attempt })
}

/// Makes a request, and makes it again while the answer is one that passes.
pub(super) async fn patiently<T, F: Future<Output = Result<T, E>>>(request: impl Fn() -> F) -> Result<T, E> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match request().await {
            Err(error) if attempt < ATTEMPTS && passes(&error) => tokio::time::sleep(pause(attempt)).await,
            done => return done,
        }
    }
}

/// Whether the same request may be granted in a moment: there were too many, or the server has a fault of its own.
pub(super) fn passes(error: &E) -> bool {
    match error {
        E::ServerError { code, .. } => matches!(code, 408 | 429 | 500..=599),
        E::RegistryError { .. } => has_code(error, &[OciErrorCode::Toomanyrequests]),
        // Where nobody listens or all is silent, the wait has been long enough.
        E::RequestError(error) => !error.is_connect() && !error.is_timeout() && !error.is_redirect(),
        _ => false,
    }
}

/// Whether nobody answers, which passes as well in the middle of a download: the registry was there just now.
pub(super) fn is_silence(error: &E) -> bool {
    matches!(error, E::RequestError(error) if error.is_connect() || error.is_timeout())
}

/// Whether the registry says that it does not have what was asked for.
pub(super) fn is_missing(error: &E) -> bool {
    use OciErrorCode as C;
    match error {
        E::ImageManifestNotFoundError(_) | E::ServerError { code: 404, .. } => true,
        E::RegistryError { .. } => has_code(
            error,
            &[C::BlobUnknown, C::ManifestBlobUnknown, C::ManifestUnknown, C::NameUnknown, C::NotFound],
        ),
        _ => false,
    }
}

/// What to say of an error that stays.
pub(super) fn describe(reference: &Reference, operation: &str, error: E) -> SourceError {
    let registry = reference.resolve_registry().to_owned();
    if is_missing(&error) {
        let place = format!("in registry {registry}: check name and tag");
        return SourceError::NotFound { name: reference.to_string(), place };
    }
    let reason = match error {
        E::UnauthorizedError { .. }
        | E::AuthenticationFailure(_)
        | E::ServerError { code: 401 | 403, .. } => refusal(reference),
        E::DigestError(error) => {
            return SourceError::damaged(reference, format!("{operation}: {error}"));
        }
        E::RegistryError { .. } if has_code(&error, &[OciErrorCode::Unauthorized, OciErrorCode::Denied]) => {
            refusal(reference)
        }
        E::RegistryError { envelope, .. } => {
            let messages: Vec<_> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
            format!("{operation}: it answers {:?}, try again later", messages.join(", "))
        }
        E::ServerError { code, .. } => format!("{operation}: it answers {code}, try again later"),
        E::RequestError(error) if error.is_redirect() => {
            format!("{operation}: it sends us round in circles")
        }
        E::RequestError(error) => format!("{operation}: it can't be reached ({})", root_cause(&error)),
        other => format!("{operation}: {other}"),
    };
    SourceError::Registry { registry, reason }
}

/// What to say of a stream that ended early: the bytes were wrong, or the connection was.
pub(super) fn broken(registry: &str, error: &io::Error) -> io::Error {
    if error.get_ref().is_some_and(|inner| inner.is::<DigestError>()) {
        return io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    }
    io::Error::other(format!("registry {registry}: the connection broke off ({})", root_cause(error)))
}

fn refusal(reference: &Reference) -> String {
    let host = reference.resolve_registry();
    format!("{reference} may not be pulled: check the name, or log in with `docker login {host}`")
}

fn has_code(error: &E, codes: &[OciErrorCode]) -> bool {
    let E::RegistryError { envelope, .. } = error else { return false };
    envelope.errors.iter().any(|error| codes.contains(&error.code))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
