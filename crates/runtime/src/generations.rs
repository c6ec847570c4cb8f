//! The highest generation seen per seat, kept on disk, so that a stale caller is refused after a restart too.
//!
//! The file is a log of JSON lines, one per decision. Opening it replays the log; a torn last line (the machine died
//! while it was written) is dropped, because nobody was told that it was accepted. The log is rewritten when most of it
//! is history.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// How long the seats of a workshop that is gone are remembered: longer than any replica or worker stays cut off.
const REMEMBER: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A log this short is never worth rewriting.
const SMALL_LOG: usize = 1024;

/// What was last decided for a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The highest generation in any decision.
    pub generation: Generation,
    /// Whether that decision was to remove it: then nothing up to and including it is wanted.
    pub removed: bool,
    /// When the runtime ends the environment by itself, as the last apply had it.
    pub not_after: Option<Timestamp>,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Line {
    workshop: WorkshopId,
    seat: SeatNumber,
    generation: Generation,
    removed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<Timestamp>,
    at: Timestamp,
}

#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    /// Length in bytes up to the last whole line.
    len: u64,
    lines: usize,
    written: u64,
}

#[derive(Debug, Default)]
struct State {
    seats: HashMap<SeatKey, Seen>,
    log: Option<Log>,
}

/// The record. Cheap to share; every decision is on disk before its call returns.
#[derive(Debug, Clone)]
pub struct Generations {
    state: Arc<Mutex<State>>,
    /// How many lines are known to be on disk; held while syncing, so that one sync serves all who wait.
    synced: Arc<tokio::sync::Mutex<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Generations {
    /// Opens the record at `path`, or starts one. Parent directories must exist.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut seats = HashMap::new();
        for line in text.lines() {
            let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
            let key = SeatKey { workshop: line.workshop, seat: line.seat };
            let Line { generation, removed, not_after, at, .. } = line;
            seats.insert(key, Seen { generation, removed, not_after, at });
        }
        forget_the_gone(&mut seats, Timestamp::now());
        let log = rewrite(path, &seats)?;
        Ok(Self::with(State { seats, log: Some(log) }))
    }

    /// A record that forgets everything when it is dropped.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with(State::default())
    }

    fn with(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), synced: Arc::default() }
    }

    /// What was last decided for `key`.
    #[must_use]
    pub fn seen(&self, key: &SeatKey) -> Option<Seen> {
        lock(&self.state).seats.get(key).copied()
    }

    /// Whether an environment of this generation may be there: nobody has asked for it to be removed, or for a later.
    #[must_use]
    pub fn is_wanted(&self, key: &SeatKey, generation: Generation) -> bool {
        self.seen(key).is_none_or(|seen| {
            generation > seen.generation || (generation == seen.generation && !seen.removed)
        })
    }

    /// Accepts an apply of `generation` until `not_after`, or refuses it as stale.
    ///
    /// # Errors
    /// [`RuntimeError::StaleGeneration`]; [`RuntimeError::Failed`] when the decision can't be written down.
    pub async fn admit_apply(
        &self,
        key: &SeatKey,
        generation: Generation,
        not_after: Option<Timestamp>,
    ) -> Result<(), RuntimeError> {
        self.decide(key.clone(), generation, false, not_after).await
    }

    /// Accepts a remove of everything up to `generation`, or refuses it as stale.
    ///
    /// # Errors
    /// As [`Generations::admit_apply`].
    pub async fn admit_remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        self.decide(key.clone(), generation, true, None).await
    }

    async fn decide(
        &self,
        key: SeatKey,
        generation: Generation,
        removed: bool,
        not_after: Option<Timestamp>,
    ) -> Result<(), RuntimeError> {
        let decision = Seen { generation, removed, not_after, at: Timestamp::now() };
        let not_written = |error: io::Error| RuntimeError::Failed {
            operation: "remember a seat's generation".to_owned(),
            message: error.to_string(),
        };
        let mark = lock(&self.state).decide(key, decision, not_written)?;
        self.sync(mark).await.map_err(not_written)
    }

    /// Returns once the first `mark` lines are on disk. Whoever comes while others sync waits without a thread.
    async fn sync(&self, mark: u64) -> io::Result<()> {
        let mut synced = self.synced.lock().await;
        if *synced < mark {
            let state = self.state.clone();
            *synced = tokio::task::spawn_blocking(move || settle(&state)).await??;
        }
        Ok(())
    }
}

