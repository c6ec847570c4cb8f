//! The guests' nameserver: a relay on the bridge address to the nameservers that the host itself uses.
//!
//! It keeps nothing and decodes next to nothing: queries and answers pass as they are, with another id towards the
//! nameserver. What it adds are bounds, so that no guest can use up the host's sockets, and a prompt "no" where a guest
//! may not ask or nobody answers.

mod message;
mod upstream;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::message::Refusal;
use self::upstream::Upstreams;
use super::subnet::Subnet;

const PORT: u16 = 53;
/// How many queries and connections of one guest are under way at most. More are dropped, as a busy server would.
const PER_GUEST: usize = 128;
/// How long one nameserver is waited for before the next is asked.
const ATTEMPT: Duration = Duration::from_millis(1_150);
/// After this the guest is told that nobody answers. Less than the 5 s that resolvers wait.
const BUDGET: Duration = Duration::from_millis(3_500);
/// A guest's idle TCP connection is closed after this.
const IDLE: Duration = Duration::from_secs(10);
/// The largest answer by UDP; larger ones are fetched by TCP. Twice what resolvers ask for (RFC 9715).
const DATAGRAM: usize = 4_096;
/// Room for queries that have not been looked at, in bytes.
const RECEIVE: usize = 8 << 20;
const REBIND: Duration = Duration::from_millis(500);

/// The relay.
#[derive(Debug)]
pub(crate) struct Nameserver {
    subnet: Subnet,
    upstreams: Upstreams,
    no_egress: Arc<RwLock<BTreeSet<Ipv4Addr>>>,
    under_way: Mutex<HashMap<IpAddr, usize>>,
}

/// One query or connection that counts.
struct Place {
    nameserver: Arc<Nameserver>,
    guest: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.nameserver.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.guest) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.guest);
            }
        }
    }
}

impl Nameserver {
    pub(crate) fn new(
        subnet: Subnet,
        upstreams: Option<&[IpAddr]>,
        no_egress: Arc<RwLock<BTreeSet<Ipv4Addr>>>,
    ) -> Arc<Self> {
        let upstreams = Upstreams::new(upstreams, subnet.gateway());
        Arc::new(Self { subnet, upstreams, no_egress, under_way: Mutex::default() })
    }

    /// Serves until told not to. Where another nameserver holds the port, it is tried again and again.
    pub(crate) async fn serve(self: Arc<Self>, cancel: CancellationToken) {
        let mut told = false;
        let sockets = loop {
            match self.bind() {
                Ok(sockets) => break sockets,
                Err(error) if !told => {
                    told = true;
                    let address = self.subnet.gateway();
                    tracing::warn!(%error, %address, "guests have no nameserver: port 53 can't be had");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(REBIND) => {}
            }
        };
        if told {
            tracing::info!("guests have a nameserver now");
        }
        let (udp, tcp) = sockets;
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.clone().datagrams(Arc::new(udp)) => {}
            () = self.connections(tcp) => {}
        }
    }

