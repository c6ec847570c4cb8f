//! What a worker VM does when it boots: install the agent and start it.

/// The metadata attribute that an agent takes its token from.
pub const AGENT_TOKEN_ATTRIBUTE: &str = "agent-token";

/// Run by the guest at every boot; does nothing that is already done. Source: `deploy/startup-worker.sh`.
pub const STARTUP_SCRIPT: &str = include_str!("../../../deploy/startup-worker.sh");

/// Where a worker's software comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupFrom {
    /// `https://…` or `gs://…` of an archive (`.tar.gz`) with `agent`, `workspace` and `clarateach-agent.service`, and optionally
    /// the images.
    pub url: String,
    /// The archive's SHA-256 in hexadecimal; nothing else is installed then.
    pub sha256: Option<String>,
}

impl StartupFrom {
    /// The metadata that says so.
    pub(crate) fn metadata(&self) -> Vec<(String, String)> {
        let mut metadata = vec![
            ("startup-script".to_owned(), STARTUP_SCRIPT.to_owned()),
            ("clarateach-release".to_owned(), self.url.clone()),
        ];
        if let Some(sha256) = &self.sha256 {
            metadata.push(("clarateach-release-sha256".to_owned(), sha256.clone()));
        }
        metadata
    }
}
