//! Layers of a Docker daemon on this machine, read from where it keeps them instead of through its API.
//!
//! `docker save` copies every layer twice before the first byte arrives. The daemon's overlay2 store has the unpacked files
//! and, in `tar-split.json.gz`, every other byte of the original archive, so that the archive can be put together again bit by
//! bit; its digest is checked like that of any other layer. It takes root. Whatever is missing or unreadable, the caller goes
//! through the API.
//!
//! Source: github.com/vbatts/tar-split, tar/storage (`Entry`), and the layout of the store in moby's layer package.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;

use super::Image;
use crate::digest::Digest;
use crate::layer::Layer;
use crate::layer::blob::Bytes;
use crate::layer::cache::Cache;
use crate::layer::spool::Spool;
use crate::manifest::Config;

/// Bytes that are copied at a time.
const PIECE: usize = 256 * 1024;
const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// One record of `tar-split.json.gz`: bytes of the archive, or the content of a file.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "type")]
    kind: u8,
    name: Option<String>,
    /// In base64, for names that are not UTF-8.
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    payload: Option<String>,
}

/// Where one layer is in the store.
#[derive(Debug)]
struct Stored {
    records: File,
    files: PathBuf,
}

/// Opens an image in the store at `root`; `None` if it can't be read from there.
pub(super) fn open(root: &Path, id: &Digest, origin: &str, cache: &Cache) -> Option<Image> {
    let images = root.join("image/overlay2");
    let json = fs::read(images.join("imagedb/content/sha256").join(id.hex())).ok()?;
    if Digest::of(&json) != *id {
        return None;
    }
    let config = Config::parse(&json).ok()?;
    let (mut layers, mut work) = (Vec::new(), Vec::new());
    let mut chain: Option<Digest> = None;
    for &diff_id in &config.diff_ids {
        // The store knows a layer by all that is below it.
        let known_as = chain.map_or(diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes()));
        chain = Some(known_as);
        if let Some(bytes) = cache.get(&diff_id).and_then(|file| Bytes::whole(file).ok()) {
            layers.push(Layer { bytes, digest: None, diff_id, plain: false });
            continue;
        }
        let place = images.join("layerdb/sha256").join(known_as.hex());
        let files =
            root.join("overlay2").join(fs::read_to_string(place.join("cache-id")).ok()?.trim()).join("diff");
        let records = File::open(place.join("tar-split.json.gz")).ok()?;
        if !files.is_dir() {
            return None;
        }
        let spool = Arc::new(Spool::new(cache.nameless_file().ok()?));
        work.push((Stored { records, files }, Arc::clone(&spool)));
        layers.push(Layer { bytes: Bytes::Spool(spool), digest: None, diff_id, plain: true });
    }
    let assemble = move || {
        // From the top, as the merge wants them.
        for (stored, spool) in work.into_iter().rev() {
            let done = assemble(&stored, &spool);
            spool.finish(done.as_ref().copied());
        }
    };
    std::thread::Builder::new().name("layers".to_owned()).spawn(assemble).ok()?;
    let Config { created, platform, .. } = config;
    Some(Image { config: *id, created, platform, layers, origin: origin.to_owned(), fetching: None })
}

/// Puts the archive of a layer together.
fn assemble(stored: &Stored, spool: &Arc<Spool>) -> io::Result<()> {
    let directory = File::open(&stored.files)?;
    let records = BufReader::new(flate2::read::GzDecoder::new(&stored.records));
    let mut piece = vec![0; PIECE];
    let mut gathered = Vec::with_capacity(2 * PIECE);
    for record in serde_json::Deserializer::from_reader(records).into_iter::<Record>() {
        let record = record?;
        match record.kind {
            SEGMENT => gathered.extend_from_slice(&decode(record.payload.as_deref().unwrap_or_default())?),
            FILE if record.size > 0 => {
                let mut left = record.size;
                let mut file = open_beneath(&directory, &name(&record)?)?;
                while left > 0 {
                    let want = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
                    let len = file.read(&mut piece[..want])?;
                    if len == 0 {
                        return Err(io::Error::other("a file in the Docker daemon's store is too short"));
                    }
                    gathered.extend_from_slice(&piece[..len]);
                    left -= len as u64;
                    flush(&mut gathered, spool, PIECE)?;
                }
            }
            _ => {}
        }
        flush(&mut gathered, spool, PIECE)?;
    }
    flush(&mut gathered, spool, 1)
}

/// Appends what is gathered if it is at least `least` bytes.
fn flush(gathered: &mut Vec<u8>, spool: &Arc<Spool>, least: usize) -> io::Result<()> {
    if gathered.len() >= least {
        if Arc::strong_count(spool) == 1 {
            return Err(io::Error::other("nobody reads it any more"));
        }
        spool.append(gathered)?;
        gathered.clear();
    }
    Ok(())
}

fn name(record: &Record) -> io::Result<Vec<u8>> {
    match (&record.name_raw, &record.name) {
        (Some(raw), _) if !raw.is_empty() => decode(raw),
        (_, Some(name)) => Ok(name.as_bytes().to_vec()),
        _ => Err(io::Error::other("a file without a name in the Docker daemon's store")),
    }
}

fn decode(text: &str) -> io::Result<Vec<u8>> {
    BASE64_STANDARD.decode(text).map_err(io::Error::other)
}

/// Opens a file of a layer, without leaving the layer's directory and without following links.
fn open_beneath(directory: &File, name: &[u8]) -> io::Result<File> {
    let start = name.iter().position(|&byte| byte != b'/').unwrap_or(name.len());
    let (flags, resolve) = (
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    );
    let file = rustix::fs::openat2(directory, &name[start..], flags, Mode::empty(), resolve)?;
    Ok(File::from(file))
}
