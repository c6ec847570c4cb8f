//! How many joins a second the store decides, each on the disk before it is answered.
//!
//! `cargo bench -p clarateach-store`; `CLARATEACH_BENCH_DIR` says on which filesystem (default: the build directory's).
//! PostgreSQL is measured beside SQLite where it is installed, with its waits for the disk (`fsync=on`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clarateach_ids::{Generation, JoinCode, SeatNumber, SessionId, UserId, WorkshopId};
use clarateach_lifecycle::{SeatState, Wanted, WorkshopStatus};
use clarateach_store::postgres::PostgresStore;
use clarateach_store::sqlite::SqliteStore;
use clarateach_store::{CodeHash, JoinDecision, JoinWish, NewWorkshop, SeatWrite, Store, WorkshopWrite};
use clarateach_testkit::postgres::PrivatePostgres;
use jiff::Timestamp;

const SEATS: u32 = 500;
const RUN: Duration = Duration::from_secs(3);

fn random_hash() -> CodeHash {
    CodeHash(*blake3::hash(SessionId::random().as_str().as_bytes()).as_bytes())
}

async fn ready_workshop(store: &dyn Store) -> JoinCode {
    let now = Timestamp::now();
    let workshop = store
        .create_workshop(NewWorkshop {
            id: WorkshopId::random(),
            owner: UserId::admin(),
            name: "Bench".to_owned(),
            join_code: JoinCode::random(),
            seats: SEATS,
            runtime: "simulated".to_owned(),
            image: "image".to_owned(),
            env_names: vec!["API_KEY".to_owned()],
            env_sealed: vec![7; 200],
            memory_mb: 512,
            vcpus: 1,
            disk_mb: 1024,
            wanted: Wanted::Running,
            ends_at: None,
            now,
        })
        .await
        .expect("a workshop");
    let seats = (1..=SEATS)
        .map(|n| SeatWrite {
            seat: SeatNumber::new(n).expect("a seat number"),
            generation: Generation(1),
            next_generation: Generation(1),
            state: SeatState::Ready,
            reason: None,
            attempts: 0,
            retry_at: None,
            only_if_free: false,
        })
        .collect();
    let write = WorkshopWrite {
        id: workshop.id,
        wanted: Wanted::Running,
        status: Some(WorkshopStatus::Running),
        reason: None,
        seats,
        fence: None,
        now,
    };
    store.write_workshop(write).await.expect("ready seats");
    workshop.join_code
}

/// Which joins are measured.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Newcomers,
    Returning,
}

fn wish(join_code: JoinCode, client_id: String) -> JoinWish {
    JoinWish {
        join_code,
        new_session: SessionId::random(),
        new_code: random_hash(),
        returning_code: None,
        client_id: Some(client_id),
        name: Some("Ada Lovelace".to_owned()),
        now: Timestamp::now(),
    }
}

