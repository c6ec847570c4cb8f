//! Names for guests.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clarateach_microvm::net::{HostNetwork, NetConfig, Network};
use clarateach_runtime::Egress;
use clarateach_testkit::wait_for;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::world::{self, GATEWAY, Guest, Namespace, config, on_a_host, outside};

/// `example.com A IN`, recursion desired.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
const ANSWER: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc6\x33\x64\x07";

/// Long enough for the relay to give up on a silent nameserver.
const PATIENT: Duration = Duration::from_secs(6);

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// A nameserver that answers everything with one address; by UDP it is silent when it is told to be.
fn nameserver(address: Ipv4Addr, silent: bool) {
    let udp = UdpSocket::bind((address, 53)).unwrap();
    let tcp = TcpListener::bind((address, 53)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, caller)) = udp.recv_from(&mut buffer) {
            if !silent {
                // A forged answer first: another id.
                let mut forged = answer(&buffer[..length]);
                forged[0] ^= 0xff;
                udp.send_to(&forged, caller).unwrap();
                udp.send_to(&answer(&buffer[..length]), caller).unwrap();
            }
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            while let Ok(query) = read_framed(&mut stream) {
                write_framed(&mut stream, &answer(&query));
            }
        }
    });
}

fn answer(query: &[u8]) -> Vec<u8> {
    let mut answer = [query, ANSWER].concat();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer
}

fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat()).unwrap();
}

/// As a resolver does, which asks again.
fn ask(from: &Namespace) -> Option<Vec<u8>> {
    from.run(|| (0..3).find_map(|_| world::exchange_within(GATEWAY, 53, QUERY, PATIENT).ok()))
}

fn ask_by_tcp(from: &Namespace) -> Vec<Vec<u8>> {
    from.run(|| {
        let mut stream = TcpStream::connect((GATEWAY, 53)).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        // Two in one connection.
        write_framed(&mut stream, QUERY);
        write_framed(&mut stream, QUERY);
        vec![read_framed(&mut stream).unwrap(), read_framed(&mut stream).unwrap()]
    })
}

fn network(upstreams: &[Ipv4Addr]) -> Arc<HostNetwork> {
    let upstreams = upstreams.iter().copied().map(IpAddr::V4).collect();
    Arc::new(HostNetwork::new(NetConfig { upstreams: Some(upstreams), ..config() }).unwrap())
}

async fn boot(network: &HostNetwork, last: u8, egress: Egress) -> Guest {
    let slot = network.slot(Ipv4Addr::new(192, 168, 100, last), egress);
    network.attach(&slot).await.unwrap();
    network.open(&slot).await.unwrap();
    Guest::boot(&slot)
}

/// Serves, and returns when it does.
async fn serve(network: &Arc<HostNetwork>) -> (CancellationToken, JoinHandle<()>) {
    let cancel = CancellationToken::new();
    let (serving, stop) = (network.clone(), cancel.clone());
    let served = tokio::spawn(async move { serving.serve_dns(stop).await });
    wait_for("the nameserver to listen", PATIENT, async || TcpStream::connect((GATEWAY, 53)).ok().map(drop))
        .await;
    (cancel, served)
}

/// Asks in a thread of its own: the nameserver lives in this one.
async fn asked(guest: Guest, ask: fn(&Namespace) -> Vec<Vec<u8>>) -> (Guest, Vec<Vec<u8>>) {
    tokio::task::spawn_blocking(move || {
        let answers = ask(&guest.namespace);
        (guest, answers)
    })
    .await
    .unwrap()
}

fn by_udp(namespace: &Namespace) -> Vec<Vec<u8>> {
    ask(namespace).into_iter().collect()
}

fn code(answers: &[Vec<u8>]) -> Option<u8> {
    answers.first().map(|answer| answer[3] & 0xf)
}

