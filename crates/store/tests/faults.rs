//! What goes wrong with a file: it is said clearly, nothing is half done, and it works again when the fault is gone.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clarateach_store::sqlite::{OpenError, SqliteStore};
use clarateach_store::{NewEvent, Store, StoreError};
use rusqlite::Connection;
use tempfile::TempDir;

use classroom::*;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clarateach.db");
    (folder, path)
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>, word: &str) {
    match result {
        Err(StoreError::Unavailable { message }) => assert!(message.contains(word), "{message}"),
        other => panic!("not unavailable: {other:?}"),
    }
}

/// A filesystem of its own, of a few MiB, taken away at the end.
struct Mount(TempDir);

impl Mount {
    /// `None` where mounting is not allowed.
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status();
        match mounted {
            Ok(status) if status.success() => Some(Self(folder)),
            _ => {
                skipped("mounting a tmpfs is not allowed here");
                None
            }
        }
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.0.path()).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[allow(clippy::print_stderr)]
fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "in CI nothing is skipped: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Everything of it is gone, and it is as good as before.
async fn works(store: &dyn Store) {
    store.check().await.unwrap();
    let record = workshop(store, 2).await;
    make_ready(store, &record, 1..=2).await;
    seated(join(store, &record, "Ada").await);
    purge(store, &record).await;
}

#[tokio::test]
async fn a_new_file_is_private_and_opens_again() {
    let (folder, path) = folder();
    let store = SqliteStore::open(&path).unwrap();
    let installation = store.installation().await.unwrap();
    let record = workshop(&store, 2).await;
    for name in ["clarateach.db", "clarateach.db-wal", "clarateach.db-shm", "clarateach.db.lock"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    store.close().await;
    assert!(!folder.path().join("clarateach.db-wal").exists(), "the journal is written back");
    unavailable(store.workshop(&record.id).await, "closed");
    unavailable(store.check().await, "closed");
    store.close().await;

    // Opened again, also by another name, also after a drop without a close.
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link, &path] {
        let store = SqliteStore::open(path).unwrap();
        assert_eq!(store.installation().await.unwrap(), installation);
        assert_eq!(store.workshop(&record.id).await.unwrap(), record);
        works(&store).await;
    }
}

#[tokio::test]
async fn a_second_server_is_refused() {
    let (folder, path) = folder();
    let store = SqliteStore::open(&path).unwrap();
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for other_name in [&path, &link] {
        let error = SqliteStore::open(other_name).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, OpenError::InUse { .. }), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    }
    works(&store).await;
    store.close().await;
    works(&SqliteStore::open(&path).unwrap()).await;
}