/// Brings the log to disk, as a short one where most of it is history, and says how many lines are there now.
fn settle(state: &Mutex<State>) -> io::Result<u64> {
    let (file, written) = {
        let mut state = lock(state);
        state.compact_when_worth_it(Timestamp::now())?;
        match &state.log {
            Some(log) => (log.file.try_clone()?, log.written),
            None => return Ok(0),
        }
    };
    file.sync_data()?;
    Ok(written)
}

impl State {
    /// Takes a decision, or refuses it as stale. Gives the number of the line that must be on disk for it to hold.
    fn decide(
        &mut self,
        key: SeatKey,
        decision: Seen,
        not_written: impl FnOnce(io::Error) -> RuntimeError,
    ) -> Result<u64, RuntimeError> {
        if let Some(seen) = self.seats.get(&key).copied() {
            let given = decision.generation;
            if given < seen.generation || (given == seen.generation && seen.removed && !decision.removed) {
                return Err(RuntimeError::StaleGeneration { key, given, seen: seen.generation });
            }
            if (Seen { at: seen.at, ..decision }) == seen {
                return Ok(self.written());
            }
        }
        self.append(&key, &decision).map_err(not_written)?;
        self.seats.insert(key, decision);
        Ok(self.written())
    }

    fn written(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.written)
    }

    fn append(&mut self, key: &SeatKey, decision: &Seen) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let mut bytes = encode(key, decision)?;
        bytes.push(b'\n');
        if let Err(error) = log.file.write_all(&bytes) {
            // Half a line must not swallow the next one.
            log.file.set_len(log.len)?;
            return Err(error);
        }
        log.len += bytes.len() as u64;
        log.lines += 1;
        log.written += 1;
        Ok(())
    }

    fn compact_when_worth_it(&mut self, now: Timestamp) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        if log.lines < SMALL_LOG || log.lines < 2 * self.seats.len() {
            return Ok(());
        }
        let (path, written) = (log.path.clone(), log.written);
        forget_the_gone(&mut self.seats, now);
        let mut log = rewrite(&path, &self.seats)?;
        log.written = written;
        self.log = Some(log);
        Ok(())
    }
}

fn encode(key: &SeatKey, seen: &Seen) -> io::Result<Vec<u8>> {
    let line = Line {
        workshop: key.workshop.clone(),
        seat: key.seat,
        generation: seen.generation,
        removed: seen.removed,
        not_after: seen.not_after,
        at: seen.at,
    };
    serde_json::to_vec(&line).map_err(io::Error::other)
}

/// Writes a log that holds exactly `seats` and puts it in the place of the old one.
fn rewrite(path: &Path, seats: &HashMap<SeatKey, Seen>) -> io::Result<Log> {
    let draft = path.with_extension("draft");
    let mut bytes = Vec::new();
    for (key, seen) in seats {
        bytes.extend(encode(key, seen)?);
        bytes.push(b'\n');
    }
    // Opened for appending and carried over the rename: later lines go to the file that was just put in place.
    fs::write(&draft, b"")?;
    let mut file = OpenOptions::new().append(true).open(&draft)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(Log { file, path: path.to_owned(), len: bytes.len() as u64, lines: seats.len(), written: 0 })
}

