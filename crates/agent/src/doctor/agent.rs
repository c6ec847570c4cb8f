//! The agent itself: its token and its port.

use std::io::ErrorKind;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::net::{TcpListener, TcpStream};

use super::Check;
use crate::config::{Config, GOOD_TOKEN};

/// How long somebody who listens may take to accept.
const CONNECT: Duration = Duration::from_secs(1);

pub(super) async fn token(config: &Config) -> Check {
    const MAKE: &str = "AGENT_TOKEN=$(openssl rand -hex 32), the same in the server's WORKER_AGENTS";
    let source = config.access.token.source();
    match config.access.token.obtain().await {
        Ok(token) if token.expose_secret().len() < GOOD_TOKEN => {
            Check::warning("token", format!("{source} is short enough to be guessed"), MAKE)
        }
        Ok(_) => Check::ok("token", format!("from {source}")),
        Err(error) => Check::broken("token", error.to_string(), MAKE),
    }
}

pub(super) async fn port(config: &Config) -> Check {
    let address = config.listen.address;
    match TcpListener::bind(address).await {
        Ok(_) => Check::ok("port", format!("{address} is free")),
        // An agent that runs is not broken; whether it is ours its health would say.
        Err(error) if error.kind() == ErrorKind::AddrInUse && answers(config).await => Check::warning(
            "port",
            format!("{address} is in use"),
            format!(
                "fine if that is this agent: curl http://localhost:{0}/health\notherwise: ss -ltnp 'sport = :{0}', or set PORT",
                address.port()
            ),
        ),
        Err(error) => Check::broken(
            "port",
            format!("{address} can't be listened on: {error}"),
            format!("ss -ltnp 'sport = :{}' says by whom; or set PORT or BIND_ADDR", address.port()),
        ),
    }
}

async fn answers(config: &Config) -> bool {
    let address = ("127.0.0.1", config.listen.address.port());
    matches!(tokio::time::timeout(CONNECT, TcpStream::connect(address)).await, Ok(Ok(_)))
}
