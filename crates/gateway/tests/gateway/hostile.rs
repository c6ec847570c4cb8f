//! Requests and answers that try to get through what they should not.

use std::time::Duration;

use axum::body::Body;
use clarateach_runtime::SeatPort;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// Sends bytes and reads what comes back until the connection is closed, or is silent for long.
async fn raw(world: &World, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    let silence = Duration::from_millis(500);
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(silence, stream.read(&mut chunk)).await {
        answer.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_workspace_s_headers_can_not_act_on_the_main_origin() {
    let world = World::new().await;
    let hostile = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nset-cookie: clarateach_admin=x; Path=/\r\n\
        service-worker-allowed: /\r\naccess-control-allow-origin: http://evil.example\r\n\
        access-control-allow-credentials: true\r\nstrict-transport-security: max-age=99999999\r\n\
        clear-site-data: \"*\"\r\npublic-key-pins: x\r\nalt-svc: h3=\":443\"\r\nreport-to: {}\r\nnel: {}\r\n\
        refresh: 0; url=http://evil.example\r\nlocation: http://evil.example\r\nlink: <x>; rel=preload\r\n\
        x-accel-redirect: /etc/passwd\r\nx-sendfile: /etc/passwd\r\nwww-authenticate: Basic realm=x\r\n\
        x-clarateach-secret: seat-secret-0123456789\r\ncontent-security-policy: default-src *\r\n\
        x-content-type-options: sniff\r\ncache-control: public, max-age=9999\r\ncontent-length: 25\r\n\r\n\
        <script>alert(1)</script>";
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve_raw(hostile, true).await));
    let answer = world.get("/proxy/w1/1/raw/page.html").await;
    assert_eq!(answer.status, 200);
    let mut names: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "cache-control",
        "content-length",
        "content-security-policy",
        "content-type",
        "cross-origin-resource-policy",
        "date",
        "referrer-policy",
        "x-content-type-options",
    ];
    assert_eq!(names, expected);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let policy = answer.headers.get_all("content-security-policy").iter().collect::<Vec<_>>();
    assert_eq!(policy.len(), 1);
    assert!(policy[0].to_str().unwrap().starts_with("sandbox;"));
}

#[tokio::test]
async fn a_hostile_handshake_answer_is_cleaned_too() {
    let world = World::new().await;
    let hostile = b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nset-cookie: a=b\r\nclear-site-data: \"*\"\r\n\r\n";
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve_raw(hostile, true).await));
    let (_socket, headers) =
        world.open("/proxy/w1/1/terminal", &[("authorization", &world.bearer())]).await.unwrap();
    assert!(!headers.contains_key("set-cookie") && !headers.contains_key("clear-site-data"), "{headers:?}");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_502() {
    let world = World::new().await;
    let switch = b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve_raw(switch, true).await));
    assert_eq!(world.get("/proxy/w1/1/who").await.refusal(), (502, "SEAT_UNREACHABLE".into()));
    let other = b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n";
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve_raw(other, true).await));
    let refused = world.open("/proxy/w1/1/terminal", &[("authorization", &world.bearer())]).await;
    assert_eq!(refused.unwrap_err(), 502);
}

#[tokio::test]
async fn large_headers_are_refused_both_ways() {
    let world = World::new().await;
    let request = request(Method::GET, "/proxy/w1/1/who")
        .header("authorization", world.bearer())
        .header("x-large", "a".repeat(40_000));
    assert_eq!(world.answer(request, Body::empty()).await.refusal(), (431, "HEADERS_TOO_LARGE".into()));
    let large: &'static str = Box::leak(
        format!("HTTP/1.1 200 OK\r\nx-large: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(200_000))
            .into_boxed_str(),
    );
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve_raw(large.as_bytes(), true).await));
    assert_eq!(world.get("/proxy/w1/1/who").await.refusal(), (502, "SEAT_UNREACHABLE".into()));
}

