//! Connections to a worker whose end is noticed, also when nobody says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use clarateach_runtime::BoxedSeatStream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::address::Target;

/// A worker is in the same region: what takes longer does not come.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A silent peer is asked whether it is there after this long, this often, and is given up after so many questions; so a
/// half-open connection is found out within a quarter of a minute.
pub(crate) const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
pub(crate) const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
pub(crate) const KEEPALIVE_TRIES: u32 = 3;
/// How long what was sent may go unacknowledged.
pub(crate) const UNACKNOWLEDGED_AT_MOST: Duration = Duration::from_secs(15);

/// Opens a connection for a tunnel.
pub(crate) async fn open(
    target: &Target,
    tls: Option<&(Arc<ClientConfig>, ServerName<'static>)>,
) -> io::Result<BoxedSeatStream> {
    let connect = TcpStream::connect((target.host(), target.port));
    let stream = tokio::time::timeout(CONNECT_WITHIN, connect).await.map_err(|_| silent())??;
    tune(&stream)?;
    match tls {
        None => Ok(Box::new(stream)),
        Some((config, name)) => {
            let connector = TlsConnector::from(Arc::clone(config));
            Ok(Box::new(connector.connect(name.clone(), stream).await?))
        }
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", CONNECT_WITHIN.as_secs()))
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_AT_MOST))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_TRIES),
    )
}
