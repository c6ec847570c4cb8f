//! The server key: seals what the store must not be able to read, and derives what must not be stored at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use clarateach_ids::{Generation, InstallationId, JoinCode, SeatKey, SessionCode};
use secrecy::{ExposeSecret, SecretString};

const NONCE_BYTES: usize = 24;

/// A sealed text that this key, or this purpose, does not open.
#[derive(Debug, thiserror::Error)]
#[error("sealed for another SERVER_KEY, or damaged")]
pub struct Unsealable;

/// Holds the server key. Every use has its own derived key, so that nothing sealed for one purpose opens for another.
pub struct Sealer {
    root: SecretString,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// With the key given, or the one kept in `state_dir`, made there (mode 0600) at the first start.
    ///
    /// # Errors
    /// When the key file can't be read or made.
    pub fn open(given: Option<&SecretString>, state_dir: &Path) -> io::Result<Self> {
        if let Some(key) = given {
            return Ok(Self { root: key.clone() });
        }
        let path = state_dir.join("server.key");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 32 => {
                Ok(Self { root: SecretString::from(text.trim().to_owned()) })
            }
            Ok(_) => Err(io::Error::other(format!(
                "{} is not a server key; put it back from a backup, or remove it together with the database",
                path.display()
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random_text();
                place(&path, &key)?;
                Ok(Self { root: SecretString::from(key) })
            }
            Err(error) => Err(error),
        }
    }

    fn cipher(&self, purpose: &str) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.derive(purpose, &[])))
    }

    fn derive(&self, purpose: &str, input: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(&format!("clarateach 2026 {purpose}"));
        hasher.update(self.root.expose_secret().as_bytes());
        hasher.update(&[0]);
        hasher.update(input);
        *hasher.finalize().as_bytes()
    }

    /// Encrypts and authenticates `clear` for `purpose`.
    ///
    /// # Panics
    /// When the operating system has no random bytes.
    #[must_use]
    pub fn seal(&self, purpose: &str, clear: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        let mut sealed = nonce.to_vec();
        let body = self
            .cipher(purpose)
            .encrypt(&XNonce::from(nonce), Payload { msg: clear, aad: purpose.as_bytes() })
            .expect("texts this short can be encrypted");
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens what [`Sealer::seal`] made for the same purpose.
    ///
    /// # Errors
    /// [`Unsealable`] for another key, another purpose or damage.
    pub fn open_sealed(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Unsealable)?;
        self.cipher(purpose)
            .decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: purpose.as_bytes() })
            .map_err(|_| Unsealable)
    }

    /// The session code of a browser in a workshop. Derived, so that a repeated join gives it again although only its
    /// hash is stored. `ended` counts the sessions that it had there before and that were ended.
    #[must_use]
    pub fn session_code(&self, workshop: &JoinCode, client_id: &str, ended: u32) -> SessionCode {
        let mut input = format!("{workshop}\0{client_id}");
        if ended > 0 {
            input.push_str(&format!("\0{ended}"));
        }
        let seed = self.derive("session code", input.as_bytes());
        let mut stream = blake3::Hasher::new_keyed(&seed).finalize_xof();
        SessionCode::drawn(|bytes| stream.fill(bytes))
    }

    /// What the workspace of one make of a seat asks of its callers. Derived, so that no table holds it.
    #[must_use]
    pub fn seat_secret(
        &self,
        installation: &InstallationId,
        key: &SeatKey,
        generation: Generation,
    ) -> SecretString {
        let input = format!("{installation}\0{}\0{}\0{generation}", key.workshop, key.seat);
        SecretString::from(URL_SAFE_NO_PAD.encode(self.derive("seat secret", input.as_bytes())))
    }
}

/// Writes a new key file, which is there complete or not at all: whoever dies or finds the disk full on the way leaves a
/// draft, which the next start writes anew.
fn place(path: &Path, key: &str) -> io::Result<()> {
    let draft = path.with_extension("key.draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// 32 random bytes as text.
///
/// # Panics
/// When the operating system has no random bytes.
#[must_use]
pub fn random_text() -> String {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(key: &str) -> Sealer {
        Sealer { root: SecretString::from(key.to_owned()) }
    }

    #[test]
    fn opens_only_for_the_same_key_and_purpose() {
        let sealed = sealer("a").seal("env", b"text");
        assert_eq!(sealer("a").open_sealed("env", &sealed).unwrap(), b"text");
        assert!(sealer("b").open_sealed("env", &sealed).is_err());
        assert!(sealer("a").open_sealed("login", &sealed).is_err());
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(sealer("a").open_sealed("env", &damaged).is_err());
        assert!(sealer("a").open_sealed("env", &sealed[..10]).is_err());
    }

    #[test]
    fn each_make_of_a_seat_has_its_own_secret() {
        let installation = InstallationId::random();
        let key = |n: u32| SeatKey { workshop: "w".parse().unwrap(), seat: n.try_into().unwrap() };
        let secret =
            |n, g| sealer("a").seat_secret(&installation, &key(n), Generation(g)).expose_secret().to_owned();
        assert_eq!(secret(1, 1), secret(1, 1));
        assert_ne!(secret(1, 1), secret(1, 2));
        assert_ne!(secret(1, 1), secret(2, 1));
    }

    #[test]
    fn the_key_file_is_private_and_kept() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = Sealer::open(None, dir.path()).unwrap().seal("x", b"y");
        let mode = fs::metadata(dir.path().join("server.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Sealer::open(None, dir.path()).unwrap().open_sealed("x", &first).unwrap(), b"y");
        fs::write(dir.path().join("server.key"), "short").unwrap();
        assert!(Sealer::open(None, dir.path()).is_err());
    }

    #[test]
    fn a_key_that_was_being_written_when_the_server_died_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("server.key.draft"), "cut o").unwrap();
        let sealed = Sealer::open(None, dir.path()).unwrap().seal("x", b"y");
        assert_eq!(Sealer::open(None, dir.path()).unwrap().open_sealed("x", &sealed).unwrap(), b"y");
        assert!(!dir.path().join("server.key.draft").exists());
    }
}
