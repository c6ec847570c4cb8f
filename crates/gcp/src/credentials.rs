//! Who we are to Google: the same sources as `gcloud` and Google's own libraries, in the same order.
//!
//! Tokens are got and renewed by Google's `google-cloud-auth`; here is which source is used, and what is said when there is none
//! or it is no longer good.

use std::path::{Path, PathBuf};
use std::time::Duration;

use google_cloud_auth::credentials::{AccessTokenCredentials, Builder, mds, service_account, user_account};
use google_cloud_auth::errors::CredentialsError as AuthError;
use secrecy::SecretString;
use tokio::sync::Mutex;

/// All of Compute Engine.
const SCOPE: &str = "https://www.googleapis.com/auth/compute";
/// A metadata server that is there answers in milliseconds; outside of GCP nobody answers at all.
const METADATA_WITHIN: Duration = Duration::from_secs(4);
/// For a token endpoint.
const TOKEN_WITHIN: Duration = Duration::from_secs(30);
const WAY_OUT: &str = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's \
                       key file";

/// Where access tokens come from.
#[derive(Debug)]
pub struct Credentials {
    source: Source,
    live: Mutex<Option<AccessTokenCredentials>>,
}

#[derive(Debug)]
enum Source {
    Token(SecretString),
    TokenFile(PathBuf),
    File { path: PathBuf, kind: FileKind },
    Metadata { host: Option<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    ServiceAccount,
    AuthorizedUser,
    /// Whatever else Google's library knows: federation, impersonation.
    Other,
}

/// Why there is no access token. Never repeats one.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Nothing was found.
    #[error("no Google credentials: {tried}; {WAY_OUT}")]
    Missing {
        /// Where was looked.
        tried: String,
    },
    /// A file that can't be read.
    #[error("{}: {source}; {WAY_OUT}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that holds something else.
    #[error("{}: {problem}; {WAY_OUT}", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No token was given for them.
    #[error("{from} gives no access token: {problem}; if they have expired, {WAY_OUT}")]
    Refused {
        /// Which credentials.
        from: String,
        /// What the token endpoint said.
        problem: String,
    },
    /// The API does not take the token.
    #[error(
        "the API does not take the access token of {from}: {message}; it has expired or been revoked: {WAY_OUT}"
    )]
    Rejected {
        /// Which credentials.
        from: String,
        /// What the API said.
        message: String,
    },
}

impl Credentials {
    /// Looks where `gcloud` and Google's libraries look: `CLOUDSDK_AUTH_ACCESS_TOKEN` (or `…_FILE`),
    /// `GOOGLE_APPLICATION_CREDENTIALS`, the application default credentials of `gcloud`, the metadata server.
    ///
    /// # Errors
    /// When what is named can't be used.
    pub fn find(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CredentialsError> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let source = if let Some(token) = variable("CLOUDSDK_AUTH_ACCESS_TOKEN") {
            Source::Token(token.trim().to_owned().into())
        } else if let Some(path) = variable("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE") {
            Source::TokenFile(path.into())
        } else if let Some(path) = variable("GOOGLE_APPLICATION_CREDENTIALS") {
            file(path.into())?
        } else {
            match default_file(&variable) {
                Some(path) if path.is_file() => file(path)?,
                _ => Source::Metadata { host: variable("GCE_METADATA_HOST") },
            }
        };
        Ok(Self { source, live: Mutex::new(None) })
    }

    /// This token and no other.
    #[must_use]
    pub fn token_only(token: SecretString) -> Self {
        Self { source: Source::Token(token), live: Mutex::new(None) }
    }