async fn measure(database: &str, store: Arc<dyn Store>, who: Who, concurrent: usize) {
    // Enough workshops for the run, made before it.
    let workshops = if who == Who::Newcomers { 40 * concurrent.min(8) } else { 1 };
    let mut codes = Vec::new();
    for _ in 0..workshops {
        codes.push(ready_workshop(&*store).await);
    }
    let places: Vec<(JoinCode, String)> =
        codes.iter().flat_map(|code| (0..SEATS).map(move |n| (*code, format!("browser-{n}")))).collect();
    if who == Who::Returning {
        let joins = places.iter().map(|(code, client)| store.join(wish(*code, client.clone())));
        all_of(joins).await;
    }
    let places = Arc::new(places);
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (started, busy) = (Instant::now(), processor_time());
    let tasks: Vec<_> = (0..concurrent)
        .map(|_| {
            let (store, places, next) = (Arc::clone(&store), Arc::clone(&places), Arc::clone(&next));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while started.elapsed() < RUN {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let (code, client) = match who {
                        Who::Newcomers => match places.get(i) {
                            Some(place) => place.clone(),
                            None => break,
                        },
                        Who::Returning => places[i % places.len()].clone(),
                    };
                    let wish = wish(code, client);
                    let asked = Instant::now();
                    let decision = store.join(wish).await.expect("a decision");
                    took.push(asked.elapsed());
                    assert!(matches!(decision, JoinDecision::Seated { .. }), "{decision:?}");
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.expect("a joiner"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let busy = processor_time().saturating_sub(busy);
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let what = if who == Who::Newcomers { "newcomers" } else { "returning" };
    #[allow(clippy::print_stdout)]
    {
        println!(
            "{database:10} {what}, {concurrent:3} at once: {:7.0} joins/s, p50 {:6.2} ms, p99 {:6.2} ms, {:4.0} µs of processor each ({} joins)",
            took.len() as f64 / seconds,
            at(50),
            at(99),
            busy.as_secs_f64() * 1e6 / took.len() as f64,
            took.len(),
        );
    }
}

/// What this process has used of the processors: tells more than the clock on a machine that does other things too.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The fields after the name, which is in brackets: user and system time are the 12th and 13th, in ticks of 10 ms.
    let after_name = stat.rsplit_once(") ").expect("a name in brackets").1;
    let ticks = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// One after the other.
async fn all_of<F: Future>(joins: impl Iterator<Item = F>) {
    for join in joins {
        join.await;
    }
}

fn main() {
    // Test runners start this program too, to ask which tests it has.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = std::env::var_os("CLARATEACH_BENCH_DIR").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let folder = tempfile::tempdir_in(folder).expect("a directory for the database");
    // PostgreSQL does not run as root: its user must be able to come here.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(folder.path(), open).expect("its mode");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let sqlite = SqliteStore::open(&folder.path().join("bench.db")).expect("a store");
        all("SQLite", Arc::new(sqlite)).await;
        match PrivatePostgres::start_in(folder.path(), &["fsync=on", "full_page_writes=on"]) {
            Ok(server) => {
                let url = server.database("bench").parse().expect("a URL");
                let postgres = PostgresStore::connect(&url).await.expect("a store");
                all("PostgreSQL", Arc::new(postgres)).await;
            }
            Err(reason) => print(&format!("PostgreSQL is not measured: {reason}")),
        }
    });
}

async fn all(database: &str, store: Arc<dyn Store>) {
    for who in [Who::Newcomers, Who::Returning] {
        for concurrent in [1, 64, 256, 500] {
            measure(database, Arc::clone(&store), who, concurrent).await;
        }
    }
    a_class(database, &*store).await;
    store.close().await;
}

/// 500 learners who come at the same moment, to one workshop, ten times.
async fn a_class(database: &str, store: &dyn Store) {
    let (mut took, mut whole) = (Vec::new(), Vec::new());
    for round in 0..10 {
        let code = ready_workshop(store).await;
        let began = Instant::now();
        let joins = (0..SEATS).map(|n| async move {
            let asked = Instant::now();
            let decision = store.join(wish(code, format!("{round}-{n}"))).await.expect("a decision");
            assert!(matches!(decision, JoinDecision::Seated { .. }), "{decision:?}");
            asked.elapsed()
        });
        took.extend(futures_util::future::join_all(joins).await);
        whole.push(began.elapsed());
    }
    took.sort_unstable();
    whole.sort_unstable();
    let ms = |of: &[Duration], percent: usize| of[(of.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    print(&format!(
        "{database:10} a class of {SEATS} at one moment: all in {:.0} ms ({:.0} joins/s), p50 {:.1} ms, p99 {:.1} ms",
        ms(&whole, 50),
        f64::from(SEATS) * 1e3 / ms(&whole, 50),
        ms(&took, 50),
        ms(&took, 99),
    ));
}

#[allow(clippy::print_stdout)]
fn print(line: &str) {
    println!("{line}");
}
