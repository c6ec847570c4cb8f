//! What is wanted and what was made, on disk: an append-only log, one event per line.
//!
//! ```text
//! 5f1c0b1e9d3a7c42 {"event":"intended","workshop":…,"slot":{…},"spec":{…},"phase":"making",…}
//! 0e77c1a2b3d4e5f6 {"event":"spawned","instance":"vm-…","process":{"pid":…,"start_ticks":…,"boot_id":…}}
//! a1b2c3d4e5f60718 {"event":"phase","instance":"vm-…","phase":"live","reason":null}
//! 18076f5e4d3c2b1a {"event":"gone","instance":"vm-…"}
//! ```
//!
//! The first word is the start of the rest's BLAKE3. A line that does not match (torn, or damaged on disk) goes to
//! `journal.damaged` and the rest is read on; a VM that loses its record by that is found by its instance and removed.
//!
//! An intent is written before anything is made ([`Journal::write`]), and on disk before a VMM is started or anybody is
//! answered ([`Journal::synced`]): what is made meanwhile goes with the host, or is found by its name. What follows is only
//! written: it outlives this process at once, and should the host go down too, so have the VMs that it speaks of. One
//! thread syncs for all who wait. The log is rewritten when most of it is history. Why a log: docs/adr/0061-vm-journal.md.

mod record;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub(crate) use record::{Event, Record};

/// A log this short is never worth rewriting.
const SMALL_LOG: usize = 2048;
/// Hex digits of the checksum.
const CHECKSUM: usize = 16;

/// What was found when the journal was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    /// The VMs that are written down.
    pub(crate) records: Vec<Record>,
    /// Lines that were set aside.
    pub(crate) damaged: usize,
}

/// The log. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    synced: watch::Receiver<Synced>,
}

/// How many lines are known to be on disk, and what went wrong.
#[derive(Debug, Clone, Default)]
struct Synced {
    lines: u64,
    failure: Option<(io::ErrorKind, String)>,
}

#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    wake: Condvar,
}

#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    /// Length in bytes up to the last whole line.
    len: u64,
    /// Lines in the file.
    lines: usize,
    /// Lines ever written by this process.
    written: u64,
    /// Up to which somebody waits to see them on disk.
    asked: u64,
    records: HashMap<String, Record>,
    closed: bool,
}

impl Journal {
    /// Opens the log at `path`, or starts one.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub(crate) fn open(path: &Path) -> io::Result<Opened> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut records = HashMap::new();
        let mut damaged = Vec::new();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match decode(line) {
                Some(event) => replay(&mut records, event),
                None => damaged.push(line),
            }
        }
        if !damaged.is_empty() {
            set_aside(&path.with_extension("damaged"), &damaged)?;
        }
        let log = rewrite(path, records)?;
        let records = log.records.values().cloned().collect();
        let shared = Arc::new(Shared { log: Mutex::new(log), wake: Condvar::new() });
        let (publish, synced) = watch::channel(Synced::default());
        let syncing = shared.clone();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || sync_for_all(&syncing, &publish))?;
        Ok(Opened { journal: Self { shared, synced }, records, damaged: damaged.len() })
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an event; it outlives this process when this returns, and the host's next crash when [`Journal::synced`]
    /// says so. Gives the line's number.
    ///
    /// # Errors
    /// When it can't be written, or the journal is closed.
    pub(crate) fn write(&self, event: Event) -> io::Result<u64> {
        self.lock().append(event)
    }

    /// Returns when line `number` is on disk.
    ///
    /// # Errors
    /// When it can't be known to be.
    pub(crate) async fn synced(&self, number: u64) -> io::Result<()> {
        {
            let mut log = self.lock();
            log.asked = log.asked.max(number);
        }
        self.shared.wake.notify_one();
        let mut synced = self.synced.clone();
        let reached = synced.wait_for(|synced| synced.lines >= number || synced.failure.is_some()).await;
        match reached.as_deref() {
            Ok(Synced { failure: Some((kind, message)), lines }) if *lines < number => {
                Err(io::Error::new(*kind, message.clone()))
            }
            Ok(_) => Ok(()),
            Err(_) => Err(closed()),
        }
    }

    /// The VMs that are written down.
    pub(crate) fn instances(&self) -> Vec<String> {
        self.lock().records.keys().cloned().collect()
    }

    /// Nothing is written any more: another process, or another runtime in this one, may take over.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

