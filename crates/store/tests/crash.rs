//! A server that is killed while learners join: whoever was told to have a seat has it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod classroom;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use clarateach_store::sqlite::SqliteStore;
use clarateach_store::{JoinDecision, Store};

use classroom::*;

const CHILD: &str = "CLARATEACH_STORE_CRASH_CHILD";
const SEATS: u32 = 5_000;
const JOINERS: usize = 16;

/// The child: joins until it is killed, and prints each join that was answered.
async fn join_for_ever(path: &std::path::Path) {
    let store = Arc::new(SqliteStore::open(path).unwrap());
    let workshop = workshop(&*store, SEATS).await;
    make_ready(&*store, &workshop, 1..=SEATS).await;
    println!("workshop {}", workshop.id);
    let joiners: Vec<_> = (0..JOINERS)
        .map(|joiner| {
            let (store, workshop) = (Arc::clone(&store), workshop.clone());
            tokio::spawn(async move {
                for i in 0.. {
                    let learner = format!("{joiner}-{i}");
                    let wish = wish(&workshop, &learner);
                    let code = wish.new_session.clone();
                    let JoinDecision::Seated { session, .. } = store.join(wish).await.unwrap() else { break };
                    let line = format!("seated {code} {}\n", session.seat.unwrap());
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for joiner in joiners {
        joiner.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_join_that_was_answered_outlives_a_kill() {
    if let Some(path) = std::env::var_os(CHILD) {
        join_for_ever(path.as_ref()).await;
        return;
    }
    for round in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clarateach.db");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "every_join_that_was_answered_outlives_a_kill", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Killed after some joins were answered, in the middle of the next ones.
        let enough = 100 + round * 377;
        let mut answered = Vec::new();
        let mut workshop = None;
        let mut killed = false;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["workshop", id] => workshop = Some(id.parse().unwrap()),
                ["seated", code_text, seat] => {
                    answered.push((code(code_text), seat.parse().unwrap()));
                }
                _ => {}
            }
            if answered.len() >= enough && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed, "the child ended by itself after {} joins", answered.len());
        child.wait().unwrap();

        let store = SqliteStore::open(&path).unwrap();
        for (code, seat) in &answered {
            let (session, _, record, _) = store.session_by_code(code).await.unwrap();
            assert_eq!((session.seat, record.unwrap().key.seat), (Some(*seat), *seat));
        }
        let seats: HashSet<_> = answered.iter().map(|(_, seat)| *seat).collect();
        assert_eq!(seats.len(), answered.len(), "one seat, two learners");
        let counts = store.workshop_counts(&workshop.unwrap()).await.unwrap();
        assert_eq!(counts.active, counts.occupied);
        assert!(counts.active as usize >= answered.len());
        store.check().await.unwrap();
        store.close().await;
    }
}
