//! Floods, readers that stop, keys in between.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{DEADLINE, Seat, Seen, contains, lives, wait_for};

#[test]
fn memory_is_flat_when_the_reader_stops_and_ctrl_c_still_works() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.type_in("echo $$; yes 'endless output of a program that never stops'\n");
    terminal.read_until("never stops\r\nendless");
    let yes = children_of(shell_of(&seat))[0];
    let before = seat.resident();
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut most = 0;
    while Instant::now() < deadline {
        most = most.max(seat.resident());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(most < before + 4096, "grew from {before} to {most} KiB");
    let typed = Instant::now();
    terminal.type_in("\x03");
    while lives(yes) {
        assert!(typed.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
    assert!(typed.elapsed() < Duration::from_millis(500), "took {:?}", typed.elapsed());
    assert_eq!(terminal.run("echo back").trim().lines().last(), Some("back"));
}

#[test]
fn memory_is_flat_with_nobody_there_and_with_many_redraws() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.type_in("while :; do printf '\\033[3%dm%s\\033[m\\r\\n' $((i=(i+1)%8)) colours; done\n");
    terminal.read_until("colours\u{1b}[m\r\r\n");
    drop(terminal);
    let mut most = 0;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let mut late = seat.terminal("?mode=view");
        assert!(matches!(late.next(), Seen::Output { .. }));
        most = most.max(seat.resident());
    }
    assert!(most < 24 << 10, "{most} KiB");
}

#[test]
fn keys_overtake_a_flood() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.type_in("yes\n");
    terminal.read_until("y\r\ny\r\ny\r\n");
    // A reader of 5 MB/s.
    let start = Instant::now();
    let (mut read, mut typed) = (0u32, None);
    let took = loop {
        let Seen::Output { bytes, .. } = terminal.next() else { continue };
        read += u32::try_from(bytes.len()).unwrap();
        if let Some(typed) = typed
            && contains(&bytes, b"^C")
        {
            break Instant::elapsed(&typed);
        }
        if let Some(early) =
            (start + Duration::from_micros(u64::from(read) / 5)).checked_duration_since(Instant::now())
        {
            std::thread::sleep(early);
        }
        if typed.is_none() && start.elapsed() > Duration::from_secs(1) {
            typed = Some(Instant::now());
            terminal.type_in("\x03");
        }
    };
    // The bench measures it; here other tests run beside.
    assert!(took < Duration::from_millis(250), "{took:?}");
    terminal.run("true");
}

#[test]
fn a_flood_in_one_terminal_leaves_the_others_alive() {
    let seat = Seat::start();
    let mut flooded = seat.terminal("");
    flooded.type_in("yes\n");
    flooded.read_until("y\r\ny\r\n");
    drop(flooded);
    seat.call("POST", "/terminals", Value::Null);
    let mut other = seat.terminal("?id=2");
    other.run("true");
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let start = Instant::now();
        other.type_in("#");
        other.read_until("#");
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    wait_for("the flood to end", || seat.call("DELETE", "/terminals/1", Value::Null).0 == 204);
}

fn shell_of(seat: &Seat) -> u32 {
    let list = seat.call("GET", "/terminals", Value::Null).1;
    u32::try_from(list["terminals"][0]["pid"].as_u64().unwrap()).unwrap()
}

fn children_of(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|p| p.parse().unwrap()).collect()
}
