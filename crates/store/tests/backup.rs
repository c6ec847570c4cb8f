//! Backups as docs/database.md has them made and restored, while learners join.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clarateach_ids::{EventSeq, SeatKey};
use clarateach_lifecycle::SeatState;
use clarateach_store::postgres::PostgresStore;
use clarateach_store::sqlite::SqliteStore;
use clarateach_store::{JoinDecision, Store, WorkshopRecord};
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::{skip, wait_for};

use classroom::*;

const SEATS: u32 = 2_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Has learners join until it is told that `backup` has been made in their midst.
async fn while_learners_join(
    store: Arc<dyn Store>,
    record: &WorkshopRecord,
    backup: impl FnOnce() + Send + 'static,
) {
    let (over, joined) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let joiners: Vec<_> = (0..4)
        .map(|joiner| {
            let (store, record) = (Arc::clone(&store), record.clone());
            let (over, joined) = (Arc::clone(&over), Arc::clone(&joined));
            tokio::spawn(async move {
                for i in 0.. {
                    let decision = join(&*store, &record, &format!("{joiner}-{i}")).await;
                    if over.load(Ordering::Relaxed) || matches!(decision, JoinDecision::Full) {
                        break;
                    }
                    joined.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    let some = |n: usize| {
        let joined = Arc::clone(&joined);
        wait_for("joins", PATIENCE, move || {
            let enough = joined.load(Ordering::Relaxed) >= n;
            async move { enough.then_some(()) }
        })
    };
    some(50).await;
    tokio::task::spawn_blocking(backup).await.unwrap();
    let at_backup = joined.load(Ordering::Relaxed);
    some((at_backup + 20).min(SEATS as usize)).await;
    over.store(true, Ordering::Relaxed);
    for joiner in joiners {
        joiner.await.unwrap();
    }
}

/// That a restored store is one state of what it was made of: every session has its seat, the history is whole, and it
/// goes on. Returns how many learners it knows.
async fn is_sound(store: &dyn Store, record: &WorkshopRecord, original: &dyn Store) -> usize {
    assert_eq!(store.installation().await.unwrap(), original.installation().await.unwrap());
    assert_eq!(store.workshop(&record.id).await.unwrap(), original.workshop(&record.id).await.unwrap());
    let counts = store.workshop_counts(&record.id).await.unwrap();
    assert_eq!(counts.active, counts.occupied);
    let (restored, now) = (store.seats(&record.id).await.unwrap(), original.seats(&record.id).await.unwrap());
    let mut learners = HashSet::new();
    for ((seat, holder), (_, now)) in restored.iter().zip(&now) {
        assert_eq!(seat.state, SeatState::Ready);
        if let Some(holder) = holder {
            assert!(learners.insert(holder.id.clone()), "one learner, two seats");
            assert_eq!(Some(&holder.id), now.as_ref().map(|now| &now.id), "{}", seat.key);
        }
    }
    let events = store.events(&record.id, EventSeq(0), 100_000).await.unwrap();
    let then = original.events(&record.id, EventSeq(0), 100_000).await.unwrap();
    assert_eq!(events, then[..events.len()], "its history is the beginning of what happened");
    seated(join(store, record, "Late").await);
    learners.len()
}

/// What is said of a workshop as it stands, to the last word.
async fn told(store: &dyn Store, record: &WorkshopRecord) -> String {
    format!(
        "{:?} {:?} {:?}",
        store.workshops(None).await.unwrap(),
        store.seats(&record.id).await.unwrap(),
        store.events(&record.id, EventSeq(0), 100_000).await.unwrap()
    )
}

async fn class(store: &dyn Store) -> WorkshopRecord {
    let record = workshop(store, SEATS).await;
    make_ready(store, &record, 1..=SEATS).await;
    record
}

fn sqlite3(database: &Path, command: &str) {
    done(Command::new("sqlite3").arg(database).arg(command));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_is_backed_up_while_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clarateach.db");
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let record = class(&*store).await;
    let copies = [folder.path().join("copy.db"), folder.path().join("vacuumed.db")];
    let backup = {
        let (path, copies) = (path.clone(), copies.clone());
        move || {
            sqlite3(&path, &format!(".backup '{}'", copies[0].display()));
            sqlite3(&path, &format!("VACUUM INTO '{}'", copies[1].display()));
        }
    };
    while_learners_join(store.clone(), &record, backup).await;
    for copy in &copies {
        let restored = SqliteStore::open(copy).unwrap();
        assert!(is_sound(&restored, &record, &*store).await >= 50);
        restored.close().await;
    }

    // Put in the place of one that is lost, it is what was backed up.
    let before = told(&*store, &record).await;
    let quiet = folder.path().join("quiet.db");
    sqlite3(&path, &format!(".backup '{}'", quiet.display()));
    seated(join(&*store, &record, "After the backup").await);
    store.close().await;
    for lost in ["clarateach.db", "clarateach.db-wal", "clarateach.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(lost));
    }
    std::fs::copy(&quiet, &path).unwrap();
    let restored = SqliteStore::open(&path).unwrap();
    assert!(told(&restored, &record).await == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_database_is_backed_up_while_it_is_used() {
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("a_postgresql_database_is_backed_up_while_it_is_used", &reason),
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(PostgresStore::connect(&postgres.database("teach").parse().unwrap()).await.unwrap());
    let record = class(&*store).await;
    let dump = folder.path().join("teach.dump");
    let mut pg_dump = postgres.program("pg_dump");
    pg_dump
        .args(["--format=custom", "--no-owner", "--dbname=teach"])
        .arg(format!("--file={}", dump.display()));
    while_learners_join(store.clone(), &record, move || {
        done(&mut pg_dump);
    })
    .await;
    let restore = |name: &str, dump: &Path| {
        let url = postgres.database(name);
        let mut pg_restore = postgres.program("pg_restore");
        pg_restore
            .args(["--exit-on-error", "--single-transaction", "--no-owner", "--dbname", name])
            .arg(dump);
        done(&mut pg_restore);
        url.parse().unwrap()
    };
    let restored = PostgresStore::connect(&restore("restored", &dump)).await.unwrap();
    assert!(is_sound(&restored, &record, &*store).await >= 50);
    restored.close().await;

    // Of a quiet one, what comes back is what went in: rows, indexes, constraints, to the letter.
    let before = told(&*store, &record).await;
    let quiet = folder.path().join("quiet.dump");
    let text = |database: &str| {
        let dumped = done(postgres.program("pg_dump").args(["--no-owner", "--dbname", database]));
        // Newer ones begin and end with a line of random letters.
        dumped.lines().filter(|line| !line.starts_with("\\")).collect::<Vec<_>>().join("\n")
    };
    done(
        postgres
            .program("pg_dump")
            .args(["--format=custom", "--no-owner", "--dbname=teach"])
            .arg(format!("--file={}", quiet.display())),
    );
    let schema_and_rows = text("teach");
    let url = restore("again", &quiet);
    assert!(text("again") == schema_and_rows);
    let again = PostgresStore::connect(&url).await.unwrap();
    assert!(told(&again, &record).await == before);
    // New rows don't take the numbers of old ones.
    let other = workshop(&again, 1).await;
    assert_eq!(again.workshops(None).await.unwrap()[0].0.id, other.id);
}

/// Free seats of an older database may hold the work of somebody whom it does not know: they are made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_seats_are_renewed_after_a_restore_as_the_page_says() {
    let page = include_str!("../../../docs/database.md");
    let renew = page.lines().find(|line| line.starts_with("UPDATE seats SET")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clarateach.db");
    let store = SqliteStore::open(&path).unwrap();
    let record = workshop(&store, 3).await;
    make_ready(&store, &record, 1..=3).await;
    let (_, seat) = seated(join(&store, &record, "Ada").await);
    store.close().await;
    sqlite3(&path, renew);
    let store = SqliteStore::open(&path).unwrap();
    let seats = store.seats(&record.id).await.unwrap();
    assert_eq!((seats[0].0.clone(), seats[0].1.is_some()), (seat.clone(), true), "who has a seat keeps it");
    for (seat, holder) in &seats[1..] {
        assert!(seat.generation.0 > 1 && seat.state == SeatState::Pending && holder.is_none());
    }
    drop(store);

    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => {
            return skip("free_seats_are_renewed_after_a_restore_as_the_page_says", &reason);
        }
    };
    let store = PostgresStore::connect(&postgres.database("teach").parse().unwrap()).await.unwrap();
    let record = workshop(&store, 2).await;
    make_ready(&store, &record, 1..=2).await;
    seated(join(&store, &record, "Ada").await);
    postgres.sql("teach", renew);
    let seats = store.seats(&record.id).await.unwrap();
    assert_eq!(seats[0].0.state, SeatState::Ready);
    assert_eq!(seats[1].0.key, SeatKey { workshop: record.id.clone(), seat: n(2) });
    assert!(seats[1].0.generation.0 > 1 && seats[1].0.state == SeatState::Pending);
}
