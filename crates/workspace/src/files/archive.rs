//! A directory as one compressed file.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Response, StatusCode, header};
use rustix::fs::{FileType, Mode, OFlags};

use super::{Files, content::TEMPORARY, raw::inert, root::Root};
use crate::http::{Answer, Body, BodySender, Refusal};

/// Archives made at the same time.
const AT_ONCE: usize = 2;
/// Directories within each other.
const DEEPEST: usize = 128;
/// What is handed to the connection in one go, in bytes.
const PIECE: usize = 64 << 10;

/// Answers with a `.tar.gz` of a directory or file, made while it is sent. Links go in as links; sockets, pipes and
/// what the learner can't read are left out.
pub(super) async fn download(files: &Files, path: String) -> Answer {
    let permit = files.archives.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{AT_ONCE} archives are being made already; try again");
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "BUSY", message)
    })?;
    let wanted = path.clone();
    files
        .run(move |root| {
            root.open_at(&wanted, OFlags::PATH, Mode::empty()).map_err(|e| Refusal::from_errno(e, &wanted))
        })
        .await?;
    let name = path.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("workspace").to_owned();
    let (sender, body) = Body::stream(None);
    let root = files.root.clone();
    let top = name.clone();
    let work = move || {
        let _permit = permit;
        pack(&root, &path, &top, sender);
    };
    files.pool.detached(work).map_err(|e| Refusal::internal(&e))?;

    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    inert(response.headers_mut(), &format!("{name}.tar.gz"))?;
    Ok(response)
}

/// How many archives may be under way.
pub(super) fn permits() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(AT_ONCE))
}

fn pack(root: &Root, path: &str, name: &str, sender: BodySender) {
    let out = GzEncoder::new(Pieces { sender: sender.clone(), held: Vec::new() }, Compression::fast());
    let mut archive = tar::Builder::new(out);
    let done = add_all(root, path, name, &mut archive)
        .and_then(|()| archive.into_inner())
        .and_then(GzEncoder::finish)
        .and_then(|mut pieces| pieces.flush());
    if let Err(error) = done {
        // Ends the connection without the last piece, so that nobody takes the archive for complete.
        let _ = sender.blocking_send(Err(error));
    }
}

/// An entry that goes into the archive.
struct Next {
    /// Where it is.
    path: String,
    /// As it is called in the archive.
    name: String,
    /// Directories above it in the archive.
    depth: usize,
}

/// Keeps what is to come in memory and not on the stack, which is small and the learner's to fill.
fn add_all<W: Write>(root: &Root, path: &str, name: &str, archive: &mut tar::Builder<W>) -> io::Result<()> {
    let mut stack = vec![Next { path: path.to_owned(), name: name.to_owned(), depth: 0 }];
    while let Some(next) = stack.pop() {
        let mut inside = add(root, &next, archive)?;
        // The first of them is next.
        inside.reverse();
        stack.extend(inside);
    }
    Ok(())
}

/// Adds one entry, and says what is in it.
fn add<W: Write>(root: &Root, entry: &Next, archive: &mut tar::Builder<W>) -> io::Result<Vec<Next>> {
    let Next { path, name, depth } = entry;
    let Ok(entry) = root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) else {
        return Ok(Vec::new());
    };
    let stat = rustix::fs::fstat(&entry)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_mtime(stat.st_mtime.unsigned_abs());
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            archive.append_data(&mut header, format!("{name}/"), io::empty())?;
            let Ok(directory) = root.open_directory(path) else { return Ok(Vec::new()) };
            if *depth == DEEPEST {
                return Err(io::Error::other("directories are nested too deeply"));
            }
            let names =
                super::list::names(&directory)?.into_iter().filter_map(|inner| inner.into_string().ok());
            let inside = names.filter(|inner| !inner.starts_with(TEMPORARY)).map(|inner| Next {
                path: if path.is_empty() { inner.clone() } else { format!("{path}/{inner}") },
                name: format!("{name}/{inner}"),
                depth: depth + 1,
            });
            return Ok(inside.collect());
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&entry, "", Vec::new())?;
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, target.to_string_lossy().as_ref())?;
        }
        FileType::RegularFile => {
            let Ok((file, stat)) = root.open_file(path) else { return Ok(Vec::new()) };
            let size = stat.st_size.unsigned_abs();
            header.set_size(size);
            // A file that shrinks meanwhile is filled up, one that grows is cut: the header has been written.
            let content = io::Read::take(io::Read::chain(std::fs::File::from(file), io::repeat(0)), size);
            archive.append_data(&mut header, name, content)?;
        }
        _ => {}
    }
    Ok(Vec::new())
}

/// Collects what is written into pieces for the connection, and waits while it doesn't take them.
struct Pieces {
    sender: BodySender,
    held: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.held));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
