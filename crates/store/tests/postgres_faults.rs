//! What goes wrong with a PostgreSQL server: it is said clearly and soon, nothing is half done, and it works again by
//! itself when the fault is gone.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clarateach_ids::SeatNumber;
use clarateach_store::postgres::{OpenError, PostgresStore};
use clarateach_store::{CodeHash, JoinDecision, Store, StoreError};
use clarateach_testkit::postgres::{PASSWORD, PrivatePostgres};
use clarateach_testkit::{skip, wait_for};

use classroom::*;

const PATIENCE: Duration = Duration::from_secs(30);
/// The longest that a call may take when nobody answers.
const SECONDS: Duration = Duration::from_secs(15);

fn server(test: &str) -> Option<PrivatePostgres> {
    match PrivatePostgres::start() {
        Ok(postgres) => Some(postgres),
        Err(reason) => {
            skip(test, &reason);
            None
        }
    }
}

async fn open(url: &str) -> PostgresStore {
    PostgresStore::connect(&url.parse().unwrap()).await.unwrap()
}

/// Why a database can't be opened: in one line, without the password.
async fn refused(url: &str) -> String {
    let began = Instant::now();
    let error = PostgresStore::connect(&url.parse().unwrap()).await.unwrap_err();
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| (*cause).source());
    let said = causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"));
    let debug = format!("{error:?}");
    for shown in [&said, &debug] {
        assert!(!shown.contains(PASSWORD) && !shown.contains("pass-word"), "{shown}");
    }
    assert!(!said.contains('\n'), "{said}");
    assert!(began.elapsed() < SECONDS, "{said} after {:?}", began.elapsed());
    said
}

/// Everything of it is gone, and it is as good as before.
async fn works(store: &dyn Store) {
    store.check().await.unwrap();
    let record = workshop(store, 2).await;
    make_ready(store, &record, 1..=2).await;
    seated(join(store, &record, "Ada").await);
    purge(store, &record).await;
}

