//! Server-sent events.

use std::{
    io::{BufRead, BufReader, Write},
    time::Instant,
};

use serde_json::{Value, json};

use crate::harness::{DEADLINE, SECRET, Seat, Stream, wait_for};

struct Events(BufReader<Box<dyn Stream>>);

impl Events {
    fn open(seat: &Seat) -> Events {
        let mut stream = seat.connect().unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nhost: seat\r\nx-clarateach-secret: {SECRET}\r\n\r\n")
            .unwrap();
        let mut events = Events(BufReader::new(stream));
        // The watches are set once everything may have changed.
        events.next_where("files", |data| data["overflow"] == true);
        events
    }

    fn next_where(&mut self, name: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        let mut event = String::new();
        loop {
            assert!(Instant::now() < deadline, "no such {name}");
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the events ended");
            if let Some(name) = line.strip_prefix("event: ") {
                event = name.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| event == name) {
                let data = serde_json::from_str(data).unwrap();
                if holds(&data) {
                    return data;
                }
            }
        }
    }

    fn next_change_in(&mut self, directory: &str) {
        self.next_where("files", |data| {
            data["directories"].as_array().is_some_and(|all| all.iter().any(|d| d == directory))
        });
    }
}

#[test]
fn changes_are_told_wherever_they_happen() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.run("mkdir -p src/deep node_modules/x");
    let mut events = Events::open(&seat);
    terminal.run("echo x > top");
    events.next_change_in("");
    terminal.run("echo x > src/deep/file");
    events.next_change_in("src/deep");
    seat.call("PUT", "/files/src/saved", json!({"content": "x"}));
    events.next_change_in("src");
    // In a directory that was not there before.
    terminal.run("mkdir fresh");
    events.next_change_in("");
    wait_for("fresh to be watched", || {
        terminal.run("touch fresh/file; rm -f fresh/file");
        true
    });
    events.next_change_in("fresh");
    terminal.run("mv src moved; echo x > moved/deep/other");
    events.next_change_in("");
    // What is in there is not worth a watch.
    terminal.run("echo x > node_modules/x/file; echo x > last");
    let last = events.next_where("files", |_| true);
    assert!(!last.to_string().contains("node_modules"));
}

/// However fast directories are made, each is watched from some moment on.
#[test]
fn directories_made_in_a_rush_are_all_watched() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    let mut events = Events::open(&seat);
    terminal.run("for n in $(seq 400); do mkdir d$n; done; touch made");
    // Told once the last of them has been dealt with, or later.
    events.next_change_in("d400");
    let mut missing: std::collections::BTreeSet<String> = (1..=400).map(|n| format!("d{n}")).collect();
    terminal.run("for n in $(seq 400); do : > d$n/file; done");
    events.next_where("files", |data| {
        for directory in data["directories"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            missing.remove(directory);
        }
        missing.is_empty()
    });
}

#[test]
fn nothing_is_watched_once_nobody_listens() {
    let seat = Seat::start();
    let watched = || {
        std::fs::read_dir(format!("/proc/{}/fd", seat.pid()))
            .unwrap()
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .filter(|target| target.to_string_lossy().contains("inotify"))
            .count()
    };
    let first = Events::open(&seat);
    let second = Events::open(&seat);
    assert!(watched() > 0);
    drop(first);
    drop(second);
    wait_for("the watches to go", || watched() == 0);
    drop(Events::open(&seat));
}
