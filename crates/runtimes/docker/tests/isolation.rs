//! What a learner can't reach from a seat, tried from inside one, beside what can be reached.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_runtime::conformance::{Harness, desired, until_ready};
use clarateach_runtime::{Egress, Runtime};
use clarateach_testkit::leaks::run;
use clarateach_testkit::{skip, wait_for};

/// A neighbour on a wire of its own that answers on a public, a private and the metadata address.
struct Outside {
    namespace: String,
    servers: Vec<Child>,
}

const PUBLIC: &str = "198.51.100.2";
const CLOSED: [&str; 4] = ["10.77.0.2", "172.16.77.2", "100.64.77.2", "169.254.169.254"];

impl Outside {
    fn build() -> Self {
        let id = std::process::id();
        let namespace = format!("ct-outside-{id}");
        let (near, far) = (format!("cto{id}"), format!("ctf{id}"));
        let ip = |arguments: &str| drop(run("ip", &arguments.split(' ').collect::<Vec<_>>()));
        ip(&format!("netns add {namespace}"));
        let mut outside = Self { namespace: namespace.clone(), servers: Vec::new() };
        ip(&format!("link add {near} type veth peer name {far} netns {namespace}"));
        ip(&format!("addr add 198.51.100.1/24 dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} link set {far} up"));
        ip(&format!("-n {namespace} addr add {PUBLIC}/24 dev {far}"));
        for address in CLOSED {
            ip(&format!("-n {namespace} addr add {address}/32 dev lo"));
            ip(&format!("route add {address}/32 via {PUBLIC}"));
        }
        let serve =
            ["netns", "exec", &namespace, "busybox", "nc", "-ll", "-p", "8080", "-e", "echo", "outside"];
        outside.servers.push(Command::new("ip").args(serve).spawn().expect("a server outside"));
        outside
    }

    fn answers_the_host(address: &str) -> bool {
        let asked = format!("busybox nc -w 2 {address} 8080 </dev/null");
        let output = Command::new("sh").args(["-c", &asked]).output().expect("nc");
        String::from_utf8_lossy(&output.stdout).contains("outside")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        // Its interfaces, addresses and the routes over them go with it.
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
    }
}

fn key(workshop: &WorkshopId, seat: u32) -> SeatKey {
    SeatKey { workshop: workshop.clone(), seat: SeatNumber::new(seat).expect("a number") }
}

/// A port of the host that says so at once.
fn answering_on_the_host() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.expect("a caller").write_all(b"the host");
        }
    });
    port
}

fn may_change_networks(test: &str) -> bool {
    let changes = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    if changes("nft", &["list", "tables"]) && changes("ip", &["netns", "list"]) {
        return true;
    }
    skip(&format!("docker::{test}"), "this user may not change firewall and network namespaces");
    false
}

async fn address(runtime: &dyn Runtime, key: &SeatKey) -> String {
    let all = runtime.observe().await.expect("observe");
    let found = all.into_iter().find(|environment| environment.key == *key);
    found.and_then(|environment| environment.address).expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_reaches_the_internet_and_nothing_of_ours() {
    let test = "a_seat_reaches_the_internet_and_nothing_of_ours";
    if !may_change_networks(test) {
        return;
    }
    let Some(harness) = support::docker(test).await else { return };
    let outside = Outside::build();
    for address in CLOSED.into_iter().chain([PUBLIC]) {
        let patience = Duration::from_secs(10);
        wait_for(address, patience, async || Outside::answers_the_host(address).then_some(())).await;
    }
    let host_port = answering_on_the_host();

    let runtime = harness.open().await;
    let (workshop, other) = (WorkshopId::random(), WorkshopId::random());
    let (seat, neighbour, stranger) = (key(&workshop, 1), key(&workshop, 2), key(&other, 1));
    let mut closed = desired(&harness, &stranger, 1);
    closed.egress = Egress::None;
    runtime.apply(desired(&harness, &seat, 1)).await.unwrap();
    runtime.apply(desired(&harness, &neighbour, 1)).await.unwrap();
    runtime.apply(closed).await.unwrap();
    for key in [&seat, &neighbour, &stranger] {
        // Which also says that the host reaches every seat.
        until_ready(&*runtime, key, 1).await;
    }
    let reaches = |from: &SeatKey, address: &str, port: u16| {
        harness.run_in(from, &format!("nc -w 2 {address} {port} </dev/null")).1
    };
    // A workspace refuses strangers in words.
    let meets = |from: &SeatKey, address: &str| {
        let asked = format!("printf 'GET /files HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 7681");
        harness.run_in(from, &asked).1.contains("401 Unauthorized")
    };
    assert!(reaches(&seat, PUBLIC, 8080).contains("outside"), "the internet");
    for address in CLOSED {
        assert_eq!(reaches(&seat, address, 8080), "", "{address}");
    }
    // The bridge's own address.
    let network = run("docker", &["inspect", "--format", GATEWAY, &harness.container(&seat)]);
    for address in [network.trim(), "198.51.100.1"] {
        let mut answer = String::new();
        TcpStream::connect((address, host_port)).unwrap().read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "the host", "the host itself at {address}");
        assert_eq!(reaches(&seat, address, host_port), "", "the host at {address}");
    }
    for other in [&neighbour, &stranger] {
        let address = address(&*runtime, other).await;
        assert!(!meets(&seat, &address), "the seat {other}");
        assert!(meets(other, &address), "that seat itself");
    }
    assert_eq!(reaches(&stranger, PUBLIC, 8080), "", "without egress, the internet");
    assert_eq!(reaches(&stranger, network.trim(), host_port), "", "without egress, the host");
    let own = address(&*runtime, &seat).await;
    assert!(!meets(&stranger, &own), "without egress, another workshop's seat");
    let warnings = runtime.warnings().await;
    assert!(!warnings.iter().any(|warning| warning.contains("can reach")), "{warnings:?}");

    for key in [&seat, &neighbour, &stranger] {
        runtime.remove(key, Generation(1)).await.unwrap();
    }
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
    drop(outside);
}

