//! The client: calls made, tried again where that may help, and operations awaited.

mod calls;
mod send;
mod wait;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::credentials::Credentials;
use crate::error::GcpError;
use crate::names::{ResourceName, check_project};

/// Where the API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// Another base URL, up to and without `/projects`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self(url.trim_end_matches('/').to_owned())
    }

    /// The base URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::new("https://compute.googleapis.com/compute/v1")
    }
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// First pause before a call is made again; each further one is twice as long, with jitter.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// How often a call is made again.
    pub retries: usize,
    /// For an answer to a call that answers at once.
    pub answer: Duration,
    /// For an operation to be over.
    pub operation: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(20),
            retries: 6,
            answer: Duration::from_secs(30),
            operation: Duration::from_secs(20 * 60),
        }
    }
}

/// A project and one of Google's zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectInZone {
    /// The project's id.
    pub project: String,
    /// The zone, like `us-central1-a`.
    pub zone: ResourceName,
}

impl ProjectInZone {
    /// Checked, so that both can be part of a URL.
    ///
    /// # Errors
    /// For a name that can't be one.
    pub fn new(project: &str, zone: &str) -> Result<Self, GcpError> {
        check_project(project)?;
        Ok(Self { project: project.to_owned(), zone: zone.parse()? })
    }

    /// The same project in another zone.
    #[must_use]
    pub fn in_zone(&self, zone: ResourceName) -> Self {
        Self { project: self.project.clone(), zone }
    }

    fn zonal(&self, rest: &str) -> String {
        format!("projects/{}/zones/{}/{rest}", self.project, self.zone)
    }

    fn global(&self, rest: &str) -> String {
        format!("projects/{}/global/{rest}", self.project)
    }
}

impl fmt::Display for ProjectInZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.project, self.zone)
    }
}

/// A client of one project and zone. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Compute {
    http: reqwest::Client,
    endpoint: Endpoint,
    place: ProjectInZone,
    credentials: Arc<Credentials>,
    patience: Patience,
}

impl Compute {
    /// A client; connects to nobody yet.
    ///
    /// # Errors
    /// When this machine's TLS can't be set up.
    pub fn new(
        endpoint: Endpoint,
        place: ProjectInZone,
        credentials: Arc<Credentials>,
        patience: Patience,
    ) -> Result<Self, GcpError> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("clarateach/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| GcpError::Unreachable {
                call: "setting up HTTPS".to_owned(),
                endpoint: endpoint.as_str().to_owned(),
                source,
            })?;
        Ok(Self { http, endpoint, place, credentials, patience })
    }

    /// Project and zone.
    #[must_use]
    pub fn place(&self) -> &ProjectInZone {
        &self.place
    }

    /// Where the API is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The same client for another zone of the project.
    #[must_use]
    pub fn in_zone(&self, zone: ResourceName) -> Self {
        Self { place: self.place.in_zone(zone), ..self.clone() }
    }
}
