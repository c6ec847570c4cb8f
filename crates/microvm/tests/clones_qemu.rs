//! Two VMs that were restored from one snapshot are two machines.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[allow(dead_code)]
#[path = "guest_boot/image.rs"]
mod image;
#[path = "support/machines.rs"]
mod machines;
mod support;

use std::time::Duration;

use clarateach_ids::{Generation, SeatKey, SeatNumber};
use clarateach_microvm::{CreateRequest, MicroVmRuntime, Until};
use clarateach_runtime::conformance::{desired, request};
use clarateach_runtime::{DesiredSeat, EnvironmentState, Runtime};
use clarateach_testkit::wait_for;
use http::Method;
use jiff::Timestamp;
use machines::Machines;

const PATIENCE: Duration = Duration::from_secs(60);

fn seat(machines: &Machines, number: u32) -> DesiredSeat {
    let key = SeatKey { workshop: "w".parse().unwrap(), seat: SeatNumber::new(number).unwrap() };
    let mut seat = desired(machines, &key, 1);
    // A shell without a terminal of its own reads the file that this names.
    seat.env.insert("ENV".to_owned(), "/workspace/.probe".to_owned());
    seat
}

async fn put(runtime: &MicroVmRuntime, seat: &DesiredSeat, path: &str, content: &str) {
    let body = serde_json::json!({"content": content, "encoding": "utf-8"}).to_string();
    let (status, answer) = request(runtime, seat, Method::PUT, &format!("/files/{path}"), body).await;
    assert!(status.is_success(), "{}", String::from_utf8_lossy(&answer));
}

/// Runs a script as the learner and gives what it printed.
async fn run(runtime: &MicroVmRuntime, seat: &DesiredSeat, script: &str) -> String {
    let probe = format!("{{ {script}\n}} >probing 2>&1; echo END >>probing; mv probing probed; exit\n");
    put(runtime, seat, ".probe", &probe).await;
    let (status, answer) = request(runtime, seat, Method::POST, "/terminals", "{}".to_owned()).await;
    assert!(status.is_success(), "{}", String::from_utf8_lossy(&answer));
    wait_for("the learner's script", PATIENCE, || async {
        let (_, answer) = request(runtime, seat, Method::GET, "/files/probed", String::new()).await;
        let file: serde_json::Value = serde_json::from_slice(&answer).ok()?;
        file["content"].as_str()?.strip_suffix("END\n").map(str::to_owned)
    })
    .await
}

const WHO: &str = r#"echo "hostname $(hostname) $(cat /etc/hostname)"
echo "address $(ip -4 addr show eth0 | grep -o 'inet [0-9.]*')"
echo "mac $(cat /sys/class/net/eth0/address)"
echo "random $(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "uuid $(cat /proc/sys/kernel/random/uuid)"
echo "machine $(cat /etc/machine-id 2>/dev/null)"
echo "seat $SEAT"
echo "clock $(date +%s)""#;

fn value<'a>(output: &'a str, name: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in:\n{output}"))
}

async fn create(runtime: &MicroVmRuntime, seat: &DesiredSeat) -> clarateach_microvm::Vm {
    let request = CreateRequest { desired: seat.clone(), readiness: None };
    let vm = runtime.create(request, Until::Ready).await.unwrap().vm;
    assert_eq!(vm.state, EnvironmentState::Ready, "{:?}", vm.reason);
    vm
}

#[test]
fn clones_share_nothing_that_tells_machines_apart() {
    machines::in_network_of_guests(|| async {
        let Some(mut machines) = machines::qemu("clones_qemu clones_share_nothing").await else { return };
        machines.config.snapshots = true;
        machines.config.capacity = 3;
        let runtime = machines.open().await;
        let mut seats: Vec<DesiredSeat> = (1..=3).map(|number| seat(&machines, number)).collect();
        for (number, seat) in seats.iter_mut().enumerate() {
            seat.env.insert("SEAT".to_owned(), format!("number-{number}"));
        }
        create(&runtime, &seats[0]).await;
        // The snapshot is taken; what follows is restored, and later than the snapshot's clock.
        let mut outputs = Vec::new();
        for seat in &seats[1..] {
            let began = std::time::Instant::now();
            let vm = create(&runtime, seat).await;
            eprintln!("restored and ready in {:?}", began.elapsed());
            assert!(vm.restored);
            let output = run(&runtime, seat, WHO).await;
            let now = Timestamp::now().as_second();
            let clock: i64 = value(&output, "clock").parse().unwrap();
            assert!((now - clock).abs() <= 5, "its clock says {clock}, it is {now}");
            assert!(value(&output, "address").ends_with(&vm.address.to_string()), "{output}");
            assert_eq!(value(&output, "mac"), vm.mac.to_string());
            let hostname = format!("seat-{}", seat.key.seat);
            assert_eq!(value(&output, "hostname"), format!("{hostname} {hostname}"));
            outputs.push(output);
        }
        let (one, other) = (&outputs[0], &outputs[1]);
        for name in ["hostname", "address", "mac", "random", "boot", "uuid", "seat"] {
            assert_ne!(value(one, name), value(other, name), "{name}");
        }
        let machine = value(one, "machine");
        assert!(machine.is_empty() || machine != value(other, "machine"), "{machine}");
        // Neither takes the other's secret.
        let mut stranger = seats[1].clone();
        stranger.secret = seats[2].secret.clone();
        let (status, _) = request(&runtime, &stranger, Method::GET, "/files?path=", String::new()).await;
        assert!(status.is_client_error(), "{status}");
        for seat in &seats {
            runtime.remove(&seat.key, Generation(1)).await.unwrap();
        }
        assert_eq!(machines.leftovers().await, Vec::<String>::new());
        no_secret_in_snapshots(&machines, &seats);
    });
}

/// Secrets come after the snapshot is taken.
fn no_secret_in_snapshots(machines: &Machines, seats: &[DesiredSeat]) {
    use secrecy::ExposeSecret;
    let files = clarateach_testkit::leaks::files(&machines.config.state_dir.join("snapshots"));
    let mut looked_at = 0;
    for file in files.iter().filter_map(|line| line.strip_prefix("file ")) {
        let Ok(bytes) = std::fs::read(file) else { continue };
        looked_at += 1;
        for seat in seats {
            let secret = seat.secret.expose_secret().as_bytes();
            assert!(memchr::memmem::find(&bytes, secret).is_none(), "a secret is in {file}");
        }
    }
    assert!(looked_at >= 2, "{files:?}");
}
