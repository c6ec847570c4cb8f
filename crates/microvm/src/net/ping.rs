//! ICMP echo, see RFC 792.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

const PATIENCE: Duration = Duration::from_secs(1);
/// A guest that is just coming up misses the first.
const AGAIN: Duration = Duration::from_millis(200);

const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Whether `address` answers within a second.
///
/// # Errors
/// When the question can't be asked.
pub async fn ping(address: Ipv4Addr) -> io::Result<bool> {
    let (socket, raw) = open()?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddrV4::new(address, 0).into())?;
    // A connected socket's send and receive are the same for every protocol.
    let socket = UdpSocket::from_std(socket.into())?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match socket.send(&echo(nonce)).await {
            // What the network said of the one before.
            Ok(_) => {}
            Err(error) if unreachable(&error) => {}
            Err(error) => return Err(error),
        }
        let next = deadline.min(Instant::now() + AGAIN);
        match timeout_at(next, answered(&socket, raw, nonce)).await {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(error)) if unreachable(&error) => tokio::time::sleep_until(next).await,
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// A socket for ICMP, and whether it gives whole IP packets. The unprivileged kind depends on a setting
/// (net.ipv4.ping_group_range), the other on a capability.
fn open() -> io::Result<(Socket, bool)> {
    match Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)) {
        Ok(socket) => Ok((socket, false)),
        Err(_) => Ok((Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?, true)),
    }
}

async fn answered(socket: &UdpSocket, raw: bool, nonce: [u8; 8]) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_answer(&buffer[..length], raw, nonce) {
            return Ok(());
        }
    }
}

fn is_answer(packet: &[u8], raw: bool, nonce: [u8; 8]) -> bool {
    let header = if raw { packet.first().map_or(0, |first| usize::from(first & 0xf) * 4) } else { 0 };
    packet
        .get(header..)
        .is_some_and(|icmp| icmp.first() == Some(&ECHO_REPLY) && icmp.get(8..16) == Some(&nonce))
}

/// An echo request. Its identifier stays 0: the unprivileged socket sets its own, and answers are told by the data.
fn echo(nonce: [u8; 8]) -> [u8; 16] {
    let mut packet = [0; 16];
    packet[0] = ECHO;
    packet[8..].copy_from_slice(&nonce);
    let words = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !u16::try_from(folded).unwrap_or(0);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::ConnectionRefused
            | ErrorKind::NetworkDown
    ) || error.raw_os_error() == Some(libc::EHOSTDOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        for nonce in [[0; 8], [0xff; 8], [1, 2, 3, 4, 5, 6, 7, 8]] {
            let sum: u32 = echo(nonce)
                .chunks_exact(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{nonce:?}");
        }
    }

    #[test]
    fn only_replies_to_our_own_count() {
        let mut reply = echo([7; 8]);
        assert!(!is_answer(&reply, false, [7; 8]), "the request itself");
        reply[0] = ECHO_REPLY;
        assert!(is_answer(&reply, false, [7; 8]));
        assert!(!is_answer(&reply, false, [8; 8]));
        let packet = [&[0x45][..], &[0; 19], &reply].concat();
        assert!(is_answer(&packet, true, [7; 8]));
        assert!(!is_answer(&packet[..30], true, [7; 8]));
    }
}
