//! Listeners and the tunnel to them.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::harness::{SECRET, Seat, free_port, is_root, wait_for};

/// A development server of the learner's: another workspace, started in the terminal.
fn serve(terminal: &mut crate::harness::Terminal, address: &str) {
    let binary = env!("CARGO_BIN_EXE_workspace");
    terminal.run(&format!(
        "CLARATEACH_SECRET=other CLARATEACH_UID=self CLARATEACH_LISTEN=tcp:{address} {binary} >/dev/null 2>&1 &"
    ));
}

fn found(seat: &Seat, port: u16) -> Option<Value> {
    let (status, answer) = seat.call("GET", "/ports", Value::Null);
    assert_eq!(status, 200);
    answer["ports"].as_array().unwrap().iter().find(|p| p["port"] == port).cloned()
}

fn tunnel(seat: &Seat, port: u16) -> Box<dyn crate::harness::Stream> {
    let mut stream = seat.connect().unwrap();
    write!(
        stream,
        "GET /tunnel/{port} HTTP/1.1\r\nhost: seat\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\
         x-clarateach-secret: {SECRET}\r\n\r\n"
    )
    .unwrap();
    stream
}

/// What comes through a tunnel when the other workspace is asked for its health.
fn ask_through(mut stream: Box<dyn crate::harness::Stream>) -> String {
    write!(stream, "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn listeners_of_the_tree_are_found_and_reached() {
    let own = free_port();
    let seat =
        Seat::launch(std::process::Command::new(env!("CARGO_BIN_EXE_workspace")), Some(own), |command| {
            command.env("CLARATEACH_PORTS", "tree");
        });
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign_port = foreign.local_addr().unwrap().port();
    let mut terminal = seat.terminal("");
    let (v4, v6) = (free_port(), free_port());
    serve(&mut terminal, &format!("127.0.0.1:{v4}"));
    serve(&mut terminal, &format!("[::1]:{v6}"));
    wait_for("both to be found", || found(&seat, v4).is_some() && found(&seat, v6).is_some());
    assert_eq!(found(&seat, v4), Some(json!({"port": v4, "address": "127.0.0.1", "preview": true})));
    assert_eq!(found(&seat, v6), Some(json!({"port": v6, "address": "::1", "preview": true})));
    assert_eq!(found(&seat, foreign_port), None, "that is not the seat's");
    assert_eq!(found(&seat, own), None, "that is our own");
    for port in [v4, v6] {
        let answer = ask_through(tunnel(&seat, port));
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains(r#"{"status":"ok"}"#), "{answer}");
    }
    for (port, status) in [(foreign_port, "502"), (own, "502"), (1, "502")] {
        let answer = ask_through(tunnel(&seat, port));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{port}: {answer}");
    }
    assert_eq!(seat.refused("GET", &format!("/tunnel/{v4}"), Value::Null), (426, "UPGRADE_REQUIRED".into()));
    assert_eq!(seat.refused("GET", "/tunnel/http", Value::Null).0, 404);
    assert_eq!(seat.refused("GET", "/tunnel/70000", Value::Null).0, 404);
    terminal.run("kill $!");
    wait_for("a stopped server to be gone", || found(&seat, v6).is_none());
}

#[test]
fn in_a_namespace_only_the_learners_listeners_are_previews() {
    if !is_root() {
        return; // Ours and the learner's are the same then.
    }
    let seat = Seat::start();
    let roots = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let roots = roots.local_addr().map(|a| (a.port(), roots)).unwrap();
    wait_for("root's listener to be found", || found(&seat, roots.0).is_some());
    assert_eq!(found(&seat, roots.0).unwrap()["preview"], false);
    assert!(ask_through(tunnel(&seat, roots.0)).contains("PORT_FORBIDDEN"));
    let port = free_port();
    let mut terminal = seat.terminal("");
    serve(&mut terminal, &format!("0.0.0.0:{port}"));
    wait_for("the learner's to be found", || found(&seat, port).is_some_and(|l| l["preview"] == true));
    assert!(ask_through(tunnel(&seat, port)).contains(r#"{"status":"ok"}"#));
}
