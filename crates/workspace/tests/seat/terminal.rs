//! One terminal and one viewer: frames, sizes, replay, exit.

use std::{io::Write as _, process::Command};

use clarateach_seatproto::terminal::{ClientFrame, REPLAY_BYTES, ServerFrame};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Seat, Seen, Terminal, contains, wait_for};

#[test]
fn a_client_that_just_connects_has_a_shell() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    assert!(matches!(
        terminal.hello,
        Some(ServerFrame::Hello { id: 1, cols: 80, rows: 24, writer: true, .. })
    ));
    assert_eq!(terminal.protocol, None);
    assert_eq!(terminal.run("echo $((6 * 7))").trim(), "42");
    assert!(terminal.run("tty").starts_with("/dev/pts/"));
}

#[test]
fn numbered_input_is_acknowledged_and_taken_once_per_client() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("?client=browser-1");
    let input = |n, text: &str| ClientFrame::Input { data: text.to_owned(), n: Some(n) };
    terminal.send(&input(1, "echo once >> log\n"));
    assert_eq!(terminal.next_notice(), ServerFrame::Ack { n: 1 });
    drop(terminal);
    let mut again = seat.terminal("?client=browser-1");
    assert!(matches!(again.hello, Some(ServerFrame::Hello { n: Some(1), .. })));
    again.send(&input(1, "echo once >> log\n"));
    again.send(&input(2, "echo twice >> log\n"));
    assert_eq!(again.next_notice(), ServerFrame::Ack { n: 1 });
    assert_eq!(again.next_notice(), ServerFrame::Ack { n: 2 });
    assert_eq!(again.run("cat log"), "once\ntwice\n");
}

