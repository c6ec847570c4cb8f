//! Why a build failed, on one line, and the exit code that says so to scripts.

use std::error::Error;
use std::io;

use crate::inject::InitError;
use crate::layer::unpack::{Fault, LayerError};
use crate::merge::MergeError;
use crate::publish::{PublishError, hint};
use crate::size::{exact, readable};
use crate::source::SourceError;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The image can't be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer is damaged.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A layer can't be merged.
    #[error("layer {layer}")]
    Merge {
        /// Which one, counted from 1, the lowest.
        layer: usize,
        /// Why.
        #[source]
        error: MergeError,
    },
    /// More layers than can be told apart.
    #[error("the image has {0} layers, and no more than 4096 can be merged")]
    TooManyLayers(usize),
    /// The filesystem can't be written.
    #[error(transparent)]
    Ext4(#[from] clarateach_ext4::Error),
    /// The output can't be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The init can't be used.
    #[error(transparent)]
    Init(#[from] InitError),
}

/// Exit codes, as documented in docs/rootfs.md.
pub mod exit_code {
    /// Something else, most likely a mistake in the program.
    pub const OTHER: u8 = 1;
    /// The command line, or a file named in it, is wrong.
    pub const USAGE: u8 = 2;
    /// The image can't be had: not found, unreachable, unauthorised.
    pub const SOURCE: u8 = 3;
    /// The image is damaged or refused.
    pub const DAMAGED: u8 = 4;
    /// The content does not fit.
    pub const TOO_SMALL: u8 = 5;
    /// The output can't be written.
    pub const OUTPUT: u8 = 6;
}

impl BuildError {
    /// The exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Source(SourceError::BadName { .. }) | Self::Init(_) => exit_code::USAGE,
            Self::Source(SourceError::NoRoom(_)) => exit_code::OUTPUT,
            Self::Source(SourceError::Damaged { .. }) | Self::TooManyLayers(_) => exit_code::DAMAGED,
            Self::Source(_) => exit_code::SOURCE,
            Self::Layer(error) => match &error.fault {
                Fault::Unpack { source, .. } if is_space(source) => exit_code::OUTPUT,
                Fault::Fetch(error) if is_space(error) => exit_code::OUTPUT,
                Fault::Fetch(error) if error.kind() != io::ErrorKind::InvalidData => exit_code::SOURCE,
                Fault::NoRoom(_) => exit_code::OUTPUT,
                Fault::Interrupted => exit_code::OTHER,
                _ => exit_code::DAMAGED,
            },
            Self::Merge { error: MergeError::Ext4(error), .. } | Self::Ext4(error) => match error {
                clarateach_ext4::Error::Image { .. } => exit_code::OUTPUT,
                clarateach_ext4::Error::TooSmall { .. } | clarateach_ext4::Error::FarTooSmall { .. } => {
                    exit_code::TOO_SMALL
                }
                clarateach_ext4::Error::Options(_) => exit_code::USAGE,
                _ => exit_code::DAMAGED,
            },
            Self::Merge { .. } => exit_code::DAMAGED,
            Self::Publish(_) => exit_code::OUTPUT,
        }
    }

    /// Everything there is to say, on one line: operation, object, cause, way out.
    pub fn one_line(&self) -> String {
        let text = match self {
            Self::Merge { error: MergeError::Ext4(error), .. } | Self::Ext4(error) => match error {
                clarateach_ext4::Error::TooSmall { needed, size } => format!(
                    "the image does not fit into {}: it needs {}, give --size {} or more",
                    readable(*size),
                    readable(*needed),
                    exact(*needed)
                ),
                clarateach_ext4::Error::FarTooSmall { size, counted, needed } => format!(
                    "the image does not fit into {}: its first {counted} files and directories need {}, and it has more: \
                     give --size above {} if that is meant",
                    readable(*size),
                    readable(*needed),
                    exact(*needed)
                ),
                clarateach_ext4::Error::Image { operation, source } => {
                    format!("writing the output ({operation}): {}", hint(source))
                }
                _ => chain(self),
            },
            // What it is made of says it all, with the way out.
            Self::Publish(error) => error.to_string(),
            _ => chain(self),
        };
        printable(&text)
    }
}

/// Text on one line, and without what a terminal would take for a command: names come from images that anybody made.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

fn is_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The error and its causes; what a cause repeats is said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        let reason = source.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        at = source.source();
    }
    text
}
