//! An agent's refusals → a runtime's errors.

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{Capacity, ImageRef, RuntimeError};
use http::StatusCode;
use serde::Deserialize;

const TOKEN: &str = "its agent does not accept this server's token";
const INCOMPATIBLE: &str = "its agent speaks another version of the API";

/// The worker answers and does not let this caller in.
#[must_use]
pub fn token_refused(address: &str) -> RuntimeError {
    let message = format!("worker {address}: {TOKEN}; it must be the worker's AGENT_TOKEN");
    RuntimeError::Unavailable { message }
}

/// The worker answers in a way that can't be understood, because of `why`.
#[must_use]
pub fn incompatible(address: &str, why: &str) -> RuntimeError {
    RuntimeError::Unavailable { message: format!("worker {address}: {INCOMPATIBLE}: {why}") }
}

/// Whether the worker answered and refused the token.
#[must_use]
pub fn is_token_refused(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Unavailable { message } if message.contains(TOKEN))
}

/// Whether the worker answered what can't be understood.
#[must_use]
pub fn is_incompatible(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Unavailable { message } if message.contains(INCOMPATIBLE))
}

/// What a call was about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject {
    pub(crate) key: Option<SeatKey>,
    pub(crate) generation: Generation,
    pub(crate) image: Option<ImageRef>,
}

impl Subject {
    pub(crate) fn seat(key: &SeatKey) -> Self {
        Self { key: Some(key.clone()), ..Self::default() }
    }

    pub(crate) fn make(key: &SeatKey, generation: Generation, image: Option<&ImageRef>) -> Self {
        Self { key: Some(key.clone()), generation, image: image.cloned() }
    }

    pub(crate) fn image(image: &ImageRef) -> Self {
        Self { image: Some(image.clone()), ..Self::default() }
    }
}

/// The agent's error body as any version may send it: its codes may be more than this version knows.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    error: Detail,
}

#[derive(Debug, Deserialize)]
struct Detail {
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    seen: Option<u64>,
    #[serde(default)]
    used: Option<u32>,
    #[serde(default)]
    capacity: Option<u32>,
}

/// Whether an error body is of this code.
pub(crate) fn is_of_code(body: &[u8], code: &str) -> bool {
    serde_json::from_slice::<Refusal>(body).is_ok_and(|refusal| refusal.error.code == code)
}

/// The error for an answer that is none of success. `room` is what was last known of the worker's.
pub(crate) fn refused(
    address: &str,
    status: StatusCode,
    body: &[u8],
    subject: &Subject,
    room: Option<Capacity>,
) -> RuntimeError {
    // Only wrong tokens are ever throttled.
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return token_refused(address);
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => in_words(address, status, refusal, subject, room),
        Err(_) if status.is_server_error() => {
            RuntimeError::Unavailable { message: format!("worker {address}: it answered {status}") }
        }
        Err(_) => incompatible(address, &format!("it answered {status} and not as an agent does")),
    }
}

/// The error that an error body stands for; `status` is what came with it.
pub(crate) fn in_words(
    address: &str,
    status: StatusCode,
    refusal: Refusal,
    subject: &Subject,
    room: Option<Capacity>,
) -> RuntimeError {
    let Detail { code, message, seen, used, capacity } = refusal.error;
    match (code.as_str(), &subject.key, &subject.image) {
        ("unauthorized", _, _) => token_refused(address),
        ("stale_generation", Some(key), _) => RuntimeError::StaleGeneration {
            key: key.clone(),
            given: subject.generation,
            seen: seen.map_or(subject.generation, Generation),
        },
        ("vm_not_found", Some(key), _) => RuntimeError::NotFound { key: key.clone() },
        ("at_capacity" | "draining", _, _) => RuntimeError::AtCapacity {
            used: used.or(room.map(|room| room.used)).unwrap_or_default(),
            total: capacity.or(room.map(|room| room.total)).unwrap_or_default(),
        },
        ("image_not_found" | "rootfs_unusable", _, Some(image)) => RuntimeError::ImageNotFound {
            message: without(message, &format!("image {image} was not found: ")),
            image: image.clone(),
        },
        ("invalid_request" | "too_large" | "unsupported_media_type", _, _) => {
            RuntimeError::InvalidSpec { message }
        }
        ("vm_unreachable", Some(key), _) => RuntimeError::Unreachable {
            message: without(message, &format!("seat {key} does not answer: ")),
            key: key.clone(),
        },
        ("no_space", _, _) => failed(address, with_cause(message)),
        ("vm_failed" | "vmm_exited" | "vmm_refused" | "vmm_silent" | "network_refused", _, _) => {
            failed(address, message)
        }
        ("not_found" | "method_not_allowed", _, _) => incompatible(address, &message),
        _ if status.is_client_error() => failed(address, message),
        _ => RuntimeError::Unavailable { message: format!("worker {address}: {message}") },
    }
}