const GATEWAY: &str = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";

#[tokio::test(flavor = "multi_thread")]
async fn the_firewall_has_as_many_rules_with_three_seats_as_with_one_and_none_without() {
    let test = "the_firewall_has_as_many_rules_with_three_seats_as_with_one_and_none_without";
    if !may_change_networks(test) {
        return;
    }
    let Some(harness) = support::docker(test).await else { return };
    let tables = || run("nft", &["list", "tables"]);
    let before: Vec<String> = tables().lines().map(str::to_owned).collect();
    let runtime = harness.open().await;
    let (one, two) = (WorkshopId::random(), WorkshopId::random());
    let mut rules = Vec::new();
    for seat in [key(&one, 1), key(&one, 2), key(&two, 1)] {
        runtime.apply(desired(&harness, &seat, 1)).await.unwrap();
        until_ready(&*runtime, &seat, 1).await;
        let bridge = run("docker", &["inspect", "--format", NETWORK, &harness.container(&seat)]);
        let short = bridge.trim().split('-').nth(1).unwrap().to_owned();
        rules.push(run("nft", &["list", "table", "inet", &format!("clarateach_{short}")]).lines().count());
    }
    assert!(rules.iter().all(|count| *count == rules[0]), "{rules:?}");
    for seat in [key(&one, 1), key(&one, 2), key(&two, 1)] {
        runtime.remove(&seat, Generation(1)).await.unwrap();
    }
    let short = support::table_of(&harness.installation);
    assert!(!tables().contains(&short), "the table is left; before: {before:?}");
}

const NETWORK: &str = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}}{{end}}";

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_has_few_rights_and_bounds() {
    let test = "a_seat_has_few_rights_and_bounds";
    let Some(harness) = support::docker(test).await else { return };
    let runtime = harness.open().await;
    let seat = key(&WorkshopId::random(), 1);
    runtime.apply(desired(&harness, &seat, 1)).await.unwrap();
    until_ready(&*runtime, &seat, 1).await;
    let status = harness.run_in(&seat, "cat /proc/1/status").1;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    // CAP_CHOWN 0, CAP_KILL 5, CAP_SETGID 6, CAP_SETUID 7.
    assert_eq!(field("CapBnd:"), "00000000000000e1");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    // Nobody reads the secret out of the first process.
    assert!(!harness.run_in(&seat, "cat /proc/1/environ").0);
    assert!(!harness.run_in(&seat, "cat /proc/1/mem").0);
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} \
                  {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.LogConfig.Type}} \
                  {{index .HostConfig.LogConfig.Config \"max-size\"}}";
    let limits = run("docker", &["inspect", "--format", format, &harness.container(&seat)]);
    let memory = 256 * 1024 * 1024;
    let expected = format!("{memory} {memory} 1000000000 1024 no json-file 256k");
    assert_eq!(limits.trim(), expected);
    runtime.remove(&seat, Generation(1)).await.unwrap();
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
}