    /// Where they come from, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.source {
            Source::Token(_) => "CLOUDSDK_AUTH_ACCESS_TOKEN".to_owned(),
            Source::TokenFile(path) => format!("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE {}", path.display()),
            Source::File { path, .. } => path.display().to_string(),
            Source::Metadata { host } => match host {
                Some(host) => format!("the metadata server {host}"),
                None => "the metadata server".to_owned(),
            },
        }
    }

    /// A token that is good for a while; renewed before it expires.
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub async fn token(&self) -> Result<SecretString, CredentialsError> {
        match &self.source {
            Source::Token(token) => return Ok(token.clone()),
            Source::TokenFile(path) => return Ok(read(path)?.trim().to_owned().into()),
            Source::File { .. } | Source::Metadata { .. } => {}
        }
        let live = {
            let mut slot = self.live.lock().await;
            match &*slot {
                Some(live) => live.clone(),
                None => slot.insert(self.build()?).clone(),
            }
        };
        let (within, is_metadata) = match self.source {
            Source::Metadata { .. } => (METADATA_WITHIN, true),
            _ => (TOKEN_WITHIN, false),
        };
        let outcome = tokio::time::timeout(within, live.access_token()).await;
        if !matches!(outcome, Ok(Ok(_))) {
            // Its cache would give the same failure again, also when it has long passed.
            *self.live.lock().await = None;
        }
        match outcome {
            Ok(Ok(token)) => Ok(token.token.into()),
            Ok(Err(error)) if is_metadata => Err(self.nothing_found(&one_line(&error))),
            Ok(Err(error)) => {
                Err(CredentialsError::Refused { from: self.describe(), problem: one_line(&error) })
            }
            Err(_) if is_metadata => Err(self.nothing_found("no answer")),
            Err(_) => {
                Err(CredentialsError::Refused { from: self.describe(), problem: "no answer".to_owned() })
            }
        }
    }

    /// A new token, for when the one at hand was turned away.
    pub(crate) async fn renewed_token(&self) -> Result<SecretString, CredentialsError> {
        *self.live.lock().await = None;
        self.token().await
    }

    pub(crate) fn rejected(&self, message: &str) -> CredentialsError {
        CredentialsError::Rejected { from: self.describe(), message: message.to_owned() }
    }

    fn nothing_found(&self, why: &str) -> CredentialsError {
        CredentialsError::Missing {
            tried: format!(
                "GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud has no application default credentials, and {} does \
                 not help ({why})",
                self.describe()
            ),
        }
    }

    fn build(&self) -> Result<AccessTokenCredentials, CredentialsError> {
        let built = match &self.source {
            Source::Metadata { host } => {
                let builder = mds::Builder::default().with_scopes([SCOPE]);
                match host {
                    Some(host) => builder.with_endpoint(format!("http://{host}")),
                    None => builder,
                }
                .build_access_token_credentials()
            }
            Source::File { path, kind } => match kind {
                FileKind::ServiceAccount => service_account::Builder::new(json(path)?)
                    .with_access_specifier(service_account::AccessSpecifier::from_scopes([SCOPE]))
                    .build_access_token_credentials(),
                FileKind::AuthorizedUser => {
                    user_account::Builder::new(json(path)?).build_access_token_credentials()
                }
                FileKind::Other => Builder::default().with_scopes([SCOPE]).build_access_token_credentials(),
            },
            Source::Token(_) | Source::TokenFile(_) => unreachable!("they are tokens already"),
        };
        built.map_err(|error| CredentialsError::Refused { from: self.describe(), problem: error.to_string() })
    }
}

/// Source: `gcloud topic configurations`; the file's name is Google's libraries'.
fn default_file(variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let config = variable("CLOUDSDK_CONFIG")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config/gcloud")))?;
    Some(config.join("application_default_credentials.json"))
}

fn file(path: PathBuf) -> Result<Source, CredentialsError> {
    let value = json(&path)?;
    let kind = match value["type"].as_str() {
        Some("service_account") => FileKind::ServiceAccount,
        Some("authorized_user") => FileKind::AuthorizedUser,
        Some(_) => FileKind::Other,
        None => {
            return Err(CredentialsError::Malformed {
                path,
                problem: "no credentials: it has no type".to_owned(),
            });
        }
    };
    Ok(Source::File { path, kind })
}

fn json(path: &Path) -> Result<serde_json::Value, CredentialsError> {
    serde_json::from_str(&read(path)?).map_err(|error| CredentialsError::Malformed {
        path: path.to_owned(),
        // The error of serde_json tells the place and not what is there.
        problem: format!("no JSON (line {}, column {})", error.line(), error.column()),
    })
}

fn read(path: &Path) -> Result<String, CredentialsError> {
    std::fs::read_to_string(path).map_err(|source| CredentialsError::File { path: path.to_owned(), source })
}

fn one_line(error: &AuthError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
