//! The story of the store, on SQLite.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;
mod story;

use clarateach_store::Store;
use clarateach_store::sqlite::SqliteStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clarateach.db");
    let store = SqliteStore::open(&path).unwrap();
    story::run(&store).await;
    store.close().await;

    let db = rusqlite::Connection::open(&path).unwrap();
    let tables = [
        "workshops",
        "seats",
        "sessions",
        "events",
        "event_counters",
        "users",
        "keys",
        "workers",
        "placements",
    ];
    for table in tables {
        let rows: i64 = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
    let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

#[tokio::test]
async fn the_story_in_memory() {
    let store = SqliteStore::open_in_memory().unwrap();
    story::run(&store).await;
    store.close().await;
}

#[tokio::test]
async fn the_story_in_line() {
    let store = SqliteStore::in_line().unwrap();
    story::run(&store).await;
    store.close().await;
}