fn failed(address: &str, message: String) -> RuntimeError {
    RuntimeError::Failed { operation: format!("worker {address}"), message }
}

/// The agent has put an error of the same kind into words already: not twice.
fn without(message: String, prefix: &str) -> String {
    message.strip_prefix(prefix).map(str::to_owned).unwrap_or(message)
}

/// A full disk is known by these words, see [`RuntimeError::reason`].
fn with_cause(message: String) -> String {
    let said = message.to_ascii_lowercase();
    if said.contains("no space left on device") || said.contains("disk quota exceeded") {
        message
    } else {
        format!("{message} (No space left on device)")
    }
}

#[cfg(test)]
mod tests {
    use clarateach_api::agent::{AgentErrorBody, AgentErrorCode};

    use super::*;

    fn key() -> SeatKey {
        SeatKey { workshop: "w".parse().unwrap(), seat: "1".parse().unwrap() }
    }

    fn of(code: AgentErrorCode, message: &str) -> RuntimeError {
        let body = serde_json::to_vec(&AgentErrorBody::new(code, message)).unwrap();
        let subject = Subject::make(&key(), Generation(3), Some(&ImageRef("python".to_owned())));
        refused("w:1", StatusCode::from_u16(code.status()).unwrap(), &body, &subject, None)
    }

    #[test]
    fn the_kinds_that_time_does_not_mend_are_told_apart() {
        let (token, other) = (token_refused("w:1"), incompatible("w:1", "capacity: missing"));
        assert!(is_token_refused(&token) && !is_incompatible(&token), "{token}");
        assert!(is_incompatible(&other) && !is_token_refused(&other), "{other}");
        let away = RuntimeError::Unavailable { message: "worker w:1: does not answer".to_owned() };
        assert!(!is_token_refused(&away) && !is_incompatible(&away));
    }

    #[test]
    fn every_code_is_an_error_of_its_kind() {
        use AgentErrorCode as Code;
        for code in Code::ALL {
            let error = of(*code, "why");
            let right = match code {
                Code::Unauthorized | Code::TooManyAttempts => is_token_refused(&error),
                Code::StaleGeneration => {
                    matches!(error, RuntimeError::StaleGeneration { given: Generation(3), .. })
                }
                Code::VmNotFound => matches!(error, RuntimeError::NotFound { .. }),
                Code::AtCapacity | Code::Draining => matches!(error, RuntimeError::AtCapacity { .. }),
                Code::ImageNotFound | Code::RootfsUnusable => {
                    matches!(error, RuntimeError::ImageNotFound { .. })
                }
                Code::InvalidRequest | Code::TooLarge | Code::UnsupportedMediaType => {
                    matches!(error, RuntimeError::InvalidSpec { .. })
                }
                Code::VmUnreachable => matches!(error, RuntimeError::Unreachable { .. }),
                Code::NoSpace => error.reason().code == "NO_SPACE",
                Code::NotFound | Code::MethodNotAllowed => is_incompatible(&error),
                Code::VmExists
                | Code::UpgradeRequired
                | Code::VmFailed
                | Code::VmmExited
                | Code::VmmRefused
                | Code::VmmSilent
                | Code::NetworkRefused => matches!(error, RuntimeError::Failed { .. }),
                Code::Internal
                | Code::Unavailable
                | Code::KernelNotFound
                | Code::KernelUnusable
                | Code::VmmUnusable
                | Code::HostUnsuitable
                | Code::NetworkConflict => {
                    matches!(error, RuntimeError::Unavailable { .. })
                        && !is_incompatible(&error)
                        && !is_token_refused(&error)
                }
            };
            assert!(right, "{code:?}: {error:?}");
        }
    }

    #[test]
    fn words_are_not_said_twice() {
        let error = of(AgentErrorCode::VmUnreachable, "seat w/1 does not answer: it is not running");
        assert_eq!(error.to_string(), "seat w/1 does not answer: it is not running");
        let error = of(AgentErrorCode::ImageNotFound, "image python was not found: no such file");
        assert_eq!(error.to_string(), "image python was not found: no such file");
    }

    #[test]
    fn what_is_no_agent_s_answer_is_unavailable() {
        let of = |status: u16, body: &str| {
            refused("w:1", StatusCode::from_u16(status).unwrap(), body.as_bytes(), &Subject::default(), None)
        };
        assert!(is_token_refused(&of(403, "<html>")));
        assert!(is_incompatible(&of(302, "")));
        assert!(is_incompatible(&of(404, "<html>")));
        let away = of(502, "<html>bad gateway");
        assert!(matches!(away, RuntimeError::Unavailable { .. }) && !is_incompatible(&away), "{away}");
        let newer = of(409, r#"{"error":{"code":"moon_phase","message":"wrong moon"}}"#);
        assert!(newer.to_string().contains("wrong moon"), "{newer}");
    }
}
