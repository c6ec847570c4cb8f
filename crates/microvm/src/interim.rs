//! What the modules `net` and `guest` do not have yet.

use std::collections::HashSet;
use std::net::Ipv4Addr;

/// Chooses addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots {
    gateway: Ipv4Addr,
    prefix: u8,
}

impl Slots {
    pub(crate) fn new(gateway: Ipv4Addr, prefix: u8, _capacity: u32) -> Result<Self, String> {
        Ok(Self { gateway, prefix })
    }

    pub(crate) fn choose(&self, seat: u32, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let size = 1_u32 << (32 - u32::from(self.prefix));
        let network = u32::from(self.gateway) & !(size - 1);
        let free = |host: &u32| {
            let address = Ipv4Addr::from(network + host);
            *host > 0 && *host < size - 1 && address != self.gateway && !taken.contains(&address)
        };
        let own = seat.checked_add(10);
        own.into_iter().chain(1..size).find(free).map(|host| Ipv4Addr::from(network + host))
    }
}

pub(crate) fn tap_name(owner: &str, address: Ipv4Addr) -> String {
    let hash = blake3::hash(owner.as_bytes()).to_hex();
    format!("ct{}{:08x}", &hash[..5], u32::from(address))
}

pub(crate) mod initramfs {
    use std::io;
    use std::path::{Path, PathBuf};

    pub(crate) const FORMAT: &str = "0";

    pub(crate) fn build(_workspace: &Path, _modules: Option<&Path>, _into: &Path) -> io::Result<PathBuf> {
        Err(io::Error::other("the initramfs builder is not there yet"))
    }
}

pub(crate) fn kernel_args() -> String {
    String::new()
}

pub(crate) mod control {
    use std::io;

    use clarateach_runtime::BoxedSeatStream;
    use clarateach_seatproto::guest::{GuestConfig, GuestReply, GuestRequest, GuestState, MAX_LINE};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    pub(crate) struct Control(BufReader<BoxedSeatStream>);

    impl Control {
        pub(crate) fn new(stream: BoxedSeatStream) -> Self {
            Self(BufReader::new(stream))
        }

        pub(crate) async fn hello(&mut self) -> io::Result<GuestState> {
            self.ask(&GuestRequest::Hello).await
        }

        pub(crate) async fn configure(&mut self, config: GuestConfig) -> io::Result<GuestState> {
            self.ask(&GuestRequest::Configure(Box::new(config))).await
        }

        async fn ask(&mut self, request: &GuestRequest) -> io::Result<GuestState> {
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            self.0.write_all(&line).await?;
            let mut answer = String::new();
            (&mut self.0).take(MAX_LINE as u64).read_line(&mut answer).await?;
            match serde_json::from_str(&answer) {
                Ok(GuestReply::Ok { state }) => Ok(state),
                Ok(GuestReply::Error { message }) => Err(io::Error::other(message)),
                Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string())),
            }
        }
    }
}
