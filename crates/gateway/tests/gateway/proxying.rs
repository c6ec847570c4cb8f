//! HTTP through the gateway.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use clarateach_ids::Generation;
use clarateach_runtime::SeatPort;
use http::Method;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

#[tokio::test]
async fn method_path_query_and_body_arrive_as_they_were() {
    let world = World::new().await;
    let path = "/proxy/w1/1/seen/a%2Fb/..%2f/%C3%A9//x?path=%20a&q=1";
    let request = request(Method::PUT, path).header("authorization", world.bearer()).header("x-own", "kept");
    let seen = world.answer(request, "hello").await.json();
    assert_eq!(seen["method"], "PUT");
    assert_eq!(seen["target"], "/seen/a%2Fb/..%2f/%C3%A9//x?path=%20a&q=1");
    assert_eq!(seen["body"], "hello");
    assert!(seen["headers"].as_array().unwrap().contains(&serde_json::json!(["x-own", "kept"])));
}

#[tokio::test]
async fn credentials_and_the_page_s_headers_stay_outside() {
    let world = World::new().await;
    let request = request(Method::GET, "/proxy/w1/1/seen")
        .header("authorization", world.bearer())
        .header("cookie", "clarateach_admin=instructor; clarateach_seat=x")
        .header("x-clarateach-secret", "guess")
        .header("x-clarateach-role", "root")
        .header("x-forwarded-for", "10.0.0.1")
        .header("referer", "http://workshop.example/s/SESSIONCODE")
        .header("connection", "x-clarateach-secret, close");
    let seen = world.answer(request, Body::empty()).await;
    assert_eq!(seen.status, 200, "the gateway's own secret was not taken away by Connection");
    let text = seen.text();
    for gone in ["instructor", "Bearer", "guess", "root", "10.0.0.1", "SESSIONCODE", "workshop.example"] {
        assert!(!text.contains(gone), "{gone}: {text}");
    }
}

#[tokio::test]
async fn ranges_and_status_codes_pass() {
    let world = World::new().await;
    let request = request(Method::GET, "/proxy/w1/1/raw/digits")
        .header("authorization", world.bearer())
        .header("range", "bytes=2-4");
    let answer = world.answer(request, Body::empty()).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (206, "234"));
    assert_eq!(answer.header("content-range"), Some("bytes 2-4/10"));
    for code in [201, 204, 304, 404, 409, 412, 413, 500] {
        assert_eq!(world.get(&format!("/proxy/w1/1/status/{code}")).await.status.as_u16(), code);
    }
    let head = crate::harness::request(Method::HEAD, "/proxy/w1/1/raw/digits")
        .header("authorization", world.bearer());
    let answer = world.answer(head, Body::empty()).await;
    assert_eq!((answer.header("content-length"), answer.body.len()), (Some("10"), 0));
}

#[tokio::test]
async fn bodies_stream_both_ways_without_being_held() {
    let world = World::new().await;
    let chunk = Bytes::from(vec![b'u'; 64 * 1024]);
    let chunks = futures_util::stream::iter((0..512).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = request(Method::PUT, "/proxy/w1/1/upload").header("authorization", world.bearer());
    let answer = world.answer(request, Body::from_stream(chunks)).await;
    assert_eq!(answer.text(), (512 * 64 * 1024).to_string());

    let request =
        crate::harness::request(Method::GET, "/proxy/w1/1/endless").header("authorization", world.bearer());
    let mut body = world.send(request.body(Body::empty()).unwrap()).await.into_body();
    let mut count = 0;
    while count < 8 << 20 {
        count += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
}

#[tokio::test]
async fn server_sent_events_come_at_once() {
    let world = World::new().await;
    let request = request(Method::GET, "/proxy/w1/1/events").header("authorization", world.bearer());
    let response = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let frame = response.into_body().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: hello\n\n");
}

#[tokio::test]
async fn expect_100_continue_is_answered() {
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "PUT /proxy/w1/1/upload HTTP/1.1\r\nHost: workshop.example\r\nAuthorization: {}\r\nContent-Length: 5\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n",
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\n5"), "{rest}");
}

#[tokio::test]
async fn connections_into_a_seat_are_used_again() {
    let world = World::new().await;
    let mut client = Client::connect(world.address).await;
    let bearer = world.bearer();
    for _ in 0..1000 {
        let request = request(Method::GET, "/proxy/w1/1/files").header("authorization", &bearer);
        let answer = Answer::of(client.send(request.body(Body::empty()).unwrap()).await).await;
        assert_eq!(answer.status, 200);
    }
    let dials = world.runtime.dials.load(Ordering::SeqCst);
    assert!(dials <= 3, "1000 requests took {dials} connections");
}

#[tokio::test]
async fn a_seat_made_anew_is_dialled_anew() {
    let world = World::new().await;
    assert_eq!(world.get("/proxy/w1/1/who").await.text(), "1");
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve(workspace(7)).await));
    *world.directory.generation.lock().unwrap() = Generation(2);
    let mut newer = claims();
    newer.generation = Generation(2);
    let request = request(Method::GET, "/proxy/w1/1/who")
        .header("authorization", format!("Bearer {}", world.signer.sign(&newer)));
    assert_eq!(world.answer(request, Body::empty()).await.text(), "7");
}