/// Drops the seats of workshops in which everything was removed long ago.
fn forget_the_gone(seats: &mut HashMap<SeatKey, Seen>, now: Timestamp) {
    let mut keep: HashMap<WorkshopId, bool> = HashMap::new();
    for (key, seen) in seats.iter() {
        let remembered = !seen.removed || now.duration_since(seen.at) < REMEMBER;
        *keep.entry(key.workshop.clone()).or_default() |= remembered;
    }
    seats.retain(|key, _| keep.get(&key.workshop).copied().unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(workshop: &str, seat: u32) -> SeatKey {
        SeatKey { workshop: workshop.parse().unwrap(), seat: SeatNumber::new(seat).unwrap() }
    }

    #[tokio::test]
    async fn decisions_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generations");
        let record = Generations::open(&path).unwrap();
        record.admit_apply(&key("w", 1), Generation(3), None).await.unwrap();
        record.admit_apply(&key("w", 2), Generation(1), None).await.unwrap();
        record.admit_remove(&key("w", 2), Generation(2)).await.unwrap();
        drop(record);

        let record = Generations::open(&path).unwrap();
        record.admit_apply(&key("w", 1), Generation(3), None).await.unwrap();
        for stale in [
            record.admit_apply(&key("w", 1), Generation(2), None).await,
            record.admit_remove(&key("w", 1), Generation(2)).await,
            record.admit_apply(&key("w", 2), Generation(2), None).await,
            record.admit_remove(&key("w", 2), Generation(1)).await,
        ] {
            assert!(matches!(stale, Err(RuntimeError::StaleGeneration { .. })), "{stale:?}");
        }
        record.admit_apply(&key("w", 2), Generation(3), None).await.unwrap();
    }

    #[tokio::test]
    async fn a_torn_last_line_loses_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generations");
        Generations::open(&path).unwrap().admit_apply(&key("w", 1), Generation(7), None).await.unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"workshop\":\"w\",\"seat\":1,\"gen").unwrap();
        drop(file);

        let record = Generations::open(&path).unwrap();
        assert_eq!(record.seen(&key("w", 1)).unwrap().generation, Generation(7));
        record.admit_apply(&key("w", 1), Generation(8), None).await.unwrap();
        let record = Generations::open(&path).unwrap();
        assert_eq!(record.seen(&key("w", 1)).unwrap().generation, Generation(8));
    }

    #[tokio::test]
    async fn the_log_does_not_grow_with_history() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generations");
        let record = Generations::open(&path).unwrap();
        for generation in 1..3000 {
            record.admit_apply(&key("w", 1), Generation(generation), None).await.unwrap();
        }
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= SMALL_LOG);
        assert_eq!(
            Generations::open(&path).unwrap().seen(&key("w", 1)).unwrap().generation,
            Generation(2999)
        );
    }

    #[tokio::test]
    async fn parallel_decisions_are_all_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generations");
        let record = Generations::open(&path).unwrap();
        let all = (1..=200).map(|seat| {
            let record = record.clone();
            async move { record.admit_apply(&key("w", seat), Generation(1), None).await }
        });
        for outcome in futures_util::future::join_all(all).await {
            outcome.unwrap();
        }
        let reopened = Generations::open(&path).unwrap();
        assert!((1..=200).all(|seat| reopened.seen(&key("w", seat)).is_some()));
    }

    #[test]
    fn only_workshops_that_are_wholly_gone_are_forgotten() {
        let now = Timestamp::now();
        let old = now - REMEMBER - SignedDuration::from_secs(1);
        let seen = |removed, at| Seen { generation: Generation(1), removed, not_after: None, at };
        let mut seats = HashMap::from([
            (key("gone", 1), seen(true, old)),
            (key("half", 1), seen(true, old)),
            (key("half", 2), seen(false, old)),
            (key("fresh", 1), seen(true, now)),
        ]);
        forget_the_gone(&mut seats, now);
        let mut left: Vec<String> = seats.keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["fresh/1", "half/1", "half/2"]);
    }
}