#[test]
fn guests_get_names_from_the_hosts_nameserver() {
    on_a_host("guests_get_names_from_the_hosts_nameserver", || async {
        nameserver(Ipv4Addr::new(127, 0, 0, 53), false);
        // The first one does not exist, and says so; the second is a local resolver.
        let network = network(&[Ipv4Addr::new(127, 0, 0, 9), Ipv4Addr::new(127, 0, 0, 53)]);
        network.ensure().await.unwrap();
        let (stop, served) = serve(&network).await;
        let guest = boot(&network, 11, Egress::Internet).await;
        let (guest, answers) = asked(guest, by_udp).await;
        assert_eq!(answers, [answer(QUERY)]);
        let (guest, answers) = asked(guest, ask_by_tcp).await;
        assert_eq!(answers, [answer(QUERY), answer(QUERY)]);

        // An agent that is restarted serves again at once, although connections of the old one linger.
        stop.cancel();
        served.await.unwrap();
        // Meanwhile a query is not refused, but waits for its resolver to ask again.
        let guest_asks = move |namespace: &Namespace| {
            namespace.run(|| world::exchange(GATEWAY, 53, QUERY).unwrap_err().kind())
        };
        assert_eq!(guest_asks(&guest.namespace), std::io::ErrorKind::WouldBlock);
        let restarted = Instant::now();
        let (stop, _) = serve(&network).await;
        let (_guest, answers) = asked(guest, by_udp).await;
        assert_eq!(answers, [answer(QUERY)]);
        println!("nameserver: restart to answer {:?}", restarted.elapsed());
        stop.cancel();
    });
}

#[test]
fn who_may_go_nowhere_gets_no_names_and_no_packets() {
    on_a_host("who_may_go_nowhere_gets_no_names_and_no_packets", || async {
        let outside = outside();
        let server = outside.serve(world::SERVER, 80);
        nameserver(Ipv4Addr::new(127, 0, 0, 53), false);
        let network = network(&[Ipv4Addr::new(127, 0, 0, 53)]);
        network.ensure().await.unwrap();
        let (stop, _) = serve(&network).await;
        let guest = boot(&network, 11, Egress::None).await;
        let (guest, answers) = asked(guest, by_udp).await;
        assert_eq!(code(&answers), Some(REFUSED));
        let (guest, answers) = asked(guest, ask_by_tcp).await;
        assert_eq!(code(&answers), Some(REFUSED));
        assert!(guest.namespace.tcp(world::SERVER, 80).is_err());
        assert!(!guest.namespace.ping(world::SERVER));
        assert_eq!(server.hits(), 0);
        assert!(network.ping(guest.slot.address).await.unwrap(), "the host reaches it");

        // Its address is another's next, who may go out.
        network.detach(&guest.slot).await.unwrap();
        drop(guest);
        let guest = boot(&network, 11, Egress::Internet).await;
        let (guest, answers) = asked(guest, by_udp).await;
        assert_eq!(code(&answers), Some(NO_ERROR));
        assert!(guest.namespace.tcp(world::SERVER, 80).is_ok());
        stop.cancel();
    });
}

#[test]
fn silence_upstream_is_told_and_strangers_are_refused() {
    on_a_host("silence_upstream_is_told_and_strangers_are_refused", || async {
        nameserver(Ipv4Addr::new(127, 0, 0, 53), true);
        let network = network(&[Ipv4Addr::new(127, 0, 0, 53)]);
        network.ensure().await.unwrap();
        let (stop, _) = serve(&network).await;
        let guest = boot(&network, 11, Egress::Internet).await;
        let asking = Instant::now();
        let (_guest, answers) = asked(guest, by_udp).await;
        assert_eq!(code(&answers), Some(SERVER_FAILURE));
        assert!(asking.elapsed() < PATIENT, "before the guest's own patience ends");
        assert_eq!(answers[0][..2], QUERY[..2], "with the guest's own id");

        world::ip("addr add 10.1.1.1/32 dev lo");
        let refused = tokio::task::spawn_blocking(|| {
            let socket = UdpSocket::bind("10.1.1.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENT)).unwrap();
            socket.send_to(QUERY, (GATEWAY, 53)).unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        });
        assert_eq!(code(&[refused.await.unwrap()]), Some(REFUSED));
        stop.cancel();
    });
}

#[test]
fn one_guests_flood_does_not_keep_another_from_names() {
    on_a_host("one_guests_flood_does_not_keep_another_from_names", || async {
        nameserver(Ipv4Addr::new(127, 0, 0, 53), true);
        nameserver(Ipv4Addr::new(127, 0, 0, 54), false);
        let network = network(&[Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)]);
        network.ensure().await.unwrap();
        let (stop, _) = serve(&network).await;
        let loud = boot(&network, 11, Egress::Internet).await;
        let quiet = boot(&network, 12, Egress::Internet).await;
        let flood = tokio::task::spawn_blocking(move || {
            loud.namespace.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                for _ in 0..5_000 {
                    let _ = socket.send_to(QUERY, (GATEWAY, 53));
                }
            });
            loud
        });
        let (_quiet, answers) = asked(quiet, by_udp).await;
        assert_eq!(code(&answers), Some(NO_ERROR));
        let _loud = flood.await.unwrap();
        let sockets = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(sockets < 400, "{sockets} file descriptors");
        stop.cancel();
    });
}