async fn works_again(store: &dyn Store) {
    wait_for("the store to work again by itself", PATIENCE, || async { store.check().await.ok() }).await;
    works(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_is_said() {
    let Some(mut postgres) = server("what_cannot_be_opened_is_said") else { return };
    let url = postgres.database("teach");
    let said = refused(&url.replace("pass-word", "pass-word-not")).await;
    assert!(said.contains("refuses the user or the password"), "{said}");
    let said = refused(&postgres.url("nowhere")).await;
    assert!(said.contains("no such database") && said.contains("nowhere"), "{said}");
    let said = refused(&format!("{url}?sslmode=require")).await;
    assert!(said.contains("TLS") || said.contains("SSL"), "{said}");

    postgres.sql("teach", "CREATE TABLE cats (name TEXT)");
    let said = refused(&url).await;
    assert!(said.contains("another program") && said.contains("cats"), "{said}");
    assert_eq!(postgres.sql("teach", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "1");
    postgres.sql("teach", "DROP TABLE cats");

    open(&url).await.close().await;
    postgres.sql(
        "teach",
        "INSERT INTO clarateach_migrations (version, name, checksum) VALUES (7000, 'later', '')",
    );
    let said = refused(&url).await;
    assert!(said.contains("newer version") && said.contains("7000"), "{said}");
    postgres.sql(
        "teach",
        "DELETE FROM clarateach_migrations WHERE version = 7000;
         UPDATE clarateach_migrations SET checksum = 'x' WHERE version = 1",
    );
    let error = PostgresStore::connect(&url.parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, OpenError::Migrate { .. }), "{error}");

    postgres.stop();
    let said = refused(&url).await;
    assert!(said.contains("refused"), "{said}");
    // Nobody is there who could refuse: 192.0.2.0/24 is for documentation.
    refused("postgres://me:pass-word@192.0.2.1/teach").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_and_the_living_of_several_hosts_are_found() {
    let Some(postgres) = server("a_socket_and_the_living_of_several_hosts_are_found") else { return };
    let _ = postgres.database("teach");
    let socket = postgres.socket_directory().display().to_string().replace('/', "%2F");
    let by_socket = postgres.url_at(&format!("{socket}:{}", postgres.port()), "teach");
    works(&open(&by_socket).await).await;
    let second = postgres.url_at(&format!("127.0.0.1:1,127.0.0.1:{}", postgres.port()), "teach");
    works(&open(&second).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restarted_is_found_again() {
    let Some(mut postgres) = server("a_server_that_is_restarted_is_found_again") else { return };
    let store = open(&postgres.database("teach")).await;
    let record = workshop(&store, 2).await;
    postgres.stop();
    for _ in 0..3 {
        let began = Instant::now();
        match store.workshop(&record.id).await {
            Err(StoreError::Unavailable { message }) => assert!(!message.contains(PASSWORD), "{message}"),
            other => panic!("not unavailable: {other:?}"),
        }
        assert!(matches!(store.join(wish(&record, "Ada")).await, Err(StoreError::Unavailable { .. })));
        assert!(began.elapsed() < SECONDS);
    }
    postgres.resume();
    works_again(&store).await;
    assert_eq!(store.workshop(&record.id).await.unwrap(), record);

    // Between two calls: nobody notices.
    postgres.stop();
    postgres.resume();
    works(&store).await;
    // Also when only the connections are ended.
    let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
               AND backend_type = 'client backend'";
    postgres.sql("teach", all);
    works(&store).await;
}

/// Learners join through two stores while the server is killed: whoever was told to have a seat has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_was_answered() {
    const SEATS: u32 = 3_000;
    let Some(mut postgres) = server("a_killed_server_loses_nothing_that_was_answered") else { return };
    let url = postgres.database("teach");
    let stores = [Arc::new(open(&url).await), Arc::new(open(&url).await)];
    let record = workshop(&*stores[0], SEATS).await;
    make_ready(&*stores[0], &record, 1..=SEATS).await;
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let joiners: Vec<_> = (0..16)
        .map(|joiner| {
            let (store, record) = (Arc::clone(&stores[joiner % 2]), record.clone());
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            tokio::spawn(async move {
                let (mut had, mut failed, mut longest) = (Vec::new(), 0, Duration::ZERO);
                for i in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let wish = wish(&record, &format!("{joiner}-{i}"));
                    // As a browser does it: until it is answered, with the same mark.
                    loop {
                        let began = Instant::now();
                        let decision = store.join(wish.clone()).await;
                        longest = longest.max(began.elapsed());
                        match decision {
                            Ok(JoinDecision::Seated { session, seat, .. }) => {
                                assert_eq!(session.seat, Some(seat.key.seat));
                                had.push((session.id, seat.key.seat));
                                answered.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            Ok(JoinDecision::Full) => return (had, failed, longest),
                            Ok(other) => panic!("{other:?}"),
                            Err(StoreError::Unavailable { .. } | StoreError::Conflict { .. }) => {
                                failed += 1;
                                if over.load(Ordering::Relaxed) {
                                    break;
                                }
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                }
                (had, failed, longest)
            })
        })
        .collect();
    for round in 1..=4 {
        wait_for("some joins", PATIENCE, || async {
            (answered.load(Ordering::Relaxed) >= round * 150).then_some(())
        })
        .await;
        if round % 2 == 0 {
            postgres.stop()
        } else {
            postgres.kill()
        }
        postgres.resume();
    }
    let before = answered.load(Ordering::Relaxed);
    wait_for("joins after it all", PATIENCE, || async {
        (answered.load(Ordering::Relaxed) >= (before + 50).min(SEATS as usize)).then_some(())
    })
    .await;
    over.store(true, Ordering::Relaxed);
    let (mut had, mut failures) = (Vec::new(), 0);
    for joiner in joiners {
        let (theirs, failed, longest) = joiner.await.unwrap();
        assert!(longest < SECONDS + SECONDS, "a join took {longest:?}");
        had.extend(theirs);
        failures += failed;
    }
    assert!(failures > 0, "the kills were not noticed");
    let distinct: HashSet<SeatNumber> = had.iter().map(|(_, seat)| *seat).collect();
    assert_eq!(distinct.len(), had.len(), "one seat, two learners");
    let seats = stores[1].seats(&record.id).await.unwrap();
    for (session, seat) in &had {
        let holder = &seats[seat.get() as usize - 1].1;
        assert_eq!(holder.as_ref().map(|holder| &holder.id), Some(session), "seat {seat}");
    }
    let counts = stores[0].workshop_counts(&record.id).await.unwrap();
    assert_eq!(counts.active, counts.occupied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_given_up_soon() {
    let Some(postgres) = server("a_server_that_does_not_answer_is_given_up_soon") else { return };
    let url = postgres.database("teach");
    let store = open(&url).await;
    let record = workshop(&store, 30).await;
    make_ready(&store, &record, 1..=30).await;
    postgres.freeze();
    let began = Instant::now();
    let calls = (0..20).map(|_| store.workshop(&record.id));
    let joins = (0..20).map(|i| store.join(wish(&record, &format!("Learner {i}"))));
    let (calls, joins, opening) = tokio::join!(
        futures_util::future::join_all(calls),
        futures_util::future::join_all(joins),
        refused(&url)
    );
    assert!(began.elapsed() < SECONDS, "{:?}", began.elapsed());
    assert!(calls.iter().all(|call| matches!(call, Err(StoreError::Unavailable { .. }))), "{calls:?}");
    assert!(joins.iter().all(|join| matches!(join, Err(StoreError::Unavailable { .. }))), "{joins:?}");
    assert!(opening.contains("not answer") || opening.contains("timed out"), "{opening}");
    postgres.thaw();
    works_again(&store).await;
    let counts = store.workshop_counts(&record.id).await.unwrap();
    assert_eq!(counts.active, counts.occupied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_another_program_passes() {
    let Some(postgres) = server("a_lock_of_another_program_passes") else { return };
    let store = open(&postgres.database("teach")).await;
    let record = workshop(&store, 2).await;
    make_ready(&store, &record, 1..=2).await;
    let hold = "BEGIN; SELECT 1 FROM workshops FOR UPDATE; SELECT pg_sleep(600)";
    let mut other = postgres.program("psql").args(["--dbname", "teach", "--command", hold]).spawn().unwrap();
    let held = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_for("the lock", PATIENCE, || async { (postgres.sql("teach", held) == "1").then_some(()) }).await;
    let began = Instant::now();
    let refused = store.join(wish(&record, "Ada")).await;
    let Err(StoreError::Unavailable { message }) = &refused else { panic!("{refused:?}") };
    assert!(message.contains("locked") && began.elapsed() < SECONDS, "{message}");
    // Others are not kept waiting, nor those who only look.
    assert_eq!(store.workshop(&record.id).await.unwrap().id, record.id);
    works(&store).await;
    postgres
        .sql("teach", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    other.wait().unwrap();
    seated(join(&store, &record, "Ada").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_only_reads_is_said_and_passes() {
    let Some(postgres) = server("a_database_that_only_reads_is_said_and_passes") else { return };
    let store = open(&postgres.database("teach")).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'teach'";
    postgres.sql("teach", "ALTER DATABASE teach SET default_transaction_read_only = on");
    postgres.sql("postgres", end);
    let refused = store.check().await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    postgres.sql("postgres", "ALTER DATABASE teach SET default_transaction_read_only = off");
    works_again(&store).await;
}

/// More callers than connections, and callers who go away in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_go_away_leave_nothing_behind() {
    let Some(postgres) = server("callers_who_go_away_leave_nothing_behind") else { return };
    let store = Arc::new(open(&postgres.database("teach")).await);
    let record = workshop(&*store, 20).await;
    make_ready(&*store, &record, 1..=20).await;
    let calls: Vec<_> = (0..300)
        .map(|i| {
            let (store, id) = (Arc::clone(&store), record.id.clone());
            tokio::spawn(async move {
                let call = async {
                    match i % 3 {
                        0 => store.seats(&id).await.map(|_| ()),
                        1 => store.set_locked(&id, i % 2 == 0, at(5)).await.map(|_| ()),
                        _ => store.check().await,
                    }
                };
                // Some go away before they are answered.
                if let Ok(done) = tokio::time::timeout(Duration::from_micros(i * 40), call).await {
                    done.unwrap();
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    works(&*store).await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    wait_for("no transaction to be left open", PATIENCE, || async {
        (postgres.sql("teach", open) == "0").then_some(())
    })
    .await;
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'clarateach'";
    wait_for("no more than 17 connections", PATIENCE, || async {
        (postgres.sql("teach", connections).parse::<u32>().unwrap() <= 17).then_some(())
    })
    .await;
    store.close().await;
    wait_for("no connection to be left", PATIENCE, || async {
        (postgres.sql("teach", connections) == "0").then_some(())
    })
    .await;
    assert!(matches!(store.check().await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_text_is_kept_or_made_fit() {
    let Some(postgres) = server("odd_text_is_kept_or_made_fit") else { return };
    let store = open(&postgres.database("teach")).await;
    let record = workshop(&store, 2).await;
    make_ready(&store, &record, 1..=2).await;
    let name = "Ada\0 \u{1f600} 'quoted' \\ \u{202e}x";
    let mut wish = wish(&record, "Ada");
    wish.name = Some(name.to_owned());
    let code: CodeHash = wish.new_code;
    seated(store.join(wish).await.unwrap());
    let (session, ..) = store.session_by_code(&code).await.unwrap();
    assert_eq!(session.name.unwrap(), name.replace('\0', "\u{fffd}"));
    let reason = Some(("ODD".to_owned(), "zero \0 byte".to_owned()));
    let write = clarateach_store::SeatWrite { reason, ..seen(2, 1, clarateach_lifecycle::SeatState::Failed) };
    store.write_workshop(write_of(&record, vec![write.clone()])).await.unwrap();
    let before = kinds(&store, &record).await;
    store.write_workshop(write_of(&record, vec![write])).await.unwrap();
    assert_eq!(kinds(&store, &record).await, before, "the same again is no event");
}

/// A certificate for 127.0.0.1 that signs itself.
fn certificate(directory: &std::path::Path) -> bool {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "server.key", "-out", "server.crt"])
        .current_dir(directory)
        .output();
    made.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_certificate_is_looked_at_as_the_url_wants_it() {
    const NAME: &str = "the_servers_certificate_is_looked_at_as_the_url_wants_it";
    let Some(mut postgres) = server(NAME) else { return };
    let url = postgres.database("teach");
    let folder = tempfile::tempdir().unwrap();
    if !certificate(folder.path()) {
        return skip(NAME, "openssl can't make a certificate");
    }
    postgres.use_certificate(&folder.path().join("server.crt"), &folder.path().join("server.key"));
    let authority = folder.path().join("server.crt").display().to_string();

    let in_use =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = 'teach'
                  AND application_name = 'clarateach'";
    for how in [
        String::new(),
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=verify-ca&sslrootcert={authority}"),
        format!("sslmode=verify-full&sslrootcert={authority}"),
    ] {
        let store = open(&format!("{url}?{how}")).await;
        store.check().await.unwrap();
        assert_eq!(postgres.sql("teach", in_use), "t", "{how}");
        store.close().await;
    }
    let store = open(&format!("{url}?sslmode=disable")).await;
    assert_eq!(postgres.sql("teach", in_use), "f");
    store.close().await;
    // Not made by anybody whom this system trusts.
    for mode in ["verify-ca", "verify-full"] {
        let said = refused(&format!("{url}?sslmode={mode}")).await;
        assert!(said.contains("certificate"), "{said}");
    }
    // The right authority, the wrong name.
    let other_name = url.replace("127.0.0.1", "localhost");
    let said = refused(&format!("{other_name}?sslmode=verify-full&sslrootcert={authority}")).await;
    assert!(said.contains("not valid for name"), "{said}");
    works(&open(&format!("{other_name}?sslmode=verify-ca&sslrootcert={authority}")).await).await;
    let said = refused(&format!("{url}?sslmode=verify-full&sslrootcert=/nowhere.pem")).await;
    assert!(said.contains("/nowhere.pem"), "{said}");
}
