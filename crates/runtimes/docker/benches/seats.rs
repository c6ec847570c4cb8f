//! How long Docker seats take to be ready and to be gone, one, ten and sixty at once, beside what bare `docker run` and
//! `docker rm --force` of the same image take in the same run.
//!
//! `cargo bench -p clarateach-runtime-docker --bench seats`. Without an Engine it says so and measures nothing.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clarateach_ids::{Generation, InstallationId, SeatKey, SeatNumber, WorkshopId};
use clarateach_runtime::{DesiredSeat, Egress, EnvironmentState, ImageRef, Revision, Runtime};
use clarateach_runtime_docker::{DEFAULT_IMAGE, DockerConfig, DockerRuntime};
use clarateach_testkit::docker::{TinyImage, available};
use clarateach_testkit::seat_binary;

const COUNTS: [u32; 3] = [1, 10, 60];
const TINY: &str = "clarateach-test-busybox";

fn line(count: u32, what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    println!("{count:>3}  {what:<28} {:>7.3} s {:>7.3} s", at(0.5), at(0.95));
}

/// Runs the commands all at once; the time each took from the common start.
fn at_once(commands: Vec<Command>) -> Vec<Duration> {
    let began = Instant::now();
    let waiting: Vec<_> = commands
        .into_iter()
        .map(|mut command| {
            let mut child = command.stdout(Stdio::null()).spawn().expect("docker");
            std::thread::spawn(move || {
                assert!(child.wait().expect("docker").success());
                began.elapsed()
            })
        })
        .collect();
    waiting.into_iter().map(|thread| thread.join().expect("a time")).collect()
}

fn bare(image: &str, count: u32) {
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.args(arguments);
        command
    };
    let names: Vec<String> =
        (0..count).map(|n| format!("clarateach-bench-{}-{n}", std::process::id())).collect();
    let run =
        |name: &String| docker(&["run", "--detach", "--name", name, "--entrypoint", "sleep", image, "1000"]);
    line(count, "docker run", at_once(names.iter().map(run).collect()));
    line(
        count,
        "docker rm --force",
        at_once(names.iter().map(|name| docker(&["rm", "--force", name])).collect()),
    );
}

async fn ours(runtime: &DockerRuntime, image: &str, count: u32) {
    let workshop = WorkshopId::random();
    let keys: Vec<SeatKey> = (1..=count)
        .map(|n| SeatKey { workshop: workshop.clone(), seat: SeatNumber::new(n).expect("a seat number") })
        .collect();
    let began = Instant::now();
    for key in &keys {
        let desired = DesiredSeat {
            key: key.clone(),
            generation: Generation(1),
            image: ImageRef(image.to_owned()),
            vcpus: 1,
            memory_mb: 256,
            disk_mb: 1024,
            env: Default::default(),
            secret: "bench".to_owned().into(),
            egress: Egress::Internet,
            not_after: None,
        };
        runtime.apply(desired).await.expect("apply");
    }
    let mut ready: HashMap<SeatKey, Duration> = HashMap::new();
    let mut revision = Revision::default();
    while ready.len() < keys.len() {
        revision = runtime.watch(revision).await;
        for environment in runtime.observe().await.expect("observe") {
            assert_ne!(environment.state, EnvironmentState::Failed, "{environment:?}");
            if environment.state == EnvironmentState::Ready {
                ready.entry(environment.key).or_insert_with(|| began.elapsed());
            }
        }
    }
    line(count, "seat wished to ready", ready.into_values().collect());
    let began = Instant::now();
    let removals = keys.iter().map(|key| async move {
        runtime.remove(key, Generation(1)).await.expect("remove");
        began.elapsed()
    });
    line(count, "seat unwished to gone", futures_util::future::join_all(removals).await);
}

#[tokio::main]
async fn main() {
    if let Err(reason) = available() {
        println!("not measured: {reason}");
        return;
    }
    let default_is_here = Command::new("docker")
        .args(["image", "inspect", DEFAULT_IMAGE])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let image = if default_is_here { DEFAULT_IMAGE } else { TINY };
    if !default_is_here {
        TinyImage::BUSYBOX.import(TINY).expect("a tiny image");
    }
    let state = tempfile::tempdir().expect("a directory");
    let workspace = seat_binary::workspace().expect("a workspace binary");
    let config = DockerConfig::new(InstallationId::random(), workspace, state.path().to_owned(), 100);
    let runtime = DockerRuntime::connect(config).expect("connect");
    println!("image {image}, {} cores", std::thread::available_parallelism().map_or(0, usize::from));
    println!("  n  what                             p50       p95");
    for count in COUNTS {
        bare(image, count);
        ours(&runtime, image, count).await;
    }
}