#[tokio::test]
async fn a_kept_connection_that_died_costs_no_error() {
    let world = World::new().await;
    // Each connection serves one request and is then closed, without saying so.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                // The next request is read and left without an answer.
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(address));
    for _ in 0..20 {
        let answer = world.get("/proxy/w1/1/who").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
    }
}

#[tokio::test]
async fn a_request_that_changes_something_is_not_sent_twice() {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let posts = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = posts.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if buffer[..count].starts_with(b"POST") {
                        counted.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    world.runtime.set(1, SeatPort::Workspace, Target::Tcp(address));
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 200);
    let post = request(Method::POST, "/proxy/w1/1/terminals").header("authorization", world.bearer());
    assert_eq!(world.answer(post, Body::empty()).await.refusal(), (502, "SEAT_UNREACHABLE".into()));
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_seat_that_does_not_answer_is_a_502() {
    let world = World::new().await;
    world.runtime.unset(1, SeatPort::Workspace);
    assert_eq!(world.get("/proxy/w1/1/who").await.refusal(), (502, "SEAT_UNREACHABLE".into()));
    for nonsense in [&b""[..], b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 99999 X\r\n\r\n", b"\0\0\0"] {
        world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve_raw(nonsense, false).await));
        assert_eq!(
            world.get("/proxy/w1/1/who").await.refusal(),
            (502, "SEAT_UNREACHABLE".into()),
            "{nonsense:?}"
        );
    }
}

#[tokio::test]
async fn a_seat_that_never_says_a_word_is_a_502_in_time() {
    let world = World::new().await;
    let pending: Target = Target::Pipe(
        64,
        std::sync::Arc::new(|far| {
            tokio::spawn(async move {
                let _far = far;
                std::future::pending::<()>().await;
            });
        }),
    );
    world.runtime.set(1, SeatPort::Workspace, pending);
    // The pipe takes the head of a request and answers nothing: what bounds it is the lease.
    let mut short = claims();
    short.exp = short.iat + 1;
    let request = request(Method::GET, "/proxy/w1/1/who")
        .header("authorization", format!("Bearer {}", world.signer.sign(&short)));
    let answer =
        tokio::time::timeout(Duration::from_secs(5), world.answer(request, Body::empty())).await.unwrap();
    assert_eq!(answer.refusal(), (410, "ENDED".into()));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let world = World::new().await;
    for broken in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        world.runtime.set(1, SeatPort::Workspace, Target::Tcp(serve_raw(broken, false).await));
        let request = request(Method::GET, "/proxy/w1/1/raw/x").header("authorization", world.bearer());
        let response = world.send(request.body(Body::empty()).unwrap()).await;
        assert!(response.into_body().collect().await.is_err(), "{broken:?}");
    }
}

#[tokio::test]
async fn a_session_can_not_have_endlessly_many_streams() {
    let mut config = config();
    config.limits.streams_per_session = 3;
    let world = World::with(config).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(world.terminal().await);
    }
    let answer = world.get("/proxy/w1/1/who").await;
    assert_eq!(answer.refusal(), (429, "TOO_MANY_STREAMS".into()));
    assert_eq!(
        world.open("/proxy/w1/1/terminal", &[("authorization", &world.bearer())]).await.unwrap_err(),
        429
    );
    let mut other = claims();
    (other.session, other.seat) = (session("s2"), clarateach_ids::SeatNumber::new(2).unwrap());
    let request = request(Method::GET, "/proxy/w1/2/who")
        .header("authorization", format!("Bearer {}", world.signer.sign(&other)));
    assert_eq!(world.answer(request, Body::empty()).await.status, 200, "others are not disturbed");
    drop(open);
    eventually("streams are counted out", || world.gateway.connected()[&session("s1")].streams == 0).await;
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 200);
}
