//! Container images to bootable ext4 root filesystems.
//!
//! ```text
//! source ──▶ layers ──▶ unpack and check, in parallel ──▶ merge, top layer first ──▶ inject ──▶ ext4 ──▶ publish
//!  oci: docker-archive: daemon registry      │
//!                                            └─▶ cache of unpacked layers, by digest
//! ```
//!
//! Content is read once and written once, to its final place. Nothing is mounted, no tree is unpacked to disk, and nothing
//! needs root. [`build::build`] is the whole way; [`cli`] is the tool `rootfs-builder` around it.

pub mod build;
pub mod cli;
mod digest;
mod error;
pub mod inject;
pub mod interrupt;
pub mod layer;
pub mod manifest;
pub mod merge;
mod progress;
mod publish;
mod size;
pub mod source;
mod stamp;
pub mod tar;

pub use digest::{Digest, NotADigest};
pub use error::{BuildError, exit_code};
pub use progress::Progress;
pub use publish::{Output, PublishError};
pub use size::{Size, exact, readable};
