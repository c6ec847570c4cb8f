//! The certificate that the agent shows, read again when it is renewed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `TLS_CERT`: PEM, the agent's own certificate first, then those that lead to its authority.
    pub certificate: PathBuf,
    /// `TLS_KEY`: PEM.
    pub key: PathBuf,
}

/// Why there is no certificate to show. Never repeats a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{variable}: {}: {source}", .path.display())]
    File {
        /// Which setting.
        variable: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{variable}: {}: {problem}", .path.display())]
    Content {
        /// Which setting.
        variable: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// What the files held.
struct Found {
    certified: Arc<CertifiedKey>,
    from: Timestamp,
    until: Timestamp,
    /// Of both files.
    digest: [u8; 32],
}

/// The certificate that is shown now.
pub struct Identity {
    files: TlsFiles,
    shown: RwLock<Found>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("files", &self.files).finish_non_exhaustive()
    }
}

fn read(variable: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { variable, path: path.to_owned(), source })
}

/// Both files as they are now.
struct Bytes {
    chain: Vec<u8>,
    key: Vec<u8>,
    digest: [u8; 32],
}

fn bytes(files: &TlsFiles) -> Result<Bytes, TlsError> {
    let (chain, key) = (read("TLS_CERT", &files.certificate)?, read("TLS_KEY", &files.key)?);
    let digest = Sha256::new().chain_update(Sha256::digest(&chain)).chain_update(&key).finalize().into();
    Ok(Bytes { chain, key, digest })
}

fn find(files: &TlsFiles, bytes: &Bytes) -> Result<Found, TlsError> {
    let bad = |variable, path: &Path, problem: String| TlsError::Content {
        variable,
        path: path.to_owned(),
        problem,
    };
    let bad_chain = |problem| bad("TLS_CERT", &files.certificate, problem);
    let bad_key = |problem| bad("TLS_KEY", &files.key, problem);
    let chain = CertificateDer::pem_slice_iter(&bytes.chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| bad_chain(format!("it is not PEM: {error}")))?;
    let Some(own) = chain.first() else {
        return Err(bad_chain("there is no certificate in it; it takes PEM".to_owned()));
    };
    let own =
        Certificate::from_der(own).map_err(|error| bad_chain(format!("it is no certificate: {error}")))?;
    let validity = own.tbs_certificate.validity;
    let time = |time: x509_cert::time::Time| {
        Timestamp::from_second(time.to_unix_duration().as_secs().try_into().unwrap_or(i64::MAX))
            .unwrap_or(Timestamp::MAX)
    };
    let key = PrivateKeyDer::from_pem_slice(&bytes.key)
        .map_err(|_| bad_key("there is no private key in it; it takes PEM".to_owned()))?;
    let signer = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| bad_key(error.to_string()))?;
    let certified = CertifiedKey::new(chain, signer);
    certified
        .keys_match()
        .map_err(|_| bad_key("it is not the key of the certificate in TLS_CERT".to_owned()))?;
    Ok(Found {
        certified: Arc::new(certified),
        from: time(validity.not_before),
        until: time(validity.not_after),
        digest: bytes.digest,
    })
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn read(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { files: files.clone(), shown: RwLock::new(find(files, &bytes(files)?)?) }))
    }

    /// From when and until when the certificate that is shown holds.
    #[must_use]
    pub fn validity(&self) -> (Timestamp, Timestamp) {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        (shown.from, shown.until)
    }

    /// Reads the files again; true when they held something new, which is shown to whoever connects from now on.
    /// Connections that are open stay so.
    ///
    /// # Errors
    /// See [`TlsError`]; then what was shown before still is.
    pub fn read_again(&self) -> Result<bool, TlsError> {
        let bytes = bytes(&self.files)?;
        if self.shown.read().unwrap_or_else(PoisonError::into_inner).digest == bytes.digest {
            return Ok(false);
        }
        let found = find(&self.files, &bytes)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(true)
    }

    /// The settings of a listener that shows it.
    ///
    /// # Errors
    /// When the cryptography can't be set up.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner).certified))
    }
}

/// Reads the files again when they change, and whenever `hangup` comes.
pub(crate) async fn follow(identity: Arc<Identity>, mut hangup: Option<Signal>, closing: CancellationToken) {
    let mut said = None;
    loop {
        let asked = tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(LOOK) => false,
            () = next(&mut hangup) => true,
        };
        let again = Arc::clone(&identity);
        match tokio::task::spawn_blocking(move || again.read_again()).await {
            Ok(Ok(is_new)) => {
                said = None;
                if is_new || asked {
                    let (_, until) = identity.validity();
                    tracing::info!(%until, is_new, "the TLS certificate was read again");
                }
            }
            // In the middle of a renewal the two don't match for a moment: once is enough for each problem.
            Ok(Err(error)) => {
                let problem = error.to_string();
                if asked || said.as_ref() != Some(&problem) {
                    tracing::warn!(%error, "the renewed TLS certificate can't be used; the one before still is");
                }
                said = Some(problem);
            }
            Err(error) => tracing::error!(%error, "the TLS certificate could not be read again"),
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    let heard = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}
