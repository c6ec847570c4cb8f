//! What a control plane pushes so that the agent can check seat tokens by itself.

use clarateach_ids::{InstallationId, KeyId, SessionId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublicKeyView {
    /// Its id, as in a token's `kid` header.
    #[schema(value_type = String)]
    pub id: KeyId,
    /// The 32 bytes of the Ed25519 public key in base64 (RFC 4648 §4, padded).
    pub key: String,
}

/// `PUT /keys`: the keys whose tokens are accepted from now on, instead of those before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SeatKeys {
    /// Whose tokens: the audience they must name.
    #[schema(value_type = String)]
    pub installation_id: InstallationId,
    /// At most 16.
    #[schema(max_items = 16)]
    pub keys: Vec<PublicKeyView>,
}

/// A session that has used its seat lately, by `/proxy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionAtSeat {
    /// The session.
    #[schema(value_type = String)]
    pub session_id: SessionId,
    /// How long ago anything last came from it: whoever asks has a clock of their own.
    pub idle_seconds: u64,
}

/// `GET /sessions`: `{"sessions":[…]}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionsBody {
    /// By id.
    pub sessions: Vec<SessionAtSeat>,
}

/// A session whose tokens are refused from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokedSession {
    /// The session.
    #[schema(value_type = String)]
    pub session_id: SessionId,
    /// What its learner is told: one sentence.
    #[schema(max_length = 123)]
    pub reason: String,
}

/// `POST /revocations`: ends sessions, in addition to those before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// At most 10,000.
    #[schema(max_items = 10000)]
    pub sessions: Vec<RevokedSession>,
}
