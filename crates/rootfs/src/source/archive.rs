//! Archives made by `docker save`, in the old form (a directory per layer) and the new (an OCI layout).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::layout::{self, ArchiveFiles};
use super::{Found, Image, SourceError};
use crate::layer::blob::Bytes;
use crate::layer::cache::Cache;
use crate::layer::spool::{Spool, SpoolWriter};
use crate::layer::unpack::Compression;
use crate::tar::{Entries, EntryKind, ReadAt};

/// The most entries of such an archive.
const MOST_ENTRIES: usize = 100_000;

/// Finds the image in an archive; only headers and manifests are read. A compressed archive is unpacked for that, to `limit`
/// bytes at most, unless it is as it was when an image was found in it before.
pub(super) fn find(path: &Path, cache: &Cache, limit: u64) -> Result<Found, SourceError> {
    let open = |path: &Path| {
        let file = File::open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if kind.is_file() {
            return Bytes::whole(file);
        }
        // A pipe: `docker save … | rootfs-builder --image docker-archive:/dev/stdin`.
        let spool = Spool::new(cache.nameless_file()?);
        io::copy(&mut &file, &mut SpoolWriter(&spool))?;
        spool.finish(Ok(()));
        Ok(Bytes::Spool(Arc::new(spool)))
    };
    let bytes = open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound {
            name: format!("docker-archive:{}", path.display()),
            place: "(there is no such file)".to_owned(),
        },
        _ => SourceError::File { path: path.to_owned(), source },
    })?;
    let place = format!("docker-archive:{}", path.display());
    let compression = compression(&bytes, &place)?;
    let state = bytes.state().filter(|_| compression != Compression::None);
    if let Some(id) = state.as_ref().and_then(|state| cache.image_in(state)) {
        return Ok(Found::new(id, move |cache: &Cache| {
            let found = look_into(unpacked(bytes, compression, &place, cache, limit)?, place.clone())?;
            if found.id != id {
                return Err(SourceError::damaged(place, "it was changed just now: try again"));
            }
            found.open(cache)
        }));
    }
    let found = look_into(unpacked(bytes, compression, &place, cache, limit)?, place)?;
    if let Some(state) = state {
        cache.note_image_in(&state, &found.id);
    }
    Ok(found)
}

/// Finds the image in a plain archive.
fn look_into(bytes: Bytes, place: String) -> Result<Found, SourceError> {
    let files = index(bytes, place)?;
    if let Some(saved) = layout::saved_config(&files)? {
        return Ok(Found::new(saved.digest, move |_: &Cache| layout::saved_image(&files, &saved)));
    }
    if files.index.contains_key("index.json") {
        let manifest = layout::oci_manifest(&files, None)?;
        return Ok(Found::new(manifest.config.digest, move |_: &Cache| layout::oci_image(&files, &manifest)));
    }
    Err(SourceError::damaged(files.place, "there is no manifest.json, so `docker save` did not write it"))
}

/// Opens the image in an archive that has arrived in a spool.
pub(super) fn open_spool(spool: Arc<Spool>, place: String) -> Result<Image, SourceError> {
    let files = index(Bytes::Spool(spool), place)?;
    match layout::saved_config(&files)? {
        Some(saved) => layout::saved_image(&files, &saved),
        None => Err(SourceError::damaged(&files.place, "the daemon sent an image without a manifest")),
    }
}

fn compression(bytes: &Bytes, place: &str) -> Result<Compression, SourceError> {
    let mut start = [0; 4];
    let len = bytes.read_at(&mut start, 0).map_err(|error| SourceError::damaged(place, error))?;
    Ok(Compression::of(&start[..len]))
}

/// The archive as plain tar: `docker save | gzip` is common.
fn unpacked(
    bytes: Bytes,
    compression: Compression,
    place: &str,
    cache: &Cache,
    limit: u64,
) -> Result<Bytes, SourceError> {
    if compression == Compression::None {
        return Ok(bytes);
    }
    let spool = Spool::new(cache.nameless_file().map_err(SourceError::NoRoom)?);
    let len = compression
        .decoder(bytes.reader())
        .and_then(|decoder| io::copy(&mut decoder.take(limit.saturating_add(1)), &mut SpoolWriter(&spool)))
        .map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::NoRoom(error),
            _ => SourceError::damaged(place, format!("unpacking it: {error}")),
        })?;
    if len > limit {
        let reason = format!(
            "it unpacks to more than {limit} bytes, four times --size and 1 GiB: give a larger --size if that is meant"
        );
        return Err(SourceError::damaged(place, reason));
    }
    spool.finish(Ok(()));
    Ok(Bytes::Spool(Arc::new(spool)))
}

/// Notes where each file of the archive is. Layers that occur twice are links to the first (old `docker save`).
fn index(bytes: Bytes, place: String) -> Result<ArchiveFiles, SourceError> {
    let mut files = ArchiveFiles { bytes: bytes.clone(), index: HashMap::new(), place };
    let mut links = Vec::new();
    let mut entries = Entries::new(&bytes);
    while let Some(entry) =
        entries.next().map_err(|error| SourceError::damaged(&files.place, error_line(&error)))?
    {
        let name = normal(&String::from_utf8_lossy(&entry.path));
        if files.index.len() + links.len() > MOST_ENTRIES {
            return Err(SourceError::damaged(&files.place, "it has too many files to be an image"));
        }
        match entry.kind {
            EntryKind::File(map) => {
                let (at, len) = (entries.content_position(), map.size());
                if !files.reaches(at.saturating_add(len)) {
                    return Err(SourceError::damaged(&files.place, format!("it is cut off within {name}")));
                }
                files.index.insert(name, (at, len));
            }
            EntryKind::Symlink(target) => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let target = normal(&format!("{directory}/{}", String::from_utf8_lossy(&target)));
                links.push((name, target));
            }
            EntryKind::HardLink(target) => links.push((name, normal(&String::from_utf8_lossy(&target)))),
            EntryKind::Directory | EntryKind::Special(_) => {}
        }
    }
    for (name, target) in links {
        if let Some(&place) = files.index.get(&target) {
            files.index.insert(name, place);
        }
    }
    Ok(files)
}

/// A path without `.` and `..`; it is only ever compared with other such paths.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn error_line(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
