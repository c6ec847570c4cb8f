//! Notes on what was built, so that an unchanged image is not built again.
//!
//! The note of an output says what it was built from and what the file looked like to the filesystem right after. As long
//! as both are the same, nothing has to be done: any write to the file changes its change time, which nobody can set.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::build::Report;
use crate::interrupt::TemporaryPath;
use crate::layer::cache::Cache;

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Digest of everything that the content depends on.
    key: String,
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    /// What was said about the build.
    report: Report,
}

/// The report of the build that made `output`, if it was made from the same and not touched since.
pub(crate) fn unchanged(cache: &Cache, output: &Path, key: &str) -> Option<Report> {
    let note = fs::read(cache.note(output)?).ok()?;
    let stamp: Stamp = serde_json::from_slice(&note).ok()?;
    let now = stamp_of(output, key, stamp.report.clone())?;
    (now == stamp).then_some(stamp.report)
}

/// Notes that `output` has just been built. A note that can't be written costs a build next time, nothing else.
pub(crate) fn write(cache: &Cache, output: &Path, key: &str, report: &Report) {
    let (Some(path), Some(stamp)) = (cache.note(output), stamp_of(output, key, report.clone())) else {
        return;
    };
    let name = path.with_extension(std::process::id().to_string());
    let temporary = TemporaryPath::new(name.clone());
    let text = serde_json::to_vec(&stamp).unwrap_or_default();
    if fs::write(&name, text).and_then(|()| temporary.publish(&path)).is_err() {
        let _ = fs::remove_file(path);
    }
}

fn stamp_of(output: &Path, key: &str, report: Report) -> Option<Stamp> {
    let file = fs::symlink_metadata(output).ok().filter(fs::Metadata::is_file)?;
    Some(Stamp {
        key: key.to_owned(),
        device: file.dev(),
        inode: file.ino(),
        size: file.size(),
        changed: (file.ctime(), file.ctime_nsec()),
        modified: (file.mtime(), file.mtime_nsec()),
        report,
    })
}
