//! What a VM printed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much of it goes into a reason.
const EXCERPT: u64 = 2048;
const EXCERPT_LINES: usize = 6;

/// The last `most` bytes; nothing when nothing was printed.
///
/// # Errors
/// When it can't be read.
pub(crate) fn tail(path: &Path, most: u64) -> io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines, to go after a reason; empty when nothing was printed.
pub(crate) fn excerpt(path: &Path) -> String {
    let text = tail(path, EXCERPT).unwrap_or_default();
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned();
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(EXCERPT_LINES)..];
    if last.is_empty() { String::new() } else { format!(". Its console ends with: {}", last.join(" | ")) }
}
