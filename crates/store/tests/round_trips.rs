//! How often a call waits for PostgreSQL: on another machine that is what a call costs.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use clarateach_ids::{Generation, JoinCode, SeatKey};
use clarateach_store::postgres::PostgresStore;
use clarateach_store::{JoinDecision, JoinWish, Placement, Store, WorkerRecord, WorkerSource, WorkerWish};
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::skip;
use futures_util::future::join_all;

use classroom::*;

/// Turns of the conversation over all connections: how often a client spoke after it had heard something.
type Turns = Arc<AtomicUsize>;

/// Copies one direction; what is heard before more is said makes that a new turn.
fn copy(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut()) {
    let mut buffer = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        note();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A way to the server on which turns are counted. The threads end with their connections.
fn counted(port: u16) -> (u16, Turns) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (own, turns) = (listener.local_addr().unwrap().port(), Turns::default());
    let counter = Arc::clone(&turns);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let heard = Arc::new(AtomicBool::new(true));
            let (turns, said) = (Arc::clone(&counter), Arc::clone(&heard));
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                copy(from, to, || {
                    if said.swap(false, Ordering::SeqCst) {
                        turns.fetch_add(1, Ordering::SeqCst);
                    }
                });
            });
            std::thread::spawn(move || copy(server, client, || heard.store(true, Ordering::SeqCst)));
        }
    });
    (own, turns)
}

/// On one thread the connection speaks only when the caller waits, so what can be said at once is said at once.
#[tokio::test]
async fn a_join_waits_for_postgresql_three_times() {
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("a_join_waits_for_postgresql_three_times", &reason),
    };
    let _ = postgres.database("turns");
    let (port, turns) = counted(postgres.port());
    let url = postgres.url_at(&format!("127.0.0.1:{port}"), "turns");
    let store = PostgresStore::connect(&url.parse().unwrap()).await.unwrap();
    let record = workshop(&store, 10).await;
    make_ready(&store, &record, 1..=10).await;
    // Statements are prepared by whoever comes first.
    seated(join(&store, &record, "Ada").await);
    seated(join(&store, &record, "Ada").await);

    // The least of three: the connection that listens speaks now and then too.
    let (mut newcomer, mut returning, mut refused) = (usize::MAX, usize::MAX, usize::MAX);
    for learner in ["Grace", "Edsger", "Barbara"] {
        let before = turns.load(Ordering::SeqCst);
        seated(join(&store, &record, learner).await);
        let came = turns.load(Ordering::SeqCst);
        seated(join(&store, &record, learner).await);
        let came_back = turns.load(Ordering::SeqCst);
        let unknown = JoinWish { join_code: JoinCode::random(), ..wish(&record, learner) };
        let nobody = store.join(unknown).await.unwrap();
        assert!(matches!(nobody, JoinDecision::NotFound), "{nobody:?}");
        newcomer = newcomer.min(came - before);
        returning = returning.min(came_back - came);
        refused = refused.min(turns.load(Ordering::SeqCst) - came_back);
    }
    println!("turns: newcomer {newcomer}, returning {returning}, refused {refused}");
    // The beginning, the lock and what is read; what is written, events and the wake included; the commit.
    assert_eq!((newcomer, returning, refused), (3, 3, 2));
    purge(&store, &record).await;
    store.close().await;
}

#[tokio::test]
async fn a_class_is_placed_and_forgotten_in_few_transactions() {
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("a_class_is_placed_and_forgotten_in_few_transactions", &reason),
    };
    let _ = postgres.database("turns");
    let (port, turns) = counted(postgres.port());
    let url = postgres.url_at(&format!("127.0.0.1:{port}"), "turns");
    let store = PostgresStore::connect(&url.parse().unwrap()).await.unwrap();
    let worker = WorkerRecord {
        id: "w1".to_owned(),
        address: "w1.example:9090".to_owned(),
        token_sealed: vec![7],
        public_url: None,
        labels: Default::default(),
        capacity: None,
        tls: None,
        source: WorkerSource::Setting,
        wish: WorkerWish::Active,
        kind: None,
        created_at: at(1),
    };
    store.put_worker(worker).await.unwrap();
    let record = workshop(&store, 200).await;
    let placements: Vec<_> = (1..=200)
        .map(|seat| Placement {
            key: SeatKey { workshop: record.id.clone(), seat: n(seat) },
            generation: Generation(1),
            worker: "w1".to_owned(),
        })
        .collect();
    let before = turns.load(Ordering::SeqCst);
    let placed = join_all(placements.iter().map(|placement| store.place(None, placement.clone()))).await;
    let mid = turns.load(Ordering::SeqCst);
    assert!(placed.iter().zip(&placements).all(|(placed, wish)| placed.as_ref().unwrap() == wish));
    assert_eq!(store.placements(Some(&record.id)).await.unwrap().len(), 200);
    let listed = turns.load(Ordering::SeqCst);
    for gone in join_all(placements.iter().map(|p| store.unplace(&p.key, "w1", Generation(1)))).await {
        gone.unwrap();
    }
    let (placing, forgetting) = (mid - before, turns.load(Ordering::SeqCst) - listed);
    assert_eq!(store.placements(None).await.unwrap(), []);
    println!("turns: placing 200 seats {placing}, forgetting them {forgetting}");
    assert!(placing < 40 && forgetting < 20, "one by one it was {placing} and {forgetting}");
    store.set_worker_wish("w1", WorkerWish::Forgotten).await.unwrap();
    purge(&store, &record).await;
    store.close().await;
}