/// What would be a second request if the gateway and the workspace disagreed where the first one ends.
#[tokio::test]
async fn no_request_is_smuggled_in_another_s_body() {
    let world = World::new().await;
    let bearer = world.bearer();
    let inner = "GET /proxy/w1/1/who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 5 + inner.len()),
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned(),
        "Content-Length: +5\r\n\r\nhello".to_owned(),
        "Content-Length: 5, 6\r\n\r\nhello".to_owned(),
        "X: a\r\n Transfer-Encoding: chunked\r\n\r\n".to_owned(),
    ] {
        let bytes = format!(
            "POST /proxy/w1/1/seen HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n{framing}{inner}"
        );
        let answer = raw(&world, bytes.as_bytes()).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        // Either it is refused, or the body is what one framing says and the rest is a request of its own, which
        // shows no token and gets no further.
        let refused = answer.starts_with("HTTP/1.1 400");
        let apart = answer.starts_with("HTTP/1.1 200") && (answers == 1 || answer.contains("HTTP/1.1 401"));
        assert!(refused || apart, "{framing:?}: {answer}");
        assert!(!answer.contains("\"target\":\"/who\""), "{framing:?}: {answer}");
    }
    // The connection into the seat is still in step.
    assert_eq!(world.get("/proxy/w1/1/who").await.text(), "1");
}

#[tokio::test]
async fn headers_can_not_be_injected() {
    let world = World::new().await;
    let bearer = world.bearer();
    for line in ["x-a: b\nx-clarateach-secret: x", "x-a: b\rx-b: c", "x-a: \0", "x a: b", ": b"] {
        let bytes = format!(
            "GET /proxy/w1/1/seen HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nConnection: close\r\n{line}\r\n\r\n"
        );
        let answer = raw(&world, bytes.as_bytes()).await;
        let harmless = answer.starts_with("HTTP/1.1 400")
            || answer.starts_with("HTTP/1.1 200") && !answer.contains("[\"x-clarateach-secret\",\"x\"]");
        assert!(harmless, "{line:?}: {answer}");
    }
    for target in ["/proxy/w1/1/seen/%0d%0ax-evil:%20y", "/proxy/w1/1/seen/%00"] {
        let seen = world.get(target).await;
        assert_eq!(seen.status, 200);
        assert!(seen.json()["target"].as_str().unwrap().contains('%'), "still encoded");
    }
}

#[tokio::test]
async fn odd_targets_do_not_leave_the_seat() {
    let world = World::new().await;
    let bearer = world.bearer();
    for target in
        ["/proxy/w1/1/../../../api/workshops", "/proxy/w1/1/seen/../../2/who", "/proxy/w1/1//evil.example/"]
    {
        let bytes = format!(
            "GET {target} HTTP/1.1\r\nHost: workshop.example\r\nAuthorization: {bearer}\r\nConnection: close\r\n\r\n"
        );
        let answer = raw(&world, bytes.as_bytes()).await;
        assert!(
            !answer.contains("instructor's workshops") && !answer.ends_with("\r\n2"),
            "{target}: {answer}"
        );
    }
    let connect = format!(
        "CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example:80\r\nAuthorization: {bearer}\r\n\r\n"
    );
    assert!(!raw(&world, connect.as_bytes()).await.starts_with("HTTP/1.1 200"));
    let trace = request(Method::TRACE, "/proxy/w1/1/seen").header("authorization", &bearer);
    assert_eq!(world.answer(trace, Body::empty()).await.status, 405);
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_reach_the_next_request() {
    let world = World::new().await;
    let bytes = format!(
        "PUT /proxy/w1/1/upload HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Length: 100\r\n\r\nonly this",
        world.bearer()
    );
    raw(&world, bytes.as_bytes()).await;
    for _ in 0..5 {
        assert_eq!(world.get("/proxy/w1/1/who").await.text(), "1");
    }
}
