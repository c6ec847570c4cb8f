//! Who the caller is, and what is theirs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clarateach_api::ErrorCode;
use clarateach_ids::UserId;
use clarateach_store::{StoreError, TokenHash, UserRecord, WorkshopRecord};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::App;
use super::error::AppError;

/// How long a login lasts.
pub const LOGIN_FOR: SignedDuration = SignedDuration::from_hours(12);

const PURPOSE: &str = "login cookie";

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The admin token, or anyone on loopback of a server without one.
    Admin,
    /// An instructor.
    User(UserRecord),
    /// Nobody we know.
    Anonymous,
}

impl Caller {
    /// The owner of what the caller creates.
    ///
    /// # Errors
    /// `UNAUTHORIZED` for nobody.
    pub fn user_id(&self) -> Result<UserId, AppError> {
        match self {
            Self::Admin => Ok(UserId::admin()),
            Self::User(user) => Ok(user.id.clone()),
            Self::Anonymous => Err(Self::unauthorized()),
        }
    }

    /// # Errors
    /// `UNAUTHORIZED` for nobody, `FORBIDDEN` for an instructor.
    pub fn require_admin(&self) -> Result<(), AppError> {
        match self {
            Self::Admin => Ok(()),
            Self::User(_) => Err(AppError::new(ErrorCode::Forbidden, "This call is for admins.")),
            Self::Anonymous => Err(Self::unauthorized()),
        }
    }

    /// Whether `workshop` is the caller's to see and change.
    ///
    /// # Errors
    /// `UNAUTHORIZED` for nobody; `NOT_FOUND` for another's, so that ids can't be probed.
    pub fn require_owner(&self, workshop: &WorkshopRecord) -> Result<(), AppError> {
        match self {
            Self::Admin => Ok(()),
            Self::User(user) if user.id == workshop.owner => Ok(()),
            Self::User(_) => Err(AppError::no_workshop()),
            Self::Anonymous => Err(Self::unauthorized()),
        }
    }

    fn unauthorized() -> AppError {
        AppError::new(
            ErrorCode::Unauthorized,
            "Log in first: POST /api/login, or send Authorization: Bearer with your token.",
        )
    }
}

/// What a login cookie holds, sealed. The token's hash ties it to a token that is still good.
#[derive(Serialize, Deserialize)]
struct Login {
    token_hash: [u8; 32],
    until: Timestamp,
}

fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// The hash under which a user's token is kept.
#[must_use]
pub fn token_hash(token: &str) -> TokenHash {
    TokenHash(hash(token))
}

impl App {
    /// Whether callers have to log in at all.
    #[must_use]
    pub fn login_required(&self) -> bool {
        self.config.access.admin_token.is_some()
    }

    /// Who holds `token`; [`Caller::Anonymous`] when nobody does.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn caller_by_token(&self, token: &str) -> Result<Caller, AppError> {
        self.caller_by_hash(hash(token)).await
    }

    async fn caller_by_hash(&self, hashed: [u8; 32]) -> Result<Caller, AppError> {
        if let Some(admin) = &self.config.access.admin_token
            && bool::from(hash(admin.expose_secret()).ct_eq(&hashed))
        {
            return Ok(Caller::Admin);
        }
        match self.store.user_by_token(&TokenHash(hashed)).await {
            Ok(user) => Ok(Caller::User(user)),
            Err(StoreError::NotFound { .. }) => Ok(Caller::Anonymous),
            Err(error) => Err(error.into()),
        }
    }

    /// Who holds a login cookie.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn caller_by_cookie(&self, cookie: &str, now: Timestamp) -> Result<Caller, AppError> {
        let login = URL_SAFE_NO_PAD
            .decode(cookie)
            .ok()
            .and_then(|sealed| self.sealer.open_sealed(PURPOSE, &sealed).ok())
            .and_then(|clear| serde_json::from_slice::<Login>(&clear).ok());
        match login {
            Some(login) if login.until > now => self.caller_by_hash(login.token_hash).await,
            _ => Ok(Caller::Anonymous),
        }
    }

    /// Checks a token and gives the caller and the value of a login cookie.
    ///
    /// # Errors
    /// `UNAUTHORIZED` for a token that is nobody's.
    pub async fn log_in(&self, token: &str, now: Timestamp) -> Result<(Caller, String), AppError> {
        let caller = self.caller_by_token(token).await?;
        if caller == Caller::Anonymous {
            return Err(AppError::new(
                ErrorCode::Unauthorized,
                "This token is not known; ask your admin for one.",
            ));
        }
        let login = Login { token_hash: hash(token), until: now + LOGIN_FOR };
        let clear = serde_json::to_vec(&login).map_err(AppError::internal)?;
        Ok((caller, URL_SAFE_NO_PAD.encode(self.sealer.seal(PURPOSE, &clear))))
    }
}
