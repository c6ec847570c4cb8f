//! Whose seat tokens are accepted, and which sessions no longer are.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clarateach_api::agent::{AgentErrorCode, Revocations, SeatKeys};
use clarateach_gateway::EndedWhy;
use clarateach_ids::InstallationId;
use clarateach_seatproto::token::{PublicKey, SEAT_TOKEN_SECONDS, Verifier};
use jiff::Timestamp;

use crate::app::App;
use crate::error::AgentError;
use crate::state::Revoked;

const MAX_KEYS: usize = 16;
const MAX_REVOCATIONS: usize = 10_000;
/// A close frame's reason holds no more (RFC 6455 §5.5).
const MAX_REASON: usize = 123;

fn refuse(message: String) -> AgentError {
    AgentError::new(AgentErrorCode::InvalidRequest, message)
}

/// Who checks tokens by these keys.
///
/// # Errors
/// `invalid_request` for a key that is none.
pub(crate) fn verifier(keys: &SeatKeys) -> Result<Verifier, AgentError> {
    if keys.keys.len() > MAX_KEYS {
        return Err(refuse(format!("keys: takes at most {MAX_KEYS}")));
    }
    let parsed = keys.keys.iter().map(|key| {
        let bytes = BASE64_STANDARD.decode(&key.key).ok().and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.ok_or_else(|| {
            refuse(format!("keys: {} is not the 32 bytes of an Ed25519 public key in base64", key.id))
        })?;
        Ok(PublicKey { id: key.id.clone(), bytes })
    });
    let parsed: Vec<PublicKey> = parsed.collect::<Result<_, AgentError>>()?;
    Ok(Verifier::new(keys.installation_id.clone(), &parsed))
}

/// Accepts no token: nobody has pushed keys yet.
#[must_use]
pub(crate) fn nobody(installation: InstallationId) -> Verifier {
    Verifier::new(installation, &[])
}

impl App {
    /// Accepts the tokens of these keys only from now on, also after a restart.
    ///
    /// # Errors
    /// As [`verifier`]; when it can't be remembered.
    pub fn set_keys(&self, keys: &SeatKeys) -> Result<(), AgentError> {
        let verifier = verifier(keys)?;
        self.state.set_keys(keys)?;
        self.gateway.set_verifier(verifier);
        Ok(())
    }

    /// Ends sessions: their streams are closed, and the tokens they have now are refused, also after a restart.
    ///
    /// # Errors
    /// `invalid_request`; when it can't be remembered.
    pub fn revoke(&self, revocations: &Revocations) -> Result<(), AgentError> {
        if revocations.sessions.len() > MAX_REVOCATIONS {
            return Err(refuse(format!("sessions: takes at most {MAX_REVOCATIONS} at once")));
        }
        if let Some(long) = revocations.sessions.iter().find(|session| session.reason.len() > MAX_REASON) {
            return Err(refuse(format!(
                "sessions: the reason of {} is longer than {MAX_REASON} bytes",
                long.session_id
            )));
        }
        let now = Timestamp::now().as_second();
        // Tokens issued before now are dead by themselves after this.
        let until = now + SEAT_TOKEN_SECONDS + 60;
        let revoked = revocations.sessions.iter().map(|session| Revoked { until, session: session.clone() });
        self.state.revoke(revoked.collect(), now)?;
        for session in &revocations.sessions {
            self.gateway.end_session(&session.session_id, &EndedWhy::Other(session.reason.clone()));
        }
        Ok(())
    }
}
