//! Unpacking and checking layers, side by side with the merge that reads them.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::blob::Bytes;
use super::cache::Cache;
use super::relay::{PIECE, Relay};
use super::spool::Spool;
use super::{Layer, no_room};
use crate::digest::Digest;
use crate::tar::ReadAt;

/// The largest window of a zstd frame that is accepted, as a power of two: 64 MiB.
const LARGEST_WINDOW_LOG: u32 = 26;

/// Why a layer is of no use.
#[derive(Debug, thiserror::Error)]
#[error("layer {layer}: {fault}")]
pub struct LayerError {
    /// Which one, by the digest of its tar archive.
    pub layer: Digest,
    /// What is wrong.
    #[source]
    pub fault: Fault,
}

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its bytes could not be read, stored or unpacked.
    #[error("{operation}: {source}")]
    Unpack {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It could not be fetched.
    #[error("{0}")]
    Fetch(io::Error),
    /// There is no place to unpack it to, or not enough.
    #[error("{}", no_room(.0))]
    NoRoom(io::Error),
    /// Its bytes are not those that the manifest or the configuration names.
    #[error("its digest is {found}, but should be {wanted}: the image is damaged, get it anew")]
    Mismatch {
        /// The digest of what is there.
        found: Digest,
        /// The digest that was stated.
        wanted: Digest,
    },
    /// The cache is damaged; the layer has been removed from it.
    #[error("the cached copy was damaged and is now removed: try again")]
    DamagedCache,
    /// It unpacks to more than could ever be used.
    #[error(
        "it unpacks to more than {limit} bytes, four times --size and 1 GiB: give a larger --size if that is meant"
    )]
    Bomb {
        /// The limit in bytes.
        limit: u64,
    },
    /// The build was called off.
    #[error("interrupted")]
    Interrupted,
}

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip (RFC 1952), possibly of several members.
    Gzip,
    /// Zstandard (RFC 8878), possibly of several frames.
    Zstd,
}

