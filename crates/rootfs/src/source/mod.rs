//! Where images come from.

mod archive;
mod docker;
mod dockerfile;
mod graph;
mod layout;
mod oci_dir;
mod reference;
mod registry;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::digest::{Digest, NotADigest};
use crate::layer::cache::Cache;
use crate::layer::{Layer, no_room};
use crate::manifest::{ManifestError, Platform};

pub use dockerfile::build as build_dockerfile;
pub use reference::ImageName;

/// An image whose layers can be read, or will be while the build goes on.
#[derive(Debug)]
pub struct Image {
    /// Digest of its configuration, which names its layers.
    pub config: Digest,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The machine it is for, if it says.
    pub platform: Option<Platform>,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// Where it came from, in words.
    pub origin: String,
    /// What goes on as long as layers are being fetched.
    pub fetching: Option<registry::Fetching>,
}

/// What opens the layers of an image that was found.
type Open = dyn FnOnce(&Cache) -> Result<Image, SourceError>;

/// An image that is known by name and digest, its layers not yet opened.
pub struct Found {
    /// Digest of configuration or manifest: what changes when anything in the image does.
    pub id: Digest,
    open: Box<Open>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Found {
    fn new(id: Digest, open: impl FnOnce(&Cache) -> Result<Image, SourceError> + 'static) -> Self {
        Self { id, open: Box::new(open) }
    }

    /// Opens the layers; those of a registry are fetched from now on.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open(self, cache: &Cache) -> Result<Image, SourceError> {
        (self.open)(cache)
    }
}

/// Finds an image. An archive that is compressed as a whole may unpack to `limit` bytes.
///
/// # Errors
/// [`SourceError`].
pub fn find(name: &ImageName, cache: &Cache, limit: u64) -> Result<Found, SourceError> {
    match name {
        ImageName::OciDir { path, tag } => oci_dir::find(path, tag.as_deref()),
        ImageName::DockerArchive(path) => archive::find(path, cache, limit),
        ImageName::Daemon(name) => docker::find(name),
        ImageName::Registry(reference) => registry::find(reference),
        ImageName::Any(name) => find_anywhere(name),
    }
}

/// A name without a prefix: in the Docker daemon if it has it, else in a registry.
fn find_anywhere(name: &str) -> Result<Found, SourceError> {
    let local = match docker::find(name) {
        Ok(found) => return Ok(found),
        Err(error @ (SourceError::NotFound { .. } | SourceError::NoDaemon { .. })) => error,
        Err(error) => return Err(error),
    };
    registry::find(name).map_err(|remote| match remote {
        SourceError::BadName { .. } => remote,
        remote => {
            SourceError::Nowhere { name: name.to_owned(), local: one_line(&local), remote: one_line(&remote) }
        }
    })
}

/// Why an image can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The name is not one.
    #[error("{name:?} is no image: {reason}")]
    BadName {
        /// What was given.
        name: String,
        /// Why it can't be.
        reason: String,
    },
    /// It is not there.
    #[error("{name} was not found {place}")]
    NotFound {
        /// What was looked for.
        name: String,
        /// Where, and what to do.
        place: String,
    },
    /// It is neither in the daemon nor in its registry.
    #[error("{name} can't be had: {local}; {remote}")]
    Nowhere {
        /// What was looked for.
        name: String,
        /// What the daemon says.
        local: String,
        /// What the registry says.
        remote: String,
    },
    /// There is no Docker daemon.
    #[error(
        "no Docker daemon answers at {address} ({reason}): start it, or take the image from oci:DIR or docker-archive:FILE"
    )]
    NoDaemon {
        /// Where it was expected.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The Docker daemon or the build failed.
    #[error("{operation}: {reason}")]
    Docker {
        /// What was asked of it.
        operation: String,
        /// What it answered.
        reason: String,
    },
    /// A registry can't be reached, refuses, or answers nonsense.
    #[error("registry {registry}: {reason}")]
    Registry {
        /// Its host.
        registry: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no place to store what is fetched, or not enough.
    #[error("{}", no_room(.0))]
    NoRoom(io::Error),
    /// What is there is damaged or no image.
    #[error("{place}: {reason}")]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

impl SourceError {
    fn damaged(place: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Damaged { place: place.to_string(), reason: reason.to_string() }
    }
}

/// Adds where a manifest was.
fn in_manifest(place: impl fmt::Display) -> impl FnOnce(ManifestError) -> SourceError {
    move |error| SourceError::damaged(place, error)
}

fn not_a_digest(place: impl fmt::Display) -> impl FnOnce(NotADigest) -> SourceError {
    move |error| SourceError::damaged(place, error)
}

fn one_line(error: &SourceError) -> String {
    error.to_string().replace('\n', " ")
}
