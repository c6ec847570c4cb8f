//! What can go wrong while an image is written.

use std::io;

/// The result of writing an image.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image file could not be written, read back or resized.
    #[error("writing the image: {operation}")]
    Image {
        /// What was being done to the image file.
        operation: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The content of a file could not be read from its source.
    #[error("reading the content of {path}")]
    Content {
        /// Path inside the image, lossily decoded.
        path: String,
        /// What the source said.
        source: io::Error,
    },
    /// An entry can't be represented in ext4, or contradicts an earlier one.
    #[error("{path}: {reason}")]
    Entry {
        /// Path inside the image, lossily decoded.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Everything was counted, and it does not fit.
    #[error("the content needs {needed} bytes and the filesystem has {size}")]
    TooSmall {
        /// Size of the filesystem that was asked for, in bytes.
        size: u64,
        /// The smallest size, in bytes, with which the same entries fit; a multiple of 1 MiB.
        needed: u64,
    },
    /// So much does not fit that it was not counted to the end.
    #[error("{counted} entries need {needed} bytes, the filesystem has {size}, and there are more")]
    FarTooSmall {
        /// Size of the filesystem that was asked for, in bytes.
        size: u64,
        /// Files and directories up to there, those included that were taken away again.
        counted: u64,
        /// The smallest size, in bytes, with which these would fit; a multiple of 1 MiB.
        needed: u64,
    },
    /// The options ask for a filesystem that can't exist.
    #[error("{0}")]
    Options(String),
}

impl Error {
    pub(crate) fn image(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Image { operation, source }
    }

    pub(crate) fn entry(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Entry { path: String::from_utf8_lossy(path).into_owned(), reason: reason.into() }
    }
}
