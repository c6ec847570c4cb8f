//! Several viewers on one terminal.

use clarateach_seatproto::terminal::ServerFrame;

use crate::harness::{Seat, Seen, Terminal, contains, wait_for};

fn is_writer(terminal: &Terminal) -> bool {
    matches!(terminal.hello, Some(ServerFrame::Hello { writer: true, .. }))
}

/// The next news of the size: columns, rows and whether this viewer is the writer.
fn next_size(terminal: &mut Terminal) -> (u16, u16, bool) {
    loop {
        if let Seen::Frame(ServerFrame::Size { cols, rows, writer }) = terminal.next() {
            return (cols, rows, writer);
        }
    }
}

#[test]
fn all_see_the_same_and_only_the_writer_sets_the_size() {
    let seat = Seat::start();
    let mut first = seat.terminal("");
    let mut second = seat.terminal("");
    assert!(is_writer(&first) && !is_writer(&second));
    first.resize(100, 30);
    assert_eq!(next_size(&mut second), (100, 30, false));
    // Opening a small window beside it disturbs nobody.
    second.resize(40, 10);
    assert_eq!(first.run("stty size").trim(), "30 100");
    second.read_until("30 100");
    // Typing in it makes it the writer, and its size counts.
    second.type_in("\n");
    assert_eq!(next_size(&mut second), (40, 10, true));
    loop {
        let (cols, rows, writer) = next_size(&mut first);
        assert!(!writer);
        if (cols, rows) == (40, 10) {
            break;
        }
    }
    assert_eq!(second.run("stty size").trim(), "10 40");
    first.read_until("10 40");
}

#[test]
fn when_the_writer_leaves_another_follows() {
    let seat = Seat::start();
    let mut first = seat.terminal("");
    first.resize(100, 30);
    let mut second = seat.terminal("");
    second.resize(60, 20);
    let _watching = seat.terminal("?mode=view");
    drop(first);
    while next_size(&mut second) != (60, 20, true) {}
    assert_eq!(second.run("stty size").trim(), "20 60");
}

#[test]
fn a_watching_viewer_can_not_type_or_resize() {
    let seat = Seat::start();
    let mut watching = seat.terminal("?mode=view");
    assert!(!is_writer(&watching));
    watching.type_in("touch typed\n");
    assert_eq!(watching.next_error(), "READ_ONLY");
    watching.resize(50, 50);
    assert_eq!(watching.next_error(), "READ_ONLY");
    let mut other = seat.terminal("");
    assert!(is_writer(&other));
    assert_eq!(other.run("stty size; ls typed 2>/dev/null").trim(), "24 80");
    watching.read_until("24 80");
}

#[test]
fn a_viewer_that_does_not_read_holds_up_nobody_and_gets_a_redraw() {
    let seat = Seat::start();
    let mut writer = seat.terminal("");
    let mut stalled = seat.terminal("?mode=view");
    let all = writer.run("seq 1 300000");
    assert!(all.ends_with("299999\n300000\n"));
    // What was under way comes first, then a redraw, and in the end the screen as it is.
    let mut redrawn = false;
    loop {
        let Seen::Output { bytes, snapshot, .. } = stalled.next() else { continue };
        redrawn |= snapshot;
        if contains(&bytes, b"299999") {
            break;
        }
    }
    assert!(redrawn);
    writer.type_in("echo both''of''us\n");
    stalled.read_until("bothofus");
}

#[test]
fn the_writer_makes_the_program_wait_and_loses_nothing() {
    let seat = Seat::start();
    let mut writer = seat.terminal("");
    writer.type_in("stty -echo; seq 1 300000; touch finished; echo en''d\n");
    let mut all = writer.read_bytes_until(|seen| contains(seen, b"\r\n10\r\n"));
    // While nothing is read the program is held up: it can't have finished.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!seat.root().join("finished").exists());
    all.extend(writer.read_bytes_until(|seen| contains(&seen[seen.len().saturating_sub(9)..], b"end\r\n")));
    let expected: String = (1..=300_000).map(|n| format!("{n}\r\n")).collect();
    assert!(contains(&all, expected.as_bytes()));
    wait_for("the program to finish", || seat.root().join("finished").exists());
}