fn closed() -> io::Error {
    io::Error::other("the journal is closed: this process has ended its work")
}

fn sync_for_all(shared: &Shared, publish: &watch::Sender<Synced>) {
    loop {
        let (file, written) = {
            let mut log = shared.log.lock().unwrap_or_else(PoisonError::into_inner);
            while log.asked <= publish.borrow().lines && !log.closed {
                log = shared.wake.wait(log).unwrap_or_else(PoisonError::into_inner);
            }
            if log.closed {
                return;
            }
            (log.file.try_clone(), log.written)
        };
        match file.and_then(|file| file.sync_data()) {
            Ok(()) => publish.send_modify(|synced| synced.lines = written),
            Err(error) => {
                // What the kernel could not write it has forgotten: nothing that is said later would be true.
                publish.send_modify(|synced| synced.failure = Some((error.kind(), error.to_string())));
                return;
            }
        }
    }
}

fn replay(records: &mut HashMap<String, Record>, event: Event) {
    match event {
        Event::Intended(record) => {
            records.insert(record.instance().to_owned(), *record);
        }
        Event::Spawned { instance, process } => {
            if let Some(record) = records.get_mut(&instance) {
                record.process = Some(process);
            }
        }
        Event::Phase { instance, phase, reason } => {
            if let Some(record) = records.get_mut(&instance) {
                record.phase = phase;
                record.reason = reason;
                if !phase.has_process() {
                    record.process = None;
                }
            }
        }
        Event::Gone { instance } => {
            records.remove(&instance);
        }
    }
}

impl Log {
    fn append(&mut self, event: Event) -> io::Result<u64> {
        if self.closed {
            return Err(closed());
        }
        let bytes = encode(&event)?;
        if let Err(error) = self.file.write_all(&bytes) {
            // Half a line must not swallow the next one.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += bytes.len() as u64;
        self.lines += 1;
        self.written += 1;
        replay(&mut self.records, event);
        if self.lines >= SMALL_LOG && self.lines > 4 * self.records.len() {
            self.compact();
        }
        Ok(self.written)
    }

    /// Best effort: the long log is as true as the short one.
    fn compact(&mut self) {
        match rewrite(&self.path, std::mem::take(&mut self.records)) {
            Ok(fresh) => {
                *self = Self { written: self.written, asked: self.asked, ..fresh };
            }
            Err(error) => {
                tracing::warn!(%error, "the journal could not be rewritten");
                if let Ok(bytes) = fs::read(&self.path) {
                    let lines = bytes.split(|byte| *byte == b'\n').filter_map(decode);
                    lines.for_each(|event| replay(&mut self.records, event));
                }
                self.lines = 0;
            }
        }
    }
}

fn checksum(text: &[u8]) -> String {
    blake3::hash(text).to_hex()[..CHECKSUM].to_owned()
}

fn encode(event: &Event) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(event).map_err(io::Error::other)?;
    let mut line = checksum(&text).into_bytes();
    line.push(b' ');
    line.extend(text);
    line.push(b'\n');
    Ok(line)
}

fn decode(line: &[u8]) -> Option<Event> {
    let (sum, text) = (line.get(..CHECKSUM)?, line.get(CHECKSUM + 1..)?);
    if line[CHECKSUM] != b' ' || checksum(text).as_bytes() != sum {
        return None;
    }
    serde_json::from_slice(text).ok()
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn set_aside(path: &Path, lines: &[&[u8]]) -> io::Result<()> {
    let mut file = private(path)?;
    for line in lines {
        file.write_all(line)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes a log that holds exactly `records` and puts it in the place of the old one.
fn rewrite(path: &Path, records: HashMap<String, Record>) -> io::Result<Log> {
    let draft = path.with_extension("draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Opened for appending and carried over the rename: later lines go to the file that was just put in place.
    let mut file = private(&draft)?;
    let mut bytes = Vec::new();
    for record in records.values() {
        bytes.extend(encode(&Event::Intended(Box::new(record.clone())))?);
    }
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    let (len, lines) = (bytes.len() as u64, records.len());
    Ok(Log { file, path: path.to_owned(), len, lines, written: 0, asked: 0, records, closed: false })
}

#[cfg(test)]
mod tests;
