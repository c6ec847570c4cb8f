//! The files API. Paths are relative to the workspace directory, UTF-8, separated by `/`.
//!
//! | call | does |
//! |---|---|
//! | `GET /files?path=` | [`Listing`] of a directory |
//! | `GET /files/{path}` | [`Content`] of a file; a [`Listing`] for a directory |
//! | `PUT /files/{path}` | [`Write`] → [`Written`]; makes parents, replaces atomically |
//! | `POST /files/{path}` | [`Change`]: rename, or make a directory → [`Changed`] |
//! | `DELETE /files/{path}` | 204; directories with all that is in them |
//! | `GET /raw/{path}`, `PUT /raw/{path}` | the bytes themselves, with ranges and ETag |
//! | `GET /archive?path=` | a `.tar.gz` of a directory |
//! | `GET /events` | server-sent [`Event`]s: `files`, `ports` |

use serde::{Deserialize, Serialize};

use crate::ports::Listener;

/// Largest file that the JSON calls read or write, in bytes.
pub const MAX_CONTENT_BYTES: u64 = 10 << 20;
/// Largest file that `PUT /raw` takes, in bytes.
pub const MAX_RAW_BYTES: u64 = 1 << 30;
/// Most entries in one listing; `truncated` says that there are more.
pub const MAX_ENTRIES: usize = 10_000;

/// How a file's bytes are put into JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// The text itself.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// Base64 with padding (RFC 4648 §4).
    #[serde(rename = "base64")]
    Base64,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, pipe or device.
    Other,
}

/// One entry of a directory. Symbolic links are described themselves, not what they point to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// File name; bytes that are not UTF-8 are shown as U+FFFD and can't be addressed.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Last change, in milliseconds since 1970.
    pub mtime: i64,
    /// Permission bits.
    pub mode: u32,
}

/// The entries of a directory, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The directory, `""` for the workspace itself.
    pub path: String,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Whether there are more than [`MAX_ENTRIES`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// A file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The file.
    pub path: String,
    /// Its bytes, in `encoding`.
    pub content: String,
    /// `utf-8` when the bytes are text (valid UTF-8 without NUL), else `base64`.
    pub encoding: Encoding,
    /// Bytes.
    pub size: u64,
    /// Last change, in milliseconds since 1970.
    pub mtime: i64,
    /// Permission bits.
    pub mode: u32,
    /// Names this version; give it back as `if_match`.
    pub etag: String,
}

/// Body of `PUT /files/{path}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The new bytes, in `encoding`.
    pub content: String,
    /// `utf-8` when missing.
    #[serde(default)]
    pub encoding: Encoding,
    /// Write only if the file still is this version; `""` only if there is none. Else 412 `CHANGED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
}

/// Answer to a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The file.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Last change, in milliseconds since 1970.
    pub mtime: i64,
    /// Permission bits.
    pub mode: u32,
    /// Names the new version.
    pub etag: String,
}

/// Body of `POST /files/{path}`: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Move it to this path; parents are made, 409 `ALREADY_EXISTS` if something is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rename_to: Option<String>,
    /// Make a directory here, with its parents; fine if it is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mkdir: Option<bool>,
}

/// Answer to a [`Change`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Where it is now.
    pub path: String,
}

/// What `GET /events` says, as server-sent events named after the tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
pub enum Event {
    /// Something changed in these directories.
    Files(FilesChanged),
    /// The listeners are now these.
    Ports(PortsChanged),
}

/// Data of the event `files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesChanged {
    /// Directories whose entries or files changed, relative to the workspace, `""` for itself.
    pub directories: Vec<String>,
    /// Whether changes may have been missed, so that everything shown should be read again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overflow: bool,
}

/// Data of the event `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsChanged {
    /// All listeners now.
    pub ports: Vec<Listener>,
}