#[test]
fn bad_frames_are_answered_and_survived() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    for (frame, code) in [
        ("{", "MALFORMED_FRAME"),
        ("null", "MALFORMED_FRAME"),
        (r#"{"type":"launch"}"#, "MALFORMED_FRAME"),
        (r#"{"type":"input"}"#, "MALFORMED_FRAME"),
        (r#"{"type":"input","data":7}"#, "MALFORMED_FRAME"),
        (r#"{"type":"resize","cols":0,"rows":24}"#, "INVALID_SIZE"),
        (r#"{"type":"resize","cols":80,"rows":0}"#, "INVALID_SIZE"),
        (r#"{"type":"resize","cols":1001,"rows":24}"#, "INVALID_SIZE"),
        (r#"{"type":"resize","cols":4294967295,"rows":24}"#, "INVALID_SIZE"),
        (r#"{"type":"resize","cols":99999999999,"rows":24}"#, "MALFORMED_FRAME"),
        (r#"{"type":"resize","cols":-5,"rows":24}"#, "MALFORMED_FRAME"),
        (r#"{"type":"resize","cols":80.5,"rows":24}"#, "MALFORMED_FRAME"),
    ] {
        terminal.send_text(frame);
        assert_eq!(terminal.next_error(), code, "{frame}");
    }
    terminal.socket.send(Message::binary(vec![1, 2, 3])).unwrap();
    assert_eq!(terminal.next_error(), "UNEXPECTED_BINARY");
    terminal.send_text(&json!({"type": "input", "data": "x".repeat(1 << 20)}).to_string());
    assert_eq!(terminal.next_error(), "TOO_LARGE");
    assert_eq!(terminal.run("stty size").trim(), "24 80");
}

#[test]
fn a_message_beyond_all_bounds_closes_with_1009() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    // The connection may break while this is still being sent.
    let _ = terminal.socket.send(Message::text("x".repeat(5 << 20)));
    loop {
        match terminal.next() {
            Seen::Closed(code) => {
                assert_eq!(code, Some(1009));
                break;
            }
            Seen::Frame(ServerFrame::Error { code, .. }) => assert_eq!(code, "TOO_LARGE"),
            _ => {}
        }
    }
    assert_eq!(seat.terminal("").run("echo still here").trim(), "still here");
}

/// Of a kind that RFC 6455 does not know, and without the mask that every client must use.
#[test]
fn frames_that_are_none_close_with_1002() {
    let seat = Seat::start();
    for frame in [&b"\x83\x81\0\0\0\0x"[..], b"\x81\x02hi"] {
        let mut terminal = seat.terminal("");
        terminal.socket.get_mut().write_all(frame).unwrap();
        let mut told = false;
        loop {
            match terminal.next() {
                Seen::Closed(code) => {
                    assert_eq!((code, told), (Some(1002), true), "{frame:?}");
                    break;
                }
                Seen::Frame(ServerFrame::Error { code, .. }) => told = code == "MALFORMED_FRAME",
                _ => {}
            }
        }
    }
    assert_eq!(seat.terminal("").run("echo still here").trim(), "still here");
}

#[test]
fn the_size_reaches_the_program() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.resize(132, 43);
    assert_eq!(terminal.run("stty size").trim(), "43 132");
    terminal.resize(1, 1);
    terminal.resize(1000, 1000);
    assert_eq!(terminal.run("stty size").trim(), "1000 1000");
}

#[test]
fn terminals_are_made_listed_and_closed() {
    let seat = Seat::start();
    let (status, made) = seat.call("POST", "/terminals", json!({"cols": 100, "rows": 30}));
    assert_eq!((status, &made["terminal"]["id"]), (201, &json!(1)));
    assert_eq!(seat.call("POST", "/terminals", Value::Null).1["terminal"]["id"], 2);
    assert_eq!(seat.refused("POST", "/terminals", json!({"cols": 0})), (400, "INVALID_SIZE".into()));
    assert_eq!(seat.refused("POST", "/terminals", json!({"cwd": ".."})), (400, "OUTSIDE_WORKSPACE".into()));
    assert_eq!(seat.refused("POST", "/terminals", json!({"shell": "x"})), (400, "INVALID_BODY".into()));
    std::fs::create_dir(seat.root().join("sub")).unwrap();
    assert_eq!(seat.call("POST", "/terminals", json!({"cwd": "sub"})).1["terminal"]["id"], 3);
    assert!(seat.terminal("?id=3").run("pwd -P").trim().ends_with("/sub"));
    assert_eq!(seat.terminal("?id=1").run("stty size").trim(), "30 100");

    let mut second = seat.terminal("?id=2");
    let pid: u32 = second.run("echo $$").trim().parse().unwrap();
    assert_eq!(seat.call("DELETE", "/terminals/2", Value::Null).0, 204);
    second.read_to_exit();
    wait_for("the shell to end", || !crate::harness::lives(pid));
    let list = seat.call("GET", "/terminals", Value::Null).1;
    let ids: Vec<_> = list["terminals"].as_array().unwrap().iter().map(|t| t["id"].clone()).collect();
    assert_eq!(ids, [1, 3]);
    assert_eq!(seat.refused("DELETE", "/terminals/2", Value::Null), (404, "NOT_FOUND".into()));
    assert_eq!(seat.refused("DELETE", "/terminals/x", Value::Null), (404, "NOT_FOUND".into()));
    assert_eq!(seat.refused("PATCH", "/terminals", Value::Null), (405, "METHOD_NOT_ALLOWED".into()));
    assert_eq!(seat.refused("GET", "/terminal", Value::Null), (426, "UPGRADE_REQUIRED".into()));
    for (query, status) in
        [("?id=9", 404), ("?id=0", 404), ("?id=x", 400), ("?since=-1", 400), ("?mode=root", 400)]
    {
        assert_eq!(Terminal::open(&seat, query, "").err().unwrap().0, status, "{query}");
    }
}

#[test]
fn closing_a_terminal_ends_what_runs_in_it() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    let pids = terminal
        .run("nohup sleep 1000 >/dev/null 2>&1 & echo $!; sh -c 'trap \"\" HUP; sleep 1000' & echo $!");
    let pids: Vec<u32> = pids.split_whitespace().filter_map(|p| p.parse().ok()).collect();
    assert_eq!(pids.len(), 2);
    assert_eq!(seat.call("DELETE", "/terminals/1", Value::Null).0, 204);
    wait_for("its processes to end", || pids.iter().all(|p| !crate::harness::lives(*p)));
}

#[test]
fn without_a_shell_the_files_still_work() {
    let seat = Seat::start_with(|command| {
        command.env("CLARATEACH_SHELL", "/no/such/shell");
    });
    assert_eq!(seat.refused("POST", "/terminals", Value::Null), (422, "NO_SHELL".into()));
    assert_eq!(Terminal::open(&seat, "", "").err(), Some((101, "NO_SHELL".to_owned())));
    assert_eq!(seat.call("PUT", "/files/a", json!({"content": "b"})).0, 201);
}

#[test]
fn what_was_missed_is_replayed_exactly() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.type_in("stty -echo; seq 1 30000; echo en''d\n");
    let mut all = terminal.read_bytes_until(|seen| contains(seen, b"\r\n5000\r\n"));
    // Again and again, in the middle of the output.
    let mut connections = 0;
    while !contains(&all[all.len().saturating_sub(100)..], b"end\r\n") {
        let since = terminal.seq;
        drop(terminal);
        terminal = seat.terminal(&format!("?since={since}"));
        assert!(matches!(terminal.hello, Some(ServerFrame::Hello { seq, .. }) if seq == since));
        for _ in 0..2 {
            match terminal.next() {
                Seen::Output { bytes, snapshot: false, .. } => all.extend(bytes),
                other => panic!("{other:?}"),
            }
            if contains(&all[all.len().saturating_sub(100)..], b"end\r\n") {
                break;
            }
        }
        connections += 1;
    }
    assert!(connections > 1);
    let expected: String = (1..=30000).map(|n| format!("{n}\r\n")).collect();
    assert!(contains(&all, (expected + "end\r\n").as_bytes()));
}

#[test]
fn a_lost_connection_leaves_the_program_running() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    // Far more than anything would buffer.
    terminal.type_in("echo $$; seq 1 600000 > /dev/tty; touch finished; exec sleep 1000\n");
    terminal.read_until("\r\n100\r\n");
    drop(terminal);
    wait_for("the program to go on without a viewer", || seat.root().join("finished").exists());
    assert_eq!(seat.call("GET", "/terminals", Value::Null).1["terminals"][0]["status"], "running");
}

#[test]
fn what_is_too_far_back_is_redrawn() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.run("seq 1 400000; printf '\\033[31mred\\033[m\\n'");
    drop(terminal);
    let mut late = seat.terminal("?since=1");
    let Seen::Output { bytes, seq, snapshot: true } = late.next() else { panic!("no redraw") };
    assert!(seq > 2 * REPLAY_BYTES as u64);
    assert!(bytes.starts_with(b"\x1bc"), "it begins with a reset");
    for shown in ["\r\n399700\r\n399701\r\n", "399999", "400000", "red", "$ "] {
        assert!(
            contains(&bytes, shown.as_bytes()),
            "{shown:?} is not in {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    assert!(!contains(&bytes, b"399000"), "no more than screen and scrollback");
    assert_eq!(late.run("echo goes on").trim(), "goes on");
    // A newcomer without a position gets the same.
    assert!(matches!(seat.terminal("").next(), Seen::Output { snapshot: true, .. }));
}

#[test]
fn positions_of_another_life_are_not_believed() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.run("true");
    drop(terminal);
    for query in ["?since=99999999", "?since=1&epoch=0123456789abcdef"] {
        let mut back = seat.terminal(query);
        let Seen::Output { bytes, snapshot: true, .. } = back.next() else { panic!("{query}") };
        assert!(contains(&bytes, b"the shell is new"), "{query}");
        // What the new shell has said follows and doesn't wipe it off.
        let Seen::Output { bytes, snapshot: false, .. } = back.next() else { panic!("{query}") };
        assert!(contains(&bytes, b"$ "), "{query}");
    }
}

#[test]
fn nothing_is_lost_at_the_shells_exit() {
    let seat = Seat::start();
    let expected: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
    for attempt in 0..200 {
        let mut terminal = seat.binary_terminal("?id=1");
        terminal.type_in("stty -echo; seq 1 20000; exit 5\n");
        let (all, code) = terminal.read_to_exit();
        assert_eq!(code, 5);
        assert!(contains(&all, expected.as_bytes()), "attempt {attempt}: the tail is missing");
        assert!(
            all.ends_with(b"20000\r\n"),
            "attempt {attempt}: {:?}",
            String::from_utf8_lossy(&all[all.len() - 40..])
        );
    }
}

#[test]
fn an_exit_without_viewers_is_told_later_and_then_a_fresh_shell_given() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.read_until("$ ");
    let since = terminal.seq;
    terminal.type_in("sleep 0.2; echo last words; exit 9\n");
    drop(terminal);
    wait_for("the shell to exit", || {
        seat.call("GET", "/terminals", Value::Null).1["terminals"][0]["status"] == "exited"
    });
    let (all, code) = seat.terminal(&format!("?since={since}")).read_to_exit();
    assert!(contains(&all, b"\r\nlast words\r\n"));
    assert_eq!(code, 9);
    assert_eq!(seat.terminal("").run("echo again").trim(), "again");
}

#[test]
fn a_background_process_does_not_hold_up_the_exit() {
    let seat = Seat::start();
    for command in
        ["sleep 1000 & exit 3\n", "(while :; do echo noise; done) & exit 3\n", "setsid yes & exit 3\n"]
    {
        let mut terminal = seat.terminal("");
        terminal.type_in(command);
        let start = std::time::Instant::now();
        assert_eq!(terminal.read_to_exit().1, 3);
        assert!(start.elapsed().as_secs() < 5, "{command}");
    }
}

#[test]
fn a_shell_killed_by_a_signal_says_so() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.type_in("kill -9 $$\n");
    assert_eq!(terminal.read_to_exit().1, 128 + 9);
}

#[test]
fn characters_are_never_split() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    let line = "aé漢😀".repeat(50);
    std::fs::write(seat.root().join("text"), format!("{line}\n").repeat(2000)).unwrap();
    terminal.type_in("stty -echo; cat text; echo en''d\n");
    let mut lines = 0;
    let all = terminal.read_bytes_until(|seen| contains(&seen[seen.len().saturating_sub(9)..], b"end\r\n"));
    let all = String::from_utf8(all).unwrap();
    assert!(!all.contains('\u{fffd}'));
    lines += all.lines().filter(|l| *l == line).count();
    assert!(lines >= 1999, "{lines} whole lines");
}

#[test]
fn bytes_that_are_no_text_are_replaced_in_text_and_exact_in_binary() {
    let seat = Seat::start();
    let bytes: Vec<u8> = (0..=255).cycle().take(256 * 40).collect();
    std::fs::write(seat.root().join("bytes"), &bytes).unwrap();
    let mut binary = seat.binary_terminal("");
    assert_eq!(binary.protocol.as_deref(), Some("clarateach.terminal.v1+binary"));
    binary.type_in("stty -echo -opost; echo be''gin; cat bytes; echo en''d\n");
    let all = binary.read_bytes_until(|seen| contains(seen, b"end\n"));
    let start = memchr::memmem::find(&all, b"begin\n").unwrap() + 6;
    assert_eq!(all[start..start + bytes.len()], bytes);
    drop(binary);

    let mut text = seat.terminal("");
    text.type_in("stty opost; printf '<\\377\\303\\251\\303>'\n");
    text.read_until("<\u{fffd}é\u{fffd}>");

    let mut input = seat.binary_terminal("");
    input.type_in("stty raw; printf RE''ADY; head -c 4 | od -An -tx1; stty sane\n");
    input.read_bytes_until(|seen| contains(seen, b"READY"));
    input.socket.send(Message::binary(vec![1, 0xff, 0x00, 0x80, 0x04])).unwrap();
    input.read_bytes_until(|seen| contains(seen, b"ff 00 80 04"));
    let mut numbered = vec![2];
    numbered.extend(77u64.to_be_bytes());
    numbered.extend(b"true\n");
    input.socket.send(Message::binary(numbered)).unwrap();
    assert_eq!(input.next_notice(), ServerFrame::Ack { n: 77 });
    input.socket.send(Message::binary(vec![9])).unwrap();
    assert_eq!(input.next_error(), "MALFORMED_FRAME");
}

#[test]
fn only_subprotocols_of_ours_are_chosen() {
    let seat = Seat::start();
    let chosen = |offer| Terminal::open(&seat, "", offer).ok().unwrap().protocol;
    let both = "clarateach.terminal.v1, clarateach.terminal.v1+binary, bearer.abc";
    assert_eq!(chosen(both).as_deref(), Some("clarateach.terminal.v1+binary"));
    assert_eq!(chosen("bearer.abc, clarateach.terminal.v1").as_deref(), Some("clarateach.terminal.v1"));
}

#[test]
fn ctrl_c_reaches_a_program_that_does_not_read() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.type_in("sleep 1000\n");
    terminal.read_until("sleep 1000");
    wait_for("the program to have the terminal", || shell_has_given_its_terminal_away(&seat));
    terminal.type_in(&"a pasted line\n".repeat(10_000));
    terminal.type_in("\x03");
    let start = std::time::Instant::now();
    assert_eq!(terminal.run("echo back").trim().lines().last(), Some("back"));
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn ctrl_c_works_also_where_the_server_was_started_without_it() {
    // As `nohup` and a shell's `&` start it.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP INT QUIT; exec \"$0\"", env!("CARGO_BIN_EXE_workspace")]);
    let seat = Seat::launch(command, None, |_| {});
    let mut terminal = seat.terminal("");
    terminal.type_in("sleep 1000\n");
    wait_for("the program to have the terminal", || shell_has_given_its_terminal_away(&seat));
    terminal.type_in("\x03");
    assert_eq!(terminal.run("echo back").trim().lines().last(), Some("back"));
}

#[test]
fn input_that_nobody_reads_is_bounded() {
    let seat = Seat::start();
    let mut terminal = seat.terminal("");
    terminal.type_in("stty -echo; echo rea''dy; sleep 1000\n");
    terminal.read_until("ready");
    let half = "a line that nobody reads\n".repeat(20_000);
    for _ in 0..3 {
        terminal.type_in(&half);
    }
    assert_eq!(terminal.next_error(), "INPUT_OVERFLOW");
    // Another terminal doesn't notice.
    seat.call("POST", "/terminals", Value::Null);
    assert_eq!(seat.terminal("?id=2").run("echo fine").trim(), "fine");
}

/// Whether the keys go to a program: a shell's child that has not got that far yet is not reached by Ctrl-C.
fn shell_has_given_its_terminal_away(seat: &Seat) -> bool {
    let pid = terminal_shell(seat);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // pgrp and tpgid of proc_pid_stat(5), behind the name.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    matches!(fields[..], [_, _, group, _, _, foreground, ..] if foreground != group)
}

fn terminal_shell(seat: &Seat) -> u64 {
    seat.call("GET", "/terminals", Value::Null).1["terminals"][0]["pid"].as_u64().unwrap()
}
