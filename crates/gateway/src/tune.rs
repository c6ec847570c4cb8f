//! Socket options for accepted connections.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Kernel send buffer of a client's connection, in bytes (Linux books twice as much).
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes not yet sent beyond which the socket counts as full.
const NOT_SENT: u32 = 16 * 1024;

/// Prepares an accepted connection: small packets go at once (`TCP_NODELAY`), little waits in the kernel for a slow
/// reader (`SO_SNDBUF`, `TCP_NOTSENT_LOWAT`), so that Ctrl-C overtakes a flood, and a peer that vanished is noticed
/// within a minute (keep-alive after 30 s, `TCP_USER_TIMEOUT`).
///
/// # Errors
/// When the socket refuses an option.
pub fn tune_stream(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_notsent_lowat(NOT_SENT)?;
        socket.set_tcp_user_timeout(Some(Duration::from_secs(60)))?;
    }
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3),
    )
}