impl Compression {
    /// Told by the first bytes; media types are often wrong.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// A decoder for it.
    ///
    /// # Errors
    /// If the decoder can't be set up.
    pub fn decoder<'a>(self, source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        let source = BufReader::with_capacity(PIECE, source);
        Ok(match self {
            Self::None => Box::new(source),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(LARGEST_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// The work on the layers of one image, and where their tar archives are or will be.
#[derive(Debug)]
pub struct Unpacking {
    /// One tar archive per layer, in the order of the layers; those that are still being unpacked can be read meanwhile.
    pub tars: Vec<Arc<Relay>>,
    jobs: Mutex<VecDeque<Job>>,
    failed: Mutex<Option<LayerError>>,
    cache: Cache,
    limit: u64,
}

#[derive(Debug)]
struct Job {
    layer: Digest,
    task: Task,
}

#[derive(Debug)]
enum Task {
    Unpack { from: Bytes, to: Arc<Spool> },
    Check { relay: Arc<Relay>, wanted: Digest, then: Then },
}

#[derive(Debug)]
enum Then {
    Nothing,
    Keep(Arc<Spool>),
    /// It came out of the cache.
    Cached,
}

impl Unpacking {
    /// Plans the work on `layers`; nothing is done yet but looking at their first bytes. A layer may unpack to `limit`
    /// bytes.
    ///
    /// # Errors
    /// [`LayerError`] if a layer can't be read at all or there is no place to unpack it to.
    pub fn plan(layers: &[Layer], cache: &Cache, limit: u64) -> Result<Self, LayerError> {
        let (mut unpack, mut check) = (VecDeque::new(), VecDeque::new());
        let mut tars = Vec::with_capacity(layers.len());
        // From the top: the merge wants the highest layer first.
        for layer in layers.iter().rev() {
            let fail = |operation| {
                move |source| LayerError { layer: layer.diff_id, fault: Fault::Unpack { operation, source } }
            };
            let job = |task| Job { layer: layer.diff_id, task };
            let mut checked_against = |wanted, bytes: &Bytes, then| {
                let relay = Arc::new(Relay::checked(bytes.clone()));
                check.push_back(job(Task::Check { relay: Arc::clone(&relay), wanted, then }));
                relay
            };
            let unchecked = |bytes: &Bytes| Arc::new(Relay::unchecked(bytes.clone()));
            if let Some(file) = cache.get(&layer.diff_id) {
                let bytes = Bytes::whole(file).map_err(fail("reading the cache"))?;
                let known = is_checked(cache, &layer.diff_id, &bytes);
                tars.push(if known {
                    unchecked(&bytes)
                } else {
                    checked_against(layer.diff_id, &bytes, Then::Cached)
                });
                continue;
            }
            if let Some(wanted) = layer.digest.filter(|digest| *digest != layer.diff_id) {
                checked_against(wanted, &layer.bytes, Then::Nothing);
            }
            let mut checked = |bytes: &Bytes, then| checked_against(layer.diff_id, bytes, then);
            if let (Bytes::Spool(spool), true) = (&layer.bytes, layer.plain) {
                tars.push(checked(&layer.bytes, Then::Keep(Arc::clone(spool))));
                continue;
            }
            if let Bytes::File { .. } = layer.bytes {
                let mut start = [0; 4];
                let len = layer.bytes.read_at(&mut start, 0).map_err(fail("reading it"))?;
                if Compression::of(&start[..len]) == Compression::None {
                    let known = is_checked(cache, &layer.diff_id, &layer.bytes);
                    tars.push(if known {
                        unchecked(&layer.bytes)
                    } else {
                        checked(&layer.bytes, Then::Nothing)
                    });
                    continue;
                }
            }
            let room = |source| LayerError { layer: layer.diff_id, fault: Fault::NoRoom(source) };
            let file = cache.nameless_file().map_err(room)?;
            let to = Arc::new(Spool::new(file));
            unpack.push_back(job(Task::Unpack { from: layer.bytes.clone(), to: Arc::clone(&to) }));
            tars.push(checked(&Bytes::Spool(Arc::clone(&to)), Then::Keep(to)));
        }
        tars.reverse();
        // Checks of what is being unpacked wait for it: they come after all unpacking has been begun.
        unpack.append(&mut check);
        Ok(Self { tars, jobs: Mutex::new(unpack), failed: Mutex::new(None), cache: cache.clone(), limit })
    }

    /// Number of threads that have something to do.
    pub fn workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        cores.min(self.lock_jobs().len())
    }

    /// Does the work until there is none left; to be called on as many threads as there are [`Unpacking::workers`].
    pub fn work(&self, interrupted: &AtomicBool) {
        loop {
            let Some(job) = self.lock_jobs().pop_front() else { return };
            if let Err(fault) = self.run(&job, interrupted) {
                self.note(job.layer, fault);
            }
        }
    }

    fn note(&self, layer: Digest, fault: Fault) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // A wrong digest explains a broken archive, and not the other way round.
        let better = matches!(fault, Fault::Mismatch { .. } | Fault::DamagedCache)
            && !matches!(failed.as_ref().map(|error| &error.fault), Some(Fault::Mismatch { .. }));
        if failed.is_none() || better {
            *failed = Some(LayerError { layer, fault });
        }
    }

    /// What went wrong, once all work is done.
    pub fn into_error(self) -> Option<LayerError> {
        self.failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_jobs(&self) -> std::sync::MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, job: &Job, interrupted: &AtomicBool) -> Result<(), Fault> {
        match &job.task {
            Task::Unpack { from, to } => {
                match unpack(from, to, self.limit, interrupted) {
                    Ok(()) => to.finish(Ok(())),
                    Err(fault) => {
                        let reason = io::Error::other(fault.to_string());
                        // Before those who wait for it hear of it: what they say explains nothing.
                        self.note(job.layer, fault);
                        to.finish(Err(&reason));
                    }
                }
                Ok(())
            }
            Task::Check { relay, wanted, then } => {
                let bytes = relay.bytes();
                let before = bytes.state();
                let found = hash(relay, interrupted)?;
                if found != *wanted {
                    if matches!(then, Then::Cached) {
                        self.cache.remove(&job.layer);
                        return Err(Fault::DamagedCache);
                    }
                    return Err(Fault::Mismatch { found, wanted: *wanted });
                }
                match (then, before) {
                    (Then::Keep(spool), _) => self.cache.keep(&job.layer, spool.file()),
                    (_, Some(before)) if bytes.state().as_ref() == Some(&before) => {
                        self.cache.note_checked(wanted, &before);
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }
}

/// Why bytes that are still coming will not come.
fn failure(bytes: &Bytes) -> Option<io::Error> {
    match bytes {
        Bytes::File { .. } => None,
        Bytes::Spool(spool) => spool.failure(),
    }
}

fn is_checked(cache: &Cache, digest: &Digest, bytes: &Bytes) -> bool {
    bytes.state().is_some_and(|state| cache.is_checked(digest, &state))
}

fn unpack(from: &Bytes, to: &Spool, limit: u64, interrupted: &AtomicBool) -> Result<(), Fault> {
    let reading = |source| match failure(from) {
        Some(error) => Fault::Fetch(error),
        None => Fault::Unpack { operation: "unpacking it failed, it is corrupt or cut off", source },
    };
    let mut start = [0; 4];
    let len = from.read_at(&mut start, 0).map_err(reading)?;
    let mut decoder = Compression::of(&start[..len]).decoder(from.reader()).map_err(reading)?;
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        let len = decoder.read(&mut piece).map_err(reading)?;
        if len == 0 {
            return Ok(());
        }
        if interrupted.load(Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        total += len as u64;
        if total > limit {
            return Err(Fault::Bomb { limit });
        }
        to.append(&piece[..len]).map_err(Fault::NoRoom)?;
    }
}

fn hash(relay: &Relay, interrupted: &AtomicBool) -> Result<Digest, Fault> {
    let mut hash = Sha256::new();
    let mut check = relay.check();
    loop {
        let piece = check.next_piece().map_err(|source| match failure(relay.bytes()) {
            Some(error) => Fault::Fetch(error),
            None => Fault::Unpack { operation: "reading it to check its digest", source },
        })?;
        if piece.is_empty() {
            return Ok(Digest::from_hash(hash));
        }
        if interrupted.load(Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        hash.update(piece);
    }
}
