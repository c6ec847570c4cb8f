//! Signs seat tokens. Private keys live in the store, sealed; gateways get the public halves.
//!
//! Rotation: a next key is published a while before it signs, and an old one is accepted until its last token is dead.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clarateach_api::agent::{PublicKeyView, SeatKeys};
use clarateach_ids::{InstallationId, KeyId};
use clarateach_seatproto::token::{PublicKey, SEAT_TOKEN_SECONDS, SeatClaims};
use clarateach_store::{KeyRecord, Store, StoreError};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::leases::Leases;
use super::seal::Sealer;

/// How long one key signs.
const SIGNS_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long a key is published before it signs.
const PUBLISHED_BEFORE: SignedDuration = SignedDuration::from_mins(10);
/// How long a key is accepted after it signed last.
const KEPT_AFTER: SignedDuration = SignedDuration::from_secs(2 * SEAT_TOKEN_SECONDS);
/// How often rotation is looked at.
pub const ROTATION_PERIOD: Duration = Duration::from_secs(60);

const PURPOSE: &str = "signing key";
/// The lease of whoever makes a key.
const KEYS: &str = "keys";

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The store did not give or take keys.
    #[error("signing keys")]
    Store(#[from] StoreError),
    /// A stored key can't be opened.
    #[error("signing key {id} can't be opened; start with the SERVER_KEY it was made under")]
    Sealed {
        /// Which.
        id: KeyId,
    },
    /// The crypto library refused.
    #[error("signing a token")]
    Jwt(#[from] jsonwebtoken::errors::Error),
}

struct Current {
    id: KeyId,
    key: EncodingKey,
}

/// Signs with the newest key whose time has come.
pub struct Signer {
    installation: InstallationId,
    current: RwLock<Arc<Current>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("installation", &self.installation).finish_non_exhaustive()
    }
}

fn new_key(
    installation: &InstallationId,
    sealer: &Sealer,
    now: Timestamp,
    signs_from: Timestamp,
) -> KeyRecord {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).expect("the operating system gives random bytes");
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    KeyRecord {
        id: KeyId::random(),
        installation: installation.clone(),
        sealed_private: sealer.seal(PURPOSE, &seed),
        public,
        created_at: now,
        signs_from,
        retired_at: None,
    }
}

fn unlock(sealer: &Sealer, record: &KeyRecord) -> Result<Current, SignerError> {
    let sealed = || SignerError::Sealed { id: record.id.clone() };
    let seed = sealer.open_sealed(PURPOSE, &record.sealed_private).map_err(|_| sealed())?;
    let seed: [u8; 32] = seed.try_into().map_err(|_| sealed())?;
    let der = SigningKey::from_bytes(&seed).to_pkcs8_der().map_err(|_| sealed())?;
    Ok(Current { id: record.id.clone(), key: EncodingKey::from_ed_der(der.as_bytes()) })
}

/// The key that signs at `now`: the newest whose time has come.
fn signing_at(keys: &[KeyRecord], now: Timestamp) -> Option<&KeyRecord> {
    keys.iter().filter(|key| key.signs_from <= now).max_by_key(|key| key.signs_from)
}

fn public_keys(keys: &[KeyRecord]) -> Vec<PublicKey> {
    keys.iter().map(|key| PublicKey { id: key.id.clone(), bytes: key.public }).collect()
}

/// The public keys as workers take them.
#[must_use]
pub fn seat_keys(installation: &InstallationId, keys: &[PublicKey]) -> SeatKeys {
    let view = |key: &PublicKey| PublicKeyView { id: key.id.clone(), key: STANDARD.encode(key.bytes) };
    SeatKeys { installation_id: installation.clone(), keys: keys.iter().map(view).collect() }
}

impl Signer {
    /// Loads the keys, making the first one at the first start; also gives the public keys.
    ///
    /// # Errors
    /// When the store fails, or a key was sealed under another server key.
    pub async fn load(
        store: &dyn Store,
        sealer: &Sealer,
        leases: &Leases,
        installation: InstallationId,
        now: Timestamp,
    ) -> Result<(Self, Vec<PublicKey>), SignerError> {
        let mut keys = store.keys().await?;
        while signing_at(&keys, now).is_none() {
            // Several servers may start on an empty database at once: one makes the key, the others take it.
            if leases.alone_for(store, KEYS, now).await? {
                keys = store.keys().await?;
                if signing_at(&keys, now).is_none() {
                    store.add_key(new_key(&installation, sealer, now, now)).await?;
                }
            } else {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            keys = store.keys().await?;
        }
        let current = signing_at(&keys, now).expect("the loop ends with a key that signs");
        let current = RwLock::new(Arc::new(unlock(sealer, current)?));
        Ok((Self { installation, current }, public_keys(&keys)))
    }

    /// One look at rotation: publishes a next key when the current one is old, switches to it when its time has come,
    /// retires and at last drops the old. Gives the public keys to accept from now on.
    ///
    /// # Errors
    /// As [`Signer::load`]; then everything stays as it is.
    pub async fn rotate(
        &self,
        store: &dyn Store,
        sealer: &Sealer,
        leases: &Leases,
        now: Timestamp,
    ) -> Result<Vec<PublicKey>, SignerError> {
        let is_old = |keys: &[KeyRecord]| {
            let newest = keys.iter().map(|key| key.signs_from).max().unwrap_or(Timestamp::UNIX_EPOCH);
            newest + SIGNS_FOR <= now
        };
        // Of several servers one makes the next key.
        if is_old(&store.keys().await?)
            && leases.alone_for(store, KEYS, now).await?
            && is_old(&store.keys().await?)
        {
            store.add_key(new_key(&self.installation, sealer, now, now + PUBLISHED_BEFORE)).await?;
        }
        let keys = store.keys().await?;
        if let Some(signing) = signing_at(&keys, now) {
            if signing.id != self.current_id() {
                let next = Arc::new(unlock(sealer, signing)?);
                *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
            }
            if keys.iter().any(|key| key.signs_from < signing.signs_from && key.retired_at.is_none()) {
                let newer_are_published = keys.iter().all(|key| key.signs_from <= signing.signs_from);
                if newer_are_published {
                    store.retire_keys_except(&signing.id, now).await?;
                }
            }
        }
        store.drop_keys_retired_before(now - KEPT_AFTER).await?;
        Ok(public_keys(&store.keys().await?))
    }

    fn current_id(&self) -> KeyId {
        self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).id.clone()
    }

    /// A token with `claims`.
    ///
    /// # Errors
    /// When the crypto library refuses; it has no reason to.
    pub fn sign(&self, claims: &SeatClaims) -> Result<String, SignerError> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(current.id.to_string());
        Ok(jsonwebtoken::encode(&header, claims, &current.key)?)
    }
}
