//! Terminals through the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clarateach_gateway::EndedWhy;
use clarateach_ids::Generation;
use clarateach_runtime::SeatPort;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::*;

/// The next message, within ten seconds.
async fn next(socket: &mut Socket) -> Option<Message> {
    tokio::time::timeout(Duration::from_secs(10), socket.next()).await.unwrap().and_then(Result::ok)
}

/// Reads until the close frame: its code and reason.
async fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        match next(socket).await.expect("a close frame before the end") {
            Message::Close(Some(frame)) => return (frame.code.into(), frame.reason.to_string()),
            Message::Close(None) => panic!("a close frame without a reason"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn messages_pass_both_ways_whole() {
    let world = World::new().await;
    let mut socket = world.terminal().await;
    for size in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let message = Message::binary(vec![42u8; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap(), message);
    }
    socket.send(Message::text("bye")).await.unwrap();
    assert_eq!(closed(&mut socket).await, (1000, "exit".into()));
    drop(socket);
    eventually("the stream is counted out", || world.gateway.connected()[&session("s1")].streams == 0).await;
}

#[tokio::test]
async fn subprotocols_carry_the_token_and_the_choice() {
    let world = World::new().await;
    let bearer = format!("bearer.{}", world.token());
    let open = async |offers: &str| {
        let extra = [("sec-websocket-protocol", offers), ("origin", ORIGIN)];
        let (mut socket, headers) = world.open("/proxy/w1/1/terminal", &extra).await.unwrap();
        socket.send(Message::text("offered")).await.unwrap();
        let offered = next(&mut socket).await.unwrap().into_text().unwrap().to_string();
        (headers["sec-websocket-protocol"].to_str().unwrap().to_owned(), offered)
    };
    let v1 = "clarateach.terminal.v1";
    assert_eq!(open(&format!("{v1}, {bearer}")).await, (v1.into(), v1.into()));
    assert_eq!(open(&format!("{bearer},{v1}")).await, (v1.into(), v1.into()));
    // A browser insists on one of its offers; nothing of the token reaches the seat.
    assert_eq!(open(&bearer).await, (bearer.clone(), String::new()));
    assert_eq!(open(&format!("other.v9, {bearer}")).await, (bearer.clone(), "other.v9".into()));
    for bad in ["bearer.x", "bearer.", v1, &format!("{bearer}, {bearer}")] {
        let refused = world.open("/proxy/w1/1/terminal", &[("sec-websocket-protocol", bad)]).await;
        assert_eq!(refused.unwrap_err(), 401, "{bad}");
    }
}

#[tokio::test]
async fn an_upgrade_from_a_foreign_page_is_refused() {
    let world = World::new().await;
    let token = world.token();
    let (bearer, protocol) = (format!("Bearer {token}"), format!("bearer.{token}"));
    let cookie = format!("clarateach_seat={token}");
    let ways = [("authorization", &bearer), ("sec-websocket-protocol", &protocol), ("cookie", &cookie)];
    for (name, value) in ways {
        for foreign in ["http://evil.example", "null", "https://workshop.example"] {
            let refused = world.open("/proxy/w1/1/terminal", &[(name, value), ("origin", foreign)]).await;
            assert_eq!(refused.unwrap_err(), 403, "{name} from {foreign}");
        }
        assert!(
            world.open("/proxy/w1/1/terminal", &[(name, value), ("origin", ORIGIN)]).await.is_ok(),
            "{name}"
        );
        let without = world.open("/proxy/w1/1/terminal", &[(name, value)]).await;
        assert_eq!(without.is_ok(), name != "cookie", "{name} without Origin");
    }
}

#[tokio::test]
async fn an_ended_session_is_told_why_in_a_close_frame() {
    let world = World::new().await;
    let mut terminals = [world.terminal().await, world.terminal().await];
    let mut other = claims();
    other.session = session("s2");
    let bearer = format!("Bearer {}", world.signer.sign(&other));
    let (mut bystander, _) = world.open("/proxy/w1/1/terminal", &[("authorization", &bearer)]).await.unwrap();
    for socket in &mut terminals {
        socket.send(Message::text("ready")).await.unwrap();
        assert!(next(socket).await.unwrap().is_text());
    }
    world.gateway.end_session(&session("s1"), &EndedWhy::Evicted);
    for socket in &mut terminals {
        assert_eq!(closed(socket).await, (4001, "the instructor ended this session".into()));
        assert_eq!(next(socket).await, None, "and then the connection ends");
    }
    let answer = world.get("/proxy/w1/1/who").await;
    assert_eq!(answer.refusal(), (410, "ENDED".into()));
    assert_eq!(answer.json()["error"]["message"], "the instructor ended this session");
    assert_eq!(
        world.open("/proxy/w1/1/terminal", &[("authorization", &world.bearer())]).await.unwrap_err(),
        410
    );
    bystander.send(Message::text("still here")).await.unwrap();
    assert_eq!(next(&mut bystander).await.unwrap(), Message::text("still here"));
}

#[tokio::test]
async fn the_close_frame_comes_between_frames_in_the_middle_of_a_flood() {
    let world = World::new().await;
    let mut socket = world.terminal().await;
    socket.send(Message::text("flood")).await.unwrap();
    for _ in 0..1000 {
        assert_eq!(next(&mut socket).await.unwrap().len(), 4096);
    }
    world.gateway.end_session(&session("s1"), &EndedWhy::WorkshopEnded);
    loop {
        match next(&mut socket).await.unwrap() {
            Message::Binary(bytes) => assert!(bytes.iter().all(|byte| *byte == 7) && bytes.len() == 4096),
            Message::Close(Some(frame)) => {
                assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "the workshop has ended"));
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_large_frame_that_has_begun_is_finished_first() {
    let world = World::new().await;
    let mut socket = world.terminal().await;
    socket.send(Message::text("big")).await.unwrap();
    // Some of the mebibyte is on its way, the rest waits for the reader.
    let mut first = [0; 1000];
    socket.get_mut().peek(&mut first).await.unwrap();
    world.gateway.end_session(&session("s1"), &EndedWhy::DeadlinePassed);
    assert_eq!(next(&mut socket).await.unwrap().len(), 1 << 20);
    assert_eq!(closed(&mut socket).await, (4001, "the workshop's time is up".into()));
}

#[tokio::test]
async fn a_terminal_outlives_its_token_only_as_long_as_newer_ones_come() {
    let world = World::new().await;
    let token = |seconds: i64| {
        let mut claims = claims();
        claims.exp = claims.iat + seconds;
        world.signer.sign(&claims)
    };
    let bearer = format!("Bearer {}", token(1));
    let (mut socket, _) = world.open("/proxy/w1/1/terminal", &[("authorization", &bearer)]).await.unwrap();
    // A newer token, seen by any request, extends the lease of what is open.
    let request = request(http::Method::POST, "/proxy/w1/1/auth")
        .header("authorization", format!("Bearer {}", token(4)));
    assert_eq!(world.answer(request, axum::body::Body::empty()).await.status, 204);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2200) {
        socket.send(Message::text("still")).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap(), Message::text("still"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, reason) = closed(&mut socket).await;
    assert_eq!(code, 4001);
    assert!(reason.contains("token"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn a_seat_made_anew_says_so() {
    let world = World::new().await;
    let mut socket = world.terminal().await;
    world.gateway.seat_rebuilt(&claims().seat_key(), Generation(2));
    assert_eq!(closed(&mut socket).await, (4002, "the seat was made anew; connect again".into()));
}

#[tokio::test]
async fn a_seat_that_dies_is_told_apart_from_one_that_says_goodbye() {
    let world = World::new().await;
    let mut socket = world.terminal().await;
    socket.send(Message::text("die")).await.unwrap();
    let (code, reason) = closed(&mut socket).await;
    assert_eq!((code, reason.as_str()), (4002, "the seat went away; connect again"));
}

#[tokio::test]
async fn stopping_the_server_asks_clients_to_come_back() {
    let world = World::new().await;
    let mut socket = world.terminal().await;
    let ended = tokio::spawn(async move { closed(&mut socket).await });
    tokio::time::timeout(Duration::from_secs(5), world.gateway.shutdown()).await.unwrap();
    assert_eq!(ended.await.unwrap().0, 1012);
    assert_eq!(world.get("/proxy/w1/1/who").await.status, 503);
}

#[tokio::test]
async fn presence_follows_the_terminals() {
    let world = World::new().await;
    let mut changes = world.gateway.connection_changes();
    changes.borrow_and_update();
    assert!(world.gateway.connected().is_empty());
    let one = world.terminal().await;
    changes.changed().await.unwrap();
    let two = world.terminal().await;
    assert_eq!(world.gateway.connected()[&session("s1")].streams, 2);
    drop((one, two));
    eventually("nobody is connected", || world.gateway.connected()[&session("s1")].streams == 0).await;
    assert!(changes.has_changed().unwrap());
    // An instructor who looks in is not the learner.
    let mut looking = claims();
    looking.role = clarateach_seatproto::token::Role::Instructor;
    let bearer = format!("Bearer {}", world.signer.sign(&looking));
    let _socket = world.open("/proxy/w1/1/terminal", &[("authorization", &bearer)]).await.unwrap();
    assert_eq!(world.gateway.connected()[&session("s1")].streams, 0);
}

#[tokio::test]
async fn a_client_that_vanishes_frees_the_seat_s_side() {
    let world = World::new().await;
    let mut socket = world.terminal().await;
    socket.send(Message::text("flood")).await.unwrap();
    next(&mut socket).await.unwrap();
    // Without a goodbye, with unread data: the connection is reset.
    drop(socket.into_inner());
    eventually("the stream ends", || world.gateway.connected()[&session("s1")].streams == 0).await;
}

#[tokio::test]
async fn a_quiet_seat_is_told_at_once_that_its_client_was_reset() {
    let mut config = config();
    config.limits.goodbye = Duration::from_secs(600);
    let world = World::with(config).await;
    let stream = world.terminal().await.into_inner();
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    eventually("the stream ends", || world.gateway.connected()[&session("s1")].streams == 0).await;
}

/// A workspace at the end of a pipe that answers the handshake and then floods, counting what it could write.
fn flooding_pipe(written: Arc<AtomicU64>) -> Target {
    Target::Pipe(
        16 * 1024,
        Arc::new(move |mut far| {
            let written = written.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(far.read_u8().await.unwrap());
                }
                let answer =
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                           sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                far.write_all(answer).await.unwrap();
                let mut frame = vec![0x82, 126, 0x10, 0x00];
                frame.resize(4 + 4096, 7);
                while far.write_all(&frame).await.is_ok() {
                    written.fetch_add(frame.len() as u64, Ordering::SeqCst);
                }
            });
        }),
    )
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_seat() {
    let world = World::new().await;
    let written = Arc::new(AtomicU64::new(0));
    world.runtime.set(1, SeatPort::Workspace, flooding_pipe(written.clone()));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let stream = socket.connect(world.address).await.unwrap();
    let (mut socket, _) =
        open_on(stream, "/proxy/w1/1/terminal", &[("authorization", &world.bearer())]).await.unwrap();
    // Nobody reads: the flood comes to a halt soon.
    let mut last = (0, Instant::now());
    while last.1.elapsed() < Duration::from_millis(300) {
        let now = written.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        assert!(now < 1 << 20, "{now} bytes are in flight");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(last.0 > 0);
    // What is in flight is what a Ctrl-C has to wait for.
    assert!(last.0 < 400 * 1024, "{} bytes are in flight", last.0);
    for _ in 0..1000 {
        assert_eq!(next(&mut socket).await.unwrap().len(), 4096);
    }
    assert!(written.load(Ordering::SeqCst) > last.0, "and goes on when somebody reads");
}

#[tokio::test]
async fn a_reader_that_stopped_can_still_be_ended() {
    let world = World::new().await;
    let written = Arc::new(AtomicU64::new(0));
    world.runtime.set(1, SeatPort::Workspace, flooding_pipe(written));
    let _socket = world.terminal().await;
    world.gateway.end_session(&session("s1"), &EndedWhy::Evicted);
    tokio::time::timeout(Duration::from_secs(5), world.gateway.shutdown()).await.unwrap();
}

#[tokio::test]
async fn tunnels_carry_bytes_and_half_closes() {
    let world = World::new().await;
    let echo: Target = Target::Pipe(
        4096,
        Arc::new(|mut far| {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(far.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"GET /tunnel/5432 HTTP/1.1\r\n"));
                far.write_all(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\nhi ")
                    .await
                    .unwrap();
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.unwrap();
                far.write_all(&all).await.unwrap();
            });
        }),
    );
    world.runtime.set(1, SeatPort::Workspace, echo);
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "GET /proxy/w1/1/tunnel/5432 HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nConnection: upgrade\r\n\
         Upgrade: tcp\r\n\r\n",
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'z'; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all.starts_with(b"HTTP/1.1 101 "));
    assert!(all.ends_with(b"z") && all.len() > 100_000 + 3);
}
