//! The agent's token: from the environment, a file or the GCP metadata server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::metadata::METADATA_HOST;
use super::parse::{ConfigError, NOT_A_TOKEN, Settings, is_token};
use crate::metadata;

/// Shorter tokens, in bytes, can be guessed.
pub const GOOD_TOKEN: usize = 16;
/// Outside GCP nobody answers at all.
const METADATA_WITHIN: Duration = Duration::from_secs(3);
const ATTRIBUTE: &str = "instance/attributes/agent-token";

/// Where the token comes from.
#[derive(Debug, Clone)]
pub enum Token {
    /// `AGENT_TOKEN`.
    Given(SecretString),
    /// `AGENT_TOKEN_FILE`.
    File(PathBuf),
    /// The metadata attribute `agent-token`, asked of this host (`GCE_METADATA_HOST`).
    Metadata(String),
}

/// Why there is no token. Never repeats it.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nobody gave one.
    #[error(
        "AGENT_TOKEN: no token, so nobody could be let in; set AGENT_TOKEN (or AGENT_TOKEN_FILE), or on GCP the metadata \
         attribute agent-token ({0})"
    )]
    Missing(String),
    /// The file can't be read.
    #[error("AGENT_TOKEN_FILE: {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What was found is no token.
    #[error("{from}: {NOT_A_TOKEN}")]
    Unusable {
        /// Where it was found.
        from: String,
    },
}

impl Token {
    pub(super) fn from_settings(settings: &Settings<'_>) -> Result<Self, ConfigError> {
        let file = settings.get("AGENT_TOKEN_FILE").map(PathBuf::from);
        let host = settings.get("GCE_METADATA_HOST").unwrap_or_else(|| METADATA_HOST.to_owned());
        match (settings.secret("AGENT_TOKEN")?, file) {
            (Some(_), Some(_)) => Err(ConfigError {
                variable: "AGENT_TOKEN_FILE",
                problem: "AGENT_TOKEN is set too; set only one of them".to_owned(),
            }),
            (Some(token), None) => Ok(Self::Given(token)),
            (None, Some(file)) => Ok(Self::File(file)),
            (None, None) => Ok(Self::Metadata(host)),
        }
    }

    /// Where it comes from, for people.
    #[must_use]
    pub fn source(&self) -> String {
        match self {
            Self::Given(_) => "AGENT_TOKEN".to_owned(),
            Self::File(path) => format!("AGENT_TOKEN_FILE {}", path.display()),
            Self::Metadata(host) => format!("the metadata attribute agent-token at {host}"),
        }
    }

    /// The token itself; asks the metadata server, for at most three seconds, when nothing else was said.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn obtain(&self) -> Result<SecretString, TokenError> {
        let found = match self {
            Self::Given(token) => token.clone(),
            Self::File(path) => read(path)?,
            Self::Metadata(host) => match tokio::time::timeout(METADATA_WITHIN, attribute(host)).await {
                Ok(Ok(token)) => token,
                Ok(Err(why)) => return Err(TokenError::Missing(why)),
                Err(_) => return Err(TokenError::Missing(format!("{host} does not answer"))),
            },
        };
        if is_token(&found) { Ok(found) } else { Err(TokenError::Unusable { from: self.source() }) }
    }
}

fn read(path: &Path) -> Result<SecretString, TokenError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| TokenError::File { path: path.to_owned(), source })?;
    Ok(SecretString::from(text.trim().to_owned()))
}

async fn attribute(host: &str) -> Result<SecretString, String> {
    let value = metadata::get(host, ATTRIBUTE).await?;
    Ok(value.ok_or("this instance has no such attribute")?.text.into())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A metadata server that answers one request with `answer` and gives what it was asked.
    async fn metadata(answer: &'static str) -> (Token, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap().to_ascii_lowercase()
        });
        (Token::Metadata(host), asked)
    }

    #[tokio::test]
    async fn the_metadata_attribute_is_the_token() {
        let (token, asked) =
            metadata("HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nContent-Length: 10\r\n\r\nsecret-123")
                .await;
        assert_eq!(token.obtain().await.unwrap().expose_secret(), "secret-123");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("get /computemetadata/v1/instance/attributes/agent-token "), "{asked}");
        assert!(asked.contains("metadata-flavor: google"), "{asked}");
    }

    #[tokio::test]
    async fn only_a_real_metadata_server_is_believed() {
        let (token, _) = metadata("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
        let error = token.obtain().await.unwrap_err().to_string();
        assert!(error.contains("not a GCP metadata server") && !error.contains("evil"), "{error}");
        let missing = "HTTP/1.1 404 Not Found\r\nMetadata-Flavor: Google\r\nContent-Length: 0\r\n\r\n";
        let error = metadata(missing).await.0.obtain().await.unwrap_err().to_string();
        assert!(error.contains("no such attribute") && error.contains("set AGENT_TOKEN"), "{error}");
    }

    #[tokio::test]
    async fn nobody_there_is_said_so() {
        let error = Token::Metadata("127.0.0.1:1".to_owned()).obtain().await.unwrap_err().to_string();
        assert!(error.starts_with("AGENT_TOKEN: no token"), "{error}");
    }

    #[tokio::test]
    async fn a_file_is_read_and_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "from-a-file\n").unwrap();
        assert_eq!(Token::File(path.clone()).obtain().await.unwrap().expose_secret(), "from-a-file");
        std::fs::write(&path, "two words").unwrap();
        let error = Token::File(path).obtain().await.unwrap_err().to_string();
        assert!(!error.contains("two words"), "{error}");
    }
}
