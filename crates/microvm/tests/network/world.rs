//! A little internet on one machine: every test has a "host" of its own, an "outside" and "guests", each of which is a
//! thread with a network namespace of its own. Nothing of the machine's own network is touched, and the kernel
//! clears up when the threads end.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use clarateach_microvm::net::{HostNetwork, NetConfig, Slot};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

use super::tap;

/// How the host is known outside.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The host's router.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// A server on the internet.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);

/// What a guest waits for an answer that it shouldn't get; ten times what one takes that comes.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub(crate) struct Namespace {
    jobs: mpsc::Sender<Job>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, work) = mpsc::channel::<Job>();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            ip("link set lo up");
            work.iter().for_each(|job| job());
        });
        Self { jobs, thread: Some(thread) }
    }

    /// Does something in there.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (result, answer) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(result.send(job())))).expect("the namespace's thread lives");
        answer.recv().expect("the job in the namespace did not panic")
    }

    /// Where another namespace finds it.
    fn path(&self) -> String {
        let thread = self.run(nix::unistd::gettid);
        format!("/proc/{}/task/{thread}/ns/net", std::process::id())
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }

    pub(crate) fn tcp(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(move || connect(address, port))
    }

    pub(crate) fn udp(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(move || {
            let answer = exchange(address, port, b"who am I?")?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        })
    }

    pub(crate) fn ping(&self, address: Ipv4Addr) -> bool {
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(clarateach_microvm::net::ping(address)).unwrap_or(false)
        })
    }

    /// Serves TCP and UDP: both tell callers who they seem to be.
    pub(crate) fn serve(&self, address: Ipv4Addr, port: u16) -> Served {
        self.run(move || serve(address, port))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How often a server was reached.
pub(crate) struct Served {
    hits: Arc<AtomicUsize>,
}

impl Served {
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// Serves in the calling thread's namespace.
pub(crate) fn serve(address: Ipv4Addr, port: u16) -> Served {
    let hits = Arc::new(AtomicUsize::new(0));
    let tcp = TcpListener::bind((address, port)).expect("a free port");
    let udp = UdpSocket::bind((address, port)).expect("a free port");
    let count = hits.clone();
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let caller = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(caller.as_bytes());
        }
    });
    let count = hits.clone();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, caller)) = udp.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = udp.send_to(caller.ip().to_string().as_bytes(), caller);
        }
    });
    Served { hits }
}

fn connect(address: Ipv4Addr, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), SHORT)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// One datagram there and one back.
pub(crate) fn exchange(address: Ipv4Addr, port: u16, question: &[u8]) -> io::Result<Vec<u8>> {
    exchange_within(address, port, question, SHORT)
}

pub(crate) fn exchange_within(
    address: Ipv4Addr,
    port: u16,
    question: &[u8],
    patience: Duration,
) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect((address, port))?;
    socket.send(question)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Runs `ip`, which must succeed, in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a program, which must succeed, in the calling thread's namespace, and gives what it prints.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output =
        Command::new(program).args(arguments.split_whitespace()).output().expect("the program is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a test on a host of its own, which has no connection to anything.
pub(crate) fn on_a_host<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F + Send + 'static) {
    if let Some(missing) = missing() {
        clarateach_testkit::skip(name, missing);
        return;
    }
    let _ =
        tracing_subscriber::fmt().with_test_writer().with_env_filter("clarateach_microvm=debug").try_init();
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root, for network namespaces");
    }
    let there = |program| Command::new(program).arg("-V").output().is_ok();
    if !there("nft") {
        return Some("needs nft");
    }
    if !there("ip") {
        return Some("needs ip");
    }
    File::open("/dev/net/tun").is_err().then_some("needs /dev/net/tun")
}

/// Connects the calling thread's host to an internet: a router and servers with public, private and link-local addresses.
pub(crate) fn outside() -> Namespace {
    let outside = Namespace::new();
    ip(&format!("link add up0 type veth peer name eth0 netns {}", outside.path()));
    ip(&format!("addr add {HOST}/24 dev up0"));
    ip("link set up0 up");
    ip(&format!("route add default via {ROUTER}"));
    outside.ip(&format!("addr add {ROUTER}/24 dev eth0"));
    outside.ip("link set eth0 up");
    outside.ip(&format!("addr add {SERVER}/32 dev lo"));
    outside
}

