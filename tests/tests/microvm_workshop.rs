//! Workshops of microVMs on a single box: the server with QEMU, in a network namespace of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clarateach_testkit::{leaks, seat_binary, skip, wait_for};
use clarateach_tests::{Server, ServerOptions, Terminal, gone, microvm_images};
use serde_json::json;

const TEST: &str = "two_workshops_of_microvms";
/// Set in the namespace: where kernel and root filesystem are.
const IMAGES: &str = "CLARATEACH_TEST_IMAGES";

/// Runs itself again in a namespace, which is removed whatever happens.
#[test]
fn two_workshops_of_microvms() {
    if let Some(images) = std::env::var_os(IMAGES) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(in_the_namespace(&PathBuf::from(images)));
    }
    let images = match microvm_images() {
        Ok(images) => images,
        Err(reason) => return skip(&format!("microvm_workshop {TEST}"), &reason),
    };
    let namespace = format!("ct-e2e-{}", std::process::id());
    let _ = leaks::run("ip", &["netns", "add", &namespace]);
    let _ = leaks::run("ip", &["-n", &namespace, "link", "set", "lo", "up"]);
    let sockets = images.path().join("s");
    let status = Command::new("ip")
        .args(["netns", "exec", &namespace])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(IMAGES, images.path())
        .status();
    // VMs outlive their server; those of a test that failed must not outlive the test.
    for vmm in leaks::processes(sockets.to_str().unwrap()).iter().filter(|line| line.contains("qemu-system"))
    {
        let pid = vmm.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("a pid");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = leaks::run("ip", &["netns", "del", &namespace]);
    assert!(status.unwrap().success(), "see above");
}

/// The answer of a command typed into a terminal, without the echo of it.
async fn ask(terminal: &mut Terminal, mark: &str, command: &str) -> String {
    let before = terminal.printed.len();
    terminal.type_in(&format!("{command}; echo {mark}-$((6*7))\n")).await.unwrap();
    terminal.until(&format!("{mark}-42")).await.unwrap();
    terminal.printed[before..].to_owned()
}

/// Whether a TCP connection from the guest is made; 2 seconds are enough on a bridge.
async fn reaches(terminal: &mut Terminal, mark: &str, address: &str) -> bool {
    let command = format!("echo | nc -w 2 {address} >/dev/null 2>&1 && echo rea''ched");
    ask(terminal, mark, &command).await.contains("reached")
}

async fn in_the_namespace(images: &Path) {
    let sockets = images.join("s");
    let options = ServerOptions::default()
        .env("VMM", "qemu")
        .env("QEMU_ACCEL", "tcg")
        .env("WORKSPACE_BIN", seat_binary::workspace().unwrap().to_str().unwrap())
        .env("IMAGES_DIR", images.to_str().unwrap())
        .env("SOCKET_DIR", sockets.to_str().unwrap());
    let mut server = Server::start(options).await;
    let mut workshops = Vec::new();
    for seats in [5, 1] {
        let wish = json!({"name": "VMs", "seats": seats, "runtime": "qemu", "memory_mb": 192, "vcpus": 1});
        workshops.push((seats, server.create(wish).await));
    }
    for (seats, (workshop, _)) in &workshops {
        wait_for("every VM is ready", Duration::from_secs(180), || async {
            let answer = server.get(&format!("/api/workshops/{workshop}")).await;
            (answer.body["workshop"]["seat_counts"]["ready"] == json!(seats)).then_some(())
        })
        .await;
    }
    let mark = sockets.to_str().unwrap().to_owned();
    assert_eq!(leaks::processes(&mark).iter().filter(|p| p.contains("qemu-system")).count(), 6);

    // Seat 1 of both.
    let mut terminals = Vec::new();
    let mut learners = Vec::new();
    for (_, (_, code)) in &workshops {
        let join =
            server.post("/api/join", json!({"code": code, "client_id": "a-browser-of-a-learner"})).await;
        let (endpoint, token) = (join.text("/endpoint"), join.text("/token"));
        terminals.push(Terminal::open(&endpoint, "", &token).await.unwrap());
        learners.push((endpoint, token));
    }
    let mut addresses = Vec::new();
    for terminal in &mut terminals {
        let shown = ask(terminal, "address", "ip -4 addr show eth0; id -u; hostname").await;
        let address = shown.split("inet ").nth(1).and_then(|rest| rest.split('/').next()).expect(&shown);
        assert!(shown.contains("1000"), "{shown}");
        addresses.push(address.to_owned());
    }
    // Both are seat 1, whose address is .11: whoever came second has another.
    assert!(addresses.contains(&"192.168.100.11".to_owned()), "{addresses:?}");
    assert_ne!(addresses[0], addresses[1]);
    ask(&mut terminals[0], "wrote", "echo mine > kept.txt").await;
    let file = format!("{}/files/kept.txt", learners[0].0);
    let read = server.send(server.request("GET", &file).bearer_auth(&learners[0].1)).await;
    assert_eq!(read.body["content"], json!("mine\n"), "{read:?}");

    // No way to another seat, the host, or the metadata service.
    let port = learners[0].0.split(':').nth(2).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let forbidden =
        [format!("{} 7681", addresses[1]), format!("192.168.100.1 {port}"), "169.254.169.254 80".to_owned()];
    for (n, address) in forbidden.iter().enumerate() {
        assert!(!reaches(&mut terminals[0], &format!("reach{n}"), address).await, "{address} is reached");
    }
    let own = reaches(&mut terminals[0], "own", &format!("{} 7681", addresses[0])).await;
    assert!(own, "the question can be answered with yes");

    // The server dies; the VMs do not notice.
    server.kill_and_restart().await;
    let (_, (_, code)) = &workshops[0];
    let again = server.post("/api/join", json!({"code": code, "client_id": "a-browser-of-a-learner"})).await;
    let since = format!("?id=1&since={}", terminals[0].seq);
    let mut terminal = Terminal::open(&again.text("/endpoint"), &since, &again.text("/token")).await.unwrap();
    assert!(ask(&mut terminal, "again", "cat kept.txt").await.contains("mine"));

    for (_, (workshop, _)) in &workshops {
        assert_eq!(server.delete(&format!("/api/workshops/{workshop}")).await.status, 202);
    }
    for (_, (workshop, _)) in &workshops {
        gone(&server, workshop).await;
    }
    // A VM that is being made into a snapshot is no seat, and ends by itself.
    wait_for("no VMM is left", Duration::from_secs(60), || async {
        leaks::processes(&mark).iter().all(|p| !p.contains("qemu-system")).then_some(())
    })
    .await;
    let interfaces = leaks::run("ip", &["-brief", "link"]);
    assert_eq!(interfaces.lines().count(), 2, "loopback and bridge: {interfaces}");
    assert_eq!(leaks::files(&server.dir().join("clarateach.state/microvm/vms")), Vec::<String>::new());
    assert_eq!(leaks::files(&sockets), Vec::<String>::new());
}
