//! Seat tokens: what a learner's browser shows a gateway. Verification only; public keys only. Only the server signs.
//!
//! A seat token is a JWT (RFC 7519) signed with EdDSA over Ed25519 (RFC 8037). It says for one session which seat it
//! may use, until when. Gateways check it without asking anybody.

use std::collections::HashMap;
use std::fmt;

use clarateach_ids::{Generation, InstallationId, KeyId, SeatKey, SeatNumber, SessionId, WorkshopId};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};

/// How long a seat token is good for, in seconds.
pub const SEAT_TOKEN_SECONDS: i64 = 300;

/// The longest token that is even looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 2048;

/// Who holds a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The learner whose seat it is.
    Learner,
    /// An instructor who looks in to help.
    Instructor,
}

/// The claims of a seat token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatClaims {
    /// Audience: the installation whose gateways accept it.
    pub aud: InstallationId,
    /// The workshop.
    pub workshop: WorkshopId,
    /// The seat.
    pub seat: SeatNumber,
    /// The make of the seat; a rebuilt seat doesn't accept older tokens.
    #[serde(rename = "gen")]
    pub generation: Generation,
    /// The session it was given to; one lease each.
    #[serde(rename = "sid")]
    pub session: SessionId,
    /// Who holds it.
    pub role: Role,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Expires, seconds since the epoch.
    pub exp: i64,
}

impl SeatClaims {
    /// The seat that the token is for.
    #[must_use]
    pub fn seat_key(&self) -> SeatKey {
        SeatKey { workshop: self.workshop.clone(), seat: self.seat }
    }
}

/// Why a token isn't accepted. Never says more than its holder knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours: wrong form, algorithm, key or signature.
    #[error("the seat token is not valid")]
    Invalid,
    /// It was good once.
    #[error("the seat token has expired; ask for a new one with the session code")]
    Expired,
}

/// A public key that tokens may be signed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// Its id, in the token's `kid` header.
    pub id: KeyId,
    /// The 32 bytes of the Ed25519 public key.
    pub bytes: [u8; 32],
}

/// The public keys and the audience a gateway accepts.
pub struct Verifier {
    audience: InstallationId,
    keys: HashMap<String, DecodingKey>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("audience", &self.audience).field("keys", &self.keys.keys()).finish()
    }
}

impl Verifier {
    /// Accepts tokens for `audience` signed by any of `keys`.
    #[must_use]
    pub fn new(audience: InstallationId, keys: &[PublicKey]) -> Self {
        let keys =
            keys.iter().map(|key| (key.id.to_string(), DecodingKey::from_ed_der(&key.bytes))).collect();
        Self { audience, keys }
    }

    /// Checks form, key, signature, audience and expiry, in that order.
    ///
    /// # Errors
    /// [`TokenError::Expired`] for a token that only time has spoiled; else [`TokenError::Invalid`].
    pub fn verify(&self, token: &str) -> Result<SeatClaims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let key = header.kid.and_then(|kid| self.keys.get(&kid)).ok_or(TokenError::Invalid)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[self.audience.as_str()]);
        validation.set_required_spec_claims(&["exp", "aud"]);
        validation.leeway = 0;
        match jsonwebtoken::decode::<SeatClaims>(token, key, &validation) {
            Ok(data) => Ok(data.claims),
            Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature) => {
                Err(TokenError::Expired)
            }
            Err(_) => Err(TokenError::Invalid),
        }
    }
}