#[test]
fn what_cannot_be_opened_is_said_and_left_alone() {
    let (folder, path) = folder();
    let missing = folder.path().join("no/such/place.db");
    let message = SqliteStore::open(&missing).unwrap_err().to_string();
    assert!(message.contains("does not exist") && message.contains("no/such"), "{message}");
    assert!(matches!(SqliteStore::open(folder.path()), Err(OpenError::NotAFile { .. })));

    std::fs::write(
        &path,
        "Not a database, but long enough to have been one, had it begun otherwise. ".repeat(20),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(OpenError::NotADatabase { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let foreign = folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE cats (name TEXT)").unwrap();
    let before = std::fs::read(&foreign).unwrap();
    let error = SqliteStore::open(&foreign).unwrap_err();
    assert!(matches!(error, OpenError::Migrate { .. }), "{error}");
    assert_eq!(std::fs::read(&foreign).unwrap(), before);

    let newer = folder.path().join("newer.db");
    drop(SqliteStore::open(&newer).unwrap());
    let version =
        "INSERT INTO migrations (version, name, checksum, applied_at) VALUES (7000, 'later', '', 0)";
    Connection::open(&newer).unwrap().execute_batch(version).unwrap();
    let error = SqliteStore::open(&newer).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("newer version") && why.contains("7000"), "{why}");
}

#[tokio::test]
async fn an_empty_file_becomes_a_database() {
    let (_folder, path) = folder();
    std::fs::write(&path, "").unwrap();
    works(&SqliteStore::open(&path).unwrap()).await;
}

#[tokio::test]
async fn a_lock_of_another_program_passes() {
    let (_folder, path) = folder();
    let store = SqliteStore::open(&path).unwrap();
    let record = workshop(&store, 2).await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let asked = Instant::now();
    let (joined, checked) = tokio::join!(store.join(wish(&record, "Ada")), store.check());
    unavailable(joined, "locked");
    unavailable(checked, "locked");
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    assert_eq!(store.workshop(&record.id).await.unwrap(), record, "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    waiting(join(&store, &record, "Ada").await);
    works(&store).await;

    store.close().await;
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Nothing is to be migrated, so opening may pass; if it does not, it says why.
    if let Err(error) = SqliteStore::open(&path) {
        assert!(error.to_string().contains("locked"), "{error}");
    }
    other.execute_batch("ROLLBACK").unwrap();
    works(&SqliteStore::open(&path).unwrap()).await;
}

#[tokio::test]
async fn a_full_disk_passes() {
    let Some(mount) = Mount::new("4m") else { return };
    let path = mount.0.path().join("clarateach.db");
    let store = SqliteStore::open(&path).unwrap();
    let record = workshop(&store, 3).await;
    store.check().await.unwrap();
    let before = kinds(&store, &record).await;

    let ballast = mount.0.path().join("ballast");
    let block = vec![0u8; 1 << 16];
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    while std::io::Write::write_all(&mut file, &block[..512]).is_ok() {}
    unavailable(store.check().await, "full");

    // A group in which one piece of work needs more room than there is.
    let large = |i: u32| NewEvent {
        workshop: record.id.clone(),
        kind: "large".to_owned(),
        data: serde_json::json!({ "i": i, "text": "x".repeat(300_000) }),
        now: at(1),
    };
    let (first, second, third) =
        tokio::join!(store.add_event(large(1)), store.add_event(large(2)), store.add_event(large(3)));
    for result in [first, second, third] {
        unavailable(result, "full");
    }
    assert_eq!(kinds(&store, &record).await, before, "nothing was half done");
    unavailable(store.check().await, "full");

    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    works(&store).await;
    store.add_event(large(4)).await.unwrap();
    assert_eq!(kinds(&store, &record).await.len(), before.len() + 1);
    store.close().await;
}

#[tokio::test]
async fn a_read_only_filesystem_is_said_at_the_start() {
    let Some(mount) = Mount::new("4m") else { return };
    let path = mount.0.path().join("clarateach.db");
    SqliteStore::open(&path).unwrap().close().await;
    mount.remount("ro");
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
    mount.remount("rw");
    works(&SqliteStore::open(&path).unwrap()).await;
}

/// A filesystem refuses every write to an immutable file, also through what is open: as it does when it has turned
/// itself read-only after a disk error.
#[tokio::test]
async fn a_file_that_refuses_writes_passes() {
    let (folder, path) = folder();
    let store = SqliteStore::open(&path).unwrap();
    let record = workshop(&store, 2).await;
    let files = ["clarateach.db", "clarateach.db-wal"].map(|name| folder.path().join(name));
    if !change_attribute("+i", &files) {
        return skipped("files can't be made immutable here");
    }
    let (joined, checked) = tokio::join!(store.join(wish(&record, "Ada")), store.check());
    let again = store.check().await;
    let read = store.workshop(&record.id).await;
    assert!(change_attribute("-i", &files));
    for result in [joined.map(|_| ()), checked, again] {
        unavailable(result, "");
    }
    assert_eq!(read.unwrap(), record);
    works(&store).await;
    assert_eq!(kinds(&store, &record).await, ["workshop.created"]);
    waiting(join(&store, &record, "Ada").await);
}

fn change_attribute(how: &str, files: &[PathBuf]) -> bool {
    Command::new("chattr").arg(how).args(files).status().is_ok_and(|status| status.success())
}

fn move_all(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let named = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        if named(from).exists() {
            std::fs::rename(named(from), named(to)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_that_is_taken_away_is_missed_and_found_again() {
    let (folder, path) = folder();
    let store = SqliteStore::open(&path).unwrap();
    let record = workshop(&store, 2).await;
    store.workshop(&record.id).await.unwrap();

    let away = folder.path().join("away.db");
    move_all(&path, &away);
    unavailable(store.join(wish(&record, "Ada")).await, "not there");
    unavailable(store.workshop(&record.id).await, "not there");
    unavailable(store.check().await, "not there");
    assert!(!path.exists(), "an empty database in its place would look like a loss of everything");
    move_all(&away, &path);
    assert_eq!(store.workshop(&record.id).await.unwrap(), record);
    works(&store).await;

    // A copy of it does as well.
    store.check().await.unwrap();
    let copy = folder.path().join("copy.db");
    Connection::open(&path).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    move_all(&path, &away);
    std::fs::rename(&copy, &path).unwrap();
    assert_eq!(store.workshop(&record.id).await.unwrap(), record);
    works(&store).await;

    // Another installation's is not taken for it.
    let others = folder.path().join("others.db");
    drop(SqliteStore::open(&others).unwrap());
    move_all(&path, &away);
    std::fs::rename(&others, &path).unwrap();
    unavailable(store.check().await, "another installation");
    unavailable(store.workshop(&record.id).await, "another installation");
    drop(store);
}

#[tokio::test]
async fn a_journal_that_is_removed_loses_nothing() {
    let (folder, path) = folder();
    let store = SqliteStore::open(&path).unwrap();
    let record = workshop(&store, 2).await;
    for again in [false, true] {
        // Connections that read have it open too.
        tokio::try_join!(store.workshop(&record.id), store.users(), store.keys()).unwrap();
        std::fs::remove_file(folder.path().join("clarateach.db-wal")).unwrap();
        if again {
            assert_eq!(store.workshop(&record.id).await.unwrap(), record);
        }
        waiting(join(&store, &record, "Ada").await);
        assert_eq!(store.workshop_counts(&record.id).await.unwrap().waiting, 1);
        works(&store).await;
    }
    store.close().await;
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.workshop_counts(&record.id).await.unwrap().waiting, 1);
    works(&store).await;
}
