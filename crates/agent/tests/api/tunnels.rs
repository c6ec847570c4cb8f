//! `dial` over HTTP.

use clarateach_runtime::BoxedSeatStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Agent, TOKEN};

/// Sends a request by hand; gives the head of the answer and the stream behind it.
async fn raw(agent: &Agent, path: &str, headers: &str) -> (String, BoxedSeatStream) {
    let mut stream = TcpStream::connect(agent.running().address).await.unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: worker\r\nauthorization: Bearer {TOKEN}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), Box::new(stream))
}

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: tcp\r\n";

#[tokio::test]
async fn bytes_go_both_ways_to_a_port_of_the_vm() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let (head, mut stream) = raw(&agent, "/vms/w/1/tunnel/3000", UPGRADE).await;
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: tcp"), "{head}");
    let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut from, mut to) = tokio::io::split(stream.as_mut());
    let write = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, read) = tokio::join!(write, from.read_to_end(&mut heard));
    read.unwrap();
    assert!(heard == sent, "{} of {} bytes came back", heard.len(), sent.len());
}

#[tokio::test]
async fn the_workspace_answers_through_a_tunnel() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    let (head, mut stream) = raw(&agent, "/vms/w/1/tunnel/workspace", UPGRADE).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: seat\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    // The tunnel carries no secret: whoever dials must show the seat's.
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn what_can_t_be_dialled_is_said() {
    let agent = Agent::new().await;
    agent.vm("w", 1).await;
    for (path, headers, status) in [
        ("/vms/w/1/tunnel/3000", "", "426"),
        ("/vms/w/1/tunnel/3000", "connection: upgrade\r\nupgrade: websocket\r\n", "426"),
        ("/vms/w/1/tunnel/0", UPGRADE, "400"),
        ("/vms/w/1/tunnel/65536", UPGRADE, "400"),
        ("/vms/w/1/tunnel/080", UPGRADE, "400"),
        ("/vms/w/1/tunnel/ssh", UPGRADE, "400"),
        ("/vms/w/1/tunnel/1", UPGRADE, "502"),
        ("/vms/w/2/tunnel/3000", UPGRADE, "404"),
    ] {
        let (head, _) = raw(&agent, path, headers).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
    }
}

#[tokio::test]
async fn a_tunnel_does_not_hold_up_the_agent_s_end() {
    let mut agent = Agent::new().await;
    agent.vm("w", 1).await;
    let (_, mut stream) = raw(&agent, "/vms/w/1/tunnel/3000", UPGRADE).await;
    let began = std::time::Instant::now();
    agent.running.take().unwrap().stop().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    let mut rest = Vec::new();
    // Ended or reset, but not left hanging.
    let _ = stream.read_to_end(&mut rest).await;
}
