//! The start of a class on Docker, `benches/class/run.sh`: how long learners wait for seats that are made while they
//! come, and the processor time of a seat, beside that of bare containers of the same image in the same run.
//!
//! What the machine does besides changes the times; the processor time of a seat much less.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clarateach_testkit::docker::available;
use clarateach_testkit::leaks::run;
use clarateach_testkit::seat_binary;
use clarateach_tests::{Server, ServerOptions, all_ready, gone};
use serde_json::json;

/// How often a learner who waits asks again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// `USER_HZ` of times(2), the same on every Linux that Docker runs on.
const TICKS_PER_SECOND: f64 = 100.0;

fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

/// Ticks of processor time by process: its own and those of children that it has waited for, see proc(5).
#[derive(Default)]
struct Processor(HashMap<u32, (String, u64)>);

impl Processor {
    fn now() -> Self {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let of = |entry: std::fs::DirEntry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, rest) = (stat.get(stat.find('(')? + 1..stat.rfind(')')?)?, stat.rsplit_once(") ")?.1);
            let ticks = rest.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
            Some((process, (name.to_owned(), ticks)))
        };
        Self(processes.filter_map(of).collect())
    }

    /// Milliseconds since then of the processes whose name starts so. Those that are gone by now count in who waited.
    fn since(&self, then: &Self, names: &[&str]) -> f64 {
        let ticks: u64 = self
            .0
            .iter()
            .filter(|(_, (name, _))| names.iter().any(|start| name.starts_with(start)))
            .map(|(process, (_, now))| now.saturating_sub(then.0.get(process).map_or(0, |(_, then)| *then)))
            .sum();
        ticks as f64 / TICKS_PER_SECOND * 1e3
    }
}

const ENGINE: [&str; 3] = ["dockerd", "containerd", "runc"];

fn row(name: &str, count: usize, wall: Duration, mut waits: Vec<Duration>, spent: &[(&str, f64)]) {
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_secs_f64();
    let per_seat: Vec<String> =
        spent.iter().map(|(who, spent)| format!("{who} {:.0} ms", spent / count as f64)).collect();
    println!(
        "{name:<46} {:>5.1}/s   p50 {:>5.2} s   p95 {:>5.2} s   max {:>5.2} s   processor per seat: {}",
        count as f64 / wall.as_secs_f64(),
        at(50),
        at(95),
        at(100),
        per_seat.join(", ")
    );
}

/// Containers all at once, as many at a time as the runtime makes; their times from the common start.
fn bare(what: &str, image: &str, network: &str, count: usize) {
    let name = |n: usize| format!("clarateach-class-{}-{n}", std::process::id());
    let (then, began) = (Processor::now(), Instant::now());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let times = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..(2 * processors).clamp(4, 16) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let status = Command::new("docker")
                        .args(["run", "--detach", "--name", &name(n), "--network", network])
                        .args(["--entrypoint", "sleep", image, "1000"])
                        .stdout(Stdio::null())
                        .status();
                    assert!(status.is_ok_and(|status| status.success()), "docker run");
                    times.lock().expect("no panic").push(began.elapsed());
                }
            });
        }
    });
    let (wall, now) = (began.elapsed(), Processor::now());
    let spent = [("Engine", now.since(&then, &ENGINE)), ("inside", now.since(&then, &["sleep"]))];
    row(what, count, wall, times.into_inner().expect("no panic"), &spent);
    for n in 0..count {
        let _ = run("docker", &["rm", "--force", "--volumes", &name(n)]);
    }
}

/// Learners evenly over a time, at a workshop that is made as the first of them comes.
async fn class(server: &Server, count: usize, over: Duration) {
    let (then, began) = (Processor::now(), Instant::now());
    let wish = json!({"name": "class", "seats": count, "runtime": "docker"});
    let (workshop, code) = server.create(wish).await;
    let learners = (0..count).map(|n| {
        let code = code.clone();
        async move {
            tokio::time::sleep(over.mul_f64(n as f64 / count as f64)).await;
            let arrived = Instant::now();
            let wish = json!({"code": code, "client_id": format!("bench-learner-{n:08}")});
            let joined = server.post("/api/join", wish).await;
            if joined.status != 200 {
                assert_eq!(joined.status, 202, "{joined:?}");
                let session = format!("/api/session/{}", joined.text("/session_code"));
                while server.get(&session).await.body["status"] != "ready" {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
            arrived.elapsed()
        }
    });
    let waits = futures_util::future::join_all(learners).await;
    let (wall, now) = (began.elapsed(), Processor::now());
    let spent = [
        ("Engine", now.since(&then, &ENGINE)),
        ("inside", now.since(&then, &["workspace"])),
        ("server", now.since(&then, &["server"])),
    ];
    row("class on seats not yet warm", count, wall, waits, &spent);
    server.delete(&format!("/api/workshops/{workshop}")).await;
    gone(server, &workshop).await;
}

fn main() {
    if let Err(reason) = available() {
        println!("not measured: {reason}");
        return;
    }
    let count: usize = setting("LEARNERS", "60").parse().expect("LEARNERS is a number");
    let over = Duration::from_secs_f64(setting("OVER", "5").parse().expect("OVER is a number of seconds"));
    let image = setting("IMAGE", "clarateach-workspace");
    let workspace = seat_binary::workspace().expect("a workspace binary");
    let network = format!("clarateach-class-{}", std::process::id());
    let _ = run("docker", &["network", "create", &network]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut options = ServerOptions::default()
            .env("RUST_LOG", "warn")
            .env("WORKSPACE_BIN", workspace.to_str().expect("a path"))
            .env("DEFAULT_IMAGE", &image);
        options.binary = std::env::var_os("SERVER_BIN").map(Into::into);
        let server = Server::start(options).await;
        // Makes what all seats of an installation share, and keeps it.
        let (warm, _) = server.create(json!({"name": "warm", "seats": 1, "runtime": "docker"})).await;
        all_ready(&server, &warm).await;
        println!("{count} learners within {over:?}, image {image}; bare containers wait from a common start");
        for _ in 0..2 {
            for (what, network) in [
                ("bare containers on docker0", "bridge"),
                ("bare containers on a network of their own", &network),
            ] {
                let (image, network) = (image.clone(), network.to_owned());
                // Beside this thread, which has to see which connections the server closes meanwhile.
                let measured = tokio::task::spawn_blocking(move || bare(what, &image, &network, count));
                measured.await.expect("measured");
            }
            class(&server, count, over).await;
        }
        server.delete(&format!("/api/workshops/{warm}")).await;
        gone(&server, &warm).await;
    });
    let _ = run("docker", &["network", "rm", &network]);
}