    /// Also before the bridge has its address, so that nothing has to wait for anything.
    fn bind(&self) -> io::Result<(UdpSocket, TcpListener)> {
        let address = SocketAddrV4::new(self.subnet.gateway(), PORT).into();
        let open = |kind, protocol| {
            let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
            socket.set_freebind_v4(true)?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        let udp = open(Type::DGRAM, Protocol::UDP)?;
        // All guests share it: one that asks without end must not crowd out another's query. Beyond the host's limit
        // it takes a capability, which whoever makes bridges has.
        if setsockopt(&udp, RcvBufForce, &RECEIVE).is_err() {
            udp.set_recv_buffer_size(RECEIVE)?;
        }
        udp.bind(&address)?;
        let tcp = open(Type::STREAM, Protocol::TCP)?;
        // Connections of an agent that is gone must not keep the next one waiting.
        tcp.set_reuse_address(true)?;
        tcp.bind(&address)?;
        tcp.listen(128)?;
        Ok((UdpSocket::from_std(udp.into())?, TcpListener::from_std(tcp.into())?))
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, guest) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // What the network says of an answer to a guest that is gone.
                Err(error) => {
                    tracing::debug!(%error, "a guest's query was not received");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let query = &buffer[..length];
            if !message::is_query(query) {
                continue;
            }
            if let Some(no) = self.refuses(guest.ip()) {
                let _ = socket.send_to(&message::refusal(query, no), guest).await;
                continue;
            }
            let Some(place) = self.place(guest.ip()) else { continue };
            let (query, socket, nameserver) = (query.to_vec(), socket.clone(), self.clone());
            tokio::spawn(async move {
                let answer = nameserver.relay_datagram(query).await;
                let _ = socket.send_to(&answer, guest).await;
                drop(place);
            });
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, guest) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a guest's connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Some(place) = self.place(guest.ip()) else { continue };
            let nameserver = self.clone();
            tokio::spawn(async move {
                if let Err(error) = nameserver.converse(stream, guest.ip()).await {
                    tracing::trace!(%error, "a guest's nameserver connection ended");
                }
                drop(place);
            });
        }
    }

    /// One query after the other, as RFC 7766 allows.
    async fn converse(&self, mut stream: TcpStream, guest: IpAddr) -> io::Result<()> {
        loop {
            let query = timeout(IDLE, read_framed(&mut stream)).await??;
            if !message::is_query(&query) {
                return Ok(());
            }
            let answer = match self.refuses(guest) {
                Some(no) => message::refusal(&query, no),
                None => self.relay_framed(&query).await,
            };
            timeout(IDLE, write_framed(&mut stream, &answer)).await??;
        }
    }

    /// Why a guest gets no answer.
    fn refuses(&self, guest: IpAddr) -> Option<Refusal> {
        let allowed = match guest {
            IpAddr::V4(guest) => {
                let no_egress = self.no_egress.read().unwrap_or_else(PoisonError::into_inner);
                self.subnet.contains(guest) && !no_egress.contains(&guest)
            }
            IpAddr::V6(_) => false,
        };
        (!allowed).then_some(Refusal::Refused)
    }

    fn place(self: &Arc<Self>, guest: IpAddr) -> Option<Place> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(guest).or_default();
        if *count >= PER_GUEST {
            return None;
        }
        *count += 1;
        Some(Place { nameserver: self.clone(), guest })
    }

    async fn relay_datagram(&self, mut query: Vec<u8>) -> Vec<u8> {
        let asked = message::id(&query).unwrap_or_default();
        let mut deadline = Instant::now() + BUDGET;
        let servers = self.upstreams.in_order();
        let mut refused = 0;
        for (number, server) in servers.iter().cycle() {
            // Nobody there: no use in asking again.
            if refused >= servers.len() || Instant::now() >= deadline {
                break;
            }
            let until = deadline.min(Instant::now() + ATTEMPT);
            match timeout_at(until, ask(*server, &mut query)).await {
                Ok(Ok(mut answer)) => {
                    self.upstreams.answered(*number);
                    message::set_id(&mut answer, asked);
                    return answer;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "nameserver");
                    refused += 1;
                }
                Err(_) => refused = 0,
            }
            deadline = deadline.max(Instant::now());
        }
        message::set_id(&mut query, asked);
        message::refusal(&query, Refusal::ServerFailure)
    }

    async fn relay_framed(&self, query: &[u8]) -> Vec<u8> {
        let deadline = Instant::now() + BUDGET;
        for (number, server) in self.upstreams.in_order() {
            let ask = async {
                let mut stream = TcpStream::connect(server).await?;
                write_framed(&mut stream, query).await?;
                read_framed(&mut stream).await
            };
            match timeout_at(deadline.min(Instant::now() + ATTEMPT), ask).await {
                Ok(Ok(answer)) if message::answers(&answer, query) => {
                    self.upstreams.answered(number);
                    return answer;
                }
                _ => tracing::debug!(%server, "no answer by TCP"),
            }
        }
        message::refusal(query, Refusal::ServerFailure)
    }
}

/// Asks one nameserver from a port and with an id that nobody can guess.
async fn ask(server: SocketAddr, query: &mut [u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    message::set_id(query, u16::from_be_bytes(id));
    socket.send(query).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if message::answers(&buffer[..length], query) {
            if length == buffer.len() {
                return Ok(message::truncated(query));
            }
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    // One write: a length that travels alone waits for its acknowledgement.
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
