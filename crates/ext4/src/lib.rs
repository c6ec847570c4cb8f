//! Writes ext4 images from a stream of entries, in one deterministic pass.
//!
//! A [`Writer`] takes directories, files, links and special files in any order that names parents first, writes their
//! content straight to its final place, and completes the filesystem in [`Writer::finish`]. No root, no mount, no loop
//! device and no e2fsprogs are needed. Equal options and equal entries give equal bytes.
//!
//! ```
//! use clarateach_ext4::{FileMap, Metadata, Node, Options, Writer};
//!
//! let file = tempfile::tempfile()?;
//! let mut writer = Writer::new(file, Options::new(64 << 20, b"example"))?;
//! let etc = writer.directory(Node::ROOT, b"etc", &Metadata::root(0o755))?;
//! let text = b"seat-1\n";
//! writer.file(etc, b"hostname", &Metadata::root(0o644), &FileMap::dense(7), &mut &text[..])?;
//! let (_file, summary) = writer.finish()?;
//! assert!(summary.used < 10 << 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is written
//!
//! Blocks of 4096 bytes, inodes of 256 bytes, groups of 128 MiB, up to 64 TiB. Features: ext_attr, dir_index,
//! sparse_super2, filetype, extents, 64bit, flex_bg, sparse_super, large_file, huge_file, dir_nlink, extra_isize,
//! metadata_csum, and has_journal if asked for. Linux mounts this read-write from 4.14 on (all of them exist since 3.18).
//! No blocks are reserved for root.
//!
//! ```text
//! block 0  superblock | descriptors | content and attribute blocks, in the order of the calls …
//!          … directories | extent trees | bitmaps and inode tables of every group reached so far | free
//! further  groups that nothing reached: marked as never used, nothing of them is written
//! ```
//!
//! The modules name the kernel document that describes the structure each of them writes; offsets in the code are those
//! of that document.
//!
//! # Limits
//!
//! Extended attributes of one entry must fit into the inode and one block (about 4 KiB), files are at most 16 TiB, and a
//! directory has room for about 260,000 index entries (no `large_dir`), which is some four million names of the longest kind.

mod acl;
mod checksum;
mod content;
mod dir;
mod empty;
mod error;
mod extents;
mod groups;
mod hash;
mod image;
mod inode;
mod journal;
mod layout;
mod le;
mod metadata;
mod options;
mod seal;
mod space;
mod superblock;
mod tree;
mod writer;
mod xattr;

pub use empty::{EMPTY_JOURNAL, write_empty};
pub use error::{Error, Result};
pub use layout::BLOCK_SIZE;
pub use metadata::{FileMap, Kind, Metadata, Special, Timestamp, Xattr};
pub use options::{Options, Summary};
pub use tree::Node;
pub use writer::Writer;