/// The network under test, with default settings.
pub(crate) fn network() -> HostNetwork {
    HostNetwork::new(config()).expect("a network")
}

pub(crate) fn config() -> NetConfig {
    NetConfig::new("test")
}

/// A guest: a namespace whose network card is a tap, a VMM that carries frames between that and the slot's tap, and
/// whatever a test wants to send or see of it.
pub(crate) struct Guest {
    pub(crate) namespace: Namespace,
    pub(crate) slot: Slot,
    wire: Arc<File>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    vmm: Option<thread::JoinHandle<()>>,
    stop: Arc<AtomicUsize>,
}

impl Guest {
    /// Boots one on a slot that is attached. Its VMM runs in the calling thread's namespace.
    pub(crate) fn boot(slot: &Slot) -> Self {
        Self::boot_in(slot, GATEWAY, 24)
    }

    /// Boots one in another range.
    pub(crate) fn boot_in(slot: &Slot, gateway: Ipv4Addr, prefix: u8) -> Self {
        let wire = Arc::new(tap::open(&slot.tap).expect("the slot's tap"));
        let namespace = Namespace::new();
        let card = namespace.run(|| tap::open("eth0").expect("a network card"));
        namespace.ip(&format!("link set eth0 address {} up", slot.mac));
        namespace.ip(&format!("addr add {}/{prefix} dev eth0", slot.address));
        namespace.ip(&format!("route add default via {gateway}"));
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let vmm = {
            let (wire, seen, stop) = (wire.clone(), seen.clone(), stop.clone());
            thread::spawn(move || carry(&wire, &card, &seen, &stop))
        };
        Self { namespace, slot: slot.clone(), wire, seen, vmm: Some(vmm), stop }
    }

    /// Sends a frame past the guest's kernel.
    pub(crate) fn inject(&self, frame: &[u8]) -> io::Result<()> {
        (&*self.wire).write_all(frame)
    }

    /// What came to the guest, of this Ethernet type.
    pub(crate) fn seen(&self, kind: u16) -> Vec<Vec<u8>> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|frame| frame.get(12..14) == Some(&kind.to_be_bytes())).cloned().collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(1, Ordering::SeqCst);
        if let Some(vmm) = self.vmm.take() {
            let _ = vmm.join();
        }
    }
}

/// Carries frames both ways, as a VMM does, and ignores what a closed tap says.
fn carry(wire: &File, card: &File, seen: &Mutex<Vec<Vec<u8>>>, stop: &AtomicUsize) {
    let mut buffer = vec![0; 65_536];
    while stop.load(Ordering::SeqCst) == 0 {
        let mut files =
            [PollFd::new(wire.as_fd(), PollFlags::POLLIN), PollFd::new(card.as_fd(), PollFlags::POLLIN)];
        if poll(&mut files, PollTimeout::from(20_u8)).is_err() {
            continue;
        }
        let ready = files.map(|file| file.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)));
        if ready[0]
            && let Ok(length @ 1..) = (&*wire).read(&mut buffer)
        {
            seen.lock().unwrap().push(buffer[..length].to_vec());
            let _ = (&*card).write(&buffer[..length]);
        }
        if ready[1]
            && let Ok(length @ 1..) = (&*card).read(&mut buffer)
        {
            let _ = (&*wire).write(&buffer[..length]);
        }
    }
}

/// Asserts that two listings have the same lines, in any order, and shows only those that differ.
pub(crate) fn assert_same(now: &str, then: &str, when: &str) {
    let missing = |from: &str, of: &str| -> Vec<String> {
        let mut rest: Vec<&str> = from.lines().collect();
        let mut missing = Vec::new();
        for line in of.lines() {
            match rest.iter().position(|other| *other == line) {
                Some(there) => drop(rest.swap_remove(there)),
                None => missing.push(line.to_owned()),
            }
        }
        missing
    };
    let (gone, new) = (missing(now, then), missing(then, now));
    assert!(gone.is_empty() && new.is_empty(), "{when}: gone: {gone:#?}, new: {new:#?}");
}
